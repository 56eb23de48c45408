"""Weights part of the way back: exactly so much of the model's change, with LoRA too."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from conftest import TINY, save_model
from descscore.models import load_model
from descscore.training.lora import Interpolation, attach_lora, trained_parameters


def test_a_quarter_of_the_change_worked_by_hand() -> None:
    layer = nn.Linear(2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -2.0]]))
        layer.bias.zero_()
    parameters = trained_parameters(layer)
    start = Interpolation(parameters, lora=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, -2.0]]))
        layer.bias.fill_(4.0)
    start.apply(parameters, 0.25)
    assert layer.weight.tolist() == [[1.5, -2.0]]
    assert layer.bias.tolist() == [1.0]


@pytest.mark.parametrize("targets", ["attention", "tower"])
def test_of_lora_the_merged_change_is_kept_in_part(tmp_path: Path, targets: str) -> None:
    """With both factors shrunk the product would keep the square of the share."""
    plain = load_model(save_model(tmp_path / "base", TINY), "cpu").clip
    clip = copy.deepcopy(plain).requires_grad_(True)
    wrapped = attach_lora(clip, 4, seed=1, targets=targets)
    parameters = trained_parameters(clip)
    start = Interpolation(parameters, lora=True)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=noise))
    # What stays is the other factor, so the whole change to compare with is one of the same factors.
    whole = copy.deepcopy(wrapped).merge_and_unload().state_dict()
    start.apply(parameters, 0.8)
    part = wrapped.merge_and_unload().state_dict()
    changed = 0
    for name, before in plain.state_dict().items():
        torch.testing.assert_close(part[name], before + 0.8 * (whole[name] - before), rtol=0, atol=1e-6)
        changed += not torch.equal(whole[name], before)
    assert changed >= 8
