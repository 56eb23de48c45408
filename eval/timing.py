"""Time and count work: seconds of calls in turn, operations, and the machine that ran them."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import open_clip
import PIL
import torch
from torch.nn.functional import linear
from torch.utils.flop_counter import FlopCounterMode

from descscore.errors import UsageError
from descscore.stream.worker import cores

T = TypeVar("T")


def seconds(run: Callable[[], object], device: torch.device | None = None) -> float:
    """Wall-clock time of one call. On a GPU ``device``, until its work is done."""
    _wait(device)
    start = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device | None) -> None:
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)


def in_turn(parts: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """What each part returns in each round, by its name.

    The parts take turns, so that other work on the machine slows all of them alike.
    """
    results: dict[str, list[T]] = {name: [] for name in parts}
    for _ in range(rounds):
        for name, run in parts.items():
            results[name].append(run())
    return results


def random_clip(name: str, device: torch.device) -> open_clip.CLIP:
    """A model with random weights of seed 0, which take the same time as trained ones.

    Args:
        name: Name in open_clip, or a model folder.
        device: Where to put it.

    Raises:
        UsageError: It is neither.
    """
    folder = Path(name)
    if not folder.is_dir() and open_clip.get_model_config(name) is None:
        raise UsageError(f"model {name!r}: neither a folder nor a name that open_clip knows")
    torch.manual_seed(0)
    source = f"local-dir:{folder}" if folder.is_dir() else name
    return open_clip.create_model(source, load_weights=False, device=device)


def flops(run: Callable[[], object]) -> float:
    """Floating-point operations of one call, which must not run compiled code."""
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a matrix product: the fastest of ten timings.

    On a CPU the matrices have the widths of ViT-B-32's wider layers, and the rows of a batch of 32 images.
    On a GPU, each timing covers ten larger products in a row, so that there is no gap between them.
    """
    rows, width, out, times = (8192, 8192, 8192, 10) if device.type == "cuda" else (1600, 768, 3072, 1)
    inputs = torch.randn(rows, width, device=device).to(dtype)
    weight = torch.randn(out, width, device=device).to(dtype)

    def run() -> None:
        with torch.inference_mode():
            for _ in range(times):
                linear(inputs, weight)

    run()
    return times * 2 * rows * width * out / min(seconds(run, device) for _ in range(10))


def machine(device: torch.device) -> str:
    """Processor or GPU, cores, and versions of what decides speed."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return (
        f"{name}, {cores()} cores; Python {platform.python_version()}, torch {torch.__version__}, "
        f"open_clip {open_clip.__version__}, Pillow {PIL.__version__}"
    )


def _processor() -> str:
    """The processor's name, and torch's vector instructions: processors of one name may differ in speed."""
    name = platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"
