"""How much a model has to compute, and how fast the machine multiplies matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.utils.flop_counter import FlopCounterMode

from descscore.encoder import Encoder
from descscore.eval.speed.clock import seconds, wait
from descscore.eval.speed.rates import Work
from descscore.precision import DTYPES
from descscore.texts import TokenizedText

_GPU_SIZE, _IN_A_ROW = 8192, 10


def measure_work(encoder: Encoder, pixels: Tensor, texts: Sequence[TokenizedText]) -> Work:
    """pixels: ``(n, height, width, 3)`` uint8; texts: as many as run together."""
    dtype, device = DTYPES[encoder.model.precision], encoder.model.device
    return Work(
        matrix_rate(device, dtype),
        flops(lambda: Encoder(encoder.model, 1).pixels(pixels[:1])),
        flops(lambda: encoder.tokenized(texts)) / len(texts),
    )


def matrix_rate(device: torch.device, dtype: torch.dtype, size: int | None = None) -> float:
    """Floating-point operations a second of a matrix product, the fastest of ten timings; on a GPU
    each is of ten products in a row, which leaves no gap between them.

    size: rows and columns; by default on a GPU 8192 each, on a CPU the widths of ViT-B-32's
    wider layers and the rows of a batch of 32 images.
    """
    square = size or (_GPU_SIZE if device.type == "cuda" else None)
    rows, width, out = (square, square, square) if square else (1600, 768, 3072)
    inputs = torch.randn(rows, width, device=device).to(dtype)
    weight = torch.randn(out, width, device=device).to(dtype)
    times = _IN_A_ROW if device.type == "cuda" else 1

    def run() -> None:
        with torch.inference_mode():
            wait([linear(inputs, weight) for _ in range(times)][-1])

    run()
    return times * 2 * rows * width * out / min(seconds(run) for _ in range(10))


def flops(run: Callable[[], object]) -> float:
    """Floating-point operations of one call, which may not run what is compiled."""
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())
