"""Words as marks of descriptions and captions: kinds, pooling, norms, and the command."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from descscore import DescScorer
from descscore.adapters import AdapterInfo, include_base, save_full, weights_hash
from descscore.cli import main
from descscore.errors import DataError, UsageError
from descscore.eval.statistics.bootstrap import Resampling
from descscore.eval.word_kinds import bare, kinds_of, load_tagger, read_all_norms, read_norms
from descscore.eval.words import (
    Explained,
    Occurrence,
    WordOptions,
    explain_pairs,
    lines_of,
    occurrences,
    report,
)
from descscore.explanations.explanation import WordParts
from descscore.interchange import Rotation
from descscore.models import load_model
from descscore.purpose import Purpose, Readout, Site, save_purpose
from descscore.tables.open import load_pairs
from pictures import make_photo

FEW = Resampling(199)


def parts(text: str, start: int = 0, purpose: float = 0.0, value: float = 0.0) -> WordParts:
    return WordParts(text, start, start + len(text), 1, value, value / 2, value / 2, purpose, value, purpose)


def words_of(text: str) -> list[WordParts]:
    """Words cut at blanks, which in these texts stand around every word and mark."""
    found, start = [], 0
    for word in text.split(" "):
        found.append(parts(word, start))
        start += len(word) + 1
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("In 1912 , Ada met Grace .", {"1912": "number date", "Ada": "capitalised", "Grace": "capitalised"}),
        ("Grace left . She stood behind I", {"left": "position", "behind": "position"}),
        ('" Two dark-blue boats', {"Two": "number word", "dark-blue": "colour"}),
        ("a tiny dog , 3 cats", {"tiny": "size", "3": "number"}),
        ("on March 3 1890s", {"March": "date capitalised", "3": "number", "1890s": "number date"}),
        ("march to 12/03/1999", {"12/03/1999": "number date"}),
        ("the 19th century in 800-850", {"19th": "number", "century": "date", "800-850": "number"}),
        ("the red-haired woman's Large hat", {"red-haired": "colour", "Large": "size capitalised"}),
    ],
)
def test_kinds(text: str, expected: dict[str, str]) -> None:
    names = {"capitalised": "capitalised inside a sentence", "word": "number word"}
    found = words_of(text)
    for word, kinds in zip(found, kinds_of(found), strict=True):
        wanted = expected.get(word.text, "").replace("number word", "word").split()
        plain = {names.get(kind, kind) for kind in wanted}
        assert kinds - {"punctuation"} == plain, word.text
        assert ("punctuation" in kinds) == (word.text in {",", ".", '"'})


def test_possessives_and_case_are_taken_off() -> None:
    assert [bare(text) for text in ("Dog's", "DOG", "dog\u2019s", "dogs")] == ["dog", "dog", "dog", "dogs"]


def planted(seed: int = 0, images: int = 60) -> list[Occurrence]:
    """Words whose true mean parts are known: red +1, 1912 -1, of 0, with noise that images share."""
    rng = np.random.default_rng(seed)
    items = []
    for image in range(images):
        shared = rng.normal(0, 0.3)
        for word, mean, kind in (("red", 1.0, "colour"), ("1912", -1.0, "number"), ("of", 0.0, None)):
            for _ in range(3):
                value = mean + shared + rng.normal(0, 0.5)
                kinds = frozenset({kind} if kind else ())
                part = parts(word, purpose=value, value=-value)
                items.append(Occurrence(word, kinds, mean > 0, image, part))
    return items


def test_planted_marks_are_found() -> None:
    purpose, through, value = report(planted(), WordOptions(resampling=FEW))
    assert [found.measure for found in (purpose, through, value)] == ["purpose", "through", "value"]
    assert [row.word for row in purpose.words] == ["red", "of", "1912"]
    assert [row.word for row in value.words] == ["1912", "of", "red"]
    red, of, year = purpose.words
    for row, mean in ((red, 1), (of, 0), (year, -1)):
        assert row.mean.low is not None
        assert row.mean.high is not None
        assert row.mean.low < mean < row.mean.high
        assert row.mean.n == 180
        assert row.mean.clusters == 60
    assert (red.in_descriptions, year.in_descriptions) == (180, 0)
    assert red.mean.low > 0 > year.mean.high  # type: ignore[operator]
    assert red.q is not None
    assert red.mean.p is not None
    assert red.q >= red.mean.p
    assert purpose.agreement is not None
    assert purpose.agreement.value == pytest.approx(1)
    assert through.agreement is None


def test_kinds_are_compared_with_all_other_words() -> None:
    items = planted()
    (purpose, *_) = report(items, WordOptions(resampling=FEW))
    kinds = {row.kind: row for row in purpose.kinds}
    assert set(kinds) == {"colour", "number"}
    values = np.array([item.parts.purpose for item in items], float)
    colour = np.array([item.word == "red" for item in items])
    gap = values[colour].mean() - values[~colour].mean()
    found = kinds["colour"].difference
    assert found.value == pytest.approx(gap)
    assert found.low is not None
    assert found.low < 1.5 < found.high  # type: ignore[operator]


def test_intervals_know_that_images_hold_together() -> None:
    """With all spread between images, a thousand words say no more than their ten images do."""
    rng = np.random.default_rng(1)
    shift = rng.normal(0, 1, 10)
    items = [
        Occurrence("red", frozenset(), True, i % 10, parts("red", purpose=float(shift[i % 10])))
        for i in range(1000)
    ]
    (row,) = report(items, WordOptions(resampling=FEW))[0].words
    assert row.mean.low is not None
    assert row.mean.high is not None
    assert row.mean.high - row.mean.low > 2 * 1.96 * shift.std() / np.sqrt(10)


def test_rare_words_are_not_listed() -> None:
    items = planted(images=4)
    assert report(items, WordOptions(resampling=FEW))[0].words == ()
    assert report(planted(images=5), WordOptions(least=16, resampling=FEW))[0].words == ()
    with pytest.raises(UsageError, match="least 0"):
        report(items, WordOptions(least=0))


def test_norms_are_correlated_word_by_word() -> None:
    rng = np.random.default_rng(0)
    listed = {f"w{i}": float(i) for i in range(40)}
    items = [
        Occurrence(
            word, frozenset(), True, int(rng.integers(20)), parts(word, purpose=norm + rng.normal(0, 5))
        )
        for word, norm in listed.items()
        for _ in range(rng.integers(1, 9))
    ]
    items += [Occurrence("other", frozenset(), True, 0, parts("other"))] * len(items)
    (row,) = report(items, WordOptions(norms={"conc": listed}, resampling=FEW))[0].norms
    assert row.covered == 0.5
    assert row.correlation.n == 40
    means = [np.mean([i.parts.purpose for i in items if i.word == word]) for word in listed]
    assert row.correlation.value == pytest.approx(np.corrcoef(list(listed.values()), means)[0, 1])
    assert row.correlation.low is not None
    assert row.correlation.low > 0.5


def write_csv(path: Path, rows: list[list[str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows(rows)
    return path


def test_norms_are_read_by_their_usual_names(tmp_path: Path) -> None:
    path = write_csv(
        tmp_path / "norms.csv",
        [["Word", "Conc.M", "SD"], ["Dog", "4.9", "1"], ["of", "", "1"], ["Dog's", "1", "1"]],
    )
    assert read_norms(path) == {"norms.csv Conc.M": {"dog": 4.9}}
    assert read_norms(path, ["SD"]) == {"norms.csv SD": {"dog": 1.0, "of": 1.0}}
    for columns, word, mention in ((["none"], None, "none"), ([], "none", "none")):
        with pytest.raises(DataError, match=mention):
            read_norms(path, columns, word)
    with pytest.raises(DataError, match=r"norms\.csv: line 2.*'x'"):
        read_norms(write_csv(tmp_path / "norms.csv", [["word", "imag"], ["dog", "x"]]))
    with pytest.raises(DataError, match="a norm"):
        read_norms(write_csv(tmp_path / "norms.csv", [["word", "x"], ["dog", "1"]]))
    with pytest.raises(DataError, match=r"none\.csv"):
        read_norms(tmp_path / "none.csv")


def test_two_files_of_norms_need_two_names(tmp_path: Path) -> None:
    """Norms are shown by file and column: the second file would take the place of the first."""
    rows = [["word", "imag"], ["dog", "1"]]
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    paths = [write_csv(tmp_path / name, rows) for name in ("a/norms.csv", "b/norms.csv", "b/other.csv")]
    with pytest.raises(UsageError, match=r"2 files are called norms\.csv"):
        read_all_norms(paths)
    assert set(read_all_norms(paths[1:])) == {"norms.csv imag", "other.csv imag"}


def test_parts_of_speech_come_from_spacy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in with spaCy's names: what is tested is how its tags reach the words."""
    fake = ModuleType("spacy")

    def load(name: str) -> object:
        if name != "little":
            raise OSError(f"[E050] Can't find model '{name}'.")
        return lambda text: [
            SimpleNamespace(idx=i, text=word, pos_="NOUN" if word[0].islower() else "PROPN")
            for i, word in ((text.index(w), w) for w in text.split())
        ]

    fake.load = load  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "spacy", fake)
    tagger = load_tagger("little")
    assert tagger is not None
    assert tagger("dog Ada") == [(0, 3, "NOUN"), (4, 7, "PROPN")]
    with pytest.raises(UsageError, match="E050"):
        load_tagger("nonesuch")
    assert load_tagger("none") is None
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(UsageError, match="'little' cannot be loaded"):
        load_tagger("little")


@pytest.fixture(scope="module")
def model(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a random purpose subspace."""
    folder = tmp_path_factory.mktemp("adapter")
    clip, base = (load_model(tiny_folder, "cpu").clip for _ in range(2))
    torch.manual_seed(1)
    readout = Readout(torch.randn(5), torch.tensor(0.1))
    save_full(
        clip,
        base,
        AdapterInfo(include_base(tiny_folder, folder), weights_hash(base), tuning="full", block=2, k=5),
        folder,
    )
    save_purpose(Purpose(Site(2, 5), Rotation(32, 1).matrix().detach(), readout), folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pairs, two of one image, and one whose image is damaged."""
    folder = tmp_path_factory.mktemp("data")
    rows = [["image", "description", "caption", "split"]]
    for i in range(12):
        make_photo(folder / f"{i}.png", seed=i % 11, size=(20, 20))
        rows.append([f"{i}.png", f"A red dog in a small street {i}", f"Ada in Paris, 19{i:02d}", "test"])
    (folder / "bad.png").write_bytes(b"no image")
    rows.append(["bad.png", "A dog.", "Ada", "test"])
    write_csv(folder / "pairs.csv", rows)
    return folder


@pytest.fixture(scope="module")
def explained(model: Path, data: Path) -> Explained:
    scorer = DescScorer.from_pretrained(model, device="cpu")
    return explain_pairs(scorer, load_pairs(data / "pairs.csv").split("test"))


def test_pairs_that_cannot_be_scored_are_named(explained: Explained) -> None:
    assert len(explained.pairs) == len(explained.explanations) == 12
    assert explained.converged == 1
    (dropped,) = explained.dropped
    assert "pairs.csv row 13 (13)" in dropped or "bad.png" in dropped


def test_nothing_usable_is_an_error(model: Path, data: Path) -> None:
    scorer = DescScorer.from_pretrained(model, device="cpu")
    bad = load_pairs(data / "pairs.csv").split("test")[-1:]
    with pytest.raises(DataError, match="none of 1 pairs"):
        explain_pairs(scorer, bad)


def test_every_word_is_counted_once(explained: Explained) -> None:
    items = occurrences(explained, lambda text: [(0, 1, "DET")])
    texts = [found for pair in explained.explanations for found in pair]
    assert len(items) == sum(len(found.words) for found in texts)
    assert sum(item.in_description for item in items) == 12 * 8
    assert len({item.image for item in items}) == 11  # one photo occurs twice
    assert sum("pos DET" in item.kinds for item in items) == 24
    assert [item.parts.purpose for item in items[:8]] == [w.purpose for w in texts[0].words]
    rows = {row.word: row for row in report(items, WordOptions(resampling=FEW))[0].words}
    assert rows["red"].mean.value == pytest.approx(
        np.mean([w.purpose for found in texts for w in found.words if w.text == "red"])
    )


def run(*args: object) -> Result:
    return CliRunner().invoke(main, ["eval", "words", *map(str, args)])


def test_the_command(model: Path, data: Path, tmp_path: Path) -> None:
    norms = write_csv(
        tmp_path / "norms.csv",
        [
            ["Word", "Conc.M"],
            ["dog", "4.9"],
            ["red", "4"],
            ["a", "1"],
            ["in", "2"],
            ["street", "4.5"],
            ["ada", "3"],
        ],
    )
    common = ("--data", data / "pairs.csv", "--device", "cpu", "--resamples", 99)
    result = run(*common, "--model", model, "--norms", norms, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert (found["pairs"], len(found["dropped"]), found["texts_converged"]) == (12, 1, 1)
    assert list(found["measures"]) == ["purpose", "through", "value"]
    words = [row["word"] for row in found["measures"]["purpose"]["words"]]
    assert {"red", "dog", "ada"} < set(words)
    (norm,) = found["measures"]["purpose"]["norms"]
    assert norm["correlation"]["n"] == 6
    shown = run(*common, "--model", model, "--norms", norms, "--spacy", "none", "--limit", 8, "--least", 5)
    assert shown.exit_code == 0, shown.output
    assert "kind of word" in shown.output
    assert "8 pairs" in shown.output
    assert "no parts of speech" in shown.output


def test_rows_that_the_reader_refuses_are_counted_with_their_reason(tiny_folder: Path, data: Path) -> None:
    pairs = [[f"{i}.png", "A red dog in a street", f"Ada, 19{i:02d}", "test"] for i in range(6)]
    refused = ["0.png", "", "No description", "test"]
    table = write_csv(data / "refused.csv", [["image", "description", "caption", "split"], *pairs, refused])
    common = ("--data", table, "--model", tiny_folder, "--device", "cpu", "--resamples", 99)
    shown = run(*common, "--spacy", "none")
    assert shown.exit_code == 0, shown.output
    assert "not usable (empty_description 1)" in shown.output
    assert "row 7" in shown.output
    (dropped,) = json.loads(run(*common, "--json").output)["dropped"]
    assert "the description is empty" in dropped


def test_a_model_without_purpose_has_the_cosine_alone(tiny_folder: Path, data: Path) -> None:
    result = run(
        "--data", data / "pairs.csv", "--model", tiny_folder, "--device", "cpu", "--resamples", 99, "--json"
    )
    assert list(json.loads(result.output)["measures"]) == ["value"]


def test_the_command_fails_in_one_line(model: Path, data: Path, tmp_path: Path) -> None:
    for args, code, mention in (
        (("--data", tmp_path / "none.csv"), 1, "none.csv"),
        (("--data", data / "pairs.csv", "--norms", tmp_path / "none.csv"), 1, "none.csv"),
        (("--data", data / "pairs.csv", "--spacy", "nonesuch"), 2, "nonesuch"),
        (("--data", data / "pairs.csv", "--split", "train"), 1, "train"),
        (("--data", data / "pairs.csv", "--least", 0), 2, "least"),
    ):
        result = run(*args, "--model", model, "--device", "cpu")
        assert result.exit_code == code, result.output
        assert mention in result.stderr
        assert "Traceback" not in result.output


def test_lines_name_unit_and_intervals() -> None:
    lines = lines_of(report(planted(), WordOptions(resampling=FEW))[0], 5)
    assert "log-odds of being a description" in lines[0]
    assert any(line.startswith("red ") for line in lines)
    assert any(line.startswith("1912") for line in lines)
    assert not any(line.startswith("of ") for line in lines)
