"""Rates of the scorer's parts, and what they say together."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """Floating-point operations. matrix: a second, of matrix products as large as the towers'.
    image, text: of one through its tower. torchmetrics: of a pair, None where it was not asked.
    batch: images that ran at a time.
    """

    matrix: float
    image: float
    text: float
    torchmetrics: float | None = None
    batch: int | None = None


@dataclass(frozen=True)
class Rates:
    """A second: images decoded by the workers; images and texts through the towers, with inputs
    resident; pairs end to end; pairs by torchmetrics, None where it was not asked. undecoded:
    pairs end to end of pictures that need no decoding, None where that was not measured.
    """

    decode: float
    image: float
    text: float
    pairs: float
    work: Work
    torchmetrics: float | None = None
    undecoded: float | None = None

    def summed(self, texts: int) -> float:
        """Pairs a second if decoding and forward passes came one after the other, on all cores."""
        return texts / (1 / self.decode + 1 / self.image + texts / self.text)

    def ceiling(self, texts: int) -> float:
        """Pairs a second at the lower of the two ceilings: decoding only, forward passes only."""
        return texts * min(self.decode, 1 / (1 / self.image + texts / self.text))

    def figures(self, texts: int) -> dict[str, float | None]:
        """What is reported, by name, for ``texts`` texts an image."""
        other, work = self.torchmetrics, self.work
        return {
            "decoding alone, images a second": self.decode,
            "image tower alone, images a second": self.image,
            "text tower alone, texts a second": self.text,
            "end to end, pairs a second": self.pairs,
            "without decoding, pairs a second": self.undecoded,
            "share of decoding and forward passes added up": self.pairs / self.summed(texts),
            "share of the lower ceiling": self.pairs / self.ceiling(texts),
            "matrix products, GFLOP a second": work.matrix / 1e9,
            "image tower, GFLOP an image": work.image / 1e9,
            "image tower, share of the matrix rate": self.image * work.image / work.matrix,
            "text tower, GFLOP a text": work.text / 1e9,
            "text tower, share of the matrix rate": self.text * work.text / work.matrix,
            "both towers, GFLOP a pair": (work.image / texts + work.text) / 1e9,
            "torchmetrics CLIPScore, GFLOP a pair": work.torchmetrics and work.torchmetrics / 1e9,
            "torchmetrics CLIPScore, pairs a second": other,
            "times torchmetrics": self.pairs / other if other else None,
            "batch size": work.batch,
        }
