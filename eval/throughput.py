"""How fast pairs are scored, against ceilings taken in the same run and against torchmetrics.

The model is ViT-B-32 with random weights, which take the same time as trained ones. torchmetrics runs
transformers' ``CLIPModel`` of the same size. Each rate is the median of several rounds in which the
parts take turns, because other work on a machine disturbs single rounds.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import open_clip
import torch
from PIL import Image
from torch import Tensor, nn

from descscore.adapters import weights_hash
from descscore.encoder import DTYPES, Encoder, find_batch_size
from descscore.errors import DataError
from descscore.eval.formatting import text_table
from descscore.eval.sample_inputs import DECODE as BLANK
from descscore.eval.sample_inputs import caption
from descscore.eval.timing import flops, in_turn, matrix_rate, random_clip, seconds
from descscore.models import LoadedModel, describe_preprocessing
from descscore.scorer import DescScorer
from descscore.stream.image_features import Decoder
from descscore.stream.outcomes import start_decoder
from descscore.stream.pairs import StreamOptions
from descscore.stream.worker import cores
from descscore.texts import TokenizedText
from descscore.tokenizer import Tokenizer

TORCHMETRICS_BATCH, FEW = 8, 64
"""Photos of a batch of torchmetrics, and the most that it is measured with."""

WARM, PASSES = 2048, 16
"""Pairs scored to warm up; passes of a tower in one timing on a GPU, so that there is no gap between them."""

Part: TypeAlias = "tuple[Callable[[], float], int]"
"""A part to time: a call that returns its seconds, and how many items it handles."""


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    photos: Sequence[Path]
    texts: int
    """Captions per photo."""
    rounds: int
    """How often each rate is taken."""
    device: torch.device
    precision: str
    batch_size: int | None = None
    few: int = 0
    """Number of photos for torchmetrics, whose rate needs no long run; 0 leaves torchmetrics out."""
    compiled: bool = False
    """Whether the image tower goes through ``torch.compile``."""

    @property
    def pairs(self) -> list[tuple[Path, str]]:
        """Every photo with its texts, all texts different."""
        photos = enumerate(self.photos)
        return [(photo, caption(self.texts * i + j)) for i, photo in photos for j in range(self.texts)]


@dataclass(frozen=True)
class Work:
    """Floating-point operations."""

    matrix: float
    """Operations a second, of matrix products as large as the towers'."""
    image: float
    """Operations of one image through its tower."""
    text: float
    """Operations of one text through its tower."""
    torchmetrics: float | None = None
    """Operations of a pair under torchmetrics; None if it was not measured."""
    batch: int | None = None
    """Images that ran at a time."""


@dataclass(frozen=True)
class Rates:
    """How much is done a second; None stands for what was not measured."""

    decode: float
    """Images decoded by the workers."""
    image: float
    """Images through the image tower, whose inputs already lie on the device."""
    text: float
    """Texts through the text tower, whose inputs already lie on the device."""
    pairs: float
    """Pairs end to end."""
    work: Work
    torchmetrics: float | None = None
    """Pairs by torchmetrics."""
    undecoded: float | None = None
    """Pairs end to end of pictures that need no decoding."""

    def summed(self, texts: int) -> float:
        """Pairs a second if decoding and forward passes came one after the other, on all cores."""
        return texts / (1 / self.decode + 1 / self.image + texts / self.text)

    def ceiling(self, texts: int) -> float:
        """Pairs a second at the lower of the two ceilings: decoding only, forward passes only."""
        return texts * min(self.decode, 1 / (1 / self.image + texts / self.text))

    def figures(self, texts: int) -> dict[str, float | None]:
        """The reported figures by name, for ``texts`` texts an image."""
        other, work = self.torchmetrics, self.work
        return {
            "decoding alone, images a second": self.decode,
            "image tower alone, images a second": self.image,
            "text tower alone, texts a second": self.text,
            "end to end, pairs a second": self.pairs,
            "without decoding, pairs a second": self.undecoded,
            "share of decoding and forward passes added up": self.pairs / self.summed(texts),
            "share of the lower ceiling": self.pairs / self.ceiling(texts),
            "matrix products, GFLOP a second": work.matrix / 1e9,
            "image tower, GFLOP an image": work.image / 1e9,
            "image tower, share of the matrix rate": self.image * work.image / work.matrix,
            "text tower, GFLOP a text": work.text / 1e9,
            "text tower, share of the matrix rate": self.text * work.text / work.matrix,
            "both towers, GFLOP a pair": (work.image / texts + work.text) / 1e9,
            "torchmetrics CLIPScore, GFLOP a pair": work.torchmetrics and work.torchmetrics / 1e9,
            "torchmetrics CLIPScore, pairs a second": other,
            "times torchmetrics": self.pairs / other if other else None,
            "batch size": work.batch,
        }


def random_model(device: torch.device) -> LoadedModel:
    """ViT-B-32 with random weights from a fixed seed."""
    clip = random_clip("ViT-B-32", device).eval().requires_grad_(False)
    return LoadedModel(
        name="ViT-B-32-random",
        clip=clip,
        base=clip,
        tokenizer=Tokenizer(open_clip.get_tokenizer("ViT-B-32"), clip.context_length, "ViT-B-32"),
        weights_hash=weights_hash(clip),
        preprocessing=describe_preprocessing(clip),
        device=device,
    )


def measure(plan: Plan) -> Rates:
    """All rates, each the median over the rounds, in which the parts take turns."""
    model = random_model(plan.device)
    scorer = DescScorer(model, precision=plan.precision)
    if plan.compiled:
        scorer.encoder.compile()
    size = plan.batch_size or find_batch_size(scorer.encoder.try_batch, plan.device)
    scorer.encoder.batches.value = size
    encoder, pairs, passes = scorer.encoder, plan.pairs, PASSES if plan.device.type == "cuda" else 1
    pixels, texts = resident(scorer, pairs[: StreamOptions().window])

    def again(run: Callable[[], object]) -> float:
        """Seconds of some passes, one after the other."""
        return seconds(lambda: [run() for _ in range(passes)], plan.device)

    parts: dict[str, Part] = {
        "decode": (lambda: _decode(plan, scorer), len(plan.photos)),
        "image": (lambda: again(lambda: encoder.pixels(pixels)), passes * len(pixels)),
        "text": (lambda: again(lambda: encoder.tokenized(texts)), passes * len(texts)),
        "pairs": (lambda: seconds(lambda: _end_to_end(pairs, scorer)), len(pairs)),
    }
    if plan.device.type == "cuda":  # a CPU has other limits: the model and the decoders share its cores
        blank = StreamOptions(decode=BLANK)
        parts["undecoded"] = (lambda: seconds(lambda: _end_to_end(pairs, scorer, blank)), len(pairs))
    work = replace(measure_work(encoder, pixels, texts), batch=encoder.batch_size)
    _end_to_end(pairs[:WARM], scorer)
    if plan.few:
        run, count = _torchmetrics(plan)
        parts["torchmetrics"] = (lambda: seconds(run), count)
        work = replace(work, torchmetrics=flops(run) / count)
    return Rates(**_medians(parts, plan.rounds), work=work)


def resident(
    scorer: DescScorer, pairs: Sequence[tuple[Path, str]]
) -> tuple[torch.Tensor, list[TokenizedText]]:
    """A batch of noise on the device (blank pictures can run faster than real ones), and tokenised texts."""
    spec, device = scorer.encoder.spec, scorer.model.device
    shape = (scorer.encoder.batch_size, spec.height, spec.width, 3)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    return pixels, [scorer.tokenize(text) for _, text in pairs]


def _medians(parts: dict[str, Part], rounds: int) -> dict[str, float]:
    """The rate of each part, the median over the rounds. Parts that need it run once before, to warm up."""
    for name, (run, _) in parts.items():
        if name not in _WARM:
            run()
    times = in_turn({name: run for name, (run, _) in parts.items()}, rounds)
    return {name: statistics.median(count / t for t in times[name]) for name, (_, count) in parts.items()}


_WARM = ("decode", "pairs", "undecoded")
"""Parts that are warm: decoding warms up in each call, scoring was run beforehand."""


def _decode(plan: Plan, scorer: DescScorer) -> float:
    """Seconds that the workers alone take, as the stream runs them, once all have started."""
    with closing(start_decoder(scorer.scoring, StreamOptions())) as decoder:
        # One photo at a time goes to a worker, so with more photos than workers each has had one.
        _through(decoder, [plan.photos[i % len(plan.photos)] for i in range(4 * cores())])
        return seconds(partial(_through, decoder, plan.photos))


def _through(decoder: Decoder, photos: Sequence[Path]) -> None:
    for i, photo in enumerate(photos):
        decoder.submit(i, str(photo))
    for _ in photos:
        answer = decoder.get()
        if answer.error is not None or answer.slot is None:
            raise answer.error or DataError("no picture")
        decoder.release(answer.slot)


def _end_to_end(
    pairs: Sequence[tuple[Path, str]], scorer: DescScorer, options: StreamOptions | None = None
) -> None:
    for outcome in scorer.score_stream(iter(pairs), options or StreamOptions()):
        if outcome.failed:
            raise DataError(str(outcome.error))


def _torchmetrics(plan: Plan) -> tuple[Callable[[], None], int]:
    """A call that scores pairs with torchmetrics' CLIPScore in float32, and the number of pairs.

    Each photo of a batch is decoded once.
    """
    metric = torchmetrics_clip_score(plan.device)
    pairs, batch = plan.pairs[: plan.few * plan.texts], TORCHMETRICS_BATCH * plan.texts

    def run() -> None:
        for first in range(0, len(pairs), batch):
            part = pairs[first : first + batch]
            decoded = {photo: image_tensor(photo) for photo, _ in part}
            metric.update([decoded[photo] for photo, _ in part], [text for _, text in part])

    return run, len(pairs)


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
    """A ``CLIPModel`` whose features are tensors, as torchmetrics expects.

    Newer versions of transformers return a whole output instead.
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


def measure_work(encoder: Encoder, pixels: Tensor, texts: Sequence[TokenizedText]) -> Work:
    """Count one model's operations.

    Args:
        encoder: of the model.
        pixels: ``(n, height, width, 3)`` uint8.
        texts: as many as run together.
    """
    dtype, device = DTYPES[encoder.model.precision], encoder.model.device
    return Work(
        matrix_rate(device, dtype),
        flops(lambda: Encoder(encoder.model, 1).pixels(pixels[:1])),
        flops(lambda: encoder.tokenized(texts)) / len(texts),
    )


NOTES = (
    "A pair is a photo and a text. Decoding and forward passes added up: the rate if both came one after "
    "the other; the lower ceiling: that of the slower one alone.",
    "The matrix rate is that of matrix products as large as the towers'; GFLOP: 10^9 operations.",
)


def throughput_lines(plan: Plan, different: int, figures: Mapping[str, float | None]) -> list[str]:
    """The figures as lines of text. different: number of different photos in the plan's files."""
    shown = [(name, "not measured" if value is None else f"{value:.4g}") for name, value in figures.items()]
    lines = [
        f"{len(plan.photos)} photos ({different} different) with {plan.texts} texts each, "
        f"{plan.precision}, {plan.device}, {plan.rounds} rounds",
        *text_table(("figure", "measured"), shown).splitlines(),
        *NOTES,
    ]
    if plan.device.type != "cuda":
        lines.append("GPU rows: not measured; run this command with --device cuda on a machine that has one")
    return lines
