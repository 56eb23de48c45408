"""The paths that integrated gradients follow, and what a model says along them.

A path runs from a text without words (start token, padding, end token at the text's
own place) to the text, in token plus position embeddings, with the state always read
at the text's end token. Source: Sundararajan et al. 2017 (arXiv 1703.01365).
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

from descscore.explanations.text_rows import TextRows
from descscore.interventions import HalfRun, carry_on, run_from_block
from descscore.readout import Purpose
from descscore.text_tower import embed_tokens, end_positions, trim

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
