"""Validation during fine-tuning: preference, interchange and grounding on pairs that are not trained on."""

from __future__ import annotations

import torch
from torch import Tensor

from descscore.eval.transfer.grounding import grounding_over_texts, grounding_sampled
from descscore.training.examples import Examples, select
from descscore.training.objective import Objective, run_batch
from descscore.training.plan import Batch, draw_sources
from descscore.training.text_run import unit_features

OTHERS = 20


def subset(examples: Examples, most: int, seed: int) -> Examples:
    """At most ``most`` pairs, drawn by a fixed seed, in their own order."""
    n = len(examples)
    if n <= most:
        return examples
    chosen = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:most].sort().values
    return select(examples, chosen)


@torch.no_grad()
def validate(objective: Objective, examples: Examples, batch_size: int = 128) -> dict[str, float]:
    """Accuracies in 0..1, ties not counted as right, and the mean loss.

    ``preference``: description over caption. ``grounding``: a description's own image over 20
    random other images; ``text_grounding``: an image's own description over those of 20 others,
    which liking some descriptions better than others costs. ``interchange``: with the purpose
    subspace, sources from other images. ``score``: the mean of those that are defined, to choose by.
    """
    n, config = len(examples), objective.config
    rng = torch.Generator().manual_seed(0)
    base = torch.arange(2 * n if config.loss != "preference" else 0)
    source = draw_sources(base, examples.owner.cpu(), config.source_image, rng) if len(base) else base
    pairs, swaps, losses = [], [], []
    for start in range(0, n, batch_size):
        rows = torch.arange(start, min(start + batch_size, n))
        # Text rows of the same images: their descriptions and captions are run anyway.
        texts = torch.cat([rows, rows + n]) if len(base) else base
        batch = Batch(rows, base[texts], source[texts])
        outcome = run_batch(objective, examples, batch.to(examples.images.device))
        pairs.append(outcome.preference)
        swaps.append(outcome.interchange)
        losses.append(float(outcome.loss) * len(rows))
    measured = {"loss": sum(losses) / n, "preference": _share(torch.cat(pairs))}
    if n > 1:
        measured |= _grounding(objective, examples, batch_size)
    if len(base):
        measured["interchange"] = _share(torch.cat(swaps))
    accuracies = [value for name, value in measured.items() if name != "loss"]
    return measured | {"score": sum(accuracies) / len(accuracies)}


def _grounding(objective: Objective, examples: Examples, batch_size: int) -> dict[str, float]:
    unit = unit_features(objective.clip, examples.tokens[: len(examples)], batch_size)
    measures = {"grounding": grounding_sampled, "text_grounding": grounding_over_texts}
    return {name: float(f(examples.images, unit, OTHERS, 0).mean()) for name, f in measures.items()}


def _share(hits: Tensor) -> float:
    return float(hits.double().mean())
