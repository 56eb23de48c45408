"""Ratings that a user gathered: a CSV with one rating a row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from descscore.cli import Group
from descscore.errors import DataError, UsageError
from descscore.eval.cli import human
from descscore.eval.human import HumanResult, HumanRow, human_result
from descscore.eval.metric_scores import join, read_scores
from descscore.eval.ratings import read_ratings
from descscore.eval.statistics.bootstrap import Resampling
from report_data import write_csv

QUICK = Resampling(resamples=199)


def run(*arguments: object) -> Result:
    group = Group("eval", commands={"human": human})
    return CliRunner().invoke(group, ["human", *map(str, arguments)])


def row_of(result: HumanResult, metric: str, raters: str, phase: str | None, question: str) -> HumanRow:
    found = [
        row
        for row in result.rows
        if (row.metric, row.raters, row.phase, row.question) == (metric, raters, phase, question)
    ]
    assert len(found) == 1
    return found[0]


def long_form(groups: str = "raters") -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    rows = []
    for item in range(20):
        for rater in range(6):
            group = ("blind", "sighted")[rater % 2] if groups == "raters" else f"photo {item // 2}"
            value = round(float(item % 7 + rng.standard_normal()), 3)
            common = {"rater": f"r{rater}", "question": "useful", "value": value, "group": group}
            rows.append({"item": f"Text {'x' * item}", **common})
    return rows


def test_groups_of_raters_are_reported_apart(tmp_path: Path) -> None:
    judgments = read_ratings(write_csv(tmp_path / "own.csv", long_form()))
    assert [(p.raters, p.phase, p.question) for p in judgments.panels] == [
        ("blind", None, "useful"),
        ("sighted", None, "useful"),
    ]
    assert all(len(ratings) == 3 for panel in judgments.panels for ratings in panel.ratings)
    scores = [{"text": item.key, "score": i % 7} for i, item in enumerate(judgments.items)]
    joined = join(judgments.items, read_scores(write_csv(tmp_path / "scores.csv", scores)))
    result = human_result(judgments, [joined], QUICK)
    row = row_of(result, "scores:score", "blind", None, "useful")
    assert (row.n, row.clusters) == (20, 20)
    assert row.r > 0.9
    assert row.low > 0.8
    assert "own.csv is taken to group raters" in " ".join(result.notes)


def test_groups_of_items_are_resampled_together(tmp_path: Path) -> None:
    judgments = read_ratings(write_csv(tmp_path / "own.csv", long_form("items")))
    assert [panel.raters for panel in judgments.panels] == ["all"]
    assert len({item.cluster for item in judgments.items}) == 10
    rows = [{**row, "image": row["group"], "group": "blind"} for row in long_form("items")]
    with_image = read_ratings(write_csv(tmp_path / "image.csv", rows))
    assert [panel.raters for panel in with_image.panels] == ["blind"]
    assert len({item.cluster for item in with_image.items}) == 10


def test_groups_that_could_be_either_are_asked_for(tmp_path: Path) -> None:
    rows = [{**row, "rater": row["rater"] + row["group"]} for row in long_form("items")]
    path = write_csv(tmp_path / "own.csv", rows)
    with pytest.raises(DataError, match="say whether groups are of raters or of items"):
        read_ratings(path)
    assert len(read_ratings(path, "raters").panels) == 10
    assert len(read_ratings(path, "items").panels) == 1
    with pytest.raises(UsageError, match="groups 'both'"):
        read_ratings(path, "both")  # type: ignore[arg-type]


def test_an_item_few_rated_is_left_out_of_that_row_only(tmp_path: Path) -> None:
    rows = long_form()
    extra = [{**row, "question": "clear"} for row in rows if row["item"] != rows[0]["item"]]
    rows[0]["value"] = ""
    judgments = read_ratings(write_csv(tmp_path / "own.csv", rows + extra))
    result = human_result(judgments, [], QUICK)
    assert row_of(result, "length", "blind", None, "useful").n == 20
    assert row_of(result, "length", "blind", None, "clear").n == 19
    assert [drop.count for drop in result.drops] == [1]


def test_lengths_are_those_of_the_text_column(tmp_path: Path) -> None:
    rows = [{**row, "text": "word " * len(row["item"]) + "end"} for row in long_form()]
    judgments = read_ratings(write_csv(tmp_path / "own.csv", rows))
    assert [len(item.text) for item in judgments.items][:3] == [28, 33, 38]
    assert not any("no column text" in note for note in judgments.notes)
    rows[1]["text"] = "another"
    with pytest.raises(DataError, match="another text, image, group or context than before"):
        read_ratings(write_csv(tmp_path / "own.csv", rows))


def test_bad_ratings_are_named(tmp_path: Path) -> None:
    rows = long_form()
    with pytest.raises(DataError, match="lacks column group"):
        read_ratings(write_csv(tmp_path / "own.csv", [{k: r[k] for k in list(r)[:4]} for r in rows]))
    with pytest.raises(DataError, match=r"line 122: rater 'r5' rates 'Text x+' a second time"):
        read_ratings(write_csv(tmp_path / "own.csv", [*rows, rows[-1]]))
    with pytest.raises(DataError, match="line 2: item is blank"):
        read_ratings(write_csv(tmp_path / "own.csv", [{**rows[0], "item": " "}, *rows[1:]]))


@pytest.mark.parametrize("unseen", ["\u200b", "&nbsp;", "\u2800 \ufeff"])
def test_cells_in_which_nobody_can_see_anything_are_blank(tmp_path: Path, unseen: str) -> None:
    rows = long_form()
    with pytest.raises(DataError, match="line 2: item is blank"):
        read_ratings(write_csv(tmp_path / "own.csv", [{**rows[0], "item": unseen}, *rows[1:]]))
    blank = [{**rows[0], "value": unseen}, *({**row, "text": unseen, "image": unseen} for row in rows[1:])]
    usual = read_ratings(write_csv(tmp_path / "own.csv", [{**rows[0], "value": ""}, *rows[1:]]))
    found = read_ratings(write_csv(tmp_path / "own.csv", [{**blank[0], "text": "", "image": ""}, *blank[1:]]))
    assert found.items == usual.items
    assert [drop.count for drop in found.drops] == [drop.count for drop in usual.drops] == [1]


def test_few_items_are_not_defined(tmp_path: Path) -> None:
    rows = [row for row in long_form() if len(row["item"]) < 8]
    result = human_result(read_ratings(write_csv(tmp_path / "own.csv", rows)), [], QUICK)
    assert {row.reason for row in result.rows} == {"too few items (3, at least 4 are needed)"}


def test_command_takes_other_ratings(tmp_path: Path) -> None:
    ratings = write_csv(tmp_path / "own.csv", long_form("items"))
    items = read_ratings(ratings).items
    scores = write_csv(tmp_path / "s.csv", [{"item": x.key, "score": len(x.key) % 5} for x in items])
    found = run("--ratings", ratings, "--scores", scores, "--resamples", 199, "--json")
    assert found.exit_code == 0, found.output
    assert {row["clusters"] for row in json.loads(found.output)["rows"]} == {10}
    shown = run("--ratings", ratings, "--scores", scores, "--resamples", 199).output
    assert "note: r: Pearson's correlation" in shown
    assert "BLV" not in shown  # nobody of that group rated
    alone = run("--ratings", ratings)
    assert alone.exit_code == 1
    assert "a model needs images, and there is none for 20 of 20 rated texts ('Text'" in alone.output
