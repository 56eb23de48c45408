"""``torch.compile`` with its faults found at once, and said in one line."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from descscore.errors import ModelError


def compiled(tower: Callable[[Tensor], Tensor], example: Tensor) -> Callable[[Tensor], Tensor]:
    """``tower``, compiled; ``example`` is run through it once, for which torch compiles what it needs.

    Raises :class:`ModelError` where that fails: mostly there is no C++ compiler.
    """
    run: Callable[[Tensor], Tensor] = torch.compile(tower)
    try:
        run(example)
    except Exception as error:  # whatever a compiler's absence or fault makes torch raise
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(
            f"the image tower cannot be compiled ({reason}); torch.compile needs a C++ compiler "
            "such as g++, or run without --compile"
        ) from error
    return run
