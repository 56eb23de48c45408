"""Zero-shot classification against scikit-learn and slow loops, from each kind of source."""

from __future__ import annotations

import io
import json
import tarfile
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
from descscore.eval.zero_shot import (
    HUB_SETS,
    HubSet,
    LabelledImages,
    check_prompt,
    hub_images,
    macro_f1,
    predict,
    read_class_names,
    read_labelled_source,
    zero_shot,
)

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
    data = read_labelled_source(str(folder))
    assert data.names == ["bee", "church", "red fox"]
    expected = []
    for image in data.images:
        results = scorer.score_batch([image] * 3, [f"my {name}" for name in data.names])
        expected.append(int(np.argmax([result.cosine for result in results])))
    found = predict(scorer, data, ("a {}", "my {}"))
    assert found[1].tolist() == expected
    rows = zero_shot(scorer, data, ("a {}", "my {}"))
    accuracies = (found == np.asarray(data.labels)).mean(1)
    assert [row.accuracy for row in rows] == pytest.approx([*accuracies, accuracies.mean()])
    assert [row.prompt for row in rows] == ["a {}", "my {}", "mean of 2 prompts"]
    assert zero_shot(scorer, data, ("my {}",)) == rows[1:2]
    assert {(row.n, row.classes) for row in rows} == {(12, 3)}


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
    assert [row["prompt"] for row in found[0]] == ["a {}", "the {}", "mean of 2 prompts"]


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
    assert predict(scorer, found, ("a {}",)).tolist() == predict(scorer, plain, ("a {}",)).tolist()
    with pytest.raises(DataError, match="does not name its classes"):
        hub_images(data, HubSet("x/y", "test", "img", "a {}"))


COUNTRIES = ("Andorra", "Bonaire, Saint Eustatius and Saba", "Cote d'Ivoire")


def noise(seed: int, kind: str) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, kind, lossless=True)
    return out.getvalue()


def write_country211(root: Path) -> Path:
    """A copy of the set as it lies on the hub: two tars of classes and images, and the class file."""
    (root / "test").mkdir(parents=True)
    for shard in range(2):
        with tarfile.open(root / f"test/{shard}.tar", "w") as tar:
            for i in range(3 * shard, 3 * shard + 3):
                for suffix, content in (("cls", str(i % 3).encode()), ("webp", noise(i, "webp"))):
                    entry = tarfile.TarInfo(f"s{i:07d}.{suffix}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
    (root / "test/nshards.txt").write_text("2")
    (root / "classnames.txt").write_text("\n".join(COUNTRIES) + "\n")
    return root


def write_rendered_sst2(root: Path) -> Path:
    """A copy of the set as it lies on the hub: Parquet tables by split."""
    import datasets

    names = datasets.ClassLabel(names=["negative", "positive"])
    features = datasets.Features({"image": datasets.Image(), "label": names})
    (root / "data").mkdir(parents=True)
    for split, n in (("train", 2), ("test", 5)):
        images = [{"bytes": noise(i, "png"), "path": None} for i in range(n)]
        rows = {"image": images, "label": [i % 2 for i in range(n)]}
        path = root / f"data/{split}-00000-of-00001.parquet"
        datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    return root


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches of ``datasets`` and of the hub client."""
    import datasets
    from huggingface_hub import constants

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def put_in_caches(caches: Path, name: str, copy: Path) -> None:
    """Leave the set in both caches as a machine with a network would have, from a copy of its repository."""
    import datasets

    datasets.load_dataset(str(copy), cache_dir=str(caches / "made"))
    (caches / "made" / copy.name).rename(caches / "made" / name.replace("/", "___"))
    (caches / "made").rename(caches / "datasets")
    repo = caches / "hub" / f"datasets--{name.replace('/', '--')}"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs/main").write_text("0" * 40)
    (repo / "snapshots" / ("0" * 40)).mkdir(parents=True)
    for file in copy.glob("*.txt"):
        (repo / "snapshots" / ("0" * 40) / file.name).write_bytes(file.read_bytes())


def test_country211_from_the_caches(caches: Path, tiny_folder: Path) -> None:
    name = HUB_SETS["country211"].name
    put_in_caches(caches, name, write_country211(caches / name.split("/")[1]))
    args = ["eval", "zeroshot", "--data", "country211", "--model", str(tiny_folder), "--device", "cpu"]
    result = CliRunner().invoke(main, [*args, "--json"])
    assert result.exit_code == 0, result.output
    row = json.loads(result.stdout)["rows"][0]
    plain = LabelledImages([noise(i, "webp") for i in range(6)], [0, 1, 2, 0, 1, 2], COUNTRIES)
    scorer = DescScorer.from_pretrained(tiny_folder, device="cpu")
    expected = zero_shot(scorer, plain, ("A picture of the country of {}",))[0]
    assert (row["prompt"], row["n"], row["classes"]) == (expected.prompt, 6, 3)
    assert (row["accuracy"], row["macro_f1"]) == (expected.accuracy, expected.macro_f1)
    # A comma is part of a country's name, not the start of its synonyms.
    assert read_labelled_source("country211").names == list(COUNTRIES)


def test_rendered_sst2_from_the_cache(caches: Path, tiny_folder: Path) -> None:
    name = HUB_SETS["rendered-sst2"].name
    put_in_caches(caches, name, write_rendered_sst2(caches / name.split("/")[1]))
    found = read_labelled_source("rendered-sst2")
    assert found.prompt == "A picture of text with {} sentiment"
    assert (found.names, found.labels) == (["negative", "positive"], [0, 1, 0, 1, 0])
    scorer = DescScorer.from_pretrained(tiny_folder, device="cpu")
    plain = LabelledImages([noise(i, "png") for i in range(5)], [0] * 5, ["negative", "positive"])
    assert predict(scorer, found, ("a {}",)).tolist() == predict(scorer, plain, ("a {}",)).tolist()


def test_a_set_that_is_in_no_cache_is_named(caches: Path) -> None:
    for source in ("country211", "rendered-sst2"):
        with pytest.raises(DataError, match=HUB_SETS[source].name):
            read_labelled_source(source)


def test_labels_that_are_no_class(tmp_path: Path) -> None:
    import datasets

    images = [Image.new("RGB", (8, 8))] * 2
    for bad in (-1, 3, None):
        data = datasets.Dataset.from_dict({"webp": images, "cls": [0, bad]})
        with pytest.raises(DataError, match=r"x/y row 2: label .* none of its 3 classes"):
            hub_images(data, HubSet("x/y", "test", "cls", "a {}"), COUNTRIES)
    with pytest.raises(DataError, match="no column 'label'"):
        hub_images(data, HubSet("x/y", "test", "label", "a {}"), COUNTRIES)
    for blank in ("", "\u200b", "&nbsp;"):
        (tmp_path / "names.txt").write_text(f"one\n{blank}\nthree\n", encoding="utf-8")
        with pytest.raises(DataError, match=r"names\.txt line 2: blank"):
            read_class_names(tmp_path / "names.txt")
    (tmp_path / "names.txt").write_text("")
    with pytest.raises(DataError, match="line 1: blank"):
        read_class_names(tmp_path / "names.txt")


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
