"""The machine and versions that figures belong to, in one line."""

from __future__ import annotations

import platform
from pathlib import Path

import open_clip
import PIL
import torch

from descscore.batch.stream import cores


def machine(device: torch.device) -> str:
    """Processor or GPU, cores, and versions of what decides speed."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return (
        f"{name}, {cores()} cores; Python {platform.python_version()}, torch {torch.__version__}, "
        f"open_clip {open_clip.__version__}, Pillow {PIL.__version__}"
    )


def _processor() -> str:
    """Its name, and the vector instructions that torch uses: of one name there are fast and slow ones."""
    name = platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"
