"""``descscore.explain``: explain scores, with a scorer that is loaded where none is given.

>>> from descscore import DescScorer, explain
>>> scorer = DescScorer.from_pretrained()
>>> explanation = explain("photo.jpg", "A brown dog runs over wet sand.", scorer=scorer)
>>> strongest = max(explanation.words, key=lambda word: word.value)

:mod:`descscore.explanations.reasons` does the work. This module stands above the scorer, since
:func:`explain` loads one where it gets none.
"""

from __future__ import annotations

from descscore.explanations.attribution import Progress, no_progress
from descscore.explanations.explanation import Explanation
from descscore.explanations.reasons import ExplainOptions, explain_batch, explain_pair
from descscore.image_lists import AnyImage
from descscore.scorer import DescScorer

__all__ = ["ExplainOptions", "explain", "explain_batch"]


def explain(
    image: AnyImage,
    text: str,
    *,
    scorer: DescScorer | None = None,
    source: str | None = None,
    where: bool = False,
    progress: Progress = no_progress,
) -> Explanation:
    """Why ``text`` gets its score with ``image``.

    Args:
        image: The image, as :meth:`DescScorer.score` takes it.
        text: The text.
        scorer: By default a scorer of the model ``default``, loaded for this call. Pass a scorer to
            explain more than one text.
        source: A text whose purpose the counterfactual gives to ``text``.
        where: Whether to map the image by occlusion.
        progress: Called after each pass of the text tower.

    Raises:
        InputError: As :meth:`DescScorer.score`.
        UsageError: The model's precision is not float32, its text tower is not causal or has a tokenizer of
            another library, or there is a ``source`` but the model has no purpose subspace.
    """
    options = ExplainOptions(source, where, progress=progress)
    return explain_pair(image, text, scorer or DescScorer.from_pretrained(), options)
