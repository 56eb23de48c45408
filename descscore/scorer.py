"""Score how well texts would replace images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from descscore.encoder import EncodedTexts, Encoder
from descscore.errors import InputError, UsageError
from descscore.images import ImageSource, load_image
from descscore.models import LoadedModel, load_model
from descscore.precision import with_precision
from descscore.records import Comparison, Outcome, Score
from descscore.texts import TextPolicy, TokenizedText, check_policy
from descscore.version import __version__

if TYPE_CHECKING:
    from descscore.batch.stream import StreamOptions

SCALE = 2.5
"""CLIPScore's factor (Hessel et al. 2021): ``score = 2.5 * max(cosine, 0)``."""


class DescScorer:
    """Scores texts as replacements of images with one loaded model.

    model: from :func:`descscore.models.load_model`. text_policy: what happens to
    texts over the context length (:data:`descscore.texts.TextPolicy`).
    batch_size: images or texts per pass; results do not depend on it. precision:
    ``float32``, or ``bf16`` or ``fp16``, which are faster and a little less exact.
    """

    def __init__(
        self,
        model: LoadedModel,
        text_policy: TextPolicy = "truncate",
        batch_size: int = 64,
        precision: str = "float32",
    ) -> None:
        if batch_size < 1:
            raise UsageError(f"batch size {batch_size}: must be at least 1")
        model = with_precision(model, precision)
        self.model = model
        self.text_policy = check_policy(text_policy)
        self.encoder = Encoder(model, batch_size)
        self.signature = signature(model, self.text_policy)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = "default",
        *,
        device: str | None = None,
        text_policy: TextPolicy = "truncate",
        batch_size: int = 64,
        cache_dir: str | Path | None = None,
        precision: str = "float32",
    ) -> DescScorer:
        """Load a model (bundled, folder, or open_clip name with tag) and make its scorer."""
        return cls(load_model(name, device, cache_dir), text_policy, batch_size, precision)

    def score(self, image: ImageSource, text: str) -> Score:
        """How well ``text`` would replace ``image`` (a path, bytes, a PIL image or an array).

        Raises :class:`descscore.errors.ImageError` or :class:`descscore.errors.TextError`.
        """
        picture, tokenized = load_image(image), self.tokenize(text)
        encoded = self.encoder.tokenized([tokenized])
        return self.scores(self.encoder.images([picture]), encoded)[0]

    def score_batch(self, images: Sequence[ImageSource], texts: Sequence[str]) -> list[Score]:
        """Score pairs: image ``i`` with text ``i``, one result a pair, in the order given.

        An image that occurs again (same path or same object) is read once.
        Raises :class:`UsageError` where the lengths differ, and an
        :class:`InputError` that names every row that cannot be scored.
        """
        if not _checked_pairs(images, texts):
            return []
        return self.scores(*self.encode_pairs(images, texts))

    def encode_pairs(
        self, images: Sequence[ImageSource], texts: Sequence[str]
    ) -> tuple[Tensor, EncodedTexts]:
        """Unit image features ``(n, embed_dim)`` and texts of n pairs; raises as :meth:`score_batch`."""
        pairs = _checked_pairs(images, texts)
        problems: dict[int, InputError] = {}
        tokenized = _each([text for _, text in pairs], self.tokenize, problems)
        features = self._encode_images([image for image, _ in pairs], problems)
        if problems:
            raise _rows_error(problems)
        return features, self.encoder.tokenized(tokenized)

    def score_stream(
        self, pairs: Iterable[tuple[ImageSource, str]], options: StreamOptions | None = None
    ) -> Iterator[Outcome]:
        """Score pairs without end: one outcome a pair, in the order given, in bounded memory.

        A pair that cannot be scored is an outcome with its error; the others go on.
        Images are decoded by worker processes while the model runs, and images of the
        same content are encoded once (see :mod:`descscore.batch.stream`). Results equal
        :meth:`score`.
        """
        from descscore.batch.stream import stream_pairs

        return stream_pairs(self, pairs, options)

    def compare(self, image: ImageSource, description: str, caption: str) -> Comparison:
        """Whether ``description`` or ``caption`` would replace ``image`` better.

        Decided by the raw cosines; a tie is not a win.
        """
        picture = load_image(image)
        encoded = self.encoder.tokenized([self.tokenize(description), self.tokenize(caption)])
        first, second = self.scores(self.encoder.images([picture]).expand(2, -1), encoded)
        margin = first.cosine - second.cosine
        scale = float(self.model.clip.logit_scale.exp())
        return Comparison(
            description=first,
            caption=second,
            margin=margin,
            preferred="tie" if margin == 0 else "description" if margin > 0 else "caption",
            probability=float(torch.sigmoid(torch.tensor(scale * margin, dtype=torch.float64))),
            signature=self.signature,
        )

    def tokenize(self, text: str) -> TokenizedText:
        """Tokens of ``text`` under this scorer's policy; raises :class:`descscore.errors.TextError`."""
        return self.model.tokenizer.tokenize(text, self.text_policy)

    def _encode_images(self, images: list[ImageSource], problems: dict[int, InputError]) -> Tensor:
        """Features ``(n, embed_dim)``, a batch decoded at a time; only decodes once anything failed."""
        keys = [_key(image) for image in images]
        first = {key: i for i, key in reversed(list(enumerate(keys)))}
        unique = list(dict.fromkeys(keys))
        parts: list[Tensor] = []
        size = self.encoder.batch_size
        for start in range(0, len(unique), size):
            rows = [first[key] for key in unique[start : start + size]]
            loaded = _each([images[i] for i in rows], load_image, problems, rows)
            if not problems:
                parts.append(self.encoder.images(loaded))
        if problems:
            return torch.empty(0)
        place = {key: i for i, key in enumerate(unique)}
        return torch.cat(parts)[[place[key] for key in keys]]

    def scores(self, images: Tensor, encoded: EncodedTexts) -> list[Score]:
        """Results for unit image features ``(n, embed_dim)`` and as many encoded texts."""
        cosines, base = _cosines(images, encoded.features), _cosines(images, encoded.base_features)
        found = self.model.purpose
        percentiles = found.percentile(torch.tensor(cosines)) if found else None
        probabilities = encoded.probabilities
        return [
            Score(
                score=SCALE * max(cosines[i], 0.0),
                cosine=cosines[i],
                clip_score=SCALE * max(base[i], 0.0),
                description_probability=None if probabilities is None else float(probabilities[i]),
                percentile=None if percentiles is None else float(percentiles[i]),
                tokens=text.tokens,
                truncated=text.truncated,
                windows=len(text.rows),
                signature=self.signature,
            )
            for i, text in enumerate(encoded.texts)
        ]


def signature(model: LoadedModel, text_policy: TextPolicy) -> str:
    """All that a score depends on, in one line, so that it can be reproduced."""
    return "|".join(
        (
            f"descscore:{__version__}",
            f"model:{model.name}",
            f"weights:{model.weights_hash}",
            f"image:{model.preprocessing}",
            f"precision:{model.precision}",
            f"text:{text_policy}{model.tokenizer.context_length}",
        )
    )


def _cosines(images: Tensor, texts: Tensor) -> list[float]:
    """Cosines of unit features row by row, within -1..1."""
    return (images.double() * texts.double()).sum(-1).clamp(-1, 1).tolist()


def _as_list(name: str, values: Sequence[Any]) -> list[Any]:
    """A list of the rows; one path or text where a list belongs would be taken letter by letter."""
    if isinstance(values, (str, bytes, os.PathLike, Image.Image)):
        raise UsageError(f"{name}: expected a list, got one {type(values).__name__}")
    return list(values)


def _checked_pairs(images: Sequence[ImageSource], texts: Sequence[str]) -> list[tuple[ImageSource, str]]:
    """Pairs of image and text, row by row; :class:`UsageError` where there is not one of each."""
    images, texts = _as_list("images", images), _as_list("texts", texts)
    if len(images) != len(texts):
        raise UsageError(f"{len(images)} images but {len(texts)} texts: a pair needs one of each")
    return list(zip(images, texts, strict=True))


def _key(image: ImageSource) -> object:
    """What makes two image arguments the same image: the path, or the object itself."""
    if isinstance(image, (str, os.PathLike)):
        return os.fspath(image)
    return id(image)


def _each(
    values: Sequence[Any],
    function: Callable[[Any], Any],
    problems: dict[int, InputError],
    rows: Sequence[int] | None = None,
) -> list[Any]:
    """``function`` of each value; what cannot be used goes into ``problems`` by its row."""
    out = []
    for row, value in zip(rows or range(len(values)), values, strict=True):
        try:
            out.append(function(value))
        except InputError as error:
            problems.setdefault(row, error)
    return out


def _rows_error(problems: dict[int, InputError]) -> InputError:
    """One error for all rows that cannot be scored, of the first row's class and kind."""
    shown = sorted(problems.items())[:10]
    lines = "; ".join(f"row {row}: {error}" for row, error in shown)
    more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
    first = shown[0][1]
    return type(first)(first.kind, lines + more)
