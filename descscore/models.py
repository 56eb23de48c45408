"""Load a model: one function, three kinds of source.

* a bundled name: ``base`` (untuned) or ``default`` (the base with the shipped
  adapter, or the base itself while none ships);
* a local folder: a base in open_clip's own form (``open_clip_config.json`` beside
  weights) or an adapter (``descscore_adapter.json``), which names its base;
* an open_clip model and its pretrained tag, written ``ViT-B-32/openai``.

Preprocessing, tokenizer, context length and activation come from the model's own
configuration. Weights are safetensors, or read by torch's loader for tensors
alone, so that no code can run from them.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip import CLIP
from open_clip.pretrained import download_pretrained, get_pretrained_cfg
from PIL import Image
from torch import Tensor

from descscore.adapters import ADAPTER_FILE, weights_hash
from descscore.errors import DescscoreError, ModelError, UsageError
from descscore.purpose import Purpose, Site, load_purpose
from descscore.texts import Tokenizer
from descscore.towers.text import check_text_tower

BUNDLED = ("base", "default")
ASSETS = Path(__file__).parent / "assets"
CONFIG_FILE = "open_clip_config.json"

_PREPROCESSING = {key: f"image_{key}" for key in ("mean", "std", "interpolation", "resize_mode")}
"""What a tag of open_clip says of preprocessing, and the option that takes it."""


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to score, on its device and in evaluation mode.

    clip: the scoring model. base: the untuned model it was made from, the same
    object where no adapter is loaded (the image tower is always the base's).
    preprocess: RGB image -> ``(3, height, width)`` float32, from the configuration.
    weights_hash: first 12 hex digits of the SHA-256 of all scoring weights.
    preprocessing: what ``preprocess`` does, in one line, for the signature.
    purpose: where the model keeps a text's purpose, None for a model without it.
    precision: number format of the towers' weights (:mod:`descscore.encoder`).
    """

    name: str
    clip: CLIP
    base: CLIP
    preprocess: Callable[[Image.Image], Tensor]
    tokenizer: Tokenizer
    weights_hash: str
    preprocessing: str
    device: torch.device
    purpose: Purpose | None = None
    precision: str = "float32"

    @property
    def tuned(self) -> bool:
        """Whether the scoring model differs from its base."""
        return self.clip is not self.base


def load_model(
    source: str | Path = "default", device: str | None = None, cache_dir: str | Path | None = None
) -> LoadedModel:
    """Load ``source`` (see the module's text) in float32.

    device: a torch device such as ``cpu`` or ``cuda:1``; by default a GPU where there is one.
    cache_dir: where downloaded weights are kept; by default the hub client's own folder.

    Raises :class:`ModelError` that names what was asked for and what is available.
    """
    target = check_device(device)
    try:
        return _load(str(source), target, cache_dir)
    except DescscoreError:
        raise
    except Exception as error:
        raise ModelError(f"model {str(source)!r} cannot be loaded: {_one_line(error)}") from error


def check_device(device: str | None) -> torch.device:
    """The torch device of that name, or a :class:`UsageError` that lists what there is."""
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    available = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        available.append("mps")
    try:
        target = torch.device(device)
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError, ValueError):
        raise UsageError(
            f"device {device!r} cannot be used; available here: {', '.join(available)}"
        ) from None
    return target


def _load(source: str, device: torch.device, cache_dir: str | Path | None) -> LoadedModel:
    folder = _folder_of(source)
    if folder is not None and (folder / ADAPTER_FILE).is_file():
        return _load_adapted(source, folder, device, cache_dir)
    clip, preprocess, tokenizer = _load_base(source, folder, cache_dir)
    return _finish(source, clip, clip, preprocess, tokenizer, device)


def _folder_of(source: str) -> Path | None:
    """The folder that ``source`` stands for, or None for an open_clip name with its tag."""
    if source in BUNDLED:
        folder = ASSETS / source
        return folder if source == "base" or folder.is_dir() else ASSETS / "base"
    path = Path(source)
    if path.is_dir():
        return path
    if path.exists():
        raise ModelError(f"model {source!r}: is a file; give the folder that holds {CONFIG_FILE}")
    name = source.rpartition("/")[0]
    if name in open_clip.list_models():
        return None
    raise _unknown(source, name or source)


def _unknown(source: str, name: str) -> ModelError:
    close = difflib.get_close_matches(name, open_clip.list_models(), n=5, cutoff=0.5)
    hint = f"; similar open_clip models: {', '.join(close)}" if close else ""
    if name == source and source in open_clip.list_models():
        tags = ", ".join(f"{source}/{tag}" for tag in open_clip.list_pretrained_tags_by_model(source))
        hint = f"; an open_clip model needs its pretrained tag: {tags or 'none is known for it'}"
    return ModelError(
        f"model {source!r} is not known and no such folder exists. Available: bundled "
        f"{' and '.join(BUNDLED)}; a local folder with {CONFIG_FILE} or {ADAPTER_FILE}; an open_clip "
        f"model with its tag, such as ViT-B-32/openai{hint}"
    )


def _load_base(
    source: str, folder: Path | None, cache_dir: str | Path | None
) -> tuple[CLIP, Callable[[Image.Image], Tensor], Any]:
    """An untuned model with its preprocessing and tokenizer."""
    if folder is None:
        return _load_tagged(source, cache_dir)
    if not (folder / CONFIG_FILE).is_file():
        raise ModelError(f"model folder {folder}: holds neither {CONFIG_FILE} nor {ADAPTER_FILE}")
    name = f"local-dir:{folder}"
    try:
        json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))["model_cfg"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / CONFIG_FILE}: not an open_clip configuration ({error!r})") from None
    if not any(path.suffix in (".safetensors", ".bin", ".pt", ".pth") for path in folder.iterdir()):
        raise ModelError(f"model folder {folder}: holds no weights (open_clip_model.safetensors)")
    clip, _, preprocess = _create(name, source, None)
    return clip, preprocess, open_clip.get_tokenizer(name)


def _load_tagged(
    source: str, cache_dir: str | Path | None
) -> tuple[CLIP, Callable[[Image.Image], Tensor], Any]:
    """An open_clip model by name and pretrained tag, from the cache or the network."""
    name, _, tag = source.rpartition("/")
    config = get_pretrained_cfg(name, tag)
    if not config:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise ModelError(f"model {source!r}: unknown pretrained tag {tag!r} for {name}; available: {tags}")
    cache = str(cache_dir) if cache_dir is not None else None
    try:
        weights = download_pretrained(config, cache_dir=cache)
    except Exception as error:
        where = cache or "the hub client's cache folder (HF_HOME)"
        raise ModelError(
            f"model {source!r}: not in {where} and cannot be downloaded ({_one_line(error)}). Available "
            f"without a network: {' and '.join(BUNDLED)}, or a local folder with {CONFIG_FILE}"
        ) from error
    # A tag says which activation its weights were trained with; the plain name's
    # configuration may say another, and open_clip then only warns (open_clip #771).
    options = {option: config.get(key) for key, option in _PREPROCESSING.items()}
    options["force_quick_gelu"] = bool(config.get("quick_gelu"))
    # The file in place of the tag, for which open_clip would ask the hub once more.
    clip, _, preprocess = _create(name, source, weights, **options)
    return clip, preprocess, open_clip.get_tokenizer(name)


def _create(name: str, source: str, pretrained: str | None, **options: Any) -> Any:
    try:
        return open_clip.create_model_and_transforms(
            name, pretrained=pretrained, precision="fp32", require_pretrained=True, **options
        )
    except Exception as error:
        raise ModelError(
            f"model {source!r}: its weights or configuration are damaged or do not fit together "
            f"({_one_line(error)})"
        ) from error


def _load_adapted(
    source: str, folder: Path, device: torch.device, cache_dir: str | Path | None
) -> LoadedModel:
    from descscore.adapters import merge_adapter, read_adapter

    adapter = read_adapter(folder)
    base_source = adapter.base_source(folder)
    base, preprocess, tokenizer = _load_base(base_source, _folder_of(base_source), cache_dir)
    clip = merge_adapter(base, adapter, folder)
    model = _finish(source, clip, base, preprocess, tokenizer, device)
    if adapter.block is None or adapter.k is None:
        return model
    found = load_purpose(folder, Site(adapter.block, adapter.k), clip)
    return replace(model, purpose=found and found.to(device))


def _finish(
    source: str,
    clip: CLIP,
    base: CLIP,
    preprocess: Callable[[Image.Image], Tensor],
    tokenizer: Any,
    device: torch.device,
) -> LoadedModel:
    check_text_tower(clip, source)
    for model in {id(clip): clip, id(base): base}.values():
        model.to(device=device, dtype=torch.float32).eval().requires_grad_(False)
    return LoadedModel(
        name=Path(source).name if Path(source).is_dir() and source not in BUNDLED else source,
        clip=clip,
        base=base,
        preprocess=preprocess,
        tokenizer=Tokenizer(tokenizer, clip.context_length, source),
        weights_hash=weights_hash(clip),
        preprocessing=describe_preprocessing(clip),
        device=device,
    )


def describe_preprocessing(model: CLIP) -> str:
    """A model's preprocessing in one word, such as ``128px-squash-bicubic-clip``.

    Size, resize mode, interpolation, and the normalisation: ``clip`` for the mean
    and deviation of OpenAI's models, otherwise the numbers themselves.
    """
    config = open_clip.get_model_preprocess_cfg(model)
    size = config["size"]
    pixels = "x".join(map(str, size)) if isinstance(size, (tuple, list)) else str(size)
    if isinstance(size, (tuple, list)) and len(set(size)) == 1:
        pixels = str(size[0])
    numbers = (*config["mean"], *config["std"])
    usual = (*open_clip.OPENAI_DATASET_MEAN, *open_clip.OPENAI_DATASET_STD)
    norm = "clip" if numbers == usual else "/".join(f"{x:.4g}" for x in numbers)
    return f"{pixels}px-{config['resize_mode']}-{config['interpolation']}-{norm}"


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
