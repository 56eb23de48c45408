"""What a report measures with: a data folder and models, each file read and each item encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from descscore.data.datasets import DataOptions, load_pairs
from descscore.data.pairs import PairSet
from descscore.errors import UsageError
from descscore.eval.report.remembering import ImageMemory, RememberingEncoder
from descscore.eval.statistics.bootstrap import Resampling
from descscore.scorer import DescScorer


@dataclass(frozen=True)
class Subject:
    """A model under the name it was asked for."""

    name: str
    scorer: DescScorer

    def to_dict(self) -> dict[str, Any]:
        """What a reader must know of it: plain JSON types."""
        model = self.scorer.model
        return {
            "name": self.name,
            "signature": self.scorer.signature,
            "parameters": sum(p.numel() for p in model.clip.parameters()),
            "tuned": model.tuned,
            "readout": bool(model.purpose and model.purpose.readout),
        }


@dataclass(frozen=True)
class Bench:
    """data: the data folder. resampling: of the correlations with people's ratings."""

    data: Path
    subjects: tuple[Subject, ...]
    resampling: Resampling = field(default_factory=Resampling)
    _pairs: dict[str, PairSet] = field(default_factory=dict, repr=False)

    def pairs(self, source: str) -> PairSet:
        """The pairs of a file or folder below the data folder.

        Those with equal texts stay in: no metric can win them, and they count against all.
        Raises :class:`descscore.errors.DataError` for damaged files.
        """
        if source not in self._pairs:
            self._pairs[source] = load_pairs(self.data / source, DataOptions(keep_equal=True))
        return self._pairs[source]


def load_subjects(names: Sequence[str], device: str | None = None) -> tuple[Subject, ...]:
    """Load each model once; all that share an image tower share its features.

    Raises :class:`UsageError` for a name given twice, :class:`descscore.errors.ModelError`
    for a model that cannot be loaded.
    """
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UsageError(f"model {repeated[0]!r} is given more than once")
    memory: ImageMemory = {}
    return tuple(Subject(name, _scorer(name, device, memory)) for name in names)


def _scorer(name: str, device: str | None, memory: ImageMemory) -> DescScorer:
    scorer = DescScorer.from_pretrained(name, device=device)
    scorer.encoder = RememberingEncoder(scorer.model, scorer.encoder.batch_size, memory)
    return scorer
