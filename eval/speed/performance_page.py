"""What the pages on performance and scaling show of the numbers that were measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from descscore.errors import DataError
from descscore.eval.markdown_table import table
from descscore.eval.report.number_format import PERCENT, percent
from descscore.eval.speed.memory_plot import memory_words
from descscore.eval.speed.performance_gpu import billion_row, bottleneck
from descscore.eval.speed.performance_rows import elsewhere, memory_rows, part_rows, precision_row, told

Json: TypeAlias = Mapping[str, Any]

DATA_FILE, PLOT_FILE = "performance.json", "images/memory.svg"
TIMES_GOAL = {"float32": 4.0, "bf16": 6.0}
SHARE_GOAL = 0.85
_BILLION = 1_000_000_000
_COMMAND = "python -m descscore.eval.speed.performance"


def put_in(text: str, name: str, made: str) -> str:
    """The page with ``made`` between its lines ``<!-- name -->`` and ``<!-- /name -->``."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, _, rest = text.partition(start)
    _, mark, after = rest.partition(end)
    if not mark:
        raise DataError(f"the page lacks the lines {start} and {end}")
    return f"{before}{start}\n{made}{end}{after}"


def measured(found: Json) -> str:
    """The part of the page on performance."""
    runs = found["throughput"]
    rows = [row for run in runs for row in _throughput_rows(run)]
    rows += [precision_row(row, found["precision"]) for row in found["precision"]["rows"]]
    rows += memory_rows(found["memory"])
    shown = table(["what", "goal", "measured"], rows)
    parts = table(["each by itself, a second", *(run["precision"] for run in runs)], part_rows(runs))
    picture = f"![{memory_words(found['memory']['runs'])}]({PLOT_FILE})"
    return f"{shown}\n{_about(found)}\n\n{parts}\n{picture}\n"


def billion(found: Json, gpu: Json) -> str:
    """The part of the page on scaling: what a billion pairs take at the rates measured."""
    row_bytes = found["memory"]["runs"][-1]["row_bytes"]
    rows = []
    for run in found["throughput"]:
        figures, cores = run["figures"], found["machines"]["throughput"]["cores"]
        single = 1 / (
            1 / figures["decoding alone, images a second"]
            + 1 / figures["image tower alone, images a second"]
            + 1 / figures["text tower alone, texts a second"]
        )
        for texts, rate in ((run["texts"], figures["end to end, pairs a second"]), (1, single)):
            hours = _BILLION / rate / 3600 * cores
            rows.append([f"{run['precision']}, CPU", str(texts), f"{rate:.1f}", f"{hours:,.0f} core hours"])
    rows.append(billion_row(gpu))
    head = ["ViT-B-32", "texts an image", "pairs a second", "a billion pairs"]
    stored = f"{row_bytes:.1f} bytes a row in Parquet shards, {row_bytes * _BILLION / 1e9:.0f} GB in all"
    return f"{table(head, rows)}\n{bottleneck(gpu)}Results take {stored}, ids of up to six digits included.\n"


def _throughput_rows(run: Json) -> list[list[str]]:
    figures, precision, texts = run["figures"], run["precision"], run["texts"]
    goal, times = TIMES_GOAL[precision], figures["times torchmetrics"]
    share = figures["share of decoding and forward passes added up"]
    return [
        [
            f"{precision}, {texts} texts a photo: times torchmetrics in float32",
            f"≥ {goal:g}",
            f"{times:.2f}{told(times >= goal)}",
        ],
        [
            f"{precision}: share of decoding and forward passes added up",
            f"≥ {100 * SHARE_GOAL:.0f}{PERCENT}",
            f"{percent(share)}{told(share >= SHARE_GOAL)}",
        ],
    ]


def _about(found: Json) -> str:
    run = found["throughput"][0]
    photos = f"{run['photos']} photos ({run['different']} different) with {run['texts']} texts each"
    machine = found["machines"]["throughput"]["machine"]
    about = f"{machine}: {photos}, medians of {run['rounds']} rounds.{elsewhere(found)}"
    return f"{about} Command: `{_COMMAND}`."
