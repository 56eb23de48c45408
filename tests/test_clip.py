"""Importing open_clip lightly changes nothing for anybody who uses open_clip, timm or torchvision."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import open_clip
import pytest
import torch

from descscore.clip import NoRandomWeights
from descscore.models import ASSETS, load_model

SCORE = """
import sys
import numpy as np
from descscore import DescScorer
scorer = DescScorer.from_pretrained({model!r}, device="cpu")
scorer.score(np.zeros((4, 4, 3), np.uint8), "a cat")
"""


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.long
def test_scoring_imports_nothing_that_only_other_work_needs(tiny_folder: Path) -> None:
    heavy = "{'transformers', 'timm.models.vision_transformer', 'torchvision.ops.boxes', 'peft'}"
    heavy += " | {'gradio', 'ray', 'matplotlib', 'datasets', 'pandas'}"
    # torch needs _dynamo to count the weights of a folder's model before it takes memory.
    bundled = (
        SCORE.format(model="default") + f"print(sorted(({heavy} | {{'torch._dynamo'}}) & set(sys.modules)))"
    )
    folder = SCORE.format(model=str(tiny_folder)) + f"print(sorted(({heavy}) & set(sys.modules)))"
    assert python(bundled + folder) == "[]\n[]"


@pytest.mark.long
def test_the_packages_hold_the_same_as_ever() -> None:
    """Names of the modules, whether their classes are one another's, and what the functions do."""
    code = """
import open_clip, timm, torch, torchvision
from open_clip.coca_model import CoCa
from open_clip.hf_model import HFTextEncoder
from timm.models import create_model
print(type(open_clip), type(timm), type(timm.models), type(torchvision.ops))
print(open_clip.CoCa is CoCa is open_clip.factory.CoCa, open_clip.model.HFTextEncoder is HFTextEncoder)
print(timm.create_model is create_model, timm.__version__, torchvision.__version__, open_clip.__version__)
print(len(timm.list_models()) > 500, type(create_model("resnet18")), type(torchvision.models.resnet18()))
boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2.1], [5, 5, 6, 6]])
print(torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5))
print(open_clip.transform.image_transform(32, False))
print(open_clip.get_tokenizer("ViT-B-32")("a cat")[0, :4])
print([sorted(n for n in dir(m) if not n.startswith("__")) for m in (open_clip, timm, timm.models)])
"""
    expected = python(code)
    assert python(SCORE.format(model="default") + code) == expected
    assert expected.splitlines()[1] == "True True"


@pytest.mark.long
def test_what_open_clip_and_torchvision_need_runs_when_it_is_asked_for() -> None:
    code = """
import open_clip, torchvision
from open_clip.hf_model import HFTextEncoder
assert open_clip.model.HFTextEncoder is HFTextEncoder
assert open_clip.CoCa is open_clip.factory.CoCa
boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2.1], [5, 5, 6, 6]])
print(torchvision.ops.nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist())
"""
    assert python("import torch, descscore.scorer" + code) == "[0, 2]"


@pytest.mark.long
def test_an_early_import_of_open_clip_stays_as_it_is() -> None:
    code = "import open_clip, sys; before = dict(vars(open_clip)); import descscore.clip as clip\n"
    assert python(code + "print(vars(open_clip) == before, clip.CLIP is open_clip.CLIP)") == "True True"


def test_the_bundled_model_is_the_one_that_open_clip_makes() -> None:
    own = load_model("base", "cpu").clip
    plain = open_clip.create_model(f"local-dir:{ASSETS / 'base'}").eval()
    assert type(own) is type(plain)
    assert repr(own) == repr(plain)
    assert own.visual.preprocess_cfg == plain.visual.preprocess_cfg
    weights = plain.state_dict()
    assert list(own.state_dict()) == list(weights)
    for name, value in own.state_dict().items():
        assert torch.equal(value, weights[name]), name
    buffers = dict(plain.named_buffers())
    assert all(torch.equal(value, buffers[name]) for name, value in own.named_buffers())


@pytest.mark.timeout(60)
def test_weights_that_are_not_drawn_are_zeros() -> None:
    """Also those of torch's truncated normal distribution, which draws until no value is out of bounds."""
    with NoRandomWeights():
        weights = torch.nn.init.trunc_normal_(torch.full((2, 3), 1e9))
        layer = torch.nn.Linear(3, 2)
    assert not weights.any()
    assert not layer.weight.any()
