"""One strictness: batch, training, evaluation and studies find the same faults in the same table."""

from __future__ import annotations

import codecs
import gzip
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from batch_inputs import add

from conftest import make_photo
from descscore.errors import DataError
from descscore.eval.ratings import read_rows
from descscore.study.items import read_items
from descscore.tables.cells import CELL_LIMIT
from descscore.tables.open import DataOptions, InputOptions, load_pairs, open_input
from descscore.tables.reader import Columns
from descscore.tables.rows import Row

HEADER = "item,image,description,article title,article text,caption"
GOOD = "a,a.png,A dog.,Dogs,About dogs.,Rex"
PAIR_COLUMNS = Columns(id="item", context="article text")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two photos, ``a.png`` and ``b.png``."""
    for seed, name in enumerate(("a.png", "b.png")):
        make_photo(tmp_path / name, seed=seed, size=(24, 20))
    return tmp_path


def batch_rows(path: Path, **columns: str) -> list[Row]:
    return list(open_input(str(path), InputOptions(Columns(**columns))).rows())


def kinds(rows: list[Row]) -> list[str | None]:
    return [row.fault and row.fault.kind for row in rows]


def every_reader(path: Path) -> list[str]:
    """What each of the readers says of the second row of a table, or of the table; '' for nothing."""

    def batch() -> str:
        fault = batch_rows(path, id="item", text="description")[1].fault
        return str(fault or "").removeprefix("row 2: ")

    def pairs() -> str:
        return "".join(row.detail for row in load_pairs(path, DataOptions(PAIR_COLUMNS)).unusable)

    def study() -> str:
        return str(len(read_items(path)) and "")

    def ratings() -> str:
        return str(len(read_rows(path)) and "")

    answers = []
    for reader in (batch, pairs, study, ratings):
        try:
            answers.append(reader())
        except DataError as error:
            assert str(path) in str(error)
            answers.append(str(error).removeprefix(f"{path}: ").partition("line 3: ")[2] or str(error))
    return answers


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"b,b.png,A cat, asleep,Cats,About cats.,Tom", "has 7 cells, the header 6; put texts with commas"),
        (b"b,b.png,A cat.,Cats,About cats.", "has 5 cells, the header 6"),
        (b'b,b.png,A cat.,Cats,"About cats.,Tom', "a quotation mark is never closed"),
        (b'b,b.png,"A cat" asleep,Cats,About cats.,Tom', "text follows a closing quotation mark"),
        (b"b,b.png,A cat.,Cats,About\rcats.,Tom", "a carriage return stands outside quotation marks"),
        (
            b"b,b.png,A caf\xe9.,Cats,About cats.,Tom",
            "column 'description' is not UTF-8 text; save it as UTF-8",
        ),
        (b"b,b.png," + b"x" * (CELL_LIMIT + 1) + b",Cats,About cats.,Tom", "a cell holds over 1,048,576"),
    ],
)
def test_every_reader_finds_the_fault_of_a_row(folder: Path, line: bytes, words: str) -> None:
    path = folder / "table.csv"
    path.write_bytes(f"{HEADER}\n{GOOD}\n".encode() + line + b"\n")
    batch, *others = every_reader(path)
    assert batch.startswith(words)
    assert others == [batch] * 3


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (f"{HEADER},description\n{GOOD},x\n".encode(), "has column 'description' 2 times"),
        (
            HEADER.encode() + b",caf\xe9\n" + GOOD.encode() + b",x\n",
            "text; save it as UTF-8 (in Excel: 'CSV UTF-8')",
        ),
        (f'{HEADER},"never closed\n{GOOD},x\n'.encode(), "the header cannot be read"),
        (f"{HEADER}\n{GOOD}\n".encode("utf-16-le"), "UTF-16 without a byte order mark"),
        (f"{HEADER}\n{GOOD}\n".encode("utf-32"), "is UTF-32 text; save it as UTF-8"),
        (b"\x7fELF\x02\x01\x01\x00\x08", "as in a binary file"),
        (b"PK\x03\x04\x14\x00\x06\x00\x08", "is compressed with ZIP; unpack it first"),
        (
            b"PK\x03\x04\x14\x00\x06\x00\x08xl/workbook.xml",
            "an Excel workbook; save the table as 'CSV UTF-8'",
        ),
        (b"PK\x03\x04\x14\x00\x06\x00\x08[Content_Types].xml", "is compressed with ZIP"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0\0", "an Excel workbook; save the table as 'CSV UTF-8'"),
        (gzip.compress(f"{HEADER}\n{GOOD}\n".encode(), mtime=0), "is compressed with gzip; unpack it first"),
    ],
)
def test_every_reader_refuses_the_same_tables(folder: Path, content: bytes, words: str) -> None:
    path = folder / "table.csv"
    path.write_bytes(content)
    assert all(words in answer for answer in every_reader(path))


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_byte_order_marks_line_ends_and_quotes(folder: Path, mark: bytes, end: str, quote: str) -> None:
    coding = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}.get(mark, "utf-8")
    rows = [HEADER, GOOD, "b,b.png,Eine Kätzin 🐈.,Cats,About cats.,Tom"]
    text = end.join(",".join(f"{quote}{cell}{quote}" for cell in row.split(",")) for row in rows)
    path = folder / "table.csv"
    path.write_bytes(mark + text.encode(coding))
    assert every_reader(path) == [""] * 4
    opened = open_input(str(path), InputOptions(Columns(text="description")))
    every = list(opened.rows())
    assert [row.text for row in every] == ["A dog.", "Eine Kätzin 🐈."]
    assert list(opened.rows(1, opened.scan(1).marks[1])) == every[1:]


def test_a_file_that_ends_within_a_character_costs_its_last_line(folder: Path) -> None:
    path = folder / "table.csv"
    text = f"{HEADER}\n{GOOD}\nb,b.png,A cat.,Cats,About cats.,Tom\nc,c.png,Lost"
    path.write_bytes(codecs.BOM_UTF16_LE + text.encode("utf-16-le") + b"A")
    for form in ("csv", "jsonl"):
        rows = batch_rows(path, text="description")
        assert [row.text for row in rows] == ["A dog.", "A cat.", None], form
        assert "ends within a character" in str(rows[2].fault)
        lines = [json.dumps({"image": "a.png", "description": row}) for row in ("A dog.", "A cat.")]
        path = folder / "table.jsonl"
        path.write_bytes(codecs.BOM_UTF16_LE + "\n".join([*lines, "{"]).encode("utf-16-le") + b"A")


def test_an_error_of_the_disk_names_the_file(folder: Path) -> None:
    """Here a file that the system lists as a regular one, and whose reading fails."""
    path = folder / "table.csv"
    path.symlink_to("/proc/self/mem")
    with pytest.raises(OSError, match=r"table\.csv"):
        open_input(str(path))


@pytest.mark.parametrize("mark", ["sep=;", '"sep=;"', "SEP=;\r", "\ufeffsep=;"])
def test_a_first_line_may_name_what_divides_cells(folder: Path, mark: str) -> None:
    path = folder / "table.csv"
    rows = f"{HEADER}\n{GOOD}\nb,b.png,A cat.,Cats,About cats.,Tom\n".replace(",", ";")
    path.write_text(f"{mark}\n{rows}", encoding="utf-8")
    assert every_reader(path) == [""] * 4
    assert [(row.text, row.line) for row in batch_rows(path, text="description")] == [
        *(("A dog.", 3), ("A cat.", 4)),
    ]
    path.write_text(path.read_text(encoding="utf-8").replace(";", "|"), encoding="utf-8")
    assert every_reader(path) == [""] * 4
    opened = open_input(str(path), InputOptions(Columns(text="description")))
    assert list(opened.rows(1, opened.scan(1).marks[1])) == list(opened.rows())[1:]


@pytest.mark.parametrize("name", ["a.csv.gz", "a.jsonl.GZ", "a.tgz", "a.json.zip", "a.parquet.zst"])
def test_a_compressed_file_is_said_at_once(folder: Path, name: str) -> None:
    for _ in range(2):  # also where it is missing, and could be a hub data set
        for read in (open_input, load_pairs):
            with pytest.raises(DataError, match=r"compressed .* not read; unpack it first"):
                read(str(folder / name))
        (folder / name).write_bytes(gzip.compress(b"x", mtime=0))


@pytest.mark.parametrize("name", ["a.xlsx", "a.XLS", "a.ods"])
def test_a_workbook_is_said_and_how_to_save_it(folder: Path, name: str) -> None:
    for read in (open_input, load_pairs):
        with pytest.raises(DataError, match="no such file"):
            read(str(folder / name))
    (folder / name).write_bytes(b"PK\x03\x04")
    for read in (open_input, load_pairs):
        with pytest.raises(DataError, match="an Excel workbook; save the table as 'CSV UTF-8'"):
            read(str(folder / name))
    (folder / name).write_text(f"{HEADER}\n{GOOD}\n")  # programs write text under these endings, too
    with pytest.raises(DataError, match="--input-format says which it is"):
        open_input(str(folder / name))


@pytest.mark.parametrize("encoding", ["DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_parquet_of_other_encodings(folder: Path, encoding: str, version: str) -> None:
    image = {"bytes": (folder / "a.png").read_bytes(), "path": "a.png"}
    columns = {"image": [image] * 3, "text": ["A cat.", None, "A cät."], "id": ["a1", "a2", "b"]}
    encodings = dict.fromkeys(["image.bytes", "image.path", "text", "id"], encoding)
    options = {"use_dictionary": False, "column_encoding": encodings, "data_page_version": version}
    pq.write_table(pa.table(columns), folder / "table.parquet", **options)
    rows = batch_rows(folder / "table.parquet")
    assert [(row.id, row.text, row.image) for row in rows] == [
        (name, text, image["bytes"]) for name, text in zip(columns["id"], columns["text"], strict=True)
    ]
    lists = {"image": ["a.png"], "text": ["A cat."], "references": [["A dog."]]}
    options["column_encoding"] = {"references.list.element": encoding}
    pq.write_table(pa.table(lists), folder / "table.parquet", **options)
    [row] = batch_rows(folder / "table.parquet", references="references")
    assert "in an encoding that is not read" in str(row.fault)


def test_json_lines_and_their_faults(folder: Path) -> None:
    path = folder / "table.jsonl"
    good = {"image": "a.png", "text": "A dog.", "description": "A dog.", "caption": "Rex"}
    lines = [
        json.dumps(good),
        '{"image": "a.png", "text": "A dog.", "text": "A cat.", "description": "x", "caption": "y"}',
        json.dumps(good)[:-3],
        "[1]",
        json.dumps(good | {"text": "x" * (CELL_LIMIT + 1), "description": "x" * (CELL_LIMIT + 1)}),
    ]
    path.write_text("\n".join(lines))
    faults = [str(row.fault or "") for row in batch_rows(path)]
    words = [
        "",
        "row 2: the object has key 'text' more",
        "row 3: not valid JSON",
        "row 4: expected an",
    ]
    assert all(fault.startswith(word) for fault, word in zip(faults, words, strict=False))
    assert faults[4] == "row 5: column 'text' holds 1,048,577 characters, over the limit of 1,048,576"
    unusable = load_pairs(path).unusable
    assert [f"row {row.number}: {row.detail}" for row in unusable[:3]] == faults[1:4]
    assert unusable[3].reason == "bad_row"
    path.write_text("\n \n")  # a part of a run may have no row
    assert batch_rows(path) == []
    path.write_text(json.dumps([good, good]))
    [row] = batch_rows(path)
    assert "got list; the file is one list: give it the ending .json, or" in str(row.fault)
    assert len(list(open_input(str(path), InputOptions(format="json")).rows())) == 2


def test_parquet_refuses_two_columns_of_one_name_and_long_cells(folder: Path) -> None:
    path = folder / "table.parquet"
    two = pa.table([["a.png"], ["A dog."], ["A cat."]], names=["image", "text", "text"])
    pq.write_table(two, path)
    with pytest.raises(DataError, match=r"table\.parquet: has column 'text' 2 times"):
        batch_rows(path)
    long = "x" * (CELL_LIMIT + 1)
    pq.write_table(pa.table({"image": ["a.png"] * 2, "text": ["A dog.", long]}), path)
    assert kinds(batch_rows(path)) == [None, "bad_row"]
    latin = pa.array([["A dog."], [b"caf\xe9"]], pa.list_(pa.binary())).cast(
        pa.list_(pa.string()), safe=False
    )
    pq.write_table(pa.table({"image": ["a.png"] * 2, "text": ["A dog."] * 2, "good": latin}), path)
    assert kinds(batch_rows(path, references="good")) == [None, "wrong_encoding"]


def as_csv(path: Path, ids: list[Any]) -> Path:
    lines = [f"{'' if i is None else i},a.png,A dog." for i in ids]
    path.write_text("\n".join(["id,image,text", *lines]))
    return path


def as_jsonl(path: Path, ids: list[Any]) -> Path:
    rows = [{"id": i, "image": "a.png", "text": "A dog."} for i in ids]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def as_parquet(path: Path, ids: list[Any]) -> Path:
    pq.write_table(pa.table({"id": ids, "image": ["a.png"] * len(ids), "text": ["A dog."] * len(ids)}), path)
    return path


@pytest.mark.parametrize("write", [as_csv, as_jsonl, as_parquet])
@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (["x", None, "y"], ["x", "2", "y"]),
        (["3", "x", None], ["3", "x", "row-3"]),
        ([None, "1", "row-1"], ["row--1", "1", "row-1"]),
        (["007", "1e5", "1.0"], ["007", "1e5", "1.0"]),
    ],
)
def test_a_row_without_an_id_gets_one_of_its_own(
    folder: Path, write: Callable[[Path, list[Any]], Path], ids: list[Any], expected: list[str]
) -> None:
    path = write(folder / f"table.{write.__name__[3:]}", ids)
    opened = open_input(str(path))
    assert [row.id for row in opened.rows()] == expected
    marks = opened.scan(1).marks
    assert [row.id for i in range(3) for row in list(opened.rows(i, marks[i]))[:1]] == expected


def test_numbers_stay_as_written(folder: Path) -> None:
    path = folder / "table.jsonl"
    ids = ["1", "1.0", "1e2", "-0", "0", "0.10", "true", '"01"', "12345678901234567890123"]
    path.write_text("\n".join(f'{{"id": {i}, "image": "a.png", "text": "A dog."}}' for i in ids))
    assert [row.id for row in batch_rows(path)] == [i.strip('"') for i in ids]
    # A column of whole numbers with a gap becomes floats on its way through pandas.
    assert [row.id for row in batch_rows(as_parquet(folder / "t.parquet", [1.0, None, 2.5]))] == [
        *("1", "row-2", "2.5")
    ]


@pytest.mark.parametrize(
    ("cell", "look"),
    [
        ("iVBORw0KGgo" + "A" * 45_000, "looks like base64 data"),
        ("b'\\x89PNG" + "\\x00" * 400 + "'", "looks like the text of Python's bytes"),
        ("<svg>" + "<path/>" * 100 + "</svg>", "looks like markup"),
        ("word " * 200, "is too long for a path"),
        ("a/" * 3000, "is too long for a path"),
    ],
)
def test_a_cell_that_is_no_path_is_described_shortly(folder: Path, cell: str, look: str) -> None:
    path = folder / "table.csv"
    path.write_text(f"image,text,description,caption\n{cell},x,x,y\na.png,x,x,y\n")
    first = batch_rows(path)[0].fault
    assert first is not None
    assert (first.kind, look in str(first), len(str(first)) < 200) == ("bad_image_type", True, True)
    (unusable,) = load_pairs(path).unusable
    assert (unusable.reason, f"row 1: {unusable.detail}") == (first.kind, str(first))


def test_unusable_rows_are_named_and_many_are_cut(folder: Path) -> None:
    path = folder / "table.csv"
    path.write_text("image,description,caption\n" + "none.png,A dog.,Rex\n" * 30 + "a.png,A dog.,Rex\n")
    data = load_pairs(path)
    lines = data.unusable_lines()
    assert lines[0] == "30 rows of the data set not usable (missing_image 30)"
    assert lines[1].startswith(f"  {path} row 1 (1): ")
    assert (len(lines), lines[-1]) == (7, "  and 25 more")
    assert len(data.summary().splitlines()) == 22


def test_images_may_not_leave_their_root(folder: Path) -> None:
    (folder / "below").mkdir()
    path = folder / "below" / "table.csv"
    path.write_text(f"{HEADER}\n{GOOD.replace('a.png', '../a.png')}\n")
    assert kinds(batch_rows(path, text="description")) == ["outside_image_root"]
    for reader in (lambda: load_pairs(path), lambda: read_items(path)):
        with pytest.raises(DataError, match="leads out of the image root"):
            reader()
    path.write_text(f"{HEADER}\n{GOOD}\n")
    assert load_pairs(path, DataOptions(image_root=folder)).pairs


def test_hidden_files_are_no_data(folder: Path) -> None:
    for name in ("._a.png", "._a.txt", "~$a.txt", ".DS_Store", ".thumb/a.png", "__MACOSX/a.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"\0")
    (folder / "a.txt").write_text("A dog.")
    (folder / "b.TXT").write_text("A cat.")
    rows = batch_rows(folder)
    assert [(row.id, row.text, row.fault) for row in rows] == [
        *(("a.png", "A dog.", None), ("b.png", "A cat.", None))
    ]
    tables = folder / "tables"
    tables.mkdir()
    make_photo(tables / "a.png", seed=0)
    (tables / "train.csv").write_text(f"image,description,caption\n{tables / 'a.png'},A dog.,Rex\n")
    (tables / "._train.csv").write_bytes(b"\0\5\x16\7\0")
    assert load_pairs(tables).splits() == {"train": 1}
    with pytest.raises(DataError, match=r"give its table, .*tables/train\.csv$"):
        open_input(str(tables))


def test_formats_of_a_folder_that_are_not_read_are_named(folder: Path) -> None:
    for name in ("c.heic", "c.txt", "d.heic", "lonely.txt", "a.txt", "a.heic"):
        (folder / name).write_text("A dog.")
    rows = batch_rows(folder)
    assert [row.id for row in rows] == ["a.png", "b.png", "c.heic", "lonely.txt"]
    assert kinds(rows) == [None, "missing_text", "not_an_image", "missing_image"]
    assert str(rows[2].fault) == "c.heic: images in the format .heic are not read"


def test_the_image_of_a_sample_is_clear_or_the_row_says_so(folder: Path) -> None:
    photo, other = (folder / "a.png").read_bytes(), (folder / "b.png").read_bytes()
    path = folder / "samples.tar"
    with tarfile.open(path, "w") as tar:
        for name, data in [
            *(("0.depth.png", other), ("0.png", photo), ("0.txt", b"A dog.")),
            *(("1.depth.png", other), ("1.txt", b"A dog.")),
            *(("2.jpg", photo), ("2.png", photo), ("2.txt", b"A dog.")),
            *(("3.PNG", photo), ("3.TXT", b"\xef\xbb\xbfA dog."), ("._3.png", b"\0")),
            *(("4.png", photo), ("4.png", other), ("4.txt", b"A dog.")),
            *(("5.heic", photo), ("5.txt", b"A dog.")),
            *(("6.png", photo), ("6.json", b'{"text": "A", "text": "B"}')),
        ]:
            add(tar, name, data)
    rows = batch_rows(path)
    assert [row.id for row in rows] == list("0123456")
    assert rows[0].image == photo
    assert kinds(rows) == [
        *(None, "missing_image", "bad_row", None, "bad_row", "not_an_image", "bad_row"),
    ]
    assert rows[3].text == "A dog."
    words = ["'depth.png'", "'jpg', 'png'", "two members 'png'", "5.heic", "key 'text' more than once"]
    assert all(word in str(rows[i].fault) for i, word in zip((1, 2, 4, 5, 6), words, strict=True))
