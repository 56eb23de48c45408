"""The server's reply to a page: content to show, errors by field, and announcements.

The page's script (``assets/page/annotator.js``) shows a reply. Errors are plain text and never replace
the form, so the form keeps its values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

from jinja2 import Environment

from descscore.templates import ASSETS, environment


@dataclass(frozen=True)
class FieldError:
    """An error in one field of a form."""

    field: str
    """The field's name in the form; blank for an error of the whole page."""
    message: str


@dataclass(frozen=True)
class Reply:
    """A reply. A part that is None or empty does not change on the page."""

    page: str | None = None
    """HTML of the whole page."""
    result: str | None = None
    """HTML of the page's part for results."""
    errors: tuple[FieldError, ...] = ()
    fields: Mapping[str, str] = field(default_factory=dict)
    """Values to fill in, by field name."""
    preview: tuple[str, str] | None = None
    """Address and alternative text of the image next to the form."""
    status: str = ""
    """Text that the live region announces."""
    values: Mapping[str, Any] | None = None
    """Scores as plain JSON types, for programs."""
    code: str | None = None
    """Resume code that the browser should keep."""
    forget: bool = False
    """Whether the browser should forget the code."""

    def to_dict(self) -> dict[str, Any]:
        """The reply as plain JSON types."""
        return asdict(self)


def problem(message: str, field: str = "") -> Reply:
    """A reply with one error."""
    return Reply(errors=(FieldError(field, message),))


def render(name: str, **values: Any) -> str:
    """The HTML of template ``name`` in ``assets/page``.

    All values are escaped. A missing value is an error, not a blank.
    """
    return _environment().get_template(name).render(**values)


@cache
def _environment() -> Environment:
    return environment(ASSETS / "page", finalize=None)


def asset(name: str) -> str:
    """The text of a file in ``assets/page``."""
    return (ASSETS / "page" / name).read_text(encoding="utf-8")
