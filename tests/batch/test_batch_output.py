"""Results are usable as they lie, say what went wrong, and can be mended without scoring all rows again."""

from __future__ import annotations

import functools
import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from batch_inputs import make_pairs, write_csv
from click.testing import CliRunner, Result

from conftest import make_photo
from descscore import DescScorer
from descscore.batch.cli import batch as batch_command
from descscore.batch.shards import RESULT_FORMATS
from descscore.batch.summary import Digest
from descscore.cli import main
from descscore.models import load_model

Batch = Callable[..., Result]
_load_once = functools.cache(load_model)


@pytest.fixture
def batch(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Batch:
    """The command, in this process; models are loaded once for all tests."""
    monkeypatch.setattr("descscore.scorer.load_model", _load_once)

    def run(*args: object, stdin: bytes = b"") -> Result:
        fixed = ["batch", "--model", str(tiny_folder), "--device", "cpu", "--workers", "0"]
        return CliRunner().invoke(main, [*fixed, *map(str, args)], input=stdin)

    return run


def rows_of(output: Path) -> list[dict[str, Any]]:
    for form in ("csv", "jsonl"):
        if (output / f"scores.{form}").exists():
            lines = (output / f"scores.{form}").read_text(encoding="utf-8")
            if form == "jsonl":
                return [json.loads(line) for line in lines.splitlines()]
            table = pd.read_csv(io.StringIO(lines), dtype={"id": str})
            return [{k: v for k, v in row.items() if v == v} for row in table.to_dict("records")]
    rows: list[dict[str, Any]] = pq.ParquetDataset(output).read().to_pylist()
    return rows


def mixed_table(folder: Path) -> Path:
    for name, seed in (("a.png", 1), ("b.png", 2)):
        make_photo(folder / name, seed=seed, size=(40, 30))
    path = folder / "p.csv"
    path.write_text("id,image,text\nx,a.png,A dog.\ny,late.png,A cat.\nz,b.png,\u200b\n")
    return path


def test_pandas_and_datasets_read_the_folder_with_images_and_texts(
    batch: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = make_pairs(tmp_path / "photos", 7)
    table, output = write_csv(tmp_path / "photos" / "in.csv", pairs), tmp_path / "out"
    assert batch(table, "--output", output, "--shard-size", 3).exit_code == 0
    frame = pd.read_parquet(output)
    assert frame["id"].tolist() == pairs.ids
    assert frame["text"].tolist() == pairs.texts
    assert frame["image"].tolist() == [str(path) for path in pairs.images]
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    loaded = datasets.load_dataset("parquet", data_dir=str(output), cache_dir=str(tmp_path / "cache"))
    assert loaded["train"]["text"][:] == pairs.texts
    assert batch(table, "--output", tmp_path / "lean", "--lean").exit_code == 0
    assert not {"image", "text"} & set(pd.read_parquet(tmp_path / "lean").columns)


def test_the_summary_has_distribution_worst_rows_and_failed_ids(batch: Batch, tmp_path: Path) -> None:
    table = mixed_table(tmp_path)
    done = batch(table, "--output", tmp_path / "out")
    assert done.exit_code == 3
    [row] = [row for row in rows_of(tmp_path / "out") if row["status"] == "ok"]
    assert f"{row['cosine']:+.4f}  x  A dog." in done.stdout
    assert "scores: lowest" in done.stdout
    assert "median" not in done.stdout
    assert f"missing_image: ids y\n  the first: {tmp_path / 'late.png'}: no such file\n" in done.stdout
    assert "empty_text: ids z\n" in done.stdout
    again = json.loads(batch(table, "--output", tmp_path / "out", "--json").stdout)
    assert again["failures"] == {"empty_text": ["z"], "missing_image": ["y"]}
    assert again["first_errors"].keys() == again["failures"].keys()
    assert [worst["id"] for worst in again["worst"]] == ["x"]
    assert again["distribution"]["lowest"] == pytest.approx(row["score"], abs=0.006)


def test_the_first_error_of_two_digests_is_that_of_the_first_row() -> None:
    """Runs that were made before errors were kept give none, and not another row's."""
    rows = {
        "id": ["1", "2"],
        "score": [None] * 2,
        "cosine": [None] * 2,
        "status": ["bad_row", "missing_image"],
    }
    first = Digest.of([pa.table({**rows, "error": ["a", "b"]})])
    second = Digest.of([pa.table({**rows, "id": ["3", "4"], "error": ["c", "d"]})])
    assert (first + second).first_errors == {"bad_row": "a", "missing_image": "b"}
    assert (Digest() + second).first_errors == {"bad_row": "c", "missing_image": "d"}
    assert (replace(first, first_errors={}) + second).first_errors == {}


def test_ids_of_failed_rows_are_those_of_the_table_and_short_on_the_screen(
    batch: Batch, tmp_path: Path
) -> None:
    ids = ["two  blanks", "x" * 300]
    rows = "".join(f"{row_id},none.png,A dog.\n" for row_id in ids)
    (tmp_path / "p.csv").write_text(f"id,image,text\n{rows}")
    given = (tmp_path / "p.csv", "--output", tmp_path / "out")
    assert f"missing_image: ids two blanks, {'x' * 67}...{'x' * 30}\n" in batch(*given).stdout
    assert json.loads(batch(*given, "--json").stdout)["failures"] == {"missing_image": ids}


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
def test_failed_and_changed_rows_are_scored_again_on_request(
    form: str, batch: Batch, tmp_path: Path, tiny_folder: Path
) -> None:
    table, output = mixed_table(tmp_path), tmp_path / "out"
    given = (table, "--output", output, "--format", form, "--shard-size", 2)
    assert batch(*given).exit_code == 3
    before = rows_of(output)
    again = batch(*given)
    assert "all rows were scored already" in again.stderr
    assert (
        "--retry-failed scores the 2 failed rows, and those whose images have changed, again" in again.stderr
    )
    shutil.copy(tmp_path / "b.png", tmp_path / "late.png")
    os.replace(shutil.copy2(tmp_path / "b.png", tmp_path / "new.png"), tmp_path / "a.png")
    retried = batch(*given, "--retry-failed", "--json")
    assert retried.exit_code == 3, retried.output
    summary = json.loads(retried.stdout)
    assert (summary["scored"], summary["statuses"]) == (3, {"empty_text": 1, "ok": 2})
    scorer = DescScorer.from_pretrained(tiny_folder, device="cpu")
    after = rows_of(output)
    assert [row["id"] for row in after] == ["x", "y", "z"]
    for row, text in zip(after[:2], ("A dog.", "A cat."), strict=True):
        assert row["cosine"] == pytest.approx(scorer.score(tmp_path / "b.png", text).cosine, abs=1e-6)
    assert before[0]["cosine"] != pytest.approx(after[0]["cosine"], abs=1e-6)
    table.write_text(table.read_text().replace("z,b.png,\u200b", "z,b.png,A boat."))
    assert "the content of the input" in batch(*given, "--retry-failed").stderr


@pytest.mark.parametrize("line", ["{}", "3", "x", '{"id": "x", "status": []}', "id,status"])
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_file_of_results_that_somebody_has_changed_is_said(
    form: str, line: str, batch: Batch, tmp_path: Path
) -> None:
    given = (mixed_table(tmp_path), "--output", tmp_path / "out", "--format", form)
    assert batch(*given).exit_code == 3
    (tmp_path / "out" / f"scores.{form}").write_text(f"{line}\n")
    retried = batch(*given, "--retry-failed")
    assert (retried.exit_code, f"scores.{form}: is not as this run wrote it" in retried.stderr) == (1, True)


def test_a_run_without_changes_has_nothing_to_retry(batch: Batch, tmp_path: Path) -> None:
    pairs = make_pairs(tmp_path / "photos", 5)
    table, output = write_csv(tmp_path / "photos" / "in.csv", pairs), tmp_path / "out"
    batch(table, "--output", output)
    inode = (output / "part-000000.parquet").stat().st_ino
    retried = batch(table, "--output", output, "--retry-failed")
    assert (retried.exit_code, "no image has changed" in retried.stderr) == (0, True)
    assert (output / "part-000000.parquet").stat().st_ino == inode


def test_a_run_of_an_earlier_version_goes_on_lean_or_is_refused(batch: Batch, tmp_path: Path) -> None:
    """Their manifest is ``manifest.json`` without the newer fields, and their rows lack image and text."""
    table, output = mixed_table(tmp_path), tmp_path / "out"
    assert batch(table, "--output", output, "--lean", "--shard-size", 2).exit_code == 3
    manifest = json.loads((output / ".manifest.json").read_text())
    for name in ("begun", "digest"):
        del manifest[name]
    (output / "manifest.json").write_text(json.dumps(manifest | {"complete": False}))
    (output / ".manifest.json").unlink()
    (output / "part-000001.parquet").unlink()
    refused = batch(table, "--output", output, "--shard-size", 2)
    assert (refused.exit_code, "lack image and text; --lean goes on with it" in refused.stderr) == (1, True)
    on = json.loads(batch(table, "--output", output, "--shard-size", 2, "--lean", "--json").stdout)
    assert (on["scored"], on["rows"]) == (1, 3)
    assert not (output / "manifest.json").exists()


def test_ctrl_c_says_that_the_same_command_goes_on(
    batch: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = mixed_table(tmp_path)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("descscore.batch.runner.stream_rows", interrupted)
        stopped = batch(table, "--output", tmp_path / "out")
    assert stopped.exit_code == 130
    assert stopped.stderr == f"{tmp_path / 'out'}: stopped; the same command goes on from here\n"
    assert batch(table, "--output", tmp_path / "out").exit_code == 3


def test_a_table_and_texts_on_standard_input(
    batch: Batch, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    table = mixed_table(tmp_path).read_bytes()
    refused = batch("-", "--output", tmp_path / "no", stdin=table)
    assert (refused.exit_code, "--input-format" in refused.stderr) == (2, True)
    assert batch("-", "--input-format", "csv", "--output", tmp_path / "out", stdin=table).exit_code == 3
    assert [row["id"] for row in rows_of(tmp_path / "out")] == ["x", "y", "z"]
    again = batch("-", "--input-format", "csv", "--output", tmp_path / "out", stdin=table)
    assert "all rows were scored already" in again.stderr
    args = ["score", "a.png", "-", "--model", str(tiny_folder), "--device", "cpu", "--json"]
    lines = CliRunner().invoke(main, args, input="A dog.\r\n\r\nEin Kätzchen.\n".encode())
    assert [row["text"] for row in json.loads(lines.stdout)] == ["A dog.", "Ein Kätzchen."]
    assert CliRunner().invoke(main, args, input=b"\n").exit_code == 2


def test_the_references_of_clipscore_and_concadia_s_release(batch: Batch, tmp_path: Path) -> None:
    mixed_table(tmp_path)
    (tmp_path / "good.json").write_text('{"a": "A dog.", "b": "A cat."}')
    (tmp_path / "refs.json").write_text('{"a": ["A brown dog."], "b": ["A cat.", "Cats."]}')
    given = (tmp_path / "good.json", "--image-root", tmp_path, "--annotations", tmp_path / "refs.json")
    assert batch(*given, "--output", tmp_path / "out").exit_code == 0
    rows = rows_of(tmp_path / "out")
    assert [(row["id"], row["image"], row["status"]) for row in rows] == [
        ("a", "a.png", "ok"),
        ("b", "b.png", "ok"),
    ]
    assert all(row["reference_score"] is not None for row in rows)


def test_what_the_terminal_cannot_show_is_replaced(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_photo(tmp_path / "a.png", seed=0)
    shown = io.TextIOWrapper(io.BytesIO(), "latin-1")
    monkeypatch.setattr(sys, "stdout", shown)
    code = main(
        ["score", str(tmp_path / "a.png"), "☕ café", "--model", str(tiny_folder), "--device", "cpu"],
        standalone_mode=False,
    )
    shown.flush()
    assert not code
    assert "\\u2615 café" in shown.buffer.getvalue().decode("latin-1")  # type: ignore[attr-defined]


def test_a_message_repeats_little_of_the_input(batch: Batch, tmp_path: Path) -> None:
    make_photo(tmp_path / "a.png", seed=0)
    long = "x" * 50 + "/"
    cells = ["../" + long * 70, long * 70, "y" * 4000, "https://example.org/" + long * 20_000, '{"a": ' * 700]
    lines = [json.dumps({"id": str(i), "image": cell, "text": "A dog."}) for i, cell in enumerate(cells)]
    lines += [json.dumps({"image": "a.png", "text": "A dog.", "z" * 5000: 1})[:-1]]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    batch(tmp_path / "in.jsonl", "--output", tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert len(rows) == 6
    assert all(row["status"] != "ok" and len(row["error"]) <= 420 for row in rows)


def test_the_command_offers_every_format_of_results() -> None:
    (option,) = [one for one in batch_command.params if one.name == "form"]
    assert tuple(option.type.choices) == RESULT_FORMATS  # type: ignore[attr-defined]
