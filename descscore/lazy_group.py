"""A click group whose subcommands are imported when they are looked up."""

from __future__ import annotations

import importlib
from typing import Any

import click


class LazyGroup(click.Group):
    """lazy: command name -> ``package.module:object``."""

    def __init__(self, *args: Any, lazy: dict[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = lazy or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self._lazy})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self._lazy:
            return super().get_command(ctx, name)
        module, _, attribute = self._lazy[name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command
