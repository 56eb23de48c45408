"""descscore as torchmetrics metrics.

>>> from descscore.metrics import DescriptionScore
>>> metric = DescriptionScore()
>>> metric.update(["photo.jpg"], ["A brown dog runs over wet sand."])
>>> metric.compute()

Needs torchmetrics: ``pip install "descscore[metrics]"``.
"""

try:
    import torchmetrics as torchmetrics
except ImportError as error:
    raise ImportError(
        f'descscore.metrics needs torchmetrics ({error}): pip install "descscore[metrics]"'
    ) from error

from descscore.metrics.description_score import DescriptionScore
from descscore.metrics.preference_accuracy import PreferenceAccuracy

__all__ = ["DescriptionScore", "PreferenceAccuracy"]
