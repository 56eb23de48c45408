"""Members of EPUB, DOCX, PPTX and ODT archives within bounds, and their XML without entities or network."""

from __future__ import annotations

import posixpath
import zipfile
from collections.abc import Iterator
from typing import Any, NamedTuple

from cachetools import LRUCache
from lxml import etree

from descscore.auditing.sources import drawing
from descscore.auditing.uses import MISSING, UNREADABLE, DocumentProblem, Located
from descscore.errors import DataError
from descscore.files import open_regular
from descscore.tables.cells import short

MOST_MEMBER = 128 << 20
"""Most bytes of an unpacked member."""
MOST_MARKUP = 32 << 20
"""Most bytes of an unpacked member of markup."""
MOST_TOTAL = 4 << 30
"""Most bytes that are unpacked of one archive."""
_MOST_RATIO, _SMALL = 200, 1 << 20
"""A member over so many times as long as its packed form, and longer than a small one, is a bomb."""
_KEPT = 32 << 20
"""Bytes of images that are kept, since pages often show the same again."""


class Relation(NamedTuple):
    """Where a part of an Office file leads."""

    kind: str
    target: str
    """As written."""
    is_outside: bool
    """Whether the target is not in the archive."""


class Archive:
    """A ZIP archive that is read within bounds. Nothing is unpacked to the disk.

    Raises:
        DataError: The file is no archive that can be read.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self._file = open_regular(path)
        except OSError as error:
            raise DataError(str(error.strerror or error)) from None
        try:
            self._zip = zipfile.ZipFile(self._file)
        except Exception as error:  # noqa: BLE001 - zipfile raises anything on hostile data
            self._file.seek(0)
            start = self._file.read(4)
            self._file.close()
            if start.startswith(b"\xd0\xcf\x11\xe0"):
                raise DataError(
                    "is encrypted, or a file of an old Office; save it without a password"
                ) from None
            raise DataError(f"is no archive that can be read ({error})") from None
        self._members = {info.filename: info for info in self._zip.infolist()}
        self._images: LRUCache[str, bytes] = LRUCache(_KEPT, getsizeof=len)
        self._left = MOST_TOTAL
        self.unreadable: dict[str, str] = {}
        """Why members cannot be used, by name; for what only the format knows, such as encryption."""
        self.damage: dict[str, str] = {}
        """What is wrong with members in XML that could be read in part only, in sentences, by name."""

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()
        self._file.close()

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def names(self) -> list[str]:
        """The names of all members."""
        return list(self._members)

    def read(self, name: str, most: int = MOST_MARKUP) -> bytes:
        """The bytes of a member.

        Raises:
            DataError: There is no such member, or it is damaged, encrypted or too long.
        """
        info = self._members.get(name)
        if info is None:
            raise DataError(f"{short(name)}: the archive has no such file")
        if name in self.unreadable:
            raise DataError(f"{short(name)}: {self.unreadable[name]}")
        if info.flag_bits & 1:
            raise DataError(f"{short(name)}: is encrypted")
        most = min(most, self._left)
        if info.file_size > most or (
            info.file_size > _SMALL and info.file_size > _MOST_RATIO * max(info.compress_size, 1)
        ):
            raise DataError(f"{short(name)}: unpacks to {info.file_size:,} bytes, which is too much")
        try:
            with self._zip.open(info) as member:
                data = member.read(info.file_size + 1)
        except Exception as error:  # noqa: BLE001 - zipfile and its decoders raise anything on hostile data
            raise DataError(f"{short(name)}: cannot be unpacked ({short(str(error)) or 'damaged'})") from None
        self._left -= len(data)
        return data

    def image(self, path: str) -> Located:
        """The image at a path in the archive."""
        if path not in self._members:
            return Located(None, MISSING, f"the archive has no file {short(path)}")
        drawn = drawing(path)
        if drawn is not None:
            return drawn
        data = self._images.get(path)
        if data is None:
            try:
                data = self.read(path, MOST_MEMBER)
            except DataError as error:
                return Located(None, UNREADABLE, str(error))
            if not data:
                return Located(None, UNREADABLE, f"{short(path)}: the file is empty")
            if len(data) <= _KEPT:
                self._images[path] = data
        return Located(data)

    def xml(self, name: str) -> Any:
        """The root element of a member in XML (lxml). Entities that it declares stay as they are.

        Raises:
            DataError: As :meth:`read`, or it is not XML.
        """
        # A new parser for each part: a parser keeps the errors of every part that it has read.
        parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, recover=True)
        try:
            root = etree.fromstring(self.read(name), parser)
        except (etree.XMLSyntaxError, ValueError) as error:
            raise DataError(f"{short(name)}: is not XML ({short(str(error))})") from None
        if root is None:
            raise DataError(f"{short(name)}: is not XML")
        for fault in parser.error_log:
            if fault.level == etree.ErrorLevels.FATAL:
                what = f"line {fault.line}: {short(fault.message)}"
                self.damage[name] = f"{short(name)}: is damaged ({what}); images may be missing here"
                break
        return root

    def problems(self) -> Iterator[DocumentProblem]:
        """The members that could be read in part only."""
        return (DocumentProblem(self.path, what) for what in self.damage.values())

    def relations(self, part: str) -> dict[str, Relation]:
        """The relations of a part in an Office file, by id."""
        folder, name = posixpath.split(part)
        file = posixpath.join(folder, "_rels", f"{name}.rels")
        if file not in self._members:
            return {}
        return {
            one.get("Id", ""): Relation(
                one.get("Type", "").rpartition("/")[2],
                one.get("Target", ""),
                one.get("TargetMode") == "External",
            )
            for one in self.xml(file).iter("{*}Relationship")
        }
