"""The commands ``descscore batch`` and ``descscore merge``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from descscore.errors import UsageError
from descscore.options import PATH, device_option, echo, output_option, speed_options, text_policy_option

SOME_FAILED = 3
"""Exit code of a complete run in which some rows could not be scored."""

INTERRUPTED = 130
"""Exit code of a run that Ctrl-C stopped, as shells have it."""


@click.command()
@click.argument("source", metavar="INPUT")
@output_option
@click.option("--id-column", help="Column of ids; by default 'id', or row numbers without such a column.")
@click.option(
    "--image-column", help="Column of paths or image bytes; by default 'image', or the format's own."
)
@click.option("--text-column", help="Column of texts; by default 'text', or the format's own.")
@click.option("--context-column", help="Column of the texts around the images, for contextual_score.")
@click.option(
    "--references-column",
    help="Column of lists of good descriptions, for reference_score; in CSV a cell is a JSON list.",
)
@click.option(
    "--image-root",
    type=PATH,
    help="Folder that image paths start from and may not leave; by default the table's. / allows every file; "
    "paths then start from the table's.",
)
@click.option(
    "--annotations",
    type=PATH,
    help="COCO's annotations, or clipscore's references: the images of INPUT and their references.",
)
@click.option(
    "--input-format",
    type=click.Choice(["csv", "tsv", "jsonl", "json", "parquet"]),
    help="Format of INPUT, where its name does not say it.",
)
@click.option("--split", default="train", show_default=True, help="Split of a data set that has splits.")
@click.option("--subset", help="Configuration of a hub data set.")
@click.option("-m", "--model", default="default", show_default=True, help="As for 'descscore score'.")
@device_option
@text_policy_option
@speed_options
@click.option(
    "--format",
    "form",
    type=click.Choice(["parquet", "csv", "jsonl"]),
    default="parquet",
    show_default=True,
    help="Parquet shards, or one file scores.csv or scores.jsonl.",
)
@click.option(
    "--shard-size", type=click.IntRange(1), default=10_000, show_default=True, help="Rows of a shard."
)
@click.option("--shard", "job", metavar="I/N", help="Score the I-th of N parts; see 'descscore merge'.")
@click.option("--workers", type=click.IntRange(0), help="Decoding processes; by default one per core.")
@click.option(
    "--time-limit",
    type=click.FloatRange(0, min_open=True),
    default=60.0,
    show_default=True,
    help="Seconds that decoding an image may take; then its row fails.",
)
@click.option("--decorative-empty", is_flag=True, help='Count the empty text as alt="": decorative.')
@click.option("--lean", is_flag=True, help="Leave image and text out of the results.")
@click.option(
    "--retry-failed",
    is_flag=True,
    help="Score again the rows that failed, and those whose image files have changed since.",
)
@click.option("--strict", is_flag=True, help="Stop at the first row that cannot be scored.")
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Where to run: in this process, or on a Ray cluster.",
)
@click.option(
    "--actors",
    type=click.IntRange(1),
    help="Ray: scoring processes; by default one per GPU, or without GPUs one for every two cores.",
)
@click.option("-j", "--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.pass_context
def batch(ctx: click.Context, /, source: str, output: Path, as_json: bool, **arguments: Any) -> None:
    """Score all pairs of INPUT into the folder --output.

    INPUT is a table (.csv, .tsv, .jsonl, .json, .parquet) with the columns image and text, a
    file of clipscore, COCO or Concadia, a folder of images with a .txt file for each or one table
    metadata.csv for all, WebDataset shards (.tar), a folder that save_to_disk wrote, a hub data
    set (hub:NAME), or - for a table on standard input. To continue a stopped run,
    start the same command again.

    Exit code 3: done, but some rows could not be scored; their status says why.
    """
    # Imported here, so that help comes at once; and torch only after the paths are known to be right.
    from descscore.hub import check_source
    from descscore.tables.open import InputOptions, open_input
    from descscore.tables.reader import Columns

    job = _job(arguments["job"])
    columns = Columns(**{name: arguments[f"{name}_column"] for name in _COLUMNS})
    names = ("image_root", "split", "subset", "annotations")
    opened = open_input(
        source, InputOptions(columns, format=arguments["input_format"], **{n: arguments[n] for n in names})
    )
    check_source(arguments["model"])
    from descscore.batch.ray_engine import RayOptions, ray_engine
    from descscore.batch.runner import BatchOptions, load_scorer, run_batch
    from descscore.stream.pairs import StreamOptions

    options = BatchOptions(
        shard_size=arguments["shard_size"],
        format=arguments["form"],
        batch_size=arguments["batch_size"],
        job=job,
        strict=arguments["strict"],
        stream=StreamOptions(
            workers=arguments["workers"],
            time_limit=arguments["time_limit"],
            decorative_empty=arguments["decorative_empty"],
        ),
        input_options=_input_options(arguments, opened.start),
        contexts=bool(arguments["context_column"]),
        lean=arguments["lean"],
        retry_failed=arguments["retry_failed"],
        references="references" in opened.roles,
    )
    model = {name: arguments[name] for name in ("model", "device", "text_policy", "precision")}
    scorer = load_scorer(model, arguments["compiled"])
    ray = RayOptions(model, arguments["actors"], arguments["compiled"])
    engine = ray_engine(ray) if arguments["engine"] == "ray" else None
    try:
        summary = run_batch(scorer, opened, output, options, engine=engine, show_progress=True)
    except KeyboardInterrupt:
        echo(f"{output}: stopped; the same command goes on from here", err=True)
        ctx.exit(INTERRUPTED)
    if summary.rows and not summary.scored:
        echo(f"{output}: {_nothing_left(summary.failed, arguments['retry_failed'])}", err=True)
    echo(summary.to_json() if as_json else summary.to_text())
    if summary.failed:
        ctx.exit(SOME_FAILED)


def _nothing_left(failed: int, retried: bool) -> str:
    if retried:
        return "no row had failed, and no image has changed; nothing was left to do"
    rows = f"the {failed:,} failed rows, and those" if failed else "rows"
    return (
        "all rows were scored already; nothing was left to do "
        f"(--retry-failed scores {rows} whose images have changed, again)"
    )


_COLUMNS = ("id", "image", "text", "context", "references")


def _input_options(arguments: dict[str, Any], start: Path | None) -> dict[str, Any]:
    """The input options on which results depend, by name. start: where relative image paths begin."""
    root = arguments["image_root"]
    options = {
        "id_column": arguments["id_column"],
        "image_column": arguments["image_column"] or "image",
        "text_column": arguments["text_column"] or "text",
        "split": arguments["split"],
        "subset": arguments["subset"],
        "image_root": root and os.path.abspath(root),
    }
    if root == Path("/"):  # under any other root, the paths begin at the root
        options["image_start"] = os.path.abspath(start or root)
    optional = ("context_column", "references_column", "input_format")
    return options | {name: arguments[name] for name in optional if arguments[name]}


def _job(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    part, slash, parts = text.partition("/")
    if not (slash and part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise UsageError(f"--shard {text!r}: expected I/N with I in 1..N, such as 3/8")
    return int(part), int(parts)


@click.command(short_help="Join the folders of all jobs of 'batch --shard I/N'.")
@click.argument("jobs", metavar="FOLDER...", nargs=-1, required=True, type=PATH)
@click.option("-o", "--output", required=True, type=PATH, help="Folder for all results.")
@click.option("-j", "--json", "as_json", is_flag=True, help="Print the summary as JSON.")
@click.pass_context
def merge(ctx: click.Context, jobs: tuple[Path, ...], output: Path, as_json: bool) -> None:
    """Join the FOLDERs of all N jobs of 'descscore batch --shard I/N'."""
    from descscore.batch.merge import merge as merge_jobs

    summary = merge_jobs(jobs, output)
    echo(summary.to_json() if as_json else summary.to_text())
    if summary.failed:
        ctx.exit(SOME_FAILED)
