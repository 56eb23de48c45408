"""Documents for tests of the audit: pages, books, notebooks and office files with one picture or more."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from pathlib import Path
from typing import Any

from docx import Document
from docx.shared import Inches
from PIL import Image
from pptx import Presentation

from descscore.auditing.documents import find_uses
from descscore.auditing.uses import DocumentProblem, ImageUse


def png(colour: str = "red", size: tuple[int, int] = (24, 16)) -> bytes:
    """The bytes of a picture."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def records(*paths: Path, **options: Any) -> list[ImageUse | DocumentProblem]:
    return list(find_uses(paths, **options))


def uses(*paths: Path, **options: Any) -> list[ImageUse]:
    """The uses in documents of which none may have a problem."""
    found = records(*paths, **options)
    assert [one for one in found if isinstance(one, DocumentProblem)] == []
    return [one for one in found if isinstance(one, ImageUse)]


def problems(*paths: Path, **options: Any) -> list[DocumentProblem]:
    return [one for one in records(*paths, **options) if isinstance(one, DocumentProblem)]


def write_zip(path: Path, members: dict[str, str | bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            # The kind stands at the beginning as it is, so that programs can tell it.
            archive.writestr(name, content, zipfile.ZIP_STORED if name == "mimetype" else None)
    return path


CONTAINER = """<?xml version="1.0"?>
<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container" version="1.0"><rootfiles>
<rootfile full-path="OPS/package.opf" media-type="application/oebps-package+xml"/></rootfiles></container>"""


def write_epub(path: Path, pages: dict[str, str], **members: str | bytes) -> Path:
    """A book with these pages in its spine, in their order; members lie in OPS, ``__`` is a dot."""
    items = "".join(
        f'<item id="p{n}" href="{name}" media-type="application/xhtml+xml"/>' for n, name in enumerate(pages)
    )
    spine = "".join(f'<itemref idref="p{n}"/>' for n in range(len(pages)))
    package = f"""<package xmlns="http://www.idpf.org/2007/opf" version="3.0">
<metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:language>fr</dc:language></metadata>
<manifest>{items}</manifest><spine>{spine}</spine></package>"""
    content: dict[str, str | bytes] = {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": CONTAINER,
    }
    content |= {"OPS/package.opf": package} | {f"OPS/{name}": text for name, text in pages.items()}
    return write_zip(path, content | {f"OPS/{k.replace('__', '.')}": v for k, v in members.items()})


def write_notebook(path: Path, *cells: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": list(cells)}))
    return path


def base64_png(colour: str = "red") -> str:
    return base64.b64encode(png(colour)).decode()


def write_docx(path: Path, *pictures: dict[str, str]) -> Path:
    """A Word document: a heading; for each picture words, the picture with these attributes, and words."""
    document = Document()
    document.add_heading("Holidays")
    for number, attributes in enumerate(pictures, 1):
        document.add_paragraph(f"Before picture {number}.")
        run = document.add_paragraph().add_run()
        shape = run.add_picture(io.BytesIO(png()), width=Inches(2))
        for name, value in attributes.items():
            shape._inline.docPr.set(name, value)
        document.add_paragraph(f"Caption {number}", style="Caption")
        document.add_paragraph(f"After picture {number}.")
    document.save(str(path))
    return path


def write_pptx(path: Path, *pictures: dict[str, str]) -> Path:
    """A presentation with a slide for each picture with these attributes."""
    presentation = Presentation()
    for number, attributes in enumerate(pictures, 1):
        slide = presentation.slides.add_slide(presentation.slide_layouts[5])
        slide.shapes.title.text = f"Title {number}"
        picture = slide.shapes.add_picture(io.BytesIO(png()), 0, 0, width=Inches(1))
        for name, value in attributes.items():
            picture._element.nvPicPr.cNvPr.set(name, value)
    presentation.save(str(path))
    return path


_ODT = """<?xml version="1.0" encoding="UTF-8"?>
<office:document-content xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0"
 xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0" xmlns:xlink="http://www.w3.org/1999/xlink"
 xmlns:draw="urn:oasis:names:tc:opendocument:xmlns:drawing:1.0"
 xmlns:svg="urn:oasis:names:tc:opendocument:xmlns:svg-compatible:1.0"
 xmlns:loext="urn:org:documentfoundation:names:experimental:office:xmlns:loext:1.0">
<office:body><office:text>{body}</office:text></office:body></office:document-content>"""


def write_odt(path: Path, body: str) -> Path:
    members: dict[str, str | bytes] = {"mimetype": "application/vnd.oasis.opendocument.text"}
    return write_zip(path, members | {"content.xml": _ODT.format(body=body), "Pictures/a.png": png()})
