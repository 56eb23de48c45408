"""What a model folder from a stranger may say: nothing that runs code or fetches files."""

from __future__ import annotations

import copy
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from model_families import save_tokenizer
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from conftest import TINY, save_model
from descscore import DescScorer
from descscore.adapters import AdapterInfo, include_base, licence_of, save_lora, weights_hash
from descscore.errors import ModelError
from descscore.models import ASSETS, load_model
from descscore.stream.pairs import StreamOptions
from descscore.training.lora import attach_lora


@pytest.fixture
def folder(tmp_path: Path, tiny_folder: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


@pytest.fixture(scope="module")
def sound_adapter(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that loads, with its base in its folder."""
    folder = tmp_path_factory.mktemp("sound") / "adapter"
    clip = load_model(tiny_folder, "cpu").clip
    info = AdapterInfo(include_base(tiny_folder, folder), weights_hash(clip))
    save_lora(attach_lora(copy.deepcopy(clip), rank=2), info, folder)
    assert load_model(folder, "cpu").tuned
    return folder


@pytest.fixture
def adapter(sound_adapter: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound_adapter, tmp_path / "adapter"))


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
    with pytest.raises(ModelError, match=r"open_clip_config\.json: text_cfg has tokenizer_kwargs"):
        load_model(folder, "cpu")
    change(folder, "text_cfg", tokenizer_kwargs={})
    with pytest.raises(ModelError, match=r"hf_tokenizer_name = \"x\", a name that none"):
        load_model(folder, "cpu")
    # The tokenizer's data are read, and its class is not.
    save_tokenizer("t5", tmp_path / "tokenizer")
    shutil.copy(tmp_path / "tokenizer" / "tokenizer.json", folder)
    assert load_model(folder, "cpu").tokenizer.encode("a cat")
    assert not ran.exists()


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("text_cfg", "tokenizer_kwargs", {"trust_remote_code": True}),
        ("text_cfg", "tokenizer_kwargs", {"bpe_path": "/etc/passwd"}),
        ("text_cfg", "hf_model_name", "some/model"),
        ("text_cfg", "hf_model_name", "../roberta-base"),
        ("text_cfg", "hf_model_name", ["roberta-base"]),
        ("text_cfg", "hf_tokenizer_name", "../tokenizer"),
        ("text_cfg", "hf_tokenizer_name", "/etc/passwd"),
        ("text_cfg", "hf_tokenizer_name", "some/tokenizer"),
        ("text_cfg", "hf_proj_type", "a/b"),
        ("text_cfg", "tokenizer_kwargs", {"strip_sep_token": "yes"}),
        ("model_cfg", "multimodal_cfg", {"width": 10**9}),
        ("text_cfg", "width", 10**9),
        ("text_cfg", "width", "32"),
        ("text_cfg", "layers", True),
        ("text_cfg", "layers", 100_000),
        ("text_cfg", "context_length", 100_000),
        ("text_cfg", "mlp_ratio", 1e9),
        ("text_cfg", "mlp_ratio", float("nan")),
        ("text_cfg", "tokenizer_kwargs", {"clean": "other"}),
        ("text_cfg", "tokenizer_kwargs", {"additional_special_tokens": ["(a+)+$"]}),
        ("text_cfg", "tokenizer_mode", "clips"),
        ("vision_cfg", "timm_model_name", "local-dir:other"),
        ("vision_cfg", "image_size", 100_000),
        ("", "preprocess_cfg", {"size": 100_000}),
        ("vision_cfg", "timm_model_name", "hf-hub:some/model"),
        ("vision_cfg", "timm_model_name", "../other"),
        ("vision_cfg", "timm_model_pretrained", True),
        ("vision_cfg", "image_size", [32, 32, 32, 32, 32]),
        ("vision_cfg", "act_kwargs", {"a": {"b": 1}}),
        ("model_cfg", "multimodal_cfg", {}),
        ("model_cfg", "embed_dim", -1),
        ("", "preprocess_cfg", {"interpolation": "a/b"}),
        ("", "preprocess_cfg", [1]),
        ("", "preprocess_cfg", {"mean": [0.5, 0.5]}),
        ("", "preprocess_cfg", {"mean": 0.5}),
        ("", "preprocess_cfg", {"std": [0, 0, 0]}),
        ("", "preprocess_cfg", {"std": [1, 1, -1]}),
    ],
)
def test_what_is_not_allowed_is_refused_by_its_name(folder: Path, part: str, key: str, value: Any) -> None:
    change(folder, part, **{key: value})
    with pytest.raises(ModelError, match=r"open_clip_config\.json") as caught:
        load_model(folder, "cpu")
    assert key in str(caught.value)
    assert len(str(caught.value)) < len(str(folder)) + 400


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("text_cfg", {"width": 16_384, "heads": 1}),
        ("text_cfg", {"layers": 256, "width": 4096}),
        ("text_cfg", {"vocab_size": 1 << 20, "width": 2048}),
        ("vision_cfg", {"image_size": 4096, "patch_size": 1, "width": 1024}),
        ("vision_cfg", {"layers": [1, 1, 1, 1], "width": 1024, "image_size": 4096}),
        ("vision_cfg", {"layers": [3, 4, 6, 256], "width": 512}),
        ("vision_cfg", {"mlp_ratio": 16, "width": 8192, "layers": 1, "head_width": 64}),
        ("vision_cfg", {"timm_model_name": "vit_giant_patch14_clip_224", "image_size": 224}),
    ],
)
def test_a_small_file_does_not_ask_for_a_large_model(
    folder: Path, part: str, changes: dict[str, Any]
) -> None:
    """Before weights and model are compared, the model would take gigabytes."""
    change(folder, part, **changes)
    start = time.process_time()
    with pytest.raises(ModelError, match=r"open_clip_config\.json: asks for [\d,]+ weights"):
        load_model(folder, "cpu")
    assert time.process_time() - start < 5


@pytest.mark.parametrize("values", [{"pool_type": "none"}, {"output_tokens": True}])
def test_an_image_tower_without_one_feature_for_an_image_is_said(
    folder: Path, values: dict[str, Any]
) -> None:
    """Else there are many scores for one pair, or a traceback."""
    change(folder, "vision_cfg", **values)
    scorer = DescScorer.from_pretrained(folder, device="cpu")
    with pytest.raises(ModelError, match="one feature for each image"):
        scorer.score(Image.new("RGB", (8, 8)), "a cat")


def test_numbers_that_are_none_are_no_scores(folder: Path) -> None:
    """Weights or settings of a stranger may give any; a score would be NaN."""
    change(folder, "text_cfg", norm_kwargs={"eps": -1e6})
    scorer, picture = DescScorer.from_pretrained(folder, device="cpu"), Image.new("RGB", (8, 8))
    with pytest.raises(ModelError, match="not finite"):
        scorer.score(picture, "a cat")
    with pytest.raises(ModelError, match="not finite"):
        scorer.score_batch([picture], ["a cat"])
    with pytest.raises(ModelError, match="not finite"):
        scorer.compare(picture, "a cat", "a dog")
    (outcome,) = scorer.score_stream([(picture, "a cat")], StreamOptions(workers=0))
    assert (outcome.status, outcome.score) == ("not_finite", None)


def test_a_card_is_read_in_a_moment(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text("---" + "\n" * 65_000)
    begun = time.process_time()
    assert licence_of(card) is None
    assert time.process_time() - begun < 2
    card.write_text("---  \ntags:\n- clip\nlicense: mit\n---\nlicense: other\n")
    assert licence_of(card) == "mit"


def test_a_folder_that_says_nothing_of_other_libraries_loads(folder: Path) -> None:
    change(folder, "text_cfg", hf_tokenizer_name="", tokenizer_kwargs={"clean": "whitespace"})
    change(folder, "model_cfg", quick_gelu=True, init_logit_bias=None)
    assert load_model(folder, "cpu").clip.context_length == 77


@pytest.mark.parametrize("text", ["", "[]", "{", '{"model_cfg": 1}', '{"model_cfg": {}}', "[" * 5000])
def test_what_is_no_configuration_is_said(folder: Path, text: str) -> None:
    (folder / "open_clip_config.json").write_text(text)
    with pytest.raises(ModelError, match="not an open_clip configuration"):
        load_model(folder, "cpu")


@pytest.mark.parametrize(
    "name", ["open_clip_config.json", "open_clip_model.safetensors", "descscore_adapter.json"]
)
def test_a_pipe_in_a_model_folder_is_not_waited_for(folder: Path, name: str) -> None:
    (folder / "other.bin").write_bytes(bytes(10_000_000))
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    if name == "descscore_adapter.json":
        assert load_model(folder, "cpu").clip
        return
    with pytest.raises(ModelError, match=r"not a regular file|holds neither"):
        load_model(folder, "cpu")


def test_a_configuration_is_neither_read_without_end_nor_quoted(folder: Path) -> None:
    path = folder / "open_clip_config.json"
    for content in (b" " * 3_000_000, b'{"secret": \xff' + b"secret" * 1000):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"holds over 1,048,576 bytes|not valid JSON") as caught:
            load_model(folder, "cpu")
        assert "secret" not in str(caught.value)
        assert len(str(caught.value)) < len(str(folder)) + 400


def test_the_bundled_models_and_those_of_the_tests_are_allowed(tmp_path: Path) -> None:
    assert (ASSETS / "base").is_dir()
    load_model("base", "cpu")
    load_model(shutil.copytree(ASSETS / "base", tmp_path / "base"), "cpu")
    load_model(save_model(tmp_path / "m", TINY), "cpu")


@pytest.mark.parametrize(
    "vision",
    [
        {"layers": [1, 1, 1, 1], "width": 16, "image_size": 32},
        {"timm_model_name": "vit_tiny_patch16_224", "timm_drop_path": 0.1, "image_size": 32},
    ],
)
def test_towers_of_other_kinds_are_allowed(tmp_path: Path, vision: dict[str, Any]) -> None:
    """A ResNet, and a transformer of timm, of which older versions read values while they build it."""
    config = copy.deepcopy(TINY)
    config["model_cfg"]["vision_cfg"] = vision
    assert load_model(save_model(tmp_path / "m", config), "cpu").clip


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("target_modules", "(a+)+$"),
        ("target_modules", ["(a+)+$"]),
        ("rank_pattern", {"(a+)+$": 4}),
        ("alpha_pattern", {".*": 4}),
        ("target_modules", [f"layer{i}" for i in range(1001)]),
        ("target_modules", [f"layer{i}" for i in range(1000)]),
        ("rank_pattern", {f"layer{i}": 4 for i in range(1001)}),
        ("alpha_pattern", {f"layer{i}": 4 for i in range(1001)}),
        ("alpha_pattern", {"x" * 100_000: 4}),
        ("r", "64"),
        ("r", 10**9),
        ("r", 3),
        ("r", True),
        ("lora_alpha", "4"),
        ("lora_alpha", float("nan")),
        ("bias", "all"),
        ("use_rslora", True),
        ("use_dora", True),
        ("modules_to_save", ["ln_final"]),
        ("layers_to_transform", [0]),
        ("layer_replication", [[0, 2], [1, 3]]),
        ("exclude_modules", ".*q_proj"),
        ("alora_invocation_tokens", [1]),
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", ["pissa"]),
    ],
    ids=lambda value: str(value)[:20],
)
def test_an_adapter_names_its_layers_by_plain_names(adapter: Path, key: str, value: Any) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(ModelError, match=f"(?i)^adapter .*{key[:6]}") as caught:
        load_model(adapter, "cpu")
    assert len(str(caught.value)) < len(str(adapter)) + 400


@pytest.mark.parametrize("how", ["absolute", "..", "link", "tag", "here"])
def test_an_adapter_leads_to_no_folder_outside_its_own(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Else a model from a stranger would choose which of the user's files are read."""
    outside = Path(shutil.move(adapter / "base_model", tmp_path / "outside"))
    (adapter / "link").symlink_to(outside)
    monkeypatch.chdir(tmp_path)
    base = {"absolute": str(outside), "..": "../outside", "link": "link", "tag": "..", "here": "outside"}[how]
    path = adapter / "descscore_adapter.json"
    pretrained = "outside" if how == "tag" else None
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base": base, "pretrained": pretrained}))
    with pytest.raises(ModelError) as caught:
        load_model(adapter, "cpu")
    assert ("leads out of the adapter's folder" in str(caught.value)) == (how in ("absolute", "..", "link"))
    # What the message advises works.
    shutil.copytree(outside, adapter / "base_model")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base": "base_model", "pretrained": None}))
    assert load_model(adapter, "cpu").tuned


def test_an_adapter_takes_a_local_base_along(tiny_folder: Path, tmp_path: Path) -> None:
    """Moved elsewhere, and with its base gone, it still loads; a base inside stays where it is."""
    base, folder = Path(shutil.copytree(tiny_folder, tmp_path / "base")), tmp_path / "adapter"
    clip = load_model(base, "cpu").clip
    for _ in range(2):  # a run that is started again does it twice
        info = AdapterInfo(include_base(base, folder), weights_hash(clip))
    save_lora(attach_lora(copy.deepcopy(clip), rank=2), info, folder)
    shutil.rmtree(base)
    moved = Path(shutil.move(folder, tmp_path / "moved"))
    assert load_model(moved, "cpu").tuned
    assert include_base(moved / "base_model", moved) == "base_model"


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("reference", lambda values: values[:0]),
        ("reference", lambda values: values[None]),
        ("reference", lambda values: values.flip(0)),
        ("reference", lambda values: values * float("nan")),
        ("rotation", lambda values: values.to(torch.int32)),
        ("readout.weight", lambda values: values.bool()),
    ],
)
def test_a_purpose_that_cannot_be_true_is_said_when_it_is_loaded(
    tmp_path: Path, name: str, edit: Callable[[Tensor], Tensor]
) -> None:
    """Else the first score, or its band, ends in a traceback."""
    folder = _default(tmp_path, name, edit)
    with pytest.raises(ModelError, match=rf"purpose\.safetensors: .*{name}"):
        load_model(folder, "cpu")


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.float8_e4m3fn])
def test_a_purpose_in_another_number_format_is_used(tmp_path: Path, kind: torch.dtype) -> None:
    folder = _default(tmp_path, "rotation", lambda values: values.to(kind))
    score = DescScorer.from_pretrained(folder, device="cpu").score(Image.new("RGB", (8, 8)), "a cat")
    assert score.description_probability is not None


def _default(tmp_path: Path, name: str, edit: Callable[[Tensor], Tensor]) -> Path:
    """A copy of the default adapter with one changed tensor of its purpose."""
    folder = Path(shutil.copytree(ASSETS / "default", tmp_path / "default"))
    tensors = load_file(folder / "purpose.safetensors")
    tensors[name] = edit(tensors[name]).contiguous()
    save_file(tensors, folder / "purpose.safetensors")
    return folder
