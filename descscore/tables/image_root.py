"""Image paths in tables: where relative ones begin, and cells that are no path."""

from __future__ import annotations

import functools
import os
import re
from dataclasses import dataclass

from descscore.errors import ImageError


@dataclass(frozen=True)
class ImageRoot:
    """The folder where relative image paths begin. They may not leave it, by ``..`` or by a link."""

    folder: str

    def find(self, path: str) -> str:
        """The file that a row's image path stands for; absolute paths stay as they are.

        Raises:
            ImageError: It is an address (kind ``url_not_supported``), no path at all
                (``bad_image_type``), or leads out of the root (``outside_image_root``).
        """
        if re.match(r"(?i)([a-z][a-z0-9+.-]*://|data:)", path):
            hint = "addresses are never fetched; download the image and give the file's path"
            raise ImageError("url_not_supported", f"{path[:100]}: {hint}")
        _check_is_path(path)
        if os.path.isabs(path) or "\0" in path:
            return path
        file = os.path.join(self.folder, path)
        if not _is_plain(self.folder, path) and not _is_below(self.folder, file):
            raise ImageError("outside_image_root", f"{path}: leads out of the image root {self.folder}")
        return file


_LOOKS = {
    "base64 data": r"(?:iVBORw0KGgo|/9j/[24]|R0lGOD[dl]h|UklGR|SUkqA|TU0AK)[\w+/=\s]*",
    "the text of Python's bytes": r"b(['\"]).*\1",
    "JSON": r"\{.*\}|\[.*\]",
    "markup": r"<.*>",
    "hexadecimal data": r"(?:89504e47|ffd8ff|47494638)[0-9a-fA-F]*",
}
_SHORT, _NAME_LIMIT, _PATH_LIMIT = 100, 255, 4096


def _check_is_path(path: str) -> None:
    """Raise :class:`ImageError` for a cell that cannot be a path, and say what it looks like."""
    if len(path) <= _SHORT:
        return
    text, long_name = path.strip(), max(map(len, path.split("/"))) > _NAME_LIMIT
    look = next((look for look, form in _LOOKS.items() if re.fullmatch(form, text, re.DOTALL)), "")
    if not look and long_name and re.fullmatch(r"[\w+/=-]+", text, re.ASCII):
        look = "base64 data"
    if not (look or long_name or len(path) > _PATH_LIMIT):
        return
    guess = f"looks like {look}" if look else "is too long for a path"
    raise ImageError(
        "bad_image_type",
        f"the image is text of {len(path):,} characters that {guess} ({path[:20]!r}...); "
        "give a path, or bytes in a Parquet file",
    )


def _is_plain(folder: str, path: str) -> bool:
    """Whether ``path`` goes down from ``folder`` only, through no link: the usual case, found out quickly."""
    below, _, name = path.rpartition("/")
    if name in ("", "..") or os.path.islink(os.path.join(folder, path)):
        return False
    return not below or _is_plain_folder(folder, below)


@functools.lru_cache(maxsize=4096)
def _is_plain_folder(folder: str, path: str) -> bool:
    return _is_plain(folder, path)


def _is_below(folder: str, path: str) -> bool:
    root, file = os.path.realpath(folder), os.path.realpath(path)
    return file == root or file.startswith(root.rstrip(os.sep) + os.sep)
