"""Score pairs that have names of their own: errors say those in place of row numbers."""

from __future__ import annotations

from collections.abc import Sequence

from descscore.errors import InputError
from descscore.images import ImageSource
from descscore.pair_checks import rows_error
from descscore.records import Score
from descscore.scorer import DescScorer


def score_named(
    scorer: DescScorer, names: Sequence[str], images: Sequence[ImageSource], texts: Sequence[str]
) -> list[Score]:
    """:meth:`DescScorer.score_batch` of pairs with these names, one each.

    Raises the same errors, with the name of each pair that cannot be scored.
    """
    try:
        return scorer.score_batch(images, texts)
    except InputError as error:
        if not error.rows:
            raise
        raise rows_error(error.rows, lambda row: names[row]) from None


def first_ten(problems: Sequence[str], separator: str = "; ") -> str:
    """A list of problems on one line: the first ten, and how many more there are."""
    more = [f"and {len(problems) - 10} more"] if len(problems) > 10 else []
    return separator.join([*problems[:10], *more])
