"""What a step trains on: which texts meet, and how texts are cut, thinned and given other words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from toy_examples import examples

from descscore.errors import DataError, UsageError
from descscore.models import LoadedModel, load_model
from descscore.tokenizer import token_rows
from descscore.training.config import FinetuneConfig, Tower, preset
from descscore.training.data import (
    NEIGHBOURS,
    EpochPlan,
    Examples,
    Vocabulary,
    WordSwap,
    cut_at,
    draw_sources,
    draw_windows,
    drop_tokens,
    nearest_words,
    other_endings,
    read_vocabulary,
    with_endings,
    with_neither,
)

START, END, SIZE = 58, 59, 60
"""Start and end token of toy texts, and the size of their vocabulary."""


DATA = examples()
"""24 pairs."""


def config(**changes: Any) -> FinetuneConfig:
    return replace(preset("das-lora", Tower(32, 4)), **{"batch_size": 8, **changes})


def test_every_text_is_a_base_once_an_epoch_in_a_new_order() -> None:
    plans = [EpochPlan(DATA, config(), epoch) for epoch in (0, 0, 1)]
    seen = [torch.cat([plan.batch(i).base for i in range(plan.steps)]) for plan in plans]
    assert sorted(seen[0].tolist()) == list(range(48))
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])


def test_one_pass_takes_its_sources_from_the_texts_of_the_same_step() -> None:
    n = len(DATA)
    plan = EpochPlan(DATA, config(batch_size=8, contrastive_weight=1.0), 0)
    for step in range(plan.steps):
        batch = plan.batch(step)
        here = {*batch.pairs.tolist(), *(batch.pairs + n).tolist()}
        assert set(batch.base.tolist()) == here
        assert set(batch.source.tolist()) <= here
        assert ((batch.base < n) != (batch.source < n)).all()
        assert (DATA.owner[batch.base % n] != DATA.owner[batch.source % n]).all()
        first = batch.part(0, 2)
        assert set((first.base % n).tolist()) == set(first.pairs.tolist())
    assert plan.examples.tokens is DATA.tokens


def test_a_batch_of_one_image_takes_sources_from_the_whole_split() -> None:
    plan = EpochPlan(DATA, config(batch_size=2), 0)
    batch, owner, n = plan.batch(3), DATA.owner, len(DATA)
    assert (owner[batch.base % n] != owner[batch.source % n]).all()


def test_drawn_epochs_take_as_many_interchanges_as_asked() -> None:
    plan = EpochPlan(DATA, config(batch_size=8, examples_per_epoch=24), 0)
    assert plan.steps == 3
    assert all(len(plan.batch(step).base) == 8 for step in range(3))


def test_texts_are_thinned_anew_each_epoch() -> None:
    settings = config(text_window=5, token_dropout=0.2)
    first, again, later = (EpochPlan(DATA, settings, epoch).examples.tokens for epoch in (0, 0, 1))
    assert first.shape[1] == 5
    assert torch.equal(first, again)
    assert not torch.equal(first, later)


def test_sources_are_of_the_other_kind_and_of_another_image() -> None:
    owner = torch.tensor([0, 0, 1, 2, 2, 2])
    base = torch.arange(12).repeat(50)
    source = draw_sources(base, owner, "other", torch.Generator().manual_seed(0))
    assert ((base < 6) != (source < 6)).all()
    assert (owner[base % 6] != owner[source % 6]).all()
    assert len(source[base == 0].unique()) == 4
    assert draw_sources(torch.tensor([0, 7]), owner, "same", torch.Generator()).tolist() == [6, 1]
    with pytest.raises(DataError, match="two different images"):
        draw_sources(base, torch.zeros(6), "other", torch.Generator())


# Windows and left-out words


def numbered(lengths: list[int]) -> Tensor:
    """Texts of so many words: start, 1, 2, 3, ..., end, and padding."""
    out = torch.zeros(len(lengths), max(lengths) + 2, dtype=torch.int64)
    for row, length in zip(out, lengths, strict=True):
        row[: length + 2] = torch.tensor([START, *range(1, length + 1), END])
    return out


def words_of(row: Tensor) -> list[int]:
    """The words between start and end token; fails where those are not in their places."""
    kept = row[row != 0].tolist()
    assert kept[0] == START
    assert kept[-1] == END
    assert (row[len(kept) :] == 0).all()
    return kept[1:-1]


lengths = st.lists(st.integers(1, 30), min_size=1, max_size=6)


@settings(deadline=None)
@given(lengths, st.integers(3, 40), st.integers(0, 9))
def test_a_window_is_a_stretch_of_the_text(sizes: list[int], window: int, seed: int) -> None:
    tokens = numbered(sizes)
    found = draw_windows(tokens, window, torch.Generator().manual_seed(seed))
    assert found.shape[1] <= max(window, 3) or tokens.shape[1] <= window
    for row, size in zip(found, sizes, strict=True):
        kept = words_of(row)
        assert len(kept) == min(size, window - 2)
        assert kept == list(range(kept[0], kept[0] + len(kept)))


def test_windows_start_everywhere_and_half_of_them_at_the_beginning() -> None:
    tokens = numbered([22] * 4000)
    found = draw_windows(tokens, 12, torch.Generator().manual_seed(0))
    starts = torch.tensor([words_of(row)[0] for row in found])
    assert set(starts.tolist()) == set(range(1, 14))
    at_beginning = float((starts == 1).double().mean())
    assert 0.5 < at_beginning < 0.58  # a half, and one in 13 of the other


def test_cutting_at_zero_keeps_the_beginning_as_the_tokenizer_does() -> None:
    found = cut_at(numbered([5, 30]), 10, torch.zeros(2, dtype=torch.int64))
    assert words_of(found[0]) == [1, 2, 3, 4, 5]
    assert words_of(found[1]) == list(range(1, 9))


@settings(deadline=None)
@given(lengths, st.floats(0, 0.9), st.integers(0, 9))
def test_dropped_tokens_leave_the_others_in_order(sizes: list[int], share: float, seed: int) -> None:
    tokens = numbered(sizes)
    found = drop_tokens(tokens, share, torch.Generator().manual_seed(seed))
    assert found.shape == tokens.shape
    for row in found:
        kept = words_of(row)
        assert kept == sorted(kept)
    if share == 0:
        assert torch.equal(found, tokens)


def test_the_share_that_is_dropped() -> None:
    tokens = numbered([40] * 500)
    found = drop_tokens(tokens, 0.25, torch.Generator().manual_seed(0))
    left = sum(len(words_of(row)) for row in found) / (500 * 40)
    assert 0.73 < left < 0.77


# Swapped words


def toy_vocabulary() -> Vocabulary:
    """1 to 19 begin longer words, 20 to 29 end a word without being one (full stops), 30 to 57 are words."""
    token = torch.arange(SIZE)
    return Vocabulary(ends=(token >= 20) & (token < 58), spells=(token < 20) | (token >= 30))


def swap_of(embedding: Tensor, vocabulary: Vocabulary | None = None) -> WordSwap:
    return WordSwap.of(embedding, vocabulary or toy_vocabulary())


def embedding(seed: int = 0) -> Tensor:
    return torch.randn(SIZE, 7, generator=torch.Generator().manual_seed(seed))


def rows_of(texts: list[list[int]]) -> Tensor:
    out = torch.zeros(len(texts), max(map(len, texts)) + 2, dtype=torch.int64)
    for row, text in zip(out, texts, strict=True):
        row[: len(text) + 2] = torch.tensor([START, *text, END])
    return out


@pytest.fixture(scope="module")
def base() -> LoadedModel:
    return load_model("base")


def test_nearest_words_are_those_of_numpy() -> None:
    vocabulary, given = toy_vocabulary(), embedding()
    found = nearest_words(given, vocabulary.words)
    rest = (given - given.mean(0)).numpy()
    unit = rest / np.linalg.norm(rest, axis=1, keepdims=True)
    for token in range(SIZE):
        others = [word for word in range(30, 58) if word != token]
        expected = sorted(others, key=lambda word: -float(unit[word] @ unit[token]))[:NEIGHBOURS]
        assert found[token].tolist() == (expected if 30 <= token < 58 else [token] * NEIGHBOURS)


def test_a_vocabulary_of_two_words_gives_each_the_other() -> None:
    words = torch.tensor([False, True, True])
    found = nearest_words(torch.randn(3, 4), words)
    assert found[:, 0].tolist() == [0, 2, 1]
    assert found[1, 1:].tolist() == [1] * (NEIGHBOURS - 1)


@settings(deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 57), min_size=1, max_size=12), min_size=1, max_size=6),
    st.floats(0, 1),
    st.integers(0, 9),
)
def test_only_whole_words_change_and_only_to_neighbours(
    texts: list[list[int]], share: float, seed: int
) -> None:
    tokens, swap = rows_of(texts), swap_of(embedding())
    found = swap.draw(tokens, share, torch.Generator().manual_seed(seed))
    for text, row in zip(texts, found.tolist(), strict=True):
        assert row[0] == START
        assert row[len(text) + 1 :] == [END] + [0] * (len(row) - len(text) - 2)
        for place, (old, new) in enumerate(zip(text, row[1:], strict=False)):
            begins = place == 0 or text[place - 1] >= 20
            assert new == old or (begins and old >= 30 and new in swap.nearest[old].tolist())
    if share == 0:
        assert torch.equal(found, tokens)


def test_half_of_the_texts_have_the_share_of_their_words_swapped() -> None:
    tokens = rows_of([[30 + i for i in range(20)]] * 4000)
    found = swap_of(embedding()).draw(tokens, 0.25, torch.Generator().manual_seed(0))
    changed = (found != tokens).double().sum(1)
    touched = changed > 0  # one text in 300 of those drawn keeps all its 20 words
    assert 0.47 < float(touched.double().mean()) < 0.53
    assert 0.24 < float(changed[touched].mean()) / 20 < 0.26
    assert len(set(found[:, 1].tolist())) == 1 + NEIGHBOURS


def test_what_the_tokenizer_calls_words(base: LoadedModel) -> None:
    vocabulary = read_vocabulary(base.tokenizer, base.clip.vocab_size)
    whole = base.tokenizer.encode("photograph lincoln red")
    assert len(whole) == 3
    assert vocabulary.words[whole].all()
    pieces = base.tokenizer.encode("photosynthesising")
    assert len(pieces) > 1
    assert vocabulary.ends[pieces].tolist() == [False] * (len(pieces) - 1) + [True]
    assert not vocabulary.words[base.tokenizer.encode("1936 . , an of 's é")].any()
    assert not vocabulary.words[list(base.tokenizer.wrap([]))].any()


def test_rows_that_the_tokenizer_has_no_token_for_are_no_words(base: LoadedModel) -> None:
    """Embeddings are often rounded up to a multiple of 64 rows or more."""
    size = base.clip.vocab_size
    plain, larger = (read_vocabulary(base.tokenizer, count) for count in (size, size + 64))
    assert torch.equal(larger.words[:size], plain.words)
    assert torch.equal(larger.ends[:size], plain.ends)
    assert not larger.words[size:].any()
    assert not larger.ends[size:].any()


@pytest.mark.long
def test_a_words_neighbours_are_of_its_kind(base: LoadedModel) -> None:
    """In the bundled model's embedding a colour's neighbours are looks, and a name's are names."""
    swap = WordSwap.of(
        base.clip.token_embedding.weight, read_vocabulary(base.tokenizer, base.clip.vocab_size)
    )

    def near(word: str) -> list[str]:
        (token,) = base.tokenizer.encode(word)
        return [base.tokenizer.token_bytes(i).decode() for i in swap.nearest[token].tolist()]

    colours, names = near("red"), near("paris")
    assert {"blue", "pink", "orange", "yellow", "green", "purple", "crimson", "scarlet"} & set(colours)
    assert {"france", "london", "french", "parisian", "rome"} & set(names)
    assert not set(colours) & set(names)


# The third kind of text, and final full stops


def test_endings_by_hand() -> None:
    s, e, dot = START, END, 9
    rows = [[s, 5, e, 0], [s, 5, dot, e], [s, 5, 6, e], [s, dot, e, 0], [s, dot, dot, e]]
    expected = [[s, 5, dot, e], [s, 5, e, 0], [s, 5, dot, e], [s, dot, e, 0], [s, dot, e, 0]]
    assert other_endings(torch.tensor(rows), dot).tolist() == expected


@pytest.fixture(scope="module")
def written(tiny_folder: Path) -> Examples:
    """Eight pairs with a tokenizer and real words, half of them with a final full stop."""
    tokenizer = load_model(tiny_folder, "cpu").tokenizer
    descriptions = [f"A brown dog and {i} cats run over wet sand{'.' * (i % 2)}" for i in range(8)]
    texts = [*descriptions, *(f"Ada, {1900 + i}{'.' * (i % 2)}" for i in range(8))]
    images = torch.nn.functional.normalize(torch.randn(8, 16), dim=1)
    return Examples(images, torch.arange(8), token_rows(tokenizer, texts), tokenizer, texts=tuple(texts))


def test_each_image_gets_an_empty_and_a_jumbled_text(written: Examples) -> None:
    made = with_neither(written, torch.Generator().manual_seed(0))
    assert (written.kinds, made.kinds) == (2, 4)
    wide = written.tokens.shape[1]
    assert torch.equal(made.tokens[:16, :wide], written.tokens)
    assert written.tokenizer is not None
    comma = written.tokenizer.encode(",")[0]
    for i in range(8):
        words = {int(t) for t in made.tokens[24 + i]} - {0, comma}
        assert words <= {int(t) for t in made.tokens[i]}, i
    chosen = made.select(torch.tensor([3, 1]))
    assert torch.equal(chosen.tokens, made.tokens[[3, 1, 11, 9, 19, 17, 27, 25]])
    assert chosen.texts == tuple(written.texts[i] for i in (3, 1, 11, 9))


def test_a_final_full_stop_tells_nothing_about_the_kind(written: Examples) -> None:
    many = written.select(torch.arange(8).repeat(50))
    made = with_endings(many, torch.Generator().manual_seed(0))
    assert made.tokenizer is not None
    assert made.twins is not None
    stop = made.tokenizer.encode(".")[0]

    def stops(tokens: Tensor) -> Tensor:
        return (tokens == stop).any(1)

    assert (stops(made.tokens) != stops(made.twins)).all()
    for kind in made.tokens.split(len(many)):
        assert 0.4 < float(stops(kind).double().mean()) < 0.6
    bare = torch.where(stops(made.tokens)[:, None], made.twins, made.tokens)
    assert not (bare == stop).any()


def test_what_alters_texts_needs_their_tokenizer(written: Examples) -> None:
    bare = replace(written, tokenizer=None)
    for change in (with_neither, with_endings):
        with pytest.raises(UsageError, match="need their tokenizer"):
            change(bare, torch.Generator())


def test_an_epoch_shows_the_third_kind_and_both_endings(written: Examples) -> None:
    asked = config(neither_weight=1.0, ending_weight=1.0, text_window=8)
    first, again, other = (EpochPlan(written, asked, epoch).examples for epoch in (0, 0, 1))
    assert (first.kinds, len(first.tokens)) == (4, 32)
    assert first.twins is not None
    assert first.twins.shape == first.tokens.shape
    assert torch.equal(first.tokens, again.tokens)
    assert first.tokens.shape != other.tokens.shape or not torch.equal(first.tokens, other.tokens)
