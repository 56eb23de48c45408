"""The page on metrics: every block runs, and the recipe for lmms-eval does what lmms-eval asks of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml

from conftest import make_photo
from descscore import DescScorer
from descscore.errors import ImageError

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")

RUN = """
import io, json, socket, sys
from contextlib import redirect_stdout

def refuse(*args):
    raise AssertionError(f"the network was used: {args}")

socket.socket.connect = refuse
printed = []
for block in json.load(sys.stdin):
    with redirect_stdout(io.StringIO()) as out:
        exec(compile(block, "docs/metrics.md", "exec"), {"__name__": "__main__"})
    printed.append(out.getvalue())
print(json.dumps(printed))
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.long
def test_every_block_runs_from_the_repository_root_without_a_network(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        input=json.dumps(blocks("python")),
        cwd=ROOT,
        env={**os.environ, "HF_HOME": str(tmp_path), "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout.splitlines()[-1])
    scorer = DescScorer.from_pretrained()
    texts = ["A web page: a drawing of a house, and below it a form.", "A form with questions."]
    images = [ROOT / "docs" / "images" / name for name in ("try.png", "judge.png")]
    scores = [result.score for result in scorer.score_batch(images, texts)]
    one, torch_scores, collection, coco, module, records, recipe = printed
    assert float(one.split()[0]) == pytest.approx(scores[0], abs=1e-6)
    assert scorer.signature in torch_scores
    assert set(re.findall(r"'(\w+)':", collection)) == {"base", "default", "score"}
    assert "CIDEr" in coco
    assert re.search(r"^DescScore \d\.\d+$", coco, flags=re.MULTILINE)
    assert json.loads(module[module.index("[") : module.index("]") + 1]) == pytest.approx(scores, abs=1e-6)
    assert json.loads(records.splitlines()[0]) == pytest.approx(scores, abs=1e-6)
    assert recipe == ""


def recipe() -> dict[str, Any]:
    """The names that the recipe's ``utils.py`` defines."""
    [source] = [block for block in blocks("python") if "def process_results" in block]
    names: dict[str, Any] = {}
    exec(compile(source, "utils.py", "exec"), names)
    return names


def task() -> dict[str, Any]:
    """The recipe's task file; ``!function utils.name`` as lmms-eval reads it: the function itself."""

    class Loader(yaml.SafeLoader):
        pass

    utils = recipe()
    Loader.add_constructor("!function", lambda _, node: utils[node.value.removeprefix("utils.")])
    [text] = blocks("yaml")
    found: dict[str, Any] = yaml.load(text, Loader)
    return found


@pytest.fixture
def docs(tmp_path: Path) -> Any:
    """Rows as lmms-eval hands them over, images decoded by datasets."""
    photos = [str(make_photo(tmp_path / f"{i}.png", seed=i)) for i in range(4)]
    return datasets.Dataset.from_dict({"image": photos}).cast_column("image", datasets.Image())


def test_the_recipe_scores_answers_as_lmms_eval_calls_it(docs: Any) -> None:
    # lmms-eval strips answers, puts "" for None, and works in threads.
    answers = ["A house.", "Two boats on a lake.", "", "A red car."]
    process = task()["process_results"]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda pair: process(pair[0], [pair[1]]), zip(docs, answers, strict=True)))
    scorer = DescScorer.from_pretrained(device="cpu")
    expected = [
        scorer.score(doc["image"], text).score if text else 0.0
        for doc, text in zip(docs, answers, strict=True)
    ]
    assert [row["description_score"] for row in found] == pytest.approx(expected, abs=1e-6)
    assert [row["unanswered"] for row in found] == [0, 0, 1, 0]


def test_the_recipe_hides_no_broken_image(docs: Any) -> None:
    with pytest.raises(ImageError):
        task()["process_results"]({"image": b"no image"}, ["A house."])


def test_the_task_file_names_what_the_functions_return(docs: Any) -> None:
    found = task()
    returned = found["process_results"](docs[0], ["A house."])
    assert {row["metric"] for row in found["metric_list"]} == set(returned)
    assert {row["metric"]: row["higher_is_better"] for row in found["metric_list"]} == {
        "description_score": True,
        "unanswered": False,
    }
    assert found["process_results_use_image"] is True
    [picture] = found["doc_to_visual"](docs[0])
    assert picture.mode == "RGB"
