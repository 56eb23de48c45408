"""A report's files: its JSON, and the Markdown and HTML pages that are made from the JSON alone.

What the pages say stands in ``templates/report.jinja``, how it looks in ``templates/html.jinja`` and
``templates/markdown.jinja``. The functions here read and write the files, and prepare rows for the tables.
Both layouts escape every value from the JSON.
"""

from __future__ import annotations

import html
import io
import json
import re
import statistics
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from jinja2 import TemplateError
from markupsafe import Markup

from descscore.errors import DataError, UsageError, shown
from descscore.eval import formatting
from descscore.eval.report import plots
from descscore.files import atomic_write
from descscore.templates import data_address, environment

Json: TypeAlias = dict[str, Any]
Column: TypeAlias = "str | tuple[Any, ...]"
"""A key of a row, or a function and the keys whose values it is called with."""

FORMAT = 1
"""Version of the JSON's format; it rises whenever readers must change."""

NAMES = ("report.json", "report.md", "report.html")

CLIP_B32 = 151_277_313
"""Parameters of OpenAI's CLIP ViT-B/32, the model of published CLIPScores."""


# Files


def make_folder(folder: Path) -> None:
    """Make sure that ``folder`` can be written to; raises :class:`UsageError` that names it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"--output {folder}: cannot be written to ({error.strerror or error})") from None


def write_report(report: Json, folder: Path) -> list[Path]:
    """Write :data:`NAMES` into ``folder``, the JSON first; files of an earlier report are replaced.

    Markdown and HTML are rendered from what the JSON file holds, nothing else.
    """
    text = json.dumps(report, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    paths = [folder / name for name in NAMES]
    _replace(paths[0], text)
    saved = json.loads(text)
    for path, render in zip(paths[1:], (to_markdown, to_html), strict=True):
        _replace(path, render(saved))
    return paths


def read_report(path: Path) -> Json:
    """A saved report's JSON; :class:`DataError` if it cannot be read."""
    try:
        report: Json = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a report ({error})") from None
    return report


def _replace(path: Path, text: str) -> None:
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


# Pages


def to_html(report: Json) -> str:
    """A report as one self-contained file: no script, no request, plots inside as SVG.

    The same report gives the same text. Raises :class:`DataError` for another kind of JSON, or a
    report of another format.
    """
    return _render(report, "html.jinja", lambda text: shown(re.sub(r"[ \t\r\n]+", " ", text)))


def to_markdown(report: Json) -> str:
    """A report as Markdown. Raises as :func:`to_html`."""
    text = _render(report, "markdown.jinja", lambda text: Markup(escape(text)))
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n") + "\n"


# An underscore within a word is no emphasis.
_SPECIAL = re.compile(r"[\\`*\[\]|~]|(?<![^\W_])_|_(?![^\W_])")


def escape(text: str) -> str:
    """``text`` as one line of Markdown that shows it as it is."""
    flat = shown(re.sub(r"\s+", " ", text))
    return html.escape(_SPECIAL.sub(lambda match: "\\" + match[0], flat), quote=False)


def _render(report: Json, layout: str, escaped: Callable[[str], str]) -> str:
    """The page of a report. escaped: makes a value from the JSON fit for the layout."""
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        raise DataError(f"not a report of format {FORMAT} (its 'format' says so)")

    def finalize(value: Any) -> Any:
        return value if isinstance(value, Markup) else escaped(str(value))

    folder = Path(__file__).parent / "templates"
    templates = environment(folder, finalize, extensions=["jinja2.ext.do"])
    numbers: dict[str, dict[str, int]] = {"table": {}, "figure": {}}

    def number_of(kind: str, key: str) -> int:
        """The number of a table or figure: from 1, in the order in which the page first mentions them."""
        return numbers[kind].setdefault(key, len(numbers[kind]) + 1)

    values = {
        "contents": [],
        "layout": layout,
        "markdown_table": partial(_markdown_table, finalize),
        "number_of": number_of,
        "plots": plots,
        "CLIP_B32": CLIP_B32,
    }
    try:
        return templates.get_template("report.jinja").render(report=report, **_FORMATS, **_TOOLS, **values)
    except (TemplateError, KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise DataError(f"not a whole report: {type(error).__name__} {error}") from error


def picture(draw: Callable[..., None], *arguments: Any) -> str:
    """A plot as a data address; as an image, its markup cannot act on the page.

    draw: a function of :mod:`descscore.eval.report.plots`. arguments: its arguments without the target.
    """
    stream = io.BytesIO()
    draw(*arguments, stream)
    return data_address(stream.getvalue(), "image/svg+xml")


def paragraphs(text: Markup) -> list[Markup]:
    """What blank lines separate, each as one line. A no-break space stays."""
    parts = (re.sub(r"[ \t\n]+", " ", part).strip(" ") for part in re.split(r"\n[ \t]*\n", text))
    return [Markup(part) for part in parts if part]


# Cells


_FORMATS: dict[str, Any] = {
    **{
        form.__name__: form
        for form in (
            *(formatting.counted, formatting.listing, formatting.p_value, formatting.percent),
            *(formatting.plain, formatting.sentence, formatting.signed, formatting.slug, formatting.stop),
        )
    },
    "interval_or_none": lambda low, high: "none" if low is None else formatting.percent_interval(low, high),
    "number_of_units": "{} {}s".format,
    "one_in": lambda count: formatting.percent(1 / count),
    "or_none": lambda text: text or "none",
    "percent0": partial(formatting.percent, digits=0),
    "percent_interval": formatting.percent_interval,
    "plain3": partial(formatting.plain, digits=3),
    "plain_interval": partial(formatting.plain_interval, digits=3),
    "signed1": partial(formatting.signed, digits=1),
    "signed3": partial(formatting.signed, digits=3),
    "signed_interval": formatting.signed_interval,
    "thousands": "{:,}".format,
}
"""How the templates write numbers and words."""


def cells_of(rows: Iterable[Json], columns: Mapping[str, Column]) -> list[list[str]]:
    """A table's cells as text. columns: by heading."""
    return [[_cell(row, column) for column in columns.values()] for row in rows]


def _cell(row: Json, column: Column) -> str:
    if isinstance(column, str):
        return str(row[column])
    function, *keys = column
    return str(function(*(row[key] for key in keys)))


def _markdown_table(
    finalize: Callable[[Any], Any], head: Iterable[str], cells: Iterable[Iterable[str]]
) -> Markup:
    return Markup(
        formatting.markdown_table(list(map(finalize, head)), [list(map(finalize, row)) for row in cells])
    )


_NUMBER = re.compile(r"[+\N{MINUS SIGN}]?\d[\d.,]*(\s%)?( to [+\N{MINUS SIGN}]?\d[\d.,]*(\s%)?)?")
_NO_NUMBER = frozenset({"not defined", "none", "under 0.001"})


def numeric_columns(cells: Sequence[Sequence[str]], names: int) -> list[int]:
    """The columns that hold only numbers and intervals. names: how many leading columns are names."""
    columns = list(zip(*cells, strict=True))
    numbers = [[cell for cell in column if cell not in _NO_NUMBER] for column in columns]
    return [i for i in range(names, len(columns)) if numbers[i] and all(map(_NUMBER.fullmatch, numbers[i]))]


# Rows


def distinct(rows: Sequence[Json], *keys: str) -> list[tuple[Any, ...]]:
    """The different values of ``keys`` together, in order of appearance."""
    return list(dict.fromkeys(tuple(row[key] for key in keys) for row in rows))


def readers(raters: str, phase: str | None) -> str:
    """A group of raters in words."""
    return f"{raters} readers" + ("" if phase is None else f", {phase} seeing the image")


def median_half_width(differences: Sequence[Json]) -> float | None:
    """Half the median width of the intervals for BLV readers' overall ratings."""
    widths = [
        (row["high"] - row["low"]) / 2
        for row in differences
        if (row["raters"], row["question"]) == ("BLV", "overall") and row["low"] is not None
    ]
    return statistics.median(widths) if widths else None


def undefined_correlations(rows: Sequence[Json]) -> list[str]:
    """Why correlations are not defined, each reason once."""
    reasons = []
    for row in rows:
        where = f"({row['question']})"
        if row["reason"]:
            reasons.append(f"r of {row['metric']} {where}: {row['reason']}")
        if row["partial_reason"] and row["partial_reason"] != row["reason"]:
            reasons.append(f"r of {row['metric']} given length {where}: {row['partial_reason']}")
    return list(dict.fromkeys(reasons))


def caption_rows(part: Json) -> list[Json]:
    """A row a model and a row a published metric, with tau times 100 on both sets of ratings."""
    measured = [
        {"metric": model, "source": "measured here"}
        | {row["set"]: row["tau"] and 100 * row["tau"] for row in part["rows"] if row["model"] == model}
        for (model,) in distinct(part["rows"], "model")
    ]
    return measured + [row | {"source": "published"} for row in part["published"]]


def caption_counts(rows: Sequence[Json]) -> list[str]:
    """How many pairs and ratings there are of each set, each line once."""
    counts = [
        f"{row['set']}: {row['pairs']} pairs, {row['ratings']} ratings, "
        f"{row['left_out']} own captions left out"
        + (f"; not defined: {row['reason']}" if row["reason"] else "")
        for row in rows
    ]
    return list(dict.fromkeys(counts))


def measured_files(report: Json) -> list[Json]:
    """The files that any section was measured on, sorted, with their digests."""
    sections = [section for section in report.values() if isinstance(section, list)]
    parts = [part for section in sections for part in section if isinstance(part, dict)]
    files = {file: digest for part in parts for file, digest in part.get("files", {}).items()}
    return [{"file": file, "digest": digest} for file, digest in sorted(files.items())]


_TOOLS = {
    tool.__name__: tool
    for tool in (
        *(caption_counts, caption_rows, cells_of, distinct, measured_files, median_half_width),
        *(numeric_columns, paragraphs, picture, readers, undefined_correlations),
    )
}
"""Functions that the templates call by their names."""
