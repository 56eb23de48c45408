"""Score how well texts would replace images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from descscore.batch.stream import Scoring, StreamOptions, stream_pairs
from descscore.encoder import EncodedTexts, Encoder
from descscore.errors import InputError, UsageError
from descscore.images import ImageSource, load_image
from descscore.models import LoadedModel, load_model
from descscore.pair_checks import check_column, check_pairs, each, image_identity, rows_error
from descscore.precision import with_precision
from descscore.records import Comparison, Outcome, Pair, Score
from descscore.results import SCALE as SCALE
from descscore.results import comparison, pair_scores, signature
from descscore.side_texts import SideEncoder, SideTexts, tokenize_sides
from descscore.texts import DEFAULT_POLICY, TextPolicy, TokenizedText, check_policy


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
        text_policy: TextPolicy = DEFAULT_POLICY,
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
        text_policy: TextPolicy = DEFAULT_POLICY,
        batch_size: int = 64,
        cache_dir: str | Path | None = None,
        precision: str = "float32",
    ) -> DescScorer:
        """Load a model (bundled, folder, or open_clip name with tag) and make its scorer."""
        return cls(load_model(name, device, cache_dir), text_policy, batch_size, precision)

    def score(
        self,
        image: ImageSource,
        text: str,
        *,
        context: str | None = None,
        references: Sequence[str] = (),
    ) -> Score:
        """How well ``text`` would replace ``image`` (a path, bytes, a PIL image or an array).

        context: the text around the image, for ``contextual_score``; a blank one is none.
        references: good descriptions of the image, for ``reference_score``. Neither
        changes any other number. Both go through the scorer's text policy.
        Raises :class:`descscore.errors.ImageError` or :class:`descscore.errors.TextError`.
        """
        picture, tokenized = load_image(image), self.tokenize(text)
        sides = [tokenize_sides(self.tokenize, context, references)]
        encoded = self.encoder.tokenized([tokenized])
        return self.scores(self.encoder.images([picture]), encoded, sides)[0]

    def score_batch(
        self,
        images: Sequence[ImageSource],
        texts: Sequence[str],
        *,
        contexts: Sequence[str | None] | None = None,
        references: Sequence[Sequence[str] | None] | None = None,
    ) -> list[Score]:
        """Score pairs: image ``i`` with text ``i``, one result a pair, in the order given.

        An image that occurs again (same path or same object) is read once, a text, context
        or reference that occurs again encoded once. contexts, references: as for
        :meth:`score`, one value a pair, None where a pair has none.
        Raises :class:`UsageError` where the lengths differ, and an
        :class:`InputError` that names every row that cannot be scored.
        """
        count = len(check_pairs(images, texts))
        columns = check_column("contexts", contexts, count), check_column("references", references, count)
        if not count:
            return []
        problems: dict[int, InputError] = {}
        beside = list(zip(*columns, strict=True))
        sides = each(beside, lambda pair: tokenize_sides(self.tokenize, *pair), problems)
        return self.scores(*self._encode_pairs(images, texts, problems), sides)

    def encode_pairs(
        self, images: Sequence[ImageSource], texts: Sequence[str]
    ) -> tuple[Tensor, EncodedTexts]:
        """Unit image features ``(n, embed_dim)`` and texts of n pairs; raises as :meth:`score_batch`."""
        return self._encode_pairs(images, texts, {})

    def _encode_pairs(
        self, images: Sequence[ImageSource], texts: Sequence[str], problems: dict[int, InputError]
    ) -> tuple[Tensor, EncodedTexts]:
        """problems: what is known to be wrong already, by row."""
        pairs = check_pairs(images, texts)
        tokenized = each([text for _, text in pairs], self.tokenize, problems)
        features = self._encode_images([image for image, _ in pairs], problems)
        if problems:
            raise rows_error(problems)
        return features, self.encoder.tokenized(tokenized)

    def score_stream(
        self, pairs: Iterable[tuple[ImageSource, str] | Pair], options: StreamOptions | None = None
    ) -> Iterator[Outcome]:
        """Score pairs without end: one outcome a pair, in the order given, in bounded memory.

        pairs: image and text, or a :class:`descscore.Pair` where context or references belong to it.
        A pair that cannot be scored is an outcome with its error; the others go on.
        Images are decoded by worker processes while the model runs, and images of the
        same content are encoded once (see :mod:`descscore.batch.stream`). Results equal
        :meth:`score`.
        """
        return stream_pairs(self.scoring, pairs, options)

    @property
    def scoring(self) -> Scoring:
        """What a stream scores with."""
        return Scoring(self.encoder, self.tokenize, self.scores)

    def compare(
        self, image: ImageSource, description: str, caption: str, *, context: str | None = None
    ) -> Comparison:
        """Whether ``description`` or ``caption`` would replace ``image`` better.

        Decided by the raw cosines; a tie is not a win. context: as for :meth:`score`; it
        decides nothing, and ``contextual_margin`` says what it makes of the two.
        """
        picture = load_image(image)
        sides = [tokenize_sides(self.tokenize, context, ())] * 2
        encoded = self.encoder.tokenized([self.tokenize(description), self.tokenize(caption)])
        first, second = self.scores(self.encoder.images([picture]).expand(2, -1), encoded, sides)
        return comparison(first, second, float(self.model.clip.logit_scale.exp()))

    def tokenize(self, text: str) -> TokenizedText:
        """Tokens of ``text`` under this scorer's policy; raises :class:`descscore.errors.TextError`."""
        return self.model.tokenizer.tokenize(text, self.text_policy)

    def _encode_images(self, images: list[ImageSource], problems: dict[int, InputError]) -> Tensor:
        """Features ``(n, embed_dim)``, a batch decoded at a time; only decodes once anything failed."""
        keys = [image_identity(image) for image in images]
        first = {key: i for i, key in reversed(list(enumerate(keys)))}
        unique = list(dict.fromkeys(keys))
        parts: list[Tensor] = []
        size = self.encoder.batch_size
        for start in range(0, len(unique), size):
            rows = [first[key] for key in unique[start : start + size]]
            loaded = each([images[i] for i in rows], load_image, problems, rows)
            if not problems:
                parts.append(self.encoder.images(loaded))
        if problems:
            return torch.empty(0)
        place = {key: i for i, key in enumerate(unique)}
        return torch.cat(parts)[[place[key] for key in keys]]

    def scores(
        self,
        images: Tensor,
        encoded: EncodedTexts,
        sides: Sequence[SideTexts] | None = None,
        side_encoder: SideEncoder | None = None,
    ) -> list[Score]:
        """Results for unit image features ``(n, embed_dim)`` and as many encoded texts.

        sides: what stands beside each pair, by default nothing. side_encoder: one that
        remembers contexts and references, where more calls follow.
        """
        beside = sides or [SideTexts()] * len(encoded.texts)
        encoder = side_encoder or SideEncoder(self.encoder.embeddings)
        return pair_scores(images, encoded, beside, encoder, self.model.purpose, self.signature)
