"""Preference and grounding rates: by hand, and through the command on pairs made here."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from descscore import DescScorer
from descscore.cli import main
from descscore.errors import DataError
from descscore.eval.features import image_owner
from descscore.eval.preference import (
    PUBLISHED_FILES,
    PairScores,
    length_pair_scores,
    ngram_pair_scores,
    preference_rows,
    published_pair_scores,
)
from descscore.tables.open import DataOptions, load_pairs
from descscore.tables.rows import PreferencePair
from report_data import make_concadia

N = 16


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 pairs of 15 images; one pair has equal texts."""
    rng, rows = np.random.default_rng(0), []
    for i in range(N):
        if i != 1:
            out = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(out, "png")
        rows.append(
            {
                "image": {"bytes": out.getvalue(), "path": f"{i}.png"},
                "description": "Equal" if i == 5 else f"A {'very ' * i}red shape on a table.",
                "caption": "Equal" if i == 5 else f"Ada, {1900 + i}",
            }
        )
    path = tmp_path_factory.mktemp("pairs") / "test.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture(scope="module")
def pairs(table: Path) -> tuple[PreferencePair, ...]:
    return load_pairs(table, DataOptions(keep_equal=True)).split("test")


def test_wins_and_ties_by_hand(pairs: tuple[PreferencePair, ...]) -> None:
    caption = np.zeros(N)
    description = np.array([1.0] * 10 + [0.0] * 2 + [-1.0] * 4)
    rows = preference_rows(PairScores("m", description, caption, np.full(N, 0.5)), pairs, image_owner(pairs))
    assert (rows[0].subset, rows[0].value, rows[0].ties, rows[0].n) == ("all", 10 / 16, 2, 16)
    assert rows[0].low is not None
    assert rows[0].high is not None
    assert rows[0].low < 10 / 16 < rows[0].high
    quartiles = [row for row in rows if row.question == "caption"][1:]
    assert [row.n for row in quartiles] == [4, 4, 4, 4]
    # Lengths rise with the row but for row 5, whose equal texts are the shortest.
    assert [row.value for row in quartiles] == [1.0, 1.0, 0.5, 0.0]
    assert (rows[-1].question, rows[-1].value) == ("other", 0.5)


def test_longer_wins_is_the_longer_one(pairs: tuple[PreferencePair, ...]) -> None:
    scores = length_pair_scores(pairs)
    assert scores.description[0] == len("A red shape on a table.")
    row = preference_rows(scores, pairs, image_owner(pairs))[0]
    assert (row.value, row.ties) == (15 / 16, 1)


def test_the_ngram_classifier_learns_style_from_other_pairs(pairs: tuple[PreferencePair, ...]) -> None:
    scores = ngram_pair_scores(pairs[8:], pairs[:5])
    assert (scores.description > scores.caption).all()
    assert scores.over_others is None


def test_command_equals_the_library(table: Path, tiny_folder: Path) -> None:
    args = ["eval", "preference", "--data", str(table), "--model", str(tiny_folder), "--device", "cpu"]
    result = CliRunner().invoke(main, [*args, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    scorer = DescScorer.from_pretrained(tiny_folder, device="cpu")
    wins = ties = 0
    for pair in load_pairs(table, DataOptions(keep_equal=True)).split("test"):
        comparison = scorer.compare(pair.image.read(), pair.description, pair.caption)
        wins += comparison.description_preferred
        ties += comparison.preferred == "tie"
    first = found["rows"][0]
    assert (first["value"], first["ties"], first["n"]) == (wins / N, ties, N)
    text = CliRunner().invoke(main, [*args]).output
    assert "longer wins: prefers the longer text" in text
    assert f"{100 * wins / N:.1f}%" in text
    assert "other images' (14): 14 descriptions of other images" in text  # two pairs show one image
    assert found["rows"][5]["others"] == 14
    assert "n-grams" not in text  # no row, so no note


def test_command_with_the_ngram_baseline(table: Path, tiny_folder: Path, tmp_path: Path) -> None:
    train = tmp_path / "train.parquet"
    pq.write_table(pq.read_table(table), train)  # with a pair of equal texts, which teaches nothing
    args = ["eval", "preference", "--data", str(table), "--model", str(tiny_folder), "--device", "cpu"]
    result = CliRunner().invoke(main, [*args, "--baseline-train", str(train)])
    assert result.exit_code == 0, result.output
    assert "text-only n-grams: a classifier" in result.output
    assert "16 pairs of split 'test'; " in result.output
    assert "15 pairs of split 'train'; " in result.output
    assert "not usable (equal_texts 1)" in result.output
    found = json.loads(CliRunner().invoke(main, [*args, "--baseline-train", str(train), "--json"]).stdout)
    assert ["train.parquet row" in row for row in found["dropped"]] == [True]


def test_a_split_that_is_not_there(table: Path) -> None:
    result = CliRunner().invoke(main, ["eval", "preference", "--data", str(table), "--split", "val"])
    assert result.exit_code == 1
    assert "no usable pairs in split 'val'" in result.stderr


# The published CLIPScore of the Concadia pairs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "kreiss2022").mkdir()
    make_concadia(tmp_path)
    return tmp_path


def pairs_of(root: Path) -> tuple[PreferencePair, ...]:
    return load_pairs(root / "concadia", DataOptions(keep_equal=True)).split("test")


def test_the_published_share_of_wins(shared_data: Path | None, folder: Path) -> None:
    """52.3 % of 300 pairs with 5 ties, as recomputed from the files that Kreiss et al. (2022) released."""
    root = shared_data or folder
    pairs = pairs_of(root)
    scores = published_pair_scores(root / "kreiss2022", pairs)
    row = preference_rows(scores, pairs, image_owner(pairs))[0]
    if shared_data is not None:
        assert (round(row.value, 3), row.ties, row.n) == (0.523, 5, 300)
    else:
        assert (row.value, row.ties, row.n) == (0, 12, 12)


def test_scores_are_joined_by_image_and_text(folder: Path) -> None:
    pairs = pairs_of(folder)
    scores = published_pair_scores(folder / "kreiss2022", pairs[::-1])
    assert scores.description.tolist() == [int(Path(pair.id).stem) / 10 % 0.7 for pair in pairs[::-1]]
    assert scores.over_others is None


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("\n3,", "\n99,", "no score of the caption of 1 of 12"),
        ("1903", "1803", "no score"),
        (",0.0", ",", "is blank"),
    ],
)
def test_what_cannot_be_joined_is_named(folder: Path, old: str, new: str, words: str) -> None:
    path = folder / "kreiss2022" / PUBLISHED_FILES["caption"]
    path.write_text(path.read_text().replace("\r\n", "\n").replace(old, new))
    with pytest.raises(DataError, match=words) as caught:
        published_pair_scores(folder / "kreiss2022", pairs_of(folder))
    assert PUBLISHED_FILES["caption"] in str(caught.value)
