"""The command ``descscore audit``. It imports slow modules when it runs, so that help comes at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click
from click.exceptions import Exit

from descscore.errors import DescscoreError, UsageError
from descscore.options import PATH, device_option, echo, model_option

FOUND = 1
"""Exit code of an audit with findings of the rules in ``--fail-on``."""


def _codes(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Names of rules, from an option that may be repeated and may hold several names between commas."""
    return tuple(name.strip() for value in values for name in value.split(",") if name.strip())


@contextmanager
def _running() -> Iterator[None]:
    try:
        yield
    except (DescscoreError, OSError) as error:
        raise UsageError(str(error)) from error


class _Audit(click.Command):
    """Ends with 2 where it cannot run, whatever the reason: 1 says that it found something."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        with _running():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        with _running():
            return super().invoke(ctx)


@click.command(cls=_Audit, short_help="Check the text of every image in documents, worst first.")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=PATH)
@model_option()
@click.option("--no-model", is_flag=True, help="Check texts and files only, which is much faster.")
@device_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "csv", "html", "sarif", "junit"]),
    default="text",
    show_default=True,
    help="Form of the report.",
)
@click.option("-o", "--output", type=PATH, help="File for the report; by default standard output.")
@click.option(
    "--select", multiple=True, callback=_codes, metavar="CODES", help="Rules that are on, such as T01,P."
)
@click.option("--ignore", multiple=True, callback=_codes, metavar="CODES", help="Rules that are off.")
@click.option(
    "--fail-on",
    multiple=True,
    callback=_codes,
    metavar="CODES",
    default=("error",),
    show_default=True,
    help="Rules whose findings end in exit code 1; 'warning' means errors too, 'none' no rule.",
)
@click.option("--baseline", type=PATH, help="File of known findings, which are left out.")
@click.option("--write-baseline", type=PATH, help="Write all findings to this file, to be known from now on.")
@click.option(
    "--exclude",
    multiple=True,
    metavar="GLOB",
    help="Files or folders to leave out of the given folders. May be repeated.",
)
@click.option(
    "--root",
    "roots",
    multiple=True,
    metavar="URL=FOLDER",
    help="The folder that holds the files of an address, or with / those of paths that begin with /. "
    "May be repeated.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1),
    help="Processes that decode images; by default one per core, at most 4 without a model.",
)
@click.pass_context
def audit(ctx: click.Context, /, paths: tuple[Path, ...], **arguments: Any) -> None:
    """Check the text alternative of every image in documents, worst first.

    PATH is a file or folder of HTML, EPUB, Markdown, notebooks, DOCX, PPTX or ODT. CODES are rules
    such as T01, beginnings such as T, names such as missing-text, or error, warning, review and all.
    Nothing is fetched.

    Exit code 0: it found nothing that --fail-on names. 1: it found something. 2: it could not run, as after
    a wrong option.
    """
    from descscore.auditing.audit import audit as audit_documents
    from descscore.auditing.baseline import read_baseline, without_known, write_baseline
    from descscore.auditing.reports import make_report
    from descscore.auditing.results import worst_first
    from descscore.auditing.rules import choose_codes, codes_on

    failing = choose_codes([one for one in arguments["fail_on"] if one != "none"], "--fail-on", or_worse=True)
    settings = {name: arguments[name] for name in ("select", "ignore", "exclude", "jobs")}
    settings["roots"] = dict(map(_root, arguments["roots"]))
    codes_on(arguments["select"], arguments["ignore"])  # a wrong name ends here, before a model is loaded
    for option in ("output", "write_baseline"):
        path = arguments[option]
        if path and not path.absolute().parent.is_dir():
            raise UsageError(f"--{option.replace('_', '-')} {path}: {path.parent} is not a folder")
        if path and path.is_dir():
            raise UsageError(f"--{option.replace('_', '-')} {path}: is a folder; name a file in it")
    baseline = arguments["baseline"]
    known = read_baseline(baseline) if baseline else None
    scorer = None if arguments["no_model"] else _scorer(arguments["model"], arguments["device"])
    records: Iterable[Any] = audit_documents(paths, model=scorer, **settings)
    if arguments["write_baseline"]:  # with what an older baseline knows, or this would be new again
        count = write_baseline(records, arguments["write_baseline"])
        echo(f"{arguments['write_baseline']}: {count:,} findings are known from now on", err=True)
        return
    if known is not None:
        records = without_known(records, known, baseline.parent)
    found = worst_first(records)
    report = make_report(arguments["form"], found, failing, scorer and scorer.signature)
    _put(report, arguments["output"])
    if any(one.code in failing for record in found for one in record.findings):
        ctx.exit(FOUND)


def _root(text: str) -> tuple[str, str]:
    address, equals, folder = text.rpartition("=")
    if not (equals and address and folder):
        raise UsageError(f"--root {text!r}: expected URL=FOLDER, such as https://example.org/=public")
    if not Path(folder).is_dir():
        raise UsageError(f"--root {text!r}: {folder} is not a folder")
    return address, folder


def _scorer(model: str, device: str | None) -> Any:
    from descscore.scorer import DescScorer

    return DescScorer.from_pretrained(model, device=device)


def _put(report: str, output: Path | None) -> None:
    """Write the report to a file in one step, or print it."""
    from descscore.files import atomic_write

    if output is None:
        with suppress(Exit):  # of a reader that wants no more: the exit code still says what was found
            echo(report.removesuffix("\n"))
        return
    with atomic_write(output) as part:
        part.write_text(report, encoding="utf-8", errors="backslashreplace", newline="")
    echo(f"report: {output}", err=True)
