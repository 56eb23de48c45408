"""The model card of an adapter: its base, its data, the settings and measurements of its run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BUNDLED_LICENCE = "descscore-weights"
"""The licence of the bundled base."""

_TRAINED = ("config", "data", "history", "pairs", "splits", "steps", "trained_values", "unusable")
"""What a card takes of the record of a run."""


@dataclass(frozen=True)
class CardBase:
    """The untuned model of an adapter, as its card names it."""

    name: str
    """Its name, with a pretrained tag; or the folder inside the adapter's that holds it."""
    weights: str
    """The hash of its weights."""
    inside: bool
    """Whether it lies in the adapter's folder."""
    repository: str | None
    """Its repository on the hub, ``ORG/NAME``; None if it comes from elsewhere."""
    licence: str | None
    """Its licence; None if nobody states one."""


def model_card(base: CardBase, run: Mapping[str, Any]) -> str:
    """The text of a card. run: The record of the fine-tuning run; empty if there is none."""
    from huggingface_hub import ModelCardData

    run = {key: run[key] for key in _TRAINED if key in run}
    bundled = base.licence == BUNDLED_LICENCE
    data = ModelCardData(
        license="other" if base.licence is None or bundled else base.licence,
        license_name=BUNDLED_LICENCE if bundled else None,
        base_model=base.repository,
        library_name="descscore",
        pipeline_tag="zero-shot-image-classification",
        tags=["alt-text", "image-description", "accessibility", "clip"],
    )
    parts = [_USE, _base(base), *_data(run), *_settings(run), *_measurements(run), _LIMITS]
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(parts)


_USE = """# A model that prefers image descriptions to captions

This adapter for descscore turns an open_clip model into one that
scores how well a text would replace an image for someone who cannot see it.

```python
from descscore import DescScorer

scorer = DescScorer.from_pretrained("hf-hub:ORG/NAME")  # this page's name, or the folder
print(scorer.score("photo.jpg", "A brown dog runs over wet sand.").score)
```
"""
_LIMITS = """## Limits

Scores of different models are on different scales. A score does not check facts, and it cannot replace
readers. The adapter works on the base above alone, and checks that.
"""


def _base(base: CardBase) -> str:
    held = f"in the folder `{base.name}`" if base.inside else f"`{base.name}`"
    terms = f"`{base.licence}`"
    if base.licence is None:
        terms = "not stated; look at the base's own page before you pass the adapter on"
    elif base.licence == BUNDLED_LICENCE:
        terms = "for research, testing and teaching only (`LICENSE-WEIGHTS` in descscore)"
    model = f"The untuned model is {held}, with weights `{base.weights}`."
    return f"## Base\n\n{model} Licence of the base: {terms}.\n"


def _data(run: Mapping[str, Any]) -> list[str]:
    if "pairs" not in run:
        return []
    counts = ", ".join(f"{count:,} in `{split or 'train'}`" for split, count in run["pairs"].items())
    left = sum(run.get("unusable", {}).values())
    name = Path(str(run.get("data", "")).rstrip("/")).name  # a folder of somebody's machine says nothing
    kind = f"Pairs of a description and a caption of one image, from `{name}`"
    roles = [f"{role} `{split}`" for role, split in run.get("splits", {}).items() if split]
    uses = f" Use of the splits: {', '.join(roles)}." if roles else ""
    return [f"## Data\n\n{kind}: {counts}. Rows left out: {left:,}.{uses}\n"]


def _settings(run: Mapping[str, Any]) -> list[str]:
    config = run.get("config")
    if not isinstance(config, dict):
        return []
    rows = "\n".join(f"| `{key}` | {value} |" for key, value in config.items() if value is not None)
    done = f"{run.get('steps', 0):,} steps changed {run.get('trained_values', 0):,} values."
    return [f"## Settings\n\n{done}\n\n| setting | value |\n|---|---|\n{rows}\n"]


def _measurements(run: Mapping[str, Any]) -> list[str]:
    """The validation whose weights were kept: that of the best score."""
    lines = [line for line in run.get("history", ()) if "validation_score" in line]
    if not lines:
        return (
            ["## Measurements\n\nThe run had no validation split, so nothing was measured.\n"] if run else []
        )
    best = max(lines, key=lambda line: line["validation_score"])
    values = {key.removeprefix("validation_"): value for key, value in best.items() if "validation_" in key}
    rows = "\n".join(f"| {key.replace('_', ' ')} | {value:.4f} |" for key, value in values.items())
    what = "All but the loss are shares of 1; `score` is their mean."
    table = f"| measure | value |\n|---|---|\n{rows}\n"
    return [f"## Measurements\n\nOn the validation split, after step {best['step']:,}. {what}\n\n{table}"]
