"""The table of a study's items: what is wrong with it, by line."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from descscore.errors import DataError
from descscore.study.items import COLUMNS, read_items
from pictures import make_photo
from study_tools import write_items, write_table


def test_items_errors_name_the_line(tmp_path: Path) -> None:
    good = write_items(tmp_path, images=2, texts=1)
    rows = [
        dict(zip(COLUMNS, cells, strict=True))
        for cells in [
            ("a", "photos/Café, «view» 0.png", "One.", "T", "X"),
            ("b", "photos/Café, «view» 1.png", "Two.", "T", "X"),
        ]
    ]
    assert len(read_items(good)) == len(read_items(write_table(tmp_path / "own.csv", rows))) == 2
    damaged = tmp_path / "damaged.jpg"
    damaged.write_bytes(b"\xff\xd8\xff\xe0 no photo")
    for change, reason in (
        ({"image": "none.png"}, r"bad\.csv: line 3: .*none.png: no such file"),
        ({"image": "https://example.org/a.png"}, r"bad\.csv: line 3: .*never fetched"),
        ({"image": "damaged.jpg"}, "damaged.jpg: "),
        ({"item": "a"}, r"bad\.csv: line 3: the same item as line 2"),
        ({"description": " One. "}, r"bad\.csv: line 3: the same description as line 2"),
        ({"article text": "  "}, r"bad\.csv: line 3: article text is blank"),
    ):
        with pytest.raises(DataError, match=reason):
            read_items(write_table(tmp_path / "bad.csv", [rows[0], rows[1] | change]))
    two_lines = [rows[0] | {"article text": "One paragraph.\n\nAnother."}, rows[1] | {"item": " "}]
    with pytest.raises(DataError, match="line 5: item is blank"):  # where an editor shows it
        read_items(write_table(tmp_path / "bad.csv", two_lines))
    with pytest.raises(DataError, match="lacks column article title, article text"):
        read_items(write_table(tmp_path / "bad.csv", [{"item": "a", "image": "b", "description": "c"}]))
    with pytest.raises(DataError, match="No such file"):
        read_items(tmp_path / "none.csv")
    for text, reason in (
        (
            "a,photos/x.png,One., two,T,X\n",
            "line 2: has 6 cells, the header 5; put texts with commas",
        ),
        ("", "holds no items"),
    ):
        (tmp_path / "bad.csv").write_text(",".join(COLUMNS) + "\n" + text)
        with pytest.raises(DataError, match=reason):
            read_items(tmp_path / "bad.csv")
    (tmp_path / "bad.csv").write_text(",".join((*COLUMNS, "description")) + "\n")
    with pytest.raises(DataError, match="has column 'description' 2 times"):
        read_items(tmp_path / "bad.csv")


@pytest.mark.parametrize(("kept", "written"), [("NFD", "NFD"), ("NFC", "NFD"), ("NFC", "NFC")])
def test_an_image_is_found_by_the_name_that_its_disk_keeps(tmp_path: Path, kept: Any, written: Any) -> None:
    """A Mac writes an accent as a character of its own; two such texts are one text."""
    photo = make_photo(tmp_path / unicodedata.normalize(kept, "Café.png"), seed=0)
    texts = ("a", *(unicodedata.normalize(written, text) for text in ("Café.png", "A café.")), "T", "X")
    (item,) = read_items(write_table(tmp_path / "items.csv", [dict(zip(COLUMNS, texts, strict=True))]))
    assert item.image.read_bytes() == photo.read_bytes()
    assert item.description == "A café."


def test_a_study_in_a_folder_whose_name_is_no_unicode_is_refused(tmp_path: Path) -> None:
    """A database cannot hold the paths of its images."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    with pytest.raises(DataError, match="line 2: the path of its image is not UTF-8 text"):
        read_items(write_items(folder, images=1, texts=1))
