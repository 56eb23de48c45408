"""The folder in which the documentation's blocks run: files with the names that the pages use."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from doc_pages import ROOT
from pictures import make_photo
from report_data import caption, description, make_data
from study_tools import judge_all, make_store, register

TEXTS = ["A brown dog runs over wet sand.", "Two boats.", "A cat on a wall.", "A house beside a tree."]
QUESTIONS = ("overall", "relevance")


def make_sandbox(folder: Path, tiny: Path) -> Path:
    """Lay the folder out. tiny: a model folder, linked as ``TINY``."""
    folder.mkdir()
    (folder / "TINY").symlink_to(tiny)
    for seed, name in enumerate(("photo.jpg", "a.jpg", "b.jpg")):
        make_photo(folder / name, seed)
    (folder / "article.txt").write_text(
        "Dogs like the sea. They run on the beach of Texel.\n", encoding="utf-8"
    )
    _site(folder / "site")
    _pairs(folder)
    make_data(folder / "DATA")
    _concadia(folder / "CONCADIA")
    _ratings(folder)
    store = make_store(folder, images=2)
    for name, vision in (("PSEUDONYM", "blind"), ("anna", "blind"), ("ben", "sighted")):
        judge_all(store, register(store, name, vision))
    shutil.copytree(ROOT / "docs/images", folder / "docs/images")
    return folder


def _site(folder: Path) -> None:
    """A page with a right text, and one without a text."""
    folder.mkdir()
    make_photo(folder / "dog.jpg", 3)
    (folder / "index.html").write_text(
        '<html lang="en"><title>Dogs</title><img src="dog.jpg" alt="A brown dog runs over wet sand.">\n'
        '<p>More</p><img src="dog.jpg"></html>\n',
        encoding="utf-8",
    )


def _pairs(folder: Path) -> None:
    rows = [
        {"image": name, "text": text, "article": "Dogs like the sea.", "descriptions": [text, "A dog."]}
        for name in ("a.jpg", "b.jpg")
        for text in TEXTS
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "pairs.parquet")
    _write(folder / "pairs.csv", [{"image": row["image"], "text": row["text"]} for row in rows])


def _concadia(folder: Path) -> None:
    (folder / "resized").mkdir(parents=True)
    items = []
    for i in range(24):
        make_photo(folder / f"resized/{i}.jpg", i)
        texts = {"description": description(i), "caption": caption(i), "context": ""}
        fields = {kind: {"raw": text, "tokens": []} for kind, text in texts.items()}
        split = ("train", "train", "val", "test")[i % 4]
        items.append({"filename": f"{i}.jpg", "article_id": i, "split": split, **fields})
    (folder / "wiki_split.json").write_text(json.dumps({"images": items}), encoding="utf-8")


def _ratings(folder: Path) -> None:
    with (folder / "DATA/kreiss2022/descriptions.csv").open(encoding="utf-8", newline="") as file:
        texts = [row["description"] for row in csv.DictReader(file)]
    _write(folder / "scores.csv", [{"text": text, "score": len(text) / 100} for text in texts])
    rows = [
        {
            "item": text,
            "rater": rater,
            "question": question,
            "value": 1 + (place + shift) % 5,
            "group": "blind",
        }
        for place, text in enumerate(TEXTS * 2)
        for shift, rater in enumerate(("r1", "r2", "r3"))
        for question in QUESTIONS
        if place < len(TEXTS)
    ]
    _write(folder / "ratings.csv", rows)
    _write(
        folder / "my_scores.csv", [{"text": text, "score": 0.3 * place} for place, text in enumerate(TEXTS)]
    )


def _write(path: Path, rows: list[dict[str, object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
