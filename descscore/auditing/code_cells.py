"""Pictures of cells of code, in Markdown and notebooks, and the texts that options of the cell give them.

The options are those of Quarto and R Markdown (``fig-alt``, ``fig.alt``) and of MyST-NB (``mystnb``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from itertools import islice, takewhile, zip_longest
from typing import Any, NamedTuple

import yaml

OPTION_LINE = re.compile(r"\s*(?:#|//|%%|--)\| ?")
"""The start of a line of code that holds an option of Quarto."""
_MOST_OPTION_LINES, _LONGEST_OPTIONS = 100, 20_000
"""Most lines and characters of a cell's options that are read."""
_HEAD_OPTION = r"""(fig\.(?:alt|cap))\s*=\s*(?:"((?:\\.|[^"\\])*)"|'((?:\\.|[^'\\])*)'|([^\s,"']+))"""
_HEAD_EVAL = re.compile(r"\beval\s*=\s*(?:F|FALSE)\b")
_GRAPHICS = re.compile(r"\binclude_graphics\(")
_ARGUMENTS = re.compile(r"([^()]*(?:\([^()]*\)[^()]*)*)\)")
_LONGEST_ARGUMENTS = 4200
"""Most characters of a call's arguments that are read."""
_MOST_FILES = 100
"""Most files that one cell shows, and most calls in it that are looked at."""
_QUOTED = re.compile(r"""["']([^"'\n]{1,500})["']""")


class CellPicture(NamedTuple):
    """A picture of a cell: one that its code draws, or a file that its code shows."""

    alt: str | None
    """The text alternative; None without one."""
    caption: str | None
    source: str = ""
    """The file; '' for a picture that the code draws."""


class _OptionLoader(yaml.BaseLoader):  # type: ignore[misc] # yaml has no types
    """Reads all values as texts; what R fills in (``!expr``) as a template."""


_OptionLoader.add_constructor("!expr", lambda loader, node: "{{ expr }}")


def fence_pictures(code: str, head: str) -> list[CellPicture]:
    """The pictures of a cell in Markdown. A cell without options draws none, as far as anybody can tell.

    Args:
        code: The cell's code, whose first lines may hold options in YAML: ``#| fig-alt: "A dog"``.
        head: What stands after the fence, such as ``{r, fig.alt="A dog"}`` or ``{code-cell} ipython3``.
    """
    if head.startswith("{code-cell}"):
        return _myst_pictures(code)
    cell = re.fullmatch(r"\{\s*(\w+)\b(.*)\}", head)
    if cell is None:
        return []
    options = _cell_options(code)
    for name, *quoted, bare in re.findall(_HEAD_OPTION, cell[2]):
        options.setdefault(name, "".join(quoted) or (f"{{{{ {bare} }}}}" if bare else ""))
    # A caption alone is the text too.
    texts = [one if one.alt is not None else CellPicture(one.caption, None) for one in _texts(options)]
    # No str(...) of a value: a few lines of YAML may name a list of any length.
    is_run = not (_HEAD_EVAL.search(cell[2]) or options.get("eval") in ("false", "False", "FALSE"))
    files = _shown_files(code) if cell[1].lower() == "r" and is_run else []
    if not files:
        return texts
    if len(texts) == 1:  # R gives one text to all files
        texts *= len(files)
    texts += [CellPicture(None, None)] * len(files)
    return [text._replace(source=file) for file, text in zip(files, texts, strict=False)]


def _shown_files(code: str) -> list[str]:
    """The files that code in R shows: ``knitr::include_graphics("dog.png")``."""
    starts = (call.end() for call in islice(_GRAPHICS.finditer(code), _MOST_FILES))
    calls = (_ARGUMENTS.match(code, start, start + _LONGEST_ARGUMENTS) for start in starts)
    return [name for call in calls if call for name in _QUOTED.findall(call[1])][:_MOST_FILES]


def plot_texts(code: str, metadata: object = None) -> list[CellPicture]:
    """The texts of the pictures that a cell of a notebook draws, in their order.

    Args:
        code: The cell's code, with options as in :func:`fence_pictures`.
        metadata: The cell's metadata, in which MyST-NB has its options.
    """
    return _texts(_cell_options(code)) or _myst_texts(metadata)


def _cell_options(code: str) -> dict[str, Any]:
    """The options in the first lines of a cell's code."""
    lines = takewhile(OPTION_LINE.match, code.split("\n")[:_MOST_OPTION_LINES])
    return _yaml("\n".join(OPTION_LINE.sub("", line) for line in lines))


def _yaml(text: str) -> dict[str, Any]:
    with suppress(yaml.YAMLError, RecursionError):
        values = yaml.load(text[:_LONGEST_OPTIONS], _OptionLoader)
        if isinstance(values, dict):
            return values
    return {}


def _texts(options: Mapping[str, Any]) -> list[CellPicture]:
    alts, captions = (
        [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)]
        for value in (options.get(f"fig-{what}", options.get(f"fig.{what}")) for what in ("alt", "cap"))
    )
    return [CellPicture(alt, caption) for alt, caption in zip_longest(alts, captions)]


def _myst_pictures(code: str) -> list[CellPicture]:
    """The pictures of a cell whose options stand between two lines ``---``, as in text notebooks of MyST."""
    block = re.match(r"---[ \t]*\n(.{0,20000}?)\n---[ \t]*(?:\n|$)", code, re.DOTALL)
    return _myst_texts(_yaml(block[1])) if block else []


def _myst_texts(metadata: object) -> list[CellPicture]:
    """The text of a cell's pictures in its metadata: ``mystnb: {image: {alt: A dog}}``."""
    alt, caption = (_value(metadata, "mystnb", *keys) for keys in (("image", "alt"), ("figure", "caption")))
    return [CellPicture(alt, caption)] if alt is not None or caption is not None else []


def _value(values: object, *keys: str) -> str | None:
    for key in keys:
        values = values.get(key) if isinstance(values, dict) else None
    return values if isinstance(values, str) else None
