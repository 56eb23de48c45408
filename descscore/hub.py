"""Names and files of models on the Hugging Face hub, through the client's own cache.

descscore asks the hub only for names that begin with ``hf-hub:`` or ``hub:``, and for files that open_clip
lists for its own models. Each load asks for one list of files, then downloads only what is missing. Files
stay in the cache: without a network they come from there.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from huggingface_hub import constants

from descscore import __version__
from descscore.errors import ModelError

log = logging.getLogger(__name__)

PREFIXES = ("hf-hub:", "hub:")
"""What a name on the hub begins with."""

PURPOSE_FILE = "purpose.safetensors"
"""The file of an adapter with its purpose subspace."""
TOKENIZER_FILE = "tokenizer.json"
SETTINGS_FILES = ("tokenizer_config.json", "special_tokens_map.json")
"""Files that name the padding token, which ``tokenizer.json`` may leave out."""
TOKENIZER_FILES = (
    *(TOKENIZER_FILE, *SETTINGS_FILES, "added_tokens.json", "spiece.model", "sentencepiece.bpe.model"),
    *("vocab.txt", "vocab.json", "merges.txt", "config.json"),
)
"""The files of a tokenizer's repository that ``transformers`` may read."""

_SECONDS = 8.0
"""A hub that has not listed a repository's files by then counts as unreachable."""

Wanted: TypeAlias = Callable[[Sequence[str]], list[str]]
"""Chooses among the names of a repository's files. It raises :class:`ModelError` if what it needs is missing.
The first name that it gives is that of a file outside all folders."""


@dataclass(frozen=True)
class Repository:
    """A model repository on the hub."""

    id: str
    """Its name, with its owner: ``ORG/NAME``."""
    revision: str | None = None
    """A branch, a tag or a commit; None for the main branch."""

    def __str__(self) -> str:
        return f"hf-hub:{self.id}" + (f"@{self.revision}" if self.revision else "")


def parse_name(source: str) -> Repository | None:
    """The repository that a model's name names; None for a name that is not one of the hub.

    Raises:
        ModelError: It has a hub's prefix, but what follows is not ORG/NAME or ORG/NAME@REVISION.
    """
    prefix = next((prefix for prefix in PREFIXES if source.startswith(prefix)), None)
    if prefix is None:
        return None
    name, at, revision = source.removeprefix(prefix).partition("@")
    named = re.fullmatch(r"\w[\w./-]{0,99}", revision, re.ASCII) and ".." not in revision
    if not is_repository_name(name) or (at and not named):
        raise ModelError(
            f"model {source[:200]!r}: expected hf-hub:ORG/NAME or hf-hub:ORG/NAME@REVISION; the hub was not "
            "asked"
        )
    return Repository(name, revision or None)


def check_source(source: str) -> None:
    """Raise :class:`ModelError` for an empty name, and for a path (``./``, ``/``, ``a/b/c``) to nothing."""
    if not source.strip():
        raise ModelError(f"model {source!r}: the name is empty")
    path = Path(source)
    is_path = source.startswith(("/", "~")) or re.match(r"\.\.?(/|$)", source) or source.count("/") > 1
    if is_path and not source.startswith(PREFIXES) and not path.exists():
        raise ModelError(f"model {source!r}: no such folder")


def is_repository_name(name: str) -> bool:
    """Whether ``name`` can be that of a repository on the hub, ``ORG/NAME``."""
    parts = re.fullmatch(r"([\w-][\w.-]*)/([\w-][\w.-]*)", name, re.ASCII)
    return parts is not None and len(name) <= 96 and ".." not in name and "--" not in name


def fetch(repository: Repository, wanted: Wanted, cache_dir: str | Path | None = None) -> Path:
    """The folder in the client's cache that holds the wanted files of a repository.

    What is missing is downloaded. A repository that cannot be reached comes from the cache (by default the
    client's own), if it is whole there.

    Raises:
        ModelError: There is no such repository or revision, it lacks files, or it is neither in the cache nor
            reachable. The message says what was tried.
    """
    cache = Path(cache_dir or constants.HF_HUB_CACHE)
    fixed = re.fullmatch("[0-9a-f]{40}", repository.revision or "") is not None
    kept, fault = _cached(repository, wanted, cache)
    if kept is not None and (fixed or constants.HF_HUB_OFFLINE):
        return kept
    if constants.HF_HUB_OFFLINE:
        asked = f"{constants.ENDPOINT} was not asked: HF_HUB_OFFLINE is set"
        raise ModelError(f"{repository}: {fault}, and {asked}")
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        names, commit = _within(_SECONDS, lambda: _listing(repository))
    except GatedRepoError:
        raise ModelError(
            f"{repository}: asks for an agreement on its page at {constants.ENDPOINT}; accept it there, then "
            "run: hf auth login"
        ) from None
    except RevisionNotFoundError:
        raise ModelError(
            f"{repository}: {constants.ENDPOINT} has no revision {repository.revision!r} of it"
        ) from None
    except RepositoryNotFoundError:
        raise ModelError(
            f"{repository}: {constants.ENDPOINT} has no such model, or it is private (run: hf auth login)"
        ) from None
    except Exception as error:
        reason = reason_of(error)
        if kept is not None:
            log.warning(
                "%s: %s cannot be reached (%s); used from the cache", repository, constants.ENDPOINT, reason
            )
            return kept
        raise ModelError(
            f"{repository}: {fault}, and {constants.ENDPOINT} cannot be reached ({reason})"
        ) from error
    try:
        chosen = wanted(names)
    except ModelError as error:
        raise ModelError(f"{repository}: {error}") from None
    return _download(repository, commit, chosen, cache)


def _listing(repository: Repository) -> tuple[list[str], str]:
    """The names of a repository's files, and its commit."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=constants.ENDPOINT, library_name="descscore", library_version=__version__)
    info = api.model_info(repository.id, revision=repository.revision, timeout=_SECONDS)
    return [file.rfilename for file in info.siblings or ()], str(info.sha)


def _download(repository: Repository, commit: str, names: Sequence[str], cache: Path) -> Path:
    from huggingface_hub import hf_hub_download

    options: dict[str, Any] = {
        "cache_dir": cache,
        "endpoint": constants.ENDPOINT,
        "library_name": "descscore",
    }
    try:
        # Asked by its branch, the client remembers which commit that is: so it can be found offline.
        first = hf_hub_download(repository.id, names[0], revision=repository.revision, **options)
        for name in names[1:]:
            hf_hub_download(repository.id, name, revision=commit, **options)
    except Exception as error:
        raise ModelError(
            f"{repository}: cannot be downloaded from {constants.ENDPOINT} ({reason_of(error)})"
        ) from error
    return Path(first).parent


def reason_of(error: BaseException, most: int = 200) -> str:
    """What an error of the client says, in one line of at most ``most`` characters."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def _cached(repository: Repository, wanted: Wanted, cache: Path) -> tuple[Path | None, str]:
    """The repository's folder in the cache; or None, and what is missing."""
    root = cache / f"models--{repository.id.replace('/', '--')}"
    revision = repository.revision or "main"
    reference = root / "refs" / revision
    commit = reference.read_text().strip() if reference.is_file() else revision
    folder = root / "snapshots" / commit
    if not re.fullmatch(r"[\w.-]+", commit) or not folder.is_dir():
        return None, f"not in the cache {cache}"
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    try:
        wanted(names)
    except ModelError as error:
        return None, f"not whole in the cache {cache} ({error})"
    return folder, ""


def _within(seconds: float, call: Callable[[], Any]) -> Any:
    """The result of ``call``, or :class:`TimeoutError`; name servers keep no timeout of the client."""
    answer: Future[Any] = Future()

    def run() -> None:
        try:
            answer.set_result(call())
        except Exception as error:  # noqa: BLE001 - raised below, in the thread that waits
            answer.set_exception(error)

    threading.Thread(target=run, daemon=True).start()  # an executor would wait for it at the end
    if wait([answer], seconds).not_done:
        raise TimeoutError(f"no answer within {seconds:.0f} seconds")
    return answer.result()
