"""Training texts in which words stand in for others like them, so that no single word carries the purpose.

What tells descriptions from captions elsewhere is told by other words than in the training
split. A word's neighbours in the untuned model's token embedding are mostly of its own kind
(names for names, colours for colours), so that a swapped text keeps its purpose.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from descscore.texts import Tokenizer

NEIGHBOURS = 8
"""Words among which one is drawn for another."""

_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Vocabulary:
    """By token id, ``(v,)`` bool each. ends: whether a word ends with it. spells: whether what it
    stands for is three letters or more, and nothing else."""

    ends: Tensor
    spells: Tensor

    @property
    def words(self) -> Tensor:
        """Tokens that can be a whole word: ``(v,)`` bool."""
        return self.ends & self.spells

    def to(self, device: torch.device) -> Vocabulary:
        return Vocabulary(self.ends.to(device), self.spells.to(device))


def read_vocabulary(tokenizer: Tokenizer, size: int) -> Vocabulary:
    """Of the token ids 0 to ``size`` - 1; those that the tokenizer does not have are no words."""
    ends, spells = torch.zeros(size, dtype=torch.bool), torch.zeros(size, dtype=torch.bool)
    for token in range(min(size, tokenizer.vocabulary_size)):
        text = tokenizer.token_bytes(token).decode("utf-8", "replace")
        ends[token] = tokenizer.ends_word(token)
        spells[token] = text.isalpha() and len(text) > 2
    return Vocabulary(ends, spells)


@torch.no_grad()
def nearest_words(embedding: Tensor, words: Tensor) -> Tensor:
    """The words nearest to each word by cosine, itself left out: ``(v, width)``, ``(v,)`` bool -> ``(v, 8)``.

    Cosines are of what differs from the mean token. Tokens that are no words have themselves
    for neighbours, as has a word where there are too few others.
    """
    chosen = words.nonzero()[:, 0]
    table = torch.arange(len(words), device=words.device)[:, None].repeat(1, NEIGHBOURS)
    unit = F.normalize(embedding - embedding.mean(0), dim=-1)[chosen]
    count = min(NEIGHBOURS, len(chosen) - 1)
    for rows in torch.split(torch.arange(len(chosen), device=words.device), _ROWS_AT_ONCE):
        near = unit[rows] @ unit.T
        near.scatter_(1, rows[:, None], -2.0)
        table[chosen[rows], :count] = chosen[near.topk(count, dim=1).indices]
    return table


@dataclass(frozen=True)
class WordSwap:
    """vocabulary: what the tokens are. nearest: ``(v, 8)``, from :func:`nearest_words`."""

    vocabulary: Vocabulary
    nearest: Tensor

    @classmethod
    def of(cls, embedding: Tensor, vocabulary: Vocabulary) -> WordSwap:
        """Among the words of a token embedding ``(v, width)``, as it is now."""
        here = vocabulary.to(embedding.device)
        return cls(here, nearest_words(embedding.detach(), here.words))

    def draw(self, tokens: Tensor, share: float, rng: torch.Generator) -> Tensor:
        """In half of the texts (drawn), replace each word with probability ``share`` by a neighbour.

        ``(m, length)`` -> ``(m, length)``. A word of several tokens stays, and so do all
        other tokens.
        """
        rows, length = tokens.shape
        before = torch.cat([tokens[:, :1], tokens[:, :-1]], dim=1)
        start = tokens[:, :1]  # ends no word, but none goes on behind it
        begins = self.vocabulary.ends[before] | (before == start)
        drawn = (torch.rand(rows, 1, generator=rng) < 0.5) & (torch.rand(rows, length, generator=rng) < share)
        which = torch.randint(NEIGHBOURS, (rows, length), generator=rng).to(tokens.device)
        swapped = begins & self.vocabulary.words[tokens] & drawn.to(tokens.device)
        return torch.where(swapped, self.nearest[tokens, which], tokens)
