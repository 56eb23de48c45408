"""Find the image that a source in a document names, below a folder or in an archive. Nothing is fetched."""

from __future__ import annotations

import base64
import os
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol
from urllib.parse import unquote, unquote_to_bytes, urljoin, urlsplit

from descscore.auditing.uses import ADDRESS, INLINE_SVG, MISSING, OUTSIDE, TEMPLATE, UNREADABLE, Located
from descscore.auditing.wording import is_template
from descscore.errors import ImageError
from descscore.images import check_path
from descscore.tables.cells import short
from descscore.tables.rows import is_below

_SVG_SUFFIXES = (".svg", ".svgz")
_MOST_SHOWN = 60
"""Most characters of a data address that a record keeps."""


class Store(Protocol):
    """Where the images of a document lie."""

    def image(self, path: str) -> Located:
        """The image at a path below the root, with ``/`` between names and without ``..``."""


@dataclass(frozen=True)
class FolderStore:
    """A folder that no path may leave."""

    root: str

    def image(self, path: str) -> Located:
        file = os.path.join(self.root, path)
        try:
            if not is_below(self.root, file):
                return Located(None, OUTSIDE, f"{short(path)} is a link that leads out of {self.root}")
            check_path(file)
        except (ImageError, ValueError) as error:
            missing = not isinstance(error, ImageError) or error.kind == "missing_image"
            return Located(None, MISSING if missing else UNREADABLE, short(str(error), 300))
        return drawing(path) or Located(file)


def drawing(path: str) -> Located | None:
    """What is reported of a drawing in SVG, which is there but not rendered; None for other files."""
    if path.lower().endswith(_SVG_SUFFIXES):
        return Located(None, INLINE_SVG, f"{short(path)} is a drawing in SVG, which is not rendered")
    return None


class Root(NamedTuple):
    """A folder that holds the files of a site.

    address: its start without a scheme, such as ``//host/a/``; ``/`` for paths that name no host.
    """

    address: str
    store: FolderStore


def site_roots(roots: Mapping[str, str | os.PathLike[str]]) -> tuple[Root, ...]:
    """Folders by the address of their site, such as ``https://host/a``; the longest address comes first."""
    addresses = {url: url if url == "/" else _without_scheme(url).rstrip("/") + "/" for url in roots}
    named = [Root(address, FolderStore(os.fspath(roots[url]))) for url, address in addresses.items()]
    return tuple(sorted(named, key=lambda root: -len(root.address)))


def _without_scheme(url: str) -> str:
    rest = re.sub(r"(?i)^(https?:)?//", "", url.strip())
    host, slash, path = rest.partition("/")
    return f"//{host.lower()}{slash}{path}"


@dataclass(frozen=True)
class Sources:
    """Finds the images of one document."""

    store: Store
    """Where relative sources and those that begin with ``/`` are looked for."""
    folder: str = ""
    """The document's folder below the store's root, with ``/`` between names."""
    roots: tuple[Root, ...] = ()
    """Where the files of sites lie."""
    attachments: Mapping[str, Located] = field(default_factory=dict)
    """Images that the document itself holds, by their whole source."""

    def locate(self, source: str, base: str = "") -> Located:
        """The image that ``source`` stands for, as a browser reads it.

        Args:
            source: The value of ``src`` or a like attribute.
            base: The page's ``<base href>``, if it has one.
        """
        attached = self.attachments.get(unquote(source)) if self.attachments else None
        if attached is not None:
            return attached
        source = re.sub(r"[\t\r\n]", "", source.strip("\0\t\n\f\r "))
        if source[:5].lower() == "data:":
            return _data_image(source)
        if not re.split("[?#]", source)[0]:
            return Located(None, MISSING, "the image names no file")
        if is_template(source) or _FILLED.search(source):
            path = _jekyll_path(source)
            if path is None:
                return Located(None, TEMPLATE, f"{short(source)} is filled in by a program")
            return self._from_root(path, source)
        try:
            address = _joined(base.strip().replace("\\", "/"), source.replace("\\", "/"))
            scheme = urlsplit(address).scheme.lower()
        except ValueError as error:  # such as a host that begins with a bracket
            return Located(None, MISSING, f"{short(source)} is no address ({error})")
        if len(scheme) == 1 or scheme == "file":
            return Located(None, OUTSIDE, f"{short(source)} is a path on one computer")
        if scheme == "attachment":
            return Located(None, MISSING, f"{short(source)} is no attachment of this cell")
        if scheme or address.startswith("//"):
            return self._on_site(address)
        if not address.startswith("/"):
            return _first(self.store, self.folder, address, source)
        return self._from_root(address, source)

    def _from_root(self, path: str, source: str) -> Located:
        """The image at a path that begins with ``/``."""
        if not isinstance(self.store, FolderStore):  # in an archive, the path begins at its root
            return _first(self.store, "", path, source)
        given = next((root.store for root in self.roots if root.address == "/"), None)
        located = _first(given or self.store, "", path, source)
        if given or located.problem != MISSING:
            return located
        others = (_first(self.store, folder, path, source) for folder in _STATIC)
        advice = f"{located.detail}; --root /=FOLDER says where paths that begin with / lie"
        return next((one for one in others if one.problem != MISSING), Located(None, MISSING, advice))

    def _on_site(self, address: str) -> Located:
        plain = _without_scheme(address)
        for root in self.roots:
            if (
                root.address != "/"
                and plain.startswith(root.address)
                and re.match(r"(?i)(https?:)?//", address)
            ):
                return _first(root.store, "", plain[len(root.address) :], address)
        advice = "which is never fetched; --root URL=FOLDER says where its files are"
        return Located(None, ADDRESS, f"{short(address)} is an address, {advice}")


_STATIC = ("static", "public")
"""Folders whose files Hugo, Docusaurus, Astro and others put at the root of the site."""

_FILLED = re.compile(r"\{\{[^{}]+\}\}|\$\{[^{}]+\}")
"""What a program fills in where a source holds it. In a text, ``x_{{a}}`` may be a formula."""

_JEKYLL = re.compile(
    r"""(?x)(?:\{\{-? \s* site\.(?:base)?url \s* -?\}\})+ ([^{}]+)
    | \{\{-? \s* ["']([^"'{}:]+)["'] \s* \| \s* (?:relative|absolute)_url \s* -?\}\}
    | \{%-? \s* link \s+ ([^\s{}]+) \s* -?%\}"""
)


def _jekyll_path(source: str) -> str | None:
    """The path that a template of Jekyll means, as ``{{ site.baseurl }}/dog.png`` does; None for others."""
    match = _JEKYLL.fullmatch(source.strip())
    return "/" + next(filter(None, match.groups())).lstrip("/") if match else None


def _joined(base: str, source: str) -> str:
    """The source as the page's base makes it. Raises :class:`ValueError` for a broken address."""
    if urlsplit(base).scheme or base.startswith("//"):
        return urljoin(base, source)
    if urlsplit(source).scheme or source.startswith("/"):
        return source
    return posixpath.join(posixpath.dirname(re.split("[?#]", base)[0]), source)


def _first(store: Store, folder: str, path: str, source: str) -> Located:
    """The image at the first spelling of the path that leads to a file; else what the first one says."""
    plain = re.split("[?#]", path)[0]
    # On the disk it may be called as a server reads it, or as it is written.
    spellings = dict.fromkeys((unquote(plain), plain, unquote(path), path))
    found = (_at(store, posixpath.join(folder, one.lstrip("/")), source) for one in spellings)
    first = next(found)
    if first.problem != MISSING:
        return first
    return next((one for one in found if one.problem != MISSING), first)


def _at(store: Store, path: str, source: str) -> Located:
    below = posixpath.normpath(path)
    if below == ".." or below.startswith("../"):
        return Located(None, OUTSIDE, f"{short(source)} leads out of the root")
    if "\0" in below or below == ".":
        return Located(None, MISSING, f"{short(source)} is no file name")
    return store.image(below)


def _data_image(source: str) -> Located:
    head, comma, data = source[5:].partition(",")
    kind = head.partition(";")[0].strip().lower()
    if kind.startswith("image/svg"):
        return Located(None, INLINE_SVG, "it is a drawing in SVG, which is not rendered")
    content = unquote_to_bytes(data)
    if head.lower().rstrip().endswith("base64"):
        try:
            content = decode_base64(content)
        except ValueError:
            content = b""
    if not (comma and content):
        return Located(None, UNREADABLE, f"{shown_source(source)} holds no data")
    return Located(content)


def decode_base64(data: bytes) -> bytes:
    """The bytes of base64 data, with or without ``=`` at its end. Raises :class:`ValueError` for others."""
    plain = b"".join(data.split()).rstrip(b"=")
    return base64.b64decode(plain + b"=" * (-len(plain) % 4))


def shown_source(source: str) -> str:
    """The source as a record keeps it: a data address is cut."""
    is_data = source.lstrip()[:5].lower() == "data:"
    return source.lstrip()[:_MOST_SHOWN] if is_data else source
