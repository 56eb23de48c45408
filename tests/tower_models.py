"""Small models with towers of many forms, and texts for them."""

from __future__ import annotations

from typing import Any

import open_clip
import torch
from open_clip import CLIP
from torch import Tensor, nn
from torch.nn.utils import parametrize

from conftest import TINY

TEXTS = [
    "cat",
    "A man in a red coat walks a dog.",
    "A man in a red coat",
    "A man in a red coat walks a dog.",
    "! ! !",  # of tokens with low numbers, 0 among them
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich 🐈",
    "word " * 200,
]


def model(text: dict[str, Any] | None = None, vision: dict[str, Any] | None = None, **more: Any) -> CLIP:
    """The tiny CLIP with some settings changed, and weights large enough that texts and images differ."""
    config = TINY["model_cfg"]
    torch.manual_seed(0)
    clip = open_clip.CLIP(
        embed_dim=config["embed_dim"],
        text_cfg={**config["text_cfg"], **(text or {})},
        vision_cfg={**config["vision_cfg"], **(vision or {})},
        **more,
    )
    generator = torch.Generator().manual_seed(1)
    for name, weight in clip.named_parameters():
        if weight.ndim and not name.endswith("logit_scale"):
            weight.data += torch.randn(weight.shape, generator=generator) * 0.1
    return clip.eval().requires_grad_(False)


TEXT_TOWERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "eos": {"text": {"pool_type": "eos", "eos_id": 49407, "proj_type": "linear", "proj_bias": True}},
    "one block": {"text": {"layers": 1}},
    "no projection": {"text": {"proj_type": "none", "width": 16}},
    "layer scale": {"text": {"ls_init_value": 0.3}},
    "QuickGELU": {"quick_gelu": True},
}


IMAGE_TOWERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "norm after pooling": {"vision": {"final_ln_after_pool": True}},
    "no norm before": {"vision": {"no_ln_pre": True}},
    "fixed positions": {"vision": {"pos_embed_type": "sin_cos_2d"}},
    "patch dropout": {"vision": {"patch_dropout": 0.5}},
    "one block": {"vision": {"layers": 1}},
    "QuickGELU": {"quick_gelu": True},
}


OTHER_IMAGE_TOWERS: dict[str, dict[str, Any]] = {
    "mean pooling": {"vision": {"pool_type": "avg"}},
    "attention pooling": {"vision": {"attentional_pool": True, "attn_pooler_heads": 2}},
    "other blocks": {"vision": {"qk_norm": True}},
    "convolutional": {"vision": {"layers": (1, 1, 1, 1), "width": 8, "head_width": 64}},
}


class _Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def other_blocks(clip: CLIP) -> None:
    clip.transformer = model(text={"qk_norm": True}).transformer


def parametrised(clip: CLIP) -> None:
    parametrize.register_parametrization(clip.transformer.resblocks[1].attn, "in_proj_weight", _Doubled())


def own_block(clip: CLIP) -> None:
    class Block(open_clip.transformer.ResidualAttentionBlock):  # type: ignore[name-defined, misc]
        def forward(self, *args: Any, **kwargs: Any) -> Tensor:
            return -super().forward(*args, **kwargs)

    clip.transformer.resblocks[0].__class__ = Block
