"""Shared fixtures: small models with random weights, and the data folder where there is one."""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path
from typing import Any

# Before anything imports a hub client: no test may reach the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

import open_clip
import pytest
import torch
from hypothesis import settings
from safetensors.torch import save_file

from pictures import make_photo

# A busy machine may take any time for an example.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

# Python's garbage collector looks at every object, again and again. Imports make most objects, and these
# stay. So it is off during the imports, and then leaves these objects out: a tenth of the time of all tests.
gc.disable()


def pytest_collection_finish() -> None:
    """Switch the garbage collector on for what the tests make."""
    gc.freeze()
    gc.enable()


TINY: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "patch_size": 16, "head_width": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 4},
    },
    "preprocess_cfg": {
        "mean": [0.48145466, 0.4578275, 0.40821073],
        "std": [0.26862954, 0.26130258, 0.27577711],
        "interpolation": "bicubic",
        "resize_mode": "squash",
    },
}


def save_model(folder: Path, config: dict[str, Any], seed: int = 0) -> Path:
    """A model folder in open_clip's form with random weights of that seed."""
    torch.manual_seed(seed)
    clip = open_clip.CLIP(**config["model_cfg"])
    folder.mkdir(parents=True, exist_ok=True)
    save_file(clip.state_dict(), folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CLIP (text width 32, 4 blocks) in open_clip's folder form."""
    return save_model(tmp_path_factory.mktemp("tiny"), TINY)


@pytest.fixture(scope="session")
def shared_data() -> Path | None:
    """The data folder (``DESCSCORE_DATA``, default ``../shared/data``), None in a clone without it."""
    root = Path(__file__).parents[1]
    folder = Path(os.environ.get("DESCSCORE_DATA", root.parent / "shared" / "data"))
    return folder if folder.is_dir() else None


@pytest.fixture
def hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for a data set that ``datasets`` loads, with a cache of its own."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    return tmp_path / "set"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A small JPEG of smooth random colours."""
    return make_photo(tmp_path / "photo.jpg", seed=0)
