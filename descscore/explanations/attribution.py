"""Integrated gradients through a text tower: how much each token moved the cosine and the purpose read-out.

The path runs from a text without words (start token, padding, end token at the
text's own place) to the text, in token plus position embeddings, with the state
always read at the text's end token. Its integral is taken at Gauss-Legendre nodes,
more of them until the parts add up. The start and end tokens are the same at both
ends of the path, so the words carry the whole difference. Sources: Sundararajan et
al. 2017 (arXiv 1703.01365); the part through a subspace: Zur et al. 2024 (arXiv 2406.09458).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from open_clip import CLIP
from torch import Tensor

from descscore.explanations.words import TextRows
from descscore.purpose import Purpose
from descscore.towers.text import HalfRun, carry_on, embed_tokens, end_positions, run_from_block, trim

# The paths that integrated gradients follow, and what a model says along them.
#
# A path runs from a text without words (start token, padding, end token at the text's
# own place) to the text, in token plus position embeddings, with the state always read
# at the text's end token. Source: Sundararajan et al. 2017 (arXiv 1703.01365).


_NUMBERS_AT_ONCE = {"cpu": 4_000_000}
_NUMBERS_ELSEWHERE = 100_000_000
"""Tokens x width x layers in one pass: on a CPU what two cores are quickest with; elsewhere about 6 GB."""

_ROWS_AT_ONCE = 32_768
"""CUDA's attention kernels take at most 65,535 rows in a pass."""

Nodes: TypeAlias = "Sequence[tuple[float, float]]"


@lru_cache(maxsize=16)
def nodes(steps: int) -> Nodes:
    """Gauss-Legendre nodes on 0..1 with their weights, which add up to 1."""
    places, weights = np.polynomial.legendre.leggauss(steps)
    return tuple(zip(((1 + places) / 2).tolist(), (weights / 2).tolist(), strict=True))


def without_words(clip: CLIP, tokens: Tensor) -> Tensor:
    """Token rows ``(r, length)`` with all but their start and end tokens replaced by padding."""
    end = end_positions(clip, tokens)[:, None]
    kept = torch.zeros_like(tokens)
    kept[:, 0] = tokens[:, 0]
    return kept.scatter(1, end, tokens.gather(1, end))


@dataclass(frozen=True)
class Points:
    """i points on texts' paths, in m rows.

    text: ``(i,)`` whose path each lies on. tokens: ``(m, longest)``, end: ``(m,)`` places of
    their end tokens. row: ``(m,)`` rows of the texts, item: ``(m,)`` which point each belongs
    to, place: ``(m,)`` on the path, 0..1, weight: ``(m,)`` in the integral, share: ``(m,)``
    in the text.
    """

    text: Tensor
    tokens: Tensor
    end: Tensor
    row: Tensor
    item: Tensor
    place: Tensor
    weight: Tensor
    share: Tensor

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the rows of each point: ``(m, ...)`` -> ``(i, ...)``."""
        shared = values * self.share.to(values).view(-1, *[1] * (values.ndim - 1))
        return values.new_zeros(len(self.text), *values.shape[1:]).index_add(0, self.item, shared)


class Paths:
    """The paths of some texts, and what the model says along them."""

    def __init__(self, clip: CLIP, texts: TextRows, purpose: Purpose | None) -> None:
        self.clip, self.texts, self.purpose = clip, texts, purpose
        self.tokens = trim(clip, texts.tokens)
        self.end = end_positions(clip, self.tokens)
        self.shares = texts.shares
        self.reads_out = purpose is not None and purpose.readout is not None
        layers, width = len(clip.transformer.resblocks), clip.transformer.width
        self.block = purpose.site.block if purpose else layers - 1
        numbers = _NUMBERS_AT_ONCE.get(self.tokens.device.type, _NUMBERS_ELSEWHERE)
        self.tokens_at_once = numbers // (width * layers)
        self.rows: list[list[int]] = [[] for _ in texts.images]
        for row, text in enumerate(texts.owner.tolist()):
            self.rows[text].append(row)
        ends = self.end.tolist()
        self.length = [max(ends[row] for row in rows) + 1 for rows in self.rows]

    @torch.no_grad()
    def values(self, places: Nodes) -> list[Tensor]:
        """Cosines, and log-odds where there is a read-out, at places of all paths: ``(n, places)`` each."""
        found: list[list[Tensor]] = [[], []]
        order: list[Tensor] = []
        for points in self.points(range(len(self.rows)), places):
            run = self.run(points, self.at(points)[0])
            found[0].append(self.cosines(points, run))
            if self.reads_out:
                found[1].append(self.log_odds(points, run))
            order.append(points.text)
        place = torch.cat(order).argsort(stable=True)
        joined = [torch.cat(part)[place].cpu().double() for part in found if part]
        return [part.view(len(self.rows), len(places)) for part in joined]

    def points(self, texts: Sequence[int], places: Nodes) -> Iterator[Points]:
        """All places of all texts, texts of like length together, as many at once as memory allows."""
        held: list[tuple[int, float, float]] = []
        rows = 0
        for text in sorted(texts, key=lambda text: self.length[text]):
            for place, weight in places:
                rows += len(self.rows[text])
                if held and (rows > _ROWS_AT_ONCE or rows * self.length[text] > self.tokens_at_once):
                    yield self._gather(held)
                    held, rows = [], len(self.rows[text])
                held.append((text, place, weight))
        if held:
            yield self._gather(held)

    def _gather(self, held: list[tuple[int, float, float]]) -> Points:
        lines = [
            (row, item, place, weight)
            for item, (text, place, weight) in enumerate(held)
            for row in self.rows[text]
        ]
        row, item, place, weight = zip(*lines, strict=True)
        device = self.tokens.device
        rows = torch.tensor(row, device=device)
        return Points(
            text=torch.tensor([text for text, _, _ in held], device=device),
            tokens=self.tokens[rows, : self.length[held[-1][0]]],
            end=self.end[rows],
            row=rows,
            item=torch.tensor(item, device=device),
            place=torch.tensor(place, device=device),
            weight=torch.tensor(weight, dtype=torch.float64),
            share=self.shares[rows],
        )

    @torch.no_grad()
    def at(self, points: Points) -> tuple[Tensor, Tensor]:
        """Embeddings at the points, and from their paths' starts to ends: ``(m, longest, width)`` each."""
        start = embed_tokens(self.clip, without_words(self.clip, points.tokens))
        step = embed_tokens(self.clip, points.tokens) - start
        return start + points.place[:, None, None].to(step) * step, step

    def run(self, points: Points, embeddings: Tensor) -> HalfRun:
        """Up to the purpose's site, or through the last block where there is none."""
        return carry_on(self.clip, HalfRun(points.tokens, points.end, embeddings, -1), self.block)

    def cosines(self, points: Points, run: HalfRun) -> Tensor:
        """Cosines with the texts' images: ``(i,)``."""
        unit = F.normalize(run_from_block(self.clip, run), dim=-1)
        whole = F.normalize(points.mean(unit), dim=-1)
        return (whole * self.texts.images[points.text]).sum(-1)

    def log_odds(self, points: Points, run: HalfRun) -> Tensor:
        """Log-odds of being a description: ``(i,)``."""
        assert self.purpose is not None
        return points.mean(self.purpose.log_odds(run.state))


STEPS = (50, 100, 200, 400, 800, 1024)
"""Numbers of nodes, tried in turn."""

RELATIVE, ABSOLUTE = 0.01, 1e-3
"""Parts have converged when they miss the difference by at most max(1 % of it, 1e-3)."""


@dataclass(frozen=True)
class Values:
    """Of n texts, float64 on the CPU: cosines with their images ``(n,)``, and log-odds of being
    a description ``(n,)``, None without a read-out (for a text in windows, the mean over them)."""

    cosine: Tensor
    log_odds: Tensor | None


@dataclass(frozen=True)
class Path:
    """The ends of n texts' paths, and how far the parts miss them; float64 on the CPU.

    value: ``(n,)`` of the texts. difference: ``(n,)``, value minus that of the text without
    words. delta: ``(n,)``, sum of the parts minus the difference.
    """

    value: Tensor
    difference: Tensor
    delta: Tensor

    @property
    def converged(self) -> Tensor:
        """Whether the parts add up, to max(1 % of the difference, 1e-3): ``(n,)`` bool."""
        return self.delta.abs() <= (RELATIVE * self.difference.abs()).clamp(min=ABSOLUTE)


@dataclass(frozen=True)
class Attribution:
    """Parts of n texts' values by token, float64 on the CPU.

    cosine: ``(r, length)``. through: ``(r, length)``, what of ``cosine`` flows through
    the purpose subspace at its site, None for a model without one. log_odds: ``(r,
    length)`` parts of the read-out's log-odds, None without a read-out. steps: ``(n,)``
    nodes used.
    """

    cosine: Tensor
    through: Tensor | None
    log_odds: Tensor | None
    cosine_path: Path
    log_odds_path: Path | None
    steps: Tensor


def evaluate(clip: CLIP, texts: TextRows, purpose: Purpose | None = None) -> Values:
    """Cosines and log-odds of texts, without gradients."""
    found = Paths(clip, texts, purpose).values([(1.0, 0.0)])
    return Values(found[0][:, 0], found[1][:, 0] if len(found) > 1 else None)


def attribute(
    clip: CLIP, texts: TextRows, purpose: Purpose | None = None, steps: Sequence[int] = STEPS
) -> Attribution:
    """Integrated gradients of each text's cosine, and of its read-out's log-odds, by token.

    steps: numbers of nodes, tried in turn for the texts whose parts do not add up yet.
    Texts share passes; a text's parts depend on the others by rounding alone.
    """
    work = _Parts(Paths(clip, texts, purpose))
    used = torch.zeros(len(texts.images), dtype=torch.int64)
    pending = list(range(len(used)))
    for number in steps:
        work.integrate(pending, nodes(number))
        used[pending] = number
        paths = work.against_ends()
        fine = torch.stack([path.converged for path in paths]).all(0)
        pending = [text for text in pending if not fine[text]]
        if not pending:
            break
    found = work.found
    log_odds_path = paths[1] if len(paths) > 1 else None
    return Attribution(
        found["cosine"], found.get("through"), found.get("log_odds"), paths[0], log_odds_path, used
    )


class _Parts:
    """The integrals found so far, by token."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        names = ["cosine"]
        if paths.purpose is not None:
            names.append("through")
        if paths.reads_out:
            names.append("log_odds")
        self.found = {name: torch.zeros(paths.tokens.shape, dtype=torch.float64) for name in names}
        self.ends = paths.values([(0.0, 0.0), (1.0, 0.0)])

    def integrate(self, texts: Sequence[int], places: Nodes) -> None:
        """Replace the parts of ``texts`` by the sums over these nodes."""
        rows = [row for text in texts for row in self.paths.rows[text]]
        for part in self.found.values():
            part[rows] = 0
        for points in self.paths.points(texts, places):
            self._add(points)

    def against_ends(self) -> list[Path]:
        """How the parts add up: for the cosine, and for the log-odds where there is a read-out."""
        owner = self.paths.texts.owner.cpu()
        totals = [
            torch.zeros(len(self.paths.rows), dtype=torch.float64).index_add(0, owner, part.sum(1))
            for name, part in self.found.items()
            if name != "through"
        ]
        found = []
        for end, total in zip(self.ends, totals, strict=True):
            difference = end[:, 1] - end[:, 0]
            found.append(Path(end[:, 1], difference, total - difference))
        return found

    def _add(self, points: Points) -> None:
        embeddings, step = self.paths.at(points)
        embeddings.requires_grad_()
        run = self.paths.run(points, embeddings)
        seeds = self._seeds(points, run)
        for left, (name, seed) in zip(reversed(range(len(seeds))), seeds.items(), strict=True):
            (slope,) = torch.autograd.grad(run.hidden, embeddings, seed, retain_graph=left > 0)
            part = (slope * step).sum(-1).cpu().double() * points.weight[:, None]
            self.found[name][:, : part.shape[1]].index_add_(0, points.row.cpu(), part)

    def _seeds(self, points: Points, run: HalfRun) -> dict[str, Tensor]:
        """Gradients at the site, by which part they give: ``(m, longest, width)`` each."""
        paths = self.paths
        seeds = {"cosine": _gradient(paths.cosines(points, run), run.hidden)}
        if paths.purpose is not None:
            seeds["through"] = _mediated(run, seeds["cosine"], paths.purpose)
        if paths.reads_out:
            seeds["log_odds"] = _gradient(paths.log_odds(points, run), run.hidden)
        return seeds


def _gradient(values: Tensor, hidden: Tensor) -> Tensor:
    return torch.autograd.grad(values.sum(), hidden, retain_graph=True)[0]


def _mediated(run: HalfRun, gradient: Tensor, purpose: Purpose) -> Tensor:
    """What of a gradient at the site lies in the purpose subspace of the end token's state."""
    basis = purpose.rotation[: purpose.site.k].to(gradient)
    rows = torch.arange(len(gradient), device=gradient.device)
    kept = gradient[rows, run.end] @ basis.T @ basis
    return torch.zeros_like(gradient).index_put((rows, run.end), kept)
