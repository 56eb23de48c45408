"""Judgments out of the database: the published columns, ``descscore eval human``, summary and deletion."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import krippendorff
import numpy as np
import pytest
from click.testing import CliRunner, Result
from scipy import stats

from descscore.cli import main
from descscore.errors import DataError
from descscore.eval.ratings import read_kreiss
from descscore.study.export import BLV_COLUMNS, SIGHTED_COLUMNS, export_judgments, image_names
from descscore.study.items import StudyItem, read_items
from descscore.study.judgments import JudgmentStore
from descscore.study.questions import AFTER, BEFORE, NO_IMAGE
from pictures import make_photo
from study_tools import IMAGES, TEXTS, answers, judge_all, make_store, register, write_table


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> JudgmentStore:
    """A study that two blind, one low-vision and three sighted people have finished."""
    store = make_store(tmp_path_factory.mktemp("study"))
    groups = ("blind", "sighted", "low_vision", "sighted", "blind", "sighted")
    for number, vision in enumerate(groups):
        judge_all(store, register(store, f"p{number}", vision), shift=number)
    return store


def test_the_columns_are_those_of_the_published_files(
    store: JudgmentStore, tmp_path: Path, shared_data: Path | None
) -> None:
    done = export_judgments(store, tmp_path / "out")
    assert (done.blv, done.sighted, done.images) == (3 * IMAGES * TEXTS, 3 * IMAGES * TEXTS, IMAGES)
    columns = {"blv_ratings.csv": BLV_COLUMNS, "sighted_ratings.csv": SIGHTED_COLUMNS}
    for name, expected in columns.items():
        assert tuple(read(tmp_path / "out" / name)[0]) == (*expected, "item")
        if shared_data:
            assert tuple(read(shared_data / "kreiss2022" / name)[0]) == expected


def test_every_rating_arrives(store: JudgmentStore, tmp_path: Path) -> None:
    export_judgments(store, tmp_path / "out")
    items = {item.description: number for number, item in enumerate(store.items())}
    for row in read(tmp_path / "out" / "blv_ratings.csv"):
        assert row["item"] == store.items()[items[row["description"]]].item
        place, shift = items[row["description"]], int(row["participant"][1:])
        given = answers(place + shift * (place % 3 == 0), NO_IMAGE)
        found = [int(row[f"q_{q}"]) for q in ("overall", "reconstructivity", "relevance", "irrelevance")]
        assert found == [given["overall"], given["imaginability"], given["relevance"], given["irrelevance"]]
        assert row["q_imgfit"] == ""
        assert row["article_text"].endswith("\n\nMore.")
    for row in read(tmp_path / "out" / "sighted_ratings.csv"):
        place, shift = items[row["description"]], int(row["anon_worker_id"][1:])
        after = answers(place + shift * (place % 3 == 0), AFTER)
        assert int(row["q_overall.postimg"]) == after["overall"]
        order = store.order(store.by_pseudonym(row["anon_worker_id"]))
        assert order[int(row["trial_number"]) - 1] == store.items()[place].item
        assert (tmp_path / "out" / "images" / row["img_file"]).is_file()


def test_evaluation_takes_the_export_as_it_is(
    store: JudgmentStore, tmp_path: Path, tiny_folder: Path
) -> None:
    out = tmp_path / "out"
    assert run("judgments", "export", "--database", store.path, "--output", out).exit_code == 0
    found = run("eval", "human", "--data", out, "--model", tiny_folder, "--resamples", 199, "--json")
    assert found.exit_code == 0, found.output
    result = json.loads(found.output)
    assert result["joined"] == IMAGES * TEXTS
    assert result["dropped"] == 0
    lengths = {
        row["question"]: row for row in result["rows"] if row["metric"] == "length" and not row["phase"]
    }
    kept = [judgment for judgment in store.judgments() if judgment.phase == NO_IMAGE]
    means = [
        np.mean([judgment.ratings["overall"] for judgment in kept if judgment.item == item.item])
        for item in store.items()
    ]
    expected = stats.pearsonr([len(item.description.strip()) for item in store.items()], means)
    assert lengths["overall"]["r"] == pytest.approx(expected.statistic)
    assert lengths["overall"]["clusters"] == IMAGES
    assert {row["raters"] for row in result["rows"]} == {"BLV", "sighted"}


@pytest.mark.parametrize("vision", ["blind", "sighted"])
def test_a_study_with_one_kind_of_raters_is_taken_too(tmp_path: Path, tiny_folder: Path, vision: str) -> None:
    store = make_store(tmp_path)
    for number in range(3):
        judge_all(store, register(store, f"p{number}", vision), shift=number)
    started = register(store, "later", vision)
    store.save(started, store.order(started)[0], *_first(vision))
    export_judgments(store, tmp_path / "out")
    judgments = read_kreiss(tmp_path / "out")
    assert len(judgments.items) == IMAGES * TEXTS
    assert all(item.image and item.image.is_file() for item in judgments.items)
    assert {panel.raters for panel in judgments.panels} == {"BLV" if vision == "blind" else "sighted"}
    found = run("eval", "human", "--data", tmp_path / "out", "--model", tiny_folder, "--resamples", 199)
    assert found.exit_code == 0, found.output


def _first(vision: str) -> tuple[str, object]:
    phase = BEFORE if vision == "sighted" else NO_IMAGE
    return phase, answers(0, phase)


def test_a_first_rating_alone_is_taken(tmp_path: Path, tiny_folder: Path) -> None:
    store = make_store(tmp_path)
    started = register(store, "first", "sighted")
    store.save(started, store.order(started)[0], BEFORE, answers(0, BEFORE))
    export_judgments(store, tmp_path / "out")
    row = read(tmp_path / "out" / "sighted_ratings.csv")[0]
    assert row["q_overall.preimg"] == "2"
    assert row["q_overall.postimg"] == ""
    found = run("eval", "human", "--data", tmp_path / "out", "--model", tiny_folder, "--resamples", 199)
    assert found.exit_code == 0, found.output


def test_images_keep_apart_and_clear_of_attention_checks(tmp_path: Path) -> None:
    paths = [tmp_path / part for part in ("a/view.png", "b/View.jpg", "guitar.png", "own.png")]
    items = [StudyItem(str(n), path, f"h{n}", f"d{n}", "t", "x") for n, path in enumerate(paths)]
    names = image_names(items)
    assert names[paths[3]] == "own.png"
    assert len({Path(name).stem.casefold() for name in names.values()}) == 4
    assert names[paths[2]].startswith("guitar-")


def test_only_the_owner_can_read_an_export(store: JudgmentStore, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        export_judgments(store, tmp_path / "new" / "judged")
    finally:
        os.umask(before)
    found = list((tmp_path / "new" / "judged").rglob("*"))
    assert {path.stat().st_mode & 0o777 for path in found if path.is_file()} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in found if path.is_dir()} == {0o700}
    assert (tmp_path / "new" / "judged").stat().st_mode & 0o777 == 0o700


def test_an_export_to_a_folder_of_everybody_is_refused(store: JudgmentStore, tmp_path: Path) -> None:
    (tmp_path / "judged").mkdir()
    (tmp_path / "judged").chmod(0o777)
    with pytest.raises(DataError, match="every user could replace it"):
        export_judgments(store, tmp_path / "judged")
    assert list((tmp_path / "judged").iterdir()) == []


def test_an_export_that_fails_leaves_the_earlier_images_whole(
    store: JudgmentStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = export_judgments(store, tmp_path / "judged")
    before = {path: path.read_bytes() for path in done.folder.rglob("*") if path.is_file()}

    def half(source: Path, target: Path) -> None:
        Path(target).write_bytes(Path(source).read_bytes()[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", half)
    with pytest.raises(DataError, match="No space left"):
        export_judgments(store, tmp_path / "judged")
    assert {path: path.read_bytes() for path in done.folder.rglob("*") if path.is_file()} == before


def test_export_errors(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    result = run("judgments", "export", "--database", store.path, "--output", tmp_path / "out")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "holds no judgments yet" in result.stderr
    judge_all(store, register(store, "ann"))
    image = store.items()[0].image
    make_photo(image, seed=77)  # people have judged another one
    result = run("judgments", "export", "--database", store.path, "--output", tmp_path / "out")
    assert "the image of '0-0' has changed since the study began" in result.stderr
    assert not list((tmp_path / "out").glob("*/*"))
    image.unlink()
    result = run("judgments", "export", "--database", store.path, "--output", tmp_path / "out")
    assert "the image of '0-0' is gone" in result.stderr
    result = run("judgments", "summary", "--database", tmp_path / "none.db")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)


def test_summary(store: JudgmentStore) -> None:
    found = json.loads(
        run("judgments", "summary", "--database", store.path, "--json", "--resamples", 199).output
    )
    rows = {(row["group"], row["question"]): row for row in found["rows"]}
    assert len(rows) == 4 + 4 + 3
    row = rows["BLV", "overall"]
    assert (row["raters"], row["items"], row["images"], row["ratings"]) == (3, 12, IMAGES, 36)
    kept = [judgment for judgment in store.judgments() if judgment.phase == NO_IMAGE]
    items = [item.item for item in store.items()]
    values = [
        [j.ratings["overall"] for i in items for j in kept if j.item == i and j.pseudonym == name]
        for name in ("p0", "p2", "p4")
    ]
    assert row["mean"] == pytest.approx(np.mean(values))
    assert row["alpha"] == pytest.approx(krippendorff.alpha(values, level_of_measurement="ordinal"))
    text = run("judgments", "summary", "--database", store.path, "--resamples", 199).output
    assert "sighted, after the image" in text
    assert f"{row['alpha']:+.3f}" in text


def test_delete_command(store: JudgmentStore, tmp_path: Path) -> None:
    store = JudgmentStore(Path(shutil.copy(store.path, tmp_path)))
    assert run("judgments", "delete", "--database", store.path, "nobody", "--yes").exit_code == 2
    result = run("judgments", "delete", "--database", store.path, "P1", "--yes")
    assert result.output == "p1: 24 judgments deleted\n"
    assert {judgment.pseudonym for judgment in store.judgments()} == {"p0", "p2", "p3", "p4", "p5"}


def test_published_ratings_still_read_the_same(shared_data: Path | None, tmp_path: Path) -> None:
    """Files without rows of one kind are allowed; files without any are not."""
    folder = tmp_path / "empty"
    folder.mkdir()
    for name, columns in (("blv_ratings.csv", BLV_COLUMNS), ("sighted_ratings.csv", SIGHTED_COLUMNS)):
        path = write_table(folder / name, [dict.fromkeys(columns, "x")])
        path.write_text(path.read_text().splitlines()[0] + "\n")
    result = run("eval", "human", "--data", folder, "--scores", "x.csv")
    assert (result.exit_code, "holds no rows" in result.output) == (1, True)
    if shared_data:
        assert len(read_kreiss(shared_data).items) == 68


def test_a_description_is_no_formula_in_a_spreadsheet(tmp_path: Path) -> None:
    """And ``descscore eval human`` reads it as it was."""
    photos = tmp_path / "photos"
    photos.mkdir()
    make_photo(photos / "a.png", 0)
    texts = ['=HYPERLINK("http://example.org","A cat")', "- a cat", "@cat", "'=cat"]
    names = ("item", "image", "description", "article title", "article text")
    rows = [(f"i{n}", "photos/a.png", f"'{text}", "+Cats", "=Cats") for n, text in enumerate(texts)]
    items = write_table(tmp_path / "items.csv", [dict(zip(names, row, strict=True)) for row in rows])
    store = JudgmentStore.for_study(tmp_path / "study.db", read_items(items))
    assert [item.description for item in store.items()] == texts
    judge_all(store, register(store, "=p", "blind"))
    folder = export_judgments(store, tmp_path / "out").folder
    for row in read(folder / "blv_ratings.csv"):
        assert not [cell for cell in row.values() if cell[:1] in tuple("=+-@")]
    assert {item.text for item in read_kreiss(folder).items} == set(texts)
