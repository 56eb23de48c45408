"""descscore as a metric that Hugging Face's ``evaluate`` loads.

>>> import evaluate
>>> from descscore.evaluate_module import module_path
>>> metric = evaluate.load(module_path())
"""

from __future__ import annotations

from pathlib import Path


def module_path() -> str:
    """The path that ``evaluate.load`` takes; nothing is fetched."""
    return str(Path(__file__).with_name("description_score.py"))
