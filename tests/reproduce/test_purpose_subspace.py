"""Interchange accuracy through subspaces, against plain hooks on open_clip."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from toy_examples import examples

from descscore.interchange import Rotation
from descscore.models import load_model
from descscore.purpose import Site
from descscore.towers.text import run_to_block
from descscore.training.data import Examples, draw_sources
from reproduce.purpose_subspace import Swaps, fold_rows, interchange_table, mean_difference_rotation, sizes


@pytest.fixture(scope="module")
def clip(tiny_folder: Path):  # type: ignore[no-untyped-def]
    return load_model(tiny_folder, "cpu").clip


@torch.no_grad()
def slow_accuracy(clip, basis: torch.Tensor, block: int, data: Examples) -> float:  # type: ignore[no-untyped-def]
    """One text at a time, with a hook that overwrites the state; no code of the package but the tokens."""
    n, hits = len(data), 0
    sources = draw_sources(torch.arange(2 * n), data.owner, "other", torch.Generator().manual_seed(0))
    padded = torch.zeros(2 * n, 77, dtype=torch.int64)
    padded[:, : data.tokens.shape[1]] = data.tokens
    layer = clip.transformer.resblocks[block]

    def state(row: int) -> torch.Tensor:
        kept: list[torch.Tensor] = []
        handle = layer.register_forward_hook(
            lambda m, i, out: kept.append(out[0, padded[row].argmax()].clone())
        )
        clip.encode_text(padded[row : row + 1])
        handle.remove()
        return kept[0]

    def cosine(row: int, new: torch.Tensor | None) -> float:
        def put(module, inputs, out):  # type: ignore[no-untyped-def]
            out = out.clone()
            if new is not None:
                out[0, padded[row].argmax()] = new
            return out

        handle = layer.register_forward_hook(put)
        text = torch.nn.functional.normalize(clip.encode_text(padded[row : row + 1]), dim=1)[0]
        handle.remove()
        return float(text @ data.images[row % n])

    for row in range(2 * n):
        mine, other = state(row), state(int(sources[row]))
        projector = basis.T @ basis
        moved = cosine(row, mine + projector @ (other - mine)) - cosine(row, None)
        hits += moved > 1e-9 if sources[row] < n else moved < -1e-9
    return hits / (2 * n)


def test_interchange_table_against_hooks_one_text_at_a_time(clip) -> None:  # type: ignore[no-untyped-def]
    data = examples()
    rotation = Rotation(32, 1).matrix().detach()
    rows = {(r.subspace, r.k): r for r in interchange_table(Swaps(clip, data, 2), rotation)}
    assert sizes(32) == (1, 4, 8, 16, 32)
    for k in (4, 16):
        bases = {"trained": rotation[:k], "beyond the first": rotation[1:k], "complement": rotation[k:]}
        for name, basis in bases.items():
            assert rows[name, k].value == pytest.approx(slow_accuracy(clip, basis, 2, data), abs=1e-9)
    assert rows["complement", 32].value == 0  # nothing is swapped, and staying put is wrong
    full = Swaps(clip, data, 2).row("full swap", 32, torch.eye(32))
    assert full.value == pytest.approx(rows["trained", 32].value, abs=0.05)
    assert all(row.n == 48 for row in rows.values())
    assert rows["beyond the first", 1].value == 0
    for (name, _), row in rows.items():
        if name == "random":
            assert row.spread is not None
            assert row.low is None
        else:
            assert row.low is not None
            assert row.high is not None
            assert row.low <= row.value <= row.high


@pytest.mark.long
def test_random_rotations_are_many_and_their_spread_is_that_of_hooks(clip) -> None:  # type: ignore[no-untyped-def]
    data = examples()
    rows = {(r.subspace, r.k): r for r in interchange_table(Swaps(clip, data, 2), torch.eye(32))}
    draws = [slow_accuracy(clip, Rotation(32, seed).matrix().detach()[:4], 2, data) for seed in range(12)]
    assert rows["random", 4].value == pytest.approx(np.mean(draws), abs=1e-9)
    assert rows["random", 4].spread == pytest.approx(np.std(draws, ddof=1), abs=1e-9)


def test_the_rotation_found_afterwards_begins_with_the_mean_difference(clip) -> None:  # type: ignore[no-untyped-def]
    data = examples()
    rotation = mean_difference_rotation(clip, 2, data)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(32), atol=1e-5, rtol=0)
    states = torch.cat([run_to_block(clip, row[None], 2).state for row in data.tokens])
    n = len(data)
    difference = (states[:n] - states[n:]).double().mean(0)
    expected = difference / difference.norm()
    torch.testing.assert_close(rotation[0].double(), expected, atol=1e-5, rtol=0)


def test_folds_count_every_held_out_text_once(clip) -> None:  # type: ignore[no-untyped-def]
    data, rotation, site = examples(), Rotation(32, 1).matrix().detach(), Site(2, 4)
    halves = [data.select(torch.arange(0, 10)), data.select(torch.arange(10, 24))]
    rows = {(r.subspace, r.k): r for r in fold_rows([(clip, rotation, half) for half in halves], site)}
    for key, basis in {("trained", 4): rotation[:4], ("beyond the first", 4): rotation[1:4]}.items():
        shares = [slow_accuracy(clip, basis, 2, half) for half in halves]
        assert rows[key].value == pytest.approx(np.average(shares, weights=[20, 28]), abs=1e-9)
        assert rows[key].n == 48
