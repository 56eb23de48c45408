"""Pages whose numbers come from a file are, to the byte, what that file gives.

``docs/results.md`` and the README's tables are compared in ``test_results_page.py``, the model card's table
in ``test_quality.py``, performance and scaling in ``test_performance_pages.py``; here are the rest, and that
no generated part is left without such a test.
"""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from descscore.texts import DEFAULT_POLICY
from doc_pages import ROOT, pages, read
from reproduce import cost
from reproduce.audit import RATES
from reproduce.bands import BANDS_PART
from reproduce.explanations import STARTS
from reproduce.pages import Part
from reproduce.results_page import write_figures, write_page

DOCS = ROOT / "docs"
GENERATED = {
    "CONTRIBUTING.md": {"layers", "tree"},
    "README.md": {"results"},
    "docs/audit_rules.md": {"rates"},
    "docs/concepts.md": {"bands"},
    "docs/explanations.md": {"cases", "starts"},
    "docs/getting_started.md": {"demo"},
    "docs/models.md": {"families"},
    "docs/performance.md": {"measured", "gpu"},
    "docs/training.md": {"cost"},
    "docs/scaling.md": {"billion"},
}
"""Parts between ``<!-- name -->`` and ``<!-- /name -->`` that a command writes."""


def loaded(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DOCS / name).read_text(encoding="utf-8"))
    return found


def marked(page: str) -> set[str]:
    return set(re.findall(r"^<!-- /(\w+) -->$", read(page), re.M))


@pytest.mark.parametrize("page", pages())
def test_every_generated_part_is_known(page: str) -> None:
    assert marked(page) == GENERATED.get(page, set())


def drawn_text(path: Path) -> list[str]:
    """What a plot says in letters, where it has any; its parts and glyphs otherwise.

    Releases of matplotlib number the glyphs of a font differently, so a glyph is named by its
    first use: two plots are alike where the same glyphs stand in the same places. Names of clips and
    hatches are hashes that differ too.
    """
    root = ET.parse(path).getroot()
    letters = [c.text or "" for c in root.iter() if c.tag is ET.Comment]
    used: dict[str, str] = {}
    parts = [e.get("{http://www.w3.org/1999/xlink}href", e.get("id", "")) for e in root.iter()]
    named = [
        used.setdefault(part, f"glyph {len(used)}") if re.match(r"#DejaVu.*-[0-9a-f]+$", part) else part
        for part in parts
        if not re.match(r"DejaVu.*-[0-9a-f]+$", part)
    ]
    return letters or [re.sub(r"^([ph])[0-9a-f]{10}$", r"\1", name) for name in named]


def test_results_page_and_its_plots_are_those_of_the_files(tmp_path: Path) -> None:
    write_page(loaded("results.json"), tmp_path, loaded("report.json"))
    write_figures(loaded("report.json"), tmp_path)
    assert (tmp_path / "results.md").read_bytes() == (DOCS / "results.md").read_bytes()
    plots = sorted(path.name for path in tmp_path.glob("*.svg"))
    assert plots == sorted(path.name for path in DOCS.glob("*.svg"))
    for name in plots:
        assert drawn_text(tmp_path / name) == drawn_text(DOCS / name), name


@pytest.mark.parametrize("part", [cost.PART, STARTS, BANDS_PART, RATES], ids=lambda part: part.data)
def test_a_part_of_a_page_is_that_of_its_file(part: Part) -> None:
    page = read(f"docs/{part.page}")
    assert part.put_in(page, loaded(part.data)) == page


def test_the_default_text_policy_is_the_one_that_the_figures_chose() -> None:
    assert loaded("long_texts.json")["chosen"] == DEFAULT_POLICY


def test_the_default_text_policy_is_the_one_that_concepts_names() -> None:
    rows = [
        line
        for line in read("docs/concepts.md").splitlines()
        if line.startswith("|") and "the default" in line.lower()
    ]
    assert len(rows) == 1
    assert rows[0].startswith(f"| `{DEFAULT_POLICY}` |")


def test_the_table_of_presets_is_that_of_the_code() -> None:
    from descscore.training.config import PRESETS, preset

    lines = [
        line for line in read("docs/training.md").splitlines() if re.match(r"\| `[\w-]+` \| (LoRA|all)", line)
    ]
    rows = {cells[1].strip("`"): cells for line in lines if (cells := [c.strip() for c in line.split("|")])}
    assert sorted(rows) == sorted(PRESETS)
    for name, cells in rows.items():
        config = preset(name)
        lora = "LoRA on the whole tower" if config.lora_targets == "tower" else "LoRA"
        assert cells[2] == (lora if config.tuning == "lora" else "all text weights")
        assert cells[3].startswith("both" if config.loss == "joint" else config.loss)
        assert float(cells[4]) == config.learning_rate
        assert cells[5] == ("" if config.lora_rank is None else str(config.lora_rank))
        assert cells[6] == ("" if config.k is None else str(config.k))


def test_the_columns_of_a_batch_are_those_of_the_code() -> None:
    from descscore.batch.shards import SCHEMA

    page = read("docs/formats.md")
    part = page[page.index("## Scores of a batch") : page.index("All numbers are null")]
    rows = re.findall(r"^\| `(\w+)` \| (\w+)", part, re.M)
    types = {"float": "float32", "int32": "int32", "bool": "bool", "string": "string"}
    assert rows == [(field.name, types[str(field.type)]) for field in SCHEMA]


def test_the_columns_of_a_study_are_those_of_the_code() -> None:
    from descscore.study.export import BLV_COLUMNS, SIGHTED_COLUMNS
    from descscore.study.items import COLUMNS

    page = read("docs/formats.md")
    items = page[page.index("## Items of a study") : page.index("## Judgments of a study")]
    assert [name for name in COLUMNS if f"`{name}`" not in items] == []
    part = page[page.index("## Judgments of a study") : page.index("## Ratings")]
    rows = [line.split("|")[1:3] for line in part.splitlines() if line.startswith("|")][2:]
    assert {n for blv, _ in rows for n in re.findall(r"`([\w.]+)`", blv)} == {*BLV_COLUMNS, "item"}
    assert {n for _, sighted in rows for n in re.findall(r"`([\w.]+)`", sighted)} == {
        *SIGHTED_COLUMNS,
        "item",
    }
