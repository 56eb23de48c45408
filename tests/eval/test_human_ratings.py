"""Metrics against people's ratings: reading, joining, rows, and the published numbers."""

from __future__ import annotations

import csv
import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from scipy import stats

from conftest import make_photo
from descscore import DescScorer
from descscore.errors import DataError
from descscore.eval.cli import human
from descscore.eval.human import HumanResult, HumanRow, human_result, table_lines
from descscore.eval.metric_scores import join, read_scores
from descscore.eval.ratings import read_kreiss
from descscore.eval.statistics.bootstrap import Resampling
from descscore.options import Group
from report_data import write_csv

QUICK = Resampling(resamples=199)
IMAGES = 8
TEXTS = 3
BLV = ("q_overall", "q_reconstructivity", "q_relevance", "q_irrelevance")
SIGHTED = tuple(
    question + phase
    for question in BLV
    for phase in (".preimg", ".postimg")
    if (question, phase) != ("q_reconstructivity", ".postimg")
)

# r with the mean ratings of 68 descriptions, recomputed from the ratings and scores that Kreiss et al.
# (2022) released; for overall, imaginability, relevance and irrelevance.
PUBLISHED = {
    ("CLIPScore", "BLV", None): (0.075, 0.105, 0.085, 0.089),
    ("CLIPScore", "sighted", "before"): (-0.014, 0.065, 0.000, -0.167),
    ("CLIPScore", "sighted", "after"): (0.138, None, 0.106, -0.080),
    ("SPURTS", "BLV", None): (0.412, 0.248, 0.256, -0.249),
    ("length", "BLV", None): (0.573, 0.451, 0.238, -0.284),
    ("length", "sighted", "before"): (0.004, 0.025, 0.013, -0.473),
    ("length", "sighted", "after"): (0.049, None, 0.034, -0.482),
}
PUBLISHED_PARTIAL = {
    "CLIPScore": (0.085, 0.113, 0.086, 0.095),
    "SPURTS": (0.210, 0.056, 0.172, -0.142),
}
PUBLISHED_RELIABILITY = ((0.62, 0.79), (0.54, 0.73), (0.50, 0.71), (0.12, 0.34))
QUESTIONS = ("overall", "imaginability", "relevance", "irrelevance")


def description(image: int, text: int) -> str:
    return f"Photo {image}, «été»: " + "a thing beside another, " * (1 + (image + 2 * text) % 5)


def photo_name(image: int) -> str:
    return f"Plaza_(süd),_{image}.jpg"


@pytest.fixture
def kreiss(tmp_path: Path) -> Path:
    """A small folder in the form of the published one, with an attention check in every file."""
    folder = tmp_path / "kreiss2022"
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    quality = rng.standard_normal((IMAGES, TEXTS))

    def rating(image: int, text: int) -> int:
        return int(np.clip(np.round(3 + quality[image, text] + rng.standard_normal()), 1, 5))

    blv, sighted, clip, spurts = [], [], [], []
    for image in range(IMAGES):
        make_photo(folder / "images" / photo_name(image), seed=image)
        for text in range(TEXTS + 1):
            common = {"img_id": f"place{image}", "description": description(image, text)}
            rated = text < TEXTS  # the last text of each image has only sighted raters
            if not rated:
                common["description"] += "and only sighted people rated this."
            if rated:
                for rater in range(4):
                    answers = {question: rating(image, text) for question in BLV}
                    blv.append({"context": "c", "participant": f"p{rater}", **common, **answers})
                where = {"imgstem_version": f"{photo_name(image)[:-4]}_version{text}"}
                value = float(quality[image, text] + rng.standard_normal())
                clip.append(
                    {**where, "texts": common["description"], "text_controls": "", "clipscore": value}
                )
                controls = {"text_controls": common["description"].lower()}
                more = {"SPURTS_score": -value, "MIMA_score": 0.5}
                spurts.append({"texts": common["description"], **controls, **more})
            for rater in range(2 + (image + text) % 3):
                answers = {question: rating(image, text % TEXTS) for question in SIGHTED}
                who = {"anon_worker_id": f"w{rater}", "img_file": photo_name(image)}
                sighted.append({**who, **common, **answers})
    check = {**sighted[0], "img_id": "guitar", "img_file": "guitar.jpg", "description": "A guitar."}
    sighted.append(check)
    clip.append({"imgstem_version": "guitar", "texts": "A guitar.", "text_controls": "", "clipscore": 9})
    spurts.append({"texts": "A guitar.", "text_controls": "", "SPURTS_score": 9, "MIMA_score": 9})
    write_csv(folder / "blv_ratings.csv", blv)
    write_csv(folder / "sighted_ratings.csv", sighted)
    write_csv(folder / "published_clipscore_cosid.csv", clip)
    write_csv(folder / "published_spurts_cosid.csv", spurts)
    return folder


def run(*arguments: object) -> Result:
    group = Group("eval", commands={"human": human})
    return CliRunner().invoke(group, ["human", *map(str, arguments)])


def result_of(folder: Path, *files: str, resampling: Resampling = QUICK) -> HumanResult:
    judgments = read_kreiss(folder)
    return human_result(
        judgments, [join(judgments.items, read_scores(folder / f)) for f in files], resampling
    )


def row_of(result: HumanResult, metric: str, raters: str, phase: str | None, question: str) -> HumanRow:
    found = [
        row
        for row in result.rows
        if (row.metric, row.raters, row.phase, row.question) == (metric, raters, phase, question)
    ]
    assert len(found) == 1
    return found[0]


def edit(path: Path, change: Any) -> None:
    """Rewrite a CSV file with ``change(rows)``."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    write_csv(path, change(rows) or rows)


# The published numbers


def test_published_files_give_the_published_numbers(kreiss: Path, shared_data: Path | None) -> None:
    """All recomputed rows of the table, where the published files are at hand; its shape anywhere."""
    folder = shared_data / "kreiss2022" if shared_data else kreiss
    files = ("published_clipscore_cosid.csv", "published_spurts_cosid.csv")
    result = result_of(folder, *files)
    # Four questions to BLV and to sighted raters before the image, three after it.
    assert len(result.rows) == 11 * 4
    assert {row.metric for row in result.rows} == {"CLIPScore", "SPURTS", "length", "log length"}
    if folder == kreiss:
        return
    assert (result.joined, {row.n for row in result.rows}, {row.clusters for row in result.rows}) == (
        68,
        {68},
        {18},
    )
    for (metric, raters, phase), values in PUBLISHED.items():
        for question, value in zip(QUESTIONS, values, strict=True):
            if value is not None:
                row = row_of(result, metric, raters, phase, question)
                assert row.r == pytest.approx(value, abs=0.0015), row
    for metric, values in PUBLISHED_PARTIAL.items():
        for question, value in zip(QUESTIONS, values, strict=True):
            assert row_of(result, metric, "BLV", None, question).partial_r == pytest.approx(value, abs=0.0015)
    assert row_of(result, "log length", "BLV", None, "overall").r == pytest.approx(0.650, abs=0.0015)
    for question, (reliability, ceiling) in zip(QUESTIONS, PUBLISHED_RELIABILITY, strict=True):
        row = row_of(result, "length", "BLV", None, question)
        assert round(row.reliability, 2) == reliability
        assert round(row.ceiling, 2) == ceiling


def test_no_row_is_silently_undefined(kreiss: Path) -> None:
    for row in result_of(kreiss, "published_clipscore_cosid.csv").rows:
        assert (row.r is None or row.low is None) == (row.reason is not None)
        assert (row.partial_r is None) == (row.partial_reason is not None) == (row.metric == "length")
        assert (row.ceiling is None) == (row.reliability_reason is not None)


# Reading and joining


def test_means_are_those_of_the_file(kreiss: Path) -> None:
    judgments = read_kreiss(kreiss)
    with (kreiss / "blv_ratings.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    scores = {
        r["texts"].strip(): float(r["clipscore"]) for r in _rows(kreiss / "published_clipscore_cosid.csv")
    }
    texts = sorted({row["description"].strip() for row in rows})
    means = [np.mean([int(r["q_overall"]) for r in rows if r["description"].strip() == t]) for t in texts]
    expected = stats.pearsonr([scores[text] for text in texts], means)
    row = row_of(result_of(kreiss, "published_clipscore_cosid.csv"), "CLIPScore", "BLV", None, "overall")
    assert (row.r, row.pearson_p) == (pytest.approx(expected.statistic), pytest.approx(expected.pvalue))
    assert row.spearman == pytest.approx(stats.spearmanr([scores[t] for t in texts], means).statistic)
    assert row.kendall == pytest.approx(stats.kendalltau([scores[t] for t in texts], means).statistic)
    assert len(judgments.items) == IMAGES * TEXTS
    assert row.clusters == IMAGES


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_what_is_dropped_is_counted(kreiss: Path) -> None:
    result = result_of(kreiss, "published_clipscore_cosid.csv", "published_spurts_cosid.csv")
    counts = {drop.what: drop.count for drop in result.drops}
    assert counts == {
        "descriptions that only sighted people rated": IMAGES,
        "ratings of attention checks": 1,
        "blank ratings": 0,
        "CLIPScore scores of attention checks": 1,
        "CLIPScore scores of texts without ratings": 0,
        "SPURTS scores of attention checks": 0,
        "SPURTS scores of texts without ratings": 1,
    }
    assert result.dropped == IMAGES + 3


def test_blank_ratings_are_counted_and_others_named(kreiss: Path) -> None:
    path = kreiss / "blv_ratings.csv"
    for blank in ("NA", "\u200b"):
        edit(path, lambda rows, blank=blank: rows[0].update(q_overall=blank))
        judgments = read_kreiss(kreiss)
        assert [drop.count for drop in judgments.drops if drop.what == "blank ratings"] == [1]
    assert len(judgments.panels[0].ratings[0]) == 3
    edit(path, lambda rows: rows[0].update(q_overall="often"))
    with pytest.raises(DataError, match="line 2: q_overall is 'often', not a number"):
        read_kreiss(kreiss)
    edit(path, lambda rows: rows[0].update(q_overall="6"))
    with pytest.raises(DataError, match="ratings run from 1 to 5"):
        read_kreiss(kreiss)


def test_repeated_ratings_and_texts_are_named(kreiss: Path) -> None:
    path = kreiss / "blv_ratings.csv"
    original = path.read_bytes()
    edit(path, lambda rows: [*rows, rows[0]])
    with pytest.raises(DataError, match=r"rater 'p0' rates 'Photo 0.* a second time"):
        read_kreiss(kreiss)
    path.write_bytes(original)
    edit(path, lambda rows: rows[1].update(img_id="elsewhere"))
    with pytest.raises(DataError, match="belongs to image 'elsewhere', earlier to 'place0'"):
        read_kreiss(kreiss)


def test_missing_files_and_columns_are_named(kreiss: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"blv_ratings\.csv"):
        read_kreiss(tmp_path / "nowhere")
    edit(
        kreiss / "blv_ratings.csv",
        lambda rows: [{k: v for k, v in r.items() if k != "q_overall"} for r in rows],
    )
    with pytest.raises(DataError, match="lacks column q_overall"):
        read_kreiss(kreiss)
    (kreiss / "sighted_ratings.csv").unlink()
    edit(kreiss / "blv_ratings.csv", lambda rows: [{**r, "q_overall": 3} for r in rows])
    with pytest.raises(DataError, match=r"sighted_ratings\.csv: No such file"):
        read_kreiss(kreiss)


def test_scores_that_do_not_join_are_named(kreiss: Path) -> None:
    items, path = read_kreiss(kreiss).items, kreiss / "published_clipscore_cosid.csv"
    original = path.read_bytes()
    edit(path, lambda rows: rows[2:])
    with pytest.raises(DataError, match="no CLIPScore for 2 of 24 rated texts: 'Photo 0"):
        join(items, read_scores(path))
    path.write_bytes(original)
    edit(path, lambda rows: [*rows, rows[3]])
    with pytest.raises(DataError, match="more than one row for 'Photo 1"):
        read_scores(path)
    path.write_bytes(original)
    edit(path, lambda rows: rows[0].update(clipscore=""))
    with pytest.raises(DataError, match="clipscore is blank for 'Photo 0"):
        read_scores(path)
    edit(path, lambda rows: rows[0].update(clipscore="inf"))
    with pytest.raises(DataError, match="clipscore is 'inf', not a number"):
        read_scores(path)


def test_columns_are_found_or_asked_for(kreiss: Path, tmp_path: Path) -> None:
    spurts = kreiss / "published_spurts_cosid.csv"
    assert read_scores(spurts).metric == "SPURTS"
    mima = read_scores(spurts, score_column="MIMA_score")
    assert mima.metric == "published_spurts_cosid:MIMA_score"
    own = write_csv(tmp_path / "own.csv", [{"words": "a", "text": "b", "score": 1, "cosine": 2}])
    with pytest.raises(DataError, match="more than one of score, cosine; name the column"):
        read_scores(own)
    assert read_scores(own, "words", "cosine").values == {"a": 2.0}
    with pytest.raises(DataError, match="lacks column nothing"):
        read_scores(own, score_column="nothing")
    with pytest.raises(DataError, match="none of texts, text"):
        read_scores(write_csv(tmp_path / "bare.csv", [{"words": "a", "score": 1}]))


def test_join_does_not_depend_on_how_text_is_encoded(kreiss: Path) -> None:
    items, path = read_kreiss(kreiss).items, kreiss / "published_clipscore_cosid.csv"
    plain = join(items, read_scores(path)).values
    rows = _rows(path)
    for row in rows:
        row["texts"] = unicodedata.normalize("NFD", row["texts"]) + "\n"
    write_csv(path, rows[::-1])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert join(items, read_scores(path)).values.tolist() == plain.tolist()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "holds no rows"),
        (b"texts,clipscore\n", "holds no rows"),
        (b"texts,clipscore\na,1,2\n", "line 2: has 3 cells, the header 2"),
        (b"texts,clipscore\na\n", "line 2: has 1 cells, the header 2"),
        (b"texts,clipscore\n\xff,1\n", "line 2: column 'texts' is not UTF-8"),
        (b'texts,clipscore\n"' + b"a" * 1_200_000 + b'",1\n', "line 2: a cell holds over 1,048,576"),
        (b"texts,clipscore,texts\na,1,b\n", "has column 'texts' 2 times"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "scores.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"scores\.csv: {words}"):
        read_scores(path)


# Rows


def test_baselines_and_differences(kreiss: Path) -> None:
    result = result_of(kreiss, "published_clipscore_cosid.csv", "published_spurts_cosid.csv")
    pairs = {(row.first, row.second) for row in result.differences}
    assert pairs == {
        ("CLIPScore", "SPURTS"),
        ("CLIPScore", "length"),
        ("CLIPScore", "log length"),
        ("SPURTS", "length"),
        ("SPURTS", "log length"),
    }
    for row in result.differences:
        first, second = (
            row_of(result, name, row.raters, row.phase, row.question) for name in (row.first, row.second)
        )
        assert row.difference == pytest.approx(first.r - second.r)
        assert row.low < row.difference < row.high
    lengths = [len(item.text) for item in read_kreiss(kreiss).items]
    ratings = [np.mean(values) for values in read_kreiss(kreiss).panels[0].ratings]
    baseline = row_of(result, "log length", "BLV", None, "overall")
    assert baseline.r == pytest.approx(stats.pearsonr(np.log(lengths), ratings).statistic)
    assert row_of(result, "length", "BLV", None, "overall").partial_reason is not None


def test_constant_scores_are_not_defined_with_a_reason(kreiss: Path) -> None:
    edit(kreiss / "published_clipscore_cosid.csv", lambda rows: [{**r, "clipscore": 0.5} for r in rows])
    result = result_of(kreiss, "published_clipscore_cosid.csv")
    row = row_of(result, "CLIPScore", "BLV", None, "overall")
    assert (row.r, row.p, row.low, row.spearman, row.partial_r) == (None,) * 5
    assert row.reason == row.partial_reason == "constant values (scores)"
    assert result.differences[0].reason == "constant values (CLIPScore)"
    text = "\n".join(table_lines(result))
    assert "  constant values (scores): CLIPScore (BLV, overall); " in text
    assert "nan" not in text.lower()


def test_two_metrics_of_one_name_are_refused(kreiss: Path) -> None:
    with pytest.raises(DataError, match="two metrics have the same name"):
        result_of(kreiss, "published_clipscore_cosid.csv", "published_clipscore_cosid.csv")


# The command


def test_command_prints_a_table_and_json(kreiss: Path) -> None:
    scores = kreiss / "published_clipscore_cosid.csv"
    arguments = ("--data", kreiss.parent, "--scores", scores, "--resamples", 199)
    table = run(*arguments)
    assert table.exit_code == 0, table.output
    assert "joined: 24 rated texts; dropped: 10" in table.output
    assert "a higher rating means less of it" in table.output
    assert "BLV: blind and low-vision readers" in table.output
    assert "imaginability was not asked after the image" in table.output
    lines = [line for line in table.output.splitlines() if line.startswith(("metric", "CLIPScore  "))]
    assert len(lines) == 12
    assert len({len(line) for line in lines}) == 1
    found = json.loads(run(*arguments, "--json").output)
    row = found["rows"][0]
    assert (row["metric"], row["raters"], row["phase"], row["question"]) == (
        "CLIPScore",
        "BLV",
        None,
        "overall",
    )
    assert f"{row['r']:+.3f}" in lines[1]
    assert (found["joined"], found["dropped"]) == (24, IMAGES + 2)
    assert any("imaginability" in note for note in found["notes"])
    assert "bootstrap-t:199|seed:0" in found["signature"]
    other = json.loads(run(*arguments, "--json", "--seed", 1).output)
    assert other["rows"][0]["r"] == row["r"]
    assert other["rows"][0]["low"] != row["low"]


def test_the_table_of_a_small_study_says_each_reason_once_and_leaves_out_what_nobody_answered(
    kreiss: Path,
) -> None:
    """An export of own questions leaves the published columns blank; every row of them used to be printed."""

    def shorten(rows: list[dict[str, str]]) -> list[dict[str, str]]:
        return [row | {"q_relevance": ""} for row in rows[:2]]

    edit(kreiss / "blv_ratings.csv", shorten)
    result = run("--data", kreiss, "--scores", kreiss / "published_spurts_cosid.csv", "--resamples", 199)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert not any("relevance" in line.split() and "BLV" in line.split() for line in lines[:-20])
    assert "without ratings: relevance (BLV)" in result.output
    assert sum("too few items (" in line for line in lines) <= 2
    found = json.loads(run("--data", kreiss, "--resamples", 199, "--json").output)
    assert any(row["question"] == "relevance" and row["raters"] == "BLV" for row in found["rows"])


def test_command_scores_with_a_model(kreiss: Path, tiny_folder: Path) -> None:
    result = run("--data", kreiss, "--model", tiny_folder, "--resamples", 199, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    items = read_kreiss(kreiss).items
    scorer = DescScorer.from_pretrained(tiny_folder)
    cosines = [s.cosine for s in scorer.score_batch([i.image for i in items], [i.text for i in items])]
    means = [np.mean(values) for values in read_kreiss(kreiss).panels[0].ratings]
    assert found["rows"][0]["r"] == pytest.approx(stats.pearsonr(cosines, means).statistic)
    assert scorer.signature in found["signature"]
    both = run(
        *("--data", kreiss, "--model", tiny_folder, "--scores", kreiss / "published_spurts_cosid.csv"),
        *("--resamples", 199, "--json"),
    )
    metrics = {row["metric"] for row in json.loads(both.output)["rows"]}
    assert metrics == {"SPURTS", str(tiny_folder), "length", "log length"}


def test_command_errors_are_one_line(kreiss: Path, tmp_path: Path) -> None:
    missing = run("--data", tmp_path / "nowhere", "--scores", "x.csv")
    assert (missing.exit_code, missing.output.count("\n")) == (1, 1)
    assert "holds neither blv_ratings.csv nor kreiss2022/blv_ratings.csv" in missing.output
    (kreiss / "images" / photo_name(2)).unlink()
    assert "none for 3 of 24 rated texts ('Photo 2" in run("--data", kreiss).output
    assert run("--data", kreiss, "--resamples", 3).exit_code == 2
