"""What ``descscore eval throughput`` rests on; the rates themselves are measured by the command."""

from __future__ import annotations

from pathlib import Path

import open_clip
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from conftest import TINY
from descscore.cli import main
from descscore.errors import DataError
from descscore.eval.speed.throughput import CAPTION_TOKENS, Rates, caption, find_photos, make_photos
from descscore.eval.speed.torchmetrics_clip import transformers_clip, transformers_processor


def test_transformers_gives_the_same_features_on_converted_weights() -> None:
    torch.manual_seed(0)
    clip = open_clip.CLIP(**TINY["model_cfg"]).eval().requires_grad_(False)
    other = transformers_clip(clip)
    texts = ["A brown dog runs over wet sand.", "Grace Hopper, 1984 isn't here!", "café 🐕 and more"]
    tokens = open_clip.get_tokenizer("ViT-B-32")(texts)
    converted = transformers_processor()(text=texts, return_tensors="pt", padding=True)
    for row, own in zip(converted["input_ids"].tolist(), tokens.tolist(), strict=True):
        end = own.index(49407) + 1
        assert row[:end] == own[:end]
        assert set(row[end:]) <= {49407}
    pixels = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        text = other.get_text_features(converted["input_ids"], converted["attention_mask"])
        image = other.get_image_features(pixels)
        text, image = (x if isinstance(x, torch.Tensor) else x.pooler_output for x in (text, image))
        torch.testing.assert_close(text, clip.encode_text(tokens), rtol=0, atol=1e-5)
        torch.testing.assert_close(image, clip.encode_image(pixels), rtol=0, atol=1e-5)


def test_captions_have_the_length_they_claim() -> None:
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    captions = [caption(i) for i in range(50)]
    assert {len(tokenizer.encode(text)) + 2 for text in captions} == {CAPTION_TOKENS}
    assert len(set(captions)) == 50


def test_photos_are_made_and_found(tmp_path: Path) -> None:
    made = make_photos(tmp_path, 2, (160, 120))
    assert find_photos(tmp_path) == made
    assert {Image.open(path).size for path in made} == {(160, 120)}
    with pytest.raises(DataError, match="no photos"):
        find_photos(tmp_path / "none")


def test_sums_and_ceilings_by_hand() -> None:
    """10 images a second decoded, 5 and 50 through the towers, five texts an image."""
    rates = Rates(decode=10, image=5, text=50, pairs=12, matrix_flops=1e12, image_flops=1e10)
    assert rates.summed(5) == pytest.approx(5 / (0.1 + 0.2 + 0.1))
    assert rates.ceiling(5) == pytest.approx(5 / 0.3)


def test_wrong_sizes_are_refused() -> None:
    result = CliRunner().invoke(main, ["eval", "throughput", "--size", "big"])
    assert result.exit_code == 2
    assert "1600x1200" in result.stderr
