"""How fast pairs are scored, against ceilings taken in the same run and against torchmetrics.

The model is ViT-B-32 with random weights, which take the time that trained ones take.
Rates are the median of several rounds, since other work on a machine disturbs single ones.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch import Tensor

from descscore.batch.decode_pool import DecodePool, PoolOptions
from descscore.batch.stream import StreamOptions, cores
from descscore.batch_size import find_batch_size
from descscore.errors import DataError, ModelError
from descscore.models import LoadedModel, describe_preprocessing, weights_hash
from descscore.scorer import DescScorer
from descscore.text_tower import encode_tokens
from descscore.texts import TokenizedText, Tokenizer, pad

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
WORDS = (
    *("brown", "dog", "runs", "over", "wet", "sand", "towards", "child"),
    *("red", "coat", "green", "field", "while", "two", "men"),
)
CAPTION_TOKENS = 14
"""Length of a Flickr8k caption in CLIP tokens, start and end token included."""


@dataclass(frozen=True)
class Plan:
    """What is measured. photos: files; texts: captions a photo; rounds: how often each rate is taken."""

    photos: Sequence[Path]
    texts: int
    rounds: int
    device: torch.device
    precision: str
    batch_size: int | None = None

    @property
    def pairs(self) -> list[tuple[Path, str]]:
        """Every photo with its texts, all texts different."""
        photos = enumerate(self.photos)
        return [(photo, caption(self.texts * i + j)) for i, photo in photos for j in range(self.texts)]


@dataclass(frozen=True)
class Rates:
    """Images a second decoded by the workers; images and texts a second through the towers, with
    inputs resident; pairs a second end to end. matrix_flops: of a bf16 product; image_flops: of one image.
    """

    decode: float
    image: float
    text: float
    pairs: float
    matrix_flops: float
    image_flops: float

    def summed(self, texts: int) -> float:
        """Pairs a second if decoding and forward passes came one after the other, on all cores."""
        return texts / (1 / self.decode + 1 / self.image + texts / self.text)

    def ceiling(self, texts: int) -> float:
        """Pairs a second at the lower of the two ceilings: decoding only, forward passes only."""
        return texts * min(self.decode, 1 / (1 / self.image + texts / self.text))


def random_model(device: torch.device) -> LoadedModel:
    """ViT-B-32 with random weights from a fixed seed."""
    torch.manual_seed(0)
    clip = open_clip.create_model("ViT-B-32").to(device).eval().requires_grad_(False)
    config = PreprocessCfg(**open_clip.get_model_preprocess_cfg(clip))
    return LoadedModel(
        name="ViT-B-32-random",
        clip=clip,
        base=clip,
        preprocess=image_transform_v2(config, is_train=False),
        tokenizer=Tokenizer(open_clip.get_tokenizer("ViT-B-32"), clip.context_length, "ViT-B-32"),
        weights_hash=weights_hash(clip),
        preprocessing=describe_preprocessing(clip),
        device=device,
    )


def caption(number: int) -> str:
    """A caption of :data:`CAPTION_TOKENS` tokens, a different one for each number."""
    rng = np.random.default_rng(number)
    return " ".join(rng.choice(WORDS, CAPTION_TOKENS - 2))


def make_photos(folder: Path, count: int, size: tuple[int, int]) -> list[Path]:
    """JPEG photos of ``size`` with the detail of real ones (about a third of a byte a pixel)."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i in range(count):
        rng = np.random.default_rng(i)
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize(size)
        fine = rng.normal(0, 6, (size[1], size[0], 1))
        pixels = (np.asarray(coarse, np.float32) + fine).clip(0, 255).astype(np.uint8)
        paths.append(folder / f"{i:05d}.jpg")
        Image.fromarray(pixels).save(paths[-1], quality=85)
    return paths


def find_photos(folder: Path) -> list[Path]:
    """All photos in ``folder``; :class:`DataError` where there are none."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PHOTO_SUFFIXES)
    if not found:
        raise DataError(f"{folder}: holds no photos ({', '.join(PHOTO_SUFFIXES)})")
    return found


def measure(plan: Plan) -> Rates:
    """All rates, each the median over the rounds, which take turns."""
    scorer = DescScorer(random_model(plan.device), precision=plan.precision)
    batch_size = plan.batch_size or find_batch_size(_trial(scorer), plan.device)
    scorer.encoder.batches.value = batch_size
    spec = scorer.encoder.spec
    pixels = torch.zeros(batch_size, spec.height, spec.width, 3, dtype=torch.uint8, device=plan.device)
    tokens = _tokens(scorer, 2 * batch_size)
    parts: dict[str, tuple[Callable[[], object], float]] = {
        "decode": (lambda: _decode(plan, scorer), len(plan.photos)),
        "image": (lambda: _wait(scorer.encoder.pixels(pixels)), batch_size),
        "text": (lambda: _wait(scorer.encoder.tokenized(tokens).features), len(tokens)),
        "pairs": (lambda: _end_to_end(plan, scorer), len(plan.pairs)),
    }
    for run, _ in parts.values():
        run()
    rates: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(plan.rounds):
        for name, (run, count) in parts.items():
            rates[name].append(count / seconds(run))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return Rates(**medians, matrix_flops=matrix_rate(plan.device), image_flops=image_flops(scorer))


def seconds(run: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _wait(result: Tensor) -> Tensor:
    return result[:1].cpu()


def _trial(scorer: DescScorer) -> Callable[[int], None]:
    spec = scorer.encoder.spec

    def run(size: int) -> None:
        scorer.encoder.batches.value = size
        _wait(scorer.encoder.pixels(torch.zeros(size, spec.height, spec.width, 3, dtype=torch.uint8)))

    return run


def _tokens(scorer: DescScorer, count: int) -> list[TokenizedText]:
    return [scorer.tokenize(caption(i)) for i in range(count)]


def _decode(plan: Plan, scorer: DescScorer) -> None:
    """Workers alone, as the stream runs them; starting them is not part of a long run and not counted."""
    spec = scorer.encoder.spec
    with DecodePool(spec, PoolOptions(cores(), len(plan.photos) + 8)) as pool:
        for i, photo in enumerate(plan.photos):
            pool.submit(i, str(photo))
        for _ in plan.photos:
            answer = pool.get()
            if answer.error is not None:
                raise answer.error


def _end_to_end(plan: Plan, scorer: DescScorer) -> None:
    pairs: Iterator[tuple[Path, str]] = iter(plan.pairs)
    for outcome in scorer.score_stream(pairs, StreamOptions()):
        if outcome.failed:
            raise DataError(str(outcome.error))


def matrix_rate(device: torch.device, size: int | None = None) -> float:
    """Floating-point operations a second of a bf16 matrix product on ``device``."""
    size = size or (8192 if device.type == "cuda" else 1024)
    a = torch.randn(size, size, device=device).to(torch.bfloat16)
    _wait(a @ a)
    taken = min(seconds(lambda: _wait(a @ a)) for _ in range(10))
    return 2 * size**3 / taken


def image_flops(scorer: DescScorer) -> float:
    """Floating-point operations of the image tower for one image."""
    from torch.utils.flop_counter import FlopCounterMode

    spec = scorer.encoder.spec
    with FlopCounterMode(display=False) as counter:
        scorer.encoder.pixels(torch.zeros(1, spec.height, spec.width, 3, dtype=torch.uint8))
    return float(counter.get_total_flops())


def torchmetrics_rate(plan: Plan, batch: int) -> float:
    """Pairs a second of torchmetrics' CLIPScore in float32, each photo of a batch decoded once.

    Features on the same weights are compared first (:class:`ModelError` where they differ).
    """
    from descscore.eval.speed.torchmetrics_clip import TorchmetricsClipScore, image_tensor

    model = random_model(plan.device)
    metric = TorchmetricsClipScore(model.clip, plan.device)
    some = plan.pairs[: plan.texts]
    _, texts = metric.features([image_tensor(some[0][0])], [text for _, text in some])
    tokens = pad([model.tokenizer.tokenize(text).rows[0] for _, text in some]).to(plan.device)
    with torch.inference_mode():
        own = torch.nn.functional.normalize(encode_tokens(model.clip, tokens), dim=-1)
    if float((own - texts).abs().max()) > 1e-4:
        raise ModelError("torchmetrics' model gives other features on the same weights")

    def run() -> None:
        for first in range(0, len(plan.pairs), batch):
            part = plan.pairs[first : first + batch]
            decoded = {photo: image_tensor(photo) for photo, _ in part}
            metric.update([decoded[photo] for photo, _ in part], [text for _, text in part])

    return len(plan.pairs) / statistics.median(seconds(run) for _ in range(plan.rounds))


def machine(device: torch.device) -> str:
    """The machine and versions that figures belong to."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    if device.type == "cpu" and Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return (
        f"{name}, {cores()} cores; Python {platform.python_version()}, torch {torch.__version__}, "
        f"open_clip {open_clip.__version__}, Pillow {Image.__version__}"
    )
