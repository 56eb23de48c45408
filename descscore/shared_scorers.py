"""Load scorers by name, once for the whole process, and share them between metrics and devices.

:func:`score_named` serves metrics of other libraries, which name their items by image id or record
number: its errors give these names instead of row numbers.
"""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Condition
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch
from cachetools import LRUCache, cached

from descscore.errors import InputError, ModelError, rows_error
from descscore.image_lists import AnyImage
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
    """Settings of a shared scorer; the arguments of :meth:`DescScorer.from_pretrained`."""

    device: str | None = None
    """Torch device; None for a GPU if there is one."""
    text_policy: TextPolicy = DEFAULT_POLICY
    """How texts over the context length are scored."""
    precision: str = "float32"
    """Number format of the model."""
    cache_dir: str | Path | None = None
    """Folder for downloaded models; None for the libraries' own."""


def score(
    image: AnyImage,
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
    scorer: DescScorer, names: Sequence[str] | None, images: Sequence[ImageSource], texts: Sequence[str]
) -> list[Score]:
    """:meth:`DescScorer.score_batch` for pairs with names; None for a single image, which has no name.

    Raises the same errors, but they give names of pairs instead of row numbers.
    """
    try:
        return scorer.score_batch(images, texts)
    except InputError as error:
        if not error.rows:
            raise
        raise rows_error(error.rows, None if names is None else names.__getitem__) from None


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
    state: list[Hashable] = [str(folder.resolve())]
    for path in sorted(folder.iterdir()):
        with contextlib.suppress(OSError):  # a run that writes here may have moved it by now
            stat = path.stat()
            state.append((path.name, stat.st_mtime_ns, stat.st_size))
    return tuple(state)


class ScorerHandle:
    """Holds the scorer of a metric, and pickles it by the name of its model.

    A deep copy returns the handle itself, because scoring does not change a scorer.

    Attributes:
        scorer: the scorer.
        name: the model's name or folder; None for a ready scorer, which is pickled whole.
    """

    def __init__(self, scorer: DescScorer, name: str | None) -> None:
        self.scorer, self.name = scorer, name

    @classmethod
    def of(cls, model: ModelSource, device: torch.device) -> ScorerHandle:
        """The handle of a ready scorer, or of a scorer by name on ``device``."""
        if isinstance(model, DescScorer):
            return cls(model, None)
        return cls(shared_scorer(model, ScorerOptions(device=str(device))), os.fspath(model))

    @property
    def device(self) -> torch.device:
        """The device of the scorer's weights, with its number."""
        return _numbered(self.scorer.model.device)

    def on(self, device: torch.device) -> ScorerHandle:
        """A handle of the scorer on ``device``; this handle if the scorer is already there."""
        if _numbered(device) == self.device:
            return self
        return ScorerHandle(scorer_on(self.scorer, device), self.name)

    def __deepcopy__(self, memo: dict[int, Any]) -> ScorerHandle:
        return self

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        if self.name is None:
            return (ScorerHandle, (self.scorer, None))
        return (_reloaded, (self.name, str(self.device), self.scorer.signature))


def _reloaded(name: str, device: str, signature: str) -> ScorerHandle:
    handle = ScorerHandle.of(name, torch.device(device))
    current = handle.scorer.signature
    if current != signature:
        raise ModelError(f"the metric was saved with {signature!r}, but model {name!r} is now {current!r}")
    return handle


_COPIES: WeakKeyDictionary[DescScorer, WeakValueDictionary[torch.device, DescScorer]] = WeakKeyDictionary()
"""A scorer's copies on other devices, and a copy's original, while anything uses them."""


def scorer_on(scorer: DescScorer, device: torch.device) -> DescScorer:
    """A copy of ``scorer`` on ``device``; an earlier copy if it is still in use.

    ``scorer`` itself stays on its device, because other objects may use it.
    """
    copies = _COPIES.setdefault(scorer, WeakValueDictionary())
    device = _numbered(device)
    moved = copies.get(device)
    if moved is None:
        moved = copies[device] = _copied(scorer, device)
        _COPIES[moved] = WeakValueDictionary({_numbered(scorer.model.device): scorer})
    return moved


def _copied(scorer: DescScorer, device: torch.device) -> DescScorer:
    model = scorer.model
    # In one call, so that an untuned model stays its own base.
    clip, base = copy.deepcopy((model.clip, model.base))
    moved = replace(
        model,
        clip=clip.to(device),
        base=base.to(device),
        device=device,
        purpose=model.purpose and model.purpose.to(device),
    )
    return DescScorer(moved, scorer.text_policy, scorer.encoder.batch_size, model.precision)


def _numbered(device: torch.device) -> torch.device:
    """``device`` with its number: ``cuda`` becomes ``cuda:0``, or the current one."""
    return torch.empty(0, device=device).device
