"""Find the documents among files and folders, tell their kind, and read the uses of images in each."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import TypeAlias

from descscore.auditing.archives import Archive
from descscore.auditing.epub import read_epub
from descscore.auditing.html import Origin, Reading
from descscore.auditing.html_tree import decode, decode_plain
from descscore.auditing.markdown import read_markdown
from descscore.auditing.notebooks import read_notebook
from descscore.auditing.office import read_docx, read_pptx
from descscore.auditing.open_document import read_odt
from descscore.auditing.sources import FolderStore, Root, Sources, site_roots
from descscore.auditing.uses import PASSED_OVER, DocumentProblem, ImageUse
from descscore.errors import DataError, DescscoreError
from descscore.files import open_regular
from descscore.tables.cells import short
from descscore.tables.rows import is_below
from descscore.tables.samples import folders_below, is_hidden

Records: TypeAlias = "Iterator[ImageUse | DocumentProblem]"

_NO_TEXT = frozenset(map(chr, range(32))) - {*"\t\n\f\r\x1b"}
"""Characters that a text holds at most by accident."""
MOST_TEXT = 32 << 20
"""Most bytes of a page that is read."""
MOST_MARKDOWN = 8 << 20
"""Most bytes of a Markdown text that is read."""
MOST_NOTEBOOK = 256 << 20
"""Most bytes of a notebook that is read."""


def _read(path: str, most: int) -> bytes:
    """The whole file. Raises :class:`DataError` where it cannot be read or is too long."""
    try:
        with open_regular(path) as file:
            data = file.read(most + 1)
    except OSError as error:
        raise DataError(str(error.strerror or error)) from None
    if len(data) > most:
        raise DataError(f"holds over {most:,} bytes")
    return data


def _read_text(path: str, most: int, decoded: Callable[[bytes], str]) -> str:
    """The whole file as a text. Raises :class:`DataError` as well where it holds none."""
    text = decoded(_read(path, most))
    start = text[:4096]
    if sum(c in _NO_TEXT for c in start) > max(16, 0.05 * len(start)):
        raise DataError("holds no text, whatever its name says")
    return text


def _html(origin: Origin) -> Records:
    text = _read_text(origin.document, MOST_TEXT, decode)
    if _OUR_REPORT.match(text):
        return iter((DocumentProblem(origin.document, PASSED_OVER),))
    return Reading(text, origin).uses()


_OUR_REPORT = re.compile(
    r'\s{0,9}<!DOCTYPE html>\s{1,9}<html lang="en">\s{1,9}<head>\s{1,9}(?:<meta [^<>]{1,200}>\s{1,9}){0,4}'
    r'<meta name="generator" content="descscore audit '
)
"""The start of a report of an audit as a page."""


def _markdown(origin: Origin) -> Records:
    return read_markdown(_read_text(origin.document, MOST_MARKDOWN, decode_plain), origin).uses()


def _notebook(origin: Origin) -> Records:
    return read_notebook(_read(origin.document, MOST_NOTEBOOK), origin)


def _packed(reader: Callable[[Archive, tuple[Root, ...]], Records]) -> Callable[[Origin], Records]:
    """The reader of a file that is an archive."""

    def read(origin: Origin) -> Records:
        with Archive(origin.document) as archive:
            yield from reader(archive, origin.sources.roots)
            yield from archive.problems()

    return read


_KINDS: dict[Callable[[Origin], Records], tuple[str, ...]] = {
    _html: (".html", ".htm", ".xhtml", ".xht"),
    _markdown: (".md", ".markdown", ".mdown", ".mkd", ".qmd", ".rmd"),
    _notebook: (".ipynb",),
    _packed(read_epub): (".epub",),
    _packed(read_docx): (".docx", ".docm", ".dotx"),
    _packed(read_pptx): (".pptx", ".pptm", ".ppsx", ".potx"),
    _packed(read_odt): (".odt", ".ott"),
}
_READERS = {ending: reader for reader, endings in _KINDS.items() for ending in endings}

_NAMES = "HTML, EPUB, Markdown, notebooks, DOCX, PPTX and ODT"


def find_uses(
    paths: Iterable[str | os.PathLike[str]],
    *,
    exclude: Iterable[str] = (),
    roots: Mapping[str, str | os.PathLike[str]] | None = None,
) -> Iterator[ImageUse | DocumentProblem]:
    """Every use of an image in documents, one document after the other. Nothing is fetched.

    A document, or a part of one, that cannot be read is a :class:`DocumentProblem`; nothing is raised for it.

    Args:
        paths: Documents, and folders whose documents are read, without hidden files. A source that begins
            with ``/`` is looked for under the given folder, or for a document given by itself under the
            current folder if that contains it, else under its own. No source may leave this folder.
        exclude: Patterns such as ``build/*`` or ``*.draft.md`` of files and folders in given folders that are
            not read. They match a path below the given folder, or a name.
        roots: Folders that hold the files of sites, by address: ``{"https://example.org": "public"}``. The
            address ``/`` stands for sources that begin with ``/``.
    """
    given = list(dict.fromkeys(os.fspath(path) for path in paths))
    patterns, sites = tuple(exclude), site_roots(roots or {})
    folders = [path for path in given if os.path.isdir(path)]
    for path in given:
        if any(other != path and _decides(other, path, patterns) for other in folders):
            continue
        if os.path.isdir(path):
            yield from _folder_uses(path, patterns, sites)
        elif not os.path.lexists(path):
            yield DocumentProblem(path, "no such file or folder")
        else:
            yield from _file_uses(path, sites)


def _decides(folder: str, path: str, patterns: tuple[str, ...]) -> bool:
    """Whether a given path is read, or excluded, with a given folder.

    A folder passes over hidden files and those whose ending tells no kind: who gives one wants it read.
    """
    if not _is_inside(folder, path):
        return False
    below = os.path.relpath(os.path.realpath(path), os.path.realpath(folder))
    is_known = os.path.isdir(path) or _ending(path) in _READERS
    return _is_excluded(below, patterns) or (is_known and not is_hidden(below))


def _is_inside(folder: str, path: str) -> bool:
    return os.path.realpath(path).startswith(os.path.join(os.path.realpath(folder), ""))


def _file_uses(path: str, roots: tuple[Root, ...]) -> Records:
    """Uses in a document that is given by itself."""
    folder = os.path.dirname(os.path.abspath(path))
    root = os.getcwd() if _is_inside(os.getcwd(), path) else folder
    below = os.path.relpath(folder, root)
    yield from _uses(path, root, below, roots)


def _folder_uses(root: str, patterns: tuple[str, ...], roots: tuple[Root, ...]) -> Records:
    is_empty = True
    unread: list[OSError] = []
    try:
        for folder, names, outside in folders_below(root, unread.append):
            for name in outside:
                below = os.path.normpath(os.path.join(folder, name))
                if not _is_excluded(below, patterns):
                    what = f"is a linked folder that leads out of {root}; it is not read"
                    yield DocumentProblem(os.path.join(root, below), what)
            for name in names:
                below = os.path.normpath(os.path.join(folder, name))
                if _ending(name) not in _READERS or _is_excluded(below, patterns):
                    continue
                is_empty = False
                path = os.path.join(root, below)
                if is_below(root, path):
                    yield from _uses(path, root, folder, roots)
                else:
                    yield DocumentProblem(path, f"is a link that leads out of {root}; it is not read")
    except DescscoreError as error:
        yield DocumentProblem(root, str(error).removeprefix(f"{root}: "))
        return
    for one in unread:
        if not _is_excluded(os.path.relpath(one.filename, root), patterns):
            is_empty = False
            yield DocumentProblem(one.filename, str(one.strerror))
    if is_empty:
        # An audit of the wrong folder must not look like one that found nothing wrong.
        yield DocumentProblem(root, f"holds no document of a kind that is read ({_NAMES})")


def _is_excluded(below: str, patterns: tuple[str, ...]) -> bool:
    """Whether a pattern matches the path, a folder of it, or one of their names."""
    names = below.split("/")
    paths = ["/".join(names[: count + 1]) for count in range(len(names))]
    wanted = [pattern.removeprefix("./").rstrip("/") for pattern in patterns]
    return any(fnmatchcase(path, pattern) for path in (*paths, *names) for pattern in wanted)


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _uses(path: str, root: str, below: str, roots: tuple[Root, ...]) -> Records:
    """Uses in one document. below: its folder below the root."""
    reader = _READERS.get(_ending(path)) or _sniffed(path)
    if reader is None:
        yield DocumentProblem(path, f"is no document of a kind that is read ({_NAMES})")
        return
    folder = "" if below == "." else below
    try:
        yield from reader(Origin(path, Sources(FolderStore(root), folder, roots)))
    except DescscoreError as error:
        yield DocumentProblem(path, str(error))
    except Exception as error:  # noqa: BLE001 - a hostile document costs its own record, whatever it breaks
        yield DocumentProblem(path, f"cannot be read ({type(error).__name__}: {short(str(error))})")


def _sniffed(path: str) -> Callable[[Origin], Records] | None:
    """The reader of a document whose ending does not tell its kind."""
    try:
        with open_regular(path) as file:
            start = file.read(4096)
    except OSError:
        return _html  # which says why the file cannot be read
    if _HTML.match(start):
        return _html
    marks = {b"mimetypeapplication/epub+zip": ".epub", b"opendocument.text": ".odt"}
    marks |= {b"word/": ".docx", b"ppt/": ".pptx"} if start.startswith(b"PK") else {}
    return next((_READERS[ending] for mark, ending in marks.items() if mark in start), None)


_HTML = re.compile(
    rb"(?is)(?:\xef\xbb\xbf)?\s*(?:<\?xml.{0,200}?)?(?:<!--.{0,999}?-->\s*)?<(?:!doctype\s+)?html\b"
)
