"""A model whose features can be worked out by hand, and plain open_clip's features of any model folder."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from torch import Tensor, nn

from conftest import TINY, save_model
from descscore import DescScorer

WORDS = {"cat": (3.0, 0.0, 0.0, 0.0), "dog": (0.0, 4.0, 0.0, 0.0)}
"""Words with an embedding; that of all other tokens is zero."""

RED = Image.fromarray(np.full((32, 32, 3), (255, 0, 0), dtype=np.uint8))


class MeanColour(nn.Module):
    """An image tower: red, green, blue from 0 to 1, and 0."""

    def forward(self, pixels: Tensor) -> Tensor:
        return nn.functional.pad(pixels.mean((2, 3)), (0, 1))


def planted_scorer(folder: Path, **options: Any) -> DescScorer:
    """The raw feature of a text is the sum of its words' embeddings over its tokens with start and end."""
    tower = {"context_length": 77, "vocab_size": 49408, "width": 4, "heads": 1, "layers": 1}
    preprocessing = {**TINY["preprocess_cfg"], "mean": [0, 0, 0], "std": [1, 1, 1]}
    config = {
        "model_cfg": {**TINY["model_cfg"], "embed_dim": 4, "text_cfg": tower},
        "preprocess_cfg": preprocessing,
    }
    scorer = DescScorer.from_pretrained(save_model(folder, config), device="cpu", **options)
    clip: Any = scorer.model.clip
    (block,) = clip.transformer.resblocks
    for parameter in clip.parameters():
        parameter.data.zero_()
    for name, vector in WORDS.items():
        (token,) = scorer.model.tokenizer.encode(name)
        clip.token_embedding.weight.data[token] = torch.tensor(vector)
    # Without queries and keys attention is the mean; values and projections leave it as it is.
    block.attn.in_proj_weight.data[8:] = torch.eye(4)
    block.attn.out_proj.weight.data = torch.eye(4)
    clip.text_projection.data = torch.eye(4)
    block.ln_1 = block.ln_2 = clip.ln_final = nn.Identity()
    clip.visual = MeanColour()
    return scorer


@functools.cache
def _plain(folder: Path) -> tuple[Any, Any, Any]:
    """open_clip's own model, preprocessing and tokenizer of a folder."""
    clip, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    return clip.eval(), preprocess, open_clip.get_tokenizer(f"local-dir:{folder}")


def plain_texts(folder: Path, texts: list[str]) -> Tensor:
    """Raw text features ``(n, embed_dim)`` from open_clip alone, at the full context length."""
    clip, _, tokenizer = _plain(folder)
    with torch.inference_mode():
        return clip.encode_text(tokenizer(texts)).double()


def plain_image(folder: Path, photo: Path) -> Tensor:
    """Raw image feature ``(embed_dim,)`` from open_clip alone."""
    clip, preprocess, _ = _plain(folder)
    with torch.inference_mode():
        return clip.encode_image(preprocess(Image.open(photo))[None])[0].double()
