"""``descscore eval quality`` on a data folder made here, against slow loops; and the model card's table."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from conftest import make_photo
from descscore import DescScorer
from descscore.cli import main
from descscore.eval.quality import Figure, to_markdown

ROOT = Path(__file__).parents[2]
CLASSES = ("anchor", "bee", "chair")


def picture(folder: Path, seed: int) -> dict[str, object]:
    return {"bytes": make_photo(folder / "x.png", seed).read_bytes(), "path": "x.png"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for name in ("flickr8k", "caltech101", "tiny_imagenet", "concadia/resized", "kreiss2022/images"):
        (root / name).mkdir(parents=True)
    photos = [picture(root, i) for i in range(6)]
    captions = [[f"a dog {i} {j}" for j in range(5)] for i in range(6)]
    pq.write_table(pa.table({"image": photos, "captions": captions}), root / "flickr8k/test.parquet")
    for name in ("caltech101/test", "tiny_imagenet/val"):
        labels = [CLASSES[i % 3] for i in range(9)]
        images = [picture(root, 20 + i) for i in range(9)]
        pq.write_table(pa.table({"image": images, "label": labels}), root / f"{name}.parquet")
    items = []
    for i in range(5):
        make_photo(root / f"concadia/resized/{i}.jpg", 40 + i)
        items.append(
            {
                "filename": f"{i}.jpg",
                "description": {"raw": f"A house with {i} windows", "tokens": []},
                "caption": {"raw": f"Built in {1900 + i}", "tokens": []},
                "context": {"raw": "", "tokens": []},
                "split": "test",
            }
        )
    (root / "concadia/wiki_split.json").write_text(json.dumps({"images": items}))
    rows = []
    for i in range(6):
        make_photo(root / f"kreiss2022/images/Ümlaut,_({i}).jpg", 60 + i)
        rows += [{"description": f"View {i} {j}", "img_file": f"Ümlaut,_({i}).jpg"} for j in range(2)]
    for name, some in (("descriptions", rows), ("blv_ratings", rows[::2])):
        out = io.StringIO()
        writer = csv.DictWriter(out, ["description", "img_file"])
        writer.writeheader()
        writer.writerows(some)
        (root / f"kreiss2022/{name}.csv").write_text(out.getvalue(), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def figures(data: Path, tiny_folder: Path) -> dict[str, Figure]:
    args = ["eval", "quality", "--data", str(data), "--model", str(tiny_folder), "--device", "cpu", "--json"]
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert found["signature"].startswith("descscore:")
    return {figure["name"]: Figure(**figure) for figure in found["figures"]}


def test_every_figure_is_there_with_n_and_chance(figures: dict[str, Figure]) -> None:
    assert len(figures) == 13
    assert [f.n for f in figures.values()] == [6, 6, 6, 30, 30, 30, 9, 9, 9, 9, 5, 12, 6]
    recall = [f.chance for f in list(figures.values())[:6]]
    # One of 30 texts is drawn, five of which are right; one of 6 images is.
    assert recall[0] == pytest.approx(5 / 30)
    assert recall[3] == pytest.approx(1 / 6)
    for figure in list(figures.values())[6:]:
        assert figure.low is not None
        assert figure.high is not None
        assert 0 <= figure.low <= figure.value <= figure.high <= 1


def test_concadia_grounding_equals_a_slow_count(
    figures: dict[str, Figure], data: Path, tiny_folder: Path
) -> None:
    scorer = DescScorer.from_pretrained(tiny_folder, device="cpu")
    images = [data / f"concadia/resized/{i}.jpg" for i in range(5)]
    wins = []
    for i in range(5):
        scores = scorer.score_batch(images, [f"A house with {i} windows"] * 5)
        own = scores[i].cosine
        wins.append(np.mean([own > scores[j].cosine for j in range(5) if j != i]))
    assert figures["Concadia grounding (20 random other images, seed 0)"].value == pytest.approx(
        np.mean(wins)
    )


def test_kreiss_grounding_equals_a_slow_count(
    figures: dict[str, Figure], data: Path, tiny_folder: Path
) -> None:
    scorer = DescScorer.from_pretrained(tiny_folder, device="cpu")
    images = [data / f"kreiss2022/images/Ümlaut,_({i}).jpg" for i in range(6)]
    wins = []
    for i in range(6):
        for j in range(2):
            scores = [s.cosine for s in scorer.score_batch(images, [f"View {i} {j}"] * 6)]
            wins.append(np.mean([scores[i] > scores[k] for k in range(6) if k != i]))
    figure = figures["Kreiss 2022 grounding (all 5 other photos; all descriptions)"]
    assert figure.value == pytest.approx(np.mean(wins))


def test_zero_shot_equals_a_slow_count(figures: dict[str, Figure], data: Path, tiny_folder: Path) -> None:
    scorer = DescScorer.from_pretrained(tiny_folder, device="cpu")
    table = pq.read_table(data / "caltech101/test.parquet").to_pylist()
    right = 0
    for row in table:
        image = row["image"]["bytes"]
        scores = [s.cosine for s in scorer.score_batch([image] * 3, [f"a photo of a {c}" for c in CLASSES])]
        right += CLASSES[int(np.argmax(scores))] == row["label"]
    assert figures["Caltech-101 zero-shot accuracy (unseen pictures)"].value == pytest.approx(right / 9)


def test_missing_data_names_the_file(tmp_path: Path, tiny_folder: Path) -> None:
    args = ["eval", "quality", "--data", str(tmp_path), "--model", str(tiny_folder), "--device", "cpu"]
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 1
    assert "caltech101" in result.stderr
    assert "DESCSCORE_DATA" in result.stderr


def test_the_model_card_shows_the_measured_figures() -> None:
    found = json.loads((ROOT / "docs/quality_base.json").read_text(encoding="utf-8"))
    card = (ROOT / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert to_markdown([Figure(**figure) for figure in found["figures"]]) in card
    weights = re.search(r"weights:(\w+)", found["signature"])
    assert weights is not None
    scorer = DescScorer.from_pretrained("base", device="cpu")
    assert scorer.model.weights_hash == weights[1]
    assert f"`{weights[1]}`" in card
