"""After training: order the purpose coordinates, fit the read-out of them, and keep comparison cosines.

The read-out is a calibrated logistic regression on purpose coordinates; its probability is a text's
``description_probability``. It tells descriptions from captions and from the third kind of text
(:mod:`.neither`). Texts over the context length count as scoring counts them: in windows, whose probabilities
are averaged.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor

from descscore.clip import CLIP
from descscore.errors import DataError
from descscore.purpose import Purpose, Readout, Site
from descscore.texts import DEFAULT_POLICY, TextWindows, pad
from descscore.towers.text import encode_tokens, run_to_block
from descscore.training.data import Examples
from descscore.training.losses import cosines
from descscore.training.neither import empty_text, jumbled_text, random_stop

log = logging.getLogger(__name__)

T = TypeVar("T")

Array: TypeAlias = "np.ndarray[Any, Any]"

TELL_EVERY = 10.0
"""Seconds between two lines of the log about one piece of work."""

TEXTS_A_PAIR = 4
"""The read-out is fitted on a pair's description, its caption, an empty text and a jumbled description."""

FOLDS = 5
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
"""Inverse strengths of the L2 penalty that are tried."""


@dataclass(frozen=True)
class ReadoutTexts:
    """t texts of the three kinds, in the w windows that scoring cuts them to."""

    windows: TextWindows
    is_description: Tensor
    """``(t,)`` bool."""
    groups: Array
    """``(t,)``, such as books: no fold may split one."""
    weight: Tensor
    """``(t,)`` float64. Descriptions weigh one half, captions and the third kind a quarter each."""

    @classmethod
    def of(cls, examples: Examples, seed: int = 0) -> ReadoutTexts:
        """Descriptions and captions as written but for a final full stop, and as many of the third kind."""
        rng, n, tokenizer = random.Random(seed), len(examples), examples.tokenizer
        assert tokenizer is not None  # examples of written texts have one
        texts = list(examples.texts)
        texts += [empty_text(rng) for _ in range(n)] + [jumbled_text(text, rng) for text in texts[:n]]
        return cls(
            TextWindows.of([tokenizer.tokenize(random_stop(text, rng), DEFAULT_POLICY) for text in texts]),
            torch.arange(TEXTS_A_PAIR * n) < n,
            np.tile(examples.groups, TEXTS_A_PAIR),
            torch.tensor([2.0, 1.0, 0.5, 0.5], dtype=torch.float64).repeat_interleave(n),
        )

    @torch.no_grad()
    def coordinates(self, clip: CLIP, purpose: Purpose, batch_size: int = 128) -> Tensor:
        """Purpose coordinates of all windows under a model on the CPU: ``(w, k)``."""
        rows = self.windows.rows
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        found = torch.empty(len(rows), purpose.site.k)
        for start in told(range(0, len(rows), batch_size), "read-out: batches of texts"):
            part = order[start : start + batch_size]
            state = run_to_block(clip, pad([rows[i] for i in part]), purpose.site.block).state
            found[part] = purpose.coordinates(state).float()
        return found[self.windows.row]

    @property
    def window_weight(self) -> Tensor:
        """``(w,)`` float64."""
        return self.windows.weight * self.weight[self.windows.owner]


def told(items: Sequence[T], what: str) -> Iterator[T]:
    """The items; the log says every :data:`TELL_EVERY` seconds how many of them are done."""
    said = time.monotonic()
    for number, item in enumerate(items):
        if time.monotonic() - said >= TELL_EVERY:
            log.info("%s: %d of %d", what, number, len(items))
            said = time.monotonic()
        yield item


def fit(clip: CLIP, rotation: Tensor, site: Site, examples: Examples) -> tuple[Tensor, Readout]:
    """The ordered rotation and a read-out fitted on the examples; raises as :func:`fit_readout`."""
    ordered, texts = order_rotation(clip, rotation, site, examples), ReadoutTexts.of(examples)
    coordinates, owner = texts.coordinates(clip, Purpose(site, ordered)), texts.windows.owner
    groups = texts.groups[owner.numpy()]
    return ordered, fit_readout(coordinates, texts.is_description[owner], groups, texts.window_weight)


def policy_calibration(odds: Sequence[Array], texts: Sequence[ReadoutTexts]) -> tuple[float, float]:
    """Scale and shift of windows' log-odds, ``(w,)`` a part, that calibrate the texts' probabilities best.

    A text's probability is the weighted mean of its windows', as in scoring. So the log-loss is of texts.
    """
    from scipy.optimize import minimize

    first = np.cumsum([0, *(len(part.weight) for part in texts)])
    owner = np.concatenate([part.windows.owner.numpy() + i for part, i in zip(texts, first, strict=False)])
    share = np.concatenate([part.windows.weight.numpy() for part in texts])
    y = np.concatenate([part.is_description.numpy() for part in texts])
    weight = np.concatenate([part.weight.numpy() for part in texts])
    values = np.concatenate(odds)

    def loss(parameters: Array) -> float:
        of_windows = expit(parameters[0] * values + parameters[1])
        p = np.clip(np.bincount(owner, share * of_windows, len(y)), 1e-12, 1 - 1e-12)
        return float(-(weight * np.where(y, np.log(p), np.log1p(-p))).sum() / weight.sum())

    scale, shift = minimize(loss, np.array([1.0, 0.0]), method="Nelder-Mead").x
    return float(scale), float(shift)


def order_rotation(clip: CLIP, rotation: Tensor, site: Site, examples: Examples) -> Tensor:
    """R with the first k rows turned among themselves, the most telling first: ``(width, width)``.

    The subspace, and with it every interchange at the trained k, stays the same; only its
    basis was arbitrary. The first coordinate becomes the mean difference between an
    image's description and caption, the others the principal axes of what is left of
    these differences, so that smaller k keep as much of the purpose as they can.
    """
    n = len(examples)
    coordinates = example_coordinates(clip, examples, Purpose(site, rotation)).double()
    difference = coordinates[:n] - coordinates[n:]
    first = torch.nn.functional.normalize(difference.mean(0), dim=0)
    rest = difference - (difference @ first)[:, None] * first
    # The mean's axis has no variance left; a weight on it sorts it before all others.
    spread = rest.T @ rest / n
    spread += 2 * spread.diagonal().sum() * torch.outer(first, first)
    axes = torch.linalg.eigh(spread).eigenvectors.flip(1)
    axes[:, 0] *= torch.sign(axes[:, 0] @ first)
    turned = (axes.T @ rotation[: site.k].double()).to(rotation)
    return torch.cat([turned, rotation[site.k :]])


@torch.no_grad()
def example_coordinates(clip: CLIP, examples: Examples, purpose: Purpose) -> Tensor:
    """Purpose coordinates of all texts: ``(2n, k)``, descriptions first."""
    parts = [
        purpose.coordinates(run_to_block(clip, part, purpose.site.block).state)
        for part in told(torch.split(examples.tokens, 128), "purpose subspace: batches of texts")
    ]
    return torch.cat(parts).float()


def fit_readout(
    coordinates: Tensor, is_description: Tensor, groups: Array, weight: Tensor | None = None
) -> Readout:
    """Logistic regression whose penalty and calibration come from held-out groups.

    The held-out decision values are rescaled (Platt 1999), and the scale is folded into the weights.

    Args:
        coordinates: ``(m, k)``.
        is_description: ``(m,)`` bool.
        groups: ``(m,)``, such as books, articles or images. No fold splits one: texts of one group share
            their words, and folds that split them would call overfitting skill.
        weight: ``(m,)``; None for equal weights.

    Raises:
        DataError: There are fewer than two groups, or texts of one kind only.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    x, y = coordinates.cpu().double().numpy(), is_description.cpu().numpy().astype(int)
    if len(np.unique(y)) < 2 or len(np.unique(groups)) < 2:
        raise DataError("a read-out needs texts of both kinds, in at least two groups")
    w = np.ones(len(y)) if weight is None else weight.cpu().numpy() * (len(y) / float(weight.sum()))
    centre, spread = x.mean(0), x.std(0) + 1e-12
    z = (x - centre) / spread
    strengths = told(STRENGTHS, "read-out: penalties tried")
    held_out = {c: _held_out_decisions(z, y, w, groups, c) for c in strengths}
    scales = {c: platt(d, y, w) for c, d in held_out.items()}
    losses = {
        c: log_loss(y, expit(scales[c][0] * d + scales[c][1]), sample_weight=w) for c, d in held_out.items()
    }
    best = min(losses, key=lambda c: losses[c])
    scale, shift = scales[best]
    model = LogisticRegression(C=best, max_iter=2000).fit(z, y, w)
    direction = scale * model.coef_[0] / spread
    bias = scale * model.intercept_[0] + shift - float(direction @ centre)
    return Readout(torch.tensor(direction, dtype=torch.float32), torch.tensor(bias, dtype=torch.float32))


def _held_out_decisions(z: Array, y: Array, weight: Array, groups: Array, strength: float) -> Array:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold

    values: Array = np.empty(len(y))
    for seen, held in GroupKFold(min(FOLDS, len(np.unique(groups)))).split(z, y, groups):
        model = LogisticRegression(C=strength, max_iter=2000).fit(z[seen], y[seen], weight[seen])
        values[held] = model.decision_function(z[held])
    return values


def platt(decisions: Array, y: Array, weight: Array | None = None) -> tuple[float, float]:
    """Scale and shift that calibrate decision values best, nearly without penalty."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1e6, max_iter=2000).fit(decisions[:, None], y, weight)
    return float(model.coef_[0, 0]), float(model.intercept_[0])


def calibrated(readout: Readout, scale: float, shift: float) -> Readout:
    """The read-out with its decision values times ``scale`` plus ``shift``."""
    return Readout(readout.weight * scale, readout.bias * scale + shift)


def decisions(readout: Readout, coordinates: Tensor) -> Array:
    """Log-odds of being a description: ``(m, k)`` -> ``(m,)``."""
    odds: Array = (coordinates.double() @ readout.weight.double() + readout.bias.double()).cpu().numpy()
    return odds


@torch.no_grad()
def comparison_cosines(clip: CLIP, examples: Examples, batch_size: int = 128) -> Tensor:
    """Cosines of descriptions with their own images, ascending: ``(n,)``."""
    parts = torch.split(examples.tokens[: len(examples)], batch_size)
    told_parts = told(parts, "comparison descriptions: batches of texts")
    texts = torch.cat([encode_tokens(clip, tokens) for tokens in told_parts])
    return cosines(examples.images, texts).sort().values


def fold_of(groups: Sequence[str], folds: int) -> Tensor:
    """Fold of each example ``(n,)``: whole groups, sizes evened out, the same for any order of examples.

    Raises :class:`DataError` for fewer groups than folds.
    """
    names, counts = np.unique(np.asarray(groups), return_counts=True)
    if len(names) < folds:
        raise DataError(f"{len(names)} groups cannot be cut into {folds} folds")
    sizes, place = np.zeros(folds, int), {}
    for name, count in sorted(zip(names, counts, strict=True), key=lambda item: (-item[1], item[0])):
        place[name] = int(sizes.argmin())
        sizes[place[name]] += count
    return torch.tensor([place[name] for name in groups])
