"""Check ``tokenizer.json`` in a model's folder before the library ``tokenizers`` acts on it.

A model's folder may come from a stranger, and this file is a small program: steps that replace, split and add
characters. A few lines can double a text forty times, try a regular expression for days, or end the process.
So this module refuses steps that are not listed here, regular expressions that may try many ways, and steps
that make a text far longer.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

_LARGEST = 256 << 20
"""Largest file that is read, in bytes; one of 900,000 words takes 60 MB."""
_MOST_PARTS = 1 << 24
"""Most brackets, commas and colons in it; one of 900,000 words has 5 million."""
_MOST_STEPS = 64
"""Most steps of one kind, and most special tokens around a text."""
_LONGEST_TOKEN = 1024
"""Longest token, in characters."""
_LONGEST_WORD = 1000
"""Most letters of a word that WordPiece divides, in cubic time."""
_LONGEST_SIGN = 64
"""Longest other setting, such as the sign that a word begins, in characters."""
_LONGEST_PATTERN = 2000
_MOST_GROWTH = 150.0
"""How many times longer all steps together may make a text: one that counts 18, and a few usual ones."""
_LONGEST_MAPPED = 64
"""Most bytes that a table of SentencePiece puts in the place of a character; in Unicode's own, 33."""
_GROWTH = {
    **{"NFC": 3.0, "NFD": 4.0, "NFKC": 18.0, "NFKD": 18.0, "Lowercase": 2.0, "BertNormalizer": 4.0},
    "ByteLevel": 4.0,
}
"""How many characters a step may put in the place of one: U+FDFA becomes 18."""

_STEPS = {
    "normalizer": (
        *("Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Strip", "StripAccents", "BertNormalizer"),
        *("Replace", "Prepend", "Precompiled", "ByteLevel"),
    ),
    "pre_tokenizer": (
        *("BertPreTokenizer", "ByteLevel", "CharDelimiterSplit", "Digits", "Metaspace", "Punctuation"),
        *("Split", "UnicodeScripts", "Whitespace", "WhitespaceSplit"),
    ),
    "post_processor": ("BertProcessing", "ByteLevel", "RobertaProcessing", "TemplateProcessing"),
    "decoder": (
        *("BPEDecoder", "ByteFallback", "ByteLevel", "CTC", "Fuse", "Metaspace", "Replace", "Strip"),
        "WordPiece",
    ),
}
"""The steps that are allowed, by part of the file."""
_LISTS = ("normalizers", "pretokenizers", "processors", "decoders")
"""What the steps of a step ``Sequence`` are called."""


def read_tokenizer_config(file: BinaryIO) -> str:
    """The content of ``tokenizer.json`` after the checks, written anew, so that nothing else is read.

    Raises:
        ValueError: It is too large, no JSON, or asks for what is not allowed. The message names it.
    """
    data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST or sum(map(data.count, (b"[", b"{", b",", b":"))) > _MOST_PARTS:
        raise ValueError("larger than any tokenizer")
    try:
        config = json.loads(data.decode("utf-8"), object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(config, dict):
        raise ValueError("not a JSON object")
    growth = 1.0
    for part, allowed in _STEPS.items():
        for count, step in enumerate(_steps(config.get(part)), 1):
            if count > _MOST_STEPS:
                raise ValueError(f"{part} has over {_MOST_STEPS} steps")
            if step.get("type") not in allowed:
                raise ValueError(f"{part} has the step {str(step.get('type'))[:60]!r}, which is not allowed")
            growth *= _check_step(part, step)
            if growth > _MOST_GROWTH:
                raise ValueError(f"the steps up to {part} make a text over {_MOST_GROWTH:.0f} times longer")
    _check_model(config.get("model"))
    _check_added(config.get("added_tokens") or [])
    return json.dumps(config | {"truncation": None})


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has a key twice")
    return found


def _steps(part: Any) -> Iterator[dict[str, Any]]:
    """The steps of a part of the file, also those of a step ``Sequence``."""
    if part is None:
        return
    if not isinstance(part, dict):
        raise ValueError(f"a step is {type(part).__name__}, not an object")
    if part.get("type") != "Sequence":
        yield part
        return
    for name in _LISTS:
        for step in part.get(name) or ():
            yield from _steps(step)


def _check_step(part: str, step: Mapping[str, Any]) -> float:
    """Check the settings of a step; the result is how many times longer it may make a text."""
    kind = step["type"]
    grows = part in ("normalizer", "pre_tokenizer")  # ByteLevel of the other parts adds nothing
    growth = _GROWTH.get(kind, 1.0) if grows else 1.0
    others = {key: value for key, value in step.items() if key != "type"}
    if kind in ("Replace", "Split"):
        pattern, content = others.pop("pattern", None), others.pop("content", "")
        if not isinstance(content, str):
            raise ValueError(f"{part} has content that is no text")
        growth = _check_pattern(part, pattern, len(content))
    elif kind == "Precompiled":
        growth = _check_table(others.pop("precompiled_charsmap", None))
    elif kind == "TemplateProcessing":
        _check_template(others)
        others = {}
    elif kind in ("BertProcessing", "RobertaProcessing"):
        others = {key: value for key, value in others.items() if not isinstance(value, list)}
    _check_settings(part, others)
    return growth


def _check_settings(part: str, settings: Mapping[str, Any]) -> None:
    for key, value in settings.items():
        is_small = isinstance(value, (int, float)) and abs(value) <= 1 << 32
        if not (value is None or is_small or (isinstance(value, str) and len(value) <= _LONGEST_SIGN)):
            raise ValueError(f"{part} has {key[:60]} = {json.dumps(value)[:60]}, which is not allowed")


def _check_pattern(part: str, pattern: Any, content: int) -> float:
    """Check what a step looks for. content: length of what it puts there; the result is as for a step."""
    kind, text = next(iter(pattern.items())) if isinstance(pattern, dict) and len(pattern) == 1 else ("", "")
    if kind not in ("String", "Regex") or not isinstance(text, str) or not 0 < len(text) <= _LONGEST_PATTERN:
        raise ValueError(f"{part} has the pattern {json.dumps(pattern)[:60]}, which is not allowed")
    if kind == "String":
        return max(1.0, content / len(text))
    if not is_linear(text):
        raise ValueError(f"{part} has the regular expression {text[:100]!r}, which may take too long")
    return max(1.0, content + 1.0)  # it may stand for nothing


_SET = r"\\[pP]\{\^?\w{1,30}\}|\\[sSdDwWrnt]|\\[^\w\s]"
_ITEM = re.compile(
    rf"(?P<atom>{_SET}|\[\^?(?:{_SET}|[^\[\]\\])+\]|[^\\\[\](){{}}|*+?.^$])"
    r"|(?P<group>\((?:\?i?:)?[^\\\[\](){}*+?.^$]*\))"
    r"|(?P<maybe>\?)|(?P<loose>[*]|[+]|\{[0-9]{1,2}(?:,[0-9]{0,2})?\})|(?P<new>\|)"
)
_KNOWN_BRANCHES = (r"\s+(?!\S)", r"\s*[\r\n]+", r"\s*[\r\n]")
"""Branches of usual expressions. They are linear in texts without runs of blanks, as cleaning leaves them."""


def is_linear(pattern: str) -> bool:
    """Whether a search for a regular expression takes time linear in the text.

    Behind what may be repeated, a branch may need nothing more. So no repetition is ever tried at another
    length.
    """
    branches = f"|{pattern}|"
    for known in _KNOWN_BRANCHES:
        while f"|{known}|" in branches:
            branches = branches.replace(f"|{known}|", "|")
    place, pattern = 0, branches.strip("|")
    before, repeats, pending, options = "", False, False, 0
    while place < len(pattern):
        item = _ITEM.match(pattern, place)
        if item is None:
            return False
        kind, place = str(item.lastgroup), item.end()
        quantified = kind in ("maybe", "loose")
        if quantified and before not in ("atom", "group"):
            return False
        if pending and not (quantified and item[0] in "?*"):  # the item behind a repetition is needed
            return False
        if kind == "loose" and before == "group":
            return False
        pending = kind in ("atom", "group") and repeats
        repeats = kind != "new" and (repeats or kind == "loose")
        options = 0 if kind == "new" else options + (kind == "maybe")
        if options > 8:
            return False
        before = kind
    return not pending


def _check_table(charsmap: Any) -> float:
    """Check a table of SentencePiece that maps characters: a trie, then texts that end with zero bytes.

    The result is as for a step: the characters of the longest text.
    """
    try:
        data = base64.b64decode(charsmap, validate=True)
        size = int.from_bytes(data[:4], "little")
        if len(data) < 4 or size % 4 or not 0 < size <= len(data) - 4:
            raise ValueError("it breaks off")
        texts = data[4 + size :].decode("utf-8").split("\0")
    except (TypeError, ValueError, binascii.Error) as error:
        raise ValueError(f"normalizer has a damaged precompiled_charsmap ({str(error)[:100]})") from None
    if max(len(text.encode()) for text in texts) > _LONGEST_MAPPED:
        raise ValueError(
            f"precompiled_charsmap puts over {_LONGEST_MAPPED} bytes in the place of a character"
        )
    return float(max(1, *map(len, texts)))


def _check_template(settings: Mapping[str, Any]) -> None:
    """Check that a template holds a text once, and few special tokens around it."""
    try:
        pieces = [next(iter(piece.items())) for piece in settings["single"]]
        tokens = sum(len(settings["special_tokens"][v["id"]]["ids"]) for k, v in pieces if k != "Sequence")
        texts = sum(kind == "Sequence" for kind, _ in pieces)
    except (AttributeError, KeyError, TypeError, StopIteration):
        raise ValueError("post_processor has no template for one text") from None
    if texts != 1 or tokens > _MOST_STEPS or len(pieces) > _MOST_STEPS:
        raise ValueError(f"post_processor repeats the text, or puts over {_MOST_STEPS} tokens around it")


def _check_model(model: Any) -> None:
    if not isinstance(model, dict):
        raise ValueError("model is not an object")
    words = model.get("vocab")
    tokens = [entry[0] for entry in words if entry] if isinstance(words, list) else words or ()
    if any(not isinstance(token, str) or len(token) > _LONGEST_TOKEN for token in tokens):
        raise ValueError(f"model has a token of over {_LONGEST_TOKEN:,} characters, or one that is no text")
    for key in ("dropout", "alpha", "nbest_size"):
        if model.get(key):
            raise ValueError(f"model has {key}, which would give a text other tokens each time")
    longest = model.get("max_input_chars_per_word") or 0
    if not isinstance(longest, int) or longest > _LONGEST_WORD:
        raise ValueError(f"model has max_input_chars_per_word = {str(longest)[:60]}, over {_LONGEST_WORD:,}")
    _check_settings("model", {k: v for k, v in model.items() if k not in ("vocab", "merges")})


def _check_added(tokens: Any) -> None:
    for token in tokens:
        content = token.get("content") if isinstance(token, dict) else None
        if not isinstance(content, str) or not 0 < len(content) <= _LONGEST_TOKEN:
            raise ValueError(f"added_tokens has {json.dumps(token)[:60]}, which is not allowed")
