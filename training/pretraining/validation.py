"""What is measured during pretraining, on validation splits only."""

from __future__ import annotations

from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor

from descscore.eval.transfer.grounding import grounding_sampled
from descscore.eval.transfer.retrieval import recall_at_k
from descscore.training.pretraining.config import PretrainConfig
from descscore.training.pretraining.data import load_objects, load_photos
from descscore.training.pretraining.model import Student


class Validator:
    """Measures on the validation splits; nothing of any ``test`` split is read here."""

    def __init__(self, data: Path, config: PretrainConfig, device: str) -> None:
        self.photos = load_photos(data, "val")
        self.objects = load_objects(data, "val")
        self.config, self.device = config, device
        self.tokenizer = open_clip.get_tokenizer("ViT-B-32")
        pre = config.model["preprocess_cfg"]
        self.mean, self.std = torch.tensor(pre["mean"]), torch.tensor(pre["std"])

    @torch.inference_mode()
    def measure(self, student: Student, pixels: int) -> dict[str, float]:
        was_training = student.training
        student.eval()
        images = self._images(student, self.photos.images, pixels)
        texts = self._texts(student, self.photos.texts)
        owner = torch.from_numpy(self.photos.owner).to(images.device)
        recall = recall_at_k(images, texts, owner)
        first = texts[torch.from_numpy(self.photos.first[:-1])]
        things = self._images(student, self.objects.images, pixels)
        names = self._texts(student, [f"a photo of a {n}" for n in self.objects.names])
        right = (things @ names.T).argmax(1).cpu() == self.objects.labels
        student.train(was_training)
        return {
            "image_to_text@10": recall["image_to_text@10"],
            "text_to_image@10": recall["text_to_image@10"],
            "photo_grounding": float(grounding_sampled(images, first, 20, 0).mean()),
            "object_accuracy": float(right.double().mean()),
        }

    def _images(self, student: Student, images: Tensor, pixels: int) -> Tensor:
        out = []
        for part in torch.split(images, 250):
            part = F.interpolate(
                part.to(self.device).float() / 255, (pixels, pixels), mode="bicubic", antialias=True
            )
            part = (part - self.mean.view(1, 3, 1, 1).to(part)) / self.std.view(1, 3, 1, 1).to(part)
            with torch.autocast(self.device, torch.bfloat16):
                out.append(student.images(part.contiguous(memory_format=torch.channels_last)))
        return torch.cat(out)

    def _texts(self, student: Student, texts: list[str]) -> Tensor:
        tokens = self.tokenizer(texts).to(self.device)
        with torch.autocast(self.device, torch.bfloat16):
            return torch.cat([student.texts(part) for part in tokens.split(250)])
