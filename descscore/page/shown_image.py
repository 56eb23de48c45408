"""A study's image as a browser gets it: pixels alone."""

from __future__ import annotations

import base64
import hashlib
import io
import logging

from PIL import Image

from descscore.errors import ImageError
from descscore.images import load_image
from descscore.study.items import MAX_PIXELS, StudyItem

_SIDE = 1200
_log = logging.getLogger(__name__)


def image_address(item: StudyItem) -> str:
    """The item's image as a data address: no file name, none of the file's metadata, at most 1200 pixels.

    Raises :class:`ImageError`, without the file's name, where the image cannot be read or is
    no longer the one that the study began with; the log says which.
    """
    try:
        image = load_image(_same_bytes(item), MAX_PIXELS)
    except (ImageError, OSError) as error:
        _log.error("%s: %s", item.image, error)
        raise ImageError("study_image", "The image of this step cannot be shown.") from None
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    image.info.clear()  # Pillow would write a JPEG's comment, which may well describe the image
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _same_bytes(item: StudyItem) -> bytes:
    data = item.image.read_bytes()
    if hashlib.sha256(data).hexdigest() != item.image_hash:
        raise ImageError("study_image", "has changed since the study began")
    return data
