"""The bundled models: what they are, that plain open_clip reads it, and golden values.

The golden values were written by this file itself (``python tests/test_bundled_model.py``)
when the models were committed; they hold as long as weights, preprocessing and
tokenizer do.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from descscore import DescScorer
from descscore.adapters import weights_hash
from descscore.demo import PHOTOS
from descscore.models import ASSETS, load_model
from descscore.towers.text import encode_tokens

MODELS = ("base", "default")
WEIGHTS = ASSETS / "base" / "open_clip_model.safetensors"
DRAWN_TEXTS = ("a red circle on a green field", "horizontal stripes", "Founded in 1984")


def drawn(name: str) -> Image.Image:
    """Pictures that need no file: a red disc on green, and stripes."""
    y, x = np.mgrid[0:96, 0:128]
    if name == "disc":
        inside = (x - 64) ** 2 + (y - 48) ** 2 < 900
        pixels = np.where(inside[..., None], (220, 30, 30), (40, 160, 60))
    else:
        pixels = np.where(((y // 8) % 2 == 0)[..., None], (240, 240, 240), (20, 20, 120))
    return Image.fromarray(pixels.astype(np.uint8))


def golden_pairs() -> list[tuple[str, object, str]]:
    """Name, image and text of every golden value."""
    pairs: list[tuple[str, object, str]] = [
        (f"{name} | {text}", drawn(name), text) for name in ("disc", "stripes") for text in DRAWN_TEXTS
    ]
    for photo in PHOTOS:
        for text in (photo.description, photo.caption):
            pairs.append((f"{photo.name} | {text}", photo.find(), text))
    return pairs


def golden(model: str) -> Path:
    return Path(__file__).with_name(f"golden_{model}.json")


def compute(model: str) -> dict[str, float]:
    scorer = DescScorer.from_pretrained(model, device="cpu")
    names, images, texts = zip(*golden_pairs(), strict=True)
    results = scorer.score_batch(images, texts)
    return {name: round(result.cosine, 7) for name, result in zip(names, results, strict=True)}


@pytest.mark.parametrize("model", MODELS)
def test_golden_values(model: str) -> None:
    expected = json.loads(golden(model).read_text(encoding="utf-8"))
    assert compute(model) == pytest.approx(expected, abs=2e-5)


def test_stored_as_float16_within_40_megabytes_and_computed_in_float32() -> None:
    assert WEIGHTS.stat().st_size <= 40_000_000
    with safe_open(WEIGHTS, "pt") as file:
        kinds = {file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118
    assert kinds <= {"F16", "I64"}
    assert {p.dtype for p in load_model("base", "cpu").clip.parameters()} == {torch.float32}


def test_text_tower_is_a_causal_clip_transformer_of_six_blocks_or_more() -> None:
    clip = load_model("base", "cpu").clip
    assert isinstance(clip, open_clip.CLIP)
    assert len(clip.transformer.resblocks) >= 6
    assert torch.isinf(clip.attn_mask.triu(1)[0, 1])
    tokens = open_clip.get_tokenizer("ViT-B-32")(["a dog runs", "a dog sits on a bench in the park"])
    changed = tokens.clone()
    changed[0, 6:] = 777  # after the end of the text, so of no consequence
    with torch.inference_mode():
        torch.testing.assert_close(
            encode_tokens(clip, tokens)[0], clip.encode_text(changed)[0], rtol=0, atol=2e-5
        )


def test_plain_open_clip_loads_it_and_agrees() -> None:
    clip, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{ASSETS / 'base'}")
    clip.eval()
    scorer = DescScorer.from_pretrained("base", device="cpu")
    for name in ("disc", "stripes"):
        for text in DRAWN_TEXTS:
            with torch.inference_mode():
                image = clip.encode_image(preprocess(drawn(name))[None], normalize=True)
                text_feature = clip.encode_text(open_clip.get_tokenizer("ViT-B-32")([text]), normalize=True)
            expected = float((image * text_feature).sum())
            assert scorer.score(drawn(name), text).cosine == pytest.approx(expected, abs=1e-6)


def test_default_is_the_base_with_a_tuned_text_tower() -> None:
    base, default = load_model("base", "cpu"), load_model("default", "cpu")
    assert default.tuned
    assert weights_hash(default.base) == base.weights_hash
    assert default.clip.visual is default.base.visual
    assert default.weights_hash != base.weights_hash
    assert default.purpose is not None
    rotation = default.purpose.rotation
    assert torch.allclose(rotation @ rotation.T, torch.eye(len(rotation)), atol=1e-5)


def test_default_carries_probability_percentile_and_the_bases_score() -> None:
    base, default = (DescScorer.from_pretrained(name, device="cpu") for name in ("base", "default"))
    for photo in PHOTOS:
        found = default.compare(photo.find(), photo.description, photo.caption)
        for result, text in ((found.description, photo.description), (found.caption, photo.caption)):
            assert result.clip_score == pytest.approx(base.score(photo.find(), text).score, abs=1e-5)
            assert result.description_probability is not None
            assert 0 < result.description_probability < 1
            assert result.percentile is not None
            assert 0 <= result.percentile <= 100


def test_default_is_files_that_run_no_code_and_that_people_can_read() -> None:
    folder = ASSETS / "default"
    kinds = {path.suffix for path in folder.iterdir()}
    assert kinds <= {".safetensors", ".json"}
    adapter = json.loads((folder / "descscore_adapter.json").read_text(encoding="utf-8"))
    assert adapter["base"] == "base"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 3_000_000


def test_it_has_a_hold_on_the_image() -> None:
    scorer = DescScorer.from_pretrained("base", device="cpu")
    texts = [photo.description for photo in PHOTOS]
    similarity = (
        scorer.encoder.texts(texts).features
        @ scorer.encoder.images([Image.open(photo.find()).convert("RGB") for photo in PHOTOS]).T
    )
    assert (similarity.argmax(1) == torch.arange(len(PHOTOS))).sum() >= len(PHOTOS) - 1


if __name__ == "__main__":
    for name in MODELS:
        text = json.dumps(compute(name), indent=1, ensure_ascii=False)
        golden(name).write_text(text + "\n", encoding="utf-8")
