"""``descscore eval report``: against the single commands, rendered from JSON alone, hostile names, gaps."""

from __future__ import annotations

import html.parser
import json
import re
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from matplotlib.figure import Figure
from scipy import stats

from descscore import DescScorer
from descscore.cli import main
from descscore.eval.formatting import MINUS, sentence, signed
from descscore.eval.report import measure as measuring
from descscore.eval.report.measure import PARTS, critical_r, load_subjects
from descscore.eval.report.pages import escape, to_html, to_markdown
from descscore.eval.zero_shot import PROMPTS
from report_data import IMAGES, PAIRS, TEXTS, description, make_adapter, make_data

Json = dict[str, Any]
HOSTILE = "<script>alert(1)</script> | $x_1$ [a](javascript:b) `c`\n# \"d\" 'e' & Ünï \x1b"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["eval", *map(str, arguments)])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("report") / "data")


@pytest.fixture(scope="module")
def models(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """An untuned model, and an adapter on it with a read-out."""
    return str(tiny_folder), str(make_adapter(tiny_folder, tmp_path_factory.mktemp("models") / "adapter"))


@pytest.fixture(scope="module")
def output(data: Path, models: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("output") / "new" / "folder"
    named = [part for model in models for part in ("--model", model)]
    result = run("report", "--data", data, "--output", folder, *named, "--device", "cpu", "--resamples", 199)
    assert result.exit_code == 0, result.output
    assert str(folder / "report.html") in result.stdout
    assert "not measured" not in result.stderr
    return folder


@pytest.fixture(scope="module")
def found(output: Path) -> Json:
    loaded: Json = json.loads((output / "report.json").read_text(encoding="utf-8"), parse_constant=_refuse)
    return loaded


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} in JSON")


def copy(found: Json) -> Json:
    copied: Json = json.loads(json.dumps(found))
    return copied


# The numbers


def test_every_part_is_measured_for_every_model(found: Json, models: tuple[str, str]) -> None:
    assert found["not_measured"] == []
    assert [model["name"] for model in found["models"]] == list(models)
    assert [model["readout"] for model in found["models"]] == [False, True]
    for part in PARTS:
        (measured,) = (entry for entry in found[part.section] if entry["data"] == part.data)
        text = json.dumps(measured)
        assert all(json.dumps(model) in text for model in models), part.section
    assert all(entry["without_readout"] == [models[0]] for entry in found["probability"])


def test_human_rows_are_those_of_the_command(found: Json, data: Path, models: tuple[str, str]) -> None:
    folder = data / "kreiss2022"
    scores = [f"--scores={folder / f'published_{name}_cosid.csv'}" for name in ("clipscore", "spurts")]
    named = [part for model in models for part in ("--model", model)]
    command = run("human", "--data", data, *named, *scores, "--json", "--resamples", 199)
    expected = json.loads(command.stdout)
    rows = {key(row): row for row in found["human"][0]["rows"]}
    assert len(rows) == len(expected["rows"]) == 11 * 6
    for row in expected["rows"]:
        own = rows[key(row)]
        for name in ("r", "low", "high", "p", "partial_r", "ceiling"):
            assert own[name] == pytest.approx(row[name], abs=2e-3), (key(row), name)
    assert found["human"][0]["joined"] == IMAGES * TEXTS
    assert found["human"][0]["images"] == IMAGES


def key(row: Json) -> tuple[str, ...]:
    return row["metric"], row["raters"], row["phase"], row["question"]


def test_pair_rows_are_those_of_the_commands(found: Json, data: Path, models: tuple[str, str]) -> None:
    named = [part for model in models for part in ("--model", model)]
    for command, section in (("preference", 0), ("preference", 1), ("sanity", 0), ("sanity", 1)):
        source = ("concadia", "openstax/test.parquet")[section]
        expected = json.loads(run(command, "--data", data / source, *named, "--json").stdout)["rows"]
        own = found[command][section]
        assert own["pairs"] == PAIRS
        assert all(row in own["rows"] for row in expected), (command, source)
    metrics = {row["metric"] for row in found["preference"][0]["rows"]}
    assert metrics == {*models, "CLIPScore", "longer wins", "text-only n-grams"}


def test_other_sections_are_those_of_the_commands(found: Json, data: Path, models: tuple[str, str]) -> None:
    quality = json.loads(run("quality", "--data", data, "--model", models[1], "--json").stdout)["figures"]
    own = [row for part in found["quality"] for row in part["rows"] if row["model"] == models[1]]
    figures = {row["name"]: row for row in own}
    assert len(figures) == 9
    assert all(0 <= figure["chance"] <= 1 for figure in figures.values())
    for figure in quality:
        if figure["name"] in figures:
            assert {**figure, "model": models[1]} == figures[figure["name"]]
    captions = json.loads(run("captions", "--data", data, "--model", models[1], "--json").stdout)
    taus = [row for row in found["captions"][0]["rows"] if row["model"] == models[1]]
    assert [row["tau"] for row in taus] == pytest.approx([row["tau"] for row in captions["rows"]], abs=0.02)
    path = data / "caltech101/test.parquet"
    prompts = [part for prompt in PROMPTS for part in ("--prompt", prompt)]
    zero_shot = json.loads(run("zeroshot", "--data", path, "--model", models[1], *prompts, "--json").stdout)
    rows = [row for row in found["zeroshot"][0]["rows"] if row["model"] == models[1]]
    assert [{"model": models[1]} | row for row in zero_shot["rows"]] == rows
    assert len(rows) == len(PROMPTS) + 1


def test_scatter_holds_the_scores_and_their_line(found: Json, models: tuple[str, str], data: Path) -> None:
    entry = found["human"][0]
    scorer = DescScorer.from_pretrained(models[0], device="cpu")
    for of in entry["scatter"]:
        for question in of["questions"]:
            x = np.array([point["cosine"] for point in of["points"]])
            y = np.array([point[question] for point in of["points"]])
            line = of["lines"][question]
            assert (line["slope"], line["intercept"]) == pytest.approx(tuple(np.polyfit(x, y, 1)))
            wanted = (of["model"], "BLV", None, question)
            (row,) = (row for row in entry["rows"] if key(row) == wanted)
            assert row["r"] == pytest.approx(stats.pearsonr(x, y)[0])
    first = entry["scatter"][0]["points"][0]
    photo = data / "kreiss2022/images" / "Plaza_(süd),_0.jpg"
    text = "Photo 0, «été»: a thing beside another,"
    assert first["cosine"] == pytest.approx(scorer.score(photo, text).cosine, abs=1e-5)


def test_probabilities_are_those_of_the_scorer(found: Json, models: tuple[str, str], data: Path) -> None:
    scorer = DescScorer.from_pretrained(models[1], device="cpu")
    images = [data / f"concadia/resized/{i}.jpg" for i in range(PAIRS)]
    right = [
        s.description_probability for s in scorer.score_batch(images, [description(i) for i in range(PAIRS)])
    ]
    entry = next(part for part in found["probability"] if part["data"] == "concadia")
    (row,) = entry["rows"]
    assert row["texts"] == 2 * PAIRS
    assert sum(one["n"] for one in row["bins"]) == 2 * PAIRS
    told = sum(one["n"] * one["observed"] for one in row["bins"])
    assert told == pytest.approx(len(right))
    total = sum(one["n"] * one["predicted"] for one in row["bins"])
    texts = [f"Built in {1900 + i} for Ada" for i in range(PAIRS)]
    wrong = [s.description_probability for s in scorer.score_batch(images, texts)]
    assert total == pytest.approx(sum(right) + sum(wrong), abs=1e-4)  # type: ignore[arg-type]
    loss = -np.mean(np.log([*right, *(1 - np.array(wrong, float))]))  # type: ignore[list-item]
    assert row["log_loss"] == pytest.approx(loss, abs=1e-5)


def test_critical_r_is_where_significance_begins() -> None:
    assert critical_r(68) == pytest.approx(0.2387, abs=5e-5)
    r = critical_r(30)
    assert r is not None
    t = r * np.sqrt(28 / (1 - r**2))
    assert 2 * stats.t.sf(t, 28) == pytest.approx(0.05)
    assert critical_r(3) is None


def test_no_description_is_copied_into_the_report(output: Path, data: Path) -> None:
    for name in ("report.json", "report.md", "report.html"):
        text = (output / name).read_text(encoding="utf-8")
        assert "«été»" not in text
        assert description(3) not in text


def test_images_are_encoded_once_for_all_models_of_one_tower(models: tuple[str, str], data: Path) -> None:
    first, second = load_subjects(models, "cpu")
    calls: list[int] = []
    for subject in (first, second):
        first_norm = subject.scorer.model.clip.visual.ln_pre  # patches run without their module
        first_norm.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    images = [data / f"concadia/resized/{i}.jpg" for i in (0, 1, 0)]
    results = [subject.scorer.score_batch(images, ["a", "b", "c"]) for subject in (first, second, first)]
    assert sum(calls) == 2
    fresh = DescScorer.from_pretrained(models[1], device="cpu", batch_size=2).score_batch(
        images, ["a", "b", "c"]
    )
    for own, other in zip(results[1], fresh, strict=True):
        for name in ("cosine", "clip_score", "description_probability"):
            assert getattr(own, name) == pytest.approx(getattr(other, name), abs=1e-5)
    again = pytest.approx([score.cosine for score in results[2]], abs=1e-6)
    assert [score.cosine for score in results[0]] == again
    assert results[1][0].cosine != pytest.approx(results[0][0].cosine, abs=1e-4)


# Gaps and errors


def test_rows_that_cannot_be_used_are_counted(data: Path, tiny_folder: Path, tmp_path: Path) -> None:
    part = tmp_path / "data"
    shutil.copytree(data / "concadia", part / "concadia")
    (part / "concadia/resized/3.jpg").unlink()
    arguments = ("--data", part, "--output", tmp_path / "out", "--model", tiny_folder, "--device", "cpu")
    assert run("report", *arguments).exit_code == 0
    found = json.loads((tmp_path / "out/report.json").read_text(encoding="utf-8"))
    for section in ("preference", "sanity", "probability"):
        assert found[section][0]["pairs"] == PAIRS - 1
        assert found[section][0]["unusable"] == {"missing_image": 1}
    text = (tmp_path / "out/report.md").read_text(encoding="utf-8")
    assert "11 pairs of the test split; rows that could not be used: missing image 1." in text


def test_what_is_missing_is_named_and_the_rest_measured(
    data: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    part = tmp_path / "data"
    shutil.copytree(data / "concadia", part / "concadia")
    (part / "kreiss2022").mkdir()
    shutil.copy(data / "kreiss2022/blv_ratings.csv", part / "kreiss2022")
    arguments = ("--data", part, "--output", tmp_path / "out", "--model", tiny_folder, "--device", "cpu")
    result = run("report", *arguments)
    assert result.exit_code == 0, result.output
    assert (
        "not measured: human on kreiss2022: kreiss2022/images, kreiss2022/sighted_ratings.csv"
        in result.stderr
    )
    found = json.loads((tmp_path / "out/report.json").read_text(encoding="utf-8"))
    assert [entry["data"] for entry in found["preference"]] == ["concadia"]
    assert found["human"] == found["zeroshot"] == []
    gaps = {
        (entry["section"], entry["data"], entry["what"]): entry["missing"] for entry in found["not_measured"]
    }
    assert gaps["captions", "flickr8k", "all"][0] == "flickr8k/test.parquet"
    assert gaps["preference", "concadia", "text-only n-grams"] == ["openstax/train.parquet"]
    assert len(gaps["preference", "concadia", "published CLIPScore"]) == 2
    assert gaps["preference", "openstax", "all"] == ["openstax/test.parquet"]
    for name in ("report.md", "report.html"):
        text = (tmp_path / "out" / name).read_text(encoding="utf-8")
        assert (
            "human on kreiss2022: not measured: kreiss2022/images and kreiss2022/sighted_ratings.csv" in text
        )


@pytest.mark.parametrize("there", [True, False])
def test_an_empty_or_missing_data_folder_is_an_error(tmp_path: Path, there: bool) -> None:
    if there:
        (tmp_path / "data").mkdir()
    result = run("report", "--data", tmp_path / "data", "--output", tmp_path / "out", "--model", "base")
    assert result.exit_code == 1
    assert str(tmp_path / "data") in result.stderr
    assert ("holds nothing to measure on" if there else "no such folder") in result.stderr


def test_damaged_data_are_an_error_and_no_half_report_is_left(
    data: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    part = tmp_path / "data"
    shutil.copytree(data / "concadia", part / "concadia")
    (part / "concadia/wiki_split.json").write_text("{")
    result = run("report", "--data", part, "--output", tmp_path / "out", "--model", tiny_folder)
    assert result.exit_code == 1
    assert "wiki_split.json" in result.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_wrong_calls(data: Path, tiny_folder: Path, tmp_path: Path) -> None:
    twice = run(
        "report", "--data", data, "--output", tmp_path, "--model", tiny_folder, "--model", tiny_folder
    )
    assert twice.exit_code == 2
    assert "given more than once" in twice.stderr
    (tmp_path / "file").write_text("mine")
    on_file = run("report", "--data", data, "--output", tmp_path / "file", "--model", tiny_folder)
    assert on_file.exit_code == 2
    assert "cannot be written to" in on_file.stderr
    assert (tmp_path / "file").read_text() == "mine"
    assert run("report", "--data", data).exit_code == 2


@pytest.mark.parametrize(
    "text", ["", "[]", '{"format": 2}', '{"format": 1}', '{"format": 1, "models": [{}]}']
)
def test_another_json_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(text)
    result = run("report", "--from-json", tmp_path / "other.json", "--output", tmp_path / "out")
    assert result.exit_code == 1
    assert "not a" in result.stderr
    assert "Traceback" not in result.stderr


# The pages


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of the text only: plots are drawn but not written, which takes most of the time."""
    monkeypatch.setattr(Figure, "savefig", lambda *_, **__: None)


def test_pages_come_from_the_json_alone(
    output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(measuring, "measure_report", refuse)
    result = run("report", "--from-json", output / "report.json", "--output", tmp_path)
    assert result.exit_code == 0, result.output
    for name in ("report.json", "report.md", "report.html"):
        assert (tmp_path / name).read_bytes() == (output / name).read_bytes(), name


@pytest.mark.usefixtures("no_plots")
def test_a_changed_number_changes_every_place(found: Json) -> None:
    changed = copy(found)
    name = changed["models"][0]["name"]
    row = next(row for row in changed["human"][0]["rows"] if row["metric"] == name)
    row["r"] = -0.876
    for text in (to_markdown(changed), to_html(changed)):
        # Main results, table, text of the forest and of the scatter plot.
        assert text.count(f"{MINUS}0.88") >= 4


@pytest.mark.usefixtures("no_plots")
def test_markup_in_names_is_shown_and_not_obeyed(found: Json) -> None:
    text = json.dumps(found).replace(json.dumps(found["models"][0]["name"])[1:-1], json.dumps(HOSTILE)[1:-1])
    seen = Structure(to_html(json.loads(text)))
    assert "script" not in seen.names
    assert not [a for a in seen.attributes if a[0].startswith("on")]
    assert "<script>alert(1)</script> | $x_1$" in seen.text
    markdown = to_markdown(json.loads(text))
    assert "<script" not in markdown
    assert not re.search(r"(?<!\\)\[a", markdown)
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table_of(markdown, "The models")}
    assert len(widths) == 1  # the name opens no cell of its own


def table_of(markdown: str, caption: str) -> list[str]:
    lines = markdown.splitlines()
    start = next(i for i, line in enumerate(lines) if caption in line) + 2
    stop = lines.index("", start)
    return lines[start:stop]


class Structure(html.parser.HTMLParser):
    """What an HTML text holds: elements with attributes in order, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self.elements}

    @property
    def attributes(self) -> list[tuple[str, str]]:
        return [item for _, attributes in self.elements for item in attributes.items()]

    def all(self, name: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.elements if tag == name]


def test_html_structure(output: Path) -> None:
    seen = Structure((output / "report.html").read_text(encoding="utf-8"))
    assert seen.all("html") == [{"lang": "en"}]
    ids = [value for name, value in seen.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    for address in [value for name, value in seen.attributes if name in ("href", "src")]:
        assert address.startswith("data:image/svg+xml;base64,") or address[1:] in ids
    assert all(len(image["alt"]) > 60 for image in seen.all("img"))
    assert len(seen.all("img")) == len(seen.all("figure")) == len(seen.all("figcaption")) == 3 + 8 + 2 + 2 + 2
    assert len(seen.all("table")) == len(seen.all("caption"))
    assert all(cell["scope"] in ("col", "row") for cell in seen.all("th"))
    regions = [one for one in seen.all("div") if one.get("class") == "scroll"]
    assert len(regions) == len(seen.all("table"))
    assert all(one["tabindex"] == "0" and one["aria-labelledby"] in ids for one in regions)
    levels = [int(name[1]) for name, _ in seen.elements if re.fullmatch(r"h[1-6]", name)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_the_report_says_what_the_numbers_can_show(output: Path) -> None:
    for name in ("report.md", "report.html"):
        text = Structure((output / name).read_text(encoding="utf-8")).text
        assert "A higher irrelevance rating means less irrelevant information" in text
        assert "Imaginability was not asked after the image" in text
        assert re.search(
            r"24 descriptions of 8 images: even if all were independent, \\?\|r\\?\| < 0\.40", text
        )
        assert "intervals resample whole images" in text
        assert "no estimate of what the same method reaches with a larger model" in text
        assert "OpenAI's CLIP ViT-B/32, on which published CLIPScores rest, has 151 million" in text


def test_alternatives_tell_the_plot_in_numbers(found: Json, output: Path) -> None:
    seen = Structure((output / "report.html").read_text(encoding="utf-8"))
    of = found["human"][0]["scatter"][1]
    ratings = [point["overall"] for point in of["points"]]
    r = stats.pearsonr([point["cosine"] for point in of["points"]], ratings)[0]
    own = [
        image["alt"] for image in seen.all("img") if "Scatter" in image["alt"] and of["model"] in image["alt"]
    ]
    assert len(own) == 4
    assert f"r = {signed(float(r))}" in own[0]
    assert f"mean overall rating from {min(ratings):.2f} to {max(ratings):.2f}" in own[0]


@pytest.mark.usefixtures("no_plots")
def test_undefined_numbers_are_said_to_be_so(found: Json) -> None:
    changed = copy(found)
    human = changed["human"][0]
    for row in human["rows"]:
        if row["metric"] == "CLIPScore":
            row.update(dict.fromkeys(("r", "low", "high", "p", "spearman", "kendall", "partial_r"), None))
            row["reason"] = "constant values (x)"
        row.update(ceiling=None, reliability=None, reliability_reason="negative: raters do not agree")
    human["scatter"][0]["lines"]["overall"] = None
    for row in changed["sanity"][0]["rows"][:1]:
        row.update(value=None, low=None, high=None, n=0)
    for text in (to_markdown(changed), to_html(changed)):
        assert "not defined" in text
        assert "r of CLIPScore (overall): constant values (x)." in text
        assert "negative: raters do not agree" in text
        assert "No line is fitted" in text
        assert "None" not in Structure(text).text
        assert "nan" not in Structure(text).text.lower().split()


def test_wording_of_numbers() -> None:
    assert [signed(value) for value in (0.123, -0.123, -0.001, None)] == [
        "+0.12",
        f"{MINUS}0.12",
        "0.00",
        "not defined",
    ]
    assert sentence("p is small") == "p is small."
    assert sentence("expert: 3 pairs") == "Expert: 3 pairs."
    assert escape("a_b _c_ *d* <e> | [f](g)\nh") == r"a_b \_c\_ \*d\* &lt;e&gt; \| \[f\](g) h"


def test_numbers_stand_to_the_right(output: Path) -> None:
    text = (output / "report.html").read_text(encoding="utf-8")
    models = text[text.index('<table id="models-table">') :]
    heads = Structure(models[: models.index("</thead>")]).all("th")
    assert [head.get("class") == "n" for head in heads] == [False, True, False, False, False]
