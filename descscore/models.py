"""Load a model from the package, a folder or open_clip.

:func:`load_model` takes three kinds of source:

* a bundled name: ``base`` (untuned) or ``default`` (the base with the bundled adapter);
* a local folder with a base in open_clip's format (``open_clip_config.json`` and weights), or with
  an adapter (``descscore_adapter.json``), which names its base, or holds it;
* an open_clip model and its pretrained tag, written ``ViT-B-32/openai``.

Preprocessing, tokenizer, context length and activation come from the model's own configuration.
Weights are safetensors, or torch files read by torch's loader for tensors only. So no code in a
weights file can run.
"""

from __future__ import annotations

import difflib
import os
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from descscore.adapters import (
    ADAPTER_FILE,
    CONFIG_FILE,
    WEIGHTS_SUFFIXES,
    merge_adapter,
    read_adapter,
    weights_hash,
)
from descscore.clip import (
    CLIP,
    OPENAI_DATASET_MEAN,
    OPENAI_DATASET_STD,
    create_model_and_transforms,
    get_model_preprocess_cfg,
    get_tokenizer,
    list_models,
    pretrained,
)
from descscore.errors import DescscoreError, ModelError, UsageError
from descscore.images import DECODING
from descscore.model_config import check_config
from descscore.purpose import Purpose, Site, load_purpose
from descscore.texts import Tokenizer
from descscore.towers.text import check_text_tower

BUNDLED = ("base", "default")
ASSETS = Path(__file__).parent / "assets"

_PREPROCESSING = {key: f"image_{key}" for key in ("mean", "std", "interpolation", "resize_mode")}
"""Preprocessing settings of an open_clip tag, each with the option of open_clip's factory that takes it."""


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to score, on its device and in evaluation mode."""

    name: str
    """The source as the caller wrote it; for a folder, only its last part."""
    clip: CLIP
    """The scoring model."""
    base: CLIP
    """The untuned model, with the same image tower; ``clip`` itself if no adapter is loaded."""
    tokenizer: Tokenizer
    """Texts to tokens, with the model's context length."""
    weights_hash: str
    """First 12 hex digits of the SHA-256 of all weights of ``clip``."""
    preprocessing: str
    """Short name of the preprocessing, for the signature (:func:`describe_preprocessing`)."""
    device: torch.device
    """Device of both towers."""
    purpose: Purpose | None = None
    """The model's purpose subspace; None for a model without one."""
    precision: str = "float32"
    """Number format of the towers' weights (:func:`descscore.encoder.with_precision`)."""

    @property
    def tuned(self) -> bool:
        """Whether the scoring model differs from its base."""
        return self.clip is not self.base


def load_model(
    source: str | Path = "default", device: str | None = None, cache_dir: str | Path | None = None
) -> LoadedModel:
    """Load a model in float32.

    Args:
        source: A bundled name, a folder, or an open_clip model with its tag (``ViT-B-32/openai``).
        device: A torch device such as ``cpu`` or ``cuda:1``; by default a GPU if there is one.
        cache_dir: Folder for downloaded weights; by default the hub client's own folder.

    Raises:
        ModelError: The model cannot be loaded. The message names the source and the alternatives.
        UsageError: There is no such device. The message lists the devices.
    """
    target = check_device(device)
    try:
        return _load(str(source), target, cache_dir)
    except DescscoreError:
        raise
    except Exception as error:
        raise ModelError(f"model {str(source)!r} cannot be loaded: {_one_line(error)}") from error


def check_device(device: str | None) -> torch.device:
    """The torch device of that name; raises :class:`UsageError` with the available ones."""
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
    clip, tokenizer = _load_base(source, folder, cache_dir)
    return _finish(source, clip, clip, tokenizer, device)


def _folder_of(source: str) -> Path | None:
    """The folder of the model ``source``, or None for an open_clip name with its tag."""
    if source in BUNDLED:
        folder = ASSETS / source
        return folder if source == "base" or folder.is_dir() else ASSETS / "base"
    path = Path(source)
    if path.is_dir():
        return path
    if path.exists():
        raise ModelError(f"model {source!r}: is a file; give the folder that holds {CONFIG_FILE}")
    name = source.rpartition("/")[0]
    if name in list_models():
        return None
    raise _unknown(source, name or source)


def _unknown(source: str, name: str) -> ModelError:
    close = difflib.get_close_matches(name, [*BUNDLED, *list_models()], n=5, cutoff=0.5)
    hint = f"; similar names: {', '.join(close)}" if close else ""
    if name == source and source in list_models():
        tags = ", ".join(f"{source}/{tag}" for tag in pretrained.list_pretrained_tags_by_model(source))
        hint = f"; an open_clip model needs its pretrained tag: {tags or 'none is known for it'}"
    return ModelError(
        f"model {source!r} is not known and no such folder exists. Available: bundled "
        f"{' and '.join(BUNDLED)}; a local folder with {CONFIG_FILE} or {ADAPTER_FILE}; an open_clip "
        f"model with its tag, such as ViT-B-32/openai{hint}"
    )


def _load_base(source: str, folder: Path | None, cache_dir: str | Path | None) -> tuple[CLIP, Any]:
    """An untuned model with its tokenizer."""
    if folder is None:
        return _load_tagged(source, cache_dir)
    if not (folder / CONFIG_FILE).is_file():
        raise ModelError(f"model folder {folder}: holds neither {CONFIG_FILE} nor {ADAPTER_FILE}")
    name = f"local-dir:{folder}"
    weights = [path for path in folder.iterdir() if path.suffix in WEIGHTS_SUFFIXES]
    for path in weights:
        if not path.is_file():  # open_clip would open it, and wait for ever at a named pipe
            raise ModelError(f"{path}: is not a regular file")
        _check_archive(path)
    if not weights:
        raise ModelError(f"model folder {folder}: holds no weights (open_clip_model.safetensors)")
    if folder.parent != ASSETS:  # the package's own models need no check, which takes a tenth of a second
        check_config(folder / CONFIG_FILE, sum(path.stat().st_size for path in weights))
    return _create(name, source, None), get_tokenizer(name)


def _check_archive(path: Path) -> None:
    """Refuse a torch file whose content would take more memory than the file. torch compresses no weights."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":  # so torch does not read it as an archive
            return
        try:
            members = zipfile.ZipFile(file).infolist()
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise ModelError(f"{path}: is damaged ({_one_line(error)})") from None
        size = os.fstat(file.fileno()).st_size
    packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
    if packed or sum(member.file_size for member in members) > size:
        raise ModelError(f"{path}: holds compressed weights; save it with torch.save or as safetensors")


def _load_tagged(source: str, cache_dir: str | Path | None) -> tuple[CLIP, Any]:
    """Load an open_clip model by name and pretrained tag, from the cache or the network."""
    name, _, tag = source.rpartition("/")
    config = pretrained.get_pretrained_cfg(name, tag)
    if not config:
        tags = ", ".join(pretrained.list_pretrained_tags_by_model(name)) or "none"
        raise ModelError(f"model {source!r}: unknown pretrained tag {tag!r} for {name}; available: {tags}")
    cache = str(cache_dir) if cache_dir is not None else None
    try:
        weights = pretrained.download_pretrained(config, cache_dir=cache)
    except Exception as error:
        where = cache or "the hub client's cache folder (HF_HOME)"
        raise ModelError(
            f"model {source!r}: not in {where} and cannot be downloaded ({_one_line(error)}). Available "
            f"without a network: {' and '.join(BUNDLED)}, or a local folder with {CONFIG_FILE}"
        ) from error
    # The tag's configuration names the activation that the weights were trained with. The model's may
    # name another one, and open_clip then only warns (open_clip #771).
    options = {option: config.get(key) for key, option in _PREPROCESSING.items()}
    options["force_quick_gelu"] = bool(config.get("quick_gelu"))
    # With the tag, open_clip would ask the hub a second time; so open_clip gets the file.
    return _create(name, source, weights, **options), get_tokenizer(name)


class _NoRandomWeights(TorchFunctionMode):
    """Skips random initialisation: loading replaces all weights."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__name__", "") in ("normal_", "uniform_", "trunc_normal_"):
            return args[0] if args else kwargs["tensor"]
        return function(*args, **(kwargs or {}))


def _create(name: str, source: str, weights: str | None, **options: Any) -> CLIP:
    try:
        with _NoRandomWeights():
            clip: CLIP = create_model_and_transforms(
                name, pretrained=weights, precision="fp32", require_pretrained=True, **options
            )[0]
            return clip
    except Exception as error:
        raise ModelError(
            f"model {source!r}: its weights or configuration are damaged or do not fit together "
            f"({_one_line(error)})"
        ) from error


def _load_adapted(
    source: str, folder: Path, device: torch.device, cache_dir: str | Path | None
) -> LoadedModel:
    adapter = read_adapter(folder)
    base_folder = adapter.base_folder(folder)
    if base_folder is None and not adapter.pretrained:
        if adapter.base not in BUNDLED:
            raise _unknown(adapter.base, adapter.base)
        base_folder = _folder_of(adapter.base)
    base, tokenizer = _load_base(adapter.base_name, base_folder, cache_dir)
    clip = merge_adapter(base, adapter, folder)
    model = _finish(source, clip, base, tokenizer, device)
    if adapter.block is None or adapter.k is None:
        return model
    purpose = load_purpose(folder, Site(adapter.block, adapter.k), clip)
    return replace(model, purpose=purpose and purpose.to(device))


def _finish(source: str, clip: CLIP, base: CLIP, tokenizer: Any, device: torch.device) -> LoadedModel:
    check_text_tower(clip, source)
    for model in {id(clip): clip, id(base): base}.values():
        model.to(device=device, dtype=torch.float32).eval().requires_grad_(False)
    return LoadedModel(
        name=Path(source).name if Path(source).is_dir() and source not in BUNDLED else source,
        clip=clip,
        base=base,
        tokenizer=Tokenizer(tokenizer, clip.context_length, source),
        weights_hash=weights_hash(clip),
        preprocessing=describe_preprocessing(clip),
        device=device,
    )


def describe_preprocessing(model: CLIP) -> str:
    """A short name of a model's preprocessing, such as ``128px-squash-bicubic-clip-v2``.

    Its parts are size, resize mode, interpolation and normalisation: ``clip`` for the mean and
    standard deviation of OpenAI's models, otherwise the numbers themselves. Last comes how files become
    pixels (:data:`descscore.images.DECODING`).
    """
    config = get_model_preprocess_cfg(model)
    size = config["size"]
    pixels = "x".join(map(str, size)) if isinstance(size, (tuple, list)) else str(size)
    if isinstance(size, (tuple, list)) and len(set(size)) == 1:
        pixels = str(size[0])
    numbers = (*config["mean"], *config["std"])
    usual = (*OPENAI_DATASET_MEAN, *OPENAI_DATASET_STD)
    norm = "clip" if numbers == usual else "/".join(f"{x:.4g}" for x in numbers)
    return f"{pixels}px-{config['resize_mode']}-{config['interpolation']}-{norm}-{DECODING}"


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
