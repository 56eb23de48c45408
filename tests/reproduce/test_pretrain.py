"""Pretraining: losses by hand, the same run whether or not it was killed, a loadable export."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from conftest import TINY
from descscore import DescScorer
from reproduce.pretraining import batches as pretrain_batches
from reproduce.pretraining import data as teacher
from reproduce.pretraining import pretrain
from reproduce.pretraining.augment import OBJECT, PHOTO, Augment, augment, cutmix, random_crops
from reproduce.pretraining.data import load_figures, load_objects, sentences, vocabulary_words
from reproduce.pretraining.model import PretrainConfig, Stage
from reproduce.pretraining.pretrain import follow, mix_rows, soft_cross_entropy, soft_targets

# Losses and schedule


def test_soft_targets_by_hand() -> None:
    own = torch.tensor([[1.0, 1.0, 0.0]])
    similarity = torch.log(torch.tensor([[0.5, 0.25, 0.25]]))
    targets = soft_targets(own, similarity, share=0.4, temperature=1.0)
    torch.testing.assert_close(targets, torch.tensor([[0.5, 0.4, 0.1]]))


def test_soft_cross_entropy_by_hand() -> None:
    logits = torch.log(torch.tensor([[0.7, 0.2, 0.1]]))
    expected = -(0.5 * np.log(0.7) + 0.5 * np.log(0.1))
    assert float(soft_cross_entropy(logits, torch.tensor([[0.5, 0, 0.5]]))) == pytest.approx(expected)


def test_soft_cross_entropy_with_one_hot_targets_is_open_clips_loss() -> None:
    from open_clip.loss import ClipLoss

    torch.manual_seed(0)
    images, texts = (torch.nn.functional.normalize(torch.randn(6, 8), dim=-1) for _ in range(2))
    scale, eye = torch.tensor(20.0), torch.eye(6)
    ours = soft_cross_entropy(scale * images @ texts.T, eye) + soft_cross_entropy(
        scale * texts @ images.T, eye
    )
    torch.testing.assert_close(ours / 2, ClipLoss()(images, texts, scale))


def test_mixed_targets_and_following_by_hand() -> None:
    mixed = mix_rows(torch.eye(2), torch.tensor([1, 0]), kept=0.75)
    assert mixed.tolist() == [[0.75, 0.25], [0.25, 0.75]]
    assert float(follow(torch.tensor([[0.6, 0.8]]), torch.tensor([[1.0, 0.0]]))) == pytest.approx(0.4)


def test_rates_rise_stay_and_fall() -> None:
    config = PretrainConfig(
        stages=(Stage(10, 32, 0.0, 1.0), Stage(10, 32, 1.0, 1.0), Stage(10, 64, 1.0, 0.0))
    )
    assert [config.stage_at(step)[1] for step in (0, 5, 10, 19, 20, 25)] == [0, 0.5, 1, 1, 1, 0.5]
    assert (config.total_steps, config.stage_at(29)[0].pixels, config.stage_at(30)[1]) == (30, 64, 0)


# Data and augmentation


def test_sentences_lose_no_words() -> None:
    text = "A cat sits. It is red! Is it? Yes; it is.  The end"
    assert sentences(text) == ["A cat sits.", "It is red!", "Is it?", "Yes;", "it is.", "The end"]


def test_vocabulary_words_are_whole_words() -> None:
    words = vocabulary_words(open_clip.get_tokenizer("ViT-B-32"))
    assert len(words) > 30_000
    assert {"cat", "cathedral", "violin"} <= set(words)


def test_a_crop_of_everything_is_the_image() -> None:
    whole = Augment(smallest_area=1.0, mirror=False, aspect=1.0)
    image = torch.arange(3 * 16 * 16, dtype=torch.uint8).view(1, 3, 16, 16)
    out = random_crops(image, 16, whole, torch.Generator().manual_seed(0))
    torch.testing.assert_close(out, image / 255, atol=1e-5, rtol=0)


def test_augmentation_is_repeatable_bounded_and_varied() -> None:
    images = torch.randint(0, 256, (8, 3, 40, 40), dtype=torch.uint8)
    one = augment(images, 32, PHOTO, torch.Generator().manual_seed(1))
    assert torch.equal(one, augment(images, 32, PHOTO, torch.Generator().manual_seed(1)))
    assert not torch.equal(one, augment(images, 32, PHOTO, torch.Generator().manual_seed(2)))
    assert one.shape == (8, 3, 32, 32)
    assert 0 <= float(one.min()) <= float(one.max()) <= 1
    assert augment(images, 24, OBJECT, torch.Generator()).shape == (8, 3, 24, 24)


def test_cutmix_share_is_what_the_pixels_say() -> None:
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 20, 20)
    mixed, partner, kept = cutmix(images, torch.Generator().manual_seed(0))
    for i in range(4):
        own = (mixed[i, 0] == i).double().mean()
        assert float(own) == pytest.approx(1.0 if partner[i] == i else kept)


def test_principal_axes_keep_neighbours() -> None:
    torch.manual_seed(0)
    vectors = torch.randn(50, 384)
    vectors[1] = vectors[0] + 0.01
    reduced = teacher.principal_axes(vectors, 8)
    assert reduced.shape == (50, 8)
    assert float(reduced.std()) == pytest.approx(1, abs=1e-5)
    distances = (reduced - reduced[0]).norm(dim=1)
    assert int(distances[1:].argmin()) == 0


# A whole run on data made here


def jpeg(side: int, rng: np.random.Generator) -> dict[str, object]:
    out = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(out, "jpeg")
    return {"bytes": out.getvalue(), "path": "a.jpg"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a few random pictures in the published sets' columns."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    tables: dict[str, dict[str, list[object]]] = {
        "flickr8k": {"captions": [[f"a dog number {i} runs", f"an animal {i}"] for i in range(12)]},
        "openstax": {
            "description": [f"A chart with {i} bars. The axis is red." for i in range(12)],
            "caption": [f"Growth in year {i}" for i in range(12)],
        },
        "tiny_imagenet": {"label": [["cat", "tower", "sea"][i % 3] for i in range(12)]},
    }
    for name, columns in tables.items():
        (root / name).mkdir()
        side = 64 if name == "tiny_imagenet" else 48
        table = pa.table({"image": [jpeg(side, rng) for _ in range(12)], **columns})
        for split in ("train", "val"):
            pq.write_table(table, root / name / f"{split}.parquet")
    return root


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> PretrainConfig:
    """A run of six steps; the sentence encoder is replaced by vectors drawn from the texts' characters."""

    def embed(texts: list[str], device: str, cache: Path) -> torch.Tensor:
        rows = [np.random.default_rng(list(text.encode())).normal(size=384) for text in texts]
        return torch.nn.functional.normalize(torch.from_numpy(np.stack(rows)).float(), dim=-1)

    monkeypatch.setattr(teacher, "embed", embed)
    monkeypatch.setattr(
        pretrain_batches, "vocabulary_words", lambda tokenizer: ["cat", "dog", "sea", "tower"] * 8
    )
    return PretrainConfig(
        stages=(Stage(2, 32, 0.1, 1.0), Stage(2, 32, 1.0, 1.0), Stage(2, 32, 1.0, 0.0)),
        photos=6,
        figures=4,
        objects=6,
        words=5,
        bank=8,
        evaluate_every=100,
        save_every=3,
        compile=False,
        model=TINY,
    )


class Killed(Exception):
    pass


def test_a_killed_run_ends_with_the_same_weights(
    data: Path, small: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pretrain.Run(data, tmp_path / "whole", small, "cpu")
    whole.train()
    real = pretrain.Run._one_step

    def one_step(self: pretrain.Run) -> dict[str, float]:
        if self.step == 5:
            raise Killed
        return real(self)

    monkeypatch.setattr(pretrain.Run, "_one_step", one_step)
    with pytest.raises(Killed):
        pretrain.Run(data, tmp_path / "killed", small, "cpu").train()
    monkeypatch.setattr(pretrain.Run, "_one_step", real)
    again = pretrain.Run(data, tmp_path / "killed", small, "cpu")
    assert again.step == 3
    again.train()
    for name, value in whole.average.state_dict().items():
        assert torch.equal(value, again.average.state_dict()[name]), name


def test_the_export_is_a_model_that_loads(data: Path, small: PretrainConfig, tmp_path: Path) -> None:
    run = pretrain.Run(data, tmp_path, small, "cpu")
    before = {k: v.clone() for k, v in run.student.clip.named_parameters()}
    run.train()
    run.export()
    moved = [k for k, v in run.student.clip.named_parameters() if not torch.equal(v, before[k])]
    assert len(moved) == len(before)
    scorer = DescScorer.from_pretrained(tmp_path / "model", device="cpu")
    run.average.module.eval()
    tokens = open_clip.get_tokenizer("ViT-B-32")(["a dog runs"])
    with torch.inference_mode():
        expected = run.average.module.texts(tokens)
    torch.testing.assert_close(scorer.encoder.texts(["a dog runs"]).features, expected, atol=2e-3, rtol=0)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert {"image_to_text@10", "photo_grounding", "object_accuracy"} <= set(log[-1])
    assert np.isfinite(list(log[-1].values())).all()


def test_the_averaged_model_stays_finite(data: Path, small: PretrainConfig, tmp_path: Path) -> None:
    run = pretrain.Run(data, tmp_path, small, "cpu")
    run.train()
    mask = run.average.module.clip.attn_mask
    assert torch.equal(mask, run.student.clip.attn_mask)
    assert all(torch.isfinite(v).all() for v in run.average.state_dict().values())


def test_a_run_learns(data: Path, small: PretrainConfig, tmp_path: Path) -> None:
    longer = replace(small, stages=(Stage(80, 32, 1.0, 1.0),), cutmix_share=0.0, save_every=1000)
    run = pretrain.Run(data, tmp_path, longer, "cpu")
    steps = [run._one_step()]
    for run.step in range(1, 80):
        steps.append(run._one_step())
    for name, share in {"pair": 0.9, "follow": 0.8}.items():
        assert np.mean([step[name] for step in steps[-10:]]) < share * steps[0][name]


def test_a_loss_that_is_not_finite_stops_the_run(data: Path, small: PretrainConfig, tmp_path: Path) -> None:
    run = pretrain.Run(data, tmp_path, small, "cpu")
    with torch.no_grad():
        run.student.map.weight.fill_(torch.nan)
    with pytest.raises(Exception, match="not finite at step 0"):
        run.train()


def test_shapes_of_the_data(data: Path) -> None:
    figures, objects = load_figures(data), load_objects(data)
    assert figures.images.shape == (12, 3, 160, 160)
    assert figures.texts[:3] == ["A chart with 0 bars.", "The axis is red.", "Growth in year 0"]
    assert figures.owner[:4].tolist() == [0, 0, 0, 1]
    assert (objects.images.shape, objects.names) == ((12, 3, 64, 64), ["cat", "sea", "tower"])
