"""What the purpose subspace of an adapter holds: interchange accuracy by size, and reference places.

    python -m reproduce.purpose_subspace ADAPTER --data DATA

writes into the adapter where reference texts lie along its read-out. An explanation shows a text's place
among them. Choose texts that neither the adapter nor its read-out was fitted on: those of the fit have
log-odds that are too extreme.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
import torch
from open_clip import CLIP
from torch import Tensor

from descscore.errors import UsageError
from descscore.interchange import Rotation, interchange
from descscore.models import LoadedModel, load_model
from descscore.purpose import save_purpose
from descscore.tables.open import load_pairs
from descscore.tables.rows import PreferencePair
from descscore.texts import pad
from descscore.towers.text import run_from_block, run_to_block
from descscore.training.data import Examples, draw_sources
from descscore.training.losses import interchange_hits, pair_logits

SEED = 0
RANDOM_ROTATIONS = 3
POINTS = 101
"""Quantiles that are kept of the reference texts: every 1 %."""
_BATCH = 64


@dataclass(frozen=True)
class InterchangeRow:
    """Share of interchanges that move the logit the right way; leaving the text as it is counts as wrong."""

    subspace: str
    """``trained``, the first k trained coordinates; ``complement``, all others; ``random``, k coordinates of
    random rotations (mean over three); ``full swap``, the whole state, where k is the width."""
    k: int
    value: float
    """0 to 1."""
    n: int
    """Number of interchanges: every text once as base."""


def sizes(width: int) -> tuple[int, ...]:
    """The sizes that are reported: 1, 8, width / 8, width / 2, width."""
    return tuple(sorted({1, 8, width // 8, width // 2, width}))


@torch.no_grad()
def interchange_table(clip: CLIP, rotation: Tensor, block: int, examples: Examples) -> list[InterchangeRow]:
    """All rows for one model. rotation: R ``(width, width)``; block: of the site.

    Every text is once the base. Its source is a text of the other kind and of another image, drawn by
    a fixed seed, the same for every subspace.
    """
    width, texts = len(rotation), torch.arange(2 * len(examples))
    sources = draw_sources(texts, examples.owner, "other", torch.Generator().manual_seed(SEED))
    runs = _Runs(clip, examples, block, sources)
    randoms = [Rotation(width, seed).matrix() for seed in range(RANDOM_ROTATIONS)]
    rows = []
    for k in sizes(width):
        by_random = [runs.accuracy(matrix[:k]) for matrix in randoms]
        rows.append(InterchangeRow("trained", k, runs.accuracy(rotation[:k]), len(texts)))
        rows.append(InterchangeRow("complement", k, runs.accuracy(rotation[k:]), len(texts)))
        rows.append(InterchangeRow("random", k, sum(by_random) / len(by_random), len(texts)))
    rows.append(InterchangeRow("full swap", width, runs.accuracy(torch.eye(width)), len(texts)))
    return rows


class _Runs:
    """All texts run to the site once; every subspace costs only the blocks after it."""

    def __init__(self, clip: CLIP, examples: Examples, block: int, sources: Tensor, batch: int = 128) -> None:
        self._clip, self._images, self._sources = clip, examples.images, sources
        self._runs = [run_to_block(clip, tokens, block) for tokens in torch.split(examples.tokens, batch)]
        self._states = torch.cat([run.state for run in self._runs])
        self._plain = torch.cat([run_from_block(clip, run) for run in self._runs])

    def accuracy(self, basis: Tensor) -> float:
        """basis: ``(m, width)`` orthonormal rows that span the swapped part; no rows swap nothing."""
        new = interchange(self._states, self._states[self._sources], basis, len(basis))
        parts, lengths = [], [len(run.tokens) for run in self._runs]
        for run, state in zip(self._runs, torch.split(new, lengths), strict=True):
            rows = torch.arange(len(run.tokens))
            parts.append(run_from_block(self._clip, run.replaced(rows, state)))
        images = self._images[torch.arange(len(self._sources)) % len(self._images)]
        logits = pair_logits(images, self._plain, torch.cat(parts), self._clip.logit_scale)
        hits = interchange_hits(logits, self._sources < len(self._images))
        return float(hits.double().mean())


def reference_places(model: LoadedModel, pairs: Sequence[PreferencePair]) -> Tensor:
    """Quantiles, in steps of 1 %, of the log-odds of descriptions (row 0) and captions (row 1): ``(2, 101)``.

    Raises :class:`UsageError` for a model without a read-out.
    """
    descriptions = log_odds_of(model, [pair.description for pair in pairs])
    captions = log_odds_of(model, [pair.caption for pair in pairs])
    steps = torch.linspace(0, 1, POINTS, dtype=torch.float64)
    return torch.stack([part.double().quantile(steps) for part in (descriptions, captions)]).float()


@torch.no_grad()
def log_odds_of(model: LoadedModel, texts: Sequence[str]) -> Tensor:
    """Read-out log-odds of texts, cut to the context, in order of their length: ``(len(texts),)``."""
    purpose = model.purpose
    if purpose is None or purpose.readout is None:
        raise UsageError(f"model {model.name}: has no purpose read-out")
    rows = sorted((model.tokenizer.tokenize(text).rows[0] for text in texts), key=len)
    parts = []
    for start in range(0, len(rows), _BATCH):
        tokens = pad(rows[start : start + _BATCH]).to(model.device)
        parts.append(purpose.log_odds(run_to_block(model.clip, tokens, purpose.site.block).state).cpu())
    return torch.cat(parts)


@click.command()
@click.argument("adapter", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--data", required=True, help="Data set of pairs (see 'descscore train').")
@click.option("--split", default="val", show_default=True, help="Split that nothing was fitted on.")
def main(adapter: Path, data: str, split: str) -> None:
    """Keep in ADAPTER where the descriptions and captions of DATA lie along its read-out."""
    model = load_model(adapter, "cpu")
    pairs = load_pairs(data).split(split)
    places = reference_places(model, pairs)
    assert model.purpose is not None  # or there would be no places
    save_purpose(replace(model.purpose, places=places), adapter)
    click.echo(
        f"{adapter}: {len(pairs)} descriptions (median {places[0, POINTS // 2]:+.2f}) and as many "
        f"captions (median {places[1, POINTS // 2]:+.2f})"
    )


if __name__ == "__main__":
    main()
