"""Uses of images in Jupyter notebooks: in Markdown cells with their attachments, and among outputs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from descscore.auditing.code_cells import plot_texts
from descscore.auditing.html import Origin, Reading
from descscore.auditing.markdown import read_markdown
from descscore.auditing.sources import decode_base64
from descscore.auditing.uses import INLINE_SVG, MOST_WORDS, UNREADABLE, ImageUse, Located, one_line
from descscore.errors import DataError

_PICTURES = ("image/png", "image/jpeg", "image/webp", "image/gif", "image/avif", "image/bmp")
_SVG = "image/svg+xml"
_NEAR = 20
"""Most cells before and after an output in which words around it are looked for."""


@dataclass
class _Cell:
    uses: list[ImageUse] = field(default_factory=list)
    begin: str = ""
    """The first words of its visible text."""
    end: str = ""
    """The last words."""


def read_notebook(data: bytes, origin: Origin) -> Iterator[ImageUse]:
    """The uses of images in a notebook; the place of each is its cell, counted from 1.

    Raises:
        DataError: It is no notebook in format 4.
    """
    cells = [_read(cell, number, origin) for number, cell in enumerate(_cells(data), 1)]
    for number, cell in enumerate(cells):
        for use in cell.uses:
            before, after = use.words_before, use.words_after
            for other in cells[max(0, number - _NEAR) : number][::-1]:
                if len(before) < MOST_WORDS // 2:
                    before = one_line(f"{other.end} {before}")[-MOST_WORDS:]
            for other in cells[number + 1 : number + 1 + _NEAR]:
                if len(after) < MOST_WORDS // 2:
                    after = one_line(f"{after} {other.begin}")[:MOST_WORDS]
            yield replace(use, words_before=before, words_after=after)


def _cells(data: bytes) -> list[Any]:
    try:
        notebook = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"is not valid JSON ({str(error)[:200]})") from None
    if not isinstance(notebook, dict):
        raise DataError("is no notebook")
    version = notebook.get("nbformat")
    if version != 4:
        advice = "'jupyter nbconvert --to notebook' converts it"
        raise DataError(f"is no notebook in format 4 (its format is {str(version)[:20]}); {advice}")
    cells = notebook.get("cells")
    if not isinstance(cells, list):
        raise DataError("has no list of cells")
    return cells


def _read(cell: object, number: int, origin: Origin) -> _Cell:
    if not isinstance(cell, dict):
        return _Cell()
    here = replace(origin, place=f"cell {number}", page=origin.document)
    if cell.get("cell_type") == "markdown":
        attachments = replace(origin.sources, attachments=_attachments(cell.get("attachments")))
        reading = read_markdown(_text(cell.get("source")), replace(here, sources=attachments))
        text = reading.text
        return _Cell(list(reading.uses()), text.around(0)[1], text.around(text.length)[0])
    outputs = cell.get("outputs")
    uses: list[ImageUse] = []
    if cell.get("cell_type") == "code" and isinstance(outputs, list):
        for index, output in enumerate(outputs, 1):
            if isinstance(output, dict) and isinstance(output.get("data"), dict):
                uses += _output(output, replace(here, place=f"cell {number}, output {index}"))
        uses = list(_with_plot_texts(uses, _text(cell.get("source")), cell.get("metadata")))
    return _Cell(uses)


def _with_plot_texts(uses: list[ImageUse], code: str, metadata: object) -> Iterator[ImageUse]:
    """The pictures among a cell's outputs with the texts that options in its code or metadata give them."""
    texts = iter(plot_texts(code, metadata))
    for use in uses:
        text = next(texts, None) if use.element == "output" else None
        alt, caption = (text.alt, text.caption) if text else (None, None)
        if use.alt is None and alt is not None:
            use = replace(use, name=one_line(alt), name_from="alt", alt=alt, decorative=alt == "")
        yield replace(use, caption=caption or use.caption)


def _text(value: object) -> str:
    """A text of a notebook, which may be a list of its lines."""
    if isinstance(value, list):
        return "".join(line for line in value if isinstance(line, str))
    return value if isinstance(value, str) else ""


def _attachments(value: object) -> dict[str, Located]:
    attachments = {}
    for name, kinds in value.items() if isinstance(value, dict) else ():
        if isinstance(kinds, dict):
            attachments[f"attachment:{name}"] = _picture(kinds)[1]
    return attachments


def _picture(kinds: Mapping[str, Any]) -> tuple[str, Located]:
    """The kind of the picture in a bundle of kinds, and the picture; '' for none."""
    kind = next((kind for kind in _PICTURES if kind in kinds), "")
    if kind:
        try:
            data = decode_base64(_text(kinds[kind]).encode("ascii"))
        except ValueError:
            data = b""
        detail = None if data else f"its data ({kind}) is not base64"
        return kind, Located(data or None, None if data else UNREADABLE, detail)
    if _SVG in kinds:
        return _SVG, Located(None, INLINE_SVG, "it is a drawing in SVG, which is not rendered")
    return "", Located(None, UNREADABLE, f"it is in none of the formats {', '.join(_PICTURES)}")


def _output(output: Mapping[str, Any], origin: Origin) -> list[ImageUse]:
    """Uses of images in an output of code: one picture, or those in its HTML."""
    kinds = output["data"]
    kind, (image, problem, detail) = _picture(kinds)
    if not kind:
        return list(Reading(_text(kinds.get("text/html")), origin).uses()) if "text/html" in kinds else []
    given = output.get("metadata")
    metadata = given.get(kind, given) if isinstance(given, dict) else None
    metadata = metadata if isinstance(metadata, dict) else {}
    alt = metadata.get("alt") if isinstance(metadata.get("alt"), str) else None
    return [
        ImageUse(
            document=origin.document,
            place=origin.place,
            source=kind,
            image=image,
            image_problem=problem,
            image_detail=detail,
            name=None if alt is None else one_line(alt),
            name_from=None if alt is None else "alt",
            alt=alt,
            decorative=alt == "",
            width=_pixels(metadata.get("width")),
            height=_pixels(metadata.get("height")),
            page=origin.page,
            element="output",
        )
    ]


def _pixels(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**6 else None
