"""Inputs that the tests of the batch scorer share: the same pairs in every form."""

from __future__ import annotations

import csv
import io
import json
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from conftest import make_photo

TEXTS = [
    "A cat.",
    "A woman in a dark naval uniform and a white cap, seated before a flag.",
    "Grace Hopper, 1984",
    "Two dogs run over wet sand towards the sea while a child in a red coat watches. " * 6,
    'ein Hund 🐕, "quoted"\nin two lines',
]


@dataclass(frozen=True)
class Pairs:
    """Ids, image files and texts in parallel."""

    ids: list[str]
    images: list[Path]
    texts: list[str]

    def __len__(self) -> int:
        return len(self.ids)


def make_pairs(folder: Path, count: int, images: int = 4) -> Pairs:
    """``count`` pairs over a few photos, each text of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    photos = [make_photo(folder / f"{i}.png", seed=i, size=(40 + 9 * i, 50)) for i in range(images)]
    texts = [f"{TEXTS[i % len(TEXTS)]} {i}" for i in range(count)]
    return Pairs([f"p{i}" for i in range(count)], [photos[i % images] for i in range(count)], texts)


def _below(folder: Path, pairs: Pairs) -> list[str]:
    """The images' absolute paths, of copies below ``folder``: a table's images may not lie elsewhere."""
    paths = []
    for image in pairs.images:
        path = image
        if folder not in image.parents:
            path = folder / "pictures" / image.name
            path.parent.mkdir(exist_ok=True)
            shutil.copyfile(image, path)
        paths.append(str(path))
    return paths


def write_csv(path: Path, pairs: Pairs) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "image", "text"])
        writer.writerows(zip(pairs.ids, _below(path.parent, pairs), pairs.texts, strict=True))
    return path


def write_jsonl(path: Path, pairs: Pairs) -> Path:
    rows = zip(pairs.ids, _below(path.parent, pairs), pairs.texts, strict=True)
    lines = [json.dumps({"id": i, "image": str(p), "text": t}) for i, p, t in rows]
    path.write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_parquet(path: Path, pairs: Pairs, kind: str, row_group: int = 3) -> Path:
    """kind: how an image is given: ``path``, ``bytes`` or ``struct``."""
    images: list[object] = [*_below(path.parent, pairs)]
    if kind == "bytes":
        images = [p.read_bytes() for p in pairs.images]
    if kind == "struct":
        images = [{"bytes": p.read_bytes(), "path": p.name} for p in pairs.images]
    table = pa.table({"text": pairs.texts, "other": pairs.ids, "image": images, "id": pairs.ids})
    pq.write_table(table, path, row_group_size=row_group)
    return path


def write_folder(folder: Path, pairs: Pairs) -> Path:
    """Rows come in the order of names, so names are numbered."""
    for i, (image, text) in enumerate(zip(pairs.images, pairs.texts, strict=True)):
        below = folder / f"part{i // 4}"
        below.mkdir(parents=True, exist_ok=True)
        (below / f"{i:03d}.png").write_bytes(image.read_bytes())
        name = f"{i:03d}.txt" if i % 2 else f"{i:03d}.png.txt"
        (below / name).write_text(text + "\n", encoding="utf-8")
    return folder


def write_shards(folder: Path, pairs: Pairs, per_shard: int = 4) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, len(pairs), per_shard):
        with tarfile.open(folder / f"shard-{first:04d}.tar", "w") as tar:
            for i in range(first, min(first + per_shard, len(pairs))):
                add(tar, f"{pairs.ids[i]}.png", pairs.images[i].read_bytes())
                if i % 2:
                    add(tar, f"{pairs.ids[i]}.txt", pairs.texts[i].encode())
                else:
                    add(tar, f"{pairs.ids[i]}.json", json.dumps({"text": pairs.texts[i]}).encode())
    return folder


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
