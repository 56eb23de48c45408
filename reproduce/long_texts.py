"""What to do with texts over the context length: the text policies compared.

    python -m reproduce.long_texts --data DATA --run runs/results/shipped-0 --output docs

Cross-validation over the training split's books chooses the policy: the towers that calibrated the
run (``--run``, with its folds) are measured on the books that they were not trained on, on pairs with a
text over the context length. The page also shows the measuring sets, which choose nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import click
import numpy as np
import torch
from torch import Tensor

from descscore.encoder import Encoder
from descscore.errors import UsageError
from descscore.eval.features import image_features
from descscore.eval.quality import read_kreiss2022_descriptions
from descscore.models import LoadedModel, load_model
from descscore.scorer import DescScorer
from descscore.tables.open import load_pairs
from descscore.tables.rows import PreferencePair
from descscore.texts import WINDOWS, TextPolicy
from descscore.training.config import FinetuneConfig
from descscore.training.data import Examples, make_examples
from descscore.training.finetune import train_folds
from reproduce.pages import Json, data_option, output_option, render, write_json

Array: TypeAlias = "np.ndarray[Any, Any]"

POLICIES: tuple[TextPolicy, ...] = ("truncate", "windows", "weighted-windows")
CHOSEN_BY = "openstax train, held-out books"
WORTH_A_LOSS = 0.01
"""Smaller differences may be chance with 2,000 pairs."""


@dataclass(frozen=True)
class PolicyRow:
    """A policy on one set, shares in 0..1."""

    policy: str
    data: str
    preference: float | None
    """Pairs whose description has the higher cosine; None if there are no captions."""
    n: int
    """Pairs with a long text, which ``preference`` is a share of."""
    grounding: float
    """How many other images' descriptions an image's own long description beats, on average."""
    m: int
    """Long descriptions, which ``grounding`` is the mean of."""


@dataclass(frozen=True)
class Described:
    """``n`` images with their texts."""

    images: Tensor
    """``(n, embed_dim)`` unit features."""
    owner: Tensor
    """``(n,)`` ints, equal if the image is the same."""
    descriptions: Sequence[str]
    captions: Sequence[str] | None
    """None if the data have no captions."""

    @classmethod
    def of(cls, pairs: Sequence[PreferencePair], images: Tensor) -> Described:
        """Pairs whose images have these features."""
        owner = torch.unique(images, dim=0, return_inverse=True)[1]
        return cls(images, owner, [p.description for p in pairs], [p.caption for p in pairs])


@dataclass(frozen=True)
class Hits:
    """preference: ``(n,)``, and grounding: ``(m,)``, each 0..1; see :class:`PolicyRow`."""

    preference: Array
    grounding: Array


def hits(encoder: Encoder, data: Described, policy: TextPolicy) -> Hits:
    """Which of the pairs with a text over the context length come out right."""
    features = encoder.texts(data.descriptions, policy).features.cpu()
    similarity = data.images @ features.T
    own = similarity.diagonal()
    long = _long(encoder, data.descriptions)
    others = data.owner[:, None] != data.owner[None, :]
    beaten = ((own[:, None] > similarity) & others).sum(1) / others.sum(1)
    preference = torch.empty(0)
    if data.captions is not None:
        captions = encoder.texts(data.captions, policy).features.cpu()
        wins = own > (data.images * captions).sum(1)
        preference = wins[long | _long(encoder, data.captions)]
    return Hits(preference.double().numpy(), beaten[long].double().numpy())


def _long(encoder: Encoder, texts: Sequence[str]) -> Tensor:
    """Whether each text is over the context length: ``(len(texts),)`` bool."""
    tokenizer = encoder.model.tokenizer
    return torch.tensor([tokenizer.tokenize(text).truncated for text in texts])


def cross_validated(model: LoadedModel, data: Path, run: Path) -> list[PolicyRow]:
    """Every policy on the training split, each pair by the tower that has not been trained on its book."""
    pairs = load_pairs(str(data / "openstax")).split("train")
    examples = make_examples(model, pairs, run.parent / "features")
    parts: dict[str, list[Hits]] = {policy: [] for policy in POLICIES}
    for encoder, keep in fold_towers(model, examples, run):
        held = Described.of([pairs[i] for i in keep], examples.images[keep])
        for policy in POLICIES:
            parts[policy].append(hits(encoder, held, policy))
    return [_row(policy, CHOSEN_BY, parts[policy]) for policy in POLICIES]


def fold_towers(model: LoadedModel, examples: Examples, run: Path) -> Iterator[tuple[Encoder, list[int]]]:
    """The run's calibration towers, each with the pairs that it was not trained on.

    Raises :class:`UsageError` for a run without them.
    """
    settings = json.loads((run / "run.json").read_text(encoding="utf-8"))
    folds = settings["calibration_folds"]
    if not folds:
        raise UsageError(f"{run}: has no calibration towers (calibration_folds is 0)")
    config = FinetuneConfig(**settings["config"])
    # Already trained: each goes on from its last checkpoint, which is its end.
    for held, trainer in train_folds(model.clip, examples, folds, config, run / "folds"):
        tower = trainer.objective.clip.requires_grad_(False).eval()
        yield Encoder(replace(model, clip=tower), 64), held.nonzero()[:, 0].tolist()


def measured(scorer: DescScorer, data: Path) -> list[PolicyRow]:
    """Every policy on ``openstax`` ``test`` and the descriptions of ``kreiss2022`` under a finished model."""
    pairs = load_pairs(str(data / "openstax")).split("test")
    test = Described.of(pairs, image_features(scorer, [pair.image.read() for pair in pairs]))
    rated = read_kreiss2022_descriptions(data)
    images = image_features(scorer, rated.images)[list(rated.owner)]
    kreiss = Described(images, torch.tensor(rated.owner), rated.texts, None)
    return [
        _row(policy, name, [hits(scorer.encoder, held, policy)])
        for name, held in (("openstax test", test), ("kreiss2022", kreiss))
        for policy in POLICIES
    ]


def _row(policy: str, data: str, parts: Sequence[Hits]) -> PolicyRow:
    preference = np.concatenate([part.preference for part in parts])
    grounding = np.concatenate([part.grounding for part in parts])
    share = float(preference.mean()) if len(preference) else None
    return PolicyRow(policy, data, share, len(preference), float(grounding.mean()), len(grounding))


def chosen(rows: Sequence[PolicyRow]) -> str:
    """The policy with the best mean of preference and grounding on the held-out books.

    A policy that loses part of a text must be better than the others by :data:`WORTH_A_LOSS`.
    """
    means = {row.policy: ((row.preference or 0) + row.grounding) / 2 for row in rows if row.data == CHOSEN_BY}
    handicap = {policy: 0.0 if policy in WINDOWS else WORTH_A_LOSS for policy in means}
    return max(means, key=lambda policy: means[policy] - handicap[policy])


def page(record: Json) -> str:
    """``long_texts.md`` from ``long_texts.json``."""
    best = next(
        row for row in record["rows"] if (row["policy"], row["data"]) == (record["chosen"], CHOSEN_BY)
    )
    return render("long_texts", rows=record["rows"], best=best)


@click.command()
@data_option
@click.option(
    "--run", required=True, type=click.Path(path_type=Path, exists=True), help="A run with calibration folds."
)
@output_option
def main(data: Path, run: Path, output: Path) -> None:
    """Write long_texts.json and long_texts.md, and print the page and the policy chosen."""
    model = load_model("base")
    rows = cross_validated(model, data, run) + measured(DescScorer.from_pretrained(run), data)
    record: dict[str, Any] = {"chosen": chosen(rows), "rows": [asdict(row) for row in rows]}
    output.mkdir(parents=True, exist_ok=True)
    write_json(record, output / "long_texts.json")
    text = page(record)
    (output / "long_texts.md").write_text(text, encoding="utf-8")
    click.echo(text)
    click.echo(f"best on {CHOSEN_BY}: {record['chosen']}")


if __name__ == "__main__":
    main()
