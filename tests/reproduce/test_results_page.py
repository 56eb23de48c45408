"""The results page says what the results file says, and nothing else."""

from __future__ import annotations

import copy
import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from descscore.errors import DataError, UsageError
from descscore.eval.attacks import ATTACKS
from descscore.eval.formatting import markdown_table
from descscore.eval.sanity import KINDS, LESS_BASE
from descscore.training.config import Tower, preset
from report_data import PAIRS, make_data
from reproduce.results import SEEDS, SHIPPED, Run, chosen_runs, main, runs
from reproduce.results_page import Goal, over_seeds, page, readme_table, write_page

ROOT = Path(__file__).parents[2]


def record(name: str, seed: int, value: float) -> dict[str, Any]:
    quality = (
        "Flickr8k test image to text recall@10",
        "Flickr8k test text to image recall@10",
        "Caltech-101 zero-shot accuracy",
        "Tiny ImageNet val accuracy",
        "Concadia grounding (20 random other images, seed 0)",
    )
    bins = [
        {"start": 0.0, "stop": 0.5, "n": 9, "predicted": 0.2, "observed": 0.25, "low": 0.1, "high": 0.5},
        {"start": 0.5, "stop": 1.0, "n": 1, "predicted": 0.9, "observed": 1.0, "low": None, "high": None},
    ]
    probability = {"log_loss": 0.4321, "low": 0.4, "high": 0.5, "guessing": 0.693, "brier": 0.1, "texts": 10}
    swaps = ("trained", "beyond the first", "complement", "random", "found")
    rows = [{"subspace": s, "k": k, "value": value, "n": 20} for s in swaps for k in (1, 4)]
    rows.append({"subspace": "full swap", "k": 8, "value": 0.5, "n": 20})
    rows += [{**rows[-1], "subspace": "random", "k": 8, "spread": 0.0123}]
    figure = {"value": 0.0314, "low": -0.0271, "high": 0.052, "n": 300}
    names = [f"{a} over other images' {b}" for a in KINDS for b in KINDS]
    figures = {name + end: figure for name in names for end in ("", LESS_BASE)}
    attacks = {attack.name: {"value": 0.2, "ties": 3, "n": 300} for attack in ATTACKS}
    config = {
        "k": 4,
        "block": 2,
        "loss": "joint",
        "tuning": "full",
        "learning_rate": 3e-4,
        "batch_size": 24,
        "epochs": 3,
        "text_window": 32,
        "token_dropout": 0.1,
        "contrastive_weight": 0.5,
    }
    return {
        "name": name,
        "seed": seed,
        "config": config,
        "seconds": 90.0,
        "trained_values": 1234567,
        "sanity": {"figures": figures, "attacks": attacks},
        "taus": {"expert": 0.4321, "crowdflower": None},
        "concadia_preference": {"value": value},
        "openstax_preference": {"value": value},
        "concadia_grounding": value,
        "quality": [{"name": found, "value": value} for found in quality],
        "interchange": {
            "openstax": rows,
            "concadia": rows,
            "folds": [{**rows[0], "low": 0.11, "high": 0.99}],
        },
        "openstax_probability": {**probability, "bins": bins},
        "concadia_probability": {**probability, "log_loss": 0.8765, "bins": bins},
        "signature": f"descscore:0|model:{name}|text:windows",
    }


@pytest.fixture
def found() -> dict[str, Any]:
    base = {k: v for k, v in record("base", 0, 0.5).items() if k != "config"}
    base["interchange"] = {"openstax": [], "concadia": []}
    made = [record("shipped", 0, 0.8), record("shipped", 1, 0.9), record("das-lora", 0, 0.7)]
    return {"baselines": {"longer wins, concadia": {"value": 0.513}}, "base": base, "runs": made}


def test_mean_and_deviation_over_seeds(found: dict[str, Any]) -> None:
    read = lambda run: run["concadia_preference"]["value"]  # noqa: E731
    assert over_seeds(found["runs"][:2], read) == "85.0 ± 7.1"  # sd of 80 and 90 with n - 1
    assert over_seeds(found["runs"][2:], read) == "70.0"
    assert over_seeds(found["runs"], lambda run: None) == "-"


def test_every_number_on_the_page_follows_the_file(found: dict[str, Any]) -> None:
    text = page(found)
    for expected in ("85.0 ± 7.1", "| +3.1 | -2.7 to +5.2 |", "0.432", "0.876", "51.3", "1,234,567", "1.5"):
        assert expected in text
    assert "80.0 (11.0 to 99.0)" in text  # interchanges in the folds
    assert "± 1.2" in text  # over random rotations
    assert "| beats a list of its nouns | at least 75 | 79.0 | yes |" in text  # 20 % lose, 1 % tie
    other = copy.deepcopy(found)
    for run in other["runs"]:
        run["concadia_preference"]["value"] -= 0.3
    changed = [a for a, b in zip(text.splitlines(), page(other).splitlines(), strict=True) if a != b]
    # The goal, the rows of the two models, the shipped one's again among those with one loss; no others.
    assert len(changed) == 4
    tables = re.findall(r"(?:^\|.*\n)+", text, re.M)
    assert len(tables) > 8
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1, table


def test_the_plot_has_its_numbers_in_words(found: dict[str, Any], tmp_path: Path) -> None:
    write_page(found, tmp_path)
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    alt = re.search(r"!\[(.*?)\]\(reliability\.svg\)", text)
    assert alt is not None
    assert "OpenStax test: 20 → 25, 90 → 100" in alt[1]
    first = (tmp_path / "reliability.svg").read_bytes()
    write_page(found, tmp_path)
    assert (tmp_path / "reliability.svg").read_bytes() == first
    assert b"<svg" in first


def test_tables_have_as_many_cells_in_every_row() -> None:
    assert markdown_table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n"


def test_a_goal_is_met_at_its_limit() -> None:
    least, most = Goal("a", 0.5, lambda run: run["x"]), Goal("b", 0.05, lambda run: run["x"], True, False)
    assert [least.row({"x": x})[2:] for x in (0.5, 0.499, None)] == [
        ("50.0", "yes"),
        ("49.9", "no"),
        ("not measured", "-"),
    ]
    assert [most.row({"x": x})[1:] for x in (0.05, 0.051)] == [
        ("at most 0.05", "0.050", "yes"),
        ("at most 0.05", "0.051", "no"),
    ]


def test_the_page_needs_the_run_that_ships(found: dict[str, Any]) -> None:
    found["runs"] = found["runs"][1:]
    with pytest.raises(DataError, match="--only shipped-0"):
        page(found)


def test_the_runs_are_those_that_are_promised() -> None:
    by_name: dict[str, list[Run]] = {}
    for run in runs():
        by_name.setdefault(run.recipe.name, []).append(run)
    assert len(by_name) == 5
    for name, some in by_name.items():
        assert [run.seed for run in some] == list(range(SEEDS)) == [0, 1, 2, 3, 4]
        one = some[0].recipe
        rate = preset(one.preset).learning_rate
        if name.startswith("shipped"):
            assert one.preset == "small-data"
        else:
            factor = float(re.search(r" at (\d+) x its rate, 3 passes, windows of 32$", name)[1])  # type: ignore[index]
            assert one.settings(Tower()).learning_rate == pytest.approx(factor * rate)


def test_one_loss_alone_differs_from_the_shipped_recipe_in_nothing_else() -> None:
    shipped = asdict(SHIPPED.settings(Tower(192, 6)))
    for run in runs():
        if run.recipe.name.startswith("shipped,"):
            settings = asdict(run.recipe.settings(Tower(192, 6)))
            changed = {key for key, value in settings.items() if value != shipped[key]}
            assert changed - {"block", "k"} == {"loss"}


def test_runs_are_chosen_by_the_beginning_of_their_names() -> None:
    planned = runs()
    assert [run.name for run in chosen_runs(planned, ["shipped-0"])] == ["shipped-0"]
    assert len(chosen_runs(planned, ["shipped-"])) == SEEDS
    assert len(chosen_runs(planned, ["shipped", "das-lora at 100"])) == 4 * SEEDS
    assert chosen_runs(planned, []) == planned
    with pytest.raises(UsageError, match=r"--only 'bft-none': no run begins so; the runs are shipped-0"):
        chosen_runs(planned, ["shipped", "bft-none"])


def results_command(data: Path, work: Path, output: Path, *options: str) -> dict[str, Any]:
    args = ["--data", str(data), "--work", str(work), "--output", str(output), *options]
    result = CliRunner().invoke(main, args, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    made: dict[str, Any] = json.loads((output / "results.json").read_text(encoding="utf-8"))
    return made


@pytest.mark.long
def test_the_work_is_done_in_parts_and_nothing_twice(tmp_path: Path) -> None:
    data, work, output = make_data(tmp_path / "data"), tmp_path / "work", tmp_path / "docs"
    copy_splits(data)
    first = results_command(data, work, output, "--only", "shipped-0")
    assert [run["name"] for run in first["runs"]] == ["shipped"]
    shipped = first["runs"][0]
    assert {row["subspace"] for row in shipped["interchange"]["folds"]} >= {"trained", "beyond the first"}
    assert shipped["sanity"]["figures"][f"captions over other images' descriptions{LESS_BASE}"]["n"] == PAIRS
    assert {row["subspace"] for row in first["base"]["interchange"]["concadia"]} == {"found", "full swap"}
    assert "## Does the interchange earn its place?" in (output / "results.md").read_text(encoding="utf-8")

    adapter = next(work.glob("*/shipped-0/adapter_model.safetensors"))
    before = adapter.stat().st_mtime_ns
    # A run with another seed, made elsewhere, stays too.
    kept = {**shipped, "seed": 3}
    first["runs"].append(kept)
    (output / "results.json").write_text(json.dumps(first), encoding="utf-8")
    both = results_command(data, work, output, "--only", "shipped, preference loss alone-0")
    assert both["runs"].pop(1) == kept
    assert [run["name"] for run in both["runs"]] == ["shipped", "shipped, preference loss alone"]
    assert both["runs"][0] == shipped
    assert adapter.stat().st_mtime_ns == before
    rows = {row["subspace"] for row in both["runs"][1]["interchange"]["openstax"]}
    assert rows == {"found", "full swap"}

    # The page comes from the file alone; records outlive their folder.
    shutil.rmtree(work)
    page_before = (output / "results.md").read_bytes()
    (output / "results.md").unlink()
    result = CliRunner().invoke(main, ["--output", str(output), "--from-json"])
    assert result.exit_code == 0, result.output
    assert (output / "results.md").read_bytes() == page_before


def copy_splits(data: Path) -> None:
    """A validation split, whose descriptions give the percentiles, and photos that join the training."""
    shutil.copy(data / "openstax/test.parquet", data / "openstax/val.parquet")
    shutil.copy(data / "flickr8k/test.parquet", data / "flickr8k/train.parquet")


def committed(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "docs" / name).read_text(encoding="utf-8"))
    return found


def test_the_committed_page_is_that_of_the_committed_file() -> None:
    found, report = (committed(name) for name in ("results.json", "report.json"))
    assert (ROOT / "docs" / "results.md").read_text(encoding="utf-8") == page(found, report)


def test_the_readme_shows_the_committed_results() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"<!-- results -->\n{readme_table(committed('results.json'))}<!-- /results -->" in readme
