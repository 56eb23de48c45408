"""Train and measure what ``docs/results.md`` reports: the shipped recipe, and what was tried to find it.

    descscore eval report --model default --model base --data DATA --output docs
    python -m reproduce.results --data DATA --work runs/results --output docs

The first command writes the report that the page's last sections show. The second one, started again,
goes on where it stopped. Every run keeps its adapter and its ``measured.json`` in a folder under
``--work``; ``results.json`` gathers them, and the page is written from that file alone. Measuring sets are
read here after training and used for nothing else.

Published settings are for ViT-B/32 and 100,000 pairs. On a small tower and 5,441 pairs of textbook
figures all runs here share :data:`SMALL`: 24 texts in a step, three passes, texts cut to windows, and a rate
that falls to zero.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any, TypeAlias

import click
import numpy as np

from descscore.errors import UsageError
from descscore.eval.features import ImageMemory, RememberingEncoder, image_owner
from descscore.eval.preference import (
    PairScores,
    length_pair_scores,
    model_pair_scores,
    ngram_pair_scores,
    preference_rows,
    probability_row,
)
from descscore.eval.quality import measure
from descscore.eval.report import plots
from descscore.eval.statistics.proportions import cluster_mean
from descscore.models import LoadedModel
from descscore.options import PATH
from descscore.scorer import DescScorer
from descscore.tables.open import DataOptions, load_pairs
from descscore.tables.rows import PreferencePair
from descscore.training.config import PRESETS, FinetuneConfig, Tower
from descscore.training.data import make_examples
from descscore.training.finetune import Request, finetune
from reproduce.cross_validation import Recipe
from reproduce.pages import data_option, output_option, read_json, render, write_json, write_text
from reproduce.purpose_subspace import interchange_table

Array: TypeAlias = "np.ndarray[Any, Any]"
Record: TypeAlias = dict[str, Any]
Reading: TypeAlias = Callable[[Record], "float | None"]

log = logging.getLogger(__name__)

CALIBRATION_FOLDS = 3
SMALL = {"batch_size": 24, "epochs": 3, "text_window": 32, "schedule": "linear"}
CHOSEN_RATE = {"lora": 1e-3, "full": 3e-4}
"""Learning rate by kind of tuning: the best of those tried (``docs/cross_validation.jsonl``)."""
SEEDS = (0, 1, 2, 3, 4)

SHIPPED = Recipe(
    "shipped",
    "das-full",
    {
        **SMALL,
        "loss": "joint",
        "learning_rate": 3e-4,
        "contrastive_weight": 0.0625,
        "hold_weight": 0.05,
        "spread_weight": 0.1,
        "token_dropout": 0.1,
        "word_swap": 0.75,
        "interpolation": 0.85,
    },
)


@dataclass(frozen=True)
class Run:
    """One training: a recipe and a seed."""

    recipe: Recipe
    seed: int

    @property
    def name(self) -> str:
        return f"{self.recipe.name}-{self.seed}"


def runs() -> Iterator[Run]:
    """All runs of the page.

    The shipped recipe and the LoRA presets over all seeds, every other preset once, and all presets once
    at their published rates.
    """
    for seed in SEEDS:
        yield Run(SHIPPED, seed)
    for name in PRESETS:
        rate = CHOSEN_RATE["full" if name.endswith("full") else "lora"]
        chosen = Recipe(name, name, {**SMALL, "learning_rate": rate})
        for seed in SEEDS if name in ("das-lora", "bft-lora") else SEEDS[:1]:
            yield Run(chosen, seed)
    for name in PRESETS:
        yield Run(Recipe(f"{name} at the published rate", name, dict(SMALL)), 0)


@dataclass(frozen=True)
class Sets:
    """The measuring sets, by name."""

    folder: Path
    """The data folder."""
    pairs: dict[str, tuple[PreferencePair, ...]]
    owner: dict[str, Array]
    """The image of each pair, as a number."""


def read_sets(folder: Path) -> Sets:
    """``concadia`` (all 300, equal texts kept) and ``openstax`` ``test``. Raises :class:`DataError`."""
    keep = DataOptions(keep_equal=True)
    pairs = {
        "concadia": load_pairs(str(folder / "concadia"), keep).split("test"),
        "openstax": load_pairs(str(folder / "openstax"), keep).split("test"),
    }
    return Sets(folder, pairs, {name: image_owner(part) for name, part in pairs.items()})


def train_run(run: Run, data: Path, work: Path) -> Path:
    """The adapter folder of a run, trained unless it is there."""
    output = work / run.name.replace(" ", "-")
    if (output / "run.json").is_file():
        return output
    shipped = run.recipe == SHIPPED

    def configure(tower: Tower) -> FinetuneConfig:
        return replace(run.recipe.settings(tower), seed=run.seed, save_every=10**9)

    request = Request(
        data=str(data / "openstax"),
        output=output,
        validation=None,
        reference="val",
        cache=work / "features",
        # One calibration serves to ship; the other seeds show how far results vary.
        calibration_folds=CALIBRATION_FOLDS if shipped and run.seed == 0 else 0,
        weights="float16" if shipped else "float32",
    )
    log.info("training %s", run.name)
    return finetune(request, configure, lambda line: log.info("%s", line))


def measure_model(scorer: DescScorer, sets: Sets, work: Path) -> Record:
    """All measurements of one model, as plain JSON types, shares in 0..1."""
    record: Record = {"signature": scorer.signature}
    for name, pairs in sets.pairs.items():
        scores = model_pair_scores(scorer, pairs, "model")
        record[f"{name}_preference"] = _preference(scores, pairs, sets.owner[name])
        assert scores.over_others is not None
        record[f"{name}_grounding"] = float(scores.over_others.mean())
        record[f"{name}_wins_over_others"] = scores.over_others.tolist()
        probability = probability_row(scorer, pairs, "model")
        record[f"{name}_probability"] = None if probability is None else asdict(probability)
    record["quality"] = [asdict(figure) for figure in measure(scorer, sets.folder)]
    record["interchange"] = _interchange(scorer.model, sets, work)
    return record


def _preference(scores: PairScores, pairs: Sequence[PreferencePair], owner: Array) -> Record:
    return asdict(preference_rows(scores, pairs, owner)[0])


def _interchange(model: LoadedModel, sets: Sets, work: Path) -> list[Record] | None:
    if model.purpose is None:
        return None
    examples, purpose = make_examples(model, sets.pairs["openstax"], work / "features"), model.purpose
    rows = interchange_table(model.clip, purpose.rotation, purpose.site.block, examples)
    return [asdict(row) for row in rows]


def against_base(record: Record, base: Record, owner: Array) -> Record:
    """Paired difference of Concadia grounding from the base, with its 95 % interval over images."""
    mine, others = (np.array(one["concadia_wins_over_others"]) for one in (record, base))
    estimate = cluster_mean(mine - others, owner)
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}


def text_baselines(sets: Sets) -> Record:
    """Rules that see the texts alone: "longer wins" and an n-gram classifier fitted on OpenStax ``train``."""
    train = load_pairs(str(sets.folder / "openstax")).split("train")
    rows = {}
    for name, pairs in sets.pairs.items():
        for scores in (length_pair_scores(pairs), ngram_pair_scores(train, pairs)):
            rows[f"{scores.metric}, {name}"] = _preference(scores, pairs, sets.owner[name])
    return rows


def gather(data: Path, work: Path, kept: Sequence[Record] = ()) -> Record:
    """Train and measure all runs, except those that are trained or measured already.

    kept: records of earlier runs, which stay as they are.
    """
    earlier = {(record["name"], record["seed"]): record for record in kept}
    work.mkdir(parents=True, exist_ok=True)
    sets = read_sets(data)
    memory: ImageMemory = {}
    base = _measured("base", work / "base", sets, work, memory)
    records = []
    for run in runs():
        if (run.recipe.name, run.seed) in earlier:
            records.append(earlier[run.recipe.name, run.seed])
            continue
        folder = train_run(run, data, work)
        record = _measured(str(folder), folder, sets, work, memory)
        settings = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        about = {"name": run.recipe.name, "seed": run.seed, "config": settings["config"]}
        about |= {"seconds": settings["seconds"], "trained_values": settings["trained_values"]}
        about["grounding_difference"] = against_base(record, base, sets.owner["concadia"])
        records.append(about | _without_items(record))
    return {"baselines": text_baselines(sets), "base": _without_items(base), "runs": records}


def _measured(source: str, folder: Path, sets: Sets, work: Path, memory: ImageMemory) -> Record:
    path = folder / "measured.json"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        # Texts are cut, as in the published runs and as earlier runs here were measured.
        scorer = DescScorer.from_pretrained(source, text_policy="truncate")
        scorer.encoder = RememberingEncoder(scorer.model, scorer.encoder.batch_size, memory)
        write_json(measure_model(scorer, sets, work), path)
    measured: Record = json.loads(path.read_text(encoding="utf-8"))
    return measured


def _without_items(record: Record) -> Record:
    return {key: value for key, value in record.items() if not key.endswith("wins_over_others")}


def kept_records(path: Path, again: Sequence[str]) -> list[Record]:
    """The records in ``path`` without the models ``again``. Raises :class:`UsageError` for unknown models."""
    records: list[Record] = json.loads(path.read_text(encoding="utf-8"))["runs"]
    known = sorted({record["name"] for record in records})
    for name in again:
        if name not in known:
            raise UsageError(f"--again {name!r}: {path} knows {', '.join(known)}")
    return [record for record in records if record["name"] not in again]


RELIABILITY, FOREST, PREFERENCE = "reliability.svg", "readers.svg", "preference.svg"
RATERS = "BLV"
_SETS = (("OpenStax test", "openstax"), ("Concadia", "concadia"))


def write_page(results: Record, output: Path, report: Record | None = None) -> None:
    """Write ``results.md`` and its plots. report: from ``descscore eval report``, or None."""
    write_text(page(results, report), output / "results.md")
    if report is not None:
        write_figures(report, output)
    shipped = shipped_record(results)
    curves = [{"model": name, "bins": shipped[f"{key}_probability"]["bins"]} for name, key in _SETS]
    plots.reliability(curves, output / RELIABILITY)


def shipped_record(results: Record) -> Record:
    """The run that ships: the first seed of the shipped recipe."""
    return next(run for run in results["runs"] if (run["name"], run["seed"]) == ("shipped", 0))


def over_seeds(runs: Sequence[Record], read: Reading) -> str:
    """``mean ± sd`` in per cent, the one value of a single run, or a dash if there is none."""
    values = [100 * value for run in runs if (value := read(run)) is not None]
    if not values:
        return "-"
    return f"{mean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


def _preferred(key: str) -> Reading:
    return lambda run: float(run[f"{key}_preference"]["value"])


def _grounding(run: Record) -> float:
    return float(run["concadia_grounding"])


def _quality(part: str) -> Reading:
    return lambda run: next(float(figure["value"]) for figure in run["quality"] if part in figure["name"])


def _trained(run: Record) -> float | None:
    """Interchange accuracy at the k that the run was trained with."""
    k = run.get("config", {}).get("k")
    rows = run["interchange"] or []
    return next((row["value"] for row in rows if (row["subspace"], row["k"]) == ("trained", k)), None)


_COLUMNS: dict[str, Reading] = {
    "Concadia, description preferred": _preferred("concadia"),
    "OpenStax test, description preferred": _preferred("openstax"),
    "Concadia grounding, over other descriptions": _grounding,
    "Concadia grounding, over other photos": _quality("Concadia grounding"),
    "OpenStax test interchange at the trained k": _trained,
}
_TRANSFER: dict[str, Reading] = {
    "Caltech-101": _quality("Caltech-101"),
    "Tiny ImageNet": _quality("Tiny ImageNet"),
    "image to text R@10": _quality("image to text recall@10"),
    "text to image R@10": _quality("text to image recall@10"),
}
_SETTINGS = (
    *("learning_rate", "batch_size", "epochs", "text_window", "token_dropout", "word_swap"),
    *("contrastive_weight", "hold_weight", "spread_weight", "interpolation"),
)
_SUBSPACES = ("trained", "complement", "random")


def page(results: Record, report: Record | None = None) -> str:
    """The whole page, from the contents of ``results.json`` and ``report.json`` alone."""
    shipped = shipped_record(results)
    interchange: dict[int, Record] = {}
    for row in sorted(shipped["interchange"], key=lambda row: row["k"]):
        if row["subspace"] in _SUBSPACES:
            interchange.setdefault(row["k"], {})[row["subspace"]] = row["value"]
    return render(
        "results",
        **_shown_in_tables(results),
        report=report,
        **({} if report is None else _report_tables(report)),
        goals=_goals(shipped, results["base"]),
        columns=_COLUMNS,
        transfer=_TRANSFER,
        difference=_difference,
        shipped=shipped,
        kinds=_SUBSPACES,
        interchange=interchange,
        full_swap=next(row for row in shipped["interchange"] if row["subspace"] == "full swap"),
        probabilities={name: shipped[f"{key}_probability"] for name, key in _SETS},
        settings=_SETTINGS,
        # A run made before a setting existed had the value that is now its default.
        defaults={field.name: field.default for field in fields(FinetuneConfig)},
    )


def readme_table(results: Record) -> str:
    """The README's short table: the shipped model, its base, the LoRA presets and text-only rules."""
    reads = (_preferred("concadia"), _preferred("openstax"), _grounding)
    return render("readme_results", **_shown_in_tables(results), reads=reads)


def _shown_in_tables(results: Record) -> Record:
    """The base and the runs by name, seeds together; and per cent preferred by rules that see texts alone."""
    models: dict[str, list[Record]] = {"base": [results["base"]]}
    for run in results["runs"]:
        models.setdefault(run["name"], []).append(run)
    baselines: dict[str, dict[str, str]] = {}
    for name, row in results["baselines"].items():
        metric, _, data = name.rpartition(", ")
        baselines.setdefault(metric, {"openstax": ""})[data] = f"{100 * row['value']:.1f}"
    return {"models": models, "baselines": baselines, "over_seeds": over_seeds}


def _goals(shipped: Record, base: Record) -> list[tuple[str, float, float]]:
    """Name, goal and value of all that is aimed at, in per cent."""
    low = shipped["grounding_difference"]["low"]
    return [
        ("description preferred, Concadia", 85.0, 100 * shipped["concadia_preference"]["value"]),
        ("description preferred, OpenStax `test`", 97.0, 100 * shipped["openstax_preference"]["value"]),
        ("grounding less the base's, lower bound", -3.0, -100.0 if low is None else 100 * low),
        ("interchange accuracy at the trained k", 95.0, 100 * (_trained(shipped) or 0)),
        *(
            (f"{name} less the base's", -2.0, 100 * ((read(shipped) or 0) - (read(base) or 0)))
            for name, read in _TRANSFER.items()
        ),
    ]


def _difference(estimate: Record) -> str:
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    between = "" if low is None else f" ({100 * low:+.1f} to {100 * high:+.1f})"
    return f"{100 * value:+.1f}{between}"


def write_figures(report: Record, folder: Path) -> None:
    """Write the forest plot of BLV readers and the preference bars on the first data set."""
    plots.forest(_blv_rows(report), folder / FOREST)
    plots.preference_bars(report["preference"][0]["rows"], folder / PREFERENCE)


def _blv_rows(report: Record) -> list[Record]:
    """The report's correlations with blind and low-vision readers' ratings."""
    return [row for row in report["human"][0]["rows"] if row["raters"] == RATERS]


def _report_tables(report: Record) -> Record:
    """What the page shows of the report.

    ``taus``: Kendall's tau times 100 with Flickr8k's caption ratings, of models, then of published metrics.
    ``attacks``: by hostile text and metric, how often it scores over the description on the first data set.
    """
    taus: dict[str, Record] = {}
    for row in report["captions"][0]["rows"]:
        taus.setdefault(row["model"], {})[row["set"]] = 100 * row["tau"]
    for row in report["captions"][0]["published"]:
        taus[f"{row['metric']} (published)"] = row
    attacks: dict[str, Record] = {}
    for row in report["sanity"][0]["rows"]:
        attacks.setdefault(row["attack"], {})[row["metric"]] = row["value"]
    return {
        "forest_alt": plots.forest_alt(_blv_rows(report), "blind and low-vision readers"),
        "preference_alt": plots.preference_alt(report["preference"][0]["rows"]),
        "readers": _blv_rows(report),
        "taus": taus,
        "attacks": attacks,
        "metrics": list(dict.fromkeys(row["metric"] for row in report["sanity"][0]["rows"])),
    }


@click.command()
@data_option
@click.option("--work", required=True, type=PATH, help="Folder for adapters and caches.")
@output_option
@click.option(
    "--only", help="Only train, and only runs whose names start with this: to share the work among processes."
)
@click.option(
    "--again",
    multiple=True,
    help="Train and measure only these models anew; keep the other records of results.json.",
)
@click.option(
    "--from-json", is_flag=True, help="Train and measure nothing; write the page from results.json."
)
def main(
    data: Path, work: Path, output: Path, only: str | None, again: tuple[str, ...], from_json: bool
) -> None:
    """Write results.json, results.md and its plots; the page shows a report.json in --output too."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if only is not None:
        for run in runs():
            if run.name.startswith(only):
                train_run(run, data, work)
        return
    path = output / "results.json"
    if not from_json:
        results = gather(data, work, kept_records(path, again) if again else ())
        output.mkdir(parents=True, exist_ok=True)
        write_json(results, path)
    results = json.loads(path.read_text(encoding="utf-8"))
    write_page(results, output, read_json(output / "report.json") or None)


if __name__ == "__main__":
    main()
