"""The ordered rotation spans the same subspace; calibration comes from towers that did not see the texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_folds import examples

from descscore.models import load_model
from descscore.purpose import Purpose, Rotation, Site, interchange
from descscore.towers.text import encode_tokens, run_to_block
from descscore.training import readout as purpose_fit
from descscore.training.config import Tower, preset
from descscore.training.data import Examples
from descscore.training.plan import draw_sources
from descscore.training.readout import (
    Grouped,
    cross_calibration,
    order_rotation,
    purpose_coordinates,
    reference_cosines,
)
from reproduce.interchange_table import interchange_table, sizes

SITE = Site(2, 8)


@pytest.fixture(scope="module")
def clip(tiny_folder: Path):  # type: ignore[no-untyped-def]
    return load_model(tiny_folder, "cpu").clip


def test_ordering_keeps_the_subspace_and_every_interchange_at_the_trained_k(clip) -> None:  # type: ignore[no-untyped-def]
    data, rotation = examples(), Rotation(32, 1).matrix().detach()
    ordered = order_rotation(clip, rotation, SITE, data)
    assert torch.allclose(ordered @ ordered.T, torch.eye(32), atol=1e-5)
    assert torch.equal(ordered[8:], rotation[8:])
    base, source = torch.randn(2, 5, 32)
    one, other = (interchange(base, source, matrix, 8) for matrix in (rotation, ordered))
    assert torch.allclose(one, other, atol=1e-5)


def test_the_first_coordinate_holds_the_mean_difference_and_the_next_most_of_the_rest(clip) -> None:  # type: ignore[no-untyped-def]
    data, n = examples(), 24
    ordered = order_rotation(clip, Rotation(32, 1).matrix().detach(), SITE, data)
    found = purpose_coordinates(clip, data, Purpose(SITE, ordered)).double()
    difference = found[:n] - found[n:]
    mean = difference.mean(0)
    assert float(mean[0]) > 0
    assert float(mean[1:].abs().max()) < 1e-5 * float(mean[0])
    spread = difference[:, 1:].square().mean(0)
    assert (spread[:-1] >= spread[1:] - 1e-9).all()


def test_the_calibration_uses_only_decisions_on_unseen_groups(
    clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    data = Grouped(examples(), ["a"] * 8 + ["b"] * 8 + ["c"] * 8)
    trained: list[np.ndarray] = []
    real = purpose_fit.train_without

    def spy(clip, pairs, keep, *rest):  # type: ignore[no-untyped-def]
        trained.append(keep)
        return real(clip, pairs, keep, *rest)

    monkeypatch.setattr(purpose_fit, "train_without", spy)
    from dataclasses import replace

    config = replace(preset("joint", Tower(32, 4)), epochs=2, batch_size=8, learning_rate=3e-3)
    scale, shift = cross_calibration(clip, data, config, 3, tmp_path)
    assert np.isfinite([scale, shift]).all()
    assert scale > 0
    assert np.stack(trained).sum(0).tolist() == [2] * 24  # each pair is left out once
    again = cross_calibration(clip, data, config, 3, tmp_path)  # taken up from the folder, not trained again
    assert again == (scale, shift)


def test_reference_cosines_are_sorted_and_each_of_its_own_image(clip) -> None:  # type: ignore[no-untyped-def]
    data = examples()
    found = reference_cosines(clip, data, batch_size=5)
    with torch.no_grad():
        texts = torch.nn.functional.normalize(encode_tokens(clip, data.tokens[:24]), dim=1)
    expected = (texts * data.images).sum(1).sort().values
    assert torch.allclose(found, expected, atol=1e-6)


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
    rows = {(r.subspace, r.k): r for r in interchange_table(clip, rotation, 2, data)}
    assert sizes(32) == (1, 4, 8, 16, 32)
    for k in (4, 16):
        for name, basis in (("trained", rotation[:k]), ("complement", rotation[k:])):
            assert rows[name, k].value == pytest.approx(slow_accuracy(clip, basis, 2, data), abs=1e-9)
    assert rows["complement", 32].value == 0  # nothing is swapped, and staying put is wrong
    full = rows["full swap", 32].value
    assert full == pytest.approx(rows["trained", 32].value, abs=0.05)
    assert all(row.n == 48 for row in rows.values())
    assert run_to_block(clip, data.tokens, 2).state.shape == (48, 32)
