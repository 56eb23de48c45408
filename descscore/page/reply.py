"""What the server answers to a page: content to show, errors by field, and what to announce.

The page's script (``assets/page/annotator.js``) puts it in place. Errors travel as plain
text and never replace the form, so that what was filled in stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class FieldError:
    """What is wrong with one field; ``field`` is its name in the form."""

    field: str
    message: str


@dataclass(frozen=True)
class Reply:
    """An answer; what is None or empty is left as it is on the page.

    page: HTML of the whole page. result: HTML of its part for results. fields: values to
    fill in. preview: address and alternative text of the image shown beside the form.
    status: what a live region announces. code: resume code for the browser to keep.
    forget: whether it is to forget the code.
    """

    page: str | None = None
    result: str | None = None
    errors: tuple[FieldError, ...] = ()
    fields: Mapping[str, str] = field(default_factory=dict)
    preview: tuple[str, str] | None = None
    status: str = ""
    code: str | None = None
    forget: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)
