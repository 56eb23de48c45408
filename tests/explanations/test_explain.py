"""Explanations: against scoring, and against interventions by hand."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from explained import TEXTS
from explained import adapter as adapter
from explained import explanations as explanations
from explained import image as image
from explained import plain as plain
from explained import scorer as scorer
from PIL import Image

import descscore
from descscore import DescScorer
from descscore.errors import ImageError, InputError, TextError, UsageError
from descscore.explanations.explainer import ExplainOptions, explain, explain_batch
from descscore.explanations.explanation import Explanation
from descscore.texts import TextPolicy
from descscore.towers.text import run_from_block, run_to_block
from pictures import make_photo


@pytest.mark.parametrize("text", ["猫が窓のそばに座っている。" * 12, "猫" * 90, "xq" * 100])
@pytest.mark.parametrize("policy", ["truncate", "weighted-windows", "windows"])
def test_a_text_without_blanks_over_the_context_is_explained(
    adapter: Path, image: Path, text: str, policy: TextPolicy
) -> None:
    """All its tokens may be those of one word, and without that word nothing is left."""
    scorer = DescScorer.from_pretrained(adapter, device="cpu", text_policy=policy)
    explanation = explain(image, text, scorer=scorer)
    assert explanation.convergence.converged
    assert explanation.score.truncated == (policy == "truncate")
    parts = sum(word.value for word in explanation.words)
    assert parts == pytest.approx(explanation.convergence.difference, abs=0.01)
    assert all(np.isfinite(word.leave_one_out) for word in explanation.words)
    if "猫" in text:  # a character is a word
        assert max(len(word.text) for word in explanation.words) <= 3


def test_scores_are_those_of_scoring(
    explanations: list[Explanation], scorer: DescScorer, image: Path
) -> None:
    expected = scorer.score_batch([image] * 3, TEXTS)
    for item, score in zip(explanations, expected, strict=True):
        assert item.score.to_dict() == pytest.approx(score.to_dict())
        assert item.score.clip_score != pytest.approx(item.score.score, abs=1e-4)


def test_parts_add_up(explanations: list[Explanation]) -> None:
    for item in explanations:
        assert item.convergence.converged
        assert item.purpose_convergence is not None
        assert item.purpose_convergence.converged
        for key, path in (("value", item.convergence), ("purpose", item.purpose_convergence)):
            total = sum(getattr(word, key) for word in item.words)
            assert total - path.difference == pytest.approx(path.delta, abs=1e-9)
            assert abs(path.delta) <= max(0.01 * abs(path.difference), 1e-3)
        for word in item.words:
            assert word.through is not None
            assert word.around is not None
            assert word.through + word.around == pytest.approx(word.value, abs=1e-12)
        assert any(word.through for word in item.words)


def test_words_are_the_texts(explanations: list[Explanation]) -> None:
    for item, text in zip(explanations, TEXTS, strict=True):
        assert "".join(word.text for word in item.words) == re.sub(r"\s", "", text)
        assert all(text[word.start : word.end] == word.text for word in item.words)
    unseen = [word for word in explanations[2].words if not word.tokens]
    assert explanations[2].score.truncated
    assert len(unseen) == 120 - 75
    assert all(word.value == word.purpose == word.leave_one_out == 0 for word in unseen)


def test_leave_one_out_is_the_score_without_the_words_tokens(
    explanations: list[Explanation], scorer: DescScorer, image: Path
) -> None:
    """In these texts no word changes its neighbours' tokens, so the shortened text can simply be scored."""
    text, words = TEXTS[0], explanations[0].words
    shorter = [text[: word.start] + text[word.end :] for word in words]
    scores = scorer.score_batch([image] * len(words), shorter)
    odds = [score.description_probability for score in scores]
    place = explanations[0].purpose
    assert place is not None
    for word, score, p in zip(words, scores, odds, strict=True):
        assert word.leave_one_out == pytest.approx(explanations[0].score.cosine - score.cosine, abs=2e-6)
        assert p is not None
        assert word.leave_one_out_purpose == pytest.approx(place.log_odds - np.log(p / (1 - p)), abs=1e-4)
    assert max(abs(word.leave_one_out) for word in words) > 1e-3


def test_one_word_alone_can_be_left_out(scorer: DescScorer, image: Path) -> None:
    item = explain(image, "Boats", scorer=scorer)
    (word,) = item.words
    assert word.value == pytest.approx(item.convergence.difference, abs=2e-3)
    assert np.isfinite(word.leave_one_out)


def test_the_purpose_of_a_text_is_that_of_its_score(explanations: list[Explanation]) -> None:
    for item in explanations:
        purpose = item.purpose
        assert purpose is not None
        assert purpose.probability == item.score.description_probability
        assert purpose.probability == pytest.approx(1 / (1 + np.exp(-purpose.log_odds)), abs=1e-5)
        assert (purpose.block, purpose.k) == (2, 5)


def test_the_counterfactual_is_an_interchange(
    explanations: list[Explanation], scorer: DescScorer, image: Path
) -> None:
    """By hand: the state at the site takes on the source's coordinates, and the run goes on."""
    model = scorer.model
    purpose = model.purpose
    assert purpose is not None
    basis = purpose.rotation[:5]
    photo = scorer.encoder.images([Image.open(image)])[0]
    rows = [torch.tensor([scorer.tokenize(text).rows[0]]) for text in TEXTS]
    with torch.no_grad():
        source = run_to_block(model.clip, rows[1], 2).state
        for item, row in zip(explanations, rows, strict=True):
            run = run_to_block(model.clip, row, 2)
            moved = run.state + (source - run.state) @ basis.T @ basis
            feature = F.normalize(run_from_block(model.clip, run.replaced(torch.tensor([0]), moved)), dim=-1)
            other = item.counterfactual
            assert other is not None
            assert other.cosine == pytest.approx(float(feature[0] @ photo), abs=2e-6)
            assert other.change == pytest.approx(other.cosine - item.score.cosine, abs=1e-9)
            assert other.score == pytest.approx(2.5 * max(other.cosine, 0))
            assert other.source_probability == pytest.approx(explanations[1].score.description_probability)
    assert explanations[1].counterfactual.change == pytest.approx(0, abs=2e-6)  # type: ignore[union-attr]
    assert abs(explanations[0].counterfactual.change) > 1e-3  # type: ignore[union-attr]


def test_many_texts_are_explained_as_each_alone(
    explanations: list[Explanation], scorer: DescScorer, image: Path
) -> None:
    for item, text in zip(explanations, TEXTS, strict=True):
        alone = explain(image, text, scorer=scorer)
        for word, other in zip(item.words, alone.words, strict=True):
            for key in ("value", "through", "purpose", "leave_one_out", "leave_one_out_purpose"):
                assert getattr(word, key) == pytest.approx(getattr(other, key), abs=1e-5), (word, key)


@pytest.mark.parametrize("policy", ["windows", "weighted-windows"])
def test_windows_explain_the_whole_text(adapter: Path, image: Path, policy: Any) -> None:
    scorer = DescScorer.from_pretrained(adapter, device="cpu", text_policy=policy)
    text = "A red car stands at a gate. " * 8 + "Ada, 1843, at her desk. " * 8
    item = explain(image, text, scorer=scorer, source="A dog.")
    assert item.score.windows > 1
    assert item.convergence.converged
    assert all(word.tokens for word in item.words)
    assert all(word.value for word in item.words)
    assert item.score.cosine == pytest.approx(scorer.score(image, text).cosine, abs=1e-6)
    without = text[len("A red") :]
    shorter = explain(image, "A" + without, scorer=scorer)
    assert item.words[1].text == "red"
    if shorter.score.windows == item.score.windows:
        lost = item.score.cosine - shorter.score.cosine
        assert item.words[1].leave_one_out == pytest.approx(lost, abs=2e-6)


def test_a_model_without_purpose(plain: DescScorer, image: Path) -> None:
    item = explain(image, TEXTS[0], scorer=plain)
    assert item.purpose is None
    assert item.purpose_convergence is None
    assert item.convergence.converged
    for word in item.words:
        assert word.through is word.around is word.purpose is word.leave_one_out_purpose is None
    with pytest.raises(UsageError, match="no purpose subspace"):
        explain(image, TEXTS[0], scorer=plain, source=TEXTS[1])


def test_input_fails_as_in_scoring(scorer: DescScorer, image: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"not a photo")
    for photo, text, kind in (
        (tmp_path / "none.jpg", "a", ImageError),
        (tmp_path / "broken.jpg", "a", ImageError),
        ("https://example.org/a.jpg", "a", ImageError),
        (image, "", TextError),
        (image, " \n", TextError),
        (image, 5, TextError),
    ):
        with pytest.raises(InputError) as explained:
            explain(photo, text, scorer=scorer)  # type: ignore[arg-type]
        with pytest.raises(kind) as scored:
            scorer.score(photo, text)  # type: ignore[arg-type]
        assert str(explained.value) == str(scored.value)
    with pytest.raises(UsageError, match="1 images but 2 texts"):
        explain_batch([image], ["a", "b"], scorer)
    with pytest.raises(TextError):
        explain(image, "a", scorer=scorer, source=" ")
    assert explain_batch([], [], scorer) == []


def test_other_precisions_are_refused(plain: DescScorer, image: Path) -> None:
    with pytest.raises(UsageError, match="float32"):
        explain(image, "a", scorer=DescScorer(replace(plain.model), precision="bf16"))


def test_the_package_offers_the_function() -> None:
    assert descscore.explain is explain
    assert descscore.explain is explain  # importing its module must not take its place
    assert descscore.Explanation is Explanation


REAL_TEXT = (
    "a woman and the man in a red car on the street with 2 small dogs, near an old building of 1912 behind "
    "Queen Elizabeth; portrait, black and white map: the river left, a museum standing by Smith in Paris"
)


def real_texts(shared_data: Path | None) -> list[str]:
    """50 published descriptions and captions, or where there are none, strings of real words."""
    if shared_data is not None:
        entries = json.loads((shared_data / "concadia" / "wiki_split.json").read_text())["images"][:25]
        return [entry[kind]["raw"] for entry in entries for kind in ("description", "caption")]
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(REAL_TEXT.split(), rng.integers(3, 40))) + "." for _ in range(50)]


@pytest.mark.parametrize("count", [4, pytest.param(50, marks=pytest.mark.long)])
def test_real_texts_add_up_under_the_bundled_model(
    shared_data: Path | None, tmp_path: Path, count: int
) -> None:
    scorer = DescScorer.from_pretrained("default", device="cpu")
    texts = real_texts(shared_data)[:count]
    assert len(texts) == count
    photo = make_photo(tmp_path / "a.png", 3)
    for item, text in zip(explain_batch([photo] * count, texts, scorer), texts, strict=True):
        for path, key in ((item.convergence, "value"), (item.purpose_convergence, "purpose")):
            if path is not None:
                total = sum(getattr(word, key) for word in item.words)
                assert abs(total - path.difference) <= max(0.01 * abs(path.difference), 1e-3), text
                assert path.converged


def test_one_text_takes_under_a_second(tmp_path: Path) -> None:
    """In the processor's own time, which other programs on the machine do not lengthen much."""
    scorer = DescScorer.from_pretrained("default", device="cpu")
    photo = make_photo(tmp_path / "a.png", 3)
    text = "A woman in a dark naval uniform and a white cap looks into the camera, a flag behind her."
    times = []
    for _ in range(2):
        start = time.process_time()
        explain(photo, text, scorer=scorer)
        times.append(time.process_time() - start)
    assert min(times) < 1.0


@pytest.mark.long
def test_a_text_of_600_words_takes_seconds(tmp_path: Path) -> None:
    """Before, two minutes: all windows ran again for each word left out. In the processor's own time."""
    scorer = DescScorer.from_pretrained("default", device="cpu")
    words = np.random.default_rng(0).choice(REAL_TEXT.split(), 600)
    start = time.process_time()
    item = explain(make_photo(tmp_path / "a.png", 3), " ".join(words), scorer=scorer)
    assert time.process_time() - start < 20
    assert item.convergence.converged


def test_a_tower_that_is_not_causal_is_refused_by_name(tmp_path: Path, tiny_folder: Path) -> None:
    config: dict[str, Any] = json.loads((tiny_folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["no_causal_mask"] = True
    folder = tmp_path / "open"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    (folder / "open_clip_model.safetensors").write_bytes(
        (tiny_folder / "open_clip_model.safetensors").read_bytes()
    )
    scorer = DescScorer.from_pretrained(folder, device="cpu")
    assert scorer.score(make_photo(tmp_path / "a.png", 3), "a dog").tokens == 4
    with pytest.raises(UsageError, match="causal"):
        explain(tmp_path / "a.png", "a dog", scorer=scorer)


def test_a_map_takes_paths_and_pictures_and_names_all_bad_rows(
    scorer: DescScorer, image: Path, tmp_path: Path
) -> None:
    options = ExplainOptions(where=True)
    by_path = explain_batch([image, image], ["a dog", "a cat"], scorer, options)
    with Image.open(image) as opened:
        by_picture = explain_batch([opened] * 2, ["a dog", "a cat"], scorer, options)
    assert [item.occlusion for item in by_path] == [item.occlusion for item in by_picture]
    with pytest.raises(ImageError, match=r"row 0: .*none\.jpg.*; row 1: "):
        explain_batch([tmp_path / "none.jpg", image], ["a dog", ""], scorer, options)


class _Opened(Sequence[Image.Image]):
    """Opens each picture when it is asked for, as a column of ``datasets`` does."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: Any) -> Any:
        return Image.open(self.paths[place])


@pytest.mark.parametrize("kind", ["column", "array"])
def test_images_that_are_made_as_they_are_read_keep_their_places(
    kind: str, scorer: DescScorer, tmp_path: Path
) -> None:
    paths = [make_photo(tmp_path / f"{seed}.png", seed, size=(40, 30)) for seed in range(5)]
    images: Any = _Opened(paths)
    if kind == "array":
        images = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
    texts = [f"a dog {number}" for number in range(5)]
    found = explain_batch(images, texts, scorer, ExplainOptions(where=True, steps=(1,)))
    expected = scorer.score_batch(paths, texts)
    assert [item.score.cosine for item in found] == pytest.approx(
        [score.cosine for score in expected], abs=1e-6
    )
    assert len({item.occlusion for item in found}) == 5
