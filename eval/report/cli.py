"""``descscore eval report``. Heavy imports stand inside the command."""

from __future__ import annotations

from pathlib import Path

import click

from descscore.eval.options import data_option


@click.command()
@data_option("The data folder")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder for report.json, report.md and report.html; made where it is missing.",
)
@click.option(
    "--model", "models", multiple=True, help="Model to measure, by default 'default'. May be repeated."
)
@click.option("--device", help="Torch device; by default a GPU where there is one.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the resampling."
)
@click.option(
    "--resamples",
    type=int,
    default=1999,
    show_default=True,
    help="Bootstrap draws a correlation with people's ratings.",
)
@click.option(
    "--from-json",
    "saved",
    type=click.Path(path_type=Path),
    help="Measure nothing; make the pages of this saved report.json again.",
)
def report(
    data: Path,
    output: Path,
    models: tuple[str, ...],
    device: str | None,
    seed: int,
    resamples: int,
    saved: Path | None,
) -> None:
    """All evaluations of one or several models, side by side: JSON, Markdown and one HTML page."""
    from descscore.eval.report.files import make_folder, read_report, write_report
    from descscore.eval.statistics.bootstrap import Resampling

    resampling = Resampling(resamples, seed)
    make_folder(output)
    if saved is not None:
        found = read_report(saved)
    else:
        from descscore.eval.report.report import measure_report

        found = measure_report(data, models or ("default",), device, resampling, _say)
    for path in write_report(found, output):
        click.echo(path)
    for entry in found["not_measured"]:
        _say(f"not measured: {entry['section']} on {entry['data']}: {', '.join(entry['missing'])} missing")


def _say(text: str) -> None:
    click.echo(text, err=True)
