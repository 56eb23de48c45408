"""Training data: pairs as examples, and what each step of an epoch shows of them.

Images are encoded once, and texts become rows of tokens. What a step trains on is drawn from the seed, the
epoch and nothing else. Every epoch has an order of its own and alters texts in its own way. No state is
carried from step to step, so a run that goes on from a checkpoint sees what an undisturbed one would have
seen.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from descscore.cache import FeatureCache, image_key
from descscore.encoder import Encoder
from descscore.errors import DataError, UsageError
from descscore.models import LoadedModel
from descscore.tables.rows import PreferencePair
from descscore.texts import pad
from descscore.tokenizer import Tokenizer, token_rows
from descscore.towers.text import join_tokens
from descscore.training.config import FinetuneConfig
from descscore.training.neither import NAMED, empty_text, jumbled_text, random_case

NEIGHBOURS = 8
"""Number of similar words from which a word's replacement is drawn."""
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Examples:
    """``n`` image pairs with ``t`` kinds of text, of which row ``kind * n + i`` belongs to image row ``i``.

    Kind 0 is the description, kind 1 the caption. Where training meets the third kind, 2 is an empty text and
    3 a jumbled description.
    """

    images: Tensor
    """Unit features ``(n, embed_dim)``."""
    owner: Tensor
    """``(n,)`` ints, equal where two rows show the same image."""
    tokens: Tensor
    """``(t * n, longest)``, padded with 0, or as the text tower needs it."""
    tokenizer: Tokenizer | None = None
    """The tokenizer of the tokens. Only what alters words needs it."""
    groups: tuple[str, ...] = ()
    """The group of each pair, such as its book: no fold may split one. Only folds need them."""
    texts: tuple[str, ...] = ()
    """The descriptions, then the captions, uncut: ``2n``. Only the read-out needs them."""
    twins: Tensor | None = None
    """As ``tokens``, each text with a final full stop more or less; None where no loss asks for them."""

    def __len__(self) -> int:
        return len(self.images)

    @property
    def kinds(self) -> int:
        """Number of kinds of text: 2, or 4 with the third kind."""
        return len(self.tokens) // len(self)

    def to(self, device: torch.device) -> Examples:
        """The same on another device."""
        images, owner, tokens = self.images.to(device), self.owner.to(device), self.tokens.to(device)
        return replace(self, images=images, owner=owner, tokens=tokens)

    def select(self, rows: Tensor) -> Examples:
        """Some of the pairs: row numbers ``(m,)``, in that order, or a mask ``(n,)``."""
        rows = torch.arange(len(self))[rows]
        places = torch.cat([rows + kind * len(self) for kind in range(self.kinds)])
        groups = tuple(self.groups[i] for i in rows.tolist()) if self.groups else ()
        texts = tuple(self.texts[i] for i in places[: 2 * len(rows)].tolist()) if self.texts else ()
        return Examples(
            self.images[rows], self.owner[rows], self.tokens[places], self.tokenizer, groups, texts
        )

    def sample(self, most: int) -> Examples:
        """At most ``most`` pairs, always the same ones, in their own order."""
        if len(self) <= most:
            return self
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))
        return self.select(order[:most].sort().values)

    def fingerprint(self) -> str:
        """First 12 hex digits of the SHA-256 of all that training sees."""
        digest = hashlib.sha256()
        for tensor in (self.images, self.owner, self.tokens):
            digest.update(str(tuple(tensor.shape)).encode())
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:12]


def make_examples(model: LoadedModel, pairs: Sequence[PreferencePair], cache: Path) -> Examples:
    """Encode images through the cache and tokenise texts (cut to the context, end token kept).

    A pair without a group of its own is grouped by its image.

    Raises:
        DataError: There are no pairs.
        ImageError: An image cannot be decoded. All others are in the cache then.
    """
    if not pairs:
        raise DataError("no pairs to train or validate on")
    store = FeatureCache(cache, image_key(model))
    images = store.get_many([pair.image for pair in pairs], Encoder(model, store.batch_size).images)
    owner = torch.unique(images, dim=0, return_inverse=True)[1]
    texts = [pair.description for pair in pairs] + [pair.caption for pair in pairs]
    groups = tuple(pair.group or f"image {i}" for pair, i in zip(pairs, owner.tolist(), strict=True))
    return Examples(images, owner, token_rows(model.tokenizer, texts), model.tokenizer, groups, tuple(texts))


@dataclass(frozen=True)
class Batch:
    """Row numbers into :class:`Examples`: what one step trains on."""

    pairs: Tensor
    """``(p,)`` image rows, for the losses on whole pairs."""
    base: Tensor
    """``(m,)`` text rows whose purpose is interchanged."""
    source: Tensor
    """``(m,)`` text rows of the opposite kind, which give their purpose."""

    def part(self, index: int, count: int) -> Batch:
        """The ``index``-th of ``count`` equal parts, for accumulation or for one of several processes."""
        return Batch(*(rows.chunk(count)[index] for rows in (self.pairs, self.base, self.source)))

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        return Batch(self.pairs.to(device), self.base.to(device), self.source.to(device))


class EpochPlan:
    """The batches of one epoch, and the examples with their texts as this epoch shows them.

    Published runs draw both texts of every interchange with replacement from the whole split. One pass
    through the split (``examples_per_epoch`` None) instead takes the sources from the batch's own texts:
    a step then runs only texts that it trains on, which halves its cost, and the other losses use the same
    texts. words: where to draw other words from, None to swap none.
    """

    def __init__(
        self, examples: Examples, config: FinetuneConfig, epoch: int, words: WordSwap | None = None
    ) -> None:
        rng = torch.Generator().manual_seed(config.seed * 100_003 + epoch)
        n, owner, drawn = len(examples), examples.owner.cpu(), config.examples_per_epoch
        swaps = config.loss != "preference"
        self._with_pairs = config.needs_pairs
        self._sizes = (config.pairs_per_batch, config.batch_size)
        self.steps = config.steps_per_epoch(n)
        self._order = _repeat(torch.randperm(n, generator=rng), self.steps * config.pairs_per_batch)
        self._base = self._source = torch.empty(0, dtype=torch.int64)
        if swaps and drawn:
            base = torch.randint(2 * n, (drawn,), generator=rng)
            self._base = _repeat(base, self.steps * config.batch_size)
            self._source = draw_sources(self._base, owner, config.source_image, rng)
        elif swaps:
            pairs = torch.split(self._order, config.pairs_per_batch)
            self._base = torch.cat([_both_texts(rows, n) for rows in pairs])
            sources = [_batch_sources(rows, owner, config.source_image, rng) for rows in pairs]
            self._source = torch.cat(sources)
        shown = _altered(examples, config, words, rng)
        shown = with_neither(shown, rng) if config.neither_weight else shown
        self.examples = with_endings(shown, rng) if config.ending_weight else shown

    def batch(self, step: int) -> Batch:
        """The batch of ``step``, 0-based within the epoch; the last is filled up from the epoch's start."""
        pairs, texts = self._sizes
        here = slice(step * texts, (step + 1) * texts)
        images = self._order[step * pairs : (step + 1) * pairs] if self._with_pairs else self._order[:0]
        return Batch(images, self._base[here], self._source[here])


def draw_sources(base: Tensor, owner: Tensor, which: str, rng: torch.Generator) -> Tensor:
    """A source text of the opposite kind for each base text: ``(m,)`` text rows -> ``(m,)``.

    which: ``same`` takes the base's own image (as published), ``other`` draws among
    all texts of other images. Raises :class:`DataError` where there is no other image.
    """
    n = len(owner)
    if which == "same":
        return (base + n) % (2 * n)
    if len(torch.unique(owner)) < 2:
        raise DataError("sources from other images need at least two different images")
    mine = owner[base % n]
    image = torch.randint(n, (len(base),), generator=rng)
    while (clash := owner[image] == mine).any():
        image[clash] = torch.randint(n, (int(clash.sum()),), generator=rng)
    return torch.where(base < n, image + n, image)


def _batch_sources(rows: Tensor, owner: Tensor, which: str, rng: torch.Generator) -> Tensor:
    """Sources for both texts of the images ``rows`` ``(p,)``, among the texts of the same batch -> ``(2p,)``.

    Where the batch shows one image only, they come from the whole split.
    """
    n, p, here = len(owner), len(rows), owner[rows]
    if which == "same" or len(torch.unique(here)) < 2:
        return draw_sources(_both_texts(rows, n), owner, which, rng)
    place = draw_sources(_both_texts(torch.arange(p), p), here, which, rng)
    return torch.where(place < p, rows[place % p], rows[place % p] + n)


def _both_texts(rows: Tensor, n: int) -> Tensor:
    """Description and caption of each image, side by side, so that a part of a batch holds whole pairs."""
    return torch.stack([rows, rows + n], dim=1).flatten()


def _repeat(rows: Tensor, length: int) -> Tensor:
    return rows.repeat(-(-length // len(rows)))[:length]


def _altered(
    examples: Examples, config: FinetuneConfig, words: WordSwap | None, rng: torch.Generator
) -> Examples:
    """The examples with words swapped, then cut to windows, then thinned, as far as the settings ask."""
    if words is None and not config.text_window and not config.token_dropout:
        return examples
    tokens = _bare(examples.tokens, examples.tokenizer)
    if words is not None:
        tokens = words.draw(tokens, config.word_swap, rng)
    if config.text_window:
        tokens = draw_windows(tokens, config.text_window, rng)
    if config.token_dropout:
        tokens = drop_tokens(tokens, config.token_dropout, rng)
    return replace(examples, tokens=_framed(tokens, examples.tokenizer))


def _bare(tokens: Tensor, tokenizer: Tokenizer | None) -> Tensor:
    """Rows as alterations take them: a mark, the words, a mark, and zeros behind.

    open_clip's own rows are so already. Other tokenizers put nothing before the words, or pad otherwise.
    """
    if tokenizer is None or tokenizer.padding is None:
        return tokens
    mark = next((i for i in (*tokenizer.end, *tokenizer.start) if i), 1)
    return pad([(mark, *tokenizer.unwrap(row), mark) for row in tokens.tolist()]).to(tokens.device)


def _framed(tokens: Tensor, tokenizer: Tokenizer | None) -> Tensor:
    """Rows as the text tower takes them, from those of :func:`_bare`."""
    if tokenizer is None or tokenizer.padding is None:
        return tokens
    rows = zip(tokens.tolist(), _ends(tokens).tolist(), strict=True)
    return pad([tokenizer.wrap(row[1:end]) for row, end in rows]).to(tokens.device)


def with_neither(examples: Examples, rng: torch.Generator) -> Examples:
    """The examples with two more texts for each image: an empty one, and its description jumbled.

    A jumbled description has the words of the tokens as they are, so that only order and grammar tell the
    two apart. If the tokenizer tells upper from lower case, the case of all texts varies.

    Raises :class:`UsageError` for examples without a tokenizer.
    """
    tokenizer, n = _tokenizer(examples), len(examples)
    chance = random.Random(int(torch.randint(2**62, (1,), generator=rng)))
    tokens = examples.tokens
    if tokenizer.encode("A") != tokenizer.encode("a"):
        written = [random_case(_written(tokenizer, row), chance) for row in tokens.tolist()]
        tokens = _rows(tokenizer, written).to(tokens.device)
    empty = [random_case(empty_text(chance), chance) for _ in range(n)]
    jumbled = [
        random_case(jumbled_text(_written(tokenizer, row), chance), chance) for row in tokens[:n].tolist()
    ]
    third = _rows(tokenizer, [*empty, *jumbled]).to(tokens.device)
    return replace(examples, tokens=join_tokens([tokens, third]))


def _tokenizer(examples: Examples) -> Tokenizer:
    if examples.tokenizer is None:
        raise UsageError("these settings alter texts: the examples need their tokenizer")
    return examples.tokenizer


def _rows(tokenizer: Tokenizer, texts: Sequence[str]) -> Tensor:
    """Token rows. If the tokenizer drops all of a text, an empty phrase takes its place."""
    blank = tokenizer.encode(NAMED[0])
    return pad([tokenizer.wrap(tokenizer.encode(text) or blank) for text in texts])


def _written(tokenizer: Tokenizer, row: Sequence[int]) -> str:
    """The text of a token row, with punctuation behind its word as in ordinary writing."""
    return re.sub(r"\s+(?=[.,;:!?)\]%])", "", tokenizer.decode(tokenizer.unwrap(row))).strip()


def with_endings(examples: Examples, rng: torch.Generator) -> Examples:
    """The examples with a final full stop more or less in half of the texts (drawn), and with their twins.

    A tokenizer that drops full stops, as SigLIP's does, leaves the examples as they are.

    Raises :class:`UsageError` for examples without a tokenizer, or for one without a token for the stop.
    """
    tokenizer = _tokenizer(examples)
    word, stopped = tokenizer.encode("a"), tokenizer.encode("a.")
    if stopped == word:
        return examples
    if stopped[:-1] != word:
        raise UsageError("ending_weight: the tokenizer has no single token for a full stop")
    tokens = _bare(examples.tokens, tokenizer)
    tokens = F.pad(tokens, (0, 1)) if tokens.shape[1] < tokenizer.room + 2 else tokens
    other = other_endings(tokens, stopped[-1])
    swap = (torch.rand(len(tokens), 1, generator=rng) < 0.5).to(tokens.device)
    shown, twins = torch.where(swap, other, tokens), torch.where(swap, tokens, other)
    return replace(examples, tokens=_framed(shown, tokenizer), twins=_framed(twins, tokenizer))


def other_endings(tokens: Tensor, stop: int) -> Tensor:
    """Rows that end with the token ``stop`` without it, and all others with it: ``(m, length)`` -> same.

    In a row that fills its length, the stop replaces the last token. A text of the stop alone stays.
    """
    rows = torch.arange(len(tokens), device=tokens.device)
    end = _ends(tokens)
    mark, out = tokens[rows, end], tokens.clone()
    stops = tokens[rows, end - 1] == stop
    end_after = torch.where(stops & (end > 2), end - 1, torch.where(stops, end, end + 1))
    end_after = end_after.clamp(max=tokens.shape[1] - 1)
    out[rows, end] = 0
    out[rows, end_after] = mark
    added = rows[~stops]
    out[added, end_after[added] - 1] = stop
    return out


def draw_windows(tokens: Tensor, window: int, rng: torch.Generator) -> Tensor:
    """Cut token rows to stretches of ``window`` tokens: ``(m, length)`` -> ``(m, at most window)``.

    Start and end token stay. Between them stands a stretch of the text: its beginning for half of the
    texts (drawn), a stretch from anywhere for the others. Shorter texts stay whole. Stretches cost less
    and show a text's purpose without its beginning.
    """
    rows = len(tokens)
    spare = (_ends(tokens) + 1 - window).clamp(min=0).cpu()
    first = (torch.rand(rows, generator=rng) * (spare + 1)).long()
    first = torch.where(torch.rand(rows, generator=rng) < 0.5, 0, first)
    return cut_at(tokens, window, first.to(tokens.device))


def cut_at(tokens: Tensor, window: int, first: Tensor) -> Tensor:
    """Cut rows longer than ``window`` to the stretch from ``first`` ``(m,)``; 0 keeps the beginning."""
    rows, length = tokens.shape
    if length <= window:
        return tokens
    end = _ends(tokens)
    place = torch.arange(window, device=tokens.device).expand(rows, window) + first[:, None]
    out, cut = tokens.gather(1, place), end >= window
    out[cut, 0] = tokens[cut, 0]
    out[cut, -1] = tokens[cut, end[cut]]
    return out


def drop_tokens(tokens: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Leave each token out with probability ``share``, except start and end token.

    ``(m, length)`` -> ``(m, length)``: the remaining tokens move together, padded with 0. Left-out words
    keep single words from carrying the purpose alone.
    """
    rows, length = tokens.shape
    place = torch.arange(length, device=tokens.device).expand(rows, length)
    end = _ends(tokens)[:, None]
    drawn = torch.rand(rows, length, generator=rng).to(tokens.device) < share
    gone = (drawn & (place > 0) & (place < end)) | (place > end)
    order = gone.int().argsort(dim=1, stable=True)
    return tokens.masked_fill(gone, 0).gather(1, order)


def _ends(tokens: Tensor) -> Tensor:
    """Position of each row's end token: padding is 0, and the end token is not."""
    return tokens.shape[1] - 1 - (tokens.flip(1) != 0).int().argmax(1)


@dataclass(frozen=True)
class Vocabulary:
    """What each token id stands for: ``(v,)`` bool each."""

    ends: Tensor
    """Whether a word ends with the token."""
    spells: Tensor
    """Whether the token spells three letters or more, and nothing else."""
    begins: Tensor | None = None
    """Whether a word begins with the token; None for open_clip's tokenizer, which marks the ends."""

    @property
    def words(self) -> Tensor:
        """Tokens that can be a whole word: ``(v,)`` bool."""
        return (self.ends if self.begins is None else self.begins) & self.spells

    def to(self, device: torch.device) -> Vocabulary:
        """The same on another device."""
        begins = None if self.begins is None else self.begins.to(device)
        return Vocabulary(self.ends.to(device), self.spells.to(device), begins)

    def whole_words(self, tokens: Tensor) -> Tensor:
        """Which tokens of rows ``(m, length)`` are a word each: bool, of the same shape."""
        start = tokens[:, :1]  # is no word, but the token behind it begins one
        if self.begins is None:
            before = torch.cat([start, tokens[:, :-1]], dim=1)
            return (self.ends[before] | (before == start)) & self.words[tokens]
        after = torch.cat([tokens[:, 1:], torch.zeros_like(start)], dim=1)
        return (self.begins[after] | (after == start)) & self.words[tokens]


def read_vocabulary(tokenizer: Tokenizer, size: int) -> Vocabulary:
    """The token ids 0 to ``size`` - 1; those that the tokenizer does not have are no words."""
    ends, spells, begins = (torch.zeros(size, dtype=torch.bool) for _ in range(3))
    for token in range(min(size, tokenizer.vocabulary_size)):
        text = tokenizer.token_bytes(token).decode("utf-8", "replace")
        ends[token], begins[token] = tokenizer.ends_word(token), tokenizer.begins_word(token)
        spells[token] = text.isalpha() and len(text) > 2
    return Vocabulary(ends, spells, begins if begins.any() else None)


@dataclass(frozen=True)
class WordSwap:
    """Replaces words in training texts by similar ones, so that no single word carries the purpose.

    Other data sets tell descriptions from captions by other words than the training split. A word's
    neighbours in the untuned model's token embedding are mostly of its own kind (names for names, colours
    for colours), so that a text keeps its purpose.
    """

    vocabulary: Vocabulary
    nearest: Tensor
    """``(v, 8)``, from :func:`nearest_words`."""

    @classmethod
    def of(cls, embedding: Tensor, vocabulary: Vocabulary) -> WordSwap:
        """Similar words by a token embedding ``(v, width)``, as it is now."""
        here = vocabulary.to(embedding.device)
        return cls(here, nearest_words(embedding.detach(), here.words))

    def draw(self, tokens: Tensor, share: float, rng: torch.Generator) -> Tensor:
        """In half of the texts (drawn), replace each word with probability ``share`` by a neighbour.

        ``(m, length)`` -> ``(m, length)``. A word of several tokens stays, and so do all
        other tokens.
        """
        rows, length = tokens.shape
        drawn = (torch.rand(rows, 1, generator=rng) < 0.5) & (torch.rand(rows, length, generator=rng) < share)
        which = torch.randint(NEIGHBOURS, (rows, length), generator=rng).to(tokens.device)
        swapped = self.vocabulary.whole_words(tokens) & drawn.to(tokens.device)
        return torch.where(swapped, self.nearest[tokens, which], tokens)


@torch.no_grad()
def nearest_words(embedding: Tensor, words: Tensor) -> Tensor:
    """The words nearest to each word by cosine, without itself: ``(v, width)``, ``(v,)`` bool -> ``(v, 8)``.

    The mean token is subtracted first. A token that is no word has itself for neighbours, and so has a
    word in the places for which there are too few others.
    """
    chosen = words.nonzero()[:, 0]
    table = torch.arange(len(words), device=words.device)[:, None].repeat(1, NEIGHBOURS)
    unit = F.normalize(embedding - embedding.mean(0), dim=-1)[chosen]
    count = max(0, min(NEIGHBOURS, len(chosen) - 1))
    for rows in torch.split(torch.arange(len(chosen), device=words.device), _ROWS_AT_ONCE):
        near = unit[rows] @ unit.T
        near.scatter_(1, rows[:, None], -2.0)
        table[chosen[rows], :count] = chosen[near.topk(count, dim=1).indices]
    return table
