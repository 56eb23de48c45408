"""An image that a browser sends: a data address, so that no path or address from a user is ever opened."""

from __future__ import annotations

import base64
import binascii
import io
import re

from PIL import Image, UnidentifiedImageError

from descscore.errors import ImageError
from descscore.images import load_image

MAX_BYTES = 20 * 2**20
"""Largest file that is taken: 20 MB."""

MAX_PIXELS = 60_000_000
"""Largest image that is decoded, in pixels."""

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP")
"""What browsers show too. Pillow has more readers, one of which runs another program."""

_HEAD = re.compile(r"data:[\w.+/-]*;base64,")


def read_upload(address: str) -> Image.Image:
    """The RGB image in a base64 ``data:`` address. Raises :class:`ImageError` with what a user can do."""
    head = _HEAD.match(address)
    if head is None:
        raise ImageError("bad_upload", "The image did not arrive. Choose it again.")
    # Checked before decoding: base64 has four letters for three bytes.
    if (len(address) - head.end()) * 3 // 4 > MAX_BYTES + 2:
        raise ImageError(
            "image_too_large", f"The file is larger than {MAX_BYTES // 2**20} MB. Choose a smaller one."
        )
    try:
        data = base64.b64decode(address[head.end() :], validate=True)
    except binascii.Error:
        raise ImageError("bad_upload", "The image did not arrive whole. Choose it again.") from None
    try:
        _check_format(data)
        return load_image(data, MAX_PIXELS)
    except ImageError as error:
        raise ImageError(error.kind, _for_user(error)) from None


def _check_format(data: bytes) -> None:
    Image.init()
    known = [name for name in _FORMATS if name in Image.OPEN]
    try:
        Image.open(io.BytesIO(data), formats=known).close()
    except UnidentifiedImageError:
        raise ImageError("not_an_image" if data else "empty_image", "image bytes") from None
    except Exception:  # noqa: BLE001 - what is wrong with it, load_image says
        return


def _for_user(error: ImageError) -> str:
    if error.kind == "image_too_large":
        return f"The image has more than {MAX_PIXELS // 10**6} million pixels. Choose a smaller one."
    if error.kind == "empty_image":
        return "The file is empty. Choose another one."
    if error.kind == "not_an_image":
        return "The file is not an image that can be read. Choose a JPEG, PNG, WebP, GIF, AVIF or BMP file."
    return "The image is damaged or incomplete. Choose another one."
