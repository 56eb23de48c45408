"""Load scorers by name, once for the whole process.

:func:`score_named` serves metrics of other libraries, which name their items by image id or record
number: its errors give these names instead of row numbers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Condition
from typing import TypeAlias

from cachetools import LRUCache, cached

from descscore.errors import InputError, rows_error
from descscore.images import ImageSource
from descscore.models import BUNDLED
from descscore.records import Score
from descscore.scorer import DescScorer
from descscore.texts import DEFAULT_POLICY, TextPolicy

ModelSource: TypeAlias = "str | os.PathLike[str] | DescScorer"
"""A model's name or folder (see :func:`descscore.models.load_model`), or a ready scorer."""

CACHE_SIZE = 4
"""Number of scorers kept in memory; the least recently used one is dropped first."""


@dataclass(frozen=True)
class ScorerOptions:
    """Settings of a shared scorer; the arguments of :meth:`DescScorer.from_pretrained`.

    Attributes:
        device: torch device; None for a GPU if there is one.
        text_policy: how texts over the context length are scored.
        precision: number format of the model.
        cache_dir: folder for downloaded models; None for the libraries' own.
    """

    device: str | None = None
    text_policy: TextPolicy = DEFAULT_POLICY
    precision: str = "float32"
    cache_dir: str | Path | None = None


def score(
    image: ImageSource,
    text: str,
    model: ModelSource = "default",
    *,
    device: str | None = None,
    text_policy: TextPolicy = DEFAULT_POLICY,
    precision: str = "float32",
    context: str | None = None,
    references: Sequence[str] = (),
) -> Score:
    """How well ``text`` would replace ``image``, as :meth:`DescScorer.score` says.

    The model stays loaded for the next call (see :func:`shared_scorer`). For many pairs
    :meth:`DescScorer.score_batch` is faster.

    Args:
        image: The image, as :meth:`DescScorer.score` takes it.
        text: The text.
        model: A model's name or folder, or a ready scorer.
        device: Torch device; not used for a ready scorer.
        text_policy: How a text over the context length is scored; not used for a ready scorer.
        precision: Precision of the model; not used for a ready scorer.
        context: Text that surrounds the image, such as its article.
        references: Texts that describe the image.

    Raises:
        InputError: As :meth:`DescScorer.score`.
        ModelError: The model cannot be loaded.
    """
    options = ScorerOptions(device, text_policy, precision)
    return shared_scorer(model, options).score(image, text, context=context, references=references)


def shared_scorer(model: ModelSource = "default", options: ScorerOptions | None = None) -> DescScorer:
    """The scorer of a model with these options, loaded by the first call.

    Up to :data:`CACHE_SIZE` scorers stay loaded. If a file in the model's folder has changed, the
    model is loaded again. A ready scorer is returned unchanged. Several threads may call this
    function: one thread loads a model, and others that need the same model wait for it. Raises
    :class:`descscore.errors.ModelError`.
    """
    if isinstance(model, DescScorer):
        return model
    name = os.fspath(model)
    return _loaded(name, _folder_state(name), options or ScorerOptions())


def forget_scorers() -> None:
    """Drop all shared scorers and free their memory."""
    with _CHANGED:
        _SCORERS.clear()


def score_named(
    scorer: DescScorer, names: Sequence[str], images: Sequence[ImageSource], texts: Sequence[str]
) -> list[Score]:
    """:meth:`DescScorer.score_batch` for pairs with names.

    Raises the same errors, but they give names of pairs instead of row numbers.
    """
    try:
        return scorer.score_batch(images, texts)
    except InputError as error:
        if not error.rows:
            raise
        raise rows_error(error.rows, lambda row: names[row]) from None


_SCORERS: LRUCache[Hashable, DescScorer] = LRUCache(CACHE_SIZE)
_CHANGED = Condition()


def _load(name: str, folder: Hashable, options: ScorerOptions) -> DescScorer:
    """Load a scorer. ``folder`` is only a part of the cache's key: see :func:`_folder_state`."""
    return DescScorer.from_pretrained(name, **asdict(options))


_loaded: Callable[[str, Hashable, ScorerOptions], DescScorer] = cached(_SCORERS, condition=_CHANGED)(_load)


def _folder_state(name: str) -> Hashable:
    """A model folder's path with each file's name, time and size; None for a model that is no folder."""
    folder = Path(name)
    if name in BUNDLED or not folder.is_dir():
        return None
    stats = [(path.name, path.lstat()) for path in sorted(folder.iterdir())]
    return (str(folder.resolve()), *((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats))
