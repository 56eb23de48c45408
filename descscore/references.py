"""Scores with references: the harmonic mean of RefCLIPScore (Hessel et al. 2021).

For a text c, an image v and good descriptions R of the image,
``H-mean(2.5·max(cos(c, v), 0), max(max_r cos(c, r), 0))``: the harmonic mean of the score
and of the text's largest cosine with a reference. As in the published code only the score
bears the factor 2.5. Where either is 0, so is the mean. Source: Hessel et al., CLIPScore: A
Reference-free Evaluation Metric for Image Captioning (EMNLP 2021). There every text
bears the prefix "A photo depicts "; here none does, as everywhere in descscore.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import torch
from torch import Tensor

from descscore.errors import TextError
from descscore.texts import TokenizedText

REFERENCES_SIGNATURE = "references:refclipscore-no-prefix"
"""What a signature says where a reference score was made."""

MAX_REFERENCES = 1000
"""References that one pair may have."""


def reference_scores(scores: Tensor, best: Tensor) -> Tensor:
    """Harmonic means ``(n,)`` of scores, 0..2.5, and largest cosines with a reference, -1..1: 0..10/7.

    A negative cosine counts as 0; the mean of two zeros is 0.
    """
    likeness = best.clamp(min=0)
    total = scores + likeness
    return torch.where(total > 0, 2 * scores * likeness / total.where(total > 0, 1), 0)


def largest_by_row(values: Tensor, rows: Tensor, count: int) -> Tensor:
    """The largest of the ``(r,)`` values of each row: ``(count,)``, -inf for a row that has none."""
    start = torch.full((count,), -torch.inf, dtype=values.dtype, device=values.device)
    return start.scatter_reduce(0, rows, values, "amax")


def tokenize_references(
    tokenize: Callable[[str], TokenizedText], references: object
) -> tuple[TokenizedText, ...]:
    """Tokens of each reference; none for None and an empty list. Raises as :func:`check_references`,
    and for a reference that cannot be scored.
    """
    found = []
    for number, text in enumerate(check_references(references), start=1):
        try:
            found.append(tokenize(text))  # type: ignore[arg-type]
        except TextError as error:
            raise TextError("bad_references", f"reference {number}: {error}") from None
    return tuple(found)


def check_references(references: object) -> tuple[object, ...]:
    """The references of one pair. Raises :class:`TextError` with kind ``bad_references`` for what is no
    list or holds too many; one text where a list belongs would be taken letter by letter.
    """
    if references is None:
        return ()
    if not isinstance(references, (list, tuple)):
        kind = type(references).__name__
        raise TextError("bad_references", f"references: expected a list of texts, got one {kind}")
    if len(references) > MAX_REFERENCES:
        raise TextError("bad_references", f"references: {len(references)}, over {MAX_REFERENCES}")
    return tuple(references)


def parse_references(cell: object) -> object:
    """The references in a table's cell: a list as it is, or a JSON list in a string; blank is none.

    Raises :class:`TextError` with kind ``bad_references`` for any other string.
    """
    if not isinstance(cell, str):
        return cell
    if not cell.strip():
        return None
    try:
        found = json.loads(cell)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list):
        raise TextError("bad_references", f"references {cell[:40]!r}: expected a JSON list of texts")
    return found
