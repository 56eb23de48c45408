"""What the server answers to a page: content to show, errors by field, and what to announce.

The page's script (``assets/page/annotator.js``) puts it in place. Errors travel as plain
text and never replace the form, so that what was filled in stays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

# The pages' HTML, from templates in ``assets/page``; everything put into them is escaped.


@cache
def _environment() -> Environment:
    loader = PackageLoader("descscore", "assets/page")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)


def render(name: str, **values: Any) -> str:
    """The HTML of template ``name``; a value that the template lacks is an error, not a blank."""
    return _environment().get_template(name).render(**values)


def asset(name: str) -> str:
    """The text of a file in ``assets/page``."""
    return files("descscore").joinpath("assets").joinpath("page").joinpath(name).read_text(encoding="utf-8")


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
