"""Score a stream of pairs, and give each its outcome: a status, and a score or the reason why there is none.

The status is ``ok``, ``decorative`` or ``not_finite``, or the kind of the row's error. Pairs are processed in
windows. While the model scores one window, workers decode the images of the next two. Memory does not grow
with the length of the stream.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from descscore.context import ContextEncoder, ContextTexts, tokenize_context_texts
from descscore.errors import ImageError, InputError, TextError
from descscore.images import BYTES_NAME
from descscore.records import DECORATIVE, NOT_FINITE, OK, Outcome, Score
from descscore.stream.image_features import Decoder, ImageEncoder, ImageStage, Key, return_freed_memory
from descscore.stream.pairs import StreamInput, StreamOptions, StreamPair, file_time, stream_pair, taken
from descscore.stream.pool import DecodePool, InlineDecoder
from descscore.stream.worker import PoolOptions
from descscore.tables.cells import MESSAGE_LIMIT, cut
from descscore.texts import EncodedTexts, TokenizedText

Tokenize: TypeAlias = Callable[[str], TokenizedText]

REMEMBERED_CONTEXT_TEXTS = 4096
"""Number of contexts and references whose features are kept for the pairs that follow."""

_BYTES_PER_CHARACTER = 8

_WINDOWS_AHEAD = 2
"""Windows that are decoded while another one is scored. With only one, workers would wait while the next is
read."""


class PairEncoder(ImageEncoder, Protocol):
    """The part of :class:`descscore.encoder.Encoder` that a stream uses."""

    def tokenized(self, texts: Sequence[TokenizedText]) -> EncodedTexts: ...

    def embeddings(self, texts: Sequence[TokenizedText]) -> tuple[Tensor, Tensor]: ...


ScoreFeatures: TypeAlias = Callable[
    [Tensor, EncodedTexts, Sequence[ContextTexts], ContextEncoder], list[Score]
]
"""Unit image features ``(n, embed_dim)``, n texts with their contexts and references -> n scores."""


@dataclass(frozen=True)
class Scoring:
    """The encoder, the tokenizer and the scoring function of one scorer."""

    encoder: PairEncoder
    tokenize: Tokenize
    scores: ScoreFeatures


@dataclass(frozen=True)
class _Pending:
    """A pair in a window: its outcome, or the image's key and the tokens to be scored."""

    id: str
    outcome: Outcome | None = None
    key: Key = ""
    text: TokenizedText | None = None
    context_texts: ContextTexts = field(default_factory=ContextTexts)


def stream_pairs(
    scoring: Scoring,
    pairs: Iterable[StreamInput],
    options: StreamOptions | None = None,
) -> Iterator[Outcome]:
    """See :meth:`descscore.DescScorer.score_stream`."""
    begun = file_time()
    # Files that were read early, as bytes. Their errors must still name the file; '' for other images.
    names: deque[str] = deque()

    def rows() -> Iterator[StreamPair]:
        for number, pair in enumerate(pairs, start=1):
            row = stream_pair(pair, number)
            image = taken(row.image, begun)
            names.append("" if image is row.image else os.fspath(row.image))  # type: ignore[arg-type]
            yield replace(row, image=image)

    with closing(stream_rows(scoring, rows(), options or StreamOptions())) as scored:  # type: ignore[type-var]
        for row_id, outcome in scored:
            name = names.popleft()
            if name and outcome.error:
                outcome = replace(outcome, error=outcome.error.replace(BYTES_NAME, cut(name), 1))
            yield replace(outcome, id=row_id) if row_id else outcome


def stream_rows(
    scoring: Scoring, rows: Iterable[StreamPair], options: StreamOptions
) -> Iterator[tuple[str, Outcome]]:
    """Id and outcome of each row, in order. Closing the iterator ends its workers."""
    with closing(start_decoder(scoring, options)) as decoder:
        contexts = ContextEncoder(scoring.encoder.embeddings, REMEMBERED_CONTEXT_TEXTS)
        stream = _Stream(scoring, options, ImageStage(scoring.encoder, decoder), contexts)
        ahead: deque[list[_Pending]] = deque()
        for window in stream.windows(rows):
            ahead.append(window)
            decoder.flush()
            if len(ahead) > _WINDOWS_AHEAD:
                yield from stream.finish(ahead.popleft())
                return_freed_memory()
        while ahead:
            yield from stream.finish(ahead.popleft())


def start_decoder(scoring: Scoring, options: StreamOptions) -> Decoder:
    """The decoder of a stream: a pool of workers, or this process."""
    spec = scoring.encoder.spec
    if options.processes == 0:
        return InlineDecoder(spec)
    # Room for two batches and for the workers' pictures, so that workers never wait before a batch is full.
    # With a fast GPU, workers should also not wait while this process reads and scores a window.
    pictures = 2 * scoring.encoder.batch_size
    if scoring.encoder.device.type == "cuda":
        pictures = max(pictures, 2 * options.window)
    slots = pictures + 8 * options.processes
    return DecodePool(spec, PoolOptions(options.processes, slots, options.time_limit, options.decode))


@dataclass(frozen=True)
class _Stream:
    """The steps of a stream: pairs are begun in windows, and each window is finished as a whole."""

    scoring: Scoring
    options: StreamOptions
    stage: ImageStage
    contexts: ContextEncoder

    def windows(self, rows: Iterable[StreamPair]) -> Iterator[list[_Pending]]:
        """Pairs in windows with a bounded number of pairs and of bytes.

        No row outlives its turn: it may hold cells of any kind, whose size nobody counts.
        """
        window: list[_Pending] = []
        size = 0
        for row in rows:
            window.append(self._begin(row))
            size += _pair_bytes(row)
            if len(window) >= self.options.window or size >= self.options.window_bytes:
                yield window
                window, size = [], 0
        if window:
            yield window

    def _begin(self, row: StreamPair) -> _Pending:
        """Tokenise the texts and ask for the image. A row with a fault asks for nothing."""
        if self.options.decorative_empty and isinstance(row.text, str) and not row.text and _names_image(row):
            return _Pending(row.id, Outcome(DECORATIVE))
        tokenize = partial(tokenize_text, self.scoring.tokenize)
        try:
            # A fault of the row is reported before faults of the texts, and those before one of the image.
            if row.fault is not None and not isinstance(row.fault, ImageError):
                raise row.fault
            text = tokenize(row.text)
            context_texts = tokenize_context_texts(tokenize, row.context, row.references)
            if row.fault is not None:
                raise row.fault
            if row.image is None:
                raise ImageError("missing_image", "has no image")
            return _Pending(row.id, None, self.stage.request(row.image), text, context_texts)
        except InputError as error:
            error.__traceback__ = None  # through the row's own fault, it would keep the row in memory
            return _Pending(row.id, _failed(error))

    def finish(self, window: list[_Pending]) -> Iterator[tuple[str, Outcome]]:
        """Id and outcome of each pair of a window, in its order."""
        pending = [pair for pair in window if pair.outcome is None]
        outcomes = iter(self._outcomes(pending) if pending else ())
        for pair in window:
            yield pair.id, pair.outcome or next(outcomes)

    def _outcomes(self, pairs: list[_Pending]) -> list[Outcome]:
        # Texts first, because on a GPU they run while workers still decode the last images.
        texts = self.scoring.encoder.tokenized([pair.text for pair in pairs if pair.text is not None])
        images = self.stage.collect([pair.key for pair in pairs])
        blank = np.zeros(texts.features.shape[1], np.float32)  # for an image with an error
        array = np.stack([blank if isinstance(image, ImageError) else image for image in images])
        features = torch.from_numpy(array).to(texts.features.device)
        context_texts = [pair.context_texts for pair in pairs]
        scores = self.scoring.scores(features, texts, context_texts, self.contexts)
        for pair in pairs:
            self.stage.release(pair.key)
        return [
            _failed(image) if isinstance(image, ImageError) else _scored(score)
            for image, score in zip(images, scores, strict=True)
        ]


def _names_image(row: StreamPair) -> bool:
    """Whether the row says which image it is about, also if that one cannot be scored."""
    if row.fault is None or row.image is not None:
        return row.image is not None
    return isinstance(row.fault, ImageError) and row.fault.kind != "missing_image"


def _failed(error: InputError) -> Outcome:
    return Outcome(error.kind, cut(str(error), MESSAGE_LIMIT))


def _scored(score: Score) -> Outcome:
    return Outcome(OK, score=score) if score.is_finite else Outcome("not_finite", NOT_FINITE)


def _pair_bytes(row: StreamPair) -> int:
    """About the bytes that a row's image, texts and id take; each character of a text may become a token."""
    references = row.references if isinstance(row.references, (list, tuple, np.ndarray)) else ()
    texts = sum(len(text) for text in (row.id, row.text, row.context, *references) if isinstance(text, str))
    image = len(row.image) if isinstance(row.image, (bytes, bytearray, memoryview)) else 0
    return image + _BYTES_PER_CHARACTER * texts


def tokenize_text(tokenize: Tokenize, text: object) -> TokenizedText:
    """As ``tokenize``, but None counts as an empty text."""
    if text is None:
        raise TextError("empty_text", "text: there is none")
    return tokenize(text)  # type: ignore[arg-type]
