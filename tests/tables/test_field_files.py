"""Files of the field go in as they are: those of clipscore, COCO, Karpathy, WIT, ``datasets`` and others."""

from __future__ import annotations

import codecs
import errno
import json
import logging
import os
import pickle
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from conftest import make_photo
from descscore.errors import DataError, UsageError
from descscore.tables.open import InputOptions, load_pairs, open_input
from descscore.tables.reader import Columns, Reader
from descscore.tables.rows import Row

NAMES = ("image1.JPG", "image2.png", "COCO_val2014_000000000042.jpg", "000000000007.jpg")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with ``images`` in it, whose files have the names of clipscore and COCO."""
    (tmp_path / "images").mkdir()
    for seed, name in enumerate(NAMES):
        make_photo(tmp_path / "images" / name, seed=seed, size=(24, 20))
    return tmp_path


def dump(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def read(path: Path, root: str | None = "images", **options: Any) -> Reader:
    """The input with images in a folder beside it; columns by role may be named."""
    columns = Columns(**{role: options.pop(role) for role in ("text", "id", "image") if role in options})
    given = InputOptions(columns, image_root=root and path.parent / root, **options)
    return open_input(str(path), given)


def image_names(rows: list[Row]) -> list[str]:
    return [Path(str(row.image)).name for row in rows]


def kinds(rows: list[Row]) -> list[str | None]:
    return [row.fault and row.fault.kind for row in rows]


def test_clipscore_s_texts_find_their_images_whatever_the_ending(folder: Path) -> None:
    path = dump(folder / "good.json", {"image1": "A dog.", "image2": "A cat.", "none": "A bird."})
    rows = list(read(path).rows())
    assert [(row.id, row.text) for row in rows] == [
        *(("image1", "A dog."), ("image2", "A cat."), ("none", "A bird.")),
    ]
    assert image_names(rows[:2]) == ["image1.JPG", "image2.png"]
    assert kinds(rows) == [None, None, "missing_image"]
    assert "no image called 'none'" in str(rows[2].fault)
    references = dump(folder / "refs.json", {"image1": ["A brown dog.", "A dog runs."], "image2": ["A cat."]})
    with_references = list(read(path, annotations=references).rows())
    assert [row.references for row in with_references] == [["A brown dog.", "A dog runs."], ["A cat."], None]


def test_two_files_of_one_name_are_not_guessed_between(folder: Path) -> None:
    make_photo(folder / "images" / "image1.png", seed=9)
    [row] = read(dump(folder / "good.json", {"image1": "A dog."})).rows()
    assert row.fault is not None
    assert "which file is the image 'image1'? ('image1.JPG', 'image1.png')" in str(row.fault)


def test_what_stands_twice_in_coco_s_files_is_not_guessed(folder: Path) -> None:
    images = [{"id": 42, "file_name": NAMES[2]}, {"id": "42", "file_name": NAMES[3]}]
    texts = [{"image_id": 42, "caption": "A dog."}]
    for files in (images, images[::-1]):
        both = dump(folder / "both.json", {"images": files, "annotations": texts})
        results = dump(folder / "results.json", texts)
        for reader in (read(both), read(results, annotations=both)):
            [row] = reader.rows()
            assert "which file is the image '42'?" in str(row.fault)
    same = dump(folder / "both.json", {"images": [images[0]] * 2, "annotations": texts})
    assert kinds(list(read(same).rows())) == [None]


def test_ids_of_coco_s_results_never_collide(folder: Path) -> None:
    entries: list[dict[str, Any]] = [
        *({"image_id": 42, "caption": text} for text in ("A dog.", "A cat.")),
        *({"image_id": name, "caption": "A kid."} for name in ("42#1", "42##2")),
        {"image_id": 7, "caption": "A bird.", "id": "42#2"},
    ]
    rows = list(read(dump(folder / "results.json", entries)).rows())
    assert len({row.id for row in rows}) == len(rows)
    assert rows[2].id == "42#1"


def test_a_key_twice_in_a_text_of_concadia_is_a_fault(folder: Path) -> None:
    entry = '{"filename": "image2.png", "description": {"raw": "A dog."%s}, "caption": {"raw": "Rex"}}'
    (folder / "wiki_split.json").write_text(
        '{"images": [%s, %s]}' % (entry % ', "raw": "A cat."', entry % "")  # noqa: UP031 - braces of JSON
    )
    rows = list(read(folder / "wiki_split.json").rows())
    assert kinds(rows) == ["bad_row", None]
    assert "key 'raw' more than once" in str(rows[0].fault)


def test_coco_s_results_by_image_root_and_by_annotations(folder: Path) -> None:
    results = [
        {"image_id": 42, "caption": "A dog."},
        {"image_id": 7, "caption": "A cat."},
        {"image_id": 42, "caption": "A brown dog."},
        {"image_id": 8, "caption": "A bird."},
    ]
    path = dump(folder / "results.json", results)
    rows = list(read(path).rows())
    assert image_names(rows[:3]) == [NAMES[2], NAMES[3], NAMES[2]]
    assert [row.id for row in rows] == ["42#1", "7", "42#2", "8"]
    assert kinds(rows) == [None, None, None, "missing_image"]
    annotations = dump(
        folder / "captions.json",
        {
            "images": [{"id": 42, "file_name": NAMES[2]}, {"id": 7, "file_name": "image2.png"}],
            "annotations": [
                {"id": 1, "image_id": 42, "caption": "A brown dog runs."},
                {"id": 2, "image_id": 42, "caption": "A dog on sand."},
                {"id": 3, "image_id": 7, "caption": "A cat sits."},
            ],
        },
    )
    reader = read(path, annotations=annotations)
    rows = list(reader.rows())
    assert image_names(rows[:3]) == [NAMES[2], "image2.png", NAMES[2]]
    assert [row.references for row in rows] == [
        *(["A brown dog runs.", "A dog on sand."], ["A cat sits."]),
        *(["A brown dog runs.", "A dog on sand."], None),
    ]
    assert reader.fingerprint() != read(path).fingerprint()
    own = list(read(annotations).rows())  # the annotations themselves, as texts to score
    assert [(row.id, row.text) for row in own][:2] == [("1", "A brown dog runs."), ("2", "A dog on sand.")]
    assert image_names(own) == [NAMES[2], NAMES[2], "image2.png"]
    hint = "000000000042.jpg: no such file; --image-root names the folder of the images"
    assert str(next(read(annotations, None).rows()).fault).endswith(hint)
    with pytest.raises(UsageError, match=r"batch .*captions\.json --image-root .*images$"):
        open_input(str(folder / "images"), InputOptions(annotations=annotations))


def test_karpathy_s_file_gives_a_row_for_each_sentence(folder: Path) -> None:
    (folder / "images").rename(folder / "val2014")
    entry = {"filepath": "val2014", "filename": NAMES[2], "split": "test"}
    texts = [{"raw": "A dog.", "sentid": 3, "tokens": ["a", "dog"]}, {"raw": "A brown dog.", "sentid": 8}]
    flickr = {"filename": "val2014/image2.png", "sentences": [{"raw": "A cat."}, 3]}
    hostile = {"filepath": "/etc", "filename": "passwd", "sentences": [{"raw": "Users.", "sentid": 9}]}
    path = folder / "dataset_coco.json"
    faulty = [{"filename": 3}, {"filename": "b.png", "sentences": []}, {"sentences": [{"raw": "A cat."}]}]
    dump(path, {"dataset": "coco", "images": [entry | {"sentences": texts}, flickr, hostile, *faulty]})
    rows = list(read(path, ".").rows())
    assert [(row.id, row.text) for row in rows[:3]] == [
        ("3", "A dog."),
        ("8", "A brown dog."),
        ("row-3", "A cat."),
    ]
    assert image_names(rows[:3]) == [NAMES[2], NAMES[2], "image2.png"]
    assert kinds(rows) == [None, None, None, "bad_row", "outside_image_root", *["missing_image"] * 3]
    assert all(Path(str(row.image)).is_file() for row in rows[:3])


def test_annotations_that_do_not_belong_are_refused(folder: Path) -> None:
    path = dump(folder / "good.json", {"image1": "A dog."})
    other = dump(folder / "refs.json", {"image9": ["A bird."]})
    with pytest.raises(DataError, match=r"knows none of the images of .*'image1'"):
        read(path, annotations=other)
    table = folder / "t.csv"
    table.write_text("image,text\nimage2.png,A dog.\n")
    with pytest.raises(UsageError, match="annotations belong to a JSON file"):
        read(table, annotations=other)
    with pytest.raises(DataError, match="its images need no annotations"):
        read(dump(folder / "rows.json", [{"image": "image2.png", "text": "A dog."}]), annotations=other)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        (
            '{"a": 1}\n{"a": 2}\n',
            "it looks like JSON Lines: give it the ending .jsonl, or",
        ),
        ('{"a": 1,\n"b": }', r"not valid JSON \(.*\)$"),
        ("3", "no list of rows"),
        ('{"a": 3}', "no list of rows"),
        ('{"a": "A dog.", "a": "A cat."}', "has key 'a' more than once"),
        ('{"a": ["A dog."]}', "no list of rows"),
        ("9" * 5000, "no list of rows"),
    ],
)
def test_json_that_is_no_table(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(DataError, match=words) as raised:
        read(tmp_path / "x.json", None)
    assert len(str(raised.value)) < 400 + len(str(tmp_path))


def test_a_json_list_is_read_by_scoring_and_pairs_with_numbers_as_written(folder: Path) -> None:
    text = (
        '[{"id": 1.0, "image": "image2.png", "text": "A dog.", "description": "A dog.", "caption": "Rex"},'
        ' {"id": 1, "image": "image2.png", "text": 1.5, "description": "A cat.", "caption": "Tom"},'
        ' 3, {"id": "x", "image": "image2.png", "text": "a", "text": "b"}]'
    )
    (folder / "images" / "train.json").write_text(text)
    rows = list(read(folder / "images" / "train.json", None).rows())
    assert [row.id for row in rows] == ["1.0", "1", "row-3", "row-4"]
    assert kinds(rows) == [None, None, "bad_row", "bad_row"]
    assert rows[1].text == 1.5
    pairs = load_pairs(folder / "images" / "train.json")
    assert [pair.id for pair in pairs.split("train")] == ["1.0", "1"]
    assert load_pairs(folder / "images").splits() == {"train": 2}  # a folder of tables


CAPTIONS = 'a dog runs "home"\timages/image2.png\n"a cat" sits, it seems\thttp://example.org/cat\n'


def test_a_tsv_without_a_header_is_told_and_said(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As Train_GCC-training.tsv: text, address. Quotation marks in it belong to the texts."""
    path = folder / "gcc.tsv"
    path.write_text(CAPTIONS)
    with caplog.at_level(logging.WARNING):
        reader = read(path, None)
    rows = list(reader.rows())
    assert [row.text for row in rows] == ['a dog runs "home"', '"a cat" sits, it seems']
    assert kinds(rows) == [None, "url_not_supported"]
    assert "has no header; column 2 is read as the image, column 1 as the text" in caplog.text
    assert [row.text for row in reader.rows(1, reader.scan(1).marks[1])] == [rows[1].text]
    path.write_text("en\timages/image2.png\tA dog.\n")
    with pytest.raises(DataError, match=r"no column 'text'; its columns are '1', '2', '3'"):
        read(path, None)
    assert [row.text for row in read(path, None, text="3", id="1").rows()] == ["A dog."]


def test_wit_s_columns_and_other_tsv_with_a_header(folder: Path) -> None:
    header = [
        "language",
        "page_url",
        "image_url",
        "caption_reference_description",
        "caption_alt_text_description",
    ]
    cells = [
        "en",
        "https://en.wikipedia.org/wiki/Dog",
        "https://example.org/a.jpg",
        "Rex, 1984",
        '"A ""dog"""',
    ]
    path = folder / "wit.tsv"
    path.write_text("\t".join(header) + "\n" + "\t".join(cells) + "\n")
    [row] = read(path, None).rows()
    assert (row.text, row.fault and row.fault.kind) == ('A "dog"', "url_not_supported")
    path.write_text("\t".join(["image", *header]) + "\n" + "\t".join(["images/image2.png", *cells]) + "\n")
    [pair] = load_pairs(path).pairs
    assert (pair.description, pair.caption, pair.group) == ('A "dog"', "Rex, 1984", cells[1])


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_the_header_tells_what_divides_cells(folder: Path, delimiter: str, coding: str, end: str) -> None:
    lines = [
        delimiter.join(['"image"', "description", "caption", "note, or; not"]).replace(
            "note, or; not", '"note, or; not"'
        ),
        delimiter.join(["images/image2.png", '"Ein Hund, braun; still\tda"', "Rex 🐕", ""]),
    ]
    path = folder / "table.csv"
    path.write_bytes(end.join([*lines, ""]).encode(coding))
    [row] = read(path, None, text="description").rows()
    assert (row.text, row.fault) == ("Ein Hund, braun; still\tda", None)
    [pair] = load_pairs(path).pairs
    assert (pair.description, pair.caption) == ("Ein Hund, braun; still\tda", "Rex 🐕")


def test_a_row_with_an_unquoted_delimiter_is_named(folder: Path) -> None:
    path = folder / "table.csv"
    path.write_text("image;text\nimages/image2.png;A dog; asleep\nimages/image2.png;A dog, asleep\n")
    rows = list(read(path, None).rows())
    assert kinds(rows) == ["bad_row", None]
    assert "has 3 cells, the header 2; put texts with semicolons in quotation marks" in str(rows[0].fault)
    assert rows[1].text == "A dog, asleep"


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "METADATA.CSV"])
def test_an_image_folder_of_datasets(folder: Path, name: str) -> None:
    row = {"file_name": "image2.png", "text": "A dog.", "description": "A dog.", "caption": "Rex"}
    lines = [json.dumps(row)] if name.endswith("jsonl") else [",".join(row), ",".join(row.values())]
    (folder / "images" / name).write_text("\n".join(lines))
    [found] = open_input(str(folder / "images")).rows()
    assert (found.text, found.fault, image_names([found])) == ("A dog.", None, ["image2.png"])
    [pair] = load_pairs(folder / "images").pairs
    assert (pair.description, pair.image.read()) == ("A dog.", (folder / "images/image2.png").read_bytes())
    for split in ("train", "test"):
        shutil.copytree(folder / "images", folder / "split" / split)
    assert load_pairs(folder / "split").splits() == {"test": 1, "train": 1}
    [found] = open_input(str(folder / "split"), InputOptions(split="test")).rows()
    assert "/split/test/" in str(found.image)
    with pytest.raises(DataError, match=r"split: no split 'val'; its splits are test, train"):
        open_input(str(folder / "split"), InputOptions(split="val"))


def test_a_folder_with_a_table_of_another_name_says_what_to_give(folder: Path) -> None:
    (folder / "images" / "pairs.csv").write_text("image,text\nimage2.png,A dog.\n")
    (folder / "images" / "README.txt").write_text("My photos.")  # the text of no image
    with pytest.raises(DataError, match=r"no image has a text file beside it; give its table, .*pairs\.csv"):
        open_input(str(folder / "images"))
    (folder / "images" / "image2.txt").write_text("A dog.")
    found = list(open_input(str(folder / "images")).rows())
    assert [row.text for row in found if row.fault is None] == ["A dog."]


@pytest.mark.parametrize("below", ["", "data"])
def test_a_folder_of_several_tables_says_how_all_are_read(
    folder: Path, below: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever gave the first table only would lose the others unseen."""
    tables = folder / "tables"
    (tables / below).mkdir(parents=True)
    for name in ("test-00000-of-00002.csv", "test-00001-of-00002.csv"):
        (tables / below / name).write_text("image,text\nimages/image2.png,A dog.\n")
    advice = f"it holds 2 tables; hub:{tables} reads those of one split (--split, by default train)"
    with pytest.raises(DataError, match=re.escape(advice)):
        open_input(str(tables))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder / "cache"))
    rows = list(open_input(f"hub:{tables}", InputOptions(image_root=folder, split="test")).rows())
    assert [(row.text, row.fault) for row in rows] == [("A dog.", None)] * 2
    (tables / below / "more.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match="it holds 3 tables; give one at a time, such as"):
        open_input(str(tables))
    make_photo(tables / "a.png", seed=0)
    if below:  # tables below a folder of images may be anything
        assert kinds(list(open_input(str(tables)).rows())) == ["missing_text"]


def test_a_folder_of_pairs_and_shards_is_not_guessed_between(folder: Path) -> None:
    with tarfile.open(folder / "images" / "backup.tar", "w") as tar:
        tar.add(folder / "images" / "image2.png", "image2.png")
    (folder / "images" / "README.txt").write_text("My photos.")
    assert [row.id for row in open_input(str(folder / "images")).rows()] == ["image2"]
    (folder / "images" / "image2.txt").write_text("A dog.")
    with pytest.raises(DataError, match=r"holds images with texts, and shards such as backup\.tar"):
        open_input(str(folder / "images"))


@pytest.mark.parametrize("splits", [False, True])
def test_a_folder_of_save_to_disk(folder: Path, splits: bool) -> None:
    texts = {"text": ["A dog.", "A cat."], "description": ["A dog.", "A cat."], "caption": ["Rex", "Tom"]}
    pictures = [Image.open(folder / "images" / name) for name in NAMES[:2]]
    data = datasets.Dataset.from_dict({"image": pictures, **texts}).cast_column("image", datasets.Image())
    (datasets.DatasetDict(train=data) if splits else data).save_to_disk(str(folder / "saved"))
    reader = pickle.loads(pickle.dumps(open_input(str(folder / "saved"))))
    rows = list(reader.rows())
    assert [row.text for row in rows] == texts["text"]
    assert all(isinstance(row.image, bytes) for row in rows)
    pairs = load_pairs(folder / "saved")
    assert pairs.splits() == {"train" if splits else "": 2}
    assert pairs.pairs[0].source == f"{folder / 'saved'}" + ("[train]" if splits else "")
    assert pairs.pairs[1].image.read() == rows[1].image


def test_a_saved_data_set_may_not_name_files_elsewhere(folder: Path) -> None:
    data = datasets.Dataset.from_dict({"image": ["a.png"], "text": ["A dog."]})
    data.save_to_disk(str(folder / "saved"))
    state = json.loads((folder / "saved/state.json").read_text())
    (folder / "saved" / state["_data_files"][0]["filename"]).rename(folder / "elsewhere.arrow")
    state["_data_files"] = [{"filename": "../elsewhere.arrow"}]
    dump(folder / "saved/state.json", state)
    with pytest.raises(DataError, match="names files outside its folder"):
        open_input(str(folder / "saved"))


@pytest.mark.parametrize("name", ["pipe.arrow", "dataset_info.json", "dataset_dict.json", "state.json"])
@pytest.mark.parametrize("kind", ["pipe", "device", "link"])
def test_a_saved_data_set_may_hold_only_files(folder: Path, name: str, kind: str) -> None:
    datasets.Dataset.from_dict({"image": ["image2.png"], "text": ["A dog."]}).save_to_disk(folder / "saved")
    arrow = next((folder / "saved").glob("*.arrow"))
    path = arrow if name == "pipe.arrow" else folder / "saved" / name
    (folder / "elsewhere").write_bytes(path.read_bytes() if path.exists() else b"{}")
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else folder / "elsewhere")
    (folder / "saved" / "dataset_dict.json").touch()  # so that it is a saved data set in each case
    with pytest.raises(DataError, match="is no file in this folder"):
        open_input(str(folder / "saved"))


def test_a_split_far_below_a_saved_data_set_is_refused(folder: Path) -> None:
    """Its own list of files could lead anywhere."""
    data = datasets.Dataset.from_dict({"image": ["image2.png"], "text": ["Somebody's secret"]})
    deep = folder / "saved" / "a" / "b"
    data.save_to_disk(str(deep))
    state = json.loads((deep / "state.json").read_text())
    (deep / state["_data_files"][0]["filename"]).rename(folder / "elsewhere.arrow")
    state["_data_files"] = [{"filename": "../../../elsewhere.arrow"}]
    dump(deep / "state.json", state)
    dump(folder / "saved" / "dataset_dict.json", {"splits": ["a/b"]})
    with pytest.raises(DataError, match="outside its folder"):
        open_input(str(folder / "saved"), InputOptions(split="a/b"))


def test_a_saved_data_set_names_no_pipe_of_any_name(folder: Path) -> None:
    datasets.Dataset.from_dict({"image": ["a.png"], "text": ["A dog."]}).save_to_disk(folder / "saved")
    state = json.loads((folder / "saved/state.json").read_text())
    os.mkfifo(folder / "saved" / "rows.bin")
    dump(folder / "saved/state.json", state | {"_data_files": [{"filename": "rows.bin"}]})
    with pytest.raises(DataError, match=r"rows\.bin is no file"):
        open_input(str(folder / "saved"))


@pytest.mark.parametrize("name", ["../other", "link", "{folder}/other"])
def test_a_split_of_a_saved_data_set_lies_in_it(folder: Path, name: str) -> None:
    data = datasets.Dataset.from_dict({"image": ["image2.png"], "text": ["Somebody's secret"]})
    data.save_to_disk(folder / "other")
    (folder / "saved").mkdir()
    (folder / "saved" / "link").symlink_to(folder / "other")
    name = name.format(folder=folder)
    dump(folder / "saved" / "dataset_dict.json", {"splits": [name]})
    with pytest.raises(DataError, match=r"outside its folder|is no file in this folder"):
        open_input(str(folder / "saved"), InputOptions(split=name))


@pytest.mark.parametrize("linked", ["set/metadata.csv", "set/train/metadata.csv", "set/train", "set/data"])
def test_the_table_of_an_image_folder_lies_in_it(folder: Path, linked: str) -> None:
    (folder / "other").mkdir()
    (folder / "other" / "metadata.csv").write_text("file_name,text\na.png,Somebody's secret\n")
    link = folder / linked
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(folder / "other" / ("metadata.csv" if link.suffix else ""))
    for read_it in (open_input, load_pairs):
        with pytest.raises(DataError, match=r"metadata.csv: leads out of the folder .*set"):
            read_it(str(folder / "set"))


@pytest.mark.parametrize("name", ["a.tar", "wiki_split.json", "train.csv", "train.json", "resized"])
def test_what_a_folder_links_to_elsewhere_is_refused_and_named(folder: Path, name: str) -> None:
    """As other links out of a stranger's folder: they may lead to any texts and images of this machine."""
    here, away = folder / "set", folder / "away"
    here.mkdir()
    away.mkdir()
    entry = {"filename": "a.png", "description": {"raw": "Somebody's secret"}, "caption": {"raw": "Rex"}}
    row = {"image": "a.png", "text": "Somebody's secret", "description": "Secret", "caption": "Rex"}
    dump(away / "wiki_split.json", {"images": [entry]})
    dump(away / "train.json", [row])
    (away / "train.csv").write_text("image,description,caption\na.png,Secret,Rex\n")
    (away / "resized").mkdir()
    with tarfile.open(away / "a.tar", "w") as archive:
        archive.add(away / "train.csv", "a.txt")
    if name == "resized":
        (away / "wiki_split.json").rename(here / "wiki_split.json")
    (here / name).symlink_to(away / name)
    readers = {"a.tar": [open_input], "train.csv": [load_pairs], "train.json": [load_pairs]}
    for read_it in readers.get(name, [open_input, load_pairs]):
        with pytest.raises(DataError, match=rf"set/{name}: leads out of the folder .*set; name the file"):
            read_it(str(here))
    if name != "resized":  # whoever names the file means it
        open_input(str(here / name), InputOptions(Columns(text="caption")))


def test_concadia_s_release_as_input_of_a_batch(folder: Path) -> None:
    fields = {"description": {"raw": "A dog."}, "caption": {"raw": "Rex"}, "context": {"raw": ""}}
    entry = {"filename": "image2.png", "article_id": 1, "split": "test", **fields}
    dump(folder / "wiki_split.json", {"images": [entry, 3]})
    (folder / "images").rename(folder / "resized")
    for source in (folder, folder / "wiki_split.json"):
        rows = list(open_input(str(source)).rows())
        assert (rows[0].id, rows[0].text, rows[0].fault) == ("image2.png", "A dog.", None)
        assert kinds(rows) == [None, "bad_row"]
        captions = open_input(str(source), InputOptions(Columns(text="caption"))).rows()
        assert next(captions).text == "Rex"
        assert [pair.caption for pair in load_pairs(source).pairs] == ["Rex"]


def test_beginning_at_a_mark_equals_reading_from_the_start(folder: Path) -> None:
    make = {f"image{i}": f"Text {i}." for i in range(7)}
    reader = read(dump(folder / "many.json", make))
    every = list(reader.rows())
    for step in (1, 3, 7):
        for place, mark in enumerate(reader.scan(step).marks):
            ids = [row.id for row in reader.rows(place * step, mark)]
            assert ids == [row.id for row in every[place * step :]]


def test_a_column_that_is_named_is_used_or_refused(folder: Path) -> None:
    sidecars = folder / "images"
    for name in NAMES:
        (sidecars / name).with_suffix(".txt").write_text("A dog.")
    with pytest.raises(UsageError, match="has no column 'alt'"):
        open_input(str(sidecars), InputOptions(Columns(text="alt")))
    with pytest.raises(UsageError, match="no image root but itself"):
        open_input(str(sidecars), InputOptions(image_root=folder))


def test_what_systems_leave_behind_is_no_data_and_linked_folders_are_followed_or_said(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for place in (root / "a", root / "@eaDir/a.png", root / "__MACOSX", root / ".thumb", outside):
        place.mkdir(parents=True)
        make_photo(place / "a.png", seed=0)
        (place / "a.TXT").write_text("A dog.")
    (root / "linked").symlink_to(root / "a")
    (root / "away").symlink_to(outside)
    (root / "a" / "round").symlink_to(root)
    rows = list(open_input(str(root)).rows())
    assert [row.id for row in rows] == ["away", "a/a.png", "linked/a.png"]
    assert kinds(rows) == ["outside_image_root", None, None]
    assert "leads out of" in str(rows[0].fault)
    assert [row.text for row in rows] == [None, "A dog.", "A dog."]


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its images would be missing, and nobody would know."""
    for name in ("open", "locked"):
        (tmp_path / name).mkdir()
        make_photo(tmp_path / name / "x.png", seed=0)
        (tmp_path / name / "x.txt").write_text("A dog.")
    real = os.scandir

    def scandir(path: str) -> Any:
        if path.endswith("locked"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)  # the system lets root into every folder
    with pytest.raises(DataError, match=r"locked: cannot be read \(Permission denied\)"):
        list(open_input(str(tmp_path)).rows())


def test_folders_that_link_to_each_other_are_read_once_on_each_way(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / name).mkdir()
        make_photo(tmp_path / name / "x.png", seed=0)
        (tmp_path / name / "x.txt").write_text("A dog.")
        (tmp_path / name / "see").symlink_to(tmp_path / other)
    ids = [row.id for row in open_input(str(tmp_path)).rows()]
    assert ids == ["a/x.png", "a/see/x.png", "b/x.png", "b/see/x.png"]


def test_a_byte_order_mark_before_json(folder: Path) -> None:
    for mark, coding in ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le")):
        (folder / "x.json").write_bytes(mark + '{"image1": "Ein Kätzchen."}'.encode(coding))
        assert [row.text for row in read(folder / "x.json").rows()] == ["Ein Kätzchen."]
