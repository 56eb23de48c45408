"""Where reference texts lie along the purpose read-out: ``python -m descscore.training.experiments.places``.

An explanation shows a text's place among them. They should be texts that neither the
adapter nor its read-out was fitted on, which would lie too far out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click
import torch
from torch import Tensor

from descscore.data.datasets import load_pairs
from descscore.data.pairs import Pair
from descscore.errors import UsageError
from descscore.interventions import run_to_block
from descscore.models import LoadedModel, load_model
from descscore.readout import save_purpose
from descscore.texts import pad

POINTS = 101
_BATCH = 64


def reference_places(model: LoadedModel, pairs: Sequence[Pair]) -> Tensor:
    """Quantiles, in steps of 1 %, of the log-odds of descriptions (row 0) and captions (row 1): ``(2, 101)``.

    Raises :class:`UsageError` for a model without a read-out.
    """
    descriptions = log_odds_of(model, [pair.description for pair in pairs])
    captions = log_odds_of(model, [pair.caption for pair in pairs])
    steps = torch.linspace(0, 1, POINTS, dtype=torch.float64)
    return torch.stack([part.double().quantile(steps) for part in (descriptions, captions)]).float()


@torch.no_grad()
def log_odds_of(model: LoadedModel, texts: Sequence[str]) -> Tensor:
    """Read-out log-odds of texts, cut to the context: ``(len(texts),)``."""
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
