"""What tests of explanations share: texts, and a small model with a purpose subspace and references."""

from __future__ import annotations

from pathlib import Path

import torch

from descscore.adapters import AdapterInfo, include_base, save_full, weights_hash
from descscore.interchange import Rotation
from descscore.models import load_model
from descscore.purpose import Purpose, Readout, Site, save_purpose

TEXTS = ("A red car stands at a gate.", "Ada Lovelace, London & 1843 👩\u200d💻", "A dog. " * 40)
PLACES = torch.stack([torch.linspace(-1, 3, 101), torch.linspace(-3, 1, 101)])


def explained_adapter(base: Path, folder: Path) -> Path:
    """The base model as an adapter: other text weights, a random rotation, a read-out, references."""
    clip, plain = (load_model(base, "cpu").clip for _ in range(2))
    info = AdapterInfo(include_base(base, folder), weights_hash(plain), tuning="full", block=2, k=5)
    torch.manual_seed(1)
    clip.token_embedding.weight.data *= 3
    readout = Readout(torch.randn(5), torch.tensor(0.1))
    rotation = Rotation(32, 1).matrix().detach()
    save_full(clip, plain, info, folder)
    save_purpose(Purpose(Site(2, 5), rotation, readout, torch.linspace(-1, 1, 101), PLACES), folder)
    return folder
