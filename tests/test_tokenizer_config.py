"""A ``tokenizer.json`` of a stranger: it neither stops the process nor takes hours or gigabytes."""

from __future__ import annotations

import base64
import json
import os
import struct
import time
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from model_families import save_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from descscore.errors import ModelError, TextError
from descscore.library_tokenizer import folder_tokenizer
from descscore.tokenizer_config import _GROWTH, is_linear, read_tokenizer_config


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_tokenizer("t5", tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def change(folder: Path, **parts: Any) -> None:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | parts))


def table(trie: bytes, texts: bytes, size: int | None = None) -> dict[str, Any]:
    data = struct.pack("<I", len(trie) if size is None else size) + trie + texts
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(data).decode()}


def replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def template(tokens: int, texts: int) -> dict[str, Any]:
    text = {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "x", "type_id": 0}}, *[text] * texts],
        "pair": [text, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"x": {"id": "x", "ids": [1] * tokens, "tokens": ["x"] * tokens}},
    }


DOUBLE = replace({"String": "a"}, "aa")
HOSTILE: list[tuple[str, dict[str, Any], str]] = [
    ("doubled", {"normalizer": {"type": "Sequence", "normalizers": [DOUBLE] * 40}}, "times longer"),
    ("nested", {"normalizer": {"type": "Sequence", "normalizers": [
        {"type": "Sequence", "normalizers": [DOUBLE] * 20}] * 2}}, "times longer"),
    ("long content", {"normalizer": replace({"String": "a"}, "a" * 10**6)}, "times longer"),
    ("at every place", {"normalizer": replace({"Regex": "b*"}, "a" * 1000)}, "times longer"),
    ("bytes of bytes", {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}] * 30}},
        "times longer"),
    ("two long tables", {"normalizer": {"type": "Sequence", "normalizers": [
        table(b"\0\0\0\0", b"x" * 60 + b"\0")] * 2}}, "times longer"),
    ("one sign of 18 letters, again and again", {"normalizer": {"type": "Sequence", "normalizers": [
        {"type": "NFKC"}, replace({"String": "\u0644"}, "\ufdfa")] * 3}}, "times longer"),
    ("marks of marks", {"normalizer": {"type": "Sequence", "normalizers": [
        {"type": "NFD"}, replace({"String": "\u0301"}, "\u1f87")] * 8}}, "times longer"),
    ("over two parts", {"normalizer": table(b"\0\0\0\0", b"x" * 60 + b"\0"), "pre_tokenizer": {
        "type": "Sequence", "pretokenizers": [{"type": "ByteLevel", "add_prefix_space": False,
        "trim_offsets": False, "use_regex": False}] * 2}}, "times longer"),
    ("long prefix", {"normalizer": {"type": "Prepend", "prepend": "x" * 10**6}}, "prepend"),
    ("many ways", {"normalizer": replace({"Regex": "(a|aa)+$"}, "x")}, "regular expression"),
    ("cubic", {"pre_tokenizer": split("a*a*a*b")}, "regular expression"),
    ("a table that breaks off", {"normalizer": table(b"", b"abc", 0xFFFFFFF0)}, "precompiled_charsmap"),
    ("an empty table", {"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}}, "charsmap"),
    ("long mapped texts", {"normalizer": table(b"\0\0\0\0", b"x" * 10**6)}, "precompiled_charsmap"),
    ("long template", {"post_processor": template(10**5, 1)}, "post_processor"),
    ("repeated text", {"post_processor": template(1, 1000)}, "post_processor"),
    ("an unknown step", {"pre_tokenizer": {"type": "Own"}}, "'Own'"),
    ("no step", {"decoder": ["ByteLevel"]}, "not an object"),
    ("an empty word", {"added_tokens": [{"id": 5, "content": "", "special": False}]}, "added_tokens"),
]  # fmt: skip


@pytest.mark.parametrize(("parts", "said"), [case[1:] for case in HOSTILE], ids=[case[0] for case in HOSTILE])
def test_a_step_that_costs_far_more_than_its_length_is_refused(
    folder: Path, parts: dict[str, Any], said: str
) -> None:
    """The library would take gigabytes or hours, or end the process where no handler can catch it."""
    change(folder, **parts)
    begun = time.process_time()
    with pytest.raises(ModelError, match=said) as caught:
        folder_tokenizer(folder, {}, None)
    assert time.process_time() - begun < 2
    assert str(caught.value).startswith(str(folder / "tokenizer.json"))
    assert len(str(caught.value)) < len(str(folder)) + 400


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"dropout": 0.5}, "other tokens each time"),
        ({"max_input_chars_per_word": 10**9}, "max_input_chars_per_word"),
        ({"continuing_subword_prefix": "x" * 10**6}, "continuing_subword_prefix"),
        ({"vocab": {"a" * 10**6: 0}}, "characters"),
    ],
)
def test_words_are_divided_the_same_way_each_time_and_quickly(
    folder: Path, values: dict[str, Any], said: str
) -> None:
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"], "unk_token": "a"}
    change(folder, model=model | values)
    with pytest.raises(ModelError, match=said):
        folder_tokenizer(folder, {}, None)


def test_a_key_that_stands_twice_hides_no_step(folder: Path) -> None:
    path = folder / "tokenizer.json"
    hidden = json.dumps({"normalizer": table(b"", b"abc", 0xFFFFFFF0)})
    path.write_text(hidden[:-1] + "," + path.read_text().lstrip()[1:])
    with pytest.raises(ModelError, match="twice"):
        folder_tokenizer(folder, {}, None)


def test_a_pipe_is_not_waited_for(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")
    with pytest.raises(ModelError, match="not a regular file"):
        folder_tokenizer(folder, {}, None)


def test_a_failure_inside_the_library_is_an_error_like_others(folder: Path) -> None:
    """A trie that leads beyond its end. The library panics, which is no ``Exception``."""
    change(folder, normalizer=table(b"\xff\xff\xff\xff" * 4, b"a\0"))
    try:
        folder_tokenizer(folder, {}, None)
    except ModelError as error:
        assert str(folder) in str(error)


def test_a_text_on_which_the_library_fails_is_a_fault_of_that_text(folder: Path) -> None:
    """The trie ends before the letter z. Rows of a batch without it have scores."""
    change(folder, normalizer=table(bytes(4 * ord("z")), b"a\0"))
    tokenizer = folder_tokenizer(folder, {}, None)
    with pytest.raises(TextError, match="text 'a zebra': the tokenizer fails"):
        tokenizer.encode("a zebra")
    assert tokenizer.encode("a dog")


def test_token_ids_on_which_the_library_fails_are_named(folder: Path) -> None:
    tokenizer = folder_tokenizer(folder, {}, None)
    panic = type("PanicException", (BaseException,), {})

    class Broken:
        def decode(self, ids: list[int]) -> str:
            raise panic("no such place")

    tokenizer._tokenizer = Broken()
    with pytest.raises(ModelError, match="token ids 5, 7: the tokenizer fails"):
        tokenizer.decode((5, 7))


USUAL = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
    " {2,}",
    r"\s+",
    "[0-9]",
)
"""Expressions of CLIP's, GPT-2's, Llama 3's and T5's tokenizers."""


@pytest.mark.parametrize("pattern", USUAL)
def test_the_usual_expressions_are_read(pattern: str) -> None:
    assert is_linear(pattern)


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+$", "a*a*b", "(a|aa)+", "a+b", "a+b?c", r"\s*\s*\n", "a{2}{3}", "a?" * 20, r"(a)\1+", ".*x",
     "a*?b", "x(a|b)*", "(?=a+)b", "[a", "a|*", "(?#x)a"],
)  # fmt: skip
def test_expressions_that_may_try_many_ways_are_not(pattern: str) -> None:
    assert not is_linear(pattern)


def test_a_tokenizer_of_every_allowed_kind_reads_as_before(folder: Path) -> None:
    """The file that the library gets says the same as the one that was checked."""
    vocabulary = {letter: i for i, letter in enumerate("abcdefgh ▁Ġ'")} | {"ab": 20, "cd": 21, "Ġab": 22}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("a", "b"), ("c", "d"), ("Ġ", "ab")]))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace("``", "'"), normalizers.Lowercase(), normalizers.Strip()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(add_prefix_space=True)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<pad>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    read = folder_tokenizer(folder, {}, None)
    for text in ("ab ab", "``cd`` 12 AB", "", "\uff48 efg"):
        assert read.encode(text) == tokenizer.encode(text, add_special_tokens=False).ids


UNICODE = table(b"\0\0\0\0", unicodedata.normalize("NFKC", "\ufdfa").encode() + b"\0")
BLANKS = replace({"Regex": " {2,}"}, " ")
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}


@pytest.mark.parametrize(
    ("steps", "before", "decoder"),
    [
        ([UNICODE, {"type": "Strip", "strip_left": False, "strip_right": True}, BLANKS], None, None),
        ([{"type": "Lowercase"}, UNICODE, BLANKS], None, None),
        ([{"type": "NFC"}, replace({"Regex": r"\s+"}, " "), {"type": "Lowercase"}], BYTES, BYTES),
        ([{"type": "NFKC"}, {"type": "Lowercase"}], BYTES, BYTES),
    ],
    ids=["T5 and XLM-R", "SigLIP and DeBERTa", "CLIP", "Unicode and bytes"],
)
def test_the_usual_sequences_of_steps_are_read(
    folder: Path, steps: list[Any], before: Any, decoder: Any
) -> None:
    change(
        folder,
        normalizer={"type": "Sequence", "normalizers": steps},
        pre_tokenizer=before,
        post_processor=decoder,
        decoder=decoder,
    )
    with (folder / "tokenizer.json").open("rb") as file:
        assert json.loads(read_tokenizer_config(file))["normalizer"]["normalizers"] == steps


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_the_growth_of_unicodes_forms_is_that_of_the_worst_character(form: Any) -> None:
    signs = (chr(i) for i in range(0x110000) if not 0xD800 <= i < 0xE000)
    assert max(len(unicodedata.normalize(form, sign)) for sign in signs) <= _GROWTH[form]


@pytest.mark.parametrize("kind", ["t5", "gemma", "bert", "xlm"])
def test_the_tokenizers_of_the_families_are_read(tmp_path: Path, kind: str) -> None:
    path = save_tokenizer(kind, tmp_path) / "tokenizer.json"
    whole = Tokenizer.from_file(str(path))
    with path.open("rb") as file:
        assert Tokenizer.from_str(read_tokenizer_config(file)).to_str() == whole.to_str()
