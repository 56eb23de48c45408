"""Flickr8k judgments: the two taus by hand and against scipy, the readers, and the command."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from scipy import stats

from conftest import make_photo
from descscore import DescScorer
from descscore.errors import DataError, ImageError
from descscore.eval.captions import expert_tau, read_crowd, read_expert, read_photos
from descscore.eval.cli import captions
from descscore.eval.features import pair_cosines
from descscore.eval.statistics.correlation import kendall
from descscore.options import Group

PHOTOS = [f"photo{i}.jpg" for i in range(5)]


@pytest.fixture
def flickr(tmp_path: Path) -> Path:
    """A small folder in Flickr8k's form: photos in two Parquet files, and both kinds of ratings."""
    folder = tmp_path / "flickr8k"
    folder.mkdir()
    for name, part in (("test", PHOTOS[:3]), ("train", PHOTOS[3:])):
        rows = [
            {
                "image": {"bytes": make_photo(tmp_path / photo, seed=i).read_bytes(), "path": photo},
                "filename": photo,
                "captions": [f"Caption {k} of {photo}." for k in range(5)],
            }
            for i, photo in enumerate(part)
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    rng = np.random.default_rng(0)
    expert, crowd = [], []
    for photo in PHOTOS:
        for other in PHOTOS:
            grades = "\t".join(map(str, rng.integers(1, 5, 3)))
            expert.append(f"{photo}\t{other}#2\t{grades}")
            yes = int(rng.integers(0, 4))
            crowd.append(f"{photo}\t{other}#1\t{yes / 3:.15g}\t{yes}\t{3 - yes}")
    (folder / "ExpertAnnotations.txt").write_text("\n".join(expert) + "\n", encoding="utf-8")
    (folder / "CrowdFlowerAnnotations.txt").write_text("\n".join(crowd) + "\n", encoding="utf-8")
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(
        Group("eval", commands={"captions": captions}), ["captions", *map(str, arguments)]
    )


def test_expert_tau_by_hand() -> None:
    # Two pairs rated (1, 1, 1) and (4, 4, 1), flattened to six; the second scores higher. Of the nine
    # pairs across, six agree and three tie in the grade; within each photo the scores tie.
    # tau-c = 2 * 6 / (6² * (2 - 1) / 2).
    found = expert_tau([0.1, 0.2], np.array([[1, 1, 1], [4, 4, 1]]))
    assert (found.value, found.n) == (pytest.approx(2 * 6 / 18), 6)


def test_taus_are_scipys() -> None:
    rng = np.random.default_rng(0)
    scores, grades = rng.random(300), rng.integers(1, 5, (300, 3))
    expected = stats.kendalltau(np.repeat(scores, 3), grades.reshape(-1), variant="c").statistic
    assert expert_tau(scores, grades).value == expected
    shares = rng.integers(0, 4, 300) / 3
    assert kendall(scores, shares).value == stats.kendalltau(scores, shares, variant="b").statistic


def test_taus_that_are_not_defined_say_why() -> None:
    assert expert_tau([1, 1], np.ones((2, 3)) * [1, 2, 3]).reason == "constant values (x)"
    assert kendall([1, 2, 3], [0, 0, 1]).reason == "too few items (3, at least 4 are needed)"
    with pytest.raises(DataError, match=r"3 scores but ratings of shape \(2, 3\)"):
        expert_tau([1, 2, 3], np.ones((2, 3)))
    with pytest.raises(DataError, match="row 1 is nan"):
        expert_tau([1, np.nan], np.ones((2, 3)))


def test_readers_count_as_the_field_does(flickr: Path, shared_data: Path | None) -> None:
    expert = read_expert(flickr / "ExpertAnnotations.txt")
    crowd = read_crowd(flickr / "CrowdFlowerAnnotations.txt")
    assert (len(expert.pairs), expert.left_out, expert.ratings.shape) == (20, 5, (20, 3))
    assert all(caption.split("#")[0] != photo for photo, caption in expert.pairs)
    assert (len(crowd.pairs), crowd.left_out, crowd.ratings.shape) == (25, 0, (25, 1))
    real = shared_data / "flickr8k" if shared_data else flickr
    if real == flickr:
        return
    expert = read_expert(real / "ExpertAnnotations.txt")
    assert (len(expert.pairs), expert.left_out, expert.ratings.size) == (5664, 158, 16992)
    assert len(read_crowd(real / "CrowdFlowerAnnotations.txt").pairs) == 47288


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("photo0.jpg\tphoto1.jpg#0\t1\t2", "line 2 has 4 columns"),
        ("photo0.jpg\tphoto1.jpg#0\t1\t2\t5", "line 2: '5' is not a grade"),
        ("photo0.jpg\tphoto1.jpg#2\t1\t1\t1", "line 2: 'photo0.jpg', 'photo1.jpg#2' occurs a second time"),
    ],
)
def test_wrong_expert_lines_are_named(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "ExpertAnnotations.txt"
    path.write_text(f"photo0.jpg\tphoto1.jpg#2\t1\t1\t1\n{line}\n", encoding="utf-8")
    with pytest.raises(DataError, match=words):
        read_expert(path)


def test_wrong_crowd_lines_are_named(tmp_path: Path) -> None:
    path = tmp_path / "CrowdFlowerAnnotations.txt"
    for share in ("1.5", "nan", "some"):
        path.write_text(f"photo0.jpg\tphoto1.jpg#2\t{share}\t1\t1\n", encoding="utf-8")
        with pytest.raises(DataError, match=f"line 1: .*{share}"):
            read_crowd(path)
    path.write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="holds no rows"):
        read_crowd(path)
    with pytest.raises(DataError, match="No such file"):
        read_crowd(tmp_path / "none.txt")


def test_photos_are_read_from_every_file_needed(flickr: Path) -> None:
    found = read_photos(flickr, [("photo0.jpg", "photo4.jpg#3")])
    assert set(found.images) == {"photo0.jpg"}
    assert found.captions == {"photo4.jpg#3": "Caption 3 of photo4.jpg."}
    with pytest.raises(DataError, match=r"'photo4\.jpg#7', 'photo9\.jpg' not found \(test\.parquet, train"):
        read_photos(flickr, [("photo9.jpg", "photo4.jpg#7")])
    (flickr / "test.parquet").write_bytes(b"no table")
    with pytest.raises(DataError, match=r"test\.parquet: cannot be read as Parquet"):
        read_photos(flickr, [("photo0.jpg", "photo4.jpg#3")])


def test_pair_cosines_are_those_of_the_scorer(flickr: Path, tiny_folder: Path) -> None:
    pairs = read_expert(flickr / "ExpertAnnotations.txt").pairs
    photos = read_photos(flickr, pairs)
    scorer = DescScorer.from_pretrained(tiny_folder, batch_size=2)
    found = pair_cosines(scorer, photos.images, photos.captions, pairs)
    single = [scorer.score(photos.images[p], photos.captions[c]).cosine for p, c in pairs]
    assert found == pytest.approx(single, abs=1e-5)
    with pytest.raises(ImageError):
        pair_cosines(scorer, {"a": b"not an image"}, {"b": "text"}, [("a", "b")])


def test_command(flickr: Path, tiny_folder: Path) -> None:
    result = run("--data", flickr.parent, "--model", tiny_folder, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    expert, crowd = found["rows"]
    assert (expert["pairs"], expert["ratings"], expert["left_out"]) == (20, 60, 5)
    assert (crowd["pairs"], crowd["ratings"], crowd["left_out"]) == (25, 25, 0)
    pairs = read_expert(flickr / "ExpertAnnotations.txt")
    photos = read_photos(flickr, pairs.pairs)
    scorer = DescScorer.from_pretrained(tiny_folder)
    cosines = pair_cosines(scorer, photos.images, photos.captions, pairs.pairs)
    assert expert["tau"] == pytest.approx(expert_tau(cosines, pairs.ratings).value, abs=0.02)
    assert scorer.signature in found["signature"]
    table = run("--data", flickr, "--model", tiny_folder)
    assert f"{100 * expert['tau']:+.1f}" in table.output
    assert re.search(r"CLIP-S +\+51\.2 +\+34\.4 +published", table.output)
    assert "20 pairs, 60 ratings, 5 own captions left out" in table.output


def test_command_without_data_says_so(tmp_path: Path) -> None:
    result = run("--data", tmp_path)
    assert result.exit_code == 1
    assert "holds neither ExpertAnnotations.txt nor flickr8k/ExpertAnnotations.txt" in result.output
