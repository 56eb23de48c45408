"""HTML and XHTML as a tree of elements that know their line and column, in time linear in the page's length.

The parsers of the libraries at hand need minutes for some pages of 1 MB: ``html.parser`` of Python 3.11 for
comments that do not end, html5lib for elements nested 5,000 deep.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import webencodings

from descscore.errors import DataError

MOST_ELEMENTS = 500_000
"""Most elements of a page that is read."""
MOST_DEPTH = 512
"""Deepest nesting. What lies deeper is read as if it stood beside, as browsers do."""

Node: TypeAlias = "Element | str"


@dataclass(eq=False, slots=True)
class Element:
    """An element; ``line`` and ``column`` are those of its ``<``, from 1."""

    name: str
    attributes: dict[str, str]
    line: int = 0
    column: int = 0
    children: list[Node] = field(default_factory=list)

    def get(self, name: str) -> str | None:
        """An attribute as written; '' where it has no value, None where it is missing."""
        return self.attributes.get(name)

    def elements(self) -> Iterator[Element]:
        """The child elements."""
        return (child for child in self.children if isinstance(child, Element))

    def child(self, name: str) -> Element | None:
        """The first child element of that name."""
        return next((child for child in self.elements() if child.name == name), None)

    def descendants(self, enters: Callable[[Element], bool] = lambda element: True) -> Iterator[Node]:
        """All nodes below, in their order, without those inside elements for which ``enters`` is false."""
        stack = [iter(self.children)]
        while stack:
            node = next(stack[-1], None)
            if node is None:
                stack.pop()
                continue
            yield node
            if isinstance(node, Element) and enters(node):
                stack.append(iter(node.children))


def is_inert_template(element: Element) -> bool:
    """Whether an element is a ``template``, which browsers do not show, and no shadow tree, which they do."""
    return element.name == "template" and element.get("shadowrootmode") is None


def parse(text: str) -> Element:
    """The tree of a page; its root has no name.

    Raises:
        DataError: It holds over :data:`MOST_ELEMENTS` elements.
    """
    reader = _Reader(text)
    reader.read()
    return reader.root


def decode(data: bytes) -> str:
    """The text of a page, as browsers read it: by byte order mark, declaration, UTF-8, or Windows-1252.

    UTF-16 without a byte order mark is read where a declaration of XML begins the page.

    Raises:
        DataError: It is in UTF-16 without either, which browsers do not read.
    """
    if _UTF16_XML.match(data):  # whose zeros tell the order of its bytes
        data = (b"\xff\xfe" if data[0] else b"\xfe\xff") + data
    else:
        _refuse_utf16(data)
    declared = _DECLARED.search(data[:_HEAD]) or _XML_DECLARED.match(data[:_HEAD])
    encoding = webencodings.lookup(declared[1].decode("ascii")) if declared else None
    if encoding is None:
        return decode_plain(data)
    if encoding.name.startswith("utf-16"):
        encoding = webencodings.UTF8  # a page whose declaration can be read is not in UTF-16
    return webencodings.decode(data, encoding)[0]


def decode_plain(data: bytes) -> str:
    """A text that declares no encoding: by its byte order mark, else UTF-8, or Windows-1252.

    Raises:
        DataError: It is in UTF-16 without a byte order mark, which browsers do not read either.
    """
    _refuse_utf16(data)
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return webencodings.decode(data, "windows-1252")[0]
    return webencodings.decode(data, webencodings.UTF8)[0]


def _refuse_utf16(data: bytes) -> None:
    if _UTF16.match(data):
        raise DataError(
            "is in UTF-16 without a byte order mark, which browsers cannot read; save it as UTF-8"
        )


_HEAD = 4096
_UTF16_XML = re.compile(rb"<\0\?\0x\0|\0<\0\?\0x")
_UTF16 = re.compile(rb"(?:[\t\n\r -~]\0){8}|(?:\0[\t\n\r -~]){8}")
_DECLARED = re.compile(rb"(?i)<meta\b[^>]{0,500}?\bcharset\s*=\s*[\"']?\s*([a-z0-9_:.-]+)")
_XML_DECLARED = re.compile(rb"(?i)\s*<\?xml\b[^>]{0,200}?\bencoding\s*=\s*[\"']([a-z0-9_:.-]+)")


def name_set(text: str) -> frozenset[str]:
    """Names that stand in a text with spaces between them."""
    return frozenset(text.split())


_TAG_NAME = re.compile(r"<(/?)([a-zA-Z][^\s/>]*)")
_GAP = re.compile(r"[\s/]*")
_ATTRIBUTE = re.compile(r"([^\s/>][^\s/>=]*)(\s*=\s*)?")
_BARE = re.compile(r"[^\s>]*")
_RAW = {
    name: re.compile(rf"(?i)</{name}(?=[\s/>])")
    for name in name_set("iframe noembed noframes script style textarea title xmp")
}
"""Elements that hold no other elements, with their end."""
_ESCAPABLE = ("textarea", "title")


def _unescape(text: str) -> str:
    try:
        return html.unescape(text) if "&" in text else text
    except ValueError:  # a reference to a character with thousands of digits
        return text


_VOID = name_set(
    "area base basefont bgsound br col embed frame hr img input keygen link meta param source track wbr"
)
INLINE = name_set(
    "a abbr acronym b bdi bdo big cite code data del dfn em font i img ins kbd label mark math q ruby s samp "
    "small span strike strong sub sup svg time tt u var wbr"
)
"""Elements around which text runs on."""
_TABLE = name_set("caption colgroup table tbody td tfoot th thead tr")
_SCOPE = name_set("caption html object table td template th")
"""Elements that an end tag inside them does not close, nor anything around them."""
_ENDS_PARAGRAPH = name_set(
    "address article aside blockquote center dd details dialog dir div dl dt fieldset figcaption figure "
    "footer form h1 h2 h3 h4 h5 h6 header hgroup hr li main menu nav ol p pre search section summary table ul"
)
_CELLS, _SECTIONS = frozenset(("td", "th")), name_set("caption colgroup tbody tfoot thead")
_LISTS = name_set("dir menu ol ul")
_IMPLIED_ENDS = {
    "a": (frozenset(("a",)), _SCOPE),
    "button": (frozenset(("button",)), _SCOPE),
    "dd": (frozenset(("dd", "dt")), _SCOPE | {"dl"}),
    "dt": (frozenset(("dd", "dt")), _SCOPE | {"dl"}),
    "li": (frozenset(("li",)), _SCOPE | _LISTS),
    "optgroup": (frozenset(("optgroup", "option")), _SCOPE | {"select"}),
    "option": (frozenset(("option",)), _SCOPE | {"select"}),
    "td": (_CELLS, frozenset(("table", "tr"))),
    "th": (_CELLS, frozenset(("table", "tr"))),
    "tr": (_CELLS | {"tr"}, frozenset(("table",))),
} | {name: (_CELLS | _SECTIONS | {"tr"}, frozenset(("table",))) for name in _SECTIONS}
"""For a start tag: the open elements that it ends, and those beyond which it ends none."""


class _Reader:
    """Goes through the tags of a text. End tags may be left out where HTML says so."""

    def __init__(self, text: str) -> None:
        self.root = Element("", {})
        self._open = [self.root]
        self._text = text
        self._count = 0
        self._line, self._line_start = 1, 0
        self._counted = 0

    def read(self) -> None:
        place = 0
        while place < len(self._text):
            start = self._text.find("<", place)
            if start < 0:
                start = len(self._text)
            self._add_text(place, start)
            place = self._markup(start) if start < len(self._text) else start

    def _markup(self, start: int) -> int:
        """Read what begins with ``<`` at ``start``, and give the place after it."""
        tag = _TAG_NAME.match(self._text, start)
        if tag is None:
            return self._no_tag(start)
        attributes, place, is_closed = self._attributes(tag.end())
        if not 0 < place <= len(self._text):  # the end of the page cuts it off, and browsers leave it out
            return len(self._text)
        name = tag[2].lower()
        if tag[1]:
            self._end(name)
            return place
        is_closed = is_closed or name in _VOID
        self._start(Element(name, attributes, *self._position(start)), is_closed)
        if name in _RAW and not is_closed:
            end = _RAW[name].search(self._text, place)
            stop = end.start() if end else len(self._text)
            self._add_text(place, stop, name in _ESCAPABLE)
            return stop
        return place

    def _no_tag(self, start: int) -> int:
        """Read a comment, a declaration, CDATA, or a ``<`` that is text."""
        text = self._text
        for opening, closing in (
            ("<!--", "-->"),
            ("<![CDATA[", "]]>"),
            ("<!", ">"),
            ("<?", ">"),
            ("</", ">"),
        ):
            if text.startswith(opening, start):
                # "<!-->" is a whole comment.
                begin = start + (2 if opening == "<!--" else len(opening))
                end = text.find(closing, begin)
                stop = len(text) if end < 0 else end
                if opening == "<![CDATA[":
                    self._add_text(begin, stop, False)
                return stop + len(closing)
        self._add_text(start, start + 1)
        return start + 1

    def _attributes(self, place: int) -> tuple[dict[str, str], int, bool]:
        """Attributes from ``place`` on, the place after it (0 without an end), and whether ``/>`` ends it."""
        text, attributes = self._text, dict[str, str]()
        while True:
            gap = _GAP.match(text, place)
            place = gap.end()  # type: ignore[union-attr] # it matches the empty text
            if text.startswith(">", place):
                return attributes, place + 1, gap[0].endswith("/")  # type: ignore[index] # as above
            name = _ATTRIBUTE.match(text, place)
            if name is None:
                return attributes, 0, False
            place, value = name.end(), ""
            if name[2] is not None:
                quote = text[place : place + 1]
                if quote in ("'", '"'):
                    stop = text.find(quote, place + 1)
                    value, place = text[place + 1 : stop], stop + 1
                    if not place:
                        return attributes, 0, False
                else:
                    bare = _BARE.match(text, place)
                    value, place = bare[0], bare.end()  # type: ignore[index, union-attr] # as above
            attributes.setdefault(name[1].lower(), _unescape(value))

    def _position(self, place: int) -> tuple[int, int]:
        """Line and column, from 1. Places must not go back."""
        ends = self._text.count("\n", self._counted, place)
        if ends:
            self._line += ends
            self._line_start = self._text.rindex("\n", self._counted, place) + 1
        self._counted = place
        return self._line, place - self._line_start + 1

    def _add_text(self, start: int, stop: int, is_escaped: bool = True) -> None:
        if start < stop:
            text = self._text[start:stop]
            self._open[-1].children.append(_unescape(text) if is_escaped else text)

    def _start(self, element: Element, is_closed: bool) -> None:
        self._count += 1
        if self._count > MOST_ELEMENTS:
            raise DataError(f"holds over {MOST_ELEMENTS:,} elements")
        if element.name in _ENDS_PARAGRAPH:
            self._end_paragraph()
        if element.name in _IMPLIED_ENDS:
            self._end_implied(*_IMPLIED_ENDS[element.name])
        if len(self._open) > MOST_DEPTH:
            self._open.pop()
        self._open[-1].children.append(element)
        if not is_closed:
            self._open.append(element)

    def _end(self, name: str) -> None:
        scope = frozenset[str]() if name in _TABLE else _SCOPE
        for depth in range(len(self._open) - 1, 0, -1):
            other = self._open[depth].name
            if other == name:
                del self._open[depth:]
                return
            if other in scope:
                return

    def _end_paragraph(self) -> None:
        for depth in range(len(self._open) - 1, 0, -1):
            name = self._open[depth].name
            if name == "p":
                del self._open[depth:]
            if name not in INLINE:
                return

    def _end_implied(self, ended: frozenset[str], barriers: frozenset[str]) -> None:
        last = 0
        for depth in range(len(self._open) - 1, 0, -1):
            name = self._open[depth].name
            if name in barriers:
                break
            if name in ended:
                last = depth
        if last:
            del self._open[last:]
