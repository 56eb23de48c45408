"""The model in training, and the losses between its images, its texts and sentence vectors.

Among a few thousand pictures, many texts fit another picture nearly as well as their own. Soft targets give
these texts a share, by the likeness of their sentence vectors.
"""

from __future__ import annotations

import copy
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from descscore.towers.text import encode_tokens, end_positions
from reproduce.pretraining.batches import Batch, Texts
from reproduce.pretraining.image_tower import late, late_parts
from reproduce.pretraining.settings import Settings


class Student(nn.Module):
    """The CLIP to be shipped, and a linear map from sentence vectors into its space, for training."""

    def __init__(self, model: dict[str, Any], half: bool = False) -> None:
        super().__init__()
        self.reduced = half
        model_cfg = copy.deepcopy(model["model_cfg"])
        self.clip = open_clip.CLIP(**model_cfg)
        self.map = nn.Linear(384, model_cfg["embed_dim"], bias=False)

    @property
    def trunk(self) -> Any:
        """The image tower without its projection."""
        return self.clip.visual.trunk

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """The parameters of each part that a stage may train (:attr:`Stage.rates`)."""
        named = self.clip.named_parameters()
        text = [p for name, p in named if not name.startswith(("visual.", "logit_scale"))]
        late_ones = [p for module in late_parts(self.trunk) for p in module.parameters()]
        head = [*self.clip.visual.head.parameters(), self.clip.logit_scale]
        return {"late": late_ones, "head": head, "text": text, "map": list(self.map.parameters())}

    def images(self, pictures: Tensor, dropout: float = 0.0) -> Tensor:
        """Unit features of pooled features ``(n, 1280)`` or of maps before the late stages.

        dropout: share of the pooled features that is left out at random.
        """
        with self._precision():
            # Small parts stay in the processor's cache.
            parts = (
                [late(self.trunk, part) for part in torch.split(pictures, 32)]
                if pictures.ndim == 4
                else [pictures]
            )
        pooled = torch.cat(parts).float()
        return F.normalize(self.clip.visual.head(F.dropout(pooled, dropout)), dim=-1)

    def texts(self, tokens: Tensor, chunks: int = 8) -> Tensor:
        """Unit features in the given order. Texts of similar length run together, to save padding."""
        order = end_positions(self.clip, tokens).argsort()
        # The fused CPU kernel's backward pass is several times slower at these lengths.
        with sdpa_kernel(SDPBackend.MATH), self._precision():
            out = torch.cat([encode_tokens(self.clip, tokens[rows]) for rows in order.chunk(chunks)])
        return F.normalize(out.float(), dim=-1)[order.argsort()]

    def _precision(self) -> torch.autocast:
        """The towers train in bfloat16 where that is asked for; what only measures runs in float32."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.reduced and torch.is_grad_enabled())

    def mapped(self, vectors: Tensor) -> Tensor:
        """Unit places of sentence vectors in the model's space: ``(n, 384)`` -> ``(n, embed_dim)``."""
        return F.normalize(self.map(vectors), dim=-1)


def soft_targets(own: Tensor, similarity: Tensor, share: float, temperature: float) -> Tensor:
    """Mix known matches with likely ones; rows sum to 1.

    Args:
        own: Known matches, 0 or 1, at least one a row: ``(n, m)``.
        similarity: Cosines of sentence vectors: ``(n, m)``.
        share: Share of each row that follows ``similarity``, in 0..1.
        temperature: Divides ``similarity`` before its softmax.
    """
    known = own / own.sum(1, keepdim=True)
    return (1 - share) * known + share * F.softmax(similarity / temperature, dim=1)


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over rows of the cross-entropy against target distributions: ``(n, m)`` twice -> ``()``."""
    return -(targets * F.log_softmax(logits, dim=1)).sum(1).mean()


def follow(texts: Tensor, places: Tensor) -> Tensor:
    """Mean of 1 - cosine between unit text features and where the sentence encoder puts the texts."""
    return (1 - (texts * places).sum(1)).mean()


def match(texts: Tensor, places: Tensor, scale: float) -> Tensor:
    """How hard it is to tell each text's own place from the places of the batch's other texts."""
    loss: Tensor = ClipLoss()(texts, places, scale)
    return loss


def order(images: Tensor, texts: Tensor, shuffled: Tensor, scale: Tensor) -> Tensor:
    """Cross-entropy of preferring each text over the same words shuffled: ``(n, d)`` each -> ``()``."""
    margin = (images * (texts - shuffled)).sum(1)
    return F.softplus(-scale * margin).mean()


def text_losses(student: Student, texts: Texts, scale: float) -> dict[str, Tensor]:
    """The losses of a step without pictures: ``follow`` and ``match``."""
    written, places = student.texts(texts.tokens), student.mapped(texts.vectors)
    return {"follow": follow(written, places), "match": match(written, places, scale)}


def picture_losses(student: Student, batch: Batch, settings: Settings, read: bool) -> dict[str, Tensor]:
    """The losses of a step with pictures.

    * ``bank``: each picture tells the sentence vectors of its text from thousands of others.
    * ``classes``: each photo tells the names of ImageNet's classes apart as the pretrained classifier does.

    With ``read``, the text tower runs too:

    * ``pair``: pictures and the text tower's texts tell each other apart within the batch.
    * ``follow``: texts stay where the sentence encoder puts them.
    * ``order``: a picture prefers its text over the same words shuffled.
    """
    images, scale = student.images(batch.pictures, settings.dropout), student.clip.logit_scale.exp()
    if batch.pooled is not None:
        images = torch.cat([images, student.images(batch.pooled, settings.dropout)])
    vectors = batch.texts.vectors
    every = torch.cat([vectors, batch.bank])
    own = F.pad(batch.own, (0, len(batch.bank)))
    targets = soft_targets(own, vectors @ every.T, settings.soft_share, settings.soft_temperature)
    names = scale * images[batch.judged] @ student.mapped(batch.class_vectors).T
    losses = {
        "bank": soft_cross_entropy(scale * images @ student.mapped(every).T, targets),
        "classes": soft_cross_entropy(names, batch.posteriors),
    }
    return losses | (_read_losses(student, batch, images, settings) if read else {})


def _read_losses(student: Student, batch: Batch, images: Tensor, settings: Settings) -> dict[str, Tensor]:
    count, scale = len(batch.texts.tokens), student.clip.logit_scale.exp()
    written = student.texts(torch.cat([batch.texts.tokens, batch.extra.tokens, batch.shuffled]))
    texts, extra, shuffled = written.tensor_split([count, count + len(batch.extra.tokens)])
    vectors = batch.texts.vectors
    targets = soft_targets(batch.own, vectors @ vectors.T, settings.soft_share, settings.soft_temperature)
    logits = scale * images @ texts.T
    with torch.no_grad():
        places = student.mapped(torch.cat([vectors, batch.extra.vectors]))
    hard = len(shuffled)
    return {
        "pair": (soft_cross_entropy(logits, targets) + soft_cross_entropy(logits.T, targets)) / 2,
        "follow": follow(torch.cat([texts, extra]), places),
        "order": order(images[:hard], texts[:hard], shuffled, scale),
    }
