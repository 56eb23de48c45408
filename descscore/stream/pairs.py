"""What a stream of pairs takes: its options, and a pair in any of the forms that users write."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from descscore.errors import ImageError, InputError, UsageError
from descscore.image_lists import AnyImage, image_source
from descscore.images import ImageSource, read_image_file
from descscore.records import Pair
from descscore.stream.worker import PREPARE, cores
from descscore.tables.cells import cut
from descscore.tables.rows import Row

StreamInput: TypeAlias = "tuple[AnyImage, str] | Pair | Mapping[str, Any]"
"""A pair: image and text, a :class:`descscore.Pair`, or a mapping with the keys image and text, and if it has
them context, references and id."""

_KEYS = ("image", "text", "context", "references", "id")
"""The keys of a mapping that is a pair."""


@dataclass(frozen=True)
class StreamOptions:
    """Settings of a stream.

    For a sound image that is decoded in time, only ``decorative_empty`` changes the result.
    """

    workers: int | None = None
    """Number of decoding processes, by default one per core. With 0 this process decodes, and an image that
    hangs stops the stream."""
    time_limit: float = 60.0
    """Seconds that decoding one image may take."""
    window: int = 1024
    """Number of pairs that are encoded together."""
    window_bytes: int = 64 << 20
    """Memory that a window's images and texts may take; one that reaches it is closed early."""
    decorative_empty: bool = False
    """Whether an empty text counts as HTML's ``alt=""`` (status ``decorative``) instead of an error."""
    decode: str = PREPARE
    """``module:name`` of the function that a worker runs on an image."""

    def __post_init__(self) -> None:
        for name in ("window", "window_bytes", "time_limit"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} {getattr(self, name)}: must be positive")
        if self.workers is not None and self.workers < 0:
            raise UsageError(f"workers {self.workers}: must not be negative")

    @property
    def processes(self) -> int:
        """Number of decoding processes to start."""
        return cores() if self.workers is None else self.workers


@dataclass(frozen=True)
class GivenPair:
    """A pair in one form, whatever form the user gave. Nothing is checked but the type of the image."""

    image: ImageSource | None
    """The image; None only if there is a fault."""
    text: object
    context: object = None
    references: object = None
    id: str = ""
    """What the stream returns with the outcome."""
    fault: InputError | None = None
    """The reason why the pair cannot be scored; None without one."""


StreamPair: TypeAlias = GivenPair | Row
"""One pair of a stream's input. A row of a table has the same fields, and others."""


def file_time() -> int:
    """The time of the clock that stamps files, in nanoseconds. It may lag behind the usual one."""
    clock = getattr(time, "CLOCK_REALTIME_COARSE", None)
    return time.time_ns() if clock is None else time.clock_gettime_ns(clock)


def taken(image: ImageSource | None, begun: int) -> ImageSource | None:
    """The image as it is when its pair is taken: the bytes of a file that has changed since the stream began.

    Its place may be used for the next pair's image, before a worker reads it. A file that changes for
    the first time after its pair was taken is read as it is then.
    """
    if isinstance(image, (str, os.PathLike)):
        with contextlib.suppress(ImageError, OSError, ValueError):
            stat = os.stat(image)
            if max(stat.st_mtime_ns, stat.st_ctime_ns) >= begun:
                return read_image_file(image)
    return image


def stream_pair(pair: StreamInput, number: int) -> GivenPair:
    """The pair, the ``number``th of its stream; :class:`UsageError` for a mapping with unknown or no keys."""
    if isinstance(pair, Pair):
        image: Any = pair.image
        row = GivenPair(None, pair.text, pair.context, _listed(pair.references))
    elif isinstance(pair, Mapping):
        _check_keys(pair, number)
        image, row_id = pair.get("image"), pair.get("id")
        context, references = pair.get("context"), _listed(pair.get("references"))
        row = GivenPair(None, pair.get("text"), context, references, "" if row_id is None else str(row_id))
        missing = [name for name in ("image", "text") if name not in pair]
        if missing:
            keys = ", ".join(map(str, pair))
            fault = InputError(f"missing_{missing[0]}", f"no key {' or '.join(missing)}; its keys: {keys}")
            return replace(row, fault=fault)
    else:
        image, text = _two(pair, number)
        row = GivenPair(None, text)
    try:
        return replace(row, image=image_source(image))
    except ImageError as error:
        return replace(row, fault=error)


def _listed(references: object) -> object:
    """References as a list where they are an array, as pandas reads lists from Parquet files."""
    return references.tolist() if isinstance(references, np.ndarray) else references


def _two(pair: Any, number: int) -> tuple[Any, Any]:
    """Image and text of a tuple, a list or a row of an array."""
    parts: Any = () if isinstance(pair, (str, bytes)) else pair
    try:
        image, text = parts
    except (TypeError, ValueError):
        given = type(pair).__name__ + (f" of length {len(pair)}" if isinstance(pair, (tuple, list)) else "")
        wanted = "(image, text), a descscore.Pair or a dict"
        raise UsageError(f"pair {number}: expected {wanted}, got {given}") from None
    return image, text


def _check_keys(pair: Mapping[str, Any], number: int) -> None:
    """Refuse misspelt keys: without this, every pair of a stream would lack its image."""
    unknown = [key for key in pair if key not in _KEYS]
    if unknown or not pair:
        what = f"unknown keys {cut(', '.join(map(str, unknown)))}" if unknown else "no keys"
        raise UsageError(f"pair {number}: a dict with {what}; its keys can be {', '.join(_KEYS)}")
