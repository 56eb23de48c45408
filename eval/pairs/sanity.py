"""Can a score be gamed? How often a hostile text scores over the image's real description."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from descscore.data.pairs import Pair
from descscore.errors import DataError
from descscore.eval.pairs.attacks import ATTACKS, Attack, targets
from descscore.eval.pairs.preference import image_owner
from descscore.eval.statistics.correlation import Array
from descscore.eval.statistics.proportions import proportion
from descscore.eval.transfer.image_features import image_features
from descscore.scorer import DescScorer

SEED = 0

Mask: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class SanityRow:
    """How often one attack wins.

    metric: the model. attack: a short name; what: the hostile text, for people. value: share of
    pairs, 0..1, whose hostile text has a higher raw cosine with the image than the description,
    with its 95 % interval (over whole images); ties are no wins. n: pairs. left_out: pairs for
    which no such text can be made, or only one that is the description itself. value is None
    where all are left out; low and high also where there are too few images.
    """

    metric: str
    attack: str
    what: str
    value: float | None
    low: float | None
    high: float | None
    ties: int
    n: int
    left_out: int


def sanity_rows(scorer: DescScorer, pairs: Sequence[Pair], name: str, seed: int = SEED) -> list[SanityRow]:
    """One row an attack of :data:`descscore.eval.pairs.attacks.ATTACKS`, in that order. name: the metric's.

    Raises :class:`DataError` for no pairs, and :class:`descscore.errors.InputError` where an
    image or text cannot be scored.
    """
    if not pairs:
        raise DataError("sanity: no pairs")
    owner = image_owner(pairs)
    attacked = targets(pairs, owner, seed)
    made = [[attack.text(target) for target in attacked] for attack in ATTACKS]
    images = image_features(scorer, [pair.image.read() for pair in pairs])
    # One call for all texts, so that those equal to the model have one feature and tie to the last bit.
    texts = [pair.description for pair in pairs]
    texts += [text or own.description for part in made for text, own in zip(part, pairs, strict=True)]
    features = scorer.encoder.texts(texts, scorer.text_policy).features
    parts = features.reshape(1 + len(made), len(pairs), -1).unbind()
    honest, *hostile = (_cosines(images, part) for part in parts)
    found = zip(ATTACKS, made, hostile, strict=True)
    return [_row(name, attack, honest, cosines, _kept(part), owner) for attack, part, cosines in found]


def _cosines(images: Tensor, texts: Tensor) -> Array:
    """Cosines of image i with text i: unit features ``(n, d)`` each -> ``(n,)``."""
    found: Array = (images.double() * texts.double()).sum(1).cpu().numpy()
    return found


def _kept(texts: Sequence[str | None]) -> Mask:
    return np.array([text is not None for text in texts])


def _row(metric: str, attack: Attack, honest: Array, hostile: Array, keep: Mask, owner: Array) -> SanityRow:
    wins, ties = (hostile > honest)[keep], int((hostile == honest)[keep].sum())
    left_out, owner = int((~keep).sum()), owner[keep]
    if not len(wins):
        return SanityRow(metric, attack.name, attack.what, None, None, None, 0, 0, left_out)
    single = len(np.unique(owner)) == len(owner)
    found = proportion(wins.astype(float), None if single else owner)
    value = float(wins.mean())
    return SanityRow(
        metric, attack.name, attack.what, value, found.low, found.high, ties, len(wins), left_out
    )


_FORMAT = "{:<24} {:<17} {:>5} {:>7}  {:<16} {:>5} {:>9}"


def sanity_lines(rows: Sequence[SanityRow]) -> list[str]:
    """The rows as lines of text, in per cent, and what each attack is."""
    head = _FORMAT.format("metric", "hostile text", "n", "wins", "95 % interval", "ties", "left out")
    lines = [head, "-" * len(head)]
    for row in rows:
        lines.append(_FORMAT.format(row.metric, row.attack, row.n, *_shown(row), row.ties, row.left_out))
    return [*lines, *(f"{name}: {what}" for name, what in _attacks(rows).items())]


def to_markdown(rows: Sequence[SanityRow]) -> str:
    """The rows as a Markdown table, in per cent, with a list of what each attack is."""
    lines = [
        "| metric | hostile text | scores over the description | 95 % interval | n | ties | left out |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = (row.metric, row.attack, *_shown(row), row.n, row.ties, row.left_out)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join([*lines, "", *(f"- {name}: {what}" for name, what in _attacks(rows).items())])


def to_json(rows: Sequence[SanityRow], signatures: Sequence[str]) -> dict[str, Any]:
    """Rows and signatures as plain JSON types."""
    return {"rows": [asdict(row) for row in rows], "signatures": list(signatures)}


def _attacks(rows: Sequence[SanityRow]) -> dict[str, str]:
    """What each attack is, once each."""
    return {row.attack: row.what for row in rows}


def _shown(row: SanityRow) -> tuple[str, str]:
    """Share and interval in per cent, "-" where not defined."""
    share = "-" if row.value is None else f"{100 * row.value:.1f}%"
    if row.low is None or row.high is None:
        return share, "-"
    return share, f"{100 * row.low:.1f} to {100 * row.high:.1f}"
