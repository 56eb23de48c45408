"""Options that several commands share, and command groups that import commands when needed."""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from descscore.errors import DescscoreError, shown

F = TypeVar("F", bound=Callable[..., Any])

PATH = click.Path(path_type=Path)


class LazyGroup(click.Group):
    """A click group that imports a subcommand when it is looked up.

    Args:
        lazy: ``package.module:object`` of each such command, by its name.
    """

    def __init__(self, *args: Any, lazy: dict[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = lazy or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self._lazy})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in self._lazy:
            module, _, attribute = self._lazy[name].partition(":")
            command: click.Command | None = getattr(importlib.import_module(module), attribute)
        else:
            command = super().get_command(ctx, name)
        if command is not None:
            _complete(command)
        return command


def _complete(command: click.Command) -> None:
    """Add ``--debug`` to a command, and name the options that it needs in its usage. Likewise in a group."""
    if all(parameter.name != "debug" for parameter in command.params):
        command.params.append(_debug_option())
    needed = [one for one in command.params if isinstance(one, click.Option) and one.required]
    named = [f"{max(one.opts, key=len)} {one.metavar or one.type.name.upper()}" for one in needed]
    command.options_metavar = " ".join([*named, "[OPTIONS]"])
    for child in command.commands.values() if isinstance(command, click.Group) else ():
        _complete(child)


def _debug_option() -> click.Option:
    """``--debug`` behind a command, as before it."""

    def callback(ctx: click.Context, _option: click.Parameter, value: bool) -> None:
        if value:
            ctx.find_root().params["debug"] = True

    return click.Option(
        ["--debug"],
        is_flag=True,
        is_eager=True,  # so that it also holds for errors of other options
        expose_value=False,
        callback=callback,
        help="Show the traceback of an error.",
    )


class Group(LazyGroup):
    """A group that turns descscore's errors into one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
            if getattr(sys, name) is None:  # closed by the caller, as some services do
                setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
        try:
            return super().invoke(ctx)
        except (DescscoreError, OSError) as error:
            if ctx.params.get("debug"):
                raise
            echo(f"Error: {_LONG_WORD.sub(_cut, str(error))}", err=True)
            ctx.exit(error.exit_code if isinstance(error, DescscoreError) else 1)


_LONG_WORD = re.compile(r"\S{4097,}")
"""Longer than any path: the content of a file where its name belongs."""


def _cut(word: re.Match[str]) -> str:
    return f"{word[0][:100]}... ({len(word[0]):,} characters)"


def echo(text: object, *, err: bool = False, dim: bool = False) -> None:
    """Print a line. Control characters, which texts and file names may hold, are shown, not sent.

    What the terminal's coding lacks is replaced. If nobody reads any more, the command ends, with code 1.

    Args:
        text: The line.
        err: Whether to print it on standard error.
        dim: Whether a terminal shows it dim. Elsewhere, and with ``NO_COLOR``, it is plain.
    """
    line, stream = shown(text), sys.stderr if err else sys.stdout
    coding = getattr(stream, "encoding", None) or "utf-8"
    line = line.encode(coding, "backslashreplace").decode(coding)
    styled = dim and stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    try:
        click.echo(click.style(line, dim=True) if styled else line, err=err)
    except BrokenPipeError:  # the reader, such as ``head``, wants no more
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # else Python complains when it ends
        raise click.exceptions.Exit(1) from None


def _check_model(_ctx: click.Context, _option: click.Parameter, value: Any) -> Any:
    """Refuse what is surely no model before a command imports torch, which takes seconds."""
    from descscore.hub import check_source

    for source in [value] if isinstance(value, str) else value:
        check_source(source)
    return value


text_policy_option = click.option(
    "--text-policy",
    type=click.Choice(["truncate", "error", "windows", "weighted-windows"]),
    default="weighted-windows",
    show_default=True,
    help="How to score a text over the model's context length.",
)
context_option = click.option(
    "--context", help="Text around the image, such as its article; adds contextual_score."
)
device_option = click.option("--device", help="Torch device; by default a GPU if there is one.")
json_option = click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
output_option = click.option("-o", "--output", required=True, type=PATH, help="Folder for the results.")
verbose_option = click.option(
    "-v", "--verbose", is_flag=True, help="Also print cosine, clip_score and the other numbers."
)
models_option = click.option(
    "-m",
    "--model",
    "models",
    multiple=True,
    callback=_check_model,
    help="Model to measure, by default 'default'. May be repeated.",
)


def model_option(default: str = "default") -> Callable[[F], F]:
    """``--model``, once."""
    return click.option(
        "-m",
        "--model",
        default=default,
        show_default=True,
        callback=_check_model,
        help="Bundled name, folder, hf-hub:ORG/NAME, or open_clip model.",
    )


def data_option(text: str) -> Callable[[F], F]:
    """``--data``, also taken from DESCSCORE_DATA. text: what the option names."""
    return click.option(
        "--data",
        type=PATH,
        envvar="DESCSCORE_DATA",
        default=Path("../shared/data"),
        show_default=True,
        help=f"{text} (also DESCSCORE_DATA).",
    )


def pairs_options(command: F) -> F:
    """Add ``--data``, ``--split`` and ``--image-root`` of a data set of pairs."""
    options = (
        click.option(
            "--data", required=True, help="Concadia folder, table (CSV, JSONL, Parquet), or hub:NAME."
        ),
        click.option(
            "--split",
            default="test",
            show_default=True,
            help="Split to measure on; '' for data without splits.",
        ),
        click.option("--image-root", type=PATH, help="Folder that image paths start from; / allows all."),
    )
    return _with_options(command, options)


def resampling_options(command: F) -> F:
    """Add ``--seed`` and ``--resamples`` of the bootstrap."""
    options = (
        click.option(
            "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the resampling."
        ),
        click.option(
            "--resamples",
            type=int,
            default=1999,
            show_default=True,
            help="Random resamples from which each 95 % interval is computed.",
        ),
    )
    return _with_options(command, options)


def speed_options(command: F) -> F:
    """Add ``--precision``, ``--batch-size`` and ``--compile``, which change how fast a model runs."""
    options = (
        click.option(
            "--precision",
            type=click.Choice(["float32", "bf16", "fp16"]),
            default="float32",
            show_default=True,
            help="Number format of the model; part of the signature.",
        ),
        click.option(
            "--batch-size", type=click.IntRange(1), help="Rows per pass; by default chosen automatically."
        ),
        click.option("--compile", "compiled", is_flag=True, help="Use torch.compile for the image tower."),
    )
    return _with_options(command, options)


def _with_options(command: F, options: Sequence[Callable[[F], F]]) -> F:
    """Add options to a command in the order in which its help shows them."""
    for option in reversed(options):
        command = option(command)
    return command


def model_options(command: F) -> F:
    """Add ``--model``, ``--device``, ``--text-policy`` and ``--json``, the same for every scoring command."""
    options = (
        click.option(
            "-m",
            "--model",
            default="default",
            show_default=True,
            callback=_check_model,
            help="Bundled name (base, default), folder, hf-hub:ORG/NAME, or open_clip model with its tag "
            "(ViT-B-32/openai).",
        ),
        device_option,
        text_policy_option,
        json_option,
    )
    return _with_options(command, options)


def print_result(as_json: bool, result: Any, lines: Sequence[str]) -> None:
    """Print ``result`` as JSON, or the ``lines``."""
    if as_json:
        echo(json.dumps(result, ensure_ascii=False, indent=2, allow_nan=False))
    else:
        echo("\n".join(lines))
