"""The published CLIPScore of the Concadia pairs: the published share of wins, and the join."""

from __future__ import annotations

from pathlib import Path

import pytest

from descscore.errors import DataError
from descscore.eval.preference import FILES, image_owner, preference_rows, published_pair_scores
from descscore.tables.open import DataOptions, load_pairs
from descscore.tables.rows import PreferencePair
from report_data import make_concadia


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
    path = folder / "kreiss2022" / FILES["caption"]
    path.write_text(path.read_text().replace("\r\n", "\n").replace(old, new))
    with pytest.raises(DataError, match=words) as caught:
        published_pair_scores(folder / "kreiss2022", pairs_of(folder))
    assert FILES["caption"] in str(caught.value)
