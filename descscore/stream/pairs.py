"""Score pairs in a stream: workers decode ahead, the model follows, results come in order.

Rows are taken in windows. While the model is busy with one window, the images of the
next two are being decoded. Within a window texts run sorted by length, so that little of
a batch is padding. Nothing grows with the length of the stream.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from descscore.context import ContextEncoder, ContextTexts, tokenize_sides
from descscore.errors import ImageError, InputError, TextError, UsageError
from descscore.images import ImageSource
from descscore.records import DECORATIVE, OK, Outcome, Pair, Score
from descscore.stream.decoder import Decoder, InlineDecoder
from descscore.stream.image_features import ImageEncoder, ImageStage, Key, give_back
from descscore.stream.pool import DecodePool, PoolOptions
from descscore.texts import EncodedTexts, TokenizedText

# Tokenise the texts of a stream, none of which may hold the whole stream up.


Tokenize: TypeAlias = Callable[[str], TokenizedText]

MAX_TEXT = 100_000
"""Longest text that is tokenised, in characters; the tokenizer's time grows faster than a text does."""

MAX_WORD = 1000
"""Longest run of letters that is tokenised: byte-pair merging takes time quadratic in it."""

_LONG_WORD = re.compile(rf"[^\W\d_]{{{MAX_WORD + 1}}}")


def tokenize_text(tokenize: Tokenize, text: object) -> TokenizedText:
    """As ``tokenize``; also raises :class:`TextError` for no text and for one far too long."""
    if text is None:
        raise TextError("empty_text", "text: there is none")
    if isinstance(text, str):
        if len(text) > MAX_TEXT:
            raise TextError(
                "text_too_long", f"text {text[:40]!r}...: {len(text)} characters, over {MAX_TEXT}"
            )
        if len(text) > MAX_WORD and _LONG_WORD.search(text):
            raise TextError("text_too_long", f"text {text[:40]!r}...: a word of over {MAX_WORD} letters")
    return tokenize(text)  # type: ignore[arg-type]


def tokenize_beside(tokenize: Tokenize, context: object, references: object) -> ContextTexts:
    """Context and references of one pair, under the same limits."""
    return tokenize_sides(lambda text: tokenize_text(tokenize, text), context, references)


REMEMBERED_SIDES = 4096
"""Contexts and references whose features are kept for the pairs that follow."""

_AHEAD = 2
"""Windows asked for while one is scored: with one, workers would run out of work while the next is read."""


@dataclass(frozen=True)
class StreamOptions:
    """How a stream runs; no result depends on any of this but ``decorative_empty``.

    workers: decoding processes, by default one for each core; 0 decodes in this process,
    where nothing can be done about an image that hangs. time_limit: seconds for one
    image. window: pairs sorted and encoded together. window_bytes: image bytes that a
    window may hold, which closes it early. decorative_empty: whether the empty text
    is HTML's ``alt=""`` (status ``decorative``) and no error.
    decode: ``module:name`` of what a worker does with an image.
    """

    workers: int | None = None
    time_limit: float = 60.0
    window: int = 1024
    window_bytes: int = 64 << 20
    decorative_empty: bool = False
    decode: str = "descscore.stream.worker:prepare"

    def __post_init__(self) -> None:
        for name in ("window", "window_bytes", "time_limit"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} {getattr(self, name)}: must be positive")
        if self.workers is not None and self.workers < 0:
            raise UsageError(f"workers {self.workers}: must not be negative")

    @property
    def processes(self) -> int:
        """Decoding processes to start."""
        return cores() if self.workers is None else self.workers


@dataclass(frozen=True)
class Item:
    """One pair on its way in. image: None with a fault, which says why it cannot be scored.
    context, references: as for :meth:`descscore.DescScorer.score`.
    """

    image: ImageSource | None
    text: object
    fault: InputError | None = None
    context: object = None
    references: object = None


class PairEncoder(ImageEncoder, Protocol):
    """What a stream needs of :class:`descscore.encoder.Encoder`."""

    def tokenized(self, texts: Sequence[TokenizedText]) -> EncodedTexts: ...

    def embeddings(self, texts: Sequence[TokenizedText]) -> tuple[Tensor, Tensor]: ...


ScoreFeatures: TypeAlias = Callable[
    [Tensor, EncodedTexts, Sequence[ContextTexts], ContextEncoder], list[Score]
]
"""Unit image features ``(n, embed_dim)``, texts, and what stands beside them -> n scores."""


@dataclass(frozen=True)
class Scoring:
    """What a stream scores with: encoder, tokenizer and scoring function of one scorer."""

    encoder: PairEncoder
    tokenize: Tokenize
    scores: ScoreFeatures


_NOTHING = ContextTexts()


@dataclass
class _Row:
    """One pair in a window: what it waits for, or what became of it."""

    outcome: Outcome | None = None
    key: Key | None = None
    text: TokenizedText | None = None
    sides: ContextTexts = _NOTHING


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def stream_pairs(
    scoring: Scoring,
    pairs: Iterable[tuple[ImageSource, str] | Pair],
    options: StreamOptions | None = None,
) -> Iterator[Outcome]:
    """See :meth:`descscore.DescScorer.score_stream`."""
    return stream_items(scoring, map(_item, pairs), options or StreamOptions())


def _item(pair: tuple[ImageSource, str] | Pair) -> Item:
    if isinstance(pair, Pair):
        return Item(pair.image, pair.text, context=pair.context, references=pair.references)
    image, text = pair
    return Item(image, text)


def stream_items(scoring: Scoring, items: Iterable[Item], options: StreamOptions) -> Iterator[Outcome]:
    """One outcome an item, in order. Closing the iterator ends its workers."""
    with closing(start_decoder(scoring, options)) as decoder:
        stage, sides = (
            ImageStage(scoring.encoder, decoder),
            ContextEncoder(scoring.encoder.embeddings, REMEMBERED_SIDES),
        )
        ahead: deque[list[_Row]] = deque()
        for window in _windows(items, options):
            ahead.append([_begin(scoring, stage, item, options) for item in window])
            decoder.flush()
            if len(ahead) > _AHEAD:
                yield from _finish(scoring, stage, sides, ahead.popleft())
                give_back()
        while ahead:
            yield from _finish(scoring, stage, sides, ahead.popleft())


def start_decoder(scoring: Scoring, options: StreamOptions) -> Decoder:
    """What decodes the images of a stream."""
    spec = scoring.encoder.spec
    if options.processes == 0:
        return InlineDecoder(spec)
    # Two batches, and what workers hold: decoding can always go on until a batch is full. A GPU is so
    # quick that decoding should also go on while this process reads and scores a window.
    pictures = 2 * scoring.encoder.batch_size
    if scoring.encoder.device.type == "cuda":
        pictures = max(pictures, 2 * options.window)
    slots = pictures + 8 * options.processes
    return DecodePool(spec, PoolOptions(options.processes, slots, options.time_limit, options.decode))


def _windows(items: Iterable[Item], options: StreamOptions) -> Iterator[list[Item]]:
    """Items in windows, bounded by their number and by the image bytes that they hold."""
    window: list[Item] = []
    held = 0
    for item in items:
        window.append(item)
        held += len(item.image) if isinstance(item.image, (bytes, bytearray, memoryview)) else 0
        if len(window) >= options.window or held >= options.window_bytes:
            yield window
            window, held = [], 0
    if window:
        yield window


def _begin(scoring: Scoring, stage: ImageStage, item: Item, options: StreamOptions) -> _Row:
    """Tokenise the text and ask for the image; a pair that has a fault asks for nothing."""
    if options.decorative_empty and item.text == "":
        return _Row(Outcome(DECORATIVE))
    try:
        if item.fault is not None and not isinstance(item.fault, ImageError):
            raise item.fault
        text = tokenize_text(scoring.tokenize, item.text)
        sides = tokenize_beside(scoring.tokenize, item.context, item.references)
        if item.fault is not None:
            raise item.fault
        if item.image is None:
            raise ImageError("missing_image", "has no image")
        return _Row(key=stage.request(item.image), text=text, sides=sides)
    except InputError as error:
        return _Row(Outcome(error.kind, str(error)))


def _finish(scoring: Scoring, stage: ImageStage, sides: ContextEncoder, rows: list[_Row]) -> list[Outcome]:
    """The outcomes of a window, in its order."""
    open_rows = [row for row in rows if row.outcome is None]
    if open_rows:
        _score(scoring, stage, sides, open_rows)
    return [row.outcome for row in rows if row.outcome is not None]


def _score(scoring: Scoring, stage: ImageStage, sides: ContextEncoder, rows: list[_Row]) -> None:
    """Give every row its outcome."""
    # Texts first: on a GPU they run while the last images are still being decoded.
    encoded = scoring.encoder.tokenized([row.text for row in rows if row.text is not None])
    keys = [row.key for row in rows if row.key is not None]
    found = stage.collect(keys)
    features = [feature for feature in found if not isinstance(feature, ImageError)]
    blank = np.zeros_like(features[0]) if features else np.zeros(encoded.features.shape[1], np.float32)
    table = np.stack([blank if isinstance(feature, ImageError) else feature for feature in found])
    images = torch.from_numpy(table).to(encoded.features.device)
    scores = scoring.scores(images, encoded, [row.sides for row in rows], sides)
    for row, key, feature, score in zip(rows, keys, found, scores, strict=True):
        row.outcome = _outcome(feature, score)
        stage.release(key)


def _outcome(feature: object, score: Score) -> Outcome:
    if isinstance(feature, ImageError):
        return Outcome(feature.kind, str(feature))
    return Outcome(OK, score=score)
