"""Train and measure what ``docs/results.md`` reports: one command, which goes on where it stopped,
after the report that its last sections show.

    descscore eval report --model default --model base --data DATA --output docs
    python -m reproduce.results --data DATA --work runs/results --output docs

Every run keeps its adapter and its ``measured.json`` in a folder under ``--work``;
``results.json`` gathers them, and the page is written from that file alone.
Measuring sets are read here after training and used for nothing else.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import click
import numpy as np

from descscore.errors import UsageError
from descscore.eval.preference import (
    PairScores,
    image_owner,
    length_pair_scores,
    model_pair_scores,
    ngram_pair_scores,
    preference_rows,
    probability_row,
)
from descscore.eval.quality import measure
from descscore.eval.report.bench import ImageMemory, RememberingEncoder
from descscore.eval.statistics.proportions import cluster_mean
from descscore.models import LoadedModel
from descscore.scorer import DescScorer
from descscore.tables.open import DataOptions, load_pairs
from descscore.tables.rows import PreferencePair
from descscore.training.config import FinetuneConfig, Tower
from descscore.training.data import make_examples
from descscore.training.finetune import Request, finetune
from reproduce.cross_validation import SHIPPED, Run, runs
from reproduce.interchange_table import interchange_table

Array: TypeAlias = "np.ndarray[Any, Any]"

log = logging.getLogger(__name__)

CALIBRATION_FOLDS = 3


@dataclass(frozen=True)
class Sets:
    """The data folder; the pairs to measure on, by name; and which image each of them shows."""

    folder: Path
    pairs: dict[str, tuple[PreferencePair, ...]]
    owner: dict[str, Array]


def read_sets(folder: Path) -> Sets:
    """``concadia`` (all 300, equal texts kept) and ``openstax`` ``test``. Raises :class:`DataError`."""
    keep = DataOptions(keep_equal=True)
    pairs = {
        "concadia": load_pairs(str(folder / "concadia"), keep).split("test"),
        "openstax": load_pairs(str(folder / "openstax"), keep).split("test"),
    }
    return Sets(folder, pairs, {name: image_owner(found) for name, found in pairs.items()})


def train_run(run: Run, data: Path, work: Path) -> Path:
    """The adapter folder of a run, trained unless it is there."""
    output = work / run.name.replace(" ", "-")
    if (output / "run.json").is_file():
        return output
    shipped = run.recipe == SHIPPED

    def configure(model: LoadedModel) -> FinetuneConfig:
        return replace(run.recipe.settings(Tower.of(model.clip)), seed=run.seed, save_every=10**9)

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
    """Everything of one model, as plain JSON types, shares in 0..1."""
    found: dict[str, Any] = {"signature": scorer.signature}
    for name, pairs in sets.pairs.items():
        scores = model_pair_scores(scorer, pairs, "model")
        found[f"{name}_preference"] = _preference(scores, pairs, sets.owner[name])
        assert scores.over_others is not None
        found[f"{name}_grounding"] = float(scores.over_others.mean())
        found[f"{name}_wins_over_others"] = scores.over_others.tolist()
        probability = probability_row(scorer, pairs, "model")
        found[f"{name}_probability"] = None if probability is None else asdict(probability)
    found["quality"] = [asdict(figure) for figure in measure(scorer, sets.folder)]
    found["interchange"] = _interchange(scorer.model, sets, work)
    return found


def _preference(scores: PairScores, pairs: Sequence[PreferencePair], owner: Array) -> dict[str, Any]:
    return asdict(preference_rows(scores, pairs, owner)[0])


def _interchange(model: LoadedModel, sets: Sets, work: Path) -> list[dict[str, Any]] | None:
    if model.purpose is None:
        return None
    examples = make_examples(model, sets.pairs["openstax"], work / "features")
    purpose = model.purpose
    rows = interchange_table(model.clip, purpose.rotation, purpose.site.block, examples)
    return [asdict(row) for row in rows]


def against_base(record: dict[str, Any], base: dict[str, Any], owner: Array) -> dict[str, Any]:
    """Paired difference of Concadia grounding to the base, with its 95 % interval over images."""
    mine, others = (np.array(found["concadia_wins_over_others"]) for found in (record, base))
    estimate = cluster_mean(mine - others, owner)
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}


def text_baselines(sets: Sets) -> dict[str, Any]:
    """ "Longer wins" and the n-gram classifier fitted on ``openstax`` ``train``, on both sets."""
    train = load_pairs(str(sets.folder / "openstax")).split("train")
    found = {}
    for name, pairs in sets.pairs.items():
        for scores in (length_pair_scores(pairs), ngram_pair_scores(train, pairs)):
            found[f"{scores.metric}, {name}"] = _preference(scores, pairs, sets.owner[name])
    return found


def gather(data: Path, work: Path, kept: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """Train what is not trained, measure what is not measured, and return all of it.

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
        # Cut as in the published runs, and as earlier ones here were measured.
        scorer = DescScorer.from_pretrained(source, text_policy="truncate")
        scorer.encoder = RememberingEncoder(scorer.model, scorer.encoder.batch_size, memory)
        path.write_text(json.dumps(measure_model(scorer, sets, work)), encoding="utf-8")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _without_items(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if not key.endswith("wins_over_others")}


def kept_records(path: Path, again: Sequence[str]) -> list[dict[str, Any]]:
    """The records in ``path`` of all models but ``again``. Raises :class:`UsageError` for an unknown one."""
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
@click.option("--only", help="Only train, and only runs whose name starts so: for several processes.")
@click.option(
    "--again", multiple=True, help="Only these models anew; the others stay as results.json has them."
)
@click.option("--from-json", is_flag=True, help="Train and measure nothing; write the page anew.")
def main(
    data: Path, work: Path, output: Path, only: str | None, again: tuple[str, ...], from_json: bool
) -> None:
    """Write results.json, results.md and its plots; a report.json in --output is shown too."""
    from reproduce.results_page import write_page

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if only is not None:
        for run in runs():
            if run.name.startswith(only):
                train_run(run, data, work)
        return
    path, report = output / "results.json", output / "report.json"
    if not from_json:
        found = gather(data, work, kept_records(path, again) if again else ())
        output.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    shown = json.loads(report.read_text(encoding="utf-8")) if report.is_file() else None
    write_page(json.loads(path.read_text(encoding="utf-8")), output, shown)


if __name__ == "__main__":
    main()
