"""Scorers by name, loaded once for the whole process and shared by everything that asks for them.

Other evaluation libraries have names for their items: image ids, record numbers. So pairs can
be scored under such names, and errors give the names in place of row numbers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Condition
from typing import TypeAlias

from cachetools import LRUCache, cached

from descscore.errors import InputError
from descscore.images import ImageSource
from descscore.models import BUNDLED
from descscore.records import Score
from descscore.scorer import DescScorer, rows_error
from descscore.texts import DEFAULT_POLICY, TextPolicy

ModelSource: TypeAlias = "str | os.PathLike[str] | DescScorer"
"""A model's name or folder (see :func:`descscore.models.load_model`), or a ready scorer."""

CACHE_SIZE = 4
"""How many scorers are kept; the least recently used goes first."""


@dataclass(frozen=True)
class ScorerOptions:
    """How a shared scorer is made; the arguments of :meth:`DescScorer.from_pretrained`.

    Attributes:
        device: torch device; None for a GPU where there is one.
        text_policy: how texts over the context length are scored.
        precision: ``float32``, or a faster one.
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
        ModelError: Where the model cannot be loaded.
    """
    options = ScorerOptions(device, text_policy, precision)
    return shared_scorer(model, options).score(image, text, context=context, references=references)


def shared_scorer(model: ModelSource = "default", options: ScorerOptions | None = None) -> DescScorer:
    """The scorer of that model and these options, loaded by the first call that asks for it.

    Up to :data:`CACHE_SIZE` scorers are kept. A folder whose files have changed since is
    loaded again. A ready scorer is returned as it is. Safe to call from several threads: one
    thread loads a model, others that ask for the same model wait, and a loaded model is there
    at once. Raises :class:`descscore.errors.ModelError`.
    """
    if isinstance(model, DescScorer):
        return model
    name = os.fspath(model)
    return _loaded(name, _folder_state(name), options or ScorerOptions())


def forget_scorers() -> None:
    """Let all shared scorers go, and their memory with them."""
    with _CHANGED:
        _SCORERS.clear()


def score_named(
    scorer: DescScorer, names: Sequence[str], images: Sequence[ImageSource], texts: Sequence[str]
) -> list[Score]:
    """:meth:`DescScorer.score_batch` of pairs that each have a name.

    Raises the same errors, with the names of the pairs that cannot be scored in place of row numbers.
    """
    try:
        return scorer.score_batch(images, texts)
    except InputError as error:
        if not error.rows:
            raise
        raise rows_error(error.rows, lambda row: names[row]) from None


def first_ten(problems: Sequence[str], separator: str = "; ") -> str:
    """Problems on one line: the first ten, and how many more there are."""
    more = [f"and {len(problems) - 10} more"] if len(problems) > 10 else []
    return separator.join([*problems[:10], *more])


_SCORERS: LRUCache[Hashable, DescScorer] = LRUCache(CACHE_SIZE)
_CHANGED = Condition()


def _load(name: str, folder: Hashable, options: ScorerOptions) -> DescScorer:
    """folder: its state, which only tells scorers of a changed folder apart."""
    return DescScorer.from_pretrained(name, **asdict(options))


_loaded: Callable[[str, Hashable, ScorerOptions], DescScorer] = cached(_SCORERS, condition=_CHANGED)(_load)


def _folder_state(name: str) -> Hashable:
    """Where a model's folder is, and what tells that one of its files has changed; None for other names."""
    folder = Path(name)
    if name in BUNDLED or not folder.is_dir():
        return None
    stats = [(path.name, path.lstat()) for path in sorted(folder.iterdir())]
    return (str(folder.resolve()), *((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats))
