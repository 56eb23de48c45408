"""torchmetrics' CLIPScore on the weights of an open_clip model, for comparison.

torchmetrics runs transformers' ``CLIPModel``, so the weights are converted, and the
features of both are compared before anything is timed. torchmetrics and transformers
are needed for this comparison alone.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip import CLIP
from PIL import Image
from torch import Tensor, nn

from descscore.errors import DataError, ModelError

_BLOCK_NAMES = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def transformers_clip(clip: CLIP) -> nn.Module:
    """transformers' ``CLIPModel`` with the weights of an open_clip ViT model with plain GELU."""
    from transformers import CLIPConfig, CLIPModel

    visual, width = clip.visual, clip.transformer.width
    text = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": clip.transformer.layers,
        "num_attention_heads": clip.transformer.resblocks[0].attn.num_heads,
        "max_position_embeddings": clip.context_length,
        "vocab_size": clip.vocab_size,
        "hidden_act": "gelu",
        "eos_token_id": clip.vocab_size - 1,
        "bos_token_id": clip.vocab_size - 2,
    }
    vision = {
        "hidden_size": visual.transformer.width,
        "intermediate_size": 4 * visual.transformer.width,
        "num_hidden_layers": visual.transformer.layers,
        "num_attention_heads": visual.transformer.resblocks[0].attn.num_heads,
        "image_size": visual.image_size[0],
        "patch_size": visual.patch_size[0],
        "hidden_act": "gelu",
    }
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=clip.text_projection.shape[1])
    model: nn.Module = CLIPModel(config)
    missing, unexpected = model.load_state_dict(_converted(clip), strict=False)
    lost = [name for name in missing if not name.endswith("position_ids")]
    if lost or unexpected:
        raise ModelError(f"weights do not convert: missing {lost[:3]}, unexpected {unexpected[:3]}")
    return model.eval().requires_grad_(False)


def _converted(clip: CLIP) -> dict[str, Tensor]:
    """open_clip's weights under transformers' names."""
    visual = clip.visual
    state = {
        "logit_scale": clip.logit_scale,
        "text_projection.weight": clip.text_projection.T,
        "visual_projection.weight": visual.proj.T,
        "text_model.embeddings.token_embedding.weight": clip.token_embedding.weight,
        "text_model.embeddings.position_embedding.weight": clip.positional_embedding,
        "vision_model.embeddings.class_embedding": visual.class_embedding,
        "vision_model.embeddings.position_embedding.weight": visual.positional_embedding,
        "vision_model.embeddings.patch_embedding.weight": visual.conv1.weight,
    }
    norms = {
        "text_model.final_layer_norm": clip.ln_final,
        "vision_model.pre_layrnorm": visual.ln_pre,
        "vision_model.post_layernorm": visual.ln_post,
    }
    for name, norm in norms.items():
        state |= {f"{name}.weight": norm.weight, f"{name}.bias": norm.bias}
    state |= _blocks("text_model", clip.transformer.state_dict())
    state |= _blocks("vision_model", visual.transformer.state_dict())
    return {name: value.detach().contiguous() for name, value in state.items()}


def _blocks(tower: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    out = {}
    for name, value in state.items():
        _, number, rest = name.split(".", 2)
        place = f"{tower}.encoder.layers.{number}"
        if rest.startswith("attn.in_proj_"):
            kind = rest.removeprefix("attn.in_proj_")
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                out[f"{place}.self_attn.{part}_proj.{kind}"] = piece
        else:
            module, _, kind = rest.rpartition(".")
            out[f"{place}.{_BLOCK_NAMES[module]}.{kind}"] = value
    return out


def transformers_processor() -> Any:
    """CLIP's processor with open_clip's vocabulary; nothing is fetched."""
    from transformers import CLIPImageProcessor, CLIPProcessor, CLIPTokenizer

    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    names = {_SPECIAL.get(token, token): i for token, i in tokenizer.encoder.items()}
    merges = [" ".join(pair) for pair in sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.get)]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.json").write_text(json.dumps(names), encoding="utf-8")
        (Path(folder) / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), encoding="utf-8")
        converted = CLIPTokenizer.from_pretrained(folder, model_max_length=tokenizer.context_length)
    processor: Callable[..., Any] = CLIPProcessor
    return processor(image_processor=CLIPImageProcessor(), tokenizer=converted)


_SPECIAL = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}


class _Pooled(nn.Module):
    """A ``CLIPModel`` whose features are tensors, as torchmetrics takes them to be;
    newer versions of transformers return a whole output.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model
        self.config = model.config

    def get_image_features(self, pixels: Tensor) -> Tensor:
        return _tensor(self.model.get_image_features(pixels))

    def get_text_features(self, tokens: Tensor, mask: Tensor) -> Tensor:
        return _tensor(self.model.get_text_features(tokens, mask))


def _tensor(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.pooler_output


class TorchmetricsClipScore:
    """torchmetrics' ``CLIPScore`` on an open_clip model's weights."""

    def __init__(self, clip: CLIP, device: torch.device) -> None:
        try:
            from torchmetrics.multimodal.clip_score import CLIPScore
        except ImportError as error:
            raise DataError(f"torchmetrics is not installed ({error}); pip install torchmetrics") from None
        self.model: Any = _Pooled(transformers_clip(clip)).to(device)  # passes for transformers' own class
        self.processor = transformers_processor()
        self.metric = CLIPScore(model_name_or_path=lambda: (self.model, self.processor)).to(device)
        self.device = device

    def features(self, images: Sequence[Tensor], texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Unit features of ``(3, height, width)`` uint8 images and of texts, as the metric computes them."""
        with torch.inference_mode():
            pixels = self.processor(images=list(images), return_tensors="pt", padding=True)["pixel_values"]
            tokens = self.processor(text=list(texts), return_tensors="pt", padding=True)
            image = self.model.get_image_features(pixels.to(self.device))
            text = self.model.get_text_features(
                tokens["input_ids"].to(self.device), tokens["attention_mask"].to(self.device)
            )
        return nn.functional.normalize(image, dim=-1), nn.functional.normalize(text, dim=-1)

    def update(self, images: Sequence[Tensor], texts: Sequence[str]) -> None:
        """Score pairs as a user of the metric does."""
        self.metric.update(list(images), list(texts))


def image_tensor(path: Path) -> Tensor:
    """A decoded photo as torchmetrics takes it: ``(3, height, width)`` uint8."""
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
