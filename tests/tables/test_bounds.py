"""Small files from strangers that would take gigabytes, or never end: each costs its own rows only."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import socket
import tarfile
import tempfile
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import make_photo
from descscore.errors import DataError
from descscore.tables import json_tables, text_tables
from descscore.tables.cells import to_csv_cell
from descscore.tables.open import DataOptions, InputOptions, load_pairs, open_input
from descscore.tables.reader import Columns
from descscore.tables.rows import Row
from descscore.tables.text_tables import read_csv

MEBIBYTE = 1 << 20


@contextlib.contextmanager
def little_memory(most: int) -> Iterator[None]:
    """Fails where Arrow takes over ``most`` bytes at once."""
    usual = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(usual)
    pa.set_memory_pool(pool)
    try:
        yield
        assert (pool.max_memory() or 0) < most
    finally:
        pa.set_memory_pool(usual)


def rows_of(path: Path, **columns: str) -> list[Row]:
    return list(open_input(str(path), InputOptions(Columns(**columns))).rows())


def kinds(rows: list[Row]) -> list[str | None]:
    return [row.fault and row.fault.kind for row in rows]


@contextlib.contextmanager
def few_objects(most: int) -> Iterator[None]:
    """Fails where Python's objects take over ``most`` bytes at once."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


# Parquet


def repeated(value: str | bytes, rows: int) -> pa.Array:
    """A column of one value that is stored once."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([value]))


def write(path: Path, columns: dict[str, pa.Array], **options: object) -> None:
    """A file that does not say that a column is a dictionary, so a reader repeats its values."""
    pq.write_table(pa.table(columns), path, compression="zstd", store_schema=False, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [6 * MEBIBYTE, 40 * MEBIBYTE])
def test_a_value_that_all_rows_share_is_in_memory_once(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.parquet"
    make_photo(tmp_path / "a.png", 0)
    write(path, {"image": pa.array(["a.png"] * 64), "text": repeated("x" * size, 64)})
    assert path.stat().st_size < 10_000
    with little_memory(6 * size):
        rows = rows_of(path)
    assert kinds(rows) == ["bad_row"] * 64
    assert len(str(rows[0].fault)) < 300


@pytest.mark.long
def test_a_text_that_all_rows_extend_is_in_memory_a_few_times(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    make_photo(tmp_path / "a.png", 0)
    columns = {"image": ["a.png"] * 300, "text": ["x" * (8 * MEBIBYTE)] * 300}
    encoding = {"text": "DELTA_BYTE_ARRAY"}  # each text says how much of the one before it begins with
    options = {"use_dictionary": False, "column_encoding": encoding, "data_page_size": 1 << 30}
    with pq.ParquetWriter(path, pa.table(columns).schema, compression="zstd", **options) as writer:
        batch = pa.table({name: values[:100] for name, values in columns.items()}).combine_chunks()
        writer.write_table(batch)
    assert path.stat().st_size < 30_000
    with little_memory(600 * MEBIBYTE):
        assert kinds(rows_of(path)) == ["bad_row"] * 100


@pytest.mark.parametrize("part", ["[],", '{"":{}},', "[[]],", '"ab",'])
def test_a_line_of_many_parts_costs_its_own_row(tmp_path: Path, part: str) -> None:
    make_photo(tmp_path / "a.png", 0)
    good = '{"image": "a.png", "text": "A cat."}'
    many = part * (8 * MEBIBYTE // len(part))
    (tmp_path / "a.jsonl").write_text(f'{good}\n{{"image": [{many}0]}}\n{good}\n')
    with few_objects(60 * MEBIBYTE):
        rows = rows_of(tmp_path / "a.jsonl")
    assert kinds(rows) == [None, "bad_row", None]
    assert "its JSON has over 1,048,576 parts" in str(rows[1].fault)


@pytest.mark.parametrize(("column", "kind"), [("id", "bad_row"), ("image", "bad_image_type")])
@pytest.mark.parametrize("size", [4097, MEBIBYTE, 6 * MEBIBYTE])
def test_an_id_or_a_path_that_all_rows_share_costs_little(
    tmp_path: Path, column: str, kind: str, size: int
) -> None:
    path = tmp_path / "a.parquet"
    make_photo(tmp_path / "a.png", 0)
    columns = {"image": pa.array(["a.png"] * 64), "text": pa.array(["A cat."] * 64)}
    write(path, {**columns, column: repeated("x" * size, 64)})
    assert path.stat().st_size < 10_000
    with few_objects(40 * MEBIBYTE):
        rows = rows_of(path)
    assert set(kinds(rows)) <= {kind, "bad_row"}
    assert [row.id for row in rows] == [str(number + 1) for number in range(64)]
    assert max(len(str(row.fault)) for row in rows) < 300


MANY = [None] * 200_000


@pytest.mark.parametrize("column", ["image", "text", "id", "references", "context"])
@pytest.mark.parametrize(
    "values",
    [
        pa.array([[("a", "b")]], pa.map_(pa.string(), pa.string())),
        pa.array([MANY], pa.list_(pa.null(), len(MANY))),
        pa.array([[[[["a"]]]]]),
        pa.array([[{"a": None}] * 100_000], pa.list_(pa.struct([("a", pa.string())]))),
    ],
)
def test_a_column_of_a_type_that_hides_its_size_costs_its_rows(
    tmp_path: Path, column: str, values: pa.Array
) -> None:
    path = tmp_path / "a.parquet"
    make_photo(tmp_path / "a.png", 0)
    table = {"image": pa.array(["a.png"]), "text": pa.array(["A cat."]), column: values}
    filler = pa.array([os.urandom(8000)])  # a file of few bytes may not have so many values
    pq.write_table(pa.table({**table, "filler": filler}), path)
    with few_objects(3 * MEBIBYTE):
        (row,) = rows_of(path, **{column: column})
    assert row.fault is not None
    assert row.fault.kind == "bad_row"
    assert repr(column) in str(row.fault)


def test_a_photo_that_all_rows_share_is_in_memory_once(tmp_path: Path) -> None:
    path, photo = tmp_path / "a.parquet", bytes(8 * MEBIBYTE)
    texts = pa.array([f"Text {i}." for i in range(64)])
    write(path, {"image": repeated(photo, 64), "text": texts})
    with little_memory(60 * MEBIBYTE):
        for number, row in enumerate(open_input(str(path)).rows()):
            assert (row.fault, row.image == photo, row.text) == (None, True, f"Text {number}.")


def test_a_page_that_expands_far_costs_the_rows_of_its_group(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    make_photo(tmp_path / "a.png", 0)
    small = pa.table({"image": ["a.png"], "text": ["A cat."]})
    large = pa.table({"image": ["a.png"], "text": ["x" * (60 * MEBIBYTE)]})
    with pq.ParquetWriter(path, small.schema, compression="zstd", use_dictionary=False) as writer:
        for table in (small, large, small):
            writer.write_table(table)
    assert path.stat().st_size < 20_000
    with little_memory(16 * MEBIBYTE):
        rows = rows_of(path)
    assert kinds(rows) == [None, "bad_row", None]
    assert "a page of 62,9" in str(rows[1].fault)


def test_a_list_of_any_length_costs_little(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    many = 20_000_000
    lists = pa.ListArray.from_arrays(pa.array([0, many], pa.int32()), pa.nulls(many, pa.string()))
    write(path, {"image": pa.array(["a.png"]), "text": pa.array(["A cat."]), "more": lists})
    with little_memory(16 * MEBIBYTE), pytest.raises(DataError, match="damaged or forged"):
        rows_of(path, references="more")


def test_references_of_any_size_cost_their_own_row(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    make_photo(tmp_path / "a.png", 0)
    lists = pa.array([["good", "better"], ["x" * MEBIBYTE] * 40, None, []], pa.list_(pa.string()))
    write(path, {"image": pa.array(["a.png"] * 4), "text": pa.array(["A cat."] * 4), "more": lists})
    rows = rows_of(path, references="more")
    assert kinds(rows) == [None, "bad_row", None, None]
    assert [row.references for row in rows] == [["good", "better"], None, None, []]
    assert "column 'more' holds 41,94" in str(rows[1].fault)


def forged(path: Path, rows: int) -> None:
    """Write a file of 3 rows that says that it holds ``rows``."""
    write(path, {"image": pa.array(["a.png"] * 3), "text": pa.array(["A cat."] * 3)})
    data = path.read_bytes()
    length = int.from_bytes(data[-8:-4], "little")
    number, coded = (rows << 1) ^ (rows >> 63), b""
    while number > 127:
        coded, number = coded + bytes([number & 127 | 128]), number >> 7
    footer = data[-8 - length : -8].replace(b"\x16\x06", b"\x16" + coded + bytes([number]))
    path.write_bytes(data[: -8 - length] + footer + len(footer).to_bytes(4, "little") + b"PAR1")


@pytest.mark.parametrize("rows", [10**15, 10**9, -5])
def test_a_forged_number_of_rows_is_refused(tmp_path: Path, rows: int) -> None:
    path = tmp_path / "a.parquet"
    forged(path, rows)
    with pytest.raises(DataError, match=r"a\.parquet: (is damaged or forged|cannot be read)"):
        open_input(str(path)).scan(100)


def test_rows_that_are_promised_and_missing_are_rows_with_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    make_photo(tmp_path / "a.png", 0)
    forged(path, 500)
    assert len(open_input(str(path)).scan(100).marks) == 5
    rows = rows_of(path)
    assert len(rows) == 500
    assert set(kinds(rows)[3:]) == {"bad_row"}


# Archives


def member(name: str, data: bytes, **fields: object) -> bytes:
    """A header and its data; fields: what the header says otherwise."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    padding = bytes(-len(data) % 512)
    return info.tobuf(tarfile.GNU_FORMAT) + data + padding


def extended(text: bytes) -> bytes:
    return member("x", text, type=tarfile.XHDTYPE)


def sparse(name: str, size: int) -> bytes:
    """A sparse file in GNU's old form: ``size`` zeros, none of them stored."""
    head = bytearray(member(name, b"", type=tarfile.GNUTYPE_SPARSE))
    head[386:410] = b"%011o\0%011o\0" % (size, 0)
    head[483:495] = b"%011o\0" % size
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


def records(keys: Iterable[str]) -> bytes:
    """Extended headers with short values."""
    return b"".join(b"%d %b=a\n" % (len(key) + 6, key.encode()) for key in keys)


def many_keys(count: int) -> bytes:
    """A global header."""
    return member("x", records(f"k{number:04}" for number in range(count)), type=tarfile.XGLTYPE)


LARGE = 8**11 - 512
PAX_SIZE = b"14 size=-1024\n"


@pytest.mark.parametrize(
    "trap",
    [
        lambda: member("b.png", b"", size=-1024),
        lambda: extended(PAX_SIZE) + member("b.png", b""),
        lambda: member("x", PAX_SIZE, type=tarfile.XGLTYPE) + member("b.png", b""),
        lambda: many_keys(101) + member("b.png", b"x") * 3,
        lambda: many_keys(1000) * 20 + member("b.png", b"x") * 3,
        pytest.param(
            lambda: extended(b"9" * 40_000 + b" a=b\n") + member("b.png", b""), marks=pytest.mark.long
        ),
        lambda: extended(b"") * 5000 + member("b.png", b""),
        lambda: member("x", b"", type=tarfile.GNUTYPE_LONGNAME, size=1 << 40),
        lambda: member("b.png", b"", size=1 << 80),
        lambda: extended(b"30 size=" + b"9" * 21 + b"\n") + member("b.png", b""),
        lambda: member("b.png", b"", type=tarfile.GNUTYPE_SPARSE)[:-12],
    ],
)
def test_an_archive_made_to_trap_its_reader_ends_with_a_fault(
    tmp_path: Path, trap: Callable[[], bytes]
) -> None:
    """The sample before the trap is a row, and the archive's fault is another one."""
    photo = make_photo(tmp_path / "a.png", 0).read_bytes()
    path = tmp_path / "a.tar"
    path.write_bytes(member("a.png", photo) + member("a.txt", b"A cat.") + trap())
    rows = rows_of(path)
    assert kinds(rows)[0] is None
    assert set(kinds(rows)[1:]) == {"damaged_shard"}
    assert len(rows) <= 3


def test_samples_of_many_members_and_long_headers_cost_little(tmp_path: Path) -> None:
    photo = make_photo(tmp_path / "a.png", 0).read_bytes()
    good = member("b.png", photo) + member("b.txt", b"A cat.")
    own = records(f"k{number:04}" for number in range(500))
    many = b"".join(extended(own) + member(f"a.x{number}", b"") for number in range(40))
    more = b"".join(member(f"c.x{number}", b"") for number in range(1001))
    path = tmp_path / "a.tar"
    path.write_bytes(many_keys(100) + many + good + more + bytes(1024))
    with few_objects(2 * MEBIBYTE):
        rows = rows_of(path)
    assert kinds(rows) == ["missing_image", None, "bad_row"]
    assert str(rows[2].fault) == "c: has over 1000 members"


def test_a_sparse_member_costs_its_own_row(tmp_path: Path) -> None:
    photo = make_photo(tmp_path / "a.png", 0).read_bytes()
    good = [member(f"{name}.png", photo) + member(f"{name}.txt", b"A cat.") for name in "ac"]
    path = tmp_path / "a.tar"
    path.write_bytes(good[0] + sparse("b.png", LARGE) + member("b.txt", b"A dog.") + good[1] + bytes(1024))
    rows = rows_of(path)
    assert kinds(rows) == [None, "bad_row", None]
    assert "b: its member 'png' is a sparse file" in str(rows[1].fault)
    with tarfile.open(path) as archive:  # Python would read 8 GB of zeros
        assert archive.getmember("b.png").size == LARGE


def test_a_long_text_in_an_archive_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(member("a.png", b"x") + member("a.txt", bytes(20 * MEBIBYTE)) + bytes(1024))
    (row,) = rows_of(path)
    assert str(row.fault) == "a: its txt: holds over 1,048,576 characters"


# Text tables


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_a_number_of_too_many_digits_costs_nothing_but_what_reads_it(tmp_path: Path, suffix: str) -> None:
    digits = "7" * 5000
    rows = [
        f'{{"image": "a.png", "text": "A dog.", "id": "one", "size": {digits}}}',
        f'{{"image": "a.png", "text": {digits}, "id": "two"}}',
        f'{{"image": "a.png", "text": "A dog.", "id": {digits}}}',
        '{"image": "a.png", "text": "A dog.", "id": "four"}',
    ]
    path = tmp_path / f"table{suffix}"
    path.write_text(f"[{','.join(rows)}]" if suffix == ".json" else "\n".join(rows))
    make_photo(tmp_path / "a.png", seed=0)
    found = rows_of(path)
    assert kinds(found) == [None, None, "bad_row", None]
    assert "its id holds 5,000 characters" in str(found[2].fault)
    assert [row.id for row in found] == ["one", "two", "3", "four"]
    assert not isinstance(found[1].text, str)


def test_images_with_numbers_of_too_many_digits_are_not_taken_for_one_another(tmp_path: Path) -> None:
    numbers = ["7" * 5000 + "1", "7" * 5000 + "2"]
    images = [
        f'{{"id": {number}, "file_name": "{name}.png"}}' for number, name in zip(numbers, "ab", strict=True)
    ]
    texts = [f'{{"image_id": {number}, "caption": "A dog."}}' for number in numbers]
    content = f'{{"images": [{",".join(images)}], "annotations": [{",".join(texts)}]}}'
    (tmp_path / "coco.json").write_text(content)
    for name in ("a.png", "b.png"):
        make_photo(tmp_path / name, seed=0)
    found = rows_of(tmp_path / "coco.json")
    assert [Path(str(row.image)).name for row in found] == ["a.png", "b.png"]


@pytest.mark.parametrize("part", ["1.5,", "{},", '{"a":[]},', '"é",'])
def test_a_json_file_of_too_many_parts_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.setattr(json_tables, "MOST_PARTS", 100_000)
    text = f"[{part * 110_000}1]"
    (tmp_path / "rows.json").write_text(text, encoding="utf-8")
    with few_objects(6 * len(text)), pytest.raises(DataError, match=r"rows.json: .*over 100,000 parts.*JSON"):
        rows_of(tmp_path / "rows.json")


@pytest.mark.parametrize("part", ["1.5,", "12345678901234567890,", "{},", '{"a":0},', '{"a":"b"},'])
def test_the_parts_of_a_json_file_take_no_more_memory_than_the_documentation_says(
    tmp_path: Path, part: str
) -> None:
    count = 50_000
    text = f"[{part * count}{{}}]"
    (tmp_path / "rows.json").write_text(text)
    with few_objects(len(text) * 2 + sum(map(text.count, "[{,:")) * 200):
        assert json_tables.JsonTable(tmp_path / "rows.json").count() == count + 1


@pytest.mark.parametrize("length", [1000, 1001])
def test_an_id_has_a_limit(tmp_path: Path, length: int) -> None:
    make_photo(tmp_path / "a.png", 0)
    path = tmp_path / "a.jsonl"
    ids = ["é" * length, ["é" * (length - 4)], int("1" * length)]
    path.write_text("".join(json.dumps({"image": "a.png", "text": "A cat.", "id": id}) + "\n" for id in ids))
    rows = rows_of(path)
    if length == 1000:
        assert [len(row.id) for row in rows] == [1000] * 3
        assert kinds(rows) == [None] * 3
    else:
        assert str(rows[0].fault) == "row 1: its id holds 1,001 characters, over the limit of 1,000"
        assert [(row.id, row.fault and row.fault.kind) for row in rows] == [(n, "bad_row") for n in "123"]


@pytest.mark.parametrize("text", ["A cat.", "\ud800"])
def test_cells_that_no_role_reads_are_not_kept(tmp_path: Path, text: str) -> None:
    """Not even by the fault of their row."""
    make_photo(tmp_path / "a.png", 0)
    line = json.dumps({"image": "a.png", "text": text, "more": [[]] * 3000}) + "\n"
    (tmp_path / "a.jsonl").write_text(line * 20)
    with few_objects(MEBIBYTE):
        rows = rows_of(tmp_path / "a.jsonl")
    assert kinds(rows) == [None if text == "A cat." else "wrong_encoding"] * 20


@pytest.mark.parametrize("key", ['"id"', '"\\u0069d"'])
def test_a_column_may_begin_late(tmp_path: Path, key: str) -> None:
    make_photo(tmp_path / "a.png", 0)
    line = '{"image": "a.png", "text": "A kid."'
    (tmp_path / "a.jsonl").write_text(f"{line}}}\n" * 200 + f'{line}, {key}: "b"}}\n')
    assert rows_of(tmp_path / "a.jsonl")[-1].id == "b"


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_line_of_any_length_costs_its_own_row(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_tables, "LINE_LIMIT", 1000)
    make_photo(tmp_path / "a.png", 0)
    good = {"a.csv": "a.png,A cat.", "a.jsonl": '{"image": "a.png", "text": "A cat."}'}[name]
    head = "image,text\n" if name == "a.csv" else ""
    path = tmp_path / name
    for long in ("x" * 1000, "x" * 5000, "x" * 1999):
        path.write_text(f"{head}{good}\n{long}\n{good}\n{good}")
        reader = open_input(str(path))
        rows = list(reader.rows())
        assert kinds(rows) == [None, "bad_row", None, None]
        assert "holds over 1,000 characters" in str(rows[1].fault)
        assert [row.line for row in rows] == [len(head and "1") + i for i in range(1, 5)]
        # Reading can go on from every row, also behind the long line.
        for number, mark in enumerate(reader.scan(1).marks):
            assert kinds(list(reader.rows(number, mark))) == kinds(rows)[number:]


# Files that are no files


@contextlib.contextmanager
def named_socket(path: Path) -> Iterator[None]:
    """A socket's path may have 108 bytes, so it is made elsewhere and moved."""
    with tempfile.TemporaryDirectory() as short, socket.socket(socket.AF_UNIX) as opened:
        opened.bind(f"{short}/s")
        os.rename(f"{short}/s", path)
        yield


@pytest.mark.parametrize("what", ["pipe", "device", "socket", "broken link", "loop", "outside"])
@pytest.mark.parametrize("name", ["b.txt", "b.png"])
def test_what_is_no_file_in_a_folder_costs_its_own_row(tmp_path: Path, name: str, what: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for stem in "abc":
        make_photo(folder / f"{stem}.png", 0)
        (folder / f"{stem}.txt").write_text("A cat.")
    odd = folder / name
    content = odd.read_bytes()
    odd.unlink()
    (tmp_path / name).write_bytes(content)
    with contextlib.ExitStack() as stack:
        if what == "pipe":
            os.mkfifo(odd)
        elif what == "socket":
            stack.enter_context(named_socket(odd))
        else:
            target = {"device": "/dev/zero", "loop": odd, "outside": tmp_path / name}.get(what, "nowhere")
            odd.symlink_to(target)
        reader = open_input(str(folder))
        reader.fingerprint()
        rows = list(reader.rows())
        faults = [row.fault for row in rows]
        if name == "b.png" and what in ("pipe", "socket", "broken link", "loop"):
            assert all(fault is None for fault in faults)  # its image is decoded later
            with pytest.raises(Exception, match=r"no such file|not a regular file|symbolic links"):
                rows[1].stored.check()  # type: ignore[union-attr]
            return
    assert [fault is None for fault in faults] == [True, False, True]
    assert name in str(faults[1])
    if what in ("outside", "device"):
        assert faults[1].kind == "outside_image_root"  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet", "a.tar"])
def test_a_pipe_as_a_table_is_said(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    for read in (lambda: rows_of(tmp_path / name), lambda: load_pairs(tmp_path / name)):
        with pytest.raises(DataError, match=name):
            read()
    if name == "a.tar":  # among others, in a folder
        with pytest.raises(DataError, match=r"a\.tar: .*not a regular file|a\.tar: Invalid"):
            open_input(str(tmp_path)).fingerprint()


# Paths


def test_absolute_paths_stay_in_the_image_root_unless_it_is_all(tmp_path: Path) -> None:
    """A table from a stranger may not choose which of the user's pictures are read."""
    folder = tmp_path / "folder"
    folder.mkdir()
    inside, outside = make_photo(folder / "a.png", 0), make_photo(tmp_path / "b.png", 1)
    path = folder / "t.csv"
    path.write_text("image,text,description,caption\n" + "".join(f"{p},x,x,y\n" for p in (inside, outside)))
    rows = rows_of(path)
    assert kinds(rows) == [None, "outside_image_root"]
    advice = f"leads out of the image root '{folder}'; --image-root / allows every file"
    assert advice in str(rows[1].fault)
    assert [row.reason for row in load_pairs(path).unusable] == ["outside_image_root"]
    for root in (tmp_path, Path("/")):
        reader = open_input(str(path), InputOptions(image_root=root))
        assert kinds(list(reader.rows())) == [None, None]


def test_with_the_root_of_all_files_relative_paths_begin_at_the_table(tmp_path: Path) -> None:
    for name in ("images", "data"):
        (tmp_path / name).mkdir()
    make_photo(tmp_path / "images" / "a.png", 0)
    path = tmp_path / "data" / "t.csv"
    path.write_text("image,text,description,caption\n../images/a.png,x,x,y\n")
    for root in (None, tmp_path / "data"):
        [row] = open_input(str(path), InputOptions(image_root=root)).rows()
        assert row.image is None
        assert "../images/a.png: leads out of the image root" in str(row.fault)
        assert "--image-root / allows every file" in str(row.fault)
    [row] = open_input(str(path), InputOptions(image_root=Path("/"))).rows()
    assert os.path.samefile(str(row.image), tmp_path / "images" / "a.png")
    [pair] = load_pairs(path, DataOptions(image_root=Path("/"))).pairs
    assert pair.image.read() == (tmp_path / "images" / "a.png").read_bytes()
    by_name = tmp_path / "images" / "texts.json"
    by_name.write_text('{"a": "A dog."}')
    [row] = open_input(str(by_name), InputOptions(image_root=Path("/"))).rows()
    assert row.fault is None


# Spreadsheets


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@a", "\t=1", "\r=1", "'=1", "''-", "'a", "a", "-", "\uff1d1"]
)
def test_a_cell_that_a_spreadsheet_would_run_is_quoted_and_read_back(tmp_path: Path, text: str) -> None:
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows([["text"], [to_csv_cell(text)]])
    path = tmp_path / "a.csv"
    path.write_text(buffer.getvalue(), newline="")
    assert to_csv_cell(text)[0] not in "=+-@\t\r\uff1d"
    assert read_csv(path)[0].cells["text"] == text


@pytest.mark.parametrize("dictionary", [False, True])
def test_compressed_columns_of_a_saved_data_set_are_not_unpacked(tmp_path: Path, dictionary: bool) -> None:
    """300 letters of a file for each megabyte of memory."""
    datasets.Dataset.from_dict({"image": ["a.png"], "text": ["A dog."]}).save_to_disk(tmp_path / "saved")
    (path,) = (tmp_path / "saved").glob("*.arrow")
    texts = pa.array(["x" * MEBIBYTE] * 200)
    table = pa.table({"image": ["a.png"] * 200, "text": texts})
    if dictionary:
        words = pa.array([f"{i:04}" + "x" * MEBIBYTE for i in range(200)])
        numbers = pa.array(range(200), pa.int32())
        table = pa.table({"image": ["a.png"] * 200, "text": pa.DictionaryArray.from_arrays(numbers, words)})
    with pa.OSFile(str(path), "wb") as file:
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_stream(file, table.schema, options=options) as writer:
            writer.write_table(table)
    del table, texts
    assert path.stat().st_size < MEBIBYTE
    with little_memory(20 * MEBIBYTE), pytest.raises(DataError, match="compressed columns"):
        open_input(str(tmp_path / "saved"))


@pytest.mark.parametrize("note", [None, {"ARROW:experimental_compression": "zstd"}])
def test_a_note_that_old_arrow_reads_as_compression_is_refused(
    tmp_path: Path, note: dict[str, str] | None
) -> None:
    """Arrow 0.17 named the compression beside the batch; a file of its time without it is read."""
    datasets.Dataset.from_dict({"image": ["a.png"], "text": ["A dog."]}).save_to_disk(tmp_path / "saved")
    (path,) = (tmp_path / "saved").glob("*.arrow")
    table = datasets.load_from_disk(tmp_path / "saved").data.table
    options = pa.ipc.IpcWriteOptions(metadata_version=pa.ipc.MetadataVersion.V4)
    with pa.ipc.new_stream(f"{path}.new", table.schema, options=options) as writer:
        writer.write_batch(table.to_batches()[0], custom_metadata=note)
    Path(f"{path}.new").replace(path)
    if note is None:
        assert [row.text for row in open_input(str(tmp_path / "saved")).rows()] == ["A dog."]
    else:
        with pytest.raises(DataError, match="compressed columns"):
            open_input(str(tmp_path / "saved"))
