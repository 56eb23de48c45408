"""What a text would score if it spoke with another text's purpose, by interchange in the subspace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import open_clip
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from descscore.errors import UsageError
from descscore.explanations.attribution import Values, evaluate
from descscore.explanations.words import TextRows, Word
from descscore.models import LoadedModel
from descscore.purpose import Exchange, interchange_texts
from descscore.texts import TokenizedText, pad
from descscore.towers.text import join_tokens

# Leave one word out: what the cosine and the log-odds lose, with no gradient and no path.


@dataclass(frozen=True)
class Omitted:
    """One text without one word. text, word: their numbers; shortened: the text without it, in
    the same windows."""

    text: int
    word: int
    shortened: TokenizedText


def omissions(texts: Sequence[TokenizedText], words: Sequence[Sequence[Word]]) -> list[Omitted]:
    """Every text without each of its words in turn, words that the model does not see passed over.

    Tokens are taken out, not letters: what was cut off stays cut off, and no
    neighbours grow together.
    """
    return [
        Omitted(i, j, _without(text, word))
        for i, (text, found) in enumerate(zip(texts, words, strict=True))
        for j, word in enumerate(found)
        if word.tokens
    ]


def evaluate_omissions(model: LoadedModel, omitted: Sequence[Omitted], images: Tensor) -> Values:
    """Values of the shortened texts, ``(len(omitted),)``; images: ``(n, embed_dim)`` of the n whole ones."""
    own = images[[item.text for item in omitted]].to(model.device)
    return evaluate(model.clip, TextRows.of([item.shortened for item in omitted], own), model.purpose)


def _without(text: TokenizedText, word: Word) -> TokenizedText:
    left_out = set(word.tokens)
    rows = tuple(
        tuple(token for c, token in enumerate(row) if (r, c) not in left_out)
        for r, row in enumerate(text.rows)
    )
    return replace(text, rows=rows, tokens=text.tokens - len(left_out))


# Where on the image: cover one part after another and see what the cosine loses.
#
# Works for any image tower, since it only looks at what goes in and what comes out. A
# square of the image's mean colour slides over the picture as the model sees it; each
# cell of the map is the mean loss over the squares that covered it. Source: Zeiler and
# Fergus 2014 (arXiv 1311.2901).


GRID = 8
"""Cells across and down."""

COVER = 2
"""Width of the sliding square in cells."""


@dataclass(frozen=True)
class Occlusion:
    """values: ``(n, GRID, GRID)`` losses of n texts' cosines by cell. box: what the model sees of
    the image, left, top, right, bottom in fractions of it."""

    values: Tensor
    box: tuple[float, float, float, float]


@torch.inference_mode()
def occlude(model: LoadedModel, image: Image.Image, texts: Tensor, batch_size: int = 32) -> Occlusion:
    """Losses of the cosines of unit text features ``(n, embed_dim)`` with an RGB image."""
    pixels = model.preprocess(image)
    covers = _covers(pixels.shape[-2:])
    mean = pixels.mean((1, 2), keepdim=True)
    cosines = []
    for start in range(0, len(covers), batch_size):
        covered = torch.where(covers[start : start + batch_size, None], mean, pixels).to(model.device)
        cosines.append(F.normalize(model.clip.encode_image(covered), dim=-1) @ texts.T)
    whole = F.normalize(model.clip.encode_image(pixels[None].to(model.device)), dim=-1) @ texts.T
    losses = (whole - torch.cat(cosines)).T.cpu().double()  # (n, covers)
    return Occlusion(_by_cell(losses), visible_box(model, image.size))


def _corners() -> Sequence[tuple[int, int]]:
    """Top left cells of the squares, which reach over the edges: each cell is covered equally often."""
    places = range(1 - COVER, GRID)
    return [(row, column) for row in places for column in places]


def _covers(size: Sequence[int]) -> Tensor:
    """What each square covers: ``(covers, height, width)`` bool."""
    height, width = size
    rows = torch.arange(height) * GRID // height
    columns = torch.arange(width) * GRID // width
    return torch.stack([_span(rows, r)[:, None] & _span(columns, c)[None] for r, c in _corners()])


def _by_cell(losses: Tensor) -> Tensor:
    """Mean over the squares that covered each cell: ``(n, covers)`` -> ``(n, GRID, GRID)``."""
    cells = torch.arange(GRID)
    masks = torch.stack([_span(cells, r)[:, None] & _span(cells, c)[None] for r, c in _corners()])
    total = torch.einsum("nc,cij->nij", losses, masks.double())
    return total / masks.sum(0)


def _span(cells: Tensor, first: int) -> Tensor:
    return (cells >= first) & (cells < first + COVER)


def visible_box(model: LoadedModel, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The part of an image of ``size`` (width, height) that the model's preprocessing keeps, in fractions."""
    config = open_clip.get_model_preprocess_cfg(model.clip)
    target = config["size"]
    high, wide = target if isinstance(target, (tuple, list)) else (target, target)
    width, height = size
    across, down = 1.0, 1.0
    if config["resize_mode"] != "squash":
        # One scale for both sides: the image's shortest side fits the target, or its longest.
        choose = max if config["resize_mode"] == "shortest" else min
        scale = choose(wide / width, high / height)
        across, down = wide / (width * scale), high / (height * scale)
    return ((1 - across) / 2, (1 - down) / 2, (1 + across) / 2, (1 + down) / 2)


@dataclass(frozen=True)
class Swapped:
    """features: ``(n, embed_dim)`` unit features of the texts with the source's purpose.
    source_probability: that the source is a description, None without a read-out."""

    features: Tensor
    source_probability: float | None


@torch.no_grad()
def swap_purpose(model: LoadedModel, texts: Sequence[TokenizedText], source: TokenizedText) -> Swapped:
    """n texts with the purpose of ``source``; every window of a text takes on that of its first window.

    Raises :class:`UsageError` for a model without a purpose subspace.
    """
    purpose = model.purpose
    if purpose is None:
        raise UsageError(
            f"model {model.name}: has no purpose subspace, so no text can take on another's purpose"
        )
    first = pad(source.rows[:1]).to(model.device)
    features, state = [], first.new_zeros(0)
    for text in texts:
        tokens = join_tokens([pad(text.rows).to(model.device), first])
        count = len(text.rows)
        base = torch.arange(count, device=model.device)
        exchange = Exchange(base, torch.full_like(base, count))
        found = interchange_texts(model.clip, tokens, exchange, purpose.rotation, purpose.site)
        unit = F.normalize(found.swapped.float(), dim=-1)
        weights = torch.tensor(text.weights, device=unit.device)
        features.append(F.normalize(weights @ unit, dim=-1))
        state = found.state[-1:]
    probability = purpose.probability(state.float())
    return Swapped(torch.stack(features), None if probability is None else float(probability))
