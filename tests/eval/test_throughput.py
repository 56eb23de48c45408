"""What ``descscore eval throughput`` rests on; the rates themselves are measured by the command."""

from __future__ import annotations

import hashlib
from pathlib import Path

import open_clip
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from conftest import TINY, save_model
from descscore import DescScorer
from descscore.cli import main
from descscore.errors import DataError
from descscore.eval.report.pages import CLIP_B32
from descscore.eval.sample_inputs import (
    CAPTION_TOKENS,
    DECODE,
    as_many,
    caption,
    find_photos,
    make_photos,
)
from descscore.eval.throughput import Rates, Work, measure_work, transformers_clip, transformers_processor
from descscore.images import load_image
from descscore.stream.pairs import StreamOptions


def test_torchmetrics_runs_a_model_of_the_size_of_vit_b_32() -> None:
    with torch.device("meta"):
        model = transformers_clip()
    assert sum(p.numel() for p in model.parameters()) == CLIP_B32


def test_torchmetrics_gets_the_same_tokens() -> None:
    texts = ["A brown dog runs over wet sand.", "Grace Hopper, 1984 isn't here!", "café 🐕 and more"]
    tokens = open_clip.get_tokenizer("ViT-B-32")(texts)
    converted = transformers_processor()(text=texts, return_tensors="pt", padding=True)
    for row, own in zip(converted["input_ids"].tolist(), tokens.tolist(), strict=True):
        end = own.index(49407) + 1
        assert row[:end] == own[:end]
        assert set(row[end:]) <= {49407}


def test_captions_have_the_length_they_claim() -> None:
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    captions = [caption(i) for i in range(50)]
    assert {len(tokenizer.encode(text)) + 2 for text in captions} == {CAPTION_TOKENS}
    assert len(set(captions)) == 50


def test_captions_begin_alike_no_more_often_than_real_ones_do(shared_data: Path | None) -> None:
    """What shared beginnings save must not be an effect of the few words that captions are made of."""
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    made = distinct_beginnings([tokenizer.encode(caption(i)) for i in range(1024)])
    assert made > 0.75
    if shared_data is not None:
        import pyarrow.parquet as pq

        table = pq.read_table(shared_data / "flickr8k" / "test.parquet", columns=["captions"])
        texts = [text for five in table["captions"].to_pylist() for text in five][:1024]
        assert distinct_beginnings([tokenizer.encode(text) for text in texts]) < made + 0.02


def distinct_beginnings(rows: list[list[int]]) -> float:
    """Of 1,024 texts in groups of 176 sorted by length, the share of tokens at which a new beginning ends."""
    rows = sorted(([-1, *row, -2] for row in rows), key=lambda row: (len(row), row))
    groups = [rows[i : i + 176] for i in range(0, len(rows), 176)]
    beginnings = sum(len({tuple(row[: i + 1]) for row in group for i in range(len(row))}) for group in groups)
    return beginnings / sum(map(len, rows))


def test_photos_are_made_and_found(tmp_path: Path) -> None:
    made = make_photos(tmp_path, 2, (160, 120))
    assert find_photos(tmp_path) == made
    assert {Image.open(path).size for path in made} == {(160, 120)}
    with pytest.raises(DataError, match="no photos"):
        find_photos(tmp_path / "none")


def test_photos_used_again_are_files_of_their_own_with_the_same_pixels(tmp_path: Path) -> None:
    made = make_photos(tmp_path, 2, (160, 120))
    Image.open(made[1]).save(tmp_path / "b.png")
    photos = as_many([made[0], tmp_path / "b.png"], tmp_path / "more", 5)
    assert len(photos) == 6
    assert len({hashlib.sha256(photo.read_bytes()).digest() for photo in photos}) == 6
    for i, photo in enumerate(photos):
        assert load_image(photo).tobytes() == load_image(photos[i % 2]).tobytes()
    assert as_many(made, tmp_path / "more", 2) == made


def test_blank_pictures_are_encoded_one_a_name_and_never_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the rate without decoding would leave out the images."""
    scorer = DescScorer.from_pretrained(save_model(tmp_path, TINY), device="cpu")
    encoded: list[torch.Tensor] = []
    real = scorer.encoder.pixels
    monkeypatch.setattr(scorer.encoder, "pixels", lambda p: encoded.append(p) or real(p))
    pairs = [(f"/nowhere/{i % 12}.jpg", caption(i)) for i in range(24)]
    outcomes = list(scorer.score_stream(pairs, StreamOptions(workers=1, decode=DECODE)))
    assert {outcome.status for outcome in outcomes} == {"ok"}
    pictures = torch.cat(encoded)
    assert len(pictures) == 12
    assert not pictures.any()


def test_sums_ceilings_and_shares_by_hand() -> None:
    """10 images a second decoded, 5 and 50 through the towers, five texts an image; 1 TFLOP a second."""
    work = Work(matrix=1e12, image=1e11, text=4e9, torchmetrics=1.2e11)
    rates = Rates(decode=10, image=5, text=50, pairs=12, work=work, torchmetrics=3)
    assert rates.summed(5) == pytest.approx(5 / (0.1 + 0.2 + 0.1))
    assert rates.ceiling(5) == pytest.approx(5 / 0.3)
    figures = rates.figures(5)
    assert figures["share of decoding and forward passes added up"] == pytest.approx(12 / 12.5)
    assert figures["image tower, share of the matrix rate"] == pytest.approx(0.5)
    assert figures["text tower, share of the matrix rate"] == pytest.approx(0.2)
    assert figures["times torchmetrics"] == pytest.approx(4)
    assert figures["both towers, GFLOP a pair"] == pytest.approx(24)
    assert figures["torchmetrics CLIPScore, GFLOP a pair"] == pytest.approx(120)


def test_operations_are_those_of_the_matrices(tmp_path: Path) -> None:
    """The tiny model's, by hand: 2 x rows x inputs x outputs for each of its products."""
    scorer = DescScorer.from_pretrained(save_model(tmp_path, TINY), device="cpu")
    pixels = torch.zeros(3, 32, 32, 3, dtype=torch.uint8)
    work = measure_work(scorer.encoder, pixels, [scorer.tokenize("a b c")])
    width, places = 32, 5
    whole = 2 * 12 * width**2 * places
    last = 2 * (2 * places + 10) * width**2
    image = 2 * 4 * 3 * 16**2 * width + whole + last + 2 * width * 16
    text = 3 * whole + last + 2 * width * 16
    # Attention itself is on top: 4 x places x seen x width a block at most.
    assert image <= work.image <= image + 2 * 4 * places**2 * width
    assert text <= work.text <= text + 4 * 4 * places**2 * width


def test_wrong_sizes_are_refused() -> None:
    result = CliRunner().invoke(main, ["eval", "throughput", "--size", "big"])
    assert result.exit_code == 2
    assert "1600x1200" in result.stderr
