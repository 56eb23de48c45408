"""Weights between the untuned model's and the tuned one's.

A part of the way back gives back more of what the untuned model could do than it takes of what
was learned. Source: WiSE-FT, Wortsman et al. 2022 (arXiv 2109.01903).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class Interpolation:
    """Weights as they are now, to be mixed with what they become.

    lora: whether the weights are pairs of low-rank updates. What changes the model is a pair's product,
    and one of each pair starts at zero: that one alone is mixed, and the product with it.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], lora: bool) -> None:
        start = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        self._start = {name: value for name, value in start.items() if not (lora and value.any())}

    @torch.no_grad()
    def apply(self, parameters: Mapping[str, nn.Parameter], share: float) -> None:
        """Keep ``share`` of the change of each, in place: 0 for the start, 1 for what they are."""
        for name, start in self._start.items():
            mixed: Tensor = torch.lerp(start, parameters[name], share)
            parameters[name].copy_(mixed)
