"""The pages' HTML, from templates in ``assets/page``; everything put into them is escaped."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


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
