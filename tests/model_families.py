"""A small model of each family that open_clip knows, with random weights, and its tokenizer."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.coca_model import CoCa
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from conftest import TINY

WORDS = [
    "a",
    "cat",
    "dog",
    "red",
    "car",
    "man",
    "in",
    "the",
    "of",
    "on",
    "walks",
    "with",
    "brown",
    "sand",
    "coat",
    "photo",
]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,'-;!?é"

TEXTS = (
    "a cat",
    "A man in a red coat walks with the dog.",
    "A man in a red coat",
    "Zwölf Boxkämpfer jagen Viktor 🐈 & <b>Ada</b>",
    "A dog in the sand. " * 60,
)


@dataclass(frozen=True)
class Family:
    """Models of one kind."""

    label: str
    """What the documentation calls them."""
    examples: str
    """Names of such models in open_clip."""
    text: dict[str, Any] = field(default_factory=dict)
    vision: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    tokenizer: str = "open_clip"
    tower: str = "causal"
    """``causal``, or why the text tower is not shortened."""
    tunable: bool = True


_SIGLIP: dict[str, Any] = {
    "context_length": 16,
    "no_causal_mask": True,
    "proj_bias": True,
    "pool_type": "last",
    "norm_kwargs": {"eps": 1e-6},
    "hf_tokenizer_name": "timm/ViT-B-16-SigLIP",
    "tokenizer_kwargs": {"clean": "canonicalize"},
}
_SIGLIP_MODEL = {"custom_text": True, "init_logit_bias": -10}
_TIMM = {"timm_model_name": "test_vit", "timm_model_pretrained": False, "image_size": 160}
_DECODER = {"context_length": 76, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}

FAMILIES = {
    "clip": Family(
        "OpenAI's CLIP, LAION, DataComp, DFN, MetaCLIP", "`ViT-B-32`, `RN50`, `ViT-H-14-quickgelu`"
    ),
    "long": Family(
        "CLIP with a long context", "a folder with `context_length` 248", text={"context_length": 248}
    ),
    "pe": Family(
        "PE, EVA, ViTamin, and others with a text tower of their own",
        "`PE-Core-B-16`, `EVA02-B-16`, `ViTamin-B`",
        text={"context_length": 32},
        vision={**_TIMM, "timm_pool": "token", "timm_proj": "linear"},
        model={"custom_text": True},
    ),
    "mobileclip": Family(
        "MobileCLIP and MobileCLIP 2",
        "`MobileCLIP-S1`, `MobileCLIP2-S0`",
        text={"no_causal_mask": True},
        vision={**_TIMM, "timm_pool": "avg"},
        model={"custom_text": True},
        tower="no causal mask",
    ),
    "siglip": Family(
        "SigLIP",
        "`ViT-B-16-SigLIP`",
        text={**_SIGLIP, "vocab_size": 100},
        vision={**_TIMM, "timm_pool": "map", "timm_proj": "none"},
        model={**_SIGLIP_MODEL, "embed_dim": 64},
        tokenizer="t5",
        tower="no causal mask",
    ),
    "siglip2": Family(
        "SigLIP 2",
        "`ViT-B-16-SigLIP2`",
        text={**_SIGLIP, "vocab_size": 100, "hf_tokenizer_name": "timm/ViT-B-16-SigLIP2"},
        vision={**_TIMM, "timm_pool": "map", "timm_proj": "none"},
        model={**_SIGLIP_MODEL, "embed_dim": 64},
        tokenizer="gemma",
        tower="no causal mask",
    ),
    "clipa": Family(
        "CLIPA",
        "`ViT-L-14-CLIPA`",
        text={
            "context_length": 32,
            "vocab_size": 100,
            "no_causal_mask": True,
            "pool_type": "last",
            "hf_tokenizer_name": "bert-base-uncased",
            "tokenizer_kwargs": {"strip_sep_token": True},
        },
        tokenizer="bert",
        tower="no causal mask",
    ),
    "worldwide": Family(
        "MetaCLIP 2",
        "`ViT-H-14-worldwide`",
        text={
            "vocab_size": 100,
            "pool_type": "eos",
            "eos_id": 2,
            "context_length": 24,
            "hf_tokenizer_name": "facebook/xlm-v-base",
        },
        tokenizer="xlm",
    ),
    "coca": Family(
        "CoCa",
        "`coca_ViT-B-32`",
        text={"context_length": 76, "embed_cls": True, "output_tokens": True},
        vision={"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        model={"custom_text": True, "multimodal_cfg": _DECODER},
        tower="a class token",
    ),
    "roberta": Family(
        "RoBERTa or XLM-RoBERTa as text tower",
        "`roberta-ViT-B-32`, `xlm-roberta-base-ViT-B-32`",
        text={
            "hf_model_name": "roberta-base",
            "hf_tokenizer_name": "roberta-base",
            "hf_pooler_type": "mean_pooler",
        },
        tokenizer="xlm",
        tower="another library",
        tunable=False,
    ),
    "mt5": Family(
        "mT5 as text tower",
        "`mt5-base-ViT-B-32`",
        text={
            "hf_model_name": "google/mt5-base",
            "hf_tokenizer_name": "google/mt5-base",
            "hf_pooler_type": "mean_pooler",
        },
        tokenizer="t5",
        tower="another library",
        tunable=False,
    ),
    "nllb": Family(
        "NLLB as text tower",
        "`nllb-clip-base`, `nllb-clip-base-siglip`",
        text={
            "hf_model_name": "facebook/nllb-200-distilled-600M",
            "hf_tokenizer_name": "facebook/nllb-200-distilled-600M",
            "hf_pooler_type": "cls_pooler",
            "hf_proj_type": "linear",
        },
        tokenizer="xlm",
        tower="another library",
        tunable=False,
    ),
}

_ROBERTA = {
    "model_type": "roberta",
    "architectures": ["RobertaModel"],
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 90,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "type_vocab_size": 1,
}
_MT5 = {
    "model_type": "mt5",
    "architectures": ["MT5ForConditionalGeneration"],
    "vocab_size": 100,
    "d_model": 32,
    "d_kv": 16,
    "d_ff": 64,
    "num_layers": 2,
    "num_decoder_layers": 1,
    "num_heads": 2,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}
_NLLB = {
    "model_type": "m2m_100",
    "architectures": ["M2M100ForConditionalGeneration"],
    "vocab_size": 400,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 128,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}
_TOWERS = {"roberta-base": _ROBERTA, "google/mt5-base": _MT5, "facebook/nllb-200-distilled-600M": _NLLB}
"""The configurations of small text towers of another library, by the names of their repositories."""


def save_towers(cache: Path) -> Path:
    """Put the configurations of all text towers of another library into a cache of the hub's client."""
    for name, config in _TOWERS.items():
        save_in_cache(cache, name, {"config.json": json.dumps(config)})
    return cache


def tower_of(name: str, cache: Path) -> Path | None:
    """The folder in the cache with the configuration of a family's text tower of another library, if any."""
    repository = FAMILIES[name].text.get("hf_model_name")
    return _snapshot(cache, repository) if repository else None


def _snapshot(cache: Path, repository: str, commit: str = "a" * 40) -> Path:
    return cache / f"models--{repository.replace('/', '--')}" / "snapshots" / commit


def config_of(family: Family) -> dict[str, Any]:
    """``open_clip_config.json`` of a family's small model."""
    config = copy.deepcopy(TINY)
    model = config["model_cfg"]
    model |= copy.deepcopy(family.model)
    model["text_cfg"] = (
        copy.deepcopy(family.text)
        if "hf_model_name" in family.text
        else model["text_cfg"] | copy.deepcopy(family.text)
    )
    if "timm_model_name" in family.vision:
        model["vision_cfg"] = copy.deepcopy(family.vision)
    else:
        model["vision_cfg"] |= copy.deepcopy(family.vision)
    return config


def plain_model(config: dict[str, Any], tower: Path | None = None) -> Any:
    """open_clip's model of a configuration, with random weights large enough that texts differ."""
    settings = copy.deepcopy(config["model_cfg"])
    custom = settings.pop("custom_text", False)
    kind: Any = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    if "hf_model_name" in settings["text_cfg"]:
        settings["text_cfg"] |= {"hf_model_name": str(tower), "hf_model_pretrained": False}
        kind = open_clip.CustomTextCLIP
    if "multimodal_cfg" in settings:
        kind = CoCa
    torch.manual_seed(0)
    clip = kind(**settings)
    generator = torch.Generator().manual_seed(1)
    for weight in clip.parameters():
        if weight.ndim:
            weight.data += torch.randn(weight.shape, generator=generator) * 0.1
    return clip.eval().requires_grad_(False)


def save_family(name: str, folder: Path, tower: Path | None = None) -> Path:
    """A folder with a family's small model and its tokenizer."""
    family, config = FAMILIES[name], config_of(FAMILIES[name])
    folder.mkdir(parents=True, exist_ok=True)
    clip = plain_model(config, tower)
    save_file(clip.state_dict(), folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    if family.tokenizer != "open_clip":
        save_tokenizer(family.tokenizer, folder)
    return folder


def save_tokenizer(kind: str, folder: Path) -> Path:
    """A small tokenizer of the kind that SigLIP, SigLIP 2, BERT or XLM-RoBERTa has."""
    folder.mkdir(parents=True, exist_ok=True)
    make, names = {
        "t5": (_t5, {"tokenizer_class": "T5Tokenizer", "pad_token": "</s>", "extra_ids": 0}),
        "gemma": (_gemma, {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>"}),
        "bert": (
            _bert,
            {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "sep_token": "[SEP]"},
        ),
        "xlm": (_xlm, {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>"}),
    }[kind]
    make().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    return folder


def _unigram(special: tuple[str, ...], unknown: int) -> Any:
    vocabulary = [(word, 0.0) for word in special]
    vocabulary += [(f"\u2581{word}", -3.0) for word in WORDS] + [("\u2581", -4.0)]
    vocabulary += [(letter, -5.0) for letter in LETTERS]
    return Tokenizer(models.Unigram(vocabulary, unk_id=unknown))


def _t5() -> Any:
    tokenizer = _unigram(("<pad>", "</s>", "<unk>"), 2)
    marks = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), marks])
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer


def _gemma() -> Any:
    tokenizer = _unigram(("<pad>", "<eos>", "<bos>", "<unk>"), 3)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="never")
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    return tokenizer


def _xlm() -> Any:
    tokenizer = _unigram(("<s>", "<pad>", "</s>", "<unk>"), 3)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def _bert() -> Any:
    names = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        *WORDS,
        *LETTERS,
        *(f"##{letter}" for letter in LETTERS[:26]),
    ]
    tokenizer = Tokenizer(
        models.WordPiece({name: i for i, name in enumerate(dict.fromkeys(names))}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def save_in_cache(cache: Path, repository: str, files: dict[str, Path | str], commit: str = "a" * 40) -> Path:
    """Put files into a cache folder as the hub client leaves them; the snapshot's folder."""
    snapshot = _snapshot(cache, repository, commit)
    root = snapshot.parents[1]
    for folder in (root / "refs", root / "blobs", snapshot):
        folder.mkdir(parents=True, exist_ok=True)
    (root / "refs" / "main").write_text(commit)
    for name, content in files.items():
        data = content.read_bytes() if isinstance(content, Path) else content.encode()
        blob = root / "blobs" / hashlib.sha256(data).hexdigest()
        blob.write_bytes(data)
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).unlink(missing_ok=True)
        (snapshot / name).symlink_to(blob)
    return snapshot
