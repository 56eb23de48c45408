"""What explanations cost: what is timed, how runs of several machines stand in one file, and the page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from descscore import DescScorer
from descscore.errors import DataError
from descscore.explanations.explainer import explain_batch
from pictures import make_photo
from reproduce import explanations as cost

ROOT = Path(__file__).parents[2]
MARKS = "before\n<!-- cost -->\nold\n<!-- /cost -->\nafter\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "explanations.md").write_text(MARKS)
    return tmp_path / "docs"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    rows = ["image,description,caption,split"]
    for i in range(3):
        make_photo(folder / f"{i}.png", i, (20, 20))
        rows.append(f"{i}.png,A red dog in a small street {i},Ada {i},test")
    (folder / "pairs.csv").write_text("\n".join(rows) + "\n")
    return folder / "pairs.csv"


def costs(alone: float, together: float) -> dict[str, Any]:
    times = {"first": 0.5, "alone": alone, "longest": 0.75, "together": together}
    return {"texts": 6, **times, "alone_busy": 2 * alone, "together_busy": 2 * together}


def made(threads: int = 2, **devices: dict[str, Any]) -> dict[str, Any]:
    machines = {device: f"a machine's {device}" for device in devices}
    gap = 2.5e-6 if len(devices) > 1 else None
    about = {"model": "default", "data": "concadia"}
    return {**about, "threads": threads, "machines": machines, "costs": devices, "gap": gap}


def run(*args: object) -> Result:
    return CliRunner().invoke(cost.main, ["cost", *map(str, args)])


def test_the_command_measures_and_keeps_other_runs(folder: Path, data: Path, tiny_folder: Path) -> None:
    other = made(cpu=costs(0.2, 0.1), cuda=costs(0.02, 0.01))
    cost.COST.write({"runs": [other]}, folder)
    threads = torch.get_num_threads()
    try:
        done = run(folder, "--data", data, "--model", tiny_folder, "--rounds", 1, "--threads", 1)
    finally:
        torch.set_num_threads(threads)
    assert done.exit_code == 0, done.output
    runs = json.loads((folder / "explanation_cost.json").read_text())["runs"]
    assert [list(found["costs"]) for found in runs] == [["cpu"], ["cpu", "cuda"]]
    found = runs[0]["costs"]["cpu"]
    assert (found["texts"], runs[0]["threads"], runs[0]["data"]) == (6, 1, "pairs.csv")
    assert 0 < found["alone"] <= found["longest"]
    assert min(found["first"], found["together"], found["alone_busy"], found["together_busy"]) > 0
    page = (folder / "explanations.md").read_text()
    assert page.startswith("before\n")
    assert page.endswith("after\n")
    assert "old" not in page
    assert cost.cost_markdown(runs) in page


def test_what_is_timed_is_each_text_alone_and_all_in_one_call(
    tiny_folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from descscore.tables.open import load_pairs

    calls: list[int] = []

    def counted(images: Any, texts: Any, scorer: DescScorer) -> Any:
        calls.append(len(texts))
        return explain_batch(images, texts, scorer)

    monkeypatch.setattr(cost, "explain_batch", counted)
    material = cost.Material.of(load_pairs(data).split("test"))
    assert list(material.texts[:1]) == ["A red dog in a small street 0"]
    assert material.images[:3] == material.images[3:]
    found, explained = cost.measure_cost(str(tiny_folder), "cpu", material, rounds=2)
    assert calls == [1, 6, *([1] * 6 + [6]) * 2]
    assert [item.text for item in explained] == list(material.texts)
    assert found.texts == 6
    assert cost.largest_gap(explained, explained) == 0
    word = explained[4].words[0]
    moved = replace(explained[4], words=(replace(word, value=word.value + 0.25), *explained[4].words[1:]))
    assert cost.largest_gap(explained, [*explained[:4], moved, explained[5]]) == pytest.approx(0.25)


def test_the_page_says_how_many_times_cheaper_a_gpu_is() -> None:
    alone, both = made(cpu=costs(0.3, 0.25)), made(16, cpu=costs(0.2, 0.1), cuda=costs(0.02, 0.004))
    text = cost.cost_markdown([alone, both])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line]
    assert rows[2] == ["cpu, 2 threads", "6", "0.500", "0.300", "0.750", "0.250", ""]
    assert rows[3][0] == "cpu, 16 threads, machine with cuda"
    assert (rows[4][0], rows[4][5], rows[4][6]) == ("cuda", "0.004", "25.0")
    assert rows[7] == ["cpu, 2 threads", "0.600", "0.500"]
    assert "at most 2.5e-06" in text
    assert "- at least 5 times cheaper on a GPU: 25.0 times, met" in text
    assert "- one text on average in less than a second on a CPU: 0.300 s, met" in text
    assert "- many together no dearer on a CPU: 0.83 times, met" in text
    poor = cost.cost_markdown([made(cpu=costs(1.2, 1.5), cuda=costs(0.5, 0.5))])
    assert poor.count(", missed") == 3
    assert "on a GPU: not measured" in cost.cost_markdown([alone])
    assert "a machine's cuda" in text
    assert "at most" not in cost.cost_markdown([alone])


def test_a_new_run_takes_the_place_of_one_like_it(folder: Path, tmp_path: Path) -> None:
    old, other = made(cpu=costs(0.3, 0.3)), made(1, cpu=costs(0.4, 0.4))
    new = made(cpu=costs(0.2, 0.2))
    assert cost.COST.merged([old, other], [new]) == [other, new]
    cost.COST.write({"runs": [old]}, folder)
    file = tmp_path / "other.json"
    both = made(cpu=costs(0.2, 0.1), cuda=costs(0.02, 0.01))
    file.write_text(json.dumps({"runs": [both]}))
    assert run(folder, "--add", file).exit_code == 0
    assert cost.COST.runs(folder) == [old, both]


def test_what_cannot_be_done_is_said(folder: Path, tmp_path: Path) -> None:
    assert "--data to measure, or --add" in run(folder).output
    for text in ("no JSON", "[]", '{"runs": [{}]}', '{"runs": 5}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(DataError, match=r"bad\.json: not a file of this command"):
            cost.COST.read(tmp_path / "bad.json")
    (folder / "explanations.md").write_text("no marks")
    with pytest.raises(DataError, match="lacks the lines <!-- cost -->"):
        cost.COST.write({"runs": [made(cpu=costs(0.3, 0.3))]}, folder)
    assert not (folder / cost.COST.data).exists()


def test_the_committed_page_is_that_of_the_committed_file() -> None:
    runs = cost.COST.runs(ROOT / "docs")
    page = (ROOT / "docs" / cost.COST.page).read_text(encoding="utf-8")
    assert f"<!-- cost -->\n{cost.cost_markdown(runs)}<!-- /cost -->" in page
