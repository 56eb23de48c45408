"""A small data folder with everything a report measures on, and small models for it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from descscore.adapters import AdapterInfo, include_base, save_full, weights_hash
from descscore.interchange import Rotation
from descscore.models import load_model
from descscore.purpose import Purpose, Readout, Site, save_purpose
from pictures import make_photo

IMAGES, TEXTS = 8, 3
PAIRS = 12
CLASSES = ("anchor", "bee", "chair")
QUESTIONS = ("q_overall", "q_reconstructivity", "q_relevance", "q_irrelevance")
PHASES = (".preimg", ".postimg")


def make_data(root: Path) -> Path:
    """Write the folder; every file that :data:`descscore.eval.report.measure.PARTS` names is there."""
    root.mkdir(parents=True, exist_ok=True)
    make_kreiss(root / "kreiss2022")
    make_concadia(root)
    openstax = root / "openstax"
    openstax.mkdir()
    for name, first in (("test", 100), ("train", 200)):
        pq.write_table(pa.Table.from_pylist(pair_rows(root, first)), openstax / f"{name}.parquet")
    make_flickr(root)
    for name in ("caltech101/test", "tiny_imagenet/val"):
        path = root / f"{name}.parquet"
        path.parent.mkdir()
        rows = [{"image": picture(root, 300 + i), "label": CLASSES[i % 3]} for i in range(9)]
        pq.write_table(pa.Table.from_pylist(rows), path)
    return root


def description(i: int) -> str:
    return f"A house with {i} windows stands " + "beside a tree " * (1 + i % 5) + "."


def caption(i: int) -> str:
    return f"Built in {1900 + i} for Ada"


def picture(folder: Path, seed: int) -> dict[str, object]:
    path = make_photo(folder / "x.png", seed)
    data = path.read_bytes()
    path.unlink()
    return {"bytes": data, "path": f"{seed}.png"}


def pair_rows(root: Path, first: int) -> list[dict[str, Any]]:
    return [
        {"image": picture(root, i), "description": description(i), "caption": caption(i), "book": f"b{i % 4}"}
        for i in range(first, first + PAIRS)
    ]


def make_concadia(root: Path) -> None:
    (root / "concadia/resized").mkdir(parents=True)
    items = []
    for i in range(PAIRS):
        make_photo(root / f"concadia/resized/{i}.jpg", 40 + i)
        texts = {"description": description(i), "caption": caption(i), "context": ""}
        fields = {kind: {"raw": text, "tokens": []} for kind, text in texts.items()}
        items.append({"filename": f"{i}.jpg", "split": "test", **fields})
    (root / "concadia/wiki_split.json").write_text(json.dumps({"images": items}))
    for name, text in (("descriptions", description), ("captions", caption)):
        rows = [
            {"imgstem_version": str(i), "texts": text(i), "clipscore": i / 10 % 0.7} for i in range(PAIRS)
        ]
        write_csv(root / f"kreiss2022/published_clipscore_concadia_{name}.csv", rows)


def make_flickr(root: Path) -> None:
    folder = root / "flickr8k"
    folder.mkdir()
    photos = [f"photo{i}.jpg" for i in range(6)]
    rows = [
        {"image": picture(root, i), "filename": photo, "captions": [f"Dog {i} runs, {k}." for k in range(5)]}
        for i, photo in enumerate(photos)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "test.parquet")
    rng = np.random.default_rng(0)
    expert, crowd = [], []
    for photo in photos:
        for other in photos:
            expert.append("\t".join([photo, f"{other}#2", *map(str, rng.integers(1, 5, 3))]))
            yes = int(rng.integers(0, 4))
            crowd.append(f"{photo}\t{other}#1\t{yes / 3:.15g}\t{yes}\t{3 - yes}")
    (folder / "ExpertAnnotations.txt").write_text("\n".join(expert) + "\n")
    (folder / "CrowdFlowerAnnotations.txt").write_text("\n".join(crowd) + "\n")


def make_kreiss(folder: Path) -> None:
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    blv, sighted, described, clip, spurts = [], [], [], [], []
    for image in range(IMAGES):
        name = f"Plaza_(süd),_{image}.jpg"
        make_photo(folder / "images" / name, seed=60 + image)
        for text in range(TEXTS):
            words = f"Photo {image}, «été»: " + "a thing beside another, " * (1 + (image + 2 * text) % 5)
            article = f"Article {image % 3}, which says more of a place. " * (1 + 9 * (image % 3))
            common = {"img_id": f"place{image}", "description": words, "article_text": article}
            described.append({"description": words, "img_file": name})
            for rater in range(4):
                answers = {question: int(rng.integers(1, 6)) for question in QUESTIONS}
                blv.append({"participant": f"p{rater}", **common, **answers})
            for rater in range(3):
                who = {"anon_worker_id": f"w{rater}", "img_file": name}
                answers = {q + phase: int(rng.integers(1, 6)) for q in QUESTIONS for phase in PHASES}
                sighted.append({**who, **common, **answers})
            clip.append({"imgstem_version": f"{image}_{text}", "texts": words, "clipscore": rng.random()})
            spurts.append({"texts": words, "SPURTS_score": rng.random()})
    for name, rows in (
        ("blv_ratings", blv),
        ("sighted_ratings", sighted),
        ("descriptions", described),
        ("published_clipscore_cosid", clip),
        ("published_spurts_cosid", spurts),
    ):
        write_csv(folder / f"{name}.csv", rows)


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def make_adapter(base: Path, folder: Path) -> Path:
    """The base's own text tower, changed a little, with a random rotation and read-out."""
    plain, clip = load_model(base, "cpu").clip, load_model(base, "cpu").clip
    torch.manual_seed(0)
    with torch.no_grad():
        clip.text_projection.add_(0.02 * torch.randn_like(clip.text_projection))
    readout = Readout(0.3 * torch.randn(5), torch.tensor(0.1))
    info = AdapterInfo(include_base(base, folder), weights_hash(plain), tuning="full", block=2, k=5)
    save_full(clip, plain, info, folder)
    save_purpose(Purpose(Site(2, 5), Rotation(32, 1).matrix().detach(), readout), folder)
    return folder
