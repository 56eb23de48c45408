"""Tokenizers of Hugging Face's libraries, such as SigLIP's SentencePiece, in the form that texts need.

open_clip reads most tokenizers of other libraries through ``transformers``, under a name on the hub. So does
:func:`known_tokenizer`, for the names that open_clip's own models have. A model's folder may come from a
stranger: :func:`folder_tokenizer` reads its ``tokenizer.json`` only, checked by
:mod:`descscore.tokenizer_config`, and never asks ``transformers`` to choose a class.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from descscore.clip import get_clean_fn
from descscore.errors import DescscoreError, ModelError, TextError
from descscore.files import open_regular, read_json
from descscore.hub import SETTINGS_FILES, TOKENIZER_FILE
from descscore.tokenizer_config import read_tokenizer_config

_BEGINS = ("\u2581", "\u0120")
"""Signs of SentencePiece and byte-level BPE that a word begins."""
_GOES_ON = "##"
"""WordPiece's sign that a word goes on."""
_LEFT = ("Gemma", "Siglip2", "Llama")
"""So begin names of classes of ``transformers`` that pad on the left, unless a folder says otherwise."""


class LibraryTokenizer:
    """A tokenizer of another library, with the cleaning that open_clip does before it.

    Args:
        tokenizer: Of ``transformers`` or of ``tokenizers``.
        padding: The token that fills rows up.
        clean: Name of open_clip's way to clean texts.
        zero: A token that open_clip replaces by 0, if any.
        limit: Number of token embeddings of the model.
        pads_left: Whether rows are filled up before the text, not behind it.
    """

    def __init__(
        self,
        tokenizer: Any,
        padding: int,
        clean: str,
        zero: int | None = None,
        limit: int | None = None,
        pads_left: bool = False,
    ) -> None:
        self._tokenizer, self._zero, self._limit = tokenizer, zero, limit
        self.pads_left = pads_left
        self._bare = not callable(tokenizer)
        self.clean_fn: Callable[[str], str] = get_clean_fn(clean)
        self.padding = padding
        """The token that fills rows up."""
        with _without_panic(ModelError):
            body, whole = self._raw("a", special=False), self._raw("a", special=True)
        places = [i for i in range(len(whole)) if whole[i : i + len(body)] == body]
        if not body or not places:
            raise ModelError("the tokenizer cannot be used: it has no tokens for the text 'a'")
        after = places[0] + len(body)
        self.start, self.end = self._zeroed(whole[: places[0]]), self._zeroed(whole[after:])
        """Tokens before and behind each text."""
        self._check_embeddings((*self.start, *self.end, padding))

    @property
    def size(self) -> int:
        """Number of tokens."""
        return int(self._tokenizer.get_vocab_size() if self._bare else len(self._tokenizer))

    def _raw(self, text: str, special: bool) -> list[int]:
        if self._bare:
            return list(self._tokenizer.encode(text, add_special_tokens=special).ids)
        return list(self._tokenizer(text, add_special_tokens=special, verbose=False).input_ids)

    def _zeroed(self, ids: Sequence[int]) -> tuple[int, ...]:
        return tuple(0 if i == self._zero else i for i in ids)

    def encode(self, text: str) -> list[int]:
        """Token ids, without start and end, of a text that is clean (:func:`descscore.cleaning.clean_text`).

        Raises:
            TextError: The library fails on this text. It may read others.
            ModelError: The model has no embedding for a token.
        """

        def fault(reason: str) -> TextError:
            return TextError("not_text", f"text {text[:40]!r}: {reason}")

        with _without_panic(fault):
            ids = [i for i in self._raw(text, special=False) if i != self._zero]
        self._check_embeddings(ids)
        return ids

    def _check_embeddings(self, ids: Sequence[int]) -> None:
        """Raise :class:`ModelError` for a token that the model has no embedding for."""
        if self._limit is not None and max(ids, default=0) >= self._limit:
            raise ModelError(
                f"the tokenizer gives token {max(ids)}, but the model has {self._limit:,} tokens; the two do "
                "not belong together"
            )

    @staticmethod
    def windows(sentences: Iterable[str], room: int, read: Callable[[str], list[int]]) -> list[list[int]]:
        """Token ids of clean sentences, in windows of at most ``room`` tokens. read: gives those of a text.

        A window is tokenised as a whole. A sentence that does not fit is split at blanks, and a word that
        does not fit is split between characters.
        """
        windows: list[str] = []
        for piece in (part for sentence in sentences for part in _fitting(sentence, room, read)):
            joined = f"{windows[-1]} {piece}" if windows else piece
            if windows and len(read(joined)) <= room:
                windows[-1] = joined
            else:
                windows.append(piece)
        return [ids[:room] for window in windows if (ids := read(window))]

    def _piece(self, token: int) -> str:
        piece = (
            self._tokenizer.id_to_token(token) if self._bare else self._tokenizer.convert_ids_to_tokens(token)
        )
        return str(piece or "")

    @cached_property
    def _has_sign_within(self) -> bool:
        """Whether the sign stands at tokens within a word, as in BERT's WordPiece, and not at the first."""
        return any(self._piece(token).startswith(_GOES_ON) for token in range(self.size))

    def begins_word(self, token: int) -> bool:
        """Whether a word begins with this token."""
        piece = self._piece(token)
        return not piece.startswith(_GOES_ON) if self._has_sign_within else piece.startswith(_BEGINS)

    def spelling(self, token: int) -> str:
        """The letters of a token, without the sign that a word begins or goes on."""
        piece = self._piece(token)
        return piece.removeprefix(_GOES_ON) if self._has_sign_within else piece.lstrip("".join(_BEGINS))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids.

        Raises:
            ModelError: The library fails on them.
        """

        def fault(reason: str) -> ModelError:
            return ModelError(f"token ids {str(list(ids[:10]))[1:-1]}: {reason}")

        with _without_panic(fault):
            return str(self._tokenizer.decode(list(ids))).strip()


@contextlib.contextmanager
def _without_panic(fault: Callable[[str], DescscoreError]) -> Iterator[None]:
    """Turn a panic of ``tokenizers``, which is no :class:`Exception`, into the error that ``fault`` makes."""
    try:
        yield
    except Exception:
        raise
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise fault(f"the tokenizer fails ({str(error)[:200]})") from None


def _fitting(text: str, room: int, read: Callable[[str], list[int]]) -> list[str]:
    """Parts of a text of at most ``room`` tokens each: the text, its words, or halves of a long word."""
    if len(read(text)) <= room:
        return [text] if text else []
    words = text.split()
    if len(words) == 1:
        words = [text[: len(text) // 2], text[len(text) // 2 :]] if len(text) > 1 else []
        return [part for word in words for part in _fitting(word, room, read)] or [text]
    return [part for word in words for part in _fitting(word, room, read)]


def known_tokenizer(folder: Path, settings: dict[str, Any], limit: int | None) -> LibraryTokenizer:
    """The tokenizer of a repository that open_clip names for one of its own models.

    Args:
        folder: A copy of the repository's tokenizer files.
        settings: open_clip's settings of it (``tokenizer_kwargs``).
        limit: Number of token embeddings of the model.

    Raises:
        ModelError: The repository has only a model of SentencePiece, and the package for it is missing.
    """
    models = [path.name for path in folder.glob("*.model")]
    if models and not (folder / TOKENIZER_FILE).is_file() and find_spec("sentencepiece") is None:
        raise ModelError(
            f"its tokenizer is a model of SentencePiece ({models[0]}), which needs two more packages: "
            "pip install sentencepiece protobuf"
        )
    from transformers import AutoTokenizer  # takes seconds, which most models need not wait

    others = {key: value for key, value in settings.items() if key not in ("clean", "strip_sep_token")}
    tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, **others)
    zero = tokenizer.sep_token_id if settings.get("strip_sep_token") else None
    padding, left = tokenizer.pad_token_id or 0, tokenizer.padding_side == "left"
    return LibraryTokenizer(tokenizer, padding, settings.get("clean", "whitespace"), zero, limit, left)


def folder_tokenizer(folder: Path, settings: dict[str, Any], limit: int | None) -> LibraryTokenizer:
    """The tokenizer in ``tokenizer.json`` of a model's folder, which may come from a stranger.

    Arguments as for :func:`known_tokenizer`. Raises :class:`ModelError` that names the file.
    """
    from tokenizers import Tokenizer

    path = folder / TOKENIZER_FILE
    try:
        with open_regular(path) as file, _without_panic(ModelError):
            tokenizer = Tokenizer.from_str(read_tokenizer_config(file))
        own = tokenizer.padding or {}
        tokenizer.no_padding()
        tokenizer.no_truncation()
        names = _settings(folder)
        by_class = "left" if names.get("tokenizer_class", "").startswith(_LEFT) else "right"
        left = names.get("padding_side", own.get("direction", by_class)) == "left"
        padding = tokenizer.token_to_id(names.get("pad_token", "<pad>")) or 0
        zero = (
            tokenizer.token_to_id(names.get("sep_token", "[SEP]"))
            if settings.get("strip_sep_token")
            else None
        )
        return LibraryTokenizer(tokenizer, padding, settings.get("clean", "whitespace"), zero, limit, left)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    except Exception as error:
        raise ModelError(f"{path}: cannot be read ({str(error)[:200]})") from error


def _settings(folder: Path) -> dict[str, str]:
    """The folder's settings that are words: special tokens such as ``pad_token``, and where to pad."""
    found: dict[str, str] = {}
    for name in SETTINGS_FILES:
        path = folder / name
        settings = read_json(path) if path.is_file() else {}
        for key, value in settings.items() if isinstance(settings, dict) else ():
            text = value.get("content") if isinstance(value, dict) else value
            if isinstance(text, str):
                found.setdefault(key, text)
    return found
