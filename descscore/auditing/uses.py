"""The records of an audit: one use of an image in a document, or a document that cannot be read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

MISSING = "missing"
"""The image's file does not exist, or the document names none."""
ADDRESS = "address"
"""The source is an address on the web, which is never fetched."""
OUTSIDE = "outside"
"""The source leads out of the folder that is audited."""
TEMPLATE = "template"
"""The source holds a place that a program fills in, such as ``{{ url }}``."""
UNREADABLE = "unreadable"
"""There is a file, but it holds no picture that can be read, or is too large."""
INLINE_SVG = "inline-svg"
"""The picture is a drawing that is not rendered: SVG in the document or in a file, an Office chart, or an
element with ``role="img"`` that holds no image. It is there, so this is no fault of the document."""

NOT_LOOKED_AT = (ADDRESS, OUTSIDE, TEMPLATE)
"""The problems of images that nobody looks for."""

MOST_WORDS = 200
"""Most characters of the words before and after an image."""


@dataclass(frozen=True)
class ImageUse:
    """One use of an image in a document. Texts have single spaces and no spaces at their ends."""

    document: str
    """The path of the document's file, as it was given."""
    line: int | None = None
    """The line where the element begins, from 1, within ``place`` if there is one; None without lines."""
    column: int | None = None
    """The column where the element begins, from 1, in characters."""
    place: str | None = None
    """``slide 3``, ``cell 4``, or the path of a file inside an EPUB; None where the line is enough."""
    source: str = ""
    """The source as written. A data address is cut to 60 characters; '' where there is none."""
    image: str | bytes | None = None
    """The path or the bytes of an image file for :func:`descscore.images.load_image`; None with a problem."""
    image_problem: str | None = None
    """Why there is no image: ``missing``, ``address``, ``outside``, ``template``, ``unreadable`` or
    ``inline-svg``; None where there is one."""
    image_detail: str | None = None
    """The problem in a sentence; None without a problem."""
    name: str | None = None
    """The accessible name by HTML's order; None where nothing gives one, and '' where it is empty."""
    name_from: str | None = None
    """What gives the name: ``aria-labelledby``, ``aria-label``, ``alt``, ``title``, ``bracket``, ``descr``,
    ``desc``, ``svg title`` or ``content``."""
    alt: str | None = None
    """The text alternative as written, with all its spaces; None without the attribute."""
    hidden: bool = False
    """Whether assistive technology never meets it: ``aria-hidden``, ``hidden``, ``display: none``, a part of
    an element with ``role="img"``, or a decorative mark of Office."""
    decorative: bool = False
    """Whether a mark says so: ``alt=""``, ``role="none"`` or ``presentation``, or Office's mark."""
    caption: str | None = None
    """The caption that readers see: ``figcaption``, a caption's paragraph, or the bracket of Markdown where
    an attribute gives the text alternative."""
    language: str | None = None
    """The nearest ``lang`` or ``xml:lang``, as written; else that of the whole document."""
    only_content_of: str | None = None
    """``link`` or ``button`` if the image is all that names a link or button, or is one itself."""
    width: int | None = None
    """The declared width in CSS pixels."""
    height: int | None = None
    """The declared height in CSS pixels."""
    words_before: str = ""
    """Up to :data:`MOST_WORDS` characters of the visible text before the image on the same page."""
    words_after: str = ""
    """Up to :data:`MOST_WORDS` characters of the visible text after it."""
    page: str = ""
    """Equal for images that a reader meets on one page, slide or notebook."""
    candidates: tuple[str, ...] = ()
    """Further sources of ``srcset`` and ``picture``, as written."""
    element: str = "img"
    """``img``, ``input``, ``area``, ``object``, ``embed``, ``svg``, ``role`` (any other element with
    ``role="img"``), ``icon`` of a font, ``output`` of code, or ``picture`` in an office document."""
    exposed_by: str | None = None
    """The attribute, such as ``tabindex``, that exposes an image although it is marked as decorative."""


@dataclass(frozen=True)
class DocumentProblem:
    """A document, or a part of one, that cannot be read; the audit goes on with the others."""

    document: str
    """The path of the file or folder, as it was given."""
    message: str
    """What is wrong, in a sentence that does not repeat the path."""


PASSED_OVER = "is the report of an earlier audit, which is passed over"
"""The message of a document that is no page of the site; nothing is wrong with it."""


class Located(NamedTuple):
    """An image, or why there is none; the fields are those of :class:`ImageUse`."""

    image: str | bytes | None = None
    problem: str | None = None
    detail: str | None = None


def one_line(text: str) -> str:
    """The text with single spaces, and none at its ends."""
    return " ".join(text.split())


class RunningText:
    """The visible text of a page, as it comes; images remember where they stand in it."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self.length = 0
        """Characters so far."""
        self._text: str | None = None

    def add(self, text: str) -> None:
        """Append a text. Runs of spaces become one space."""
        words = " ".join(text.split())
        piece = " " * text[:1].isspace() + words + " " * (bool(words) and text[-1:].isspace())
        if piece:
            self._pieces.append(piece)
            self.length += len(piece)
            self._text = None

    def around(self, place: int) -> tuple[str, str]:
        """Up to :data:`MOST_WORDS` characters of whole words before and after a place (0..length)."""
        if self._text is None:
            self._text = "".join(self._pieces)
        before = one_line(self._text[max(0, place - 2 * MOST_WORDS) : place])
        after = one_line(self._text[place : place + 2 * MOST_WORDS])
        if len(before) > MOST_WORDS:
            before = before[-MOST_WORDS:].partition(" ")[2] or before[-MOST_WORDS:]
        if len(after) > MOST_WORDS:
            after = after[:MOST_WORDS].rpartition(" ")[0] or after[:MOST_WORDS]
        return before, after


@dataclass
class PendingUse:
    """A use whose image is not looked for, and whose surroundings are not read to their end."""

    use: ImageUse
    at: int
    """Where it stands in the running text."""
    located: Located | None = None
    """What is known of its image; None where its source is to be looked for."""

    def finished(self, located: Located, text: RunningText) -> ImageUse:
        """The use with its image and the words around it."""
        before, after = text.around(self.at)
        return replace(
            self.use,
            image=located.image,
            image_problem=located.problem,
            image_detail=located.detail,
            words_before=before,
            words_after=after,
        )
