"""How far reduced precision moves cosines, on crops of real photos, and the command that measures it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from conftest import TINY, make_photo, save_model
from descscore.cli import main
from descscore.demo import PHOTOS
from descscore.errors import DataError
from descscore.eval.precision import Sample, closeness, compare_precisions, made_sample, published_sample
from descscore.images import load_image
from descscore.models import load_model
from descscore.tables.rows import PreferencePair


def crops() -> Sample:
    """Sixteen crops of each of the demo's photos, with its texts and those of the photo after it."""
    images: dict[str, Any] = {}
    texts = {
        f"{i} {kind}": getattr(p, kind) for i, p in enumerate(PHOTOS) for kind in ("description", "caption")
    }
    pairs = []
    for i, photo in enumerate(PHOTOS):
        whole = load_image(photo.find())
        wide, high = whole.width // 2, whole.height // 2
        for j in range(16):
            left, top = (whole.width - wide) * (j % 4) // 3, (whole.height - high) * (j // 4) // 3
            images[f"{i} {j}"] = whole.crop((left, top, left + wide, top + high))
            for other in (i, (i + 1) % len(PHOTOS)):
                pairs += [(f"{i} {j}", f"{other} {kind}") for kind in ("description", "caption")]
    return Sample(images, texts, pairs)


@pytest.fixture(scope="module")
def sample() -> Sample:
    return crops()


@pytest.mark.long
@pytest.mark.parametrize("name", ["base", "default"])
def test_the_bundled_models_keep_their_cosines_and_their_order(name: str, sample: Sample) -> None:
    bf16, fp16 = compare_precisions(load_model(name, "cpu"), sample)
    assert bf16.pairs == len(sample.pairs) == 256
    # bfloat16 misses the goal of 0.002 by a little on some processors; the page of figures says so.
    assert bf16.mean < 0.003
    assert bf16.spearman is not None
    assert bf16.spearman > 0.999
    assert fp16.close
    assert 0 < fp16.mean < bf16.mean


def test_closeness_by_hand() -> None:
    found = closeness("bf16", np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.1, 0.202, 0.299, 0.4]))
    assert found.mean == pytest.approx(0.003 / 4)
    assert found.largest == pytest.approx(0.002)
    assert found.spearman == pytest.approx(1)
    assert found.close
    swapped = closeness("bf16", np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.1, 0.2, 0.4, 0.3]))
    assert swapped.spearman == pytest.approx(0.8)
    assert not swapped.close


def test_published_pairs_are_own_texts_first_then_those_of_the_next_image() -> None:
    class Photo:
        def read(self) -> bytes:
            return PHOTOS[0].find().read_bytes()

    pairs = [
        PreferencePair(Photo(), f"description {i}", f"caption {i}", "test", str(i), None, "", "here", i)
        for i in range(2)
    ]
    found = published_sample(pairs, 7)
    texts = [(image, found.texts[text]) for image, text in found.pairs]
    own = [("0", "description 0"), ("0", "caption 0"), ("1", "description 1"), ("1", "caption 1")]
    assert texts == [*own, ("0", "description 1"), ("0", "caption 1"), ("1", "description 0")]
    with pytest.raises(DataError, match="8 pairs, not 9"):
        published_sample(pairs, 9)


def test_the_command_says_which_rows_it_could_not_use(tmp_path: Path) -> None:
    folder, rows = save_model(tmp_path / "m", TINY), ["image,description,caption"]
    for i in range(5):
        make_photo(tmp_path / f"{i}.png", i, (20, 20))
        rows.append(f"{i}.png,A red dog {i},Ada {i}")
    table = tmp_path / "pairs.csv"
    table.write_text("\n".join([*rows, "gone.png,A dog,Ada"]) + "\n")
    arguments = ["eval", "precision", "--data", str(table), "--split", "", "--pairs", "10"]
    arguments += ["--model", str(folder), "--precision", "bf16"]
    shown = CliRunner().invoke(main, arguments)
    assert shown.exit_code == 0, shown.output
    assert "not usable (missing_image 1)" in shown.stdout
    (dropped,) = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).stdout)["dropped"]
    assert "gone.png" in dropped


def test_the_command_prints_what_it_measured(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "m", TINY)
    arguments = ["eval", "precision", "--pairs", "10", "--model", str(folder), "--precision", "bf16"]
    shown = CliRunner().invoke(main, [*arguments, "--json"])
    assert shown.exit_code == 0, shown.output
    (row,) = json.loads(shown.stdout)["rows"]
    (expected,) = compare_precisions(load_model(folder, "cpu"), made_sample(10), ["bf16"])
    assert (row["pairs"], row["mean"]) == (10, pytest.approx(expected.mean))
    assert f"{expected.mean:.2e}" in CliRunner().invoke(main, arguments).stdout
