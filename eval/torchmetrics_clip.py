"""torchmetrics' CLIPScore on a model of the size of ViT-B-32, to compare its rate with descscore's.

torchmetrics runs transformers' ``CLIPModel``. Here it has random weights, which take the time that
trained ones take. torchmetrics and transformers are needed for this comparison alone.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from torch import Tensor, nn

from descscore.errors import DataError


def torchmetrics_clip_score(device: torch.device) -> Any:
    """torchmetrics' ``CLIPScore`` with :func:`transformers_clip`; nothing is fetched."""
    try:
        from torchmetrics.multimodal.clip_score import CLIPScore
    except ImportError as error:
        raise DataError(f"torchmetrics is not installed ({error}); pip install torchmetrics") from None
    model: Any = _Pooled(transformers_clip())  # passes for transformers' own class
    return CLIPScore(model_name_or_path=lambda: (model, transformers_processor())).to(device)


def transformers_clip() -> nn.Module:
    """transformers' ``CLIPModel`` of the size of open_clip's ViT-B-32: its default, with plain GELU."""
    from transformers import CLIPConfig, CLIPModel

    text, image = {"hidden_act": "gelu", "bos_token_id": 49406, "eos_token_id": 49407}, {"hidden_act": "gelu"}
    model: nn.Module = CLIPModel(CLIPConfig(text_config=text, vision_config=image))
    return model.eval().requires_grad_(False)


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


def image_tensor(path: Path) -> Tensor:
    """A decoded photo as torchmetrics takes it: ``(3, height, width)`` uint8."""
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
