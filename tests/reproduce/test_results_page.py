"""The results page says what the results file says, and nothing else."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from descscore.errors import UsageError
from descscore.eval.formatting import markdown_table
from reproduce.results import (
    SEEDS,
    SHIPPED,
    kept_records,
    over_seeds,
    page,
    readme_table,
    runs,
    write_page,
)

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
    rows = [{"subspace": s, "k": 4, "value": value, "n": 20} for s in ("trained", "complement", "random")]
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
        "grounding_difference": {"value": 0.012, "low": -0.01, "high": 0.03, "n": 300},
        "concadia_preference": {"value": value},
        "openstax_preference": {"value": value},
        "concadia_grounding": value,
        "quality": [{"name": found, "value": value} for found in quality],
        "interchange": [*rows, {"subspace": "full swap", "k": 8, "value": 0.5, "n": 20}],
        "openstax_probability": {**probability, "bins": bins},
        "concadia_probability": {**probability, "log_loss": 0.8765, "bins": bins},
    }


@pytest.fixture
def found() -> dict[str, Any]:
    base = {k: v for k, v in record("base", 0, 0.5).items() if k != "config"} | {"interchange": None}
    made = [record("shipped", 0, 0.8), record("shipped", 1, 0.9), record("das-lora", 0, 0.7)]
    return {"baselines": {"longer wins, concadia": {"value": 0.513}}, "base": base, "runs": made}


def test_mean_and_deviation_over_seeds(found: dict[str, Any]) -> None:
    read = lambda run: run["concadia_preference"]["value"]  # noqa: E731
    assert over_seeds(found["runs"][:2], read) == "85.0 ± 7.1"  # sd of 80 and 90 with n - 1
    assert over_seeds(found["runs"][2:], read) == "70.0"
    assert over_seeds(found["runs"], lambda run: None) == "-"


def test_every_number_on_the_page_follows_the_file(found: dict[str, Any]) -> None:
    text = page(found)
    for expected in ("85.0 ± 7.1", "+1.2 (-1.0 to +3.0)", "0.432", "0.876", "51.3", "1,234,567", "1.5"):
        assert expected in text
    other = copy.deepcopy(found)
    for run in other["runs"]:
        run["concadia_preference"]["value"] -= 0.3
    changed = [a for a, b in zip(text.splitlines(), page(other).splitlines(), strict=True) if a != b]
    assert len(changed) == 3  # the goal, and the rows of the two models, and nothing else
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in rows if line.startswith(("| base |", "| shipped | 2"))}) == 2


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


def test_the_runs_are_those_that_are_promised() -> None:
    planned = list(runs())
    assert len({run.name for run in planned}) == len(planned)
    by_name: dict[str, list[int]] = {}
    for run in planned:
        by_name.setdefault(run.recipe.name, []).append(run.seed)
    for name in ("shipped", "das-lora", "bft-lora"):
        assert by_name[name] == list(SEEDS)
    assert {"das-full", "bft-full", "joint", "das-lora at the published rate"} <= set(by_name)
    assert all(len(seeds) == 1 for name, seeds in by_name.items() if "published" in name)


def test_measuring_one_model_again_keeps_the_others_records(tmp_path: Path) -> None:
    records = [record("shipped", 0, 0.5), record("shipped", 1, 0.5), record("joint", 0, 0.25)]
    (tmp_path / "results.json").write_text(json.dumps({"runs": records}), encoding="utf-8")
    assert kept_records(tmp_path / "results.json", ["shipped"]) == records[2:]
    with pytest.raises(UsageError, match=r"--again 'bft': .*results\.json knows joint, shipped"):
        kept_records(tmp_path / "results.json", ["shipped", "bft"])


def committed(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "docs" / name).read_text(encoding="utf-8"))
    return found


def test_the_committed_page_is_that_of_the_committed_file() -> None:
    found, report = (committed(name) for name in ("results.json", "report.json"))
    assert (ROOT / "docs" / "results.md").read_text(encoding="utf-8") == page(found, report)


def test_the_readme_shows_the_committed_results() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"<!-- results -->\n{readme_table(committed('results.json'))}<!-- /results -->" in readme


REPLACED = "words swapped 0.5, descriptions held 0.1, spread 0.025, contrastive 0.125"
"""The recipe that shipped before: what it kept of the base's recall, the one that ships now must keep too."""


def test_the_shipped_recipe_is_the_best_that_keeps_recall() -> None:
    lines = (ROOT / "docs" / "cross_validation.jsonl").read_text(encoding="utf-8").splitlines()
    scores: dict[str, list[float]] = {}
    kept: dict[str, float] = {}  # sum over folds and both ways; where it was not measured, none
    for record in map(json.loads, lines):
        if "score" in record:  # earlier ones were measured otherwise
            scores.setdefault(record["recipe"], []).append(record["score"])
        for way in ("image_to_text", "text_to_image"):
            name = record["recipe"]
            kept[name] = kept.get(name, 0.0) + record.get(f"recall_{way}", 0.0)
    whole = {name: sum(found) / 3 for name, found in scores.items() if len(found) == 3}
    best = max((name for name in whole if kept.get(name, 0) >= kept[REPLACED]), key=lambda name: whole[name])
    recipes = json.loads((ROOT / "docs" / "recipes.json").read_text(encoding="utf-8"))
    assert {"preset": SHIPPED.preset, **SHIPPED.changes} == recipes[best]
