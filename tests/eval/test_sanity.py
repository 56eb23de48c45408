"""Hostile texts by hand and by property, and how often they win against a slow loop over the scorer."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from descscore import DescScorer
from descscore.cli import main
from descscore.errors import DataError
from descscore.eval.attacks import ATTACKS, FOREIGN, UNTRAINED, Target, content_words, nouns
from descscore.eval.features import image_owner
from descscore.eval.sanity import (
    LESS_BASE,
    SanityFigure,
    SanityRow,
    file_name,
    other_image,
    sanity,
    sanity_lines,
    targets,
    without_stop,
)
from descscore.eval.statistics.proportions import wilson
from descscore.tables.open import DataOptions, load_pairs
from descscore.tables.rows import FileImage, PreferencePair

BY_NAME = {attack.name: attack for attack in ATTACKS}
DESCRIPTIONS = (
    "A brown dog runs over the wet sand of a beach.",
    "Map",
    "Two boats, one red and one blue, lie in the harbour at low tide.",
    "a of the",
    "Map",
    "An old man with a white beard reads the newspaper on a bench in a park.",
    "Grey cat",
)
N = len(DESCRIPTIONS)
EMPTY = ("picture", "photo of something", "image", "camera name", "untitled", "general keywords")


def sanity_rows(scorer: DescScorer, pairs: tuple[PreferencePair, ...], name: str) -> list[SanityRow]:
    return sanity(scorer, pairs, name).rows


def text(name: str, description: str, **rest: object) -> str | None:
    return BY_NAME[name].text(Target(description, **rest))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven pairs of six images: the first two rows show the same one."""
    rows = []
    for i, description in enumerate(DESCRIPTIONS):
        out = io.BytesIO()
        pixels = np.random.default_rng(max(i, 1)).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(out, "png")
        row = {"image": {"bytes": out.getvalue()}, "description": description, "caption": f"Ada {i}"}
        rows.append({**row, "filename": f"some folder/photo_{i}.png"})
    path = tmp_path_factory.mktemp("pairs") / "test.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture(scope="module")
def pairs(table: Path) -> tuple[PreferencePair, ...]:
    return load_pairs(table, DataOptions(keep_equal=True)).split("test")


@pytest.fixture(scope="module")
def scorer(tiny_folder: Path) -> DescScorer:
    return DescScorer.from_pretrained(tiny_folder, device="cpu", batch_size=3)


# The texts


def test_texts_by_hand() -> None:
    dog = DESCRIPTIONS[0]
    assert content_words(dog) == ["brown", "dog", "runs", "wet", "sand", "beach"]
    assert text("repeated word", "The dog\u2019s brown bed") == "dog\u2019s dog\u2019s dog\u2019s dog\u2019s"
    assert text("repeated word", dog) == " ".join(["brown"] * 11)
    assert text("keywords", "The dog's dog, a DOG!") == "dog's, dog"
    assert text("image of", dog) == "An image of a brown dog runs over the wet sand of a beach."
    assert text("first words", dog) == "A brown dog runs over"
    assert text("image", dog) == "image"
    assert text("picture", dog) == "A picture."
    assert text("camera name", dog) == "IMG_1234.jpg"
    assert text("nouns", "The big red dog is sitting quietly, near a dog and two boats.") == "dog, boats"
    assert nouns("A king and his wings") == ["king", "wings"]
    assert text("unknown phrase", dog) in UNTRAINED
    assert text("file name", dog, file_name="IMG_1.JPG") == "IMG_1.JPG"
    assert text("wrong image", dog, other="A cat.") == "A cat."
    assert text("other language", dog) in FOREIGN
    assert "photo" in (text("general keywords", dog) or "")


def test_nothing_is_scored_where_no_hostile_text_can_be_made() -> None:
    assert text("file name", "A dog") is None
    assert text("wrong image", "A dog") is None
    for name in ("repeated word", "keywords"):
        assert text(name, "a of the ?!") is None
    # What is the description itself, but for case and spacing, is no attack.
    assert text("image", "Image") is None
    assert text("untitled", "untitled") is None
    assert text("shuffled words", "very very") is None
    assert text("repeated word", "Map") is None
    assert text("first words", "A dog  on the\nbeach") is None
    assert text("wrong image", "Map", other=" map ") is None
    assert text("keywords", "Dog") is None


def test_there_is_an_attack_of_each_kind_and_each_says_what_it_is() -> None:
    assert len(BY_NAME) == len(ATTACKS) == 16
    for attack in ATTACKS:
        assert len(attack.what) > 10
    assert "not a translation" in BY_NAME["other language"].what


@given(st.text(), st.integers(0, 3))
def test_any_description_gives_the_same_texts_each_time_and_never_itself(words: str, seed: int) -> None:
    target = Target(words, "a.jpg", "Another image's text.", seed)
    for attack in ATTACKS:
        made = attack.text(target)
        assert made == attack.text(dataclasses.replace(target))
        assert made is None or made.split() != words.split()


@given(st.lists(st.sampled_from(["red", "blue", "dog", "a"]), min_size=1, max_size=8), st.integers(0, 3))
def test_shuffling_keeps_the_words_and_changes_their_order(words: list[str], seed: int) -> None:
    mixed = text("shuffled words", " ".join(words), seed=seed)
    if len(set(words)) == 1:
        assert mixed is None
    else:
        assert mixed is not None
        assert sorted(mixed.split()) == sorted(words)
        assert mixed.split() != words


def test_choices_by_chance_vary_with_description_and_seed() -> None:
    assert {text("other language", f"A dog {i}") for i in range(60)} == set(FOREIGN)
    shuffled = {text("shuffled words", DESCRIPTIONS[0], seed=seed) for seed in range(20)}
    assert len(shuffled) == 20


def test_texts_do_not_depend_on_order_or_company(pairs: tuple[PreferencePair, ...]) -> None:
    def made(some: tuple[PreferencePair, ...]) -> dict[str, list[str | None]]:
        found = targets(some, image_owner(some))
        own = [attack for attack in ATTACKS if attack.name != "wrong image"]
        return {pair.id: [a.text(t) for a in own] for pair, t in zip(some, found, strict=True)}

    whole = made(pairs)
    assert made(pairs[::-1]) == whole
    assert made(pairs[2:4]) == {pair.id: whole[pair.id] for pair in pairs[2:4]}


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(0, 5))
def test_the_wrong_image_is_never_the_same_and_each_is_taken_once(images: list[int], seed: int) -> None:
    owner = np.array(images)
    others = other_image(owner, seed)
    found = [(i, j) for i, j in enumerate(others) if j is not None]
    assert all(owner[i] != owner[j] for i, j in found)
    assert len({j for _, j in found}) == len(found)
    # None is left over but where one image has over half of the pairs.
    if 2 * np.bincount(owner).max() <= len(owner):
        assert len(found) == len(owner)


def test_file_names_of_each_kind_of_data(pairs: tuple[PreferencePair, ...]) -> None:
    assert file_name(pairs[0]) == "photo_0.png"
    on_disk = dataclasses.replace(pairs[0], image=FileImage(Path("/some/where/cat.jpeg")), id="17")
    assert file_name(on_disk) == "cat.jpeg"
    assert file_name(dataclasses.replace(pairs[0], id="17")) is None


# The rates


def slow_row(scorer: DescScorer, pairs: tuple[PreferencePair, ...], name: str) -> tuple[int, int, int]:
    """Wins, ties and pairs left out of one attack, one pair after another."""
    wins = ties = left_out = 0
    for pair, target in zip(pairs, targets(pairs, image_owner(pairs)), strict=True):
        hostile = BY_NAME[name].text(target)
        if hostile is None:
            left_out += 1
            continue
        found = scorer.compare(pair.image.read(), description=hostile, caption=target.description)
        wins += found.preferred == "description"
        ties += found.preferred == "tie"
    return wins, ties, left_out


def test_rows_equal_a_slow_loop(scorer: DescScorer, pairs: tuple[PreferencePair, ...]) -> None:
    rows = sanity_rows(scorer, pairs, "m")
    assert [row.attack for row in rows] == [attack.name for attack in ATTACKS]
    for row in rows:
        wins, ties, left_out = slow_row(scorer, pairs, row.attack)
        assert (row.n, row.left_out) == (N - left_out, left_out)
        assert row.value == pytest.approx(wins / row.n)
        assert (row.metric, row.ties) == ("m", ties)
        assert row.what == BY_NAME[row.attack].what
    left = {row.attack: row.left_out for row in rows}
    assert (left["repeated word"], left["keywords"], left["shuffled words"]) == (3, 3, 2)
    assert left["picture"] == left["nouns"] - left["keywords"] == 0
    assert left["first words"] == 4
    assert left["file name"] == left["image"] == 0


def test_a_text_that_the_model_reads_alike_is_a_tie_and_no_win(
    scorer: DescScorer, pairs: tuple[PreferencePair, ...]
) -> None:
    # Cut to 77 tokens they lose what alone they differ in.
    scorer = DescScorer(scorer.model, text_policy="truncate")
    long = " ".join(["red"] * 120)
    some = [dataclasses.replace(p, description=f"{long} {i}") for i, p in enumerate(pairs)]
    row = next(row for row in sanity_rows(scorer, some, "m") if row.attack == "wrong image")
    assert (row.value, row.ties, row.n) == (0.0, N, N)


def test_intervals_are_wilsons_where_each_image_occurs_once(
    scorer: DescScorer, pairs: tuple[PreferencePair, ...]
) -> None:
    row = sanity_rows(scorer, pairs[1:], "m")[0]
    assert row.value is not None
    assert (row.low, row.high) == wilson(row.value, N - 1)
    # An image that occurs twice tells less than two do.
    twice = sanity_rows(scorer, [*pairs[1:], *pairs[1:]], "m")[0]
    assert twice.value == row.value
    assert twice.low is not None
    assert twice.high is not None
    assert row.high is not None
    assert row.low is not None
    assert twice.high - twice.low > 0.9 * (row.high - row.low)


def test_one_pair_has_no_wrong_image(scorer: DescScorer, pairs: tuple[PreferencePair, ...]) -> None:
    with pytest.raises(DataError, match="no pairs"):
        sanity_rows(scorer, [], "m")
    rows = {row.attack: row for row in sanity_rows(scorer, pairs[:1], "m")}
    assert rows["wrong image"] == SanityRow(
        "m", "wrong image", BY_NAME["wrong image"].what, None, None, None, 0, 0, 1
    )
    shown = next(line for line in sanity_lines(list(rows.values())) if "wrong image" in line)
    assert shown.split()[3:] == ["0", "-", "-", "0", "1"]


def test_tables_show_the_numbers(scorer: DescScorer, pairs: tuple[PreferencePair, ...]) -> None:
    made = SanityRow("m", "image", "one word", 0.25, 0.1, 0.5, 2, 8, 1)
    none = SanityRow("m", "keywords", "a list", None, None, None, 0, 0, 9)
    lines = sanity_lines([made, none])
    assert lines[2].split() == ["m", "image", "8", "25.0%", "10.0", "to", "50.0", "2", "1"]
    assert lines[3].split() == ["m", "keywords", "0", "-", "-", "0", "9"]
    assert lines[-2:] == ["image: one word", "keywords: a list"]
    figures = [
        SanityFigure("m", "a change", 0.01234, None, None, 8),
        SanityFigure("m", "a share", 0.5, 0.4, 0.6, 8),
    ]
    shown = sanity_lines([made, none], figures)
    assert any(line.split() == ["m", "a", "change", "8", "0.012", "-"] for line in shown)
    assert any(line.split() == ["m", "a", "share", "8", "0.500", "0.400", "to", "0.600"] for line in shown)


def test_only_one_final_full_stop_is_taken_off() -> None:
    assert without_stop("A dog.") == "A dog"
    assert without_stop("A dog. \n") == "A dog"
    for whole in ("A dog", "A dog...", "A dog?", ".", "Mr. Smith"):
        assert without_stop(whole) == whole


def test_figures_equal_a_slow_loop(scorer: DescScorer, pairs: tuple[PreferencePair, ...]) -> None:
    found = {one.figure: one for one in sanity(scorer, pairs, "m").figures}
    assert len(found) == 6  # a model without a read-out has no probabilities
    moves = []
    for pair in pairs:
        bare = without_stop(pair.description)
        first, second = (scorer.score(pair.image.read(), text).cosine for text in (bare, f"{bare}."))
        moves.append(abs(first - second))
    assert found["a final full stop moves the cosine: mean"].value == pytest.approx(np.mean(moves), abs=1e-6)
    largest = found["a final full stop moves the cosine: largest"]
    assert largest.value == pytest.approx(max(moves), abs=1e-6)
    owner = image_owner(pairs)
    for own in ("descriptions", "captions"):
        for other in ("descriptions", "captions"):
            wins = []
            for i, pair in enumerate(pairs):
                mine, *others = (
                    scorer.score(pair.image.read(), text).cosine
                    for text in (
                        _text(pair, own),
                        *(_text(one, other) for j, one in enumerate(pairs) if owner[j] != owner[i]),
                    )
                )
                wins.append(np.mean([mine > rival for rival in others]))
            figure = found[f"{own} over other images' {other}"]
            assert figure.value == pytest.approx(np.mean(wins), abs=1e-6)
            assert figure.n == N


def _text(pair: PreferencePair, kind: str) -> str:
    return without_stop(pair.description) if kind == "descriptions" else pair.caption


def test_a_model_with_a_readout_says_how_likely_empty_phrases_are_descriptions(
    pairs: tuple[PreferencePair, ...],
) -> None:
    scorer = DescScorer.from_pretrained("default", device="cpu")
    found = {one.figure: one for one in sanity(scorer, pairs, "m").figures}
    empty = found["description_probability of empty phrases: mean"]
    phrases = [BY_NAME[name].make(Target("")) for name in EMPTY] + list(UNTRAINED)
    photo = pairs[0].image.read()
    expected = [scorer.score(photo, text or "").description_probability for text in phrases]
    assert empty.value == pytest.approx(np.mean(expected), abs=1e-5)
    assert empty.n == 11
    assert empty.low is not None
    assert empty.high is not None
    assert 0 <= empty.low < empty.value < empty.high <= 1
    assert found["description_probability of descriptions: mean"].n == N
    captions = [scorer.score(photo, pair.caption).description_probability for pair in pairs]
    mean = found["description_probability of captions: mean"].value
    assert mean == pytest.approx(np.mean(captions), abs=1e-5)
    # Two descriptions are a single word, which cannot be shuffled.
    shuffled = found["description_probability of descriptions with their words shuffled: mean"]
    assert shuffled.n == N - 2


def test_a_tuned_model_is_compared_with_its_base_pair_by_pair(pairs: tuple[PreferencePair, ...]) -> None:
    tuned, base = (
        {
            one.figure: one
            for one in sanity(DescScorer.from_pretrained(name, device="cpu"), pairs, "m").figures
        }
        for name in ("default", "base")
    )
    compared = [name for name in tuned if name.endswith(LESS_BASE)]
    assert len(compared) == 4
    for name in compared:
        plain = name.removesuffix(LESS_BASE)
        assert tuned[name].value == pytest.approx(tuned[plain].value - base[plain].value, abs=1e-9)
        assert tuned[name].n == N
    assert not any(name.endswith(LESS_BASE) for name in base)


# The command


def test_command_equals_the_library(
    table: Path, tiny_folder: Path, pairs: tuple[PreferencePair, ...]
) -> None:
    args = ["eval", "sanity", "--data", str(table), "--model", str(tiny_folder), "--device", "cpu"]
    result = CliRunner().invoke(main, [*args, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    scorer = DescScorer.from_pretrained(tiny_folder, device="cpu")
    expected = sanity(scorer, pairs, str(tiny_folder))
    assert found == {
        "rows": [dataclasses.asdict(row) for row in expected.rows],
        "figures": [dataclasses.asdict(figure) for figure in expected.figures],
        "signatures": [scorer.signature],
        "dropped": [],
    }
    shown = CliRunner().invoke(main, args).stdout
    assert "shuffled words" in shown
    assert "7 pairs of split 'test'; 0 rows" in shown
    assert scorer.signature in shown


def test_command_on_the_published_pairs(
    shared_data: Path | None, table: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    data = table if shared_data is None else shared_data / "concadia"
    args = ["eval", "sanity", "--data", str(data), "--model", str(tiny_folder), "--device", "cpu", "--json"]
    rows = json.loads(CliRunner().invoke(main, args).stdout)["rows"]
    n = len(load_pairs(data, DataOptions(keep_equal=True)).split("test"))
    assert len(rows) == len(ATTACKS)
    for row in rows:
        assert row["n"] + row["left_out"] == n
        assert row["n"] < 5 or 0 <= row["low"] <= row["value"] <= row["high"] <= 1


def test_a_split_that_is_not_there(table: Path) -> None:
    result = CliRunner().invoke(main, ["eval", "sanity", "--data", str(table), "--split", "val"])
    assert result.exit_code == 1
    assert "no usable pairs in split 'val'" in result.stderr
