"""Scorers by name, loaded once for the whole process, and a one-line way to use them."""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from descscore.images import ImageSource
from descscore.models import BUNDLED
from descscore.records import Score
from descscore.scorer import DescScorer
from descscore.shared_cache import SharedCache
from descscore.texts import DEFAULT_POLICY, TextPolicy

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
