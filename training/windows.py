"""Thinner texts for training: stretches of them, and texts with words left out.

Stretches cost less and show a text's purpose without its beginning; left-out words keep
single words from carrying it alone.
"""

from __future__ import annotations

import torch
from torch import Tensor


def draw_windows(tokens: Tensor, window: int, rng: torch.Generator) -> Tensor:
    """Cut token rows to stretches of ``window`` tokens: ``(m, length)`` -> ``(m, at most window)``.

    Start and end token stay; between them stands a stretch of the text, for half of the
    texts (drawn) its beginning, for the others from anywhere. Shorter texts stay whole.
    """
    rows = len(tokens)
    spare = (_ends(tokens) + 1 - window).clamp(min=0).cpu()
    first = (torch.rand(rows, generator=rng) * (spare + 1)).long()
    first = torch.where(torch.rand(rows, generator=rng) < 0.5, 0, first)
    return cut_at(tokens, window, first.to(tokens.device))


def cut_at(tokens: Tensor, window: int, first: Tensor) -> Tensor:
    """Cut rows longer than ``window`` to the stretch from ``first`` ``(m,)``; 0 keeps the beginning."""
    rows, length = tokens.shape
    if length <= window:
        return tokens
    end = _ends(tokens)
    place = torch.arange(window, device=tokens.device).expand(rows, window) + first[:, None]
    out, cut = tokens.gather(1, place), end >= window
    out[cut, 0] = tokens[cut, 0]
    out[cut, -1] = tokens[cut, end[cut]]
    return out


def drop_tokens(tokens: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Leave each token out with probability ``share``, start and end token excepted.

    ``(m, length)`` -> ``(m, length)``; what is left moves together, padded with 0.
    """
    rows, length = tokens.shape
    place = torch.arange(length, device=tokens.device).expand(rows, length)
    end = _ends(tokens)[:, None]
    drawn = torch.rand(rows, length, generator=rng).to(tokens.device) < share
    gone = (drawn & (place > 0) & (place < end)) | (place > end)
    order = gone.int().argsort(dim=1, stable=True)
    return tokens.masked_fill(gone, 0).gather(1, order)


def _ends(tokens: Tensor) -> Tensor:
    """Position of each row's end token: padding is 0, and the end token is not."""
    return tokens.shape[1] - 1 - (tokens.flip(1) != 0).int().argmax(1)
