"""``torch.compile`` with its faults found at once, and said in one line."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from descscore.errors import ModelError


def compiled(tower: Callable[[Tensor], Tensor], example: Tensor) -> Callable[[Tensor], Tensor]:
    """``tower``, compiled for inputs of any length; ``example``, of at least two rows, is run through
    it once, for which torch compiles what it needs.

    Raises :class:`ModelError` where that fails: mostly there is no C++ compiler.
    """
    run: Callable[[Tensor], Tensor] = torch.compile(tower)
    # Said beforehand: a second length would otherwise compile everything anew.
    torch._dynamo.mark_dynamic(example, 0)
    try:
        run(example)
    except Exception as error:  # whatever a compiler's absence or fault makes torch raise
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(
            f"the image tower cannot be compiled ({reason}); torch.compile needs a C++ compiler "
            "such as g++, or run without --compile"
        ) from error

    def run_rows(rows: Tensor) -> Tensor:
        # Torch makes a program of its own for a single row, at the cost of compiling again.
        return run(rows) if len(rows) > 1 else run(torch.cat([rows, rows]))[:1]

    return run_rows
