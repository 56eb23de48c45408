"""Readers of inputs: where they can begin, and what damaged files become."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from batch_inputs import (
    Pairs,
    add,
    make_pairs,
    write_csv,
    write_folder,
    write_jsonl,
    write_parquet,
    write_shards,
)

from descscore.tables.open import open_input


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    return make_pairs(tmp_path_factory.mktemp("photos"), 11)


def sources(folder: Path, pairs: Pairs) -> list[Path]:
    return [
        write_csv(folder / "in.csv", pairs),
        write_jsonl(folder / "in.jsonl", pairs),
        write_parquet(folder / "in.parquet", pairs, "bytes"),
        write_shards(folder / "tars", pairs),
        write_folder(folder / "images", pairs),
    ]


@pytest.mark.parametrize("step", [1, 2, 3, 4, 11, 50])
def test_beginning_at_a_mark_equals_reading_from_the_start(step: int, pairs: Pairs, tmp_path: Path) -> None:
    for path in sources(tmp_path, pairs):
        opened = open_input(str(path))
        every = list(opened.rows())
        scan = opened.scan(step)
        assert scan.rows == len(every) == len(pairs)
        assert len(scan.marks) == -(-len(pairs) // step)
        for i, mark in enumerate(scan.marks):
            assert list(opened.rows(i * step, mark)) == every[i * step :]
            assert list(opened.rows(i * step)) == every[i * step :]


def test_a_cut_or_damaged_archive_loses_nothing_unseen(pairs: Pairs, tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "tars", pairs)
    first = sorted(folder.iterdir())[0]
    data = first.read_bytes()
    whole = [row.id for row in open_input(str(folder)).rows()]
    first.write_bytes(data[: len(data) // 2])
    rows = list(open_input(str(folder)).rows())
    assert [row.id for row in rows][-7:] == whole[-7:]
    assert [row.fault.kind for row in rows if row.fault] in (["damaged_shard"], ["damaged_shard"] * 2)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        second = tar.getmembers()[2].offset
    first.write_bytes(data[:second] + b"\xff" * 512 + data[second + 512 :])
    faults = [row.fault for row in open_input(str(folder)).rows() if row.fault]
    assert [fault.kind for fault in faults] == ["damaged_shard"]
    assert f"byte {second}" in str(faults[0])


def test_samples_without_a_part_are_rows(pairs: Pairs, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "x/1.txt", b"A cat.")
        add(tar, "x/2.jpg", pairs.images[0].read_bytes())
        add(tar, "x/3.seg.png", pairs.images[0].read_bytes())
        add(tar, "x/3.txt", b"caf\xe9")
    rows = list(open_input(str(tmp_path / "a.tar")).rows())
    assert [row.id for row in rows] == ["x/1", "x/2", "x/3"]
    assert [row.fault and row.fault.kind for row in rows] == ["missing_image", None, "wrong_encoding"]
    assert rows[1].text is None


def test_a_link_in_an_archive_is_said(pairs: Pairs, tmp_path: Path) -> None:
    """tar writes a file's second name as a link to the first."""
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "1.png", pairs.images[0].read_bytes())
        add(tar, "1.txt", b"A cat.")
        for name, kind in (
            ("1.mask", tarfile.LNKTYPE),
            ("2.png", tarfile.LNKTYPE),
            ("3.png", tarfile.SYMTYPE),
        ):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "1.png"
            tar.addfile(link)
        add(tar, "3.txt", b"A cat.")
    faults = [row.fault and str(row.fault) for row in open_input(str(tmp_path / "a.tar")).rows()]
    assert faults == [None, "2: its member 'png' is a link", "3: its member 'png' is a link"]


def test_a_folder_names_what_has_no_partner(pairs: Pairs, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "images", pairs)
    (folder / "alone.txt").write_text("A cat.")
    (folder / "alone.png").write_bytes(b"")
    (folder / "lonely.txt").write_text("A dog.")
    (folder / "mute.png").write_bytes(b"")
    (folder / "latin.png").write_bytes(b"")
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    (folder / "two.png").write_bytes(b"")
    for name in ("two.txt", "two.png.txt"):
        (folder / name).write_text("A cat.")
    faults = {row.id: row.fault for row in open_input(str(folder)).rows()}
    kinds = {name: fault and fault.kind for name, fault in faults.items()}
    assert str(faults["two.png"]) == "two.png: which file is its text? ('two.txt', 'two.png.txt')"
    assert str(faults["latin.png"]).endswith("latin.txt: is not UTF-8 text; save it as UTF-8")
    assert kinds["alone.png"] is None
    assert kinds["lonely.txt"] == "missing_image"
    assert kinds["mute.png"] == "missing_text"
    assert kinds["latin.png"] == "wrong_encoding"
    assert len(kinds) == 16
    # The longer name is the text of another image, or the shorter one is.
    for name in ("two.png.jpg", "two.jpg"):
        (folder / name).write_bytes(b"")
    for name, text in (("two.txt", "short"), ("two.png.txt", "png"), ("two.jpg.txt", "jpg")):
        (folder / name).write_text(text)
    texts = {row.id: row.text for row in open_input(str(folder)).rows() if row.id.startswith("two")}
    assert texts == {"two.png": "short", "two.png.jpg": "png", "two.jpg": "jpg"}


def test_damaged_rows_of_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    good = b'{"image": "a.png", "text": "A cat."}'
    lines = [good, b"{", b"[1]", b"[" * 100_000, b'{"image": 3, "text": "a"}', b'{"text": "\\ud800"}', good]
    path.write_bytes(b"\n".join(lines))
    kinds = [row.fault and row.fault.kind for row in open_input(str(path)).rows()]
    assert kinds == [None, "bad_row", "bad_row", "bad_row", "bad_image_type", "wrong_encoding", None]


def test_a_quote_that_never_ends_costs_its_own_rows_only(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    rest = b"b.png,A dog.\n" * 90_000
    path.write_bytes(b'image,text\na.png,A cat.\nb.png,"never closed\n' + rest)
    opened = open_input(str(path))
    scan = opened.scan(1000)
    rows = list(opened.rows())
    assert len(rows) == scan.rows
    assert rows[0].text == "A cat."
    assert rows[1].fault is not None
    assert rows[1].fault.kind == "bad_row"
    assert rows[-1].text == "A dog."
