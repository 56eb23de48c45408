"""Integrated gradients: how much each token moved the cosine and the purpose read-out.

A path leads from a text without words to the text. The text without words has the start and the end token
at their usual positions, and :data:`FILLER` between them. The path runs through the space of token plus
position embeddings, and the state is always read at the text's end token. Gauss-Legendre quadrature
approximates the integral along the path; the number of nodes grows until the parts add up. Start and end
token are the same at both ends of the path, so the whole difference comes from the words. Sources:
Sundararajan et al. 2017 (arXiv 1703.01365); for the part through a subspace, Zur et al. 2024 (arXiv
2406.09458).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from descscore.clip import CLIP
from descscore.purpose import Purpose
from descscore.texts import TokenizedText, owner_means, pad
from descscore.towers.blocks import own_text_tower
from descscore.towers.text import (
    HalfRun,
    carry_on,
    embed_tokens,
    end_positions,
    run_from_block,
    run_texts,
    trim,
)

STEPS = (16, 50, 100, 200, 400, 800, 1024)
"""Numbers of nodes, tried one after another."""

RELATIVE, ABSOLUTE = 0.01, 1e-3
"""Parts have converged if their sum misses the difference by at most max(1 % of the difference, 1e-3)."""

FEW, STRICT = 50, 0.1
"""With fewer nodes than 50, the sum must miss by at most a tenth of that, or more nodes are tried: errors of
single parts can cancel each other in the sum. Under the bundled models, parts of 16 nodes then differ from
those of 50 by some 1e-6."""

Filler: TypeAlias = Literal["padding", "end"]
"""What takes the place of words: the padding token (CLIP's reads as "!"), or the end token."""

FILLER: Filler = "padding"
"""What every explanation starts from; ``python -m reproduce.explanations`` compares both."""

_NUMBERS_AT_ONCE = {"cpu": 4_000_000}
_NUMBERS_ELSEWHERE = 100_000_000
"""Tokens x width x layers in one pass: the fastest size on two CPU cores; on other devices about 6 GB."""

_ROWS_AT_ONCE = 32_768
"""CUDA's attention kernels take at most 65,535 rows in a pass."""

Nodes: TypeAlias = "Sequence[tuple[float, float]]"
"""Places on a path, 0..1, each with its weight in the integral."""

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called after each pass: what is measured, how many token rows the pass held, and how many there are."""


def no_progress(stage: str, rows: int, total: int) -> None:
    """Show no progress."""


@dataclass(frozen=True)
class TextRows:
    """n texts as r token rows, each text with the image that its cosine is taken with."""

    tokens: Tensor
    """``(r, length)``, padded with 0."""
    owner: Tensor
    """``(r,)`` the text of each row, 0..n-1; a text in windows has several rows."""
    share: Tensor
    """``(r,)`` the weight of each row in its text; a text's shares add up to 1."""
    images: Tensor
    """``(n, embed_dim)`` unit image features."""

    @classmethod
    def of(cls, texts: Sequence[TokenizedText], images: Tensor) -> TextRows:
        """The rows of tokenised texts, on the images' device."""
        device = images.device
        return cls(
            tokens=pad([row for text in texts for row in text.rows]).to(device),
            owner=torch.tensor([i for i, text in enumerate(texts) for _ in text.rows], device=device),
            share=torch.tensor([weight for text in texts for weight in text.weights], device=device),
            images=images,
        )


@dataclass(frozen=True)
class Values:
    """The model's values for n texts, float64 on the CPU."""

    cosine: Tensor
    """``(n, ...)`` cosines with their images."""
    log_odds: Tensor | None
    """``(n, ...)`` log-odds of being a description, means over a text's windows; None without a read-out."""


@dataclass(frozen=True)
class PathEnds:
    """The ends of n texts' paths, and the error of the parts; float64 on the CPU."""

    value: Tensor
    """``(n,)`` the value of the text."""
    difference: Tensor
    """``(n,)`` value of the text minus that of the text without words."""
    delta: Tensor
    """``(n,)`` sum of the parts minus the difference."""

    @property
    def converged(self) -> Tensor:
        """Whether the parts add up, to within max(1 % of the difference, 1e-3): ``(n,)`` bool."""
        return self.within(1.0)

    def within(self, share: float) -> Tensor:
        """Whether the parts add up, to within a share of what :attr:`converged` allows: ``(n,)`` bool."""
        return self.delta.abs() <= share * (RELATIVE * self.difference.abs()).clamp(min=ABSOLUTE)


@dataclass(frozen=True)
class Attribution:
    """Each token's parts of n texts' values, float64 on the CPU."""

    cosine: Tensor
    """``(r, length)`` parts of the cosine."""
    through: Tensor | None
    """``(r, length)`` the share of ``cosine`` that flows through the purpose subspace at its site; None for a
    model without one."""
    log_odds: Tensor | None
    """``(r, length)`` parts of the read-out's log-odds; None without a read-out."""
    cosine_path: PathEnds
    """The ends of the paths in cosine."""
    log_odds_path: PathEnds | None
    """The ends of the paths in log-odds; None without a read-out."""
    steps: Tensor
    """``(n,)`` number of nodes used."""


@torch.no_grad()
def evaluate(
    clip: CLIP, texts: TextRows, purpose: Purpose | None = None, progress: Progress = no_progress
) -> Values:
    """Cosines and log-odds of texts ``(n,)``, without gradients.

    Texts that differ in one word share their other windows, and the beginning of the window with the word.
    So each distinct row runs once, and rows with the same beginning run together.
    """
    device, reads_out = texts.images.device, purpose is not None and purpose.readout is not None
    rows, place = torch.unique(trim(clip, texts.tokens).cpu(), dim=0, return_inverse=True)  # sorted
    units: list[Tensor] = []
    odds: list[Tensor] = []
    for part in rows.split(max(1, _tokens_at_once(clip, device) // rows.shape[1])):
        run = run_texts(clip, part, device, purpose.site.block if purpose and reads_out else None)
        units.append(F.normalize(run.raw, dim=-1))
        if purpose and run.state is not None:
            odds.append(purpose.log_odds(run.state))
        progress("words left out", len(part), len(rows))

    def of_texts(values: list[Tensor]) -> Tensor:
        return owner_means(torch.cat(values)[place.to(device)], texts.share, texts.owner, len(texts.images))

    cosines = (F.normalize(of_texts(units), dim=-1) * texts.images).sum(-1)
    return Values(cosines.cpu().double(), of_texts(odds).cpu().double() if odds else None)


def attribute(
    clip: CLIP,
    texts: TextRows,
    purpose: Purpose | None = None,
    steps: Sequence[int] = STEPS,
    filler: Filler = FILLER,
    progress: Progress = no_progress,
) -> Attribution:
    """Integrated gradients of each text's cosine, and of its read-out's log-odds, by token.

    Texts share passes; other texts affect a text's parts only through rounding.

    Args:
        clip: The model whose text tower is explained.
        texts: The texts and their images.
        purpose: The model's purpose subspace; None for a model without one.
        steps: Numbers of nodes. The next number is tried for texts whose parts do not add up yet.
        filler: What takes the place of words where the paths start.
        progress: Called after each pass.
    """
    paths = _Paths(clip, texts, purpose, filler)
    ends = paths.values([(0.0, 0.0), (1.0, 0.0)])
    parts = {name: torch.zeros(paths.tokens.shape, dtype=torch.float64) for name in paths.part_names}
    used = torch.zeros(len(texts.images), dtype=torch.int64)
    pending = list(range(len(used)))
    for number in steps:
        _integrate(paths, pending, nodes(number), parts, progress)
        used[pending] = number
        cosine_path = _path_ends(ends.cosine, parts["cosine"], texts.owner)
        share = STRICT if number < FEW else 1.0
        done, log_odds_path = cosine_path.within(share), None
        if ends.log_odds is not None:
            log_odds_path = _path_ends(ends.log_odds, parts["log_odds"], texts.owner)
            done &= log_odds_path.within(share)
        pending = [text for text in pending if not done[text]]
        if not pending:
            break
    return Attribution(
        parts["cosine"], parts.get("through"), parts.get("log_odds"), cosine_path, log_odds_path, used
    )


def _tokens_at_once(clip: CLIP, device: torch.device) -> int:
    numbers = _NUMBERS_AT_ONCE.get(device.type, _NUMBERS_ELSEWHERE)
    transformer = own_text_tower(clip).transformer
    return numbers // (transformer.width * len(transformer.resblocks))


@lru_cache(maxsize=16)
def nodes(steps: int) -> Nodes:
    """Gauss-Legendre nodes on 0..1 with their weights; the weights add up to 1."""
    places, weights = np.polynomial.legendre.leggauss(steps)
    return tuple(zip(((1 + places) / 2).tolist(), (weights / 2).tolist(), strict=True))


def without_words(clip: CLIP, tokens: Tensor, filler: Filler = FILLER) -> Tensor:
    """Token rows ``(r, length)`` with the filler between their start and end tokens, and padding behind."""
    end = end_positions(clip, tokens)[:, None]
    mark, places = tokens.gather(1, end), torch.arange(tokens.shape[1], device=tokens.device)
    between = mark if filler == "end" else torch.zeros_like(mark)
    empty = torch.where(places < end, between, 0).scatter(1, end, mark)
    empty[:, 0] = tokens[:, 0]
    return empty


@dataclass(frozen=True)
class _Points:
    """p points on texts' paths, as m token rows; a text in windows has several rows per point."""

    text: Tensor
    """``(p,)`` each point's text."""
    tokens: Tensor
    """``(m, longest)`` token rows."""
    end: Tensor
    """``(m,)`` positions of the rows' end tokens."""
    row: Tensor
    """``(m,)`` each row's number in :class:`TextRows`."""
    point: Tensor
    """``(m,)`` each row's point."""
    place: Tensor
    """``(m,)`` each row's place on the path, 0..1."""
    weight: Tensor
    """``(m,)`` weight of each row's point in the integral, float64 on the CPU."""
    share: Tensor
    """``(m,)`` weight of each row in its text."""

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the rows of each point: ``(m, ...)`` -> ``(p, ...)``."""
        return owner_means(values, self.share, self.point, len(self.text))


class _Paths:
    """The paths of n texts, and the model's values along them."""

    def __init__(self, clip: CLIP, texts: TextRows, purpose: Purpose | None, filler: Filler = FILLER) -> None:
        self.clip, self.texts, self.purpose, self.filler = clip, texts, purpose, filler
        self.tokens = trim(clip, texts.tokens)
        self.end = end_positions(clip, self.tokens)
        self.reads_out = purpose is not None and purpose.readout is not None
        layers = len(own_text_tower(clip).transformer.resblocks)
        self.block = purpose.site.block if purpose else layers - 1
        self.tokens_at_once = _tokens_at_once(clip, self.tokens.device)
        self.rows: list[list[int]] = [[] for _ in texts.images]
        for row, text in enumerate(texts.owner.tolist()):
            self.rows[text].append(row)
        ends = self.end.tolist()
        self.length = [max(ends[row] for row in rows) + 1 for rows in self.rows]

    @property
    def part_names(self) -> list[str]:
        """Names of the parts that this model has, as in :class:`Attribution`."""
        present = {"cosine": True, "through": self.purpose is not None, "log_odds": self.reads_out}
        return [name for name, exists in present.items() if exists]

    @torch.no_grad()
    def values(self, places: Nodes) -> Values:
        """The model's values at places of all paths: ``(n, places)`` each."""
        cosines: list[Tensor] = []
        log_odds: list[Tensor] = []
        order: list[Tensor] = []
        for points in self.points(range(len(self.rows)), places):
            run = self.run(points, self.embeddings(points)[0])
            cosines.append(self.cosines(points, run))
            if self.reads_out:
                log_odds.append(self.log_odds(points, run))
            order.append(points.text)
        positions = torch.cat(order).argsort(stable=True)

        def in_order(parts: list[Tensor]) -> Tensor:
            return torch.cat(parts)[positions].cpu().double().view(len(self.rows), len(places))

        return Values(in_order(cosines), in_order(log_odds) if self.reads_out else None)

    def points(self, texts: Sequence[int], places: Nodes) -> Iterator[_Points]:
        """All places of all texts, in batches of texts of similar length that fit into memory."""
        batch: list[tuple[int, float, float]] = []
        rows = 0
        for text in sorted(texts, key=lambda text: self.length[text]):
            for place, weight in places:
                rows += len(self.rows[text])
                if batch and (rows > _ROWS_AT_ONCE or rows * self.length[text] > self.tokens_at_once):
                    yield self._gather(batch)
                    batch, rows = [], len(self.rows[text])
                batch.append((text, place, weight))
        if batch:
            yield self._gather(batch)

    def _gather(self, batch: list[tuple[int, float, float]]) -> _Points:
        entries = [
            (row, point, place, weight)
            for point, (text, place, weight) in enumerate(batch)
            for row in self.rows[text]
        ]
        row, point, place, weight = zip(*entries, strict=True)
        device = self.tokens.device
        rows = torch.tensor(row, device=device)
        return _Points(
            text=torch.tensor([text for text, _, _ in batch], device=device),
            tokens=self.tokens[rows, : self.length[batch[-1][0]]],
            end=self.end[rows],
            row=rows,
            point=torch.tensor(point, device=device),
            place=torch.tensor(place, device=device),
            weight=torch.tensor(weight, dtype=torch.float64),
            share=self.texts.share[rows],
        )

    @torch.no_grad()
    def embeddings(self, points: _Points) -> tuple[Tensor, Tensor]:
        """Embeddings at the points, and their paths from start to end: ``(m, longest, width)`` each."""
        start = embed_tokens(self.clip, without_words(self.clip, points.tokens, self.filler))
        step = embed_tokens(self.clip, points.tokens) - start
        return start + points.place[:, None, None].to(step) * step, step

    def run(self, points: _Points, embeddings: Tensor) -> HalfRun:
        """Run the text tower up to the purpose's site, or through the last block for a model without one."""
        return carry_on(self.clip, HalfRun(points.tokens, points.end, embeddings, -1), self.block)

    def cosines(self, points: _Points, run: HalfRun) -> Tensor:
        """Cosines with the texts' images: ``(p,)``."""
        unit = F.normalize(run_from_block(self.clip, run), dim=-1)
        whole = F.normalize(points.mean(unit), dim=-1)
        return (whole * self.texts.images[points.text]).sum(-1)

    def log_odds(self, points: _Points, run: HalfRun) -> Tensor:
        """Log-odds of being a description: ``(p,)``."""
        assert self.purpose is not None
        return points.mean(self.purpose.log_odds(run.state))

    def gradients(self, points: _Points, run: HalfRun) -> dict[str, Tensor]:
        """Gradients at the site, by name of the part: ``(m, longest, width)`` each."""
        gradients = {"cosine": _gradient(self.cosines(points, run), run.hidden)}
        if self.purpose is not None:
            gradients["through"] = _in_subspace(run, gradients["cosine"], self.purpose)
        if self.reads_out:
            gradients["log_odds"] = _gradient(self.log_odds(points, run), run.hidden)
        return gradients


def _integrate(
    paths: _Paths, texts: Sequence[int], places: Nodes, parts: dict[str, Tensor], progress: Progress
) -> None:
    """Replace the parts of ``texts`` by their integrals with the nodes ``places``."""
    rows = [row for text in texts for row in paths.rows[text]]
    for part in parts.values():
        part[rows] = 0
    for points in paths.points(texts, places):
        embeddings, step = paths.embeddings(points)
        embeddings.requires_grad_()
        run = paths.run(points, embeddings)
        gradients = paths.gradients(points, run)
        for number, (name, gradient) in enumerate(gradients.items(), start=1):
            more = number < len(gradients)
            (slope,) = torch.autograd.grad(run.hidden, embeddings, gradient, retain_graph=more)
            part = (slope * step).sum(-1).cpu().double() * points.weight[:, None]
            parts[name][:, : part.shape[1]].index_add_(0, points.row.cpu(), part)
        progress("parts of words", len(points.row), len(rows) * len(places))


def _gradient(values: Tensor, hidden: Tensor) -> Tensor:
    return torch.autograd.grad(values.sum(), hidden, retain_graph=True)[0]


def _in_subspace(run: HalfRun, gradient: Tensor, purpose: Purpose) -> Tensor:
    """A gradient at the site, projected on the purpose subspace of the end token's state."""
    basis = purpose.rotation[: purpose.site.k].to(gradient)
    rows = torch.arange(len(gradient), device=gradient.device)
    projected = gradient[rows, run.end] @ basis.T @ basis
    return torch.zeros_like(gradient).index_put((rows, run.end), projected)


def _path_ends(ends: Tensor, parts: Tensor, owner: Tensor) -> PathEnds:
    """From values at both ends of n paths ``(n, 2)``, parts ``(r, length)`` and each row's text ``(r,)``."""
    difference = ends[:, 1] - ends[:, 0]
    total = torch.zeros(len(ends), dtype=torch.float64).index_add(0, owner.cpu(), parts.sum(1))
    return PathEnds(ends[:, 1], difference, total - difference)
