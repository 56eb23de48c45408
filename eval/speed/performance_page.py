"""What the pages on performance and scaling show of the numbers that were measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from descscore.errors import DataError
from descscore.eval.markdown_table import table
from descscore.eval.report.number_format import PERCENT, percent
from descscore.eval.speed.memory_plot import memory_words

Json: TypeAlias = Mapping[str, Any]

DATA_FILE, PLOT_FILE = "performance.json", "images/memory.svg"
TIMES_GOAL = {"float32": 4.0, "bf16": 6.0}
SHARE_GOAL, GROWTH_GOAL = 0.85, 50e6
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
    rows += [_precision_row(row, found["precision"]) for row in found["precision"]["rows"]]
    rows += _memory_rows(found["memory"])
    shown = table(["what", "goal", "measured"], rows)
    parts = table(["each by itself, a second", *(run["precision"] for run in runs)], _part_rows(runs))
    picture = f"![{memory_words(found['memory']['runs'])}]({PLOT_FILE})"
    return f"{shown}\n{_about(found)}\n\n{parts}\n{picture}\n"


def billion(found: Json) -> str:
    """The part of the page on scaling: what a billion pairs take at the rates measured."""
    row_bytes = found["memory"]["runs"][-1]["row_bytes"]
    rows = []
    for run in found["throughput"]:
        figures, cores = run["figures"], found["cores"]
        single = 1 / (
            1 / figures["decoding alone, images a second"]
            + 1 / figures["image tower alone, images a second"]
            + 1 / figures["text tower alone, texts a second"]
        )
        for texts, rate in ((run["texts"], figures["end to end, pairs a second"]), (1, single)):
            hours = _BILLION / rate / 3600 * cores
            rows.append([f"{run['precision']}, CPU", str(texts), f"{rate:.1f}", f"{hours:,.0f} core hours"])
    rows.append(["bf16, GPU", "1", "not measured", "not measured"])
    head = ["ViT-B-32", "texts an image", "pairs a second", "a billion pairs"]
    stored = f"{row_bytes:.1f} bytes a row in Parquet shards, {row_bytes * _BILLION / 1e9:.0f} GB in all"
    return f"{table(head, rows)}\nResults take {stored}, ids of up to six digits included.\n"


def _throughput_rows(run: Json) -> list[list[str]]:
    figures, precision, texts = run["figures"], run["precision"], run["texts"]
    goal, times = TIMES_GOAL[precision], figures["times torchmetrics"]
    share = figures["share of decoding and forward passes added up"]
    return [
        [
            f"{precision}, {texts} texts a photo: times torchmetrics in float32",
            f"≥ {goal:g}",
            f"{times:.2f}{_told(times >= goal)}",
        ],
        [
            f"{precision}: share of decoding and forward passes added up",
            f"≥ {100 * SHARE_GOAL:.0f}{PERCENT}",
            f"{percent(share)}{_told(share >= SHARE_GOAL)}",
        ],
    ]


def _precision_row(row: Json, check: Json) -> list[str]:
    from descscore.eval.speed.precision_check import MEAN_GOAL, RANK_GOAL

    what = f"{row['precision']}, {row['pairs']:,} pairs of `{check['model']}`"
    return [
        f"{what}: mean difference of cosines from float32, Spearman",
        f"≤ {MEAN_GOAL:g}, ≥ {RANK_GOAL:g}",
        f"{row['mean']:.1e}, {row['spearman']:.5f}{_told(row['close'])}",
    ]


def _memory_rows(memory: Json) -> list[list[str]]:
    *_, before, last = memory["runs"]
    grown = last["peak"] - before["peak"]
    sizes = f"{before['pairs']:,} and {last['pairs']:,} pairs of `{memory['model']}`"
    times = [f"{1000 * run['seconds'] / run['pairs']:.1f}" for run in (before, last)]
    return [
        [
            f"most resident memory, {sizes}: growth",
            f"≤ {GROWTH_GOAL / 1e6:.0f} MB",
            f"{grown / 1e6:.0f} MB, from {before['peak'] / 1e6:,.0f}{_told(grown <= GROWTH_GOAL)}",
        ],
        [f"milliseconds a pair, {sizes}", "the same", " and ".join(times)],
    ]


_PARTS = (
    "decoding alone, images a second",
    "image tower alone, images a second",
    "text tower alone, texts a second",
    "end to end, pairs a second",
    "torchmetrics CLIPScore, pairs a second",
    "matrix products, GFLOP a second",
    "image tower, share of the matrix rate",
    "text tower, share of the matrix rate",
    "image tower, GFLOP an image",
    "text tower, GFLOP a text",
    "both towers, GFLOP a pair",
    "torchmetrics CLIPScore, GFLOP a pair",
)


def _part_rows(runs: list[Json]) -> list[list[str]]:
    return [
        [name.replace(" a second", ""), *(_shown(name, run["figures"][name]) for run in runs)]
        for name in _PARTS
    ]


def _shown(name: str, value: float) -> str:
    if "share" in name:
        return percent(value)
    return f"{value:.2f}" if "GFLOP a" in name and "second" not in name else f"{value:.1f}"


def _about(found: Json) -> str:
    run = found["throughput"][0]
    photos = f"{run['photos']} photos ({run['different']} different) with {run['texts']} texts each"
    return f"{found['machine']}: {photos}, medians of {run['rounds']} rounds. Command: `{_COMMAND}`."


def _told(met: bool) -> str:
    return "" if met else ", missed"
