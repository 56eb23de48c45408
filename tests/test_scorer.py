"""Scores against plain open_clip, and the properties that users of such metrics miss elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from conftest import make_photo
from descscore import DescScorer
from descscore.errors import ImageError, TextError, UsageError
from descscore.stream.pairs import StreamOptions

TEXTS = [
    "A cat.",
    "A woman in a dark naval uniform and a white cap, seated before a flag.",
    "Grace Hopper, 1984",
    "Two dogs run over wet sand towards the sea while a child in a red coat watches. " * 6,
    "ein Hund 🐕",
    "A cat.",
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    return [make_photo(folder / f"{i}.png", seed=i, size=(40 + 9 * i, 50)) for i in range(len(TEXTS))]


@pytest.fixture(scope="module")
def scorer(tiny_folder: Path) -> DescScorer:
    return DescScorer.from_pretrained(tiny_folder, device="cpu", text_policy="truncate")


def plain_cosine(folder: Path, photo: Path, text: str) -> float:
    """What open_clip alone says, at the full context length."""
    clip, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    clip.eval()
    with torch.inference_mode():
        image = clip.encode_image(preprocess(Image.open(photo))[None], normalize=True)
        tokens = open_clip.get_tokenizer(f"local-dir:{folder}")([text])
        return float((image * clip.encode_text(tokens, normalize=True)).sum())


def test_equals_plain_open_clip(scorer: DescScorer, tiny_folder: Path, photos: list[Path]) -> None:
    results = scorer.score_batch(photos, TEXTS)
    for photo, text, result in zip(photos, TEXTS, results, strict=True):
        expected = plain_cosine(tiny_folder, photo, text)
        assert result.cosine == pytest.approx(expected, abs=1e-6)
        assert result.score == pytest.approx(2.5 * max(expected, 0), abs=3e-6)
        assert float(result) == result.score
        assert result.clip_score == result.score  # no adapter
        assert result.description_probability is None


def test_nothing_of_a_long_text_is_lost_unless_asked(tiny_folder: Path, photos: list[Path]) -> None:
    result = DescScorer.from_pretrained(tiny_folder, device="cpu").score(photos[0], "A red car. " * 60)
    assert not result.truncated
    assert result.windows > 1
    assert result.tokens > 77
    assert result.signature.endswith("|text:weighted-windows77")


def test_counts_and_cutting(scorer: DescScorer, photos: list[Path]) -> None:
    results = scorer.score_batch(photos, TEXTS)
    lengths = [len(open_clip.get_tokenizer("ViT-B-32").encode(text)) + 2 for text in TEXTS]
    assert [result.tokens for result in results] == lengths
    assert [result.truncated for result in results] == [length > 77 for length in lengths]


def test_one_by_one_equals_together(scorer: DescScorer, photos: list[Path]) -> None:
    together = scorer.score_batch(photos, TEXTS)
    for photo, text, result in zip(photos, TEXTS, together, strict=True):
        assert scorer.score(photo, text).cosine == pytest.approx(result.cosine, abs=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_batch_size_does_not_matter(tiny_folder: Path, photos: list[Path], batch_size: int) -> None:
    small = DescScorer.from_pretrained(tiny_folder, device="cpu", batch_size=batch_size)
    reference = DescScorer.from_pretrained(tiny_folder, device="cpu", batch_size=3)
    for policy_free in (small.score_batch(photos, TEXTS), small.score_batch(photos * 3, TEXTS * 3)[6:12]):
        cosines = [result.cosine for result in policy_free]
        expected = [result.cosine for result in reference.score_batch(photos, TEXTS)]
        assert cosines == pytest.approx(expected, abs=1e-6)


def test_order_does_not_matter(scorer: DescScorer, photos: list[Path]) -> None:
    expected = [result.cosine for result in scorer.score_batch(photos, TEXTS)]
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(TEXTS))
        results = scorer.score_batch([photos[i] for i in order], [TEXTS[i] for i in order])
        assert [result.cosine for result in results] == pytest.approx([expected[i] for i in order], abs=1e-6)


def test_kinds_of_image_agree(scorer: DescScorer, photos: list[Path]) -> None:
    path = photos[0]
    image = Image.open(path).convert("RGB")
    kinds = [path, str(path), path.read_bytes(), image, np.asarray(image), np.asarray(image) / 255]
    expected = pytest.approx([scorer.score(path, "A cat.").cosine] * len(kinds), abs=1e-6)
    assert [scorer.score(kind, "A cat.").cosine for kind in kinds] == expected
    assert [result.cosine for result in scorer.score_batch(kinds, ["A cat."] * len(kinds))] == expected


def test_long_texts_differ_by_policy(tiny_folder: Path, photos: list[Path]) -> None:
    def cosine(policy: str, text: str) -> float:
        scorer = DescScorer.from_pretrained(tiny_folder, device="cpu", text_policy=policy)  # type: ignore[arg-type]
        return scorer.score(photos[0], text).cosine

    long = TEXTS[3] + "A goat eats a hat."
    assert cosine("truncate", long) == pytest.approx(cosine("truncate", long + " A fish."), abs=1e-6)
    assert abs(cosine("windows", long) - cosine("windows", long + " A fish.")) > 1e-5
    assert cosine("windows", TEXTS[1]) == pytest.approx(cosine("truncate", TEXTS[1]), abs=1e-6)
    with pytest.raises(TextError, match="over the model's 77"):
        cosine("error", long)


def test_windows_are_the_unit_mean_of_their_parts(tiny_folder: Path) -> None:
    scorer = DescScorer.from_pretrained(tiny_folder, device="cpu", text_policy="windows")
    sentence = "A red car stands at a green gate before the house. "
    whole = scorer.encoder.texts([sentence * 12, "A cat."], "windows")
    assert [len(text.rows) for text in whole.texts] == [2, 1]
    six = scorer.encoder.texts([sentence * 6], "truncate").features[0]
    torch.testing.assert_close(whole.features[0], six, rtol=0, atol=1e-6)  # both windows hold six


def test_weighted_windows_are_the_unit_mean_by_tokens(tiny_folder: Path) -> None:
    scorer = DescScorer.from_pretrained(tiny_folder, device="cpu", text_policy="weighted-windows")
    sentence = "A red car stands at a green gate before the house. "
    text = scorer.encoder.texts([sentence * 8, "A cat."], "weighted-windows")
    six, two = scorer.encoder.texts([sentence * 6, sentence * 2]).features
    expected = torch.nn.functional.normalize(0.75 * six + 0.25 * two, dim=-1)  # of like sentences
    torch.testing.assert_close(text.features[0], expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(text.features[1], scorer.encoder.texts(["A cat."]).features[0])


def test_compare(scorer: DescScorer, photos: list[Path]) -> None:
    result = scorer.compare(photos[0], TEXTS[1], TEXTS[2])
    description, caption = scorer.score(photos[0], TEXTS[1]), scorer.score(photos[0], TEXTS[2])
    assert result.description.cosine == pytest.approx(description.cosine, abs=1e-6)
    assert result.margin == pytest.approx(description.cosine - caption.cosine, abs=1e-6)
    assert result.preferred == ("description" if result.margin > 0 else "caption")
    assert result.description_preferred == (result.margin > 0)
    scale = float(scorer.model.clip.logit_scale.exp())
    assert result.probability == pytest.approx(1 / (1 + np.exp(-scale * result.margin)), abs=1e-9)
    back = scorer.compare(photos[0], TEXTS[2], TEXTS[1])
    assert back.margin == pytest.approx(-result.margin, abs=1e-6)
    assert back.description_preferred != result.description_preferred


def test_a_tie_is_not_a_win(scorer: DescScorer, photos: list[Path]) -> None:
    result = scorer.compare(photos[0], "A cat.", "A cat.")
    assert (result.margin, result.preferred, result.probability) == (0, "tie", 0.5)
    assert not result.description_preferred


def test_negative_cosines_clip_the_score_but_still_rank(scorer: DescScorer) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(8)]
    texts = [f"{word} number {i}" for i, word in enumerate(["cat", "tower", "sea", "1984"] * 2)]
    pairs = [(image, text) for image in images for text in texts]
    results = scorer.score_batch([p[0] for p in pairs], [p[1] for p in pairs])
    below = [result for result in results if result.cosine < 0]
    assert len(below) > 1
    assert {result.score for result in below} == {0.0}
    assert len({result.cosine for result in below}) > 1


def test_nothing_in_nothing_out(scorer: DescScorer) -> None:
    assert scorer.score_batch([], []) == []


def test_signature_tells_what_a_score_depends_on(tiny_folder: Path) -> None:
    scorer = DescScorer.from_pretrained(tiny_folder, device="cpu", text_policy="windows")
    parts = scorer.signature.split("|")
    assert [part.split(":")[0] for part in parts] == [
        "descscore", "model", "weights", "image", "precision", "text"
    ]  # fmt: skip
    assert f"weights:{scorer.model.weights_hash}" in parts
    assert "image:32px-squash-bicubic-clip-v3" in parts
    assert parts[-1] == "text:windows77"
    assert str(tiny_folder.parent) not in scorer.signature


def test_a_model_in_the_current_folder_has_the_name_of_that_folder(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = DescScorer.from_pretrained(tiny_folder, device="cpu").signature
    monkeypatch.chdir(tiny_folder)
    for name in (".", "./", f"../{tiny_folder.name}/"):
        assert DescScorer.from_pretrained(name, device="cpu").signature == expected


def test_every_bad_row_is_named(scorer: DescScorer, photos: list[Path], tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_text("no image")
    images = [photos[0], tmp_path / "none.jpg", photos[1], tmp_path / "bad.jpg"]
    with pytest.raises(ImageError) as caught:
        scorer.score_batch(images, ["a", "b", " ", "c"])
    message = str(caught.value)
    assert caught.value.kind == "missing_image"
    for mention in ("row 1:", "none.jpg", "row 2:", "empty or blank", "row 3:", "bad.jpg"):
        assert mention in message
    assert "row 0" not in message


def test_an_image_that_cannot_be_resized_is_named_with_its_row(
    scorer: DescScorer, photos: list[Path]
) -> None:
    line = Image.new("1", (1, 20_000_000))
    with pytest.raises(ImageError, match=r"^row 1: image: 1x20000000 pixels .* to resize$") as caught:
        scorer.score_batch([photos[0], line], ["a", "b"])
    assert list(caught.value.rows) == [1]
    (outcome,) = scorer.score_stream([(line, "b")], StreamOptions(workers=0))
    assert outcome.error == str(caught.value.rows[1])


def test_a_repeated_bad_image_is_named_once_and_many_are_counted(scorer: DescScorer, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"row 0: .*; and 2 more$"):
        scorer.score_batch([tmp_path / f"{i}.png" for i in range(12)], ["a"] * 12)


def test_unequal_lengths_and_single_values(scorer: DescScorer, photos: list[Path]) -> None:
    with pytest.raises(UsageError, match="2 images but 1 texts"):
        scorer.score_batch(photos[:2], ["a"])
    with pytest.raises(UsageError, match="texts: expected a list"):
        scorer.score_batch(photos[:1], "a")
    with pytest.raises(UsageError, match="batch size 0"):
        DescScorer(scorer.model, batch_size=0)


def test_memory_holds_no_gradients(scorer: DescScorer, photos: list[Path]) -> None:
    assert not scorer.encoder.texts(TEXTS).features.requires_grad
    assert not scorer.encoder.images([Image.open(photos[0]).convert("RGB")]).requires_grad
