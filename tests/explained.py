"""What tests of explanations share: texts, a small model with a purpose subspace, and its explanations.

A test module imports the fixtures by their names.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from descscore import DescScorer
from descscore.adapters import AdapterInfo, include_base, save_full, weights_hash
from descscore.explanations.explanation import Explanation
from descscore.explanations.reasons import ExplainOptions, explain_batch
from descscore.interchange import Rotation
from descscore.models import load_model
from descscore.purpose import Purpose, Readout, Site, save_purpose
from pictures import make_photo

TEXTS = ("A red car stands at a gate.", "Ada Lovelace, London & 1843 👩\u200d💻", "A dog. " * 40)


def explained_adapter(base: Path, folder: Path) -> Path:
    """The base model as an adapter: other text weights, a random rotation, a read-out, references."""
    clip, plain = (load_model(base, "cpu").clip for _ in range(2))
    info = AdapterInfo(include_base(base, folder), weights_hash(plain), tuning="full", block=2, k=5)
    torch.manual_seed(1)
    clip.token_embedding.weight.data *= 3
    readout = Readout(torch.randn(5), torch.tensor(0.1))
    rotation = Rotation(32, 1).matrix().detach()
    save_full(clip, plain, info, folder)
    save_purpose(Purpose(Site(2, 5), rotation, readout, torch.linspace(-1, 1, 101)), folder)
    return folder


@pytest.fixture(scope="module")
def adapter(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return explained_adapter(tiny_folder, tmp_path_factory.mktemp("adapter"))


@pytest.fixture(scope="module")
def scorer(adapter: Path) -> DescScorer:
    return DescScorer.from_pretrained(adapter, device="cpu", text_policy="truncate")


@pytest.fixture(scope="module")
def plain(tiny_folder: Path) -> DescScorer:
    return DescScorer.from_pretrained(tiny_folder, device="cpu")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photo(tmp_path_factory.mktemp("photos") / "a <b> & c.png", 0)


@pytest.fixture(scope="module")
def explanations(scorer: DescScorer, image: Path) -> list[Explanation]:
    options = ExplainOptions(source=TEXTS[1], where=True)
    return explain_batch([image] * 3, TEXTS, scorer, options)
