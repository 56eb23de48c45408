"""Score how well a text would replace an image for someone who cannot see it.

>>> from descscore import DescScorer
>>> scorer = DescScorer.from_pretrained()
>>> result = scorer.score("photo.jpg", "A brown dog runs over wet sand towards the sea.")

A name is imported when it is first used. The command line often shows only help or a
version, and torch alone takes seconds to import.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
"""The package's version; no other file holds it."""

if TYPE_CHECKING:
    from descscore.adapters import Adapter as Adapter
    from descscore.auditing.audit import audit as audit
    from descscore.errors import DescscoreError as DescscoreError
    from descscore.explanations.explainer import explain as explain
    from descscore.explanations.explanation import Explanation as Explanation
    from descscore.models import load_model as load_model
    from descscore.record_metric import RecordMetric as RecordMetric
    from descscore.records import Comparison as Comparison
    from descscore.records import Pair as Pair
    from descscore.records import Score as Score
    from descscore.scorer import DescScorer as DescScorer
    from descscore.shared_scorers import score as score

_MODULES = {
    "DescScorer": "descscore.scorer",
    "Adapter": "descscore.adapters",
    "Score": "descscore.records",
    "Comparison": "descscore.records",
    "Pair": "descscore.records",
    "DescscoreError": "descscore.errors",
    "Explanation": "descscore.explanations.explanation",
    "explain": "descscore.explanations.explainer",
    "load_model": "descscore.models",
    "RecordMetric": "descscore.record_metric",
    "score": "descscore.shared_scorers",
    "audit": "descscore.auditing.audit",
}

__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'descscore' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
