"""Show the cross-references of docstrings (``:class:`x```) as plain code on the site."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|func|meth|mod|data|attr):`~?([^`]+)`")


class Roles(griffe.Extension):
    """Runs over every object that the site shows."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Replace the cross-references in the docstring of one object."""
        if not obj.is_alias and obj.docstring is not None:
            obj.docstring.value = _ROLE.sub(r"`\1`", obj.docstring.value)
