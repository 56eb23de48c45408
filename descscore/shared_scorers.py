"""Score pairs that have names of their own: errors say those in place of row numbers."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Generic, TypeAlias, TypeVar

from descscore.errors import InputError
from descscore.images import ImageSource
from descscore.models import BUNDLED
from descscore.records import Score
from descscore.scorer import DescScorer, rows_error
from descscore.texts import DEFAULT_POLICY, TextPolicy

# Loaded things by what was asked for: each made once, the least recently used let go.


T = TypeVar("T")


class SharedCache(Generic[T]):
    """Holds up to ``size`` values; may be used from several threads at a time.

    A thread that asks for a value that another is making waits for that one; one that
    asks for a value already made never waits.
    """

    def __init__(self, size: int) -> None:
        self._size, self._lock = size, Lock()
        self._values: OrderedDict[Hashable, Future[T]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The value of ``key``, made by ``make`` where there is none; its error is not kept."""
        with self._lock:
            known = self._values.get(key)
            future: Future[T] = known or Future()
            self._values[key] = future
            self._values.move_to_end(key)
            while len(self._values) > self._size:
                self._values.popitem(last=False)
        if known is None:
            self._make(key, future, make)
        return future.result()

    def clear(self) -> None:
        """Let all values go; who still holds one keeps it."""
        with self._lock:
            self._values.clear()

    def __len__(self) -> int:
        return len(self._values)

    def _make(self, key: Hashable, future: Future[T], make: Callable[[], T]) -> None:
        try:
            future.set_result(make())
        except BaseException as error:
            with self._lock:
                if self._values.get(key) is future:
                    del self._values[key]
            future.set_exception(error)
            raise


# Scorers by name, loaded once for the whole process, and a one-line way to use them.


ModelSource: TypeAlias = "str | os.PathLike[str] | DescScorer"
"""A model's name or folder (see :func:`descscore.models.load_model`), or a scorer that is ready."""

CACHE_SIZE = 4
"""How many scorers are kept; the one that was not used for longest goes first."""

_CACHE: SharedCache[DescScorer] = SharedCache(CACHE_SIZE)


@dataclass(frozen=True)
class ScorerOptions:
    """What a shared scorer is made of; as the arguments of :meth:`DescScorer.from_pretrained`."""

    device: str | None = None
    text_policy: TextPolicy = DEFAULT_POLICY
    precision: str = "float32"
    cache_dir: str | Path | None = None


def shared_scorer(model: ModelSource = "default", options: ScorerOptions | None = None) -> DescScorer:
    """The scorer of that model and these options, loaded by the first call that asks for it.

    Up to :data:`CACHE_SIZE` scorers are kept. A folder whose files have changed since
    is loaded anew. A scorer that is ready is returned as it is. Safe to call from
    several threads. Raises :class:`descscore.errors.ModelError`.
    """
    if isinstance(model, DescScorer):
        return model
    options, name = options or ScorerOptions(), os.fspath(model)
    key = (name, _folder_state(name), options)
    return _CACHE.get(
        key,
        lambda: DescScorer.from_pretrained(
            name,
            device=options.device,
            text_policy=options.text_policy,
            precision=options.precision,
            cache_dir=options.cache_dir,
        ),
    )


def forget_scorers() -> None:
    """Let all shared scorers go, and with them their memory."""
    _CACHE.clear()


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

    The model stays loaded for the next call (see :func:`shared_scorer`); what says how it
    is loaded, device, text policy and precision, is not used for a scorer that is ready.
    For many pairs :meth:`DescScorer.score_batch` is quicker. Raises what
    :meth:`DescScorer.score` raises, and :class:`descscore.errors.ModelError`.
    """
    options = ScorerOptions(device, text_policy, precision)
    return shared_scorer(model, options).score(image, text, context=context, references=references)


def _folder_state(name: str) -> Hashable:
    """Where a model's folder is, and what tells that one of its files has changed; None for other names."""
    folder = Path(name)
    if name in BUNDLED or not folder.is_dir():
        return None
    stats = [(path.name, path.lstat()) for path in sorted(folder.iterdir())]
    return (str(folder.resolve()), *((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats))


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
