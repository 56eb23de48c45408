"""Read, write and share adapters: folders that turn a base model into a description-tuned one.

An adapter's folder holds the tuned weights (peft's own LoRA files, or ``text_tower.safetensors``
after full tuning), ``purpose.safetensors`` if a purpose subspace was learned, and
``descscore_adapter.json``, which people can read. That file names the base, its pretrained
tag and the hash of its weights. The hash must match: on another base, an adapter would give
plausible but meaningless scores.

>>> from descscore import Adapter, DescScorer
>>> Adapter("runs/mine").push_to_hub("org/name")
>>> DescScorer.from_pretrained("hf-hub:org/name")
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import shutil
import tempfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from descscore import __version__
from descscore.clip import CLIP, text_tower
from descscore.errors import ModelError, UsageError
from descscore.files import UNFINISHED, atomic_write, open_regular, read_json
from descscore.hub import (
    PURPOSE_FILE,
    SETTINGS_FILES,
    TOKENIZER_FILE,
    is_repository_name,
    parse_name,
    reason_of,
)
from descscore.lora import LORA_CONFIG, LORA_WEIGHTS, merge_lora
from descscore.model_card import BUNDLED_LICENCE, CardBase, model_card
from descscore.towers.blocks import own_text_tower

ADAPTER_FILE = "descscore_adapter.json"
CONFIG_FILE = "open_clip_config.json"
WEIGHTS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
"""Endings of the files in which a base in open_clip's format may have its weights."""
TEXT_WEIGHTS = "text_tower.safetensors"
FORMAT = 1
BASE_FOLDER = "base_model"
"""Folder inside an adapter's with the base, where that is nobody else's model."""
CARD = "README.md"
"""A model's card: the page that the hub shows, with the licence in its first lines."""
RUN_FILE = "run.json"
"""The record of a fine-tuning run. It may name folders of a machine, so it is not shared."""
SHARED = (ADAPTER_FILE, CARD, LORA_CONFIG, LORA_WEIGHTS, TEXT_WEIGHTS, PURPOSE_FILE, f"{BASE_FOLDER}/*")
"""The files of an adapter's folder that others need, as patterns."""
_BASE_FILES = (CONFIG_FILE, TOKENIZER_FILE, *SETTINGS_FILES, CARD)
"""Files of a base beside its weights."""
_HEAD = 1 << 16
"""Bytes of a card that are searched for a licence."""
_ROWS, _CHANGED = "token_embedding.rows", "token_embedding.changed"
"""Names of two tensors: numbers ``(m,)`` of the tokens that training changed, and their embeddings
``(m, width)``."""


_OTHER_PARTS = ("visual.", "text_decoder.")
"""Parts of a model that no adapter changes: its image tower, and the decoder of CoCa."""


def _embedding(clip: CLIP) -> str:
    """The name of the token embedding's weights."""
    return "token_embedding.weight" if text_tower(clip) is clip else "text.token_embedding.weight"


@dataclass(frozen=True)
class AdapterInfo:
    """The content of ``descscore_adapter.json``."""

    base: str
    """Bundled name, open_clip model, a repository on the hub (``hf-hub:ORG/NAME``), or a folder inside the
    adapter's own (:func:`include_base`)."""
    base_weights: str
    """Hash of the base's weights, from :func:`weights_hash`."""
    pretrained: str | None = None
    """The base's pretrained tag; None unless the base is an open_clip model."""
    tuning: str = "lora"
    """``lora`` or ``full``."""
    block: int | None = None
    """Text block (0-based) after which the purpose is read; None without a purpose subspace."""
    k: int | None = None
    """Dimensions of the purpose subspace; None without one."""
    format: int = FORMAT
    """Version of the file's format."""

    @property
    def base_name(self) -> str:
        """The base with its tag, for messages."""
        return f"{self.base}/{self.pretrained}" if self.pretrained else self.base

    def base_folder(self, folder: Path) -> Path | None:
        """The folder inside the adapter's ``folder`` that holds the base; None where it holds none.

        Raises:
            ModelError: The base is a folder outside. An adapter may come from a stranger, so it may not
                choose what is read elsewhere, be it by ``..``, by an absolute path or by a link.
        """
        if self.pretrained or self.base == "base" or parse_name(self.base) is not None:
            return None
        base, home = (folder / self.base).resolve(), folder.resolve()
        if home in base.parents:
            return base if base.is_dir() else None
        raise ModelError(
            f"{folder / ADAPTER_FILE}: the base {self.base!r} leads out of the adapter's folder. Copy the "
            f'base to {folder / BASE_FOLDER} and write "base": "{BASE_FOLDER}" in that file'
        )


def read_adapter(folder: Path) -> AdapterInfo:
    """Read ``descscore_adapter.json``; raises :class:`ModelError` with the file and the fault."""
    path = folder / ADAPTER_FILE
    try:
        data = read_json(path)
        if not isinstance(data, dict):
            raise TypeError(f"a JSON object was expected, not {type(data).__name__}")
        known = {field.name for field in fields(AdapterInfo)}
        info = AdapterInfo(**{"format": None} | {k: v for k, v in data.items() if k in known})
        for name, kinds in _KINDS.items():
            if type(getattr(info, name)) not in kinds:
                raise TypeError(f"{name} is {str(getattr(info, name))[:100]!r}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: not an adapter description ({error!r})") from None
    if info.tuning not in ("lora", "full"):
        raise ModelError(f"{path}: tuning {info.tuning!r} is neither 'lora' nor 'full'")
    if info.format != FORMAT:
        raise ModelError(f"{path}: format {info.format!r}; this version of descscore reads {FORMAT}")
    if info.base == "default":
        raise ModelError(f"{path}: names 'default' as its base; an adapter needs an untuned model")
    return info


_KINDS = {
    **dict.fromkeys(("base", "base_weights"), (str,)),
    "pretrained": (str, type(None)),
    **dict.fromkeys(("block", "k"), (int, type(None))),
}
"""Kinds of values that fields of the file may hold."""


def include_base(base: Path, folder: Path) -> str:
    """Put the folder of the base into that of the adapter, which can then be moved and given away.

    A base that lies there already stays where it is. The weights are linked, not copied, where both folders
    are on one disk.

    Returns:
        The base's path inside the adapter's folder.
    """
    base, folder = base.resolve(), folder.resolve()
    if folder in base.parents:
        return base.relative_to(folder).as_posix()
    target = folder / BASE_FOLDER
    target.mkdir(parents=True, exist_ok=True)
    for file in base.iterdir():
        if file.name in _BASE_FILES or file.suffix in WEIGHTS_SUFFIXES:
            copy_file = target / file.name
            copy_file.unlink(missing_ok=True)
            try:
                os.link(file.resolve(), copy_file)
            except OSError:  # another disk, or one without links
                shutil.copyfile(file, copy_file)
    return BASE_FOLDER


def licence_of(card: Path) -> str | None:
    """The licence that a model card names in its first lines; None if it names none."""
    try:
        with open_regular(card) as file:
            head = file.read(_HEAD).decode("utf-8", "replace")
    except OSError:
        return None
    # Patterns in place of a YAML library: the card may be a stranger's, and two plain words are all we need.
    first, *lines = head.splitlines() or [""]
    fences = [i for i, line in enumerate(lines) if line.rstrip() == "---"]
    if first.rstrip() != "---" or not fences:
        return None
    block = "\n".join(lines[: fences[0]])
    found = {
        key: value
        for key in ("license", "license_name")
        for value in re.findall(rf"^{key}: *['\"]?([\w.-]{{1,60}})['\"]? *$", block, re.M | re.A)
    }
    return found.get("license_name") if found.get("license") == "other" else found.get("license")


def weights_hash(model: CLIP) -> str:
    """First 12 hex digits of the SHA-256 over the names, shapes and float32 values of all weights."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        array = value.detach().cpu()
        array = array.float() if array.is_floating_point() else array
        digest.update(f"{name}{tuple(array.shape)}".encode())
        digest.update(array.contiguous().numpy())
    return digest.hexdigest()[:12]


def merge_adapter(base: CLIP, info: AdapterInfo, folder: Path) -> CLIP:
    """A copy of ``base`` with the adapter's weights; the two share the image tower.

    Raises:
        ModelError: The adapter was made for other weights, or its files are damaged.
    """
    try:
        own_text_tower(base)
    except ModelError as error:
        raise ModelError(f"adapter {folder}: {error}") from None
    actual = weights_hash(base)
    if actual != info.base_weights:
        raise ModelError(
            f"adapter {folder}: made for {info.base_name!r} with weights {info.base_weights}, "
            f"but that base has weights {actual}"
        )
    if info.tuning == "full":
        return _load_full(base, folder)
    return merge_lora(copy.deepcopy(base, {id(base.visual): base.visual}), folder)


def _load_full(base: CLIP, folder: Path) -> CLIP:
    # The copy shares the base's weights; load_state_dict then assigns the new ones, so none is copied.
    shared: list[Any] = [base.visual, *base.parameters()]
    clip = copy.deepcopy(base, {id(value): value for value in shared})
    try:
        if not (folder / TEXT_WEIGHTS).is_file():
            raise FileNotFoundError("no such file")
        state = load_file(folder / TEXT_WEIGHTS)
        if _ROWS in state:
            table = own_text_tower(clip).token_embedding.weight.detach().clone()
            table[state.pop(_ROWS).long()] = state.pop(_CHANGED).to(table.dtype)
            state[_embedding(clip)] = table
        weights = clip.state_dict()
        state = {
            name: value.to(weights[name], copy=True) if name in weights else value
            for name, value in state.items()
        }
        result = clip.load_state_dict(state, strict=False, assign=True)
    except Exception as error:
        raise ModelError(f"adapter {folder}: {TEXT_WEIGHTS} cannot be loaded ({error})") from error
    missing = [key for key in result.missing_keys if not key.startswith(_OTHER_PARTS)]
    if missing or result.unexpected_keys or any(key.startswith(_OTHER_PARTS) for key in state):
        raise ModelError(f"adapter {folder}: {TEXT_WEIGHTS} does not hold exactly the text tower's weights")
    return clip


def save_lora(wrapped: Any, info: AdapterInfo, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write a peft-wrapped CLIP's LoRA weights and the adapter's description, each file in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=UNFINISHED, suffix=".part") as name:
        wrapped.save_pretrained(name, safe_serialization=True, save_embedding_layers=False)
        if dtype != torch.float32:
            weights = Path(name) / "adapter_model.safetensors"
            save_file({k: v.to(dtype) for k, v in load_file(weights).items()}, weights, {"format": "pt"})
        for path in Path(name).iterdir():
            if path.name != "README.md":  # peft's empty template of a model card
                with atomic_write(folder / path.name) as part:
                    path.rename(part)
    _write_info(info, folder)


def save_full(
    clip: CLIP, base: CLIP, info: AdapterInfo, folder: Path, dtype: torch.dtype = torch.float32
) -> None:
    """Write the weights of a CLIP's text tower and the adapter's description, each file in one step.

    Only the token embeddings that differ from ``base``'s are written. Training leaves the embeddings
    of unseen words unchanged, and most of a small tower's weights are such embeddings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.cpu() for k, v in clip.state_dict().items() if not k.startswith(_OTHER_PARTS)}
    table, before = state.pop(_embedding(clip)), own_text_tower(base).token_embedding.weight.detach().cpu()
    rows = (table != before).any(1).nonzero()[:, 0]
    state |= {_ROWS: rows.int(), _CHANGED: table[rows]}
    weights = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    with atomic_write(folder / TEXT_WEIGHTS) as part:
        save_file(weights, part)
    _write_info(info, folder)


def _write_info(info: AdapterInfo, folder: Path) -> None:
    text = json.dumps(asdict(info), indent=2, sort_keys=True)
    with atomic_write(folder / ADAPTER_FILE) as part:
        part.write_text(text + "\n", encoding="utf-8")


class Adapter:
    """An adapter's folder, as ``descscore train`` writes it.

    Args:
        folder: The folder.

    Raises:
        ModelError: It holds no adapter.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.info = read_adapter(self.folder)

    def write_card(self) -> Path:
        """Write the model card ``README.md``, from what the folder says of the base and of the run."""
        path, info = self.folder / RUN_FILE, self.info
        run = read_json(path) if path.is_file() else {}
        run = run if isinstance(run, dict) else {}
        repository = parse_name(info.base)
        base = CardBase(
            name=info.base_name,
            weights=info.base_weights,
            inside=not (info.pretrained or info.base == "base" or repository),
            repository=repository.id if repository else None,
            licence=self._licence(run),
        )
        with atomic_write(self.folder / CARD) as part:
            part.write_text(model_card(base, run), encoding="utf-8")
        return self.folder / CARD

    def _licence(self, run: dict[str, Any]) -> str | None:
        """The licence of the base: what the run's record says, or the base's own card."""
        if self.info.base == "base":
            return BUNDLED_LICENCE
        named = run.get("base_licence")
        if isinstance(named, str) and re.fullmatch(r"[\w.-]{1,60}", named, re.ASCII):
            return named
        return licence_of(self.folder / BASE_FOLDER / CARD)

    def push_to_hub(self, name: str, *, private: bool | None = None, revision: str | None = None) -> str:
        """Upload the adapter with its card, in one commit; checkpoints and image features stay here.

        The repository is made if there is none. A card that is there already is uploaded as it is.

        Args:
            name: Name of the repository, ``ORG/NAME``.
            private: Whether a new repository is private; by default what the owner's settings say.
            revision: The branch; by default the main one.

        Returns:
            The address of the commit. :meth:`descscore.DescScorer.from_pretrained` takes ``hf-hub:ORG/NAME``.

        Raises:
            UsageError: The name is none of a repository.
            ModelError: The upload failed. The message says why.
        """
        name = name.removeprefix("hf-hub:").removeprefix("hub:")
        if not is_repository_name(name):
            raise UsageError(f"{name!r}: expected the name of a repository, ORG/NAME")
        if not (self.folder / CARD).is_file():
            self.write_card()
        from huggingface_hub import HfApi

        api = HfApi(endpoint=constants.ENDPOINT, library_name="descscore", library_version=__version__)
        try:
            api.create_repo(name, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=name,
                folder_path=self.folder,
                allow_patterns=list(SHARED),
                revision=revision,
                commit_message="Upload a descscore adapter",
            )
        except Exception as error:
            reason = reason_of(error, 300)
            raise ModelError(
                f"adapter {self.folder}: cannot be uploaded to {constants.ENDPOINT} ({reason})"
            ) from error
        return str(commit.commit_url)
