"""``descscore batch``: every form of input, order, statuses, shards, refusals."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from batch_inputs import (
    Pairs,
    make_pairs,
    write_csv,
    write_folder,
    write_jsonl,
    write_parquet,
    write_shards,
)
from click.testing import CliRunner, Result
from filelock import FileLock

from descscore import DescScorer, Score
from descscore.batch.shards import RESULT_FILES, ShardFolder, read_result_file, write_result_file
from descscore.batch.shards import Result as Row
from descscore.cli import main
from descscore.models import load_model
from descscore.records import Outcome
from descscore.tables.cells import CELL_LIMIT
from descscore.tables.text_tables import read_csv as read_scores
from pictures import make_photo

COLUMNS = [
    *("id", "image", "text", "score", "cosine", "clip_score", "description_probability"),
    *("contextual_score", "context_truncated", "reference_score", "references_truncated"),
    *("tokens", "truncated", "status", "error"),
]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    return make_pairs(tmp_path_factory.mktemp("photos"), 11)


_load_once = functools.cache(load_model)


@pytest.fixture(scope="module")
def expected(tiny_folder: Path, pairs: Pairs) -> list[Score]:
    """Every pair on its own."""
    scorer = DescScorer.from_pretrained(tiny_folder, device="cpu")
    return [scorer.score(image, text) for image, text in zip(pairs.images, pairs.texts, strict=True)]


@pytest.fixture
def batch(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The command, in this process; models are loaded once for all tests."""
    monkeypatch.setattr("descscore.scorer.load_model", _load_once)

    def run(*args: object) -> Result:
        fixed = ["batch", "--model", str(tiny_folder), "--device", "cpu"]
        workers = [] if "--workers" in args else ["--workers", "0"]
        return CliRunner().invoke(main, [*fixed, *workers, *map(str, args)])

    return run


def rows_of(output: Path) -> list[dict[str, Any]]:
    files = sorted(output.glob("*.parquet"))
    tables = [pq.read_table(path) for path in files]
    for table in tables:
        assert table.column_names == COLUMNS
    rows: list[dict[str, Any]] = pa.concat_tables(tables).to_pylist()
    return rows


def assert_equal(rows: list[dict[str, Any]], ids: list[str], expected: list[Score]) -> None:
    assert [row["id"] for row in rows] == ids
    for row, score in zip(rows, expected, strict=True):
        assert row["status"] == "ok", row
        for name in ("score", "cosine", "clip_score"):
            assert row[name] == pytest.approx(getattr(score, name), abs=1e-6)
        assert (row["tokens"], row["truncated"]) == (score.tokens, score.truncated)
        for name in ("description_probability", "contextual_score", "reference_score"):
            assert row[name] is None
        assert row["error"] is None


FORMS: dict[str, Callable[[Path, Pairs], Path]] = {
    "csv": lambda folder, pairs: write_csv(folder / "in.csv", pairs),
    "jsonl": lambda folder, pairs: write_jsonl(folder / "in.jsonl", pairs),
    "parquet-path": lambda folder, pairs: write_parquet(folder / "in.parquet", pairs, "path"),
    "parquet-bytes": lambda folder, pairs: write_parquet(folder / "in.parquet", pairs, "bytes"),
    "parquet-struct": lambda folder, pairs: write_parquet(folder / "in.parquet", pairs, "struct"),
    "webdataset": lambda folder, pairs: write_shards(folder / "tars", pairs),
    "sidecar": lambda folder, pairs: write_folder(folder / "images", pairs),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_input_gives_the_scores_of_single_pairs(
    form: str, pairs: Pairs, expected: list[Score], batch: Callable[..., Result], tmp_path: Path
) -> None:
    source = FORMS[form](tmp_path, pairs)
    result = batch(source, "--output", tmp_path / "out", "--shard-size", 4)
    assert result.exit_code == 0, result.output
    ids = pairs.ids
    if form == "sidecar":
        ids = [f"part{i // 4}/{i:03d}.png" for i in range(len(pairs))]
    rows = rows_of(tmp_path / "out")
    assert_equal(rows, ids, expected)
    manifest = json.loads((tmp_path / "out" / ".manifest.json").read_text())
    assert [shard["rows"] for shard in manifest["shards"]] == [4, 4, 3]
    assert [shard["file"] for shard in manifest["shards"]] == sorted(
        path.name for path in (tmp_path / "out").rglob("*.parquet")
    )
    assert manifest["statuses"] == {"ok": 11}


def test_a_hub_data_set(
    pairs: Pairs, expected: list[Score], batch: Callable[..., Result], hub_folder: Path, tmp_path: Path
) -> None:
    write_parquet(hub_folder / "train-00000-of-00001.parquet", pairs, "struct")
    result = batch(f"hub:{hub_folder}", "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert_equal(rows_of(tmp_path / "out"), pairs.ids, expected)


@pytest.mark.parametrize("options", [(1, 2, 0), (3, 64, 0), (64, 5, 1)])
def test_batch_shard_and_workers_do_not_matter(
    options: tuple[int, int, int],
    pairs: Pairs,
    expected: list[Score],
    batch: Callable[..., Result],
    tmp_path: Path,
) -> None:
    size, shard, workers = options
    source = write_csv(tmp_path / "in.csv", pairs)
    given = ("--batch-size", size, "--shard-size", shard, "--workers", workers)
    result = batch(source, "--output", tmp_path / "out", *given)
    assert result.exit_code == 0, result.output
    assert_equal(rows_of(tmp_path / "out"), pairs.ids, expected)


def test_files_of_others_in_the_output_stay(
    batch: Callable[..., Result], pairs: Pairs, tmp_path: Path
) -> None:
    """A run with one file of results removes its own parts and nothing else, also behind a link."""
    table, photos = write_csv(tmp_path / "in.csv", pairs), tmp_path / "precious"
    photos.mkdir()
    (photos / "photo.jpg").write_bytes(b"mine")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "parts").symlink_to(photos)
    refused = batch(table, "--output", tmp_path / "linked", "--format", "csv")
    assert refused.exit_code != 0
    assert "parts: is not a folder of this run; remove it" in refused.output
    assert (photos / "photo.jpg").read_bytes() == b"mine"
    own = tmp_path / "own" / "parts"
    own.mkdir(parents=True)
    (own / "notes.txt").write_text("mine")
    done = batch(table, "--output", tmp_path / "own", "--format", "csv")
    assert done.exit_code == 0, done.output
    assert [path.name for path in own.iterdir()] == ["notes.txt"]


def test_one_file_as_csv_and_jsonl(
    pairs: Pairs, expected: list[Score], batch: Callable[..., Result], tmp_path: Path
) -> None:
    source = write_csv(tmp_path / "in.csv", pairs)
    for form in ("csv", "jsonl"):
        output = tmp_path / form
        assert batch(source, "--output", output, "--format", form, "--shard-size", 4).exit_code == 0
        assert sorted(path.name for path in output.iterdir() if path.name != ".lock") == [
            ".manifest.json",
            f"scores.{form}",
        ]
    table = pyarrow.csv.read_csv(
        tmp_path / "csv" / "scores.csv",
        convert_options=pyarrow.csv.ConvertOptions(strings_can_be_null=True, null_values=[""]),
    )
    lines = (tmp_path / "jsonl" / "scores.jsonl").read_text(encoding="utf-8").splitlines()
    assert_equal(table.to_pylist(), pairs.ids, expected)
    assert_equal([json.loads(line) for line in lines], pairs.ids, expected)


def hostile_table(folder: Path, photo: Path) -> tuple[Path, list[str]]:
    """A CSV in which every row but two cannot be scored, and the status each should get."""
    (folder / "bad.jpg").write_text("no image")
    (folder / "cut.jpg").write_bytes(photo.read_bytes()[:200])
    (folder / "empty.png").write_bytes(b"")
    (folder / "folder.png").mkdir()
    (folder / "good.png").write_bytes(photo.read_bytes())
    outside = folder.parent / f"{folder.name}-outside.png"
    outside.write_bytes(photo.read_bytes())
    (folder / "link.png").symlink_to(outside)
    rows = [
        (b"good.png,A cat.", "ok"),
        (b"none.png,A cat.", "missing_image"),
        (b"bad.jpg,A cat.", "not_an_image"),
        (b"cut.jpg,A cat.", "damaged_image"),
        (b"empty.png,A cat.", "empty_image"),
        (b"folder.png,A cat.", "not_an_image"),
        (b"good.png,", "empty_text"),
        (b'good.png,"  \n "', "empty_text"),
        (b"https://example.org/a.png,A cat.", "url_not_supported"),
        (b"ftp://example.org/a.png,A cat.", "url_not_supported"),
        (b"s3+x://bucket/a.png,A cat.", "url_not_supported"),
        (b"data:image/png;base64;AAAA,A cat.", "url_not_supported"),
        (f"../{outside.name},A cat.".encode(), "outside_image_root"),
        (b"link.png,A cat.", "outside_image_root"),
        (b"good.png,A caf\xe9.", "wrong_encoding"),
        (b"good.png,A cat, and more", "bad_row"),
        (b"good.png", "bad_row"),
        (b",A cat.", "missing_image"),
        (b"good.png," + b"x" * 120_000, "text_too_long"),
        (b"good.png," + b"A b. " * 30_000, "text_too_long"),
        (f"{folder / 'good.png'},A dog.".encode(), "ok"),
    ]
    path = folder / "in.csv"
    path.write_bytes(b"image,text\r\n" + b"\r\n".join(line for line, _ in rows))
    return path, [status for _, status in rows]


def test_a_bad_row_is_a_row_with_its_error_and_the_rest_is_scored(
    batch: Callable[..., Result], photo: Path, tmp_path: Path, tiny_folder: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    source, statuses = hostile_table(folder, photo)
    result = batch(source, "--output", tmp_path / "out", "--json", "--workers", 1)
    assert result.exit_code == 3, result.output
    rows = rows_of(tmp_path / "out")
    assert [row["status"] for row in rows] == statuses
    assert [row["id"] for row in rows] == [str(i + 1) for i in range(len(statuses))]
    for row in rows:
        assert (row["error"] is None) == (row["status"] == "ok")
        assert (row["score"] is None) == (row["status"] != "ok")
    scorer = DescScorer.from_pretrained(tiny_folder, device="cpu")
    assert rows[0]["cosine"] == pytest.approx(scorer.score(photo, "A cat.").cosine, abs=1e-6)
    summary = json.loads(result.stdout)
    assert summary["statuses"] == {kind: statuses.count(kind) for kind in sorted(set(statuses))}
    assert summary["failed"] == len(statuses) - 2
    again = batch(source, "--output", tmp_path / "out", "--json", "--workers", 1)
    assert again.exit_code == 3
    assert json.loads(again.stdout) == {
        **summary,
        "scored": 0,
        "seconds": json.loads(again.stdout)["seconds"],
    }


def test_the_summary_counts_by_kind(batch: Callable[..., Result], photo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    source, _ = hostile_table(folder, photo)
    lines = batch(source, "--output", tmp_path / "out").stdout.splitlines()
    counts = dict(line.split() for line in lines if len(line.split()) == 2)
    assert counts["ok"] == "2"
    assert counts["url_not_supported"] == "4"
    assert counts["rows"] == "21"
    assert lines[0].startswith("ok ")


def test_the_empty_text_is_decorative_on_request(
    batch: Callable[..., Result], photo: Path, tmp_path: Path
) -> None:
    source = tmp_path / "in.jsonl"
    texts: list[object] = ["", " ", None, "A cat."]
    source.write_text("\n".join(json.dumps({"image": str(photo), "text": text}) for text in texts))
    assert batch(source, "--output", tmp_path / "a").exit_code == 3
    assert [row["status"] for row in rows_of(tmp_path / "a")] == ["empty_text"] * 3 + ["ok"]
    assert batch(source, "--output", tmp_path / "b", "--decorative-empty").exit_code == 3
    rows = rows_of(tmp_path / "b")
    assert [row["status"] for row in rows] == ["decorative", "empty_text", "empty_text", "ok"]
    source.write_text(json.dumps({"image": "none.png", "text": ""}) + "\n")
    assert batch(source, "--output", tmp_path / "c", "--decorative-empty").exit_code == 0
    for image in ("https://example.org/a.png", "../out.png"):
        source.write_text(json.dumps({"image": image, "text": ""}) + "\n")
        assert batch(source, "--output", tmp_path / image[-5:], "--decorative-empty").exit_code == 0
    source.write_text(json.dumps({"image": None, "text": ""}) + "\n")  # a blank row has nothing to decorate
    assert batch(source, "--output", tmp_path / "d", "--decorative-empty").exit_code == 3


def test_strict_stops_at_the_first_bad_row(batch: Callable[..., Result], photo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    source, _ = hostile_table(folder, photo)
    result = batch(source, "--output", tmp_path / "out", "--strict")
    assert result.exit_code == 1
    assert "row 2 (2): missing_image" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not list((tmp_path / "out").glob("*.parquet"))


def test_other_columns_by_option(batch: Callable[..., Result], pairs: Pairs, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_text(f"id,src,alt,key\n1,{pairs.images[0].name},A cat.,k\n")
    named = ("--image-column", "src", "--text-column", "alt", "--id-column", "key")
    result = batch(source, "--output", tmp_path / "out", *named, "--image-root", pairs.images[0].parent)
    assert result.exit_code == 0, result.output
    assert [row["id"] for row in rows_of(tmp_path / "out")] == ["k"]
    missing = batch(source, "--output", tmp_path / "no")
    assert missing.exit_code == 1
    assert "no column 'image' or 'filename'" in missing.stderr
    assert "its columns are 'id', 'src', 'alt', 'key'" in missing.stderr


def test_under_the_root_of_all_files_a_table_in_another_folder_is_another_run(
    batch: Callable[..., Result], tmp_path: Path
) -> None:
    """Its relative paths begin at its own folder, and so name other images."""
    for folder, seed in (("a", 1), ("b", 2)):
        (tmp_path / folder / "data").mkdir(parents=True)
        make_photo(tmp_path / folder / "photo.png", seed=seed)
        (tmp_path / folder / "data" / "in.csv").write_text("image,text\n../photo.png,A cat.\n")
    given = ("--image-root", "/", "--output", tmp_path / "out")
    assert batch(tmp_path / "a" / "data" / "in.csv", *given).exit_code == 0
    moved = batch(tmp_path / "b" / "data" / "in.csv", *given)
    assert (moved.exit_code, "image_start" in moved.stderr) == (1, True)


CHANGES: list[tuple[tuple[object, ...], str]] = [
    (("--text-policy", "windows"), 'text: "weighted-windows77" there, "windows77" now'),
    (("--precision", "bf16"), 'precision: "float32" there, "bf16" now'),
    (("--model", "base"), "weights: "),
    (("--batch-size", 7), "batch_size"),
    (("--shard-size", 5), "shard_size"),
    (("--format", "csv"), "format"),
    (("--decorative-empty",), "decorative_empty"),
    (("--lean",), "--lean: no there, yes now"),
    (("--shard", "1/2"), "job"),
    (("--image-root", "."), "image_root"),
]


@pytest.mark.parametrize(("change", "named"), CHANGES, ids=[str(change[0][0]) for change in CHANGES])
def test_a_changed_model_or_option_is_refused(
    change: tuple[object, ...], named: str, batch: Callable[..., Result], pairs: Pairs, tmp_path: Path
) -> None:
    source = write_csv(tmp_path / "in.csv", pairs)
    given = (source, "--output", tmp_path / "out", "--shard-size", 4)
    assert batch(*given).exit_code == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    result = batch(*given, *change)
    assert result.exit_code == 1
    assert named in result.stderr
    assert "give another --output" in result.stderr
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_run_that_was_complete_already_says_so(
    batch: Callable[..., Result], pairs: Pairs, tmp_path: Path
) -> None:
    source = write_csv(tmp_path / "in.csv", pairs)
    first = batch(source, "--output", tmp_path / "out")
    assert "already" not in first.output
    again = batch(source, "--output", tmp_path / "out")
    assert again.exit_code == 0
    assert again.stderr == (
        f"{tmp_path / 'out'}: all rows were scored already; nothing was left to do "
        "(--retry-failed scores rows whose images have changed, again)\n"
    )
    assert json.loads(batch(source, "--output", tmp_path / "out", "--json").stdout)["scored"] == 0


@pytest.mark.parametrize("form", FORMS)
def test_a_changed_input_is_refused(
    form: str, batch: Callable[..., Result], pairs: Pairs, tmp_path: Path
) -> None:
    """One letter, at the same size and time, where the form has such."""
    source = FORMS[form](tmp_path, pairs)
    given = (source, "--output", tmp_path / "out", "--shard-size", 4)
    assert batch(*given).exit_code == 0
    if form == "sidecar":
        (source / "part1" / "005.txt").write_text("Another text.")
    else:
        path = sorted(source.glob("*.tar"))[1] if source.is_dir() else source
        stat = path.stat()
        changed = Pairs(pairs.ids, pairs.images, [text.replace("Grace", "Gracy") for text in pairs.texts])
        FORMS[form](tmp_path, changed)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    result = batch(*given)
    assert result.exit_code == 1
    assert "What differs: the content of the input. To continue that run," in result.stderr


def test_a_second_run_into_one_folder_is_refused(
    batch: Callable[..., Result], pairs: Pairs, tmp_path: Path
) -> None:
    source = write_csv(tmp_path / "in.csv", pairs)
    (tmp_path / "out").mkdir()
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from filelock import FileLock; lock = FileLock(sys.argv[1]); lock.acquire(); "
            "print('held', flush=True); input()",
            str(tmp_path / "out" / ".lock"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        result = batch(source, "--output", tmp_path / "out")
        assert result.exit_code == 1
        assert "another run is writing here" in result.stderr
    finally:
        holder.kill()  # and the lock goes with it
        holder.wait()
    assert batch(source, "--output", tmp_path / "out").exit_code == 0
    with FileLock(tmp_path / "out" / ".lock", timeout=0):
        pass


def test_a_folder_with_foreign_tables_is_refused(
    batch: Callable[..., Result], pairs: Pairs, tmp_path: Path
) -> None:
    source = write_parquet(tmp_path / "in.parquet", pairs, "path")
    result = batch(source, "--output", tmp_path)
    assert result.exit_code == 1
    assert "in.parquet" in result.stderr
    assert not (tmp_path / ".manifest.json").exists()
    for form in RESULT_FILES:
        mine = tmp_path / form / f"scores.{form}"
        mine.parent.mkdir()
        mine.write_text("mine")
        result = batch(source, "--output", mine.parent, "--format", form)
        assert (result.exit_code, f"holds scores.{form} but no .manifest.json" in result.stderr) == (1, True)
        assert mine.read_text() == "mine"


@pytest.mark.parametrize(
    ("args", "code", "mention"),
    [
        (("none.csv",), 1, "none.csv"),
        (("in.txt",), 1, "unknown kind"),
        (("bad.parquet",), 1, "bad.parquet"),
        (("empty.csv",), 1, "no column"),
        (("a/b/c",), 1, "no such file"),
        (("in.csv", "--shard", "3/2"), 2, "I in 1..N"),
        (("in.csv", "--shard", "x"), 2, "I/N"),
        (("in.csv", "--image-root", "nowhere"), 2, "nowhere"),
        (("in.csv", "--shard-size", "0"), 2, "0"),
        (("in.csv", "--format", "xml"), 2, "xml"),
    ],
)
def test_wrong_calls(
    args: tuple[str, ...],
    code: int,
    mention: str,
    batch: Callable[..., Result],
    pairs: Pairs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / "in.csv", pairs)
    for name in ("in.txt", "bad.parquet", "empty.csv"):
        (tmp_path / name).write_text("" if name.startswith("empty") else "x")
    result = batch(*args, "--output", "out")
    assert result.exit_code == code
    assert mention in result.stderr
    assert "Traceback" not in result.output


def test_an_input_without_rows(batch: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("id,image,text\n")
    assert batch(tmp_path / "in.csv", "--output", tmp_path / "out").exit_code == 0
    manifest = json.loads((tmp_path / "out" / ".manifest.json").read_text())
    assert (manifest["complete"], manifest["shards"]) == (True, [])


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
def test_jobs_merge_into_what_one_run_makes(
    form: str, batch: Callable[..., Result], pairs: Pairs, tmp_path: Path
) -> None:
    source = write_csv(tmp_path / "in.csv", pairs)
    given = (source, "--shard-size", 2, "--format", form)
    assert batch(*given, "--output", tmp_path / "whole").exit_code == 0
    for i in range(1, 4):
        assert batch(*given, "--output", tmp_path / str(i), "--shard", f"{i}/3").exit_code == 0

    def merge(*jobs: int) -> Result:
        folders = [str(tmp_path / str(job)) for job in jobs]
        return CliRunner().invoke(main, ["merge", *folders, "--output", str(tmp_path / "merged")])

    assert "of 3 jobs these are missing: 2" in merge(1, 3).stderr
    shutil.copytree(tmp_path / "3", tmp_path / "4")
    assert "is job 3/3, and so is" in merge(1, 3, 4).stderr
    assert merge(3, 1, 2).exit_code == 0
    names = {path.name for path in (tmp_path / "whole").iterdir()}
    assert {path.name for path in (tmp_path / "merged").iterdir()} == names
    for name in names - {".lock"}:
        whole, merged = (_contents(tmp_path / folder / name) for folder in ("whole", "merged"))
        assert len(whole) == len(merged)
        for one, other in zip(whole, merged, strict=True):
            assert one == pytest.approx(other, abs=1e-6)


def _contents(path: Path) -> list[dict[str, Any]]:
    """Rows of a table; a manifest is one row of plain values."""
    if path.name == ".manifest.json":
        manifest = json.loads(path.read_text())
        assert manifest.pop("begun") > 0
        assert len(manifest["digest"].pop("worst")) == 10
        return [{key: json.dumps(value) for key, value in manifest.items()}]
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    table = pq.read_table(path) if path.suffix == ".parquet" else pyarrow.csv.read_csv(path)
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def test_jobs_of_other_runs_do_not_merge(batch: Callable[..., Result], pairs: Pairs, tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", pairs)
    batch(source, "--shard-size", 2, "--output", tmp_path / "1", "--shard", "1/2")
    batch(source, "--shard-size", 3, "--output", tmp_path / "2", "--shard", "2/2")
    jobs = [str(tmp_path / "1"), str(tmp_path / "2")]
    result = CliRunner().invoke(main, ["merge", *jobs, "--output", str(tmp_path / "merged")])
    assert result.exit_code == 1
    assert "shard_size: 2 there, 3 now" in result.stderr


def test_a_merge_can_be_repeated_and_never_mixes_runs(
    batch: Callable[..., Result], pairs: Pairs, tmp_path: Path
) -> None:
    source = write_csv(tmp_path / "in.csv", pairs)
    jobs = [tmp_path / "1", tmp_path / "2"]
    for i, job in enumerate(jobs, start=1):
        assert batch(source, "--shard-size", 3, "--output", job, "--shard", f"{i}/2").exit_code == 0

    def merge(output: Path) -> Result:
        return CliRunner().invoke(main, ["merge", *map(str, jobs), "--output", str(output)])

    merged, other = tmp_path / "merged", tmp_path / "other"
    assert merge(merged).exit_code == 0
    before = sorted(path.name for path in merged.iterdir())
    assert merge(merged).exit_code == 0
    assert sorted(path.name for path in merged.iterdir()) == before
    assert batch(source, "--shard-size", 2, "--output", other).exit_code == 0
    refused = merge(other)
    assert (refused.exit_code, "holds results of another run" in refused.stderr) == (1, True)
    (other / ".manifest.json").unlink()
    assert "holds part-000000.parquet but no" in merge(other).stderr
    assert [row["id"] for row in rows_of(other)] == pairs.ids
    (jobs[1] / "part-000003.parquet").unlink()
    assert f"{jobs[1]}: is not complete" in merge(merged).stderr


@pytest.mark.parametrize("form", list(RESULT_FILES))
def test_a_file_of_results_with_the_longest_text_is_read_again(form: str, tmp_path: Path) -> None:
    """``--retry-failed`` reads it. A quotation mark is written twice in CSV."""
    longest = "🐕" * (CELL_LIMIT - 9) + '"quoted"\n'
    shards = ShardFolder(tmp_path / "parts", "run", 100, ".arrow")
    shards.folder.mkdir()
    shards.write(0, [Row("a", Outcome("missing_image", "a.png: no such file"), "a.png", longest)])
    write_result_file(shards, [0], tmp_path, form)
    (row,) = read_result_file(tmp_path, form, lean=False).to_pylist()
    assert (row["id"], row["text"], row["score"]) == ("a", longest, None)


def test_ids_and_errors_are_no_formulas_in_a_spreadsheet(tmp_path: Path) -> None:
    """descscore reads them back as they were; JSON and Parquet hold them as they are."""
    ids = ["=1+1", "+a", "-a", "@a", "\t=a", "'=a", "plain", "'plain"]
    rows = [Row(name, Outcome("missing_image", f"{name}.png: no such file")) for name in ids]
    shards = ShardFolder(tmp_path / "parts", "run", 100, ".arrow")
    shards.folder.mkdir()
    shards.write(0, rows)
    for form in ("csv", "jsonl"):
        write_result_file(shards, [0], tmp_path, form)
    table = pa.csv.read_csv(tmp_path / "scores.csv")
    for name in ("id", "error"):
        assert not [cell for cell in table[name].to_pylist() if cell[0] in "=+-@\t"]
    read = read_scores(tmp_path / "scores.csv")
    assert [row.cells["id"] for row in read] == ids
    assert [row.cells["error"] for row in read] == [f"{name}.png: no such file" for name in ids]
    lines = (tmp_path / "scores.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ids
