"""Rows of a pandas frame as pairs, and outcomes as its columns. pandas itself is not imported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from descscore.errors import UsageError
from descscore.records import Outcome, Score

_FIELDS = tuple(field.name for field in fields(Score))
_NUMBERS = tuple(field.name for field in fields(Score) if str(field.type).startswith("float"))
_OF_ROLE = {"context": "context", "references": "reference"}
"""How the fields of a score begin that exist only with a context, or only with references."""


def pair_dicts(frame: Any, roles: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """The rows of a frame as dicts that a stream takes; a missing cell is None.

    roles: Names of its columns, by what they hold: image, text, context, references.

    Raises:
        UsageError: This is no frame, a column is missing or occurs twice, or the frame has a column of scores
            already.
    """
    if not hasattr(frame, "columns") or not hasattr(frame, "assign"):
        given = type(frame).__name__
        raise UsageError(f"expected a pandas frame, got {given}; to_pandas() of a Dataset gives one")
    names = list(frame.columns)
    for role, column in roles.items():
        if names.count(column) != 1:
            number = "no column" if column not in names else "more than one column"
            held = ", ".join(map(str, names[:20]))
            raise UsageError(f"{role}: the frame has {number} {column!r}; its columns: {held}")
    taken = [name for name in (*_FIELDS, "band", "status", "error") if name in names]
    if taken:
        raise UsageError(f"the frame has the columns {', '.join(taken)} already; rename or drop them first")
    columns = [
        [None if missing else cell for cell, missing in zip(part.tolist(), part.isna().tolist(), strict=True)]
        for part in (frame[column] for column in roles.values())
    ]
    return (dict(zip(roles, cells, strict=True)) for cells in zip(*columns, strict=True))


def outcome_columns(outcomes: Sequence[Outcome], roles: Mapping[str, str | None]) -> dict[str, Any]:
    """The columns of scores, by name. roles: as for :func:`pair_dicts`; None for what the frame lacks.

    Scores are float64, with NaN for None, also where no row has one.
    """
    absent = [start for role, start in _OF_ROLE.items() if roles.get(role) is None]
    names = [name for name in _FIELDS if not name.startswith(tuple(absent))]
    columns: dict[str, Any] = {
        name: [getattr(outcome.score, name, None) for outcome in outcomes] for name in names
    }
    columns |= {name: np.array(columns[name], np.float64) for name in names if name in _NUMBERS}
    bands = [outcome.score and outcome.score.band for outcome in outcomes]
    columns["band"] = [band and band.name for band in bands]
    columns["status"] = [outcome.status for outcome in outcomes]
    columns["error"] = [outcome.error for outcome in outcomes]
    return columns
