"""Read an image that a visitor uploads, in a process that a hostile image cannot hold for long."""

from __future__ import annotations

import queue

import numpy as np
from PIL import Image, UnidentifiedImageError

from descscore.errors import ImageError
from descscore.formats import BROWSER_FORMATS
from descscore.images import PixelSpec, content_digest, load_image, open_bytes, picture_pixels
from descscore.stream.pool import DecodePool
from descscore.stream.worker import Pixels, PoolOptions

MAX_BYTES = 20 * 2**20
"""Largest image file that is accepted: 20 MB."""

MAX_UPLOAD_PIXELS = 60_000_000
"""Largest image that is decoded, in pixels."""

UPLOADS_TAKEN = "JPEG, PNG, WebP, GIF, AVIF or BMP"
"""The formats that visitors are told. Files of the format MPO call themselves JPEG."""

MAX_SCANS = 200
"""Most scans of a JPEG file. Ordinary progressive files have about ten. Each costs a pass over the image."""

TIME_LIMIT = 10.0
"""Seconds that decoding an image may take."""

AT_ONCE = 2
"""Number of images that are decoded at once, each in a process of its own."""

_START_OF_SCAN = b"\xff\xda"


class UploadDecoder:
    """Decodes uploads in worker processes, which start with the first uploads. Threads may share it.

    spec: the picture that the model takes.
    """

    def __init__(self, spec: PixelSpec) -> None:
        self._options = PoolOptions(1, 1, TIME_LIMIT, f"{__name__}:prepare")
        self._spec = spec
        self._pools: queue.SimpleQueue[DecodePool | None] = queue.SimpleQueue()
        for _ in range(AT_ONCE):
            self._pools.put(None)

    def read(self, data: bytes) -> Image.Image:
        """The image as the model takes it: resizing it again changes nothing.

        Raises:
            ImageError: The image cannot be used; with advice for the visitor.
        """
        pool = self._pools.get()
        try:
            pool = pool or DecodePool(self._spec, self._options)
            return self._decoded(pool, data)
        except ImageError as error:
            raise ImageError(error.kind, _ADVICE.get(error.kind, _DAMAGED)) from None
        except BaseException:
            if pool is not None:
                pool.close()
            pool = None
            raise
        finally:
            self._pools.put(pool)

    def _decoded(self, pool: DecodePool, data: bytes) -> Image.Image:
        pool.submit(0, data)
        answer = pool.get()
        if answer.error is not None:
            raise answer.error
        assert answer.slot is not None
        pixels = np.empty((1, self._spec.height, self._spec.width, 3), np.uint8)
        pool.pixels([answer.slot], pixels)
        pool.release(answer.slot)
        return Image.fromarray(pixels[0])

    def close(self) -> None:
        """End the processes."""
        for _ in range(AT_ONCE):
            pool = self._pools.get()
            if pool is not None:
                pool.close()
            self._pools.put(None)


def prepare(data: str | bytes, spec: PixelSpec) -> tuple[Pixels, bytes]:
    """As :func:`descscore.stream.worker.prepare`, but only for images that a browser can show."""
    assert isinstance(data, bytes)
    _check(data)
    return picture_pixels(load_image(data, MAX_UPLOAD_PIXELS), spec), content_digest(data)


def _check(data: bytes) -> None:
    """Raise :class:`ImageError` for a file that Pillow should not even begin to decode."""
    if len(data) > MAX_BYTES:
        raise ImageError("file_too_large", "image bytes")
    if not data:
        raise ImageError("empty_image", "image bytes")
    try:
        with open_bytes(data, BROWSER_FORMATS) as image:
            is_jpeg = image.format in ("JPEG", "MPO")
    except UnidentifiedImageError:
        raise ImageError("not_an_image", "image bytes") from None
    except Exception:  # noqa: BLE001 - load_image then raises the exact error
        return
    if is_jpeg and data.count(_START_OF_SCAN) > MAX_SCANS:
        raise ImageError("too_many_scans", "image bytes")


_ADVICE = {
    "file_too_large": f"The file is larger than {MAX_BYTES // 2**20} MB. Choose a smaller one.",
    "image_too_large": f"The image has more than {MAX_UPLOAD_PIXELS // 10**6} million pixels, or is far too "
    "long and narrow. Choose another one.",
    "empty_image": "The file is empty. Choose another one.",
    "not_an_image": f"The file is not an image that can be read. Choose a {UPLOADS_TAKEN} file.",
    "too_many_scans": "The JPEG file has too many scans. Save it without them, or choose another image.",
    "image_timeout": f"The image takes longer than {TIME_LIMIT:g} seconds to read. Choose a smaller one.",
    "decoder_died": "The image takes too much memory to read. Choose a smaller one.",
}
_DAMAGED = "The image is damaged or incomplete. Choose another one."
