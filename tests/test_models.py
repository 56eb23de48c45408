"""Loading: each kind of source against plain open_clip, and each thing that cannot be loaded."""

from __future__ import annotations

import copy
import io
import json
import pickle
import resource
import shutil
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import torch
from huggingface_hub import constants
from open_clip.pretrained import get_pretrained_cfg
from open_clip.transformer import QuickGELU
from PIL import Image
from safetensors.torch import load_file, save_file

from conftest import TINY, make_photo, save_model
from descscore import DescScorer
from descscore.adapters import AdapterInfo, include_base, save_lora, weights_hash
from descscore.encoder import Encoder
from descscore.errors import ModelError, UsageError
from descscore.lora import TARGETS, unpack_attention
from descscore.models import _PREPROCESSING, load_model


@pytest.fixture(scope="module")
def hub_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder as the hub client leaves it, holding a ViT-B-32 of random float16 weights."""
    cache = tmp_path_factory.mktemp("hub")
    repo = get_pretrained_cfg("ViT-B-32", "openai")["hf_hub"].rstrip("/")
    root = cache / f"models--{repo.replace('/', '--')}"
    commit = "0123456789abcdef0123456789abcdef01234567"
    for folder in ("blobs", "refs", f"snapshots/{commit}"):
        (root / folder).mkdir(parents=True)
    (root / "refs/main").write_text(commit)
    torch.manual_seed(0)
    clip = open_clip.create_model("ViT-B-32")
    half = {k: v.half() for k, v in clip.state_dict().items()}
    save_file(half, root / "blobs/weights", metadata={"format": "pt"})
    (root / f"snapshots/{commit}/open_clip_model.safetensors").symlink_to("../../blobs/weights")
    return cache


def test_tests_cannot_reach_the_network() -> None:
    assert constants.HF_HUB_OFFLINE


@pytest.mark.long
def test_tagged_model_from_the_cache_equals_open_clip(hub_cache: Path, photo: Path) -> None:
    scorer = DescScorer.from_pretrained("ViT-B-32/openai", device="cpu", cache_dir=hub_cache)
    assert isinstance(scorer.model.clip.transformer.resblocks[0].mlp.gelu, QuickGELU)
    assert scorer.model.preprocessing == "224px-shortest-bicubic-clip-v3"
    clip, _, preprocess = open_clip.create_model_and_transforms(
        "ViT-B-32-quickgelu", pretrained="openai", cache_dir=str(hub_cache)
    )
    text = "A brown dog runs over wet sand."
    from PIL import Image

    with torch.inference_mode():
        image = clip.eval().encode_image(preprocess(Image.open(photo))[None], normalize=True)
        tokens = open_clip.get_tokenizer("ViT-B-32")([text])
        expected = float((image @ clip.encode_text(tokens, normalize=True).T)[0, 0])
    assert scorer.score(photo, text).cosine == pytest.approx(expected, abs=1e-6)
    assert "model:ViT-B-32/openai|" in scorer.signature


def test_a_tags_own_preprocessing_is_used(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "interpolation": "bilinear",
        "resize_mode": "squash",
    }
    tag = {**get_pretrained_cfg("ViT-B-32", "openai"), **own}
    monkeypatch.setattr(open_clip.pretrained, "get_pretrained_cfg", lambda *_: tag)
    model = load_model("ViT-B-32/openai", "cpu", hub_cache)
    assert model.preprocessing == "224px-squash-bilinear-0.5/0.5/0.5/0.5/0.5/0.5-v3"


def test_nothing_else_stands_in_open_clips_tags() -> None:
    said = {key for tags in open_clip.pretrained._PRETRAINED.values() for tag in tags.values() for key in tag}
    assert said <= {*_PREPROCESSING, "quick_gelu", "hf_hub", "url", "file"}


@pytest.mark.long
def test_saved_quickgelu_vit_b_32_reloads_with_its_activation(hub_cache: Path, tmp_path: Path) -> None:
    before = load_model("ViT-B-32/openai", "cpu", hub_cache)
    folder = tmp_path / "mine"
    folder.mkdir()
    config = open_clip.get_model_config("ViT-B-32") | {"quick_gelu": True}
    whole = {"model_cfg": config, "preprocess_cfg": open_clip.get_model_preprocess_cfg(before.clip)}
    (folder / "open_clip_config.json").write_text(json.dumps(whole))
    save_file(before.clip.state_dict(), folder / "open_clip_model.safetensors")
    after = load_model(folder, "cpu")
    assert isinstance(after.clip.transformer.resblocks[0].mlp.gelu, QuickGELU)
    assert (after.weights_hash, after.preprocessing) == (before.weights_hash, before.preprocessing)
    tokens = open_clip.get_tokenizer("ViT-B-32")(["a cat"])
    torch.testing.assert_close(
        after.clip.encode_text(tokens), before.clip.encode_text(tokens), rtol=0, atol=1e-5
    )


def test_local_folder_has_its_own_preprocessing(tmp_path: Path, photo: Path) -> None:
    other = {**TINY, "preprocess_cfg": {**TINY["preprocess_cfg"], "mean": [0, 0, 0], "std": [1, 1, 1]}}
    folder = save_model(tmp_path / "m", other)
    clip, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    model = load_model(folder, "cpu")
    image = Image.open(photo)
    with torch.inference_mode():
        expected = clip.eval().encode_image(preprocess(image)[None], normalize=True)
    torch.testing.assert_close(Encoder(model, 1).images([image]), expected, rtol=0, atol=1e-6)
    assert model.preprocessing == "32px-squash-bicubic-0/0/0/1/1/1-v3"


def test_models_come_frozen_in_evaluation_mode_and_float32(tiny_folder: Path) -> None:
    clip = load_model(tiny_folder, "cpu").clip
    assert not clip.training
    assert not any(p.requires_grad for p in clip.parameters())
    assert {p.dtype for p in clip.parameters()} == {torch.float32}


def test_weights_hash_is_of_the_weights(tmp_path: Path, tiny_folder: Path) -> None:
    model = load_model(tiny_folder, "cpu")
    assert model.weights_hash == load_model(shutil.copytree(tiny_folder, tmp_path / "b"), "cpu").weights_hash
    assert model.weights_hash != load_model(save_model(tmp_path / "c", TINY, seed=1), "cpu").weights_hash


# What cannot be loaded


def fails(source: str | Path, *mentions: str, **options: object) -> None:
    with pytest.raises(ModelError) as caught:
        load_model(source, "cpu", **options)  # type: ignore[arg-type]
    for mention in (str(source), *mentions):
        assert mention in str(caught.value)


def test_unknown_name_lists_what_there_is() -> None:
    fails("nothing", "base and default", "ViT-B-32/openai")
    fails("laion/CLIP-ViT-B-32", "on the hub is written hf-hub:laion/CLIP-ViT-B-32.")


def test_a_misspelt_name_brings_the_right_one() -> None:
    for wrong, right in (
        ("defualt", "default"),
        ("Base", "base"),
        ("ViT-B-33", "ViT-B-32/openai"),
        ("ViT-B-23/laion2b_s34b_b79k", "ViT-B-32/laion2b_s34b_b79k"),
        ("vit-b-32/openai", "ViT-B-32/openai"),
        ("vit-b-16", "ViT-B-16/openai"),
    ):
        with pytest.raises(ModelError) as caught:
            load_model(wrong, "cpu")
        assert str(caught.value) == f"model {wrong!r} is not known; did you mean {right}?"


def test_a_path_to_nothing_and_an_empty_name_are_said_to_be_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for source in ("./nothing", "../nothing", str(tmp_path / "nothing")):
        with pytest.raises(ModelError) as caught:
            load_model(source, "cpu")
        assert str(caught.value) == f"model {source!r}: no such folder"
    for source in ("", " "):
        with pytest.raises(ModelError, match=r"^model '\s*': the name is empty$"):
            load_model(source, "cpu")


def test_open_clip_name_without_tag_lists_its_tags() -> None:
    fails("ViT-B-32", "ViT-B-32/openai", "ViT-B-32/laion2b_s34b_b79k and 17 more")


def test_unknown_tag_lists_the_known() -> None:
    fails("ViT-B-32/nonesuch", "'nonesuch'", "openai", "laion400m_e31", " and 17 more")
    fails("ViT-B-32/metaclip", "available: metaclip_400m, ")


def test_no_network_and_not_in_the_cache(tmp_path: Path) -> None:
    fails("ViT-B-32/openai", str(tmp_path), "base and default", cache_dir=tmp_path)


def test_folder_without_model_or_weights(tmp_path: Path) -> None:
    fails(tmp_path, "open_clip_config.json")
    (tmp_path / "open_clip_config.json").write_text(json.dumps(TINY))
    fails(tmp_path, "no weights")
    (tmp_path / "file").touch()
    fails(tmp_path / "file", "folder")


def test_bad_configuration(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "m")
    (folder / "open_clip_config.json").write_text("{nonsense")
    fails(folder, "open_clip_config.json", "not an open_clip configuration")
    (folder / "open_clip_config.json").write_text("{}")
    fails(folder, "model_cfg")


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"\xff" * 64, lambda b: b""])
def test_damaged_weights(tiny_folder: Path, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "m")
    path = folder / "open_clip_model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    fails(folder, "damaged")


def test_weights_of_another_architecture(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "m")
    state = load_file(folder / "open_clip_model.safetensors")
    del state["ln_final.weight"]
    save_file(state, folder / "open_clip_model.safetensors")
    fails(folder, "ln_final.weight")


class Attack:
    """Unpickled, this would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return (Path.touch, (self.path,))


def test_no_code_runs_from_a_pickle(tiny_folder: Path, tmp_path: Path) -> None:
    folder, mark = shutil.copytree(tiny_folder, tmp_path / "m"), tmp_path / "executed"
    (folder / "open_clip_model.safetensors").unlink()
    torch.save({"x": Attack(mark)}, folder / "open_clip_pytorch_model.bin")
    fails(folder, "damaged")
    (folder / "open_clip_pytorch_model.bin").write_bytes(pickle.dumps(Attack(mark)))
    fails(folder, "damaged")
    assert not mark.exists()


def test_torch_files_load_unless_they_take_more_memory_than_their_size(
    tiny_folder: Path, tmp_path: Path
) -> None:
    """A compressed file of zeros takes a thousand times its size; so do records that share their bytes."""
    folder = shutil.copytree(tiny_folder, tmp_path / "m")
    state = load_file(folder / "open_clip_model.safetensors")
    (folder / "open_clip_model.safetensors").unlink()
    path = folder / "open_clip_pytorch_model.bin"
    for new in (False, True):
        torch.save(state, path, _use_new_zipfile_serialization=new)
        assert weights_hash(load_model(folder, "cpu").clip) == base_hash(tiny_folder)
    plain = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(plain)) as whole:
        records = {info.filename: whole.read(info) for info in whole.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in records.items():
            packed.writestr(name, content)
    fails(folder, "open_clip_pytorch_model.bin", "compressed")
    with zipfile.ZipFile(path, "w") as shared:
        for name, content in records.items():
            shared.writestr(name, content)
        largest = max(shared.filelist, key=lambda info: info.file_size)
        for number in range(3):
            shared.filelist.append(twin := copy.copy(largest))
            twin.filename = f"archive/data/twin{number}"
    fails(folder, "open_clip_pytorch_model.bin", "compressed")
    path.write_bytes(plain[: len(plain) // 2])
    fails(folder, "damaged")


def test_unknown_device_lists_what_there_is(tiny_folder: Path) -> None:
    for device in ("cuda:99", "tpu", "", "meta", "hpu"):
        with pytest.raises(UsageError, match=r"available: cpu"):
            load_model(tiny_folder, device)


# Adapters


@pytest.fixture
def adapter(tiny_folder: Path, tmp_path: Path) -> Path:
    """An adapter of random weights for the tiny model, made with peft itself."""
    folder = tmp_path / "adapter"
    save_lora(
        wrapped(tiny_folder), AdapterInfo(include_base(tiny_folder, folder), base_hash(tiny_folder)), folder
    )
    return folder


def base_hash(folder: Path) -> str:
    return weights_hash(load_model(folder, "cpu").clip)


def wrapped(folder: Path) -> torch.nn.Module:
    from peft import LoraConfig, get_peft_model

    clip = open_clip.create_model(f"local-dir:{folder}").eval()
    out = get_peft_model(
        unpack_attention(clip), LoraConfig(r=4, lora_alpha=4, target_modules=TARGETS["tower"])
    )
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in out.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)
    return out


def test_adapter_adds_each_update_once(adapter: Path, tiny_folder: Path, tmp_path: Path) -> None:
    """W + B A for every matrix (alpha = r), worked out here from peft's file alone."""
    lora = load_file(adapter / "adapter_model.safetensors")
    plain = open_clip.create_model(f"local-dir:{tiny_folder}").eval()
    tokens = open_clip.get_tokenizer("ViT-B-32")(["a cat on a mat"])
    with torch.inference_mode():
        before = plain.encode_text(tokens, normalize=True)
        for number, block in enumerate(plain.transformer.resblocks):
            packed = block.attn.in_proj_weight.chunk(3)
            for name, weight in (
                *zip(("attn.q_proj", "attn.k_proj", "attn.v_proj"), packed, strict=True),
                ("attn.out_proj", block.attn.out_proj.weight),
                ("mlp.c_fc", block.mlp.c_fc.weight),
                ("mlp.c_proj", block.mlp.c_proj.weight),
            ):
                stem = f"base_model.model.transformer.resblocks.{number}.{name}"
                weight += lora.pop(f"{stem}.lora_B.weight") @ lora.pop(f"{stem}.lora_A.weight")
        words = "base_model.model.token_embedding.lora_embedding"
        plain.token_embedding.weight += (lora.pop(f"{words}_B") @ lora.pop(f"{words}_A")).T
        expected = plain.encode_text(tokens, normalize=True)
    assert not lora
    scorer = DescScorer.from_pretrained(adapter, device="cpu")
    encoded = scorer.encoder.texts(["a cat on a mat"])
    torch.testing.assert_close(encoded.features, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(encoded.base_features, before, rtol=0, atol=1e-6)
    assert (expected - before).abs().max() > 0.01
    photo = make_photo(tmp_path / "a.png", 0)
    base = DescScorer.from_pretrained(tiny_folder, device="cpu")
    tuned, untuned = scorer.score(photo, "a cat on a mat"), base.score(photo, "a cat on a mat")
    assert tuned.clip_score == pytest.approx(untuned.score, abs=1e-6)
    assert tuned.cosine != pytest.approx(untuned.cosine, abs=1e-4)
    assert scorer.model.clip.visual is scorer.model.base.visual
    assert scorer.model.weights_hash != base.model.weights_hash


def test_adapter_names_its_base_relative_to_itself(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "adapter" / "root")
    info = AdapterInfo("root", base_hash(tiny_folder))
    save_lora(wrapped(tiny_folder), info, tmp_path / "adapter")
    assert load_model(tmp_path / "adapter", "cpu").tuned


def test_an_adapter_stays_whole_if_it_cannot_be_saved_again(
    adapter: Path, tiny_folder: Path, photo: Path
) -> None:
    """A limit on file sizes stands in for a full disk, which fails the writing of weights."""
    before = DescScorer.from_pretrained(adapter, device="cpu").score(photo, "A cat.").cosine
    names = {path.name for path in adapter.iterdir()}
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, old[1]))
        with pytest.raises(Exception, match="File too large"):
            save_lora(wrapped(tiny_folder), AdapterInfo(str(tiny_folder), "another"), adapter)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert {path.name for path in adapter.iterdir()} == names
    after = DescScorer.from_pretrained(adapter, device="cpu").score(photo, "A cat.").cosine
    assert after == pytest.approx(before, abs=1e-6)


def test_adapter_for_another_base(adapter: Path, tmp_path: Path) -> None:
    other = save_model(adapter / "other", TINY, seed=1)
    path = adapter / "descscore_adapter.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base": "other"}))
    fails(adapter, "made for", base_hash(other))


def test_adapter_of_an_unknown_base(adapter: Path) -> None:
    path = adapter / "descscore_adapter.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base": "nonesuch"}))
    with pytest.raises(ModelError, match=r"'nonesuch'.*Available: bundled base and default"):
        load_model(adapter, "cpu")


@pytest.mark.parametrize(
    "content",
    [
        *("{}", "nonsense", "[]", '{"base": 1}'),
        '{"base": ["a"], "base_weights": "", "format": 1}',
        '{"base": "base", "base_weights": "", "format": 1, "pretrained": {"a": 1}}',
        '{"base": "base", "base_weights": "", "format": 1, "block": "0", "k": 1}',
    ],
)
def test_bad_adapter_description(adapter: Path, content: str) -> None:
    (adapter / "descscore_adapter.json").write_text(content)
    fails(adapter, "not an adapter description")


def test_adapter_of_a_later_format(adapter: Path) -> None:
    path = adapter / "descscore_adapter.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    fails(adapter, "format 99")


def test_adapter_without_or_with_damaged_weights(adapter: Path) -> None:
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    fails(adapter, "damaged")
    weights.unlink()
    fails(adapter, "adapter_model.safetensors is missing")


def test_adapter_weights_that_do_not_fit(adapter: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    # Copies: the tensors may lie in the file itself, which is written over below.
    state = {name: value.clone() for name, value in load_file(path).items()}
    first = sorted(state)[0]
    save_file({**{k: v for k, v in state.items() if k != first}}, path)
    fails(adapter, "1 missing")
    save_file({**state, "base_model.model.extra.lora_A.weight": state[first].clone()}, path)
    fails(adapter, "do not fit")
