"""Swapped words: whole ones, by one of their nearest, in half of the texts; all else stays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from descscore.models import LoadedModel, load_model
from descscore.training.plan import NEIGHBOURS, Vocabulary, WordSwap, nearest_words, read_vocabulary

START, END, SIZE = 58, 59, 60


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
