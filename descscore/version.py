"""The package's version; no other file holds it."""

from __future__ import annotations

__version__ = "0.1.0"
