"""The notebook runs from top to bottom, is committed without outputs, and draws what it says."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOK = Path(__file__).parents[2] / "docs" / "notebooks" / "tour.ipynb"


@pytest.fixture(scope="module")
def committed() -> NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> NotebookNode:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    folder = str(tmp_path_factory.mktemp("notebook"))
    return NotebookClient(notebook, timeout=300, resources={"metadata": {"path": folder}}).execute()


def test_it_is_valid_and_has_no_outputs(committed: NotebookNode) -> None:
    nbformat.validate(committed)
    code = [cell for cell in committed.cells if cell.cell_type == "code"]
    assert len(code) > 5
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)


def test_every_code_cell_is_introduced(committed: NotebookNode) -> None:
    kinds = [cell.cell_type for cell in committed.cells]
    assert kinds[0] == "markdown"
    assert all(kinds[i - 1] == "markdown" for i, kind in enumerate(kinds) if kind == "code")


def printed(notebook: NotebookNode) -> list[str]:
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return ["".join(o.text for o in cell.outputs if o.get("name") == "stdout") for cell in cells]


@pytest.mark.long
def test_it_scores_compares_explains_and_measures(ran: NotebookNode) -> None:
    _, score, compare, words, _, batch, metric = printed(ran)
    assert "descscore:" in score
    assert compare.split()[0] in ("description", "caption")
    assert [line.split()[0] for line in words.splitlines()[:3]] == ["Two", "boats", "with"]
    assert "adds up: True" in words
    assert batch.count(" own, ") == 2
    assert metric.startswith("mean ")


@pytest.mark.long
def test_its_chart_is_drawn(ran: NotebookNode) -> None:
    drawn = [o for cell in ran.cells if cell.cell_type == "code" for o in cell.outputs if "data" in o]
    assert any("image/png" in output.data for output in drawn)
