"""descscore as a metric over records: a callable from a list of dicts to a list of scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from descscore.errors import DataError, UsageError, first_ten
from descscore.records import Score
from descscore.shared_scorers import ModelSource, score_named, shared_scorer


class RecordMetric:
    """Scores records, each a dict with an image and a text; other keys are ignored.

    Args:
        model: A name, a folder, or a ready scorer.
        image: The key of a record's image.
        text: The key of a record's text.

    Attributes:
        signature: Everything that the scores depend on, in one line.

    >>> metric = RecordMetric(image="img", text="cand")
    >>> metric([{"img": "photo.jpg", "cand": "A brown dog runs over wet sand.", "refs": []}])
    """

    def __init__(self, model: ModelSource = "default", *, image: str = "image", text: str = "text") -> None:
        self._scorer = shared_scorer(model)
        self._image, self._text = image, text
        self.signature = self._scorer.signature

    def __call__(self, records: Iterable[Mapping[str, Any]]) -> list[float]:
        """The score of each record, 0..2.5, in order; raises as :meth:`scores`."""
        return [result.score for result in self.scores(records)]

    def dicts(self, records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Each record's :class:`descscore.Score` as a dict of plain JSON types; raises as :meth:`scores`."""
        return [result.to_dict() for result in self.scores(records)]

    def scores(self, records: Iterable[Mapping[str, Any]]) -> list[Score]:
        """The whole result of each record; the first one is record 0.

        Raises:
            DataError: Some records have no image or text. The message names them.
            InputError: Some records cannot be scored. The message names them.
        """
        checked = self._checked(records)
        names = [f"record {number}" for number in range(len(checked))]
        images = [record[self._image] for record in checked]
        texts = [record[self._text] for record in checked]
        return score_named(self._scorer, names, images, texts)

    def _checked(self, records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        if isinstance(records, (Mapping, str, bytes)):
            raise UsageError(f"records: expected a list of dicts, got one {type(records).__name__}")
        checked = list(records)
        faults = [(number, self._fault(record)) for number, record in enumerate(checked)]
        problems = [f"record {number}: {fault}" for number, fault in faults if fault]
        if problems:
            raise DataError(first_ten(problems))
        return checked

    def _fault(self, record: object) -> str | None:
        """The keys that a record lacks, in words; None for a complete record."""
        if not isinstance(record, Mapping):
            return f"expected a dict, got {type(record).__name__}"
        missing = [repr(key) for key in (self._image, self._text) if key not in record]
        if not missing:
            return None
        return f"no {' and no '.join(missing)}; it has {', '.join(map(repr, record)) or 'nothing'}"
