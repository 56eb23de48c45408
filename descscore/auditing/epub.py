"""Uses of images in EPUB 2 and 3: the pages of the book in the order of its spine, then its other pages."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from urllib.parse import unquote

from descscore.auditing.archives import Archive
from descscore.auditing.html import Origin, Reading
from descscore.auditing.html_tree import decode
from descscore.auditing.sources import Root, Sources
from descscore.auditing.uses import DocumentProblem, ImageUse
from descscore.errors import DataError
from descscore.tables.cells import short

_CONTAINER, _ENCRYPTION = "META-INF/container.xml", "META-INF/encryption.xml"
_PACKAGE = "application/oebps-package+xml"
_PAGES = ("application/xhtml+xml", "text/html", "text/x-oeb1-document", "image/svg+xml")
_ENDINGS = (".xhtml", ".html", ".htm")


def read_epub(archive: Archive, roots: tuple[Root, ...]) -> Iterator[ImageUse | DocumentProblem]:
    """The uses of images in a book; a page that cannot be read is a problem of its own.

    Raises:
        DataError: The archive holds no pages.
    """
    archive.unreadable = _encrypted(archive)
    pages, problems = _pages(archive)
    yield from (DocumentProblem(archive.path, problem) for problem in problems)
    if not pages:
        raise DataError("holds no pages of a book")
    for name, language in pages.items():
        sources = Sources(archive, posixpath.dirname(name), roots)
        try:
            origin = Origin(archive.path, sources, place=name, language=language)
            yield from Reading(decode(archive.read(name)), origin).uses()
        except DataError as error:
            message = str(error)
            yield DocumentProblem(archive.path, message if name in message else f"{short(name)}: {message}")


def _encrypted(archive: Archive) -> dict[str, str]:
    """Members that are encrypted by the publisher. Fonts often are; nobody looks at them."""
    if _ENCRYPTION not in archive:
        return {}
    try:
        references = archive.xml(_ENCRYPTION).iter("{*}CipherReference")
        return {unquote(one.get("URI", "")): "is encrypted" for one in references}
    except DataError:
        return {}


def _pages(archive: Archive) -> tuple[dict[str, str | None], list[str]]:
    """The book's pages in reading order with the language of their package, and problems in sentences."""
    pages: dict[str, str | None] = {}
    others: dict[str, str | None] = {}
    problems = []
    try:
        packages = [
            _member(archive, one.get("full-path", ""))
            for one in archive.xml(_CONTAINER).iter("{*}rootfile")
            if one.get("media-type", _PACKAGE) == _PACKAGE
        ]
    except DataError as error:
        problems.append(str(error))
        packages = []
    found = [name for name in archive.names() if name.lower().endswith(".opf")]
    for package in dict.fromkeys(packages or found):
        try:
            spine, rest, language = _package_pages(archive, package)
        except DataError as error:
            problems.append(str(error))
            continue
        pages |= {name: language for name in spine if name not in pages}
        others |= {name: language for name in rest if name not in others}
    pages |= {name: language for name, language in others.items() if name not in pages}
    if not pages:
        pages = {name: None for name in archive.names() if name.lower().endswith(_ENDINGS)}
    return pages, problems


def _member(archive: Archive, address: str) -> str:
    """The name of the member at an address, which may be the address as written."""
    names = [posixpath.normpath(unquote(address)), posixpath.normpath(address)]
    return next((name for name in names if name in archive), names[0])


def _package_pages(archive: Archive, package: str) -> tuple[list[str], list[str], str | None]:
    """Pages in the spine, other pages, and the language of one package (OPF)."""
    root = archive.xml(package)
    folder = posixpath.dirname(package)
    items = {}
    for item in root.iter("{*}item"):
        if item.get("media-type", "").lower() in _PAGES:
            href = item.get("href", "").partition("#")[0]
            items[item.get("id", "")] = _member(archive, posixpath.join(folder, href))
    order = [one.get("idref", "") for one in root.iter("{*}itemref")]
    languages = [(one.text or "").strip() for one in root.iter("{*}language")]
    spine = [items[idref] for idref in order if idref in items]
    # A drawing outside the spine is an image of a page, and not a page.
    rest = [name for name in items.values() if name not in set(spine) and not name.lower().endswith(".svg")]
    return spine, rest, next(filter(None, languages), None)
