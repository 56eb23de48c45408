"""Thinned texts: what is left is a stretch of the text, or the text with words left out, nothing else."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from descscore.training.plan import cut_at, draw_windows, drop_tokens

START, END = 1000, 1001


def rows_of(lengths: list[int]) -> Tensor:
    """Texts of so many words: start, 1, 2, 3, ..., end, and padding."""
    out = torch.zeros(len(lengths), max(lengths) + 2, dtype=torch.int64)
    for row, length in zip(out, lengths, strict=True):
        row[: length + 2] = torch.tensor([START, *range(1, length + 1), END])
    return out


def words(row: Tensor) -> list[int]:
    """The words between start and end token; fails where those are not in their places."""
    kept = row[row != 0].tolist()
    assert kept[0] == START
    assert kept[-1] == END
    assert (row[len(kept) :] == 0).all()
    return kept[1:-1]


lengths = st.lists(st.integers(1, 30), min_size=1, max_size=6)


@given(lengths, st.integers(3, 40), st.integers(0, 9))
def test_a_window_is_a_stretch_of_the_text(sizes: list[int], window: int, seed: int) -> None:
    tokens = rows_of(sizes)
    found = draw_windows(tokens, window, torch.Generator().manual_seed(seed))
    assert found.shape[1] <= max(window, 3) or tokens.shape[1] <= window
    for row, size in zip(found, sizes, strict=True):
        kept = words(row)
        assert len(kept) == min(size, window - 2)
        assert kept == list(range(kept[0], kept[0] + len(kept)))


def test_windows_start_everywhere_and_half_of_them_at_the_beginning() -> None:
    tokens = rows_of([22] * 4000)
    found = draw_windows(tokens, 12, torch.Generator().manual_seed(0))
    starts = torch.tensor([words(row)[0] for row in found])
    assert set(starts.tolist()) == set(range(1, 14))
    at_beginning = float((starts == 1).double().mean())
    assert 0.5 < at_beginning < 0.58  # a half, and one in 13 of the other


def test_cutting_at_zero_keeps_the_beginning_as_the_tokenizer_does() -> None:
    found = cut_at(rows_of([5, 30]), 10, torch.zeros(2, dtype=torch.int64))
    assert words(found[0]) == [1, 2, 3, 4, 5]
    assert words(found[1]) == list(range(1, 9))


@given(lengths, st.floats(0, 0.9), st.integers(0, 9))
def test_dropped_tokens_leave_the_others_in_order(sizes: list[int], share: float, seed: int) -> None:
    tokens = rows_of(sizes)
    found = drop_tokens(tokens, share, torch.Generator().manual_seed(seed))
    assert found.shape == tokens.shape
    for row in found:
        kept = words(row)
        assert kept == sorted(kept)
    if share == 0:
        assert torch.equal(found, tokens)


def test_the_share_that_is_dropped() -> None:
    tokens = rows_of([40] * 500)
    found = drop_tokens(tokens, 0.25, torch.Generator().manual_seed(0))
    left = sum(len(words(row)) for row in found) / (500 * 40)
    assert 0.73 < left < 0.77
