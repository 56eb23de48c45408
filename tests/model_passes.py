"""The batches that go through a model, seen from outside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from open_clip import CLIP
from torch import nn


@contextmanager
def image_batches(clip: CLIP) -> Iterator[list[int]]:
    """A list that gets the number of pictures of each pass through the image tower."""
    sizes: list[int] = []
    with seen(clip.visual.ln_post, sizes.append):
        yield sizes


@contextmanager
def text_batches(clip: CLIP) -> Iterator[list[int]]:
    """A list that gets the number of texts of each pass through the text tower."""
    sizes: list[int] = []
    with seen(clip.ln_final, sizes.append):
        yield sizes


@contextmanager
def at_most(module: nn.Module, limit: int, error: Exception) -> Iterator[None]:
    """Raise ``error`` when more than ``limit`` rows go through a part of the model."""

    def check(rows: int) -> None:
        if rows > limit:
            raise error

    with seen(module, check):
        yield


@contextmanager
def seen(module: nn.Module, see: Callable[[int], None]) -> Iterator[None]:
    """Call ``see`` with the number of rows that go through a part of the model."""
    hook = module.register_forward_pre_hook(lambda _, rows: see(len(rows[0])))
    try:
        yield
    finally:
        hook.remove()
