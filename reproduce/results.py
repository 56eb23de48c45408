"""Train and measure what ``docs/results.md`` reports: the shipped recipe, and what was tried to find it.

    descscore eval report --model default --model base --data DATA --output docs
    python -m reproduce.results --data DATA --work runs/results --output docs

The first command writes the report that the page's last sections show. The second one, started again,
goes on where it stopped. Every run keeps its adapter and its ``measured.json`` in a folder under
``--work``; ``results.json`` gathers them, and the page is written from that file alone. Measuring sets are
read here after training and used for nothing else.

Published settings are for ViT-B/32 and 100,000 pairs. On a small tower and 5,441 pairs of textbook
figures all runs here share :data:`SMALL`: 24 texts a step, three passes, texts cut to windows, and a rate
that falls to zero.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
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
from descscore.eval.statistics.proportions import cluster_mean
from descscore.models import LoadedModel
from descscore.scorer import DescScorer
from descscore.tables.open import DataOptions, load_pairs
from descscore.tables.rows import PreferencePair
from descscore.training.config import PRESETS, FinetuneConfig, Tower
from descscore.training.data import make_examples
from descscore.training.finetune import Request, finetune
from reproduce.cross_validation import Recipe
from reproduce.purpose_subspace import interchange_table
from reproduce.results_page import write_page

Array: TypeAlias = "np.ndarray[Any, Any]"

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


def measure_model(scorer: DescScorer, sets: Sets, work: Path) -> dict[str, Any]:
    """All measurements of one model, as plain JSON types, shares in 0..1."""
    record: dict[str, Any] = {"signature": scorer.signature}
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


def _preference(scores: PairScores, pairs: Sequence[PreferencePair], owner: Array) -> dict[str, Any]:
    return asdict(preference_rows(scores, pairs, owner)[0])


def _interchange(model: LoadedModel, sets: Sets, work: Path) -> list[dict[str, Any]] | None:
    if model.purpose is None:
        return None
    examples, purpose = make_examples(model, sets.pairs["openstax"], work / "features"), model.purpose
    rows = interchange_table(model.clip, purpose.rotation, purpose.site.block, examples)
    return [asdict(row) for row in rows]


def against_base(record: dict[str, Any], base: dict[str, Any], owner: Array) -> dict[str, Any]:
    """Paired difference of Concadia grounding from the base, with its 95 % interval over images."""
    mine, others = (np.array(one["concadia_wins_over_others"]) for one in (record, base))
    estimate = cluster_mean(mine - others, owner)
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}


def text_baselines(sets: Sets) -> dict[str, Any]:
    """Rules that see the texts alone: "longer wins" and an n-gram classifier fitted on OpenStax ``train``."""
    train = load_pairs(str(sets.folder / "openstax")).split("train")
    rows = {}
    for name, pairs in sets.pairs.items():
        for scores in (length_pair_scores(pairs), ngram_pair_scores(train, pairs)):
            rows[f"{scores.metric}, {name}"] = _preference(scores, pairs, sets.owner[name])
    return rows


def gather(data: Path, work: Path, kept: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
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


def _measured(source: str, folder: Path, sets: Sets, work: Path, memory: ImageMemory) -> dict[str, Any]:
    path = folder / "measured.json"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        # Texts are cut, as in the published runs and as earlier runs here were measured.
        scorer = DescScorer.from_pretrained(source, text_policy="truncate")
        scorer.encoder = RememberingEncoder(scorer.model, scorer.encoder.batch_size, memory)
        path.write_text(json.dumps(measure_model(scorer, sets, work)), encoding="utf-8")
    measured: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return measured


def _without_items(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if not key.endswith("wins_over_others")}


def kept_records(path: Path, again: Sequence[str]) -> list[dict[str, Any]]:
    """The records in ``path`` without the models ``again``. Raises :class:`UsageError` for unknown models."""
    records: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["runs"]
    known = sorted({record["name"] for record in records})
    for name in again:
        if name not in known:
            raise UsageError(f"--again {name!r}: {path} knows {', '.join(known)}")
    return [record for record in records if record["name"] not in again]


@click.command()
@click.option("--data", required=True, type=click.Path(path_type=Path, exists=True), help="The data folder.")
@click.option(
    "--work", required=True, type=click.Path(path_type=Path), help="Folder for adapters and caches."
)
@click.option("--output", required=True, type=click.Path(path_type=Path), help="Folder for the results.")
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
    path, report_file = output / "results.json", output / "report.json"
    if not from_json:
        results = gather(data, work, kept_records(path, again) if again else ())
        output.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    report = json.loads(report_file.read_text(encoding="utf-8")) if report_file.is_file() else None
    write_page(json.loads(path.read_text(encoding="utf-8")), output, report)


if __name__ == "__main__":
    main()
