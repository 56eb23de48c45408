"""Contexts and references in ``descscore batch``: every form of input, columns, faults, identity."""

from __future__ import annotations

import csv
import io
import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from batch_inputs import Pairs, add, make_pairs, write_csv, write_folder
from click.testing import CliRunner, Result

from descscore import DescScorer, Score
from descscore.batch.manifest import read_manifest
from descscore.batch.ray_engine import RayOptions, ShardActor
from descscore.batch.runner import Work
from descscore.cli import main
from descscore.stream.pairs import StreamOptions
from descscore.tables.open import InputOptions, open_input
from descscore.tables.reader import Columns

CONTEXTS = [
    "Cats are pets.",
    None,
    'An article, "quoted",\nof two lines. ' * 12,
    "",
    "Cats are pets.",
    "Meer 🌊",
]
REFERENCES: list[list[str] | None] = [
    *(["A cat.", 'A "pet", asleep'], None, [], ["ein Hund 🐕"]),
    *(["One.", "Two.", "Three."], ["A [bracket]"]),
]
NAMED = ("--context-column", "article", "--references-column", "good")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    return make_pairs(tmp_path_factory.mktemp("photos"), len(CONTEXTS))


@pytest.fixture(scope="module")
def scorer(tiny_folder: Path) -> DescScorer:
    return DescScorer.from_pretrained(tiny_folder, device="cpu")


@pytest.fixture(scope="module")
def expected(scorer: DescScorer, pairs: Pairs) -> list[Score]:
    """Every pair on its own."""
    rows = zip(pairs.images, pairs.texts, CONTEXTS, REFERENCES, strict=True)
    return [scorer.score(image, text, context=c, references=r or ()) for image, text, c, r in rows]


@pytest.fixture
def batch(tiny_folder: Path, scorer: DescScorer, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The command, in this process, with a model loaded once."""
    monkeypatch.setattr("descscore.scorer.load_model", lambda *_: scorer.model)
    fixed = ["batch", "--model", str(tiny_folder), "--device", "cpu", "--workers", "0", "--image-root", "/"]
    return lambda *args: CliRunner().invoke(main, [*fixed, *map(str, args)])


def records(pairs: Pairs) -> list[dict[str, Any]]:
    rows = zip(pairs.ids, pairs.images, pairs.texts, CONTEXTS, REFERENCES, strict=True)
    return [{"id": i, "image": str(p), "text": t, "article": c, "good": r} for i, p, t, c, r in rows]


def as_csv(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "in.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            good = "" if row["good"] is None else json.dumps(row["good"])
            writer.writerow(row | {"article": row["article"] or "", "good": good})
    return path


def as_jsonl(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "in.jsonl"
    # What is null may also be left out.
    kept = [{k: v for k, v in row.items() if v is not None or i % 2} for i, row in enumerate(rows)]
    path.write_text("\n".join(map(json.dumps, kept)), encoding="utf-8")
    return path


def as_parquet(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "in.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=4)
    return path


def as_shards(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "in.tar"
    with tarfile.open(path, "w") as tar:
        for row in rows:
            add(tar, f"{row['id']}.png", Path(row["image"]).read_bytes())
            text = {name: row[name] for name in ("text", "article", "good")}
            add(tar, f"{row['id']}.json", json.dumps(text).encode())
    return path


FORMS: dict[str, Callable[[Path, list[dict[str, Any]]], Path]] = {
    "csv": as_csv,
    "jsonl": as_jsonl,
    "parquet": as_parquet,
    "webdataset": as_shards,
}


def rows_of(output: Path) -> list[dict[str, Any]]:
    tables = [pq.read_table(path) for path in sorted(output.glob("*.parquet"))]
    rows: list[dict[str, Any]] = pa.concat_tables(tables).to_pylist()
    return rows


def assert_equal(rows: list[dict[str, Any]], expected: list[Score]) -> None:
    assert [row["status"] for row in rows] == ["ok"] * len(expected)
    for row, score in zip(rows, expected, strict=True):
        for name in ("cosine", "contextual_score", "reference_score"):
            value = getattr(score, name)
            assert row[name] == (None if value is None else pytest.approx(value, rel=1e-5, abs=1e-5))
        assert row["context_truncated"] == score.context_truncated
        assert row["references_truncated"] == score.references_truncated


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_input_gives_the_scores_of_single_pairs(
    form: str, pairs: Pairs, expected: list[Score], batch: Callable[..., Result], tmp_path: Path
) -> None:
    assert [score.contextual_score is not None for score in expected] == [
        True,
        False,
        True,
        False,
        True,
        True,
    ]
    assert [score.reference_score is not None for score in expected] == [True, False, False, True, True, True]
    source = FORMS[form](tmp_path, records(pairs))
    result = batch(source, "--output", tmp_path / "out", "--shard-size", 4, *NAMED)
    assert result.exit_code == 0, result.output
    assert_equal(rows_of(tmp_path / "out"), expected)
    manifest = json.loads((tmp_path / "out" / ".manifest.json").read_text())
    options = manifest["identity"]["options"]
    assert (options["context_column"], options["references_column"]) == ("article", "good")
    parts = manifest["identity"]["signature"].split("|")
    assert parts[-2:] == ["context:kreiss2022-no-prefix", "references:refclipscore-no-prefix"]
    assert result.output.rstrip().endswith(manifest["identity"]["signature"])


def test_a_hub_data_set(
    pairs: Pairs, expected: list[Score], batch: Callable[..., Result], hub_folder: Path, tmp_path: Path
) -> None:
    as_parquet(hub_folder, records(pairs)).rename(hub_folder / "train-00000-of-00001.parquet")
    given = (f"hub:{hub_folder}", "--output", tmp_path / "out", *NAMED)
    result = batch(*given)
    assert result.exit_code == 0, result.output
    assert_equal(rows_of(tmp_path / "out"), expected)


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_one_file_has_the_columns_too(
    form: str, pairs: Pairs, expected: list[Score], batch: Callable[..., Result], tmp_path: Path
) -> None:
    source = as_parquet(tmp_path, records(pairs))
    assert batch(source, "--output", tmp_path / "out", "--format", form, *NAMED).exit_code == 0
    text = (tmp_path / "out" / f"scores.{form}").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()] if form == "jsonl" else _csv_rows(text)
    assert_equal(rows, expected)


def _csv_rows(text: str) -> list[dict[str, Any]]:
    options = pyarrow.csv.ConvertOptions(strings_can_be_null=True, null_values=[""])
    rows: list[dict[str, Any]] = pyarrow.csv.read_csv(
        io.BytesIO(text.encode()), convert_options=options
    ).to_pylist()
    return rows


def test_without_the_options_no_such_column_is_read(
    pairs: Pairs, expected: list[Score], batch: Callable[..., Result], tmp_path: Path
) -> None:
    rows = [row | {"article": 7, "good": 7} for row in records(pairs)]
    result = batch(as_jsonl(tmp_path, rows), "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    for row, score in zip(rows_of(tmp_path / "out"), expected, strict=True):
        assert row["cosine"] == pytest.approx(score.cosine, abs=1e-6)
        assert row["contextual_score"] is row["reference_score"] is row["context_truncated"] is None
    identity = json.loads((tmp_path / "out" / ".manifest.json").read_text())["identity"]
    assert "context" not in identity["signature"]
    assert not {"context_column", "references_column"} & identity["options"].keys()


def test_what_cannot_be_used_is_a_row_with_its_error(
    pairs: Pairs, batch: Callable[..., Result], scorer: DescScorer, tmp_path: Path
) -> None:
    changes: list[dict[str, Any]] = [
        {"article": 7},
        {"good": "A cat."},
        {"good": ["A cat.", ""]},
        {"good": '["A cat."]'},
        {"text": "", "article": 7},
        {"image": "none.png", "good": [3]},
        {"image": "none.png"},
    ]
    first = records(pairs)[0]
    source = as_jsonl(tmp_path, [first | change for change in changes])
    result = batch(source, "--output", tmp_path / "out", *NAMED, "--json")
    assert result.exit_code == 3, result.output
    rows = rows_of(tmp_path / "out")
    assert [row["status"] for row in rows] == [
        *("bad_context", "bad_references", "bad_references", "ok"),
        *("empty_text", "bad_references", "missing_image"),
    ]
    alone = scorer.score(pairs.images[0], pairs.texts[0], references=["A cat."]).reference_score
    assert rows[3]["reference_score"] == pytest.approx(alone, abs=1e-5)
    assert "expected a JSON list of texts" in rows[1]["error"]
    assert "reference 2: text '': empty or blank" in rows[2]["error"]
    for row in rows[:3]:
        assert row["score"] is row["contextual_score"] is row["reference_score"] is None
    assert json.loads(result.output)["signature"].endswith("references:refclipscore-no-prefix")


def test_a_long_context_under_the_policy_error_is_a_row_with_its_error(
    pairs: Pairs, batch: Callable[..., Result], tmp_path: Path
) -> None:
    rows = [row | {"text": "A cat."} for row in records(pairs)]
    source = as_parquet(tmp_path, rows)
    named = ("--context-column", "article", "--text-policy", "error")
    assert batch(source, "--output", tmp_path / "out", *named).exit_code == 3
    statuses = [row["status"] for row in rows_of(tmp_path / "out")]
    assert statuses == ["ok", "ok", "bad_context", "ok", "ok", "ok"]


def test_a_column_that_is_not_there_is_said(
    pairs: Pairs, batch: Callable[..., Result], tmp_path: Path
) -> None:
    for form, make in FORMS.items():
        if form == "webdataset":
            continue
        source = make(tmp_path, records(pairs))
        result = batch(source, "--output", tmp_path / "out", "--context-column", "artikle")
        assert (result.exit_code, "no column 'artikle'" in result.stderr) == (1, True), form
    shards = as_shards(tmp_path, records(pairs))
    assert batch(shards, "--output", tmp_path / "out", "--context-column", "artikle").exit_code == 3
    errors = {row["error"] for row in rows_of(tmp_path / "out")}
    assert errors == {f"{name}: has no member 'artikle', and its json no such key" for name in pairs.ids}
    folder = write_folder(tmp_path / "images", pairs)
    for option in ("--context-column", "--references-column"):
        result = batch(folder, "--output", tmp_path / "none", option, "article")
        assert (result.exit_code, "has no column 'article'" in result.stderr) == (2, True)


def test_other_columns_or_other_contexts_are_another_run(
    pairs: Pairs, batch: Callable[..., Result], tmp_path: Path
) -> None:
    source = as_csv(tmp_path, records(pairs))
    given = (source, "--output", tmp_path / "out")
    assert batch(*given, "--context-column", "article").exit_code == 0
    for named in ((), NAMED, ("--context-column", "text")):
        result = batch(*given, *named)
        assert result.exit_code == 1
        assert "another input or other settings" in result.stderr
    assert batch(*given, "--context-column", "article").exit_code == 0
    as_csv(tmp_path, [row | {"article": "Another."} for row in records(pairs)])
    assert "What differs: the content of the input" in batch(*given, "--context-column", "article").stderr


def test_the_fingerprint_of_a_hub_data_set_covers_contexts(
    pairs: Pairs, batch: Callable[..., Result], hub_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    for folder in (hub_folder, tmp_path / "other"):
        changed = [row | {"article": folder.name} for row in records(pairs)]
        as_parquet(folder, changed).rename(folder / "train-00000-of-00001.parquet")
    named = ("--output", tmp_path / "out", "--context-column", "article")
    assert batch(f"hub:{hub_folder}", *named).exit_code == 0
    assert "What differs: the content of the input" in batch(f"hub:{tmp_path / 'other'}", *named).stderr


def test_what_travels_to_an_actor_of_a_cluster_brings_contexts(
    pairs: Pairs, expected: list[Score], batch: Callable[..., Result], tiny_folder: Path, tmp_path: Path
) -> None:
    source = as_csv(tmp_path, records(pairs))
    assert batch(source, "--output", tmp_path / "out", "--shard-size", 3, *NAMED).exit_code == 0
    manifest = read_manifest(tmp_path / "out")
    assert manifest is not None
    (tmp_path / "out" / "part-000001.parquet").unlink()
    opened = open_input(str(source), InputOptions(Columns(context="article", references="good"), Path("/")))
    folder = manifest.folder(tmp_path / "out")
    signature = DescScorer.from_pretrained(tiny_folder, device="cpu").signature
    work = Work(opened, opened.scan(3), folder, [1], True, StreamOptions(workers=0), 8, signature)
    options = RayOptions(model={"model": str(tiny_folder), "device": "cpu"})
    actor = ShardActor(*pickle.loads(pickle.dumps((work, options))))
    actor({"number": [1]})
    assert_equal(rows_of(tmp_path / "out"), expected)


def test_a_folder_of_an_earlier_form_is_refused(
    pairs: Pairs, batch: Callable[..., Result], tmp_path: Path
) -> None:
    """Its shards lack columns that others of the same run would have."""
    given = (write_csv(tmp_path / "in.csv", pairs), "--output", tmp_path / "out")
    assert batch(*given).exit_code == 0
    manifest = tmp_path / "out" / ".manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 2', '"format": 1'))
    result = batch(*given)
    assert result.exit_code == 1
    assert "format 1; this version of descscore reads 2" in result.stderr
