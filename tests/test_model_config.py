"""What a model folder from a stranger may say: nothing that runs code or fetches files."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from conftest import TINY, save_model
from descscore.adapters import AdapterInfo, save_lora, weights_hash
from descscore.errors import ModelError
from descscore.models import ASSETS, load_model
from descscore.training.lora import attach_lora


@pytest.fixture
def folder(tmp_path: Path, tiny_folder: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def change(folder: Path, part: str, **values: Any) -> None:
    """Write values into one part of a model folder's configuration."""
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    target = (
        config if part == "" else config["model_cfg"] if part == "model_cfg" else config["model_cfg"][part]
    )
    target.update(values)
    path.write_text(json.dumps(config))


def test_a_tokenizer_of_the_folder_never_runs(folder: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}})
    )
    (folder / "own.py").write_text(f"open({str(ran)!r}, 'w')\nclass Own: pass\n")
    change(folder, "text_cfg", hf_tokenizer_name="x", tokenizer_kwargs={"trust_remote_code": True})
    with pytest.raises(ModelError, match=r"open_clip_config\.json: text_cfg has the key 'hf_tokenizer_name'"):
        load_model(folder, "cpu")
    assert not ran.exists()


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("text_cfg", "tokenizer_kwargs", {"trust_remote_code": True}),
        ("text_cfg", "tokenizer_kwargs", {"bpe_path": "/etc/passwd"}),
        ("text_cfg", "hf_model_name", "some/model"),
        ("text_cfg", "width", 10**9),
        ("text_cfg", "width", "32"),
        ("text_cfg", "layers", True),
        ("vision_cfg", "timm_model_name", "hf-hub:some/model"),
        ("vision_cfg", "timm_model_name", "../other"),
        ("vision_cfg", "timm_model_pretrained", True),
        ("vision_cfg", "image_size", [32, 32, 32, 32, 32]),
        ("vision_cfg", "act_kwargs", {"a": {"b": 1}}),
        ("model_cfg", "multimodal_cfg", {}),
        ("model_cfg", "embed_dim", -1),
        ("", "preprocess_cfg", {"interpolation": "a/b"}),
        ("", "preprocess_cfg", [1]),
    ],
)
def test_what_is_not_allowed_is_refused_by_its_name(folder: Path, part: str, key: str, value: Any) -> None:
    change(folder, part, **{key: value})
    with pytest.raises(ModelError, match=r"open_clip_config\.json") as caught:
        load_model(folder, "cpu")
    assert key in str(caught.value)
    assert len(str(caught.value)) < len(str(folder)) + 400


def test_a_folder_that_says_nothing_of_other_libraries_loads(folder: Path) -> None:
    change(folder, "text_cfg", hf_tokenizer_name="", tokenizer_kwargs={"clean": "whitespace"})
    change(folder, "model_cfg", quick_gelu=True, init_logit_bias=None)
    assert load_model(folder, "cpu").clip.context_length == 77


@pytest.mark.parametrize("text", ["", "[]", "{", '{"model_cfg": 1}', '{"model_cfg": {}}', "[" * 5000])
def test_what_is_no_configuration_is_said(folder: Path, text: str) -> None:
    (folder / "open_clip_config.json").write_text(text)
    with pytest.raises(ModelError, match="not an open_clip configuration"):
        load_model(folder, "cpu")


def test_the_bundled_models_and_those_of_the_tests_are_allowed(tmp_path: Path) -> None:
    assert (ASSETS / "base").is_dir()
    load_model("base", "cpu")
    load_model(save_model(tmp_path / "m", TINY), "cpu")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("target_modules", "(a+)+$"),
        ("target_modules", ["(a+)+$"]),
        ("rank_pattern", {"(a+)+$": 4}),
        ("alpha_pattern", {".*": 4}),
        ("r", "64"),
        ("r", 10**9),
    ],
)
def test_an_adapter_names_its_layers_by_plain_names(
    tiny_folder: Path, tmp_path: Path, key: str, value: Any
) -> None:
    folder = tmp_path / "adapter"
    clip = load_model(tiny_folder, "cpu").clip
    info = AdapterInfo(str(tiny_folder), weights_hash(clip))
    save_lora(attach_lora(copy.deepcopy(clip), rank=2), info, folder)
    load_model(folder, "cpu")
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(ModelError, match=key):
        load_model(folder, "cpu")
