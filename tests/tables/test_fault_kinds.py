"""Every kind of fault that docs/formats.md names occurs, and no other does."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from batch_inputs import add
from PIL import Image

from conftest import make_photo
from descscore.cache import FeatureCache, ImageKey
from descscore.cleaning import check_text
from descscore.context import check_references, tokenize_context
from descscore.errors import InputError
from descscore.images import load_image
from descscore.stream.outcomes import tokenize_text
from descscore.tables.open import load_pairs, open_input
from descscore.texts import TokenizedText

PAGE = Path(__file__).parents[2] / "docs" / "formats.md"

ELSEWHERE = {"image_timeout", "decoder_died", "not_finite"}
"""Kinds that tests/stream/test_pairs.py provokes, with decoders that hang and die, and
tests/test_model_config.py, with a model whose numbers are none."""


def tokenize(text: str) -> TokenizedText:
    check_text(text)
    return TokenizedText((torch.zeros(4, dtype=torch.long),), 4, False)


class Changing:
    """An image file whose content changes from one look to the next."""

    looks = 0

    def check(self) -> None: ...

    def read(self) -> bytes:
        self.looks += 1
        return bytes(self.looks)


def encode(images: Sequence[Image.Image]) -> torch.Tensor:
    return torch.zeros(len(images), 2)


def image_faults(folder: Path) -> list[Callable[[], object]]:
    photo = make_photo(folder / "photo.png", seed=0)
    (folder / "empty.png").touch()
    cache = FeatureCache(folder / "cache", ImageKey("", "", ""))
    return [
        lambda: load_image(folder / "none.png"),
        lambda: load_image(folder),
        lambda: load_image("é" * 200),  # 400 bytes, and a name may have 255
        lambda: load_image(photo.read_bytes()[:200]),
        lambda: load_image(folder / "empty.png"),
        lambda: load_image(photo, max_pixels=3),
        lambda: load_image(np.zeros(3)),
        lambda: load_image(3),  # type: ignore[arg-type]
        lambda: load_image("https://example.org/a.png"),
        lambda: cache.get_many([Changing()], encode),
    ]


def text_faults() -> list[Callable[[], object]]:
    return [
        lambda: check_text(" "),
        lambda: check_text(3),
        lambda: tokenize_text(tokenize, "word " * 1_000_000),
        lambda: tokenize_context(tokenize, 3),
        lambda: check_references("one text"),
    ]


def row_kinds(folder: Path) -> set[str]:
    """The kinds of faulty rows in a table, a folder, an archive and a data set."""
    texts = {"text": "A dog.", "description": "A dog.", "caption": "Rex"}
    make_photo(folder / "images" / "a.png", seed=0)
    table = folder / "table.jsonl"
    rows = [
        {"image": "../a.png", **texts},
        {"image": "images/a.png", **texts, "text": "\ud800"},
        {"image": "images/a.png", **texts, "caption": "A dog."},
        {"image": "images/a.png", **texts, "caption": " "},
        {"image": "images/a.png", **texts, "description": None},
        {"image": "images/a.png", **texts},
    ]
    table.write_text("\n".join(["{", *map(json.dumps, rows)]))
    with tarfile.open(folder / "cut.tar", "w") as tar:
        add(tar, "a.txt", b"A dog.")
    (folder / "cut.tar").write_bytes((folder / "cut.tar").read_bytes()[:600])
    inputs = [open_input(str(path)) for path in (table, folder / "images", folder / "cut.tar")]
    faults = [row.fault for opened in inputs for row in opened.rows()]
    return {fault.kind for fault in faults if fault} | set(load_pairs(table).reasons())


def kind_of(call: Callable[[], object]) -> str:
    try:
        call()
    except InputError as error:
        return error.kind
    return "none"


def test_the_kinds_of_fault_on_the_page_are_those_that_occur(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    occurring = {kind_of(call) for call in (*image_faults(tmp_path), *text_faults())} | row_kinds(tmp_path)
    page = PAGE.read_text(encoding="utf-8")
    part = page[page.index("Kinds of fault") : page.index("## Results in Python")]
    rows = "\n".join(line.split("|")[1] for line in part.splitlines() if line.startswith("|"))
    assert set(re.findall(r"`(\w+)`", rows)) == occurring | ELSEWHERE
