"""Load a model from the package, a folder, the hub or open_clip.

:func:`load_model` takes four kinds of source:

* a bundled name: ``base`` (untuned) or ``default`` (the base with the bundled adapter);
* a local folder with a base in open_clip's format (``open_clip_config.json`` and weights), or with
  an adapter (``descscore_adapter.json``), which names its base, or holds it;
* a repository on the hub that holds what such a folder does, written ``hf-hub:ORG/NAME`` or
  ``hf-hub:ORG/NAME@REVISION``;
* an open_clip model and its pretrained tag, written ``ViT-B-32/openai``.

Any model of open_clip with an image tower and a text tower will do. Preprocessing, tokenizer, context
length and activation come from the model's own configuration.
Weights are safetensors, or torch files read by torch's loader for tensors only. So no code in a
weights file can run.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from descscore.adapters import (
    ADAPTER_FILE,
    BASE_FOLDER,
    CARD,
    CONFIG_FILE,
    TEXT_WEIGHTS,
    WEIGHTS_SUFFIXES,
    licence_of,
    merge_adapter,
    read_adapter,
    weights_hash,
)
from descscore.clip import (
    CLIP,
    OPENAI_DATASET_MEAN,
    OPENAI_DATASET_STD,
    NoRandomWeights,
    SimpleTokenizer,
    create_model_and_transforms,
    get_model_config,
    get_model_preprocess_cfg,
    list_models,
    pretrained,
    text_tower,
)
from descscore.errors import DescscoreError, ModelError, UsageError
from descscore.files import read_json
from descscore.hub import (
    PURPOSE_FILE,
    SETTINGS_FILES,
    TOKENIZER_FILE,
    TOKENIZER_FILES,
    Repository,
    check_source,
    fetch,
    parse_name,
)
from descscore.images import DECODING
from descscore.library_tokenizer import folder_tokenizer, known_tokenizer
from descscore.lora import LORA_CONFIG, LORA_WEIGHTS
from descscore.model_config import check_config
from descscore.purpose import Purpose, Site, load_purpose
from descscore.tokenizer import Tokenizer
from descscore.towers.text import can_shorten, check_text_tower

BUNDLED = ("base", "default")
ASSETS = Path(__file__).parent / "assets"

_PREPROCESSING = {key: f"image_{key}" for key in ("mean", "std", "interpolation", "resize_mode")}
"""Preprocessing settings of an open_clip tag, each with the option of open_clip's factory that takes it."""

_DEFAULT_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
"""Names of weights files, in the order in which open_clip prefers them."""


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
    licence: str | None = None
    """Licence of the base, as the card beside its weights names it; None if there is none."""

    @property
    def tuned(self) -> bool:
        """Whether the scoring model differs from its base."""
        return self.clip is not self.base

    @property
    def logit_scale(self) -> float:
        """The factor on cosines in the model's logits."""
        return float(self.clip.logit_scale.exp())


def load_model(
    source: str | Path = "default", device: str | None = None, cache_dir: str | Path | None = None
) -> LoadedModel:
    """Load a model in float32.

    Args:
        source: A bundled name, a folder, a repository on the hub (``hf-hub:ORG/NAME``), or an open_clip
            model with its tag (``ViT-B-32/openai``).
        device: A torch device such as ``cpu`` or ``cuda:1``; by default a GPU if there is one.
        cache_dir: Folder for downloaded weights; by default the hub client's own folder.

    Raises:
        ModelError: The model cannot be loaded. The message names the source and the alternatives.
        UsageError: There is no such device, or it cannot compute in float64. The message lists the devices.
    """
    name, target = str(source), check_device(device)
    try:
        folder = _folder_of(name, cache_dir)
        if folder is not None and (folder / ADAPTER_FILE).is_file():
            return _load_adapted(name, folder, target, cache_dir)
        base = _load_base(name, folder, cache_dir)
        return _finish(name, base.clip, base, target)
    except DescscoreError:
        raise
    except Exception as error:
        raise ModelError(f"model {name!r} cannot be loaded: {_one_line(error)}") from error


def check_device(device: str | None) -> torch.device:
    """The torch device of that name; raises :class:`UsageError` with the available ones."""
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    available = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    try:
        target = torch.device(device)
        # Cosines need float64, which Apple's devices lack. torch's "meta" holds no values.
        torch.zeros(1, dtype=torch.float64, device=target).item()
    except (RuntimeError, AssertionError, ValueError, TypeError, ImportError):
        raise UsageError(
            f"device {device!r} does not exist here or has no float64; available: {', '.join(available)}"
        ) from None
    return target


def _folder_of(source: str, cache_dir: str | Path | None) -> Path | None:
    """The folder of the model ``source``, or None for an open_clip name with its tag."""
    check_source(source)
    if source in BUNDLED:
        folder = ASSETS / source
        return folder if source == "base" or folder.is_dir() else ASSETS / "base"
    repository = parse_name(source)
    if repository is not None:
        return fetch(repository, _needed, cache_dir)
    path = Path(source)
    if path.is_dir():
        return path
    if path.exists():
        raise ModelError(f"model {source!r}: is a file; give the folder that holds {CONFIG_FILE}")
    name = source.rpartition("/")[0]
    if name in list_models():
        return None
    raise _unknown(source, name or source)


def _needed(names: Sequence[str]) -> list[str]:
    """The files of a model's repository that are needed, among the names of all its files.

    Weights come last: where they are in a cache, all else is.
    """
    here = set(names)
    if CONFIG_FILE in here and ADAPTER_FILE not in here:
        return _base_files(here)
    if ADAPTER_FILE not in here:
        raise ModelError(f"holds neither {CONFIG_FILE} nor {ADAPTER_FILE}")
    if not here & {LORA_WEIGHTS, TEXT_WEIGHTS}:
        raise ModelError(f"holds no weights for its {ADAPTER_FILE} ({LORA_WEIGHTS})")
    prefix = f"{BASE_FOLDER}/"
    inside = {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
    base = [prefix + name for name in (_base_files(inside) if inside else ())]
    own = [name for name in (PURPOSE_FILE, LORA_CONFIG, TEXT_WEIGHTS, LORA_WEIGHTS) if name in here]
    return [ADAPTER_FILE, *base, *own]


def _base_files(names: set[str]) -> list[str]:
    weights = [name for name in _WEIGHTS if name in names]
    weights += sorted(name for name in names if "/" not in name and name.endswith(WEIGHTS_SUFFIXES))
    if CONFIG_FILE not in names or not weights:
        raise ModelError(f"holds no weights for its {CONFIG_FILE} ({_WEIGHTS[0]})")
    others = (TOKENIZER_FILE, *SETTINGS_FILES, CARD)
    return [CONFIG_FILE, *(name for name in others if name in names), weights[0]]


def _unknown(source: str, name: str) -> ModelError:
    """The error for a source that is neither a folder nor known. name: the source without its tag."""
    if name == source and source in list_models():
        return ModelError(
            f"model {source!r}: give its pretrained tag too; available: {_tags(source, f'{source}/')}"
        )
    similar = _similar(name, source.removeprefix(name).removeprefix("/"))
    if similar:
        return ModelError(f"model {source!r} is not known; did you mean {similar}?")
    is_name = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", source)
    hub = f"; a repository on the hub is written hf-hub:{source}." if is_name else "."
    return ModelError(
        f"model {source!r} is not known and no such folder exists{hub} Available: bundled "
        f"{' and '.join(BUNDLED)}; a local folder with {CONFIG_FILE} or {ADAPTER_FILE}; such a folder on the "
        f"hub, as hf-hub:ORG/NAME; an open_clip model with its tag, such as ViT-B-32/openai"
    )


def _similar(name: str, tag: str) -> str | None:
    """A known source with a name like ``name``, at best the same in other case."""
    tags = {model: pretrained.list_pretrained_tags_by_model(model) for model in list_models()}
    known = {model.lower(): model for model in [*BUNDLED, *tags] if tags.get(model, True)}
    close = [name.lower()] if name.lower() in known else difflib.get_close_matches(name.lower(), known, n=1)
    if not close:
        return None
    found = known[close[0]]
    return found if found in BUNDLED else f"{found}/{tag if tag in tags[found] else tags[found][0]}"


def _tags(name: str, prefix: str = "", like: str = "") -> str:
    """Five pretrained tags of an open_clip model, those ``like`` a given one first, and how many more."""
    tags = pretrained.list_pretrained_tags_by_model(name)
    close = difflib.get_close_matches(like, tags, n=5)
    tags = [*close, *(tag for tag in tags if tag not in close)]
    more = f" and {len(tags) - 5} more" if len(tags) > 5 else ""
    return ", ".join(prefix + tag for tag in tags[:5]) + more or "none"


@dataclass(frozen=True)
class _Base:
    """An untuned model with its tokenizer."""

    clip: CLIP
    tokenizer: Any
    """open_clip's own, or :class:`descscore.library_tokenizer.LibraryTokenizer`."""
    context_length: int
    licence: str | None = None


def _load_base(source: str, folder: Path | None, cache_dir: str | Path | None) -> _Base:
    if folder is None:
        return _load_tagged(source, cache_dir)
    if not (folder / CONFIG_FILE).is_file():
        raise ModelError(f"model folder {folder}: holds neither {CONFIG_FILE} nor {ADAPTER_FILE}")
    weights = [path for path in folder.iterdir() if path.suffix in WEIGHTS_SUFFIXES]
    for path in weights:
        if not path.is_file():  # open_clip would open it, and wait for ever at a named pipe
            raise ModelError(f"{path}: is not a regular file")
        _check_archive(path)
    if not weights:
        raise ModelError(f"model folder {folder}: holds no weights (open_clip_model.safetensors)")
    if folder.parent == ASSETS:  # the package's own models need no check, which takes a tenth of a second
        text = read_json(folder / CONFIG_FILE)["model_cfg"]["text_cfg"]
    else:
        size = sum(path.stat().st_size for path in weights)
        text = check_config(folder / CONFIG_FILE, size, lambda name: _tower_folder(name, cache_dir))
    name = f"local-dir:{folder}"
    options = {"text_cfg": text} if text.get("hf_model_name") else {}
    clip = _create(name, source, None, **options)
    base = _with_tokenizer(clip, text, folder, cache_dir)
    return replace(base, licence=licence_of(folder / CARD))


def _with_tokenizer(
    clip: CLIP, text: dict[str, Any], folder: Path | None, cache_dir: str | Path | None
) -> _Base:
    """A model with the tokenizer that its settings ``text_cfg`` name: that of its folder, or a known one."""
    repository = text.get("hf_tokenizer_name")
    context = int(text.get("context_length", 77))
    if not repository:
        return _Base(clip, _simple_tokenizer(json.dumps(text.get("tokenizer_kwargs") or {})), context)
    settings, limit = text.get("tokenizer_kwargs") or {}, getattr(text_tower(clip), "vocab_size", 0) or None
    if folder is not None and (folder / TOKENIZER_FILE).is_file():
        return _Base(clip, folder_tokenizer(folder, settings, limit), context)
    found = fetch(Repository(repository), _tokenizer_files, cache_dir)
    try:
        return _Base(clip, known_tokenizer(found, settings, limit), context)
    except ModelError as error:
        raise ModelError(f"tokenizer {repository}: {error}") from None


@lru_cache
def _simple_tokenizer(settings: str) -> SimpleTokenizer:
    """open_clip's own tokenizer. Models share it, because it takes a tenth of a second to build.

    settings: the arguments of its class, as JSON.
    """
    return SimpleTokenizer(**json.loads(settings))


def _tokenizer_files(names: Sequence[str]) -> list[str]:
    """The files of a tokenizer's repository that are needed, among the names of all its files."""
    found = [name for name in TOKENIZER_FILES if name in names]
    if not any("tokenizer" in name or name.endswith(".model") or "vocab" in name for name in found):
        raise ModelError("holds no tokenizer")
    if TOKENIZER_FILE in found:  # holds what the models of SentencePiece do
        found = [name for name in found if not name.endswith(".model")]
    return found


def _tower_folder(name: str, cache_dir: str | Path | None) -> Path:
    """The folder with the configuration of a text tower of another library."""

    def needed(names: Sequence[str]) -> list[str]:
        if "config.json" not in names:
            raise ModelError("holds no config.json")
        return ["config.json"]

    return fetch(Repository(name), needed, cache_dir)


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


def _load_tagged(source: str, cache_dir: str | Path | None) -> _Base:
    """Load an open_clip model by name and pretrained tag, from the cache or the network."""
    name, _, tag = source.rpartition("/")
    config = pretrained.get_pretrained_cfg(name, tag)
    if not config:
        raise ModelError(
            f"model {source!r}: unknown pretrained tag {tag!r} for {name}; available: {_tags(name, like=tag)}"
        )
    text = dict(get_model_config(name)["text_cfg"])
    try:
        weights = _tagged_weights(config, cache_dir)
        # The tag's configuration names the activation that the weights were trained with. The model's may
        # name another one, and open_clip then only warns (open_clip #771).
        options = {option: config.get(key) for key, option in _PREPROCESSING.items()}
        options["force_quick_gelu"] = bool(config.get("quick_gelu"))
        if text.get("hf_model_name"):
            tower = _tower_folder(text["hf_model_name"], cache_dir)
            options["text_cfg"] = text | {"hf_model_name": str(tower), "hf_model_pretrained": False}
        # With the tag, open_clip would ask the hub a second time; so open_clip gets the file.
        return _with_tokenizer(_create(name, source, weights, **options), text, None, cache_dir)
    except ModelError as error:
        raise ModelError(
            f"model {source!r}: {error}. Available without a network: {' and '.join(BUNDLED)}, or a local "
            f"folder with {CONFIG_FILE}"
        ) from error


def _tagged_weights(config: dict[str, Any], cache_dir: str | Path | None) -> str:
    """The file with the weights of an open_clip tag."""
    place = config.get("hf_hub", "")
    if not place:
        return str(pretrained.download_pretrained(config, cache_dir=cache_dir and str(cache_dir)))
    repository, _, file = place.rpartition("/")
    names = _DEFAULT_WEIGHTS
    if file:  # open_clip, too, prefers safetensors
        names = tuple(dict.fromkeys((str(Path(file).with_suffix(".safetensors")), file)))

    def needed(here: Sequence[str]) -> list[str]:
        found = [name for name in names if name in here]
        if not found:
            raise ModelError(f"holds neither of {' and '.join(names)}")
        return found[:1]

    folder = fetch(Repository(repository), needed, cache_dir)
    return str(next(folder / name for name in names if (folder / name).is_file()))


def _create(name: str, source: str, weights: str | None, **options: Any) -> CLIP:
    try:
        with NoRandomWeights():
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
        if adapter.base not in BUNDLED and parse_name(adapter.base) is None:
            raise _unknown(adapter.base, adapter.base)
        base_folder = _folder_of(adapter.base, cache_dir)
    base = _load_base(adapter.base_name, base_folder, cache_dir)
    clip = merge_adapter(base.clip, adapter, folder)
    model = _finish(source, clip, base, device)
    if adapter.block is None or adapter.k is None:
        return model
    purpose = load_purpose(folder, Site(adapter.block, adapter.k), clip)
    return replace(model, purpose=purpose and purpose.to(device))


def _finish(source: str, clip: CLIP, base: _Base, device: torch.device) -> LoadedModel:
    check_text_tower(clip, source)
    for model in {id(clip): clip, id(base.clip): base.clip}.values():
        model.to(device=device, dtype=torch.float32).eval().requires_grad_(False)
    return LoadedModel(
        name=_short_name(source),
        clip=clip,
        base=base.clip,
        tokenizer=Tokenizer(base.tokenizer, base.context_length, source, padded=not can_shorten(clip)),
        weights_hash=weights_hash(clip),
        preprocessing=describe_preprocessing(clip),
        device=device,
        licence=base.licence,
    )


def _short_name(source: str) -> str:
    """A source as signatures name it: of a folder only the last part, also where it is written ``.``."""
    if source in BUNDLED or not Path(source).is_dir():
        return source
    return Path(os.path.abspath(source)).name


def describe_preprocessing(model: CLIP) -> str:
    """A short name of a model's preprocessing, such as ``128px-squash-bicubic-clip-v3``.

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
