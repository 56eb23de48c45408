"""The data of ``default``: textbook figures as they are, and everyday photos with made captions."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from descscore.eval.attacks import content_words
from descscore.tables.open import load_pairs
from reproduce.everyday import MADE, made_caption, write_tuning_data

DESCRIPTIONS = ("A brown dog runs over wet sand .", "A dog is at the beach .")


def picture(number: int) -> dict[str, object]:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 80, 160)).save(out, "png")
    return {"bytes": out.getvalue(), "path": f"{number}.png"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("openstax", "flickr8k"):
        (tmp_path / name).mkdir()
    for split, numbers in (("train", range(5)), ("val", range(5, 8))):
        figures = [
            {
                "image": picture(i),
                "description": f"A map of region {i}.",
                "caption": f"Region {i} was settled late.",
                "book": f"book {i % 2}",
            }
            for i in numbers
        ]
        pq.write_table(pa.Table.from_pylist(figures), tmp_path / "openstax" / f"{split}.parquet")
    photos = [{"image": picture(i), "captions": list(DESCRIPTIONS)} for i in range(20, 40)]
    pq.write_table(pa.Table.from_pylist(photos), tmp_path / "flickr8k" / "train.parquet")
    return tmp_path


def test_photos_join_the_figures_of_train_alone(data: Path, tmp_path: Path) -> None:
    pairs = load_pairs(str(write_tuning_data(data, tmp_path / "out", photos=12)))
    figures, photos, held = (pairs.split(name) for name in ("train", MADE, "val"))
    assert (len(figures), len(photos), len(held)) == (5, 12, 3)
    assert [pair.caption for pair in figures] == [f"Region {i} was settled late." for i in range(5)]
    assert {pair.group for pair in figures} == {"book 0", "book 1"}
    assert {pair.description for pair in photos} <= {text.removesuffix(" .") for text in DESCRIPTIONS}
    assert not {pair.group for pair in photos} & {pair.group for pair in figures}
    assert len({pair.image.read() for pair in photos}) == 12


def test_the_seed_alone_decides(data: Path, tmp_path: Path) -> None:
    first, again, other = (
        pq.read_table(write_tuning_data(data, tmp_path / name, 12, seed) / "train.parquet")
        for name, seed in (("first", 0), ("again", 0), ("other", 1))
    )
    assert first.equals(again)
    assert not first.equals(other)


def test_made_captions_differ_and_take_at_most_two_words_from_a_description() -> None:
    draw = random.Random(0)
    captions = [made_caption(list(DESCRIPTIONS), draw) for _ in range(300)]
    assert len(set(captions)) > 250
    assert all(caption[0].isupper() or caption[0].isdigit() for caption in captions)
    words = {word for text in DESCRIPTIONS for word in content_words(text)}
    assert all(len(words & set(content_words(caption))) <= 2 for caption in captions)


def test_a_photo_whose_descriptions_name_nothing_gets_a_caption_too() -> None:
    assert made_caption(["Running."], random.Random(0))
