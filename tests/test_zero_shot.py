"""Zero-shot classification against scikit-learn and slow loops, from each kind of source."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image
from sklearn.metrics import f1_score

from conftest import make_photo
from descscore import DescScorer
from descscore.cli import main
from descscore.errors import DataError, UsageError
from descscore.eval.benchmarks import LabelledImages
from descscore.eval.labelled_images import HubSet, hub_images, read_labelled_source
from descscore.eval.zero_shot import check_prompt, macro_f1, predict, zero_shot

CLASSES = ("red_fox", "bee", "church")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("classes")
    for i, name in enumerate(CLASSES):
        (root / name).mkdir()
        for j in range(4):
            make_photo(root / name / f"{j}.png", seed=10 * i + j)
    (root / "bee" / "notes.txt").write_text("not an image")
    return root


def test_macro_f1_equals_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        labels, predicted = rng.integers(0, 6, 40), rng.integers(0, 8, 40)
        assert macro_f1(labels, predicted) == pytest.approx(f1_score(labels, predicted, average="macro"))


def test_macro_f1_by_hand() -> None:
    # Class 0: TP 1, FN 1 -> 2/3; class 1: TP 1, FP 1 -> 2/3.
    assert macro_f1(np.array([0, 0, 1]), np.array([0, 1, 1])) == pytest.approx(2 / 3)


def test_predictions_equal_a_slow_loop(folder: Path, tiny_folder: Path) -> None:
    scorer = DescScorer.from_pretrained(tiny_folder, device="cpu", batch_size=5)
    data = read_labelled_source(str(folder)).images
    assert data.names == ["bee", "church", "red fox"]
    expected = []
    for image in data.images:
        results = scorer.score_batch([image] * 3, [f"my {name}" for name in data.names])
        expected.append(int(np.argmax([result.cosine for result in results])))
    found = predict(scorer, data, "my {}")
    assert found.tolist() == expected
    measured = zero_shot(scorer, data, "my {}")
    assert measured.accuracy == np.mean(found == np.asarray(data.labels))
    assert (measured.n, measured.classes) == (12, 3)


def test_command_on_folder_and_table(folder: Path, tiny_folder: Path, tmp_path: Path) -> None:
    rows = [
        {"image": {"bytes": p.read_bytes(), "path": p.name}, "label": p.parent.name.replace("_", " ")}
        for p in sorted(folder.glob("*/*.png"))
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    found = []
    for source in (folder, tmp_path / "t.parquet"):
        args = ["eval", "zeroshot", "--data", str(source), "--model", str(tiny_folder), "--device", "cpu"]
        result = CliRunner().invoke(main, [*args, "--json", "--prompt", "a {}", "--prompt", "the {}"])
        assert result.exit_code == 0, result.output
        found.append(json.loads(result.stdout)["rows"])
        assert "macro-F1" in CliRunner().invoke(main, args).stdout
    assert found[0] == found[1]
    assert [row["prompt"] for row in found[0]] == ["a {}", "the {}"]


def test_a_hub_data_set_names_its_classes(tiny_folder: Path) -> None:
    import datasets

    images = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    features = datasets.Features(
        {"img": datasets.Image(), "fine_label": datasets.ClassLabel(names=["red_fox", "tench, Tinca tinca"])}
    )
    data = datasets.Dataset.from_dict({"img": images, "fine_label": [0, 1, 0]}, features=features)
    source = HubSet("x/y", "test", "fine_label", "a {}")
    found = hub_images(data, source)
    assert (found.names, found.labels) == (["red fox", "tench"], [0, 1, 0])
    scorer = DescScorer.from_pretrained(tiny_folder, device="cpu", batch_size=2)
    plain = LabelledImages(images, [0, 1, 0], found.names)
    assert predict(scorer, found).tolist() == predict(scorer, plain).tolist()
    with pytest.raises(DataError, match="does not name its classes"):
        hub_images(data, HubSet("x/y", "test", "img", "a {}"))


def test_wrong_sources_and_prompts(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nonesuch.*cifar100"):
        read_labelled_source("nonesuch")
    with pytest.raises(DataError, match="no images in folders"):
        read_labelled_source(str(tmp_path))
    with pytest.raises(DataError, match="uoft-cs/cifar100"):
        read_labelled_source("cifar100")  # no network in tests
    for prompt in ("a photo", "{} and {}"):
        with pytest.raises(UsageError, match="exactly one"):
            check_prompt(prompt)
