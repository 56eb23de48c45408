"""Readers of Concadia's format, of tables and of hub data sets, on data made here and on real data if any."""

from __future__ import annotations

import csv
import json
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import make_photo
from descscore.errors import DataError, ImageError
from descscore.tables.open import DataOptions, load_pairs, open_input
from descscore.tables.reader import CellImage, Columns
from descscore.tables.rows import FileImage, PreferenceSet, Row, normal_split, sort_rows

IMAGE_COUNT = 5


def text_row(index: int, **other: Any) -> dict[str, Any]:
    split = "train" if index < 3 else "validation"
    texts = {"description": f"A dog beside {index} balls.", "caption": f"Day {index} of the show."}
    return {"image": f"pictures/{index}.jpg", **texts, "split": split, "book": f"book {index % 2}", **other}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with five photos in ``pictures``."""
    (tmp_path / "pictures").mkdir()
    for index in range(IMAGE_COUNT):
        make_photo(tmp_path / "pictures" / f"{index}.jpg", seed=index, size=(20, 16))
    return tmp_path


def write_csv(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "table.csv"
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_jsonl(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "table.jsonl"
    path.write_text("\n\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


def write_parquet(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "table.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def write_struct_parquet(folder: Path, rows: list[dict[str, Any]], group_rows: int = 2) -> Path:
    """Images as the ``datasets`` library keeps them."""
    cells = [row | {"image": {"bytes": (folder / row["image"]).read_bytes(), "path": None}} for row in rows]
    path = folder / "structs.parquet"
    pq.write_table(pa.Table.from_pylist(cells), path, row_group_size=group_rows)
    return path


Writer = Callable[[Path, list[dict[str, Any]]], Path]
WRITERS: list[Writer] = [write_csv, write_jsonl, write_parquet, write_struct_parquet]


@pytest.mark.parametrize("write", WRITERS)
def test_every_table_gives_the_same_pairs(folder: Path, write: Writer) -> None:
    data = load_pairs(write(folder, [text_row(i) for i in range(IMAGE_COUNT)]))
    assert data.splits() == {"train": 3, "val": 2}
    assert not data.unusable
    for index, pair in enumerate(data.pairs):
        assert (pair.description, pair.caption) == (
            f"A dog beside {index} balls.",
            f"Day {index} of the show.",
        )
        assert (pair.group, pair.context, pair.number) == (f"book {index % 2}", "", index + 1)
        assert pair.image.read() == (folder / "pictures" / f"{index}.jpg").read_bytes()


@pytest.mark.parametrize("write", [write_csv, write_jsonl, write_parquet])
def test_columns_by_name_and_an_image_root(folder: Path, write: Writer) -> None:
    row = {
        "file": "1.jpg",
        "alt": "A dog.",
        "legend": "Rex.",
        "part": "test",
        "key": "k1",
        "page": "p",
        "near": "t",
    }
    columns = Columns("file", "alt", "legend", "part", "key", "page", "near")
    data = load_pairs(write(folder, [row]), DataOptions(columns, image_root=folder / "pictures"))
    pair = data.split("test")[0]
    assert (pair.description, pair.caption, pair.id, pair.group, pair.context) == (
        "A dog.",
        "Rex.",
        "k1",
        "p",
        "t",
    )
    assert pair.image.read() == (folder / "pictures" / "1.jpg").read_bytes()


def faulty_rows() -> list[dict[str, Any]]:
    return [
        text_row(0),
        text_row(1, image="pictures/none.jpg"),
        text_row(2, description="  "),
        text_row(3, caption=""),
        text_row(4, caption="A dog beside 4 balls."),
        text_row(0, image=""),
        text_row(0, image="https://example.org/a.jpg"),
    ]


@pytest.mark.parametrize("write", [write_csv, write_jsonl, write_parquet])
def test_rows_that_cannot_be_used_are_listed(folder: Path, write: Writer) -> None:
    path = write(folder, faulty_rows())
    data = load_pairs(path)
    assert len(data.pairs) == 1
    assert [(row.number, row.reason) for row in data.unusable] == [
        (2, "missing_image"),
        (3, "empty_description"),
        (4, "empty_caption"),
        (5, "equal_texts"),
        (6, "missing_image"),
        (7, "url_not_supported"),
    ]
    assert data.reasons()["missing_image"] == 2
    lines = data.summary().splitlines()
    assert "1 pairs (train 1), 6 rows not usable" in lines[0]
    assert len(lines) == 7
    assert f"{path} row 2" in lines[1]
    assert "none.jpg" in lines[1]


def test_equal_texts_are_kept_when_asked_for(folder: Path) -> None:
    data = load_pairs(write_csv(folder, faulty_rows()), DataOptions(keep_equal=True))
    assert [pair.number for pair in data.pairs] == [1, 5]
    assert "equal_texts" not in data.reasons()


def test_cells_that_are_no_text_are_listed(folder: Path) -> None:
    rows = [text_row(0), text_row(1, description=7), text_row(2, caption=None)]
    data = load_pairs(write_jsonl(folder, rows))
    assert [row.reason for row in data.unusable] == ["not_text", "empty_caption"]


def test_a_row_without_a_key_is_listed(folder: Path) -> None:
    rows = [text_row(0), {k: v for k, v in text_row(1).items() if k != "caption"}]
    assert load_pairs(write_jsonl(folder, rows)).reasons() == {"empty_caption": 1}


def test_parquet_images_may_lie_beside_it_or_be_missing(folder: Path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    photo = (folder / "pictures" / "0.jpg").read_bytes()
    cells = [
        {"bytes": photo, "path": "x"},
        {"bytes": None, "path": "pictures/1.jpg"},
        None,
        {"bytes": b"", "path": None},
    ]
    table = pa.table(
        {
            "image": pa.array(cells, kind),
            "description": [f"A dog {i}." for i in range(4)],
            "caption": [f"Day {i}." for i in range(4)],
        }
    )
    pq.write_table(table, folder / "mixed.parquet")
    data = load_pairs(folder / "mixed.parquet")
    assert [pair.image.read() for pair in data.pairs] == [photo, (folder / "pictures" / "1.jpg").read_bytes()]
    assert [(row.number, row.reason) for row in data.unusable] == [(3, "missing_image"), (4, "missing_image")]


def test_parquet_of_bare_bytes(folder: Path) -> None:
    photo = (folder / "pictures" / "0.jpg").read_bytes()
    pq.write_table(pa.Table.from_pylist([text_row(0) | {"image": photo}]), folder / "bytes.parquet")
    assert load_pairs(folder / "bytes.parquet").pairs[0].image.read() == photo


def numbered(folder: Path, rows: int, group_rows: int) -> Path:
    path = folder / f"numbered-{rows}-{group_rows}.parquet"
    images = [{"bytes": str(i).encode(), "path": None} for i in range(rows)]
    table = pa.table({"image": images, "description": ["A dog."] * rows, "caption": ["Rex."] * rows})
    pq.write_table(table, path, row_group_size=group_rows)
    return path


@given(st.integers(1, 300), st.integers(1, 150), st.randoms(use_true_random=False))
@settings(max_examples=15, deadline=None)
def test_parquet_bytes_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, rows: int, group_rows: int, draw: random.Random
) -> None:
    data = load_pairs(numbered(tmp_path_factory.mktemp("order"), rows, group_rows))
    for index in [*range(rows), *(draw.randrange(rows) for _ in range(10))]:
        assert data.pairs[index].image.read() == str(index).encode()


def test_parquet_images_travel_to_another_process(folder: Path) -> None:
    data = load_pairs(write_struct_parquet(folder, [text_row(i) for i in range(3)]))
    data.pairs[1].image.read()
    copy: PreferenceSet = pickle.loads(pickle.dumps(data))
    assert copy.pairs[1].image.read() == data.pairs[1].image.read()


@pytest.mark.long
def test_a_process_that_has_read_a_parquet_image_ends_without_a_word(folder: Path) -> None:
    path = numbered(folder, 40, 20)
    code = (
        "import sys, torch; from descscore.models import load_model\n"
        "from descscore.tables.open import load_pairs\n"
        "image = load_pairs(sys.argv[1]).pairs[0].image; image.read()"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_a_parquet_file_that_went_away_is_an_image_error(folder: Path) -> None:
    path = write_struct_parquet(folder, [text_row(i) for i in range(3)])
    image = load_pairs(path).pairs[2].image
    assert isinstance(image, CellImage)
    path.unlink()
    with pytest.raises(ImageError, match=r"structs\.parquet row 3"):
        image.read()


def concadia_entry(index: int, **other: Any) -> dict[str, Any]:
    return {
        "filename": f"{index}.jpg",
        "orig_filename": None,
        "article_id": 40 + index // 2,
        "description": {"raw": f"A dog {index}.", "tokens": ["A", "dog"]},
        "caption": {"raw": f"Day {index}.", "tokens": ["Day"]},
        "context": {"raw": "About dogs.", "tokens": []},
        "split": "train",
        **other,
    }


def write_concadia(folder: Path, entries: list[Any]) -> Path:
    (folder / "pictures").rename(folder / "resized")
    (folder / "wiki_split.json").write_text(json.dumps({"images": entries}), encoding="utf-8")
    return folder


def test_concadia_s_images_may_lie_beside_its_file(folder: Path) -> None:
    (folder / "wiki_split.json").write_text(json.dumps({"images": [concadia_entry(0)]}), encoding="utf-8")
    (folder / "pictures" / "0.jpg").rename(folder / "0.jpg")
    (pair,) = load_pairs(folder).pairs
    assert pair.image == FileImage(folder / "0.jpg")


@pytest.mark.parametrize("inner", ["", "wiki_split.json"])
def test_concadia(folder: Path, inner: str) -> None:
    same = {"raw": "Day 3.", "tokens": []}
    entries = [
        concadia_entry(0),
        concadia_entry(1, split="val", article_id=None),
        concadia_entry(2, filename="gone.jpg"),
        concadia_entry(3, description=same),
        concadia_entry(4, caption=None),
        concadia_entry(0, filename=None),
    ]
    data = load_pairs(write_concadia(folder, entries) / inner)
    assert data.splits() == {"train": 1, "val": 1}
    first, second = data.pairs
    assert (first.id, first.group, first.context) == ("0.jpg", "40", "About dogs.")
    assert first.image == FileImage(folder / "resized" / "0.jpg")
    assert second.group is None
    assert [(row.number, row.reason) for row in data.unusable] == [
        (3, "missing_image"),
        (4, "equal_texts"),
        (5, "empty_caption"),
        (6, "missing_image"),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not valid JSON"),
        ("[]", "no list 'images'"),
        ('{"images": {}}', "no list 'images'"),
        ('{"images": [3]}', r"row 1 \(1\): expected an object"),
        ('{"images": []}', "none of its 0 rows"),
    ],
)
def test_a_damaged_concadia_file_is_an_error(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "wiki_split.json").write_text(text)
    with pytest.raises(DataError, match=words):
        load_pairs(tmp_path)


def test_a_folder_of_tables_is_read_whole(folder: Path) -> None:
    for name, index in (("train", 0), ("validation", 1), ("test", 2), ("more", 3)):
        row = {k: v for k, v in text_row(index).items() if k != "split"}
        write_csv(folder, [row]).rename(folder / f"{name}.csv")
    data = load_pairs(folder)
    assert data.splits() == {"": 1, "test": 1, "train": 1, "val": 1}
    assert data.split("dev")[0].caption == "Day 1 of the show."


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "image,description\nx,y\n", "no column 'caption'.*'image', 'description'"),
        ("a.csv", "", "its columns are none"),
        ("a.csv", "description,caption\nx,y\n", "'image' or 'filename'"),
        ("a.jsonl", "{\n", r"row 1 \(1\): not valid JSON"),
        ("a.jsonl", "[1]\n", r"row 1 \(1\): expected an object, got list"),
        ("a.jsonl", '{"image": "x"}\n', "no column 'description'; its columns are 'image'"),
        ("a.parquet", "no parquet", "cannot be read"),
        ("a.csv", "image,description,caption\n", "none of its 0 rows"),
        ("a.csv", "image,description,caption\ngone.jpg,x,y\n", "none of its 1 rows.*gone.jpg"),
        ("a.txt", "x", "unknown kind of table"),
        ("b.csv", None, "no such file"),
    ],
)
def test_damaged_tables_are_errors(tmp_path: Path, name: str, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=words):
        load_pairs(tmp_path / name)


def test_bytes_that_are_no_text_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"image,description,caption\n\xff\xfe,\x81,b\n")
    with pytest.raises(DataError, match=r"a\.csv row 1 \(1\): column 'description' is not UTF-8 text"):
        load_pairs(tmp_path / "a.csv")


def test_a_named_column_must_be_there(folder: Path) -> None:
    path = write_csv(folder, [text_row(0)])
    with pytest.raises(DataError, match="no column 'alt' for the description"):
        load_pairs(path, DataOptions(Columns(description="alt")))
    with pytest.raises(DataError, match="no column 'chapter' for the group"):
        load_pairs(path, DataOptions(Columns(group="chapter")))


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds neither"):
        load_pairs(tmp_path)


@pytest.mark.parametrize("name", ["/no/such/place", "./none", "../none", "a/b/c"])
def test_a_missing_path_is_not_looked_for_elsewhere(name: str) -> None:
    with pytest.raises(DataError, match=r"no such file or folder$"):
        load_pairs(name)


def test_an_empty_split_is_an_error_that_lists_the_others(folder: Path) -> None:
    data = load_pairs(write_csv(folder, [text_row(0), text_row(3, caption="")]))
    with pytest.raises(DataError, match=r"'val'; 1 of its rows cannot be used \(pairs by split: train 1\)"):
        data.split("val")
    with pytest.raises(DataError, match="no usable pairs in split 'test'"):
        data.split("test")


def hub_data(folder: Path) -> Any:
    import datasets

    rows = [text_row(i) | {"image": str(folder / "pictures" / f"{i}.jpg")} for i in range(3)]
    table = {name: [row[name] for row in rows] for name in ("image", "description", "caption")}
    data = datasets.Dataset.from_dict(table)
    stored = {"bytes": (folder / "pictures" / "4.jpg").read_bytes(), "path": None}
    inline = datasets.Dataset.from_list([{"image": stored, "description": "A dog.", "caption": "Rex."}])
    return datasets.DatasetDict(
        train=data.cast_column("image", datasets.Image()),
        validation=inline.cast_column("image", datasets.Image()),
        test=data,
    )


def test_a_hub_data_set(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    made = hub_data(folder)
    asked: list[str] = []
    monkeypatch.setattr(datasets, "load_dataset", lambda name: asked.append(name) or made)
    # It could name any of the user's files; those that ``datasets`` keeps are its own.
    assert load_pairs("hub:someone/cats").reasons() == {"outside_image_root": 6}
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    asked.clear()
    data = load_pairs("hub:someone/dogs")
    assert asked == ["someone/dogs"]
    assert data.splits() == {"train": 3, "val": 1, "test": 3}
    photos = [(folder / "pictures" / f"{i}.jpg").read_bytes() for i in (0, 1, 2, 4, 0, 1, 2)]
    assert [pair.image.read() for pair in data.pairs] == photos
    assert data.pairs[0].source == "someone/dogs[train]"


def test_a_hub_data_set_that_cannot_be_loaded_is_an_error() -> None:
    with pytest.raises(DataError, match=r"^hub:nobody-at-all/nothing-of-the-kind: no data set of that name"):
        load_pairs("hub:nobody-at-all/nothing-of-the-kind")


@pytest.mark.parametrize(
    "name", ["someone/cats", "pairs", "data/*.csv", "missing.csv", "a/b/c", "./x", "~/x"]
)
def test_a_mistyped_path_is_never_asked_for_on_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda *given, **_: pytest.fail(f"asked for {given}"))
    for read in (load_pairs, open_input):
        with pytest.raises(DataError, match="no such file") as caught:
            read(name)
        assert ("hub:someone/cats" in str(caught.value)) == (name == "someone/cats")


def test_images_that_are_not_there() -> None:
    with pytest.raises(DataError, match=r"table row 3 \(x\): has no image"):
        sort_rows("table", [Row("table", 3, "x", description="A dog.", caption="Rex.")])
    with pytest.raises(ImageError, match="no such file"):
        FileImage(Path("none.jpg")).read()


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Validation", "val"), ("dev", "val"), (" TRAIN ", "train"), ("fold 3", "fold 3"), (None, ""), (1, "1")],
)
def test_split_names(name: object, expected: str) -> None:
    assert normal_split(name) == expected


TEXTS = st.one_of(st.none(), st.integers(), st.text(max_size=6))


@given(st.lists(st.tuples(TEXTS, TEXTS, st.booleans()), max_size=12), st.booleans())
@settings(max_examples=60, deadline=None)
def test_no_row_is_lost(cells: list[tuple[object, object, bool]], keep_equal: bool) -> None:
    here = FileImage(Path(__file__))
    rows = [
        Row("t", number, str(number), description=first, caption=second, stored=here if there else None)
        for number, (first, second, there) in enumerate(cells, start=1)
    ]
    rows.append(Row("t", len(rows) + 1, "last", description="a", caption="b", stored=here))
    data = sort_rows("t", rows, keep_equal)
    assert sorted(row.number for row in (*data.pairs, *data.unusable)) == [row.number for row in rows]
    assert all(pair.description.strip() and pair.caption.strip() for pair in data.pairs)


def test_real_data_sets_where_there_are_any(shared_data: Path | None) -> None:
    if shared_data is None:  # the formats themselves are tested above on data made there
        return
    concadia = load_pairs(shared_data / "concadia")
    assert (len(concadia.pairs), concadia.reasons()) == (298, {"equal_texts": 2})
    assert len(load_pairs(shared_data / "concadia", DataOptions(keep_equal=True)).split("test")) == 300
    figures = load_pairs(shared_data / "openstax" / "test.parquet")
    assert len(figures.pairs) + len(figures.unusable) == 367
    assert all(pair.group for pair in figures.pairs)
    assert figures.pairs[0].image.read()[:2] in (b"\xff\xd8", b"\x89P", b"RI")
