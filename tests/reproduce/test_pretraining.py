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
import skimage
import timm
import torch
from PIL import Image
from timm.data import ImageNetInfo

from descscore import DescScorer
from descscore.errors import DescscoreError, UsageError
from reproduce.pretraining import data as pretraining_data
from reproduce.pretraining.data import (
    SentenceVectors,
    class_texts,
    definitions,
    load_pictures,
    principal_axes,
    sentences,
    vocabulary_words,
)
from reproduce.pretraining.image_tower import (
    early,
    late,
    make_view,
    pretrained_weights,
    start_from_pretrained,
    virtual_pictures,
)
from reproduce.pretraining.losses import follow, match, order, soft_cross_entropy, soft_targets
from reproduce.pretraining.settings import Settings, Stage, model_config
from reproduce.pretraining.train import Pretraining, StageRun, rate_factor


def encoded(pixels: np.ndarray, form: str = "png") -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, form)
    return out.getvalue()


# Losses and rates


def test_soft_targets_by_hand() -> None:
    own = torch.tensor([[1.0, 1.0, 0.0]])
    similarity = torch.log(torch.tensor([[0.5, 0.25, 0.25]]))
    targets = soft_targets(own, similarity, share=0.4, temperature=1.0)
    torch.testing.assert_close(targets, torch.tensor([[0.5, 0.4, 0.1]]))


def test_soft_cross_entropy_with_one_hot_targets_is_open_clips_loss() -> None:
    torch.manual_seed(0)
    images, texts = (torch.nn.functional.normalize(torch.randn(6, 8), dim=-1) for _ in range(2))
    scale, eye = torch.tensor(20.0), torch.eye(6)
    ours = soft_cross_entropy(scale * images @ texts.T, eye) + soft_cross_entropy(
        scale * texts @ images.T, eye
    )
    reference = open_clip.loss.ClipLoss()(images, texts, scale)
    torch.testing.assert_close(ours / 2, reference)
    torch.testing.assert_close(match(images, texts, 20.0), reference)


def test_following_and_word_order_by_hand() -> None:
    one, other = torch.tensor([[0.6, 0.8]]), torch.tensor([[1.0, 0.0]])
    assert float(follow(one, other)) == pytest.approx(0.4)
    scale = torch.tensor(10.0)
    assert float(order(other, other, one, scale)) == pytest.approx(np.log1p(np.exp(-4)))
    assert float(order(other, one, one, scale)) == pytest.approx(np.log(2))


def test_rates_rise_then_fall_to_zero() -> None:
    stage = Stage("read", 110, {}, {}, warmup=10)
    factors = [rate_factor(step, stage) for step in (0, 4, 9, 10, 60, 110)]
    assert factors == pytest.approx([0.1, 0.5, 1, 1, 0.5, 0], abs=1e-12)


# Texts


def test_sentences_lose_no_words() -> None:
    text = "A cat sits. It is red! Is it? Yes; it is.  The end"
    assert sentences(text) == ["A cat sits.", "It is red!", "Is it?", "Yes;", "it is.", "The end"]


def test_vocabulary_words_are_whole_words() -> None:
    words = vocabulary_words(open_clip.get_tokenizer("ViT-B-32"))
    assert len(words) > 30_000
    assert {"cat", "cathedral", "violin"} <= set(words)


def test_each_class_has_its_names_and_its_definition() -> None:
    texts = class_texts()
    assert len(texts) == 1000
    assert texts[0][:2] == ["tench", "Tinca tinca"]
    assert texts[0][-1].startswith("tench: freshwater")
    assert any(text.startswith("benthos: organisms") for text in definitions())


def test_sentence_vectors_of_like_texts_lie_near_and_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["A dog runs on the beach.", "A puppy is running over the sand.", "Election results of 1932."]
    vectors = SentenceVectors(tmp_path)(texts)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    same, other = float(vectors[0] @ vectors[1]), float(vectors[0] @ vectors[2])
    assert same > 0.5 > 0.3 > other
    monkeypatch.setattr(pretraining_data, "SentenceTransformer", None)
    torch.testing.assert_close(SentenceVectors(tmp_path)(texts), vectors, atol=0, rtol=0)


def test_principal_axes_are_those_of_the_covariance() -> None:
    torch.manual_seed(0)
    vectors = torch.randn(500, 6) * torch.tensor([5.0, 1, 1, 1, 1, 3])
    axes = principal_axes(vectors, 2)
    torch.testing.assert_close(axes @ axes.T, torch.eye(2), atol=1e-5, rtol=0)
    assert axes.abs().argmax(1).tolist() == [0, 5]


# The image tower


@pytest.fixture(scope="module")
def trunk() -> torch.nn.Module:
    tower = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)
    start_from_pretrained(tower, pretrained_weights())
    return tower.eval()


@pytest.mark.parametrize(
    ("photo", "names"), [("coffee", {"espresso", "cup"}), ("cat", {"tabby", "tiger cat"})]
)
def test_the_pretrained_tower_sees_what_a_photo_shows(
    trunk: torch.nn.Module, photo: str, names: set[str]
) -> None:
    weight, bias = start_from_pretrained(trunk, pretrained_weights())
    view = make_view(encoded(getattr(skimage.data, photo)()), 224, True, None)
    with torch.inference_mode():
        logits = trunk(torch.from_numpy(view)[None]) @ weight.T + bias
    info = ImageNetInfo("imagenet-1k")
    likely = {info.index_to_description(int(i)).split(", ")[0] for i in logits[0].topk(5).indices}
    assert names & likely


def test_both_parts_make_the_tower(trunk: torch.nn.Module) -> None:
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(late(trunk, early(trunk, pixels)), trunk(pixels))


def test_weights_of_another_tower_are_refused(trunk: torch.nn.Module) -> None:
    weights = pretrained_weights()
    weights.pop(next(iter(weights)))
    with pytest.raises(ValueError, match=r"295 pretrained tensors.* have 296"):
        start_from_pretrained(trunk, weights)


def test_the_first_view_is_what_scoring_sees() -> None:
    photo = skimage.data.coffee()
    loaded = open_clip.transform.image_transform(
        224, is_train=False, mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic", resize_mode="squash"
    )
    expected = loaded(Image.fromarray(photo)).numpy()
    np.testing.assert_allclose(make_view(encoded(photo), 224, True, None), expected, atol=1e-6)


def test_other_views_are_repeatable_and_figures_are_never_mirrored() -> None:
    ramp = np.tile(np.linspace(0, 255, 80, dtype=np.uint8)[None, :, None], (60, 1, 3))
    figure, photo = (
        [make_view(encoded(ramp), 32, mirror, np.random.default_rng(i)) for i in range(20)]
        for mirror in (False, True)
    )
    again = make_view(encoded(ramp), 32, False, np.random.default_rng(3))
    np.testing.assert_allclose(again, figure[3], atol=0)
    rises = [view[0, 0, -1] > view[0, 0, 0] for view in photo]
    assert all(view[0, 0, -1] > view[0, 0, 0] for view in figure)
    assert 0 < sum(rises) < 20


def test_virtual_pictures_point_to_the_class_means() -> None:
    """Gaussian classes of one covariance: the best linear classifier follows, and the means come back."""
    rng = np.random.default_rng(0)
    means, root = rng.normal(size=(20, 12)), rng.normal(size=(12, 12)) * 0.3
    points = np.concatenate([mean + rng.normal(size=(400, 12)) @ root.T for mean in means])
    inside = np.cov(np.concatenate([points[i * 400 : (i + 1) * 400] - means[i] for i in range(20)]).T)
    classifier = means @ np.linalg.inv(inside + np.cov(means.T))
    virtual = virtual_pictures(torch.from_numpy(points), torch.from_numpy(classifier)).numpy()
    centred, found = means - means.mean(0), virtual - virtual.mean(0)
    cosines = (centred * found).sum(1) / np.linalg.norm(centred, axis=1) / np.linalg.norm(found, axis=1)
    assert cosines.min() > 0.95


# A whole run on data made here


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with a few random pictures in the published sets' columns."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    figures = {
        "description": [f"A chart with {i} bars. The axis is red." for i in range(12)],
        "caption": [f"Growth in year {i}" for i in range(12)],
    }
    tables: dict[str, dict[str, list[object]]] = {
        "flickr8k": {"captions": [[f"a dog number {i} runs", f"an animal {i}"] for i in range(12)]},
        "openstax": dict(figures),
        "openstax_more": dict(figures),
        "tiny_imagenet": {"label": [["cat", "tower", "sea"][i % 3] for i in range(12)]},
    }
    for name, columns in tables.items():
        (root / name).mkdir()
        pictures = [encoded(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)) for _ in range(12)]
        table = pa.table({"image": [{"bytes": one, "path": "a.png"} for one in pictures], **columns})
        for split in ("train", "val"):
            pq.write_table(table, root / name / f"{split}.parquet")
    return root


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A short run at 32 px; the sentence encoder is replaced by vectors drawn from the texts' characters."""

    def encode(self: SentenceVectors, texts: list[str]) -> torch.Tensor:
        rows = [np.random.default_rng(list(text.encode())).normal(size=384) for text in texts]
        return torch.nn.functional.normalize(torch.from_numpy(np.stack(rows)).float(), dim=-1)

    monkeypatch.setattr(SentenceVectors, "_encode", encode)
    for name in ("vocabulary_words", "definitions"):
        monkeypatch.setattr(pretraining_data, name, lambda *_: ["cat", "dog", "sea: a lot of water"] * 100)
    model = model_config()
    model["model_cfg"]["embed_dim"] = 32
    model["model_cfg"]["vision_cfg"]["image_size"] = 32
    model["model_cfg"]["text_cfg"] |= {"width": 32, "heads": 2, "layers": 2}
    seen = {"bank": 1.0, "classes": 0.5}
    read = seen | {"pair": 1.0, "follow": 1.0, "order": 0.3}
    stages = (
        Stage("words", 3, {"text": 1e-3}, {"follow": 4.0, "match": 1.0}, warmup=1),
        Stage("head", 3, {"head": 1e-3}, seen, warmup=1),
        Stage("read", 3, {"head": 3e-4, "map": 3e-4, "text": 5e-4}, read, views=2, warmup=1),
        Stage("see", 3, {"late": 2e-4, "text": 1e-4}, read, views=2, warmup=1),
    )
    return Settings(
        stages=stages,
        model=model,
        pictures={"photos": 6, "figures": 4, "objects": 6, "classes": 5},
        views={"photos": 2, "figures": 1, "objects": 1},
        bank=8,
        follow=5,
        words_batch=6,
        hard=4,
        compiled=False,
        save_every=2,
    )


class Killed(Exception):
    pass


@pytest.mark.long
def test_a_killed_run_ends_with_the_same_weights(
    data: Path, small: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Pretraining(data, tmp_path / "whole", small)
    whole.train()
    real = StageRun._one_step

    def one_step(self: StageRun) -> dict[str, float]:
        if (self.stage.name, self.step) == ("read", 2):
            raise Killed
        return real(self)

    monkeypatch.setattr(StageRun, "_one_step", one_step)
    with pytest.raises(Killed):
        Pretraining(data, tmp_path / "killed", small).train()
    monkeypatch.setattr(StageRun, "_one_step", real)
    again = Pretraining(data, tmp_path / "killed", small)
    again.train()
    for name, value in whole.student.state_dict().items():
        torch.testing.assert_close(value, again.student.state_dict()[name], atol=1e-6, rtol=1e-4)


@pytest.mark.long
def test_the_export_loads_and_only_the_late_stages_of_the_tower_moved(
    data: Path, small: Settings, tmp_path: Path
) -> None:
    run = Pretraining(data, tmp_path, small)
    before = {name: value.clone() for name, value in run.student.clip.named_parameters()}
    run.train()
    run.export(tmp_path / "model")
    moved = {n for n, v in run.student.clip.named_parameters() if not torch.equal(v, before[n])}
    still = {name for name in before if name not in moved}
    early_stages = tuple(
        f"visual.trunk.{name}" for name in ("conv_stem", "bn1", *map("blocks.{}.".format, range(5)))
    )
    assert still == {name for name in before if name.startswith(early_stages)}
    scorer = DescScorer.from_pretrained(tmp_path / "model", device="cpu")
    tokens = open_clip.get_tokenizer("ViT-B-32")(["a dog runs"])
    with torch.inference_mode():
        expected = run.student.texts(tokens)
    torch.testing.assert_close(scorer.encoder.texts(["a dog runs"]).features, expected, atol=2e-3, rtol=0)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in log] == ["head", "read", "see"]
    assert all(0 <= line["image_to_text@10"] <= 1 and np.isfinite(line["full_stop"]) for line in log)


@pytest.mark.long
def test_a_run_learns(data: Path, small: Settings, tmp_path: Path) -> None:
    text = replace(small.stages[0], steps=80, rates={"text": 3e-3})
    run = Pretraining(data, tmp_path, replace(small, stages=(text,)))
    losses: list[float] = []
    real = StageRun._one_step

    def one_step(self: StageRun) -> dict[str, float]:
        values = real(self)
        losses.append(values["follow"])
        return values

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StageRun, "_one_step", one_step)
        run.train()
    assert np.mean(losses[-10:]) < 0.8 * losses[0]


def test_a_loss_that_is_not_finite_stops_the_run(data: Path, small: Settings, tmp_path: Path) -> None:
    stage = replace(small.stages[1], rates={"head": float("inf")})
    with pytest.raises(DescscoreError, match="loss of head is not finite at step 1"):
        Pretraining(data, tmp_path, replace(small, stages=(stage,))).train()


@pytest.mark.long
def test_checkpoints_of_other_settings_are_refused(data: Path, small: Settings, tmp_path: Path) -> None:
    words = replace(small, stages=small.stages[:1])
    Pretraining(data, tmp_path, words).train()
    Pretraining(data, tmp_path, words).train()
    with pytest.raises(UsageError, match=r"words\.pt: belongs to a run with other settings"):
        Pretraining(data, tmp_path, replace(words, seed=1)).train()


def test_figures_are_cut_into_sentences(data: Path) -> None:
    figures = load_pictures(data, "figures")
    assert len(figures.encoded) == 24
    assert figures.texts[:3] == ["A chart with 0 bars.", "The axis is red.", "Growth in year 0"]
    assert figures.owner[:4].tolist() == [0, 0, 0, 1]
