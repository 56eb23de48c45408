"""Train and measure what ``docs/results.md`` reports: the shipped recipe, and what was tried to find it.

    descscore eval report --model default --model base --data DATA --output docs
    python -m reproduce.results --data DATA --work runs/results --output docs

The first command writes the report that the page's last sections show. The second one can be stopped at any
time. Started again, it goes on: every run keeps its adapter and its ``measured.json`` in a folder under
``--work``, one folder for each base. ``results.json`` is written after every run, and holds all that are
measured. ``--only shipped-0`` trains and measures a part, and keeps the other records of the same base.
Several processes may share the work if each has its own ``--only``. Measuring sets are read here after
training and used for nothing else.

Published settings are for ViT-B/32 and 100,000 pairs. On a small tower, 5,441 textbook figures and 2,500
photos, the presets run here with :data:`SMALL`: 24 texts in a step, three passes, texts cut to windows, and a
rate that falls to zero. The names of these runs say so: they are not the published recipes.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import click
import torch
from safetensors.torch import load_file, save_file

from descscore.errors import UsageError
from descscore.eval.captions import CaptionJudgments, read_caption_judgments, tau_rows
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
from descscore.eval.sanity import sanity
from descscore.eval.statistics.correlation import Array
from descscore.files import atomic_write
from descscore.models import LoadedModel, load_model
from descscore.options import PATH, output_option
from descscore.scorer import DescScorer
from descscore.tables.open import DataOptions, load_pairs
from descscore.tables.rows import PreferencePair
from descscore.training.config import DEFAULTS, FinetuneConfig, Tower, preset
from descscore.training.data import Examples, make_examples
from descscore.training.finetune import Request, finetune, train_folds
from descscore.training.lora import tower_shape
from descscore.training.objective import site_of
from descscore.training.readout import order_rotation
from reproduce.cross_validation import MOST_HELD, Recipe
from reproduce.everyday import MADE, write_tuning_data
from reproduce.pages import read_json, write_json
from reproduce.purpose_subspace import (
    InterchangeRow,
    Swaps,
    fold_rows,
    interchange_table,
    mean_difference_rotation,
)
from reproduce.results_page import write_page

Record: TypeAlias = dict[str, Any]

log = logging.getLogger(__name__)

SMALL = {"batch_size": 24, "epochs": 3, "text_window": 32, "schedule": "linear"}
CHOSEN_RATE = 1e-3
"""The best learning rate of those tried on an earlier base (``docs/cross_validation.jsonl``)."""
SEEDS = 5
"""Seeds 0 to 4, as in the paper."""

SHIPPED = Recipe("shipped", "small-data", {})
ONE_LOSS = (
    Recipe("shipped, preference loss alone", "small-data", {"loss": "preference", "block": None, "k": None}),
    Recipe("shipped, interchange loss alone", "small-data", {"loss": "interchange"}),
)
"""The shipped recipe with one of its two losses: whether the interchange earns its place."""
PRESETS = ("das-lora", "bft-lora")
"""Presets for comparison: one with each of the two losses."""

FOLDS = 2
"""Folds of the shipped run's calibration. Its interchanges are measured in their towers too."""
MOST_FOUND = 2000
"""Training pairs, at most, from which a rotation is found after the training."""


@dataclass(frozen=True)
class Run:
    """One training: a recipe and a seed."""

    recipe: Recipe
    seed: int

    @property
    def name(self) -> str:
        return f"{self.recipe.name}-{self.seed}"

    @property
    def whole(self) -> bool:
        """Whether this is the run that ships, of which everything is measured."""
        return self.recipe == SHIPPED and self.seed == 0


def runs() -> list[Run]:
    """All runs of the page, the most telling first: each recipe with every seed."""
    recipes = (SHIPPED, *ONE_LOSS, *map(_small, PRESETS))
    return [Run(recipe, seed) for recipe in recipes for seed in range(SEEDS)]


def _small(name: str) -> Recipe:
    """A preset with :data:`SMALL` and :data:`CHOSEN_RATE`, named for what it is."""
    rate = f"{CHOSEN_RATE / preset(name).learning_rate:g} x its rate"
    what = f"{rate}, {SMALL['epochs']} passes, windows of {SMALL['text_window']}"
    return Recipe(f"{name} at {what}", name, {**SMALL, "learning_rate": CHOSEN_RATE})


@dataclass(frozen=True)
class Sets:
    """What models are measured on, read once, and the base that they start from."""

    data: Path
    work: Path
    """Holds what belongs to this base alone."""
    base: LoadedModel
    pairs: dict[str, tuple[PreferencePair, ...]]
    """``concadia`` and ``openstax``."""
    owner: dict[str, Array]
    judgments: CaptionJudgments
    tuning: Path
    """The data that all runs train on (:mod:`reproduce.everyday`)."""
    train: Examples
    memory: ImageMemory = field(default_factory=dict, repr=False)

    @classmethod
    def read(cls, data: Path, work: Path) -> Sets:
        """Read everything, with the image features that earlier processes kept."""
        base = load_model("base", "cpu")
        work = work / base.weights_hash
        work.mkdir(parents=True, exist_ok=True)
        # Pairs with equal texts stay in: no metric can win them, and they count against all.
        keep = DataOptions(keep_equal=True)
        pairs = {name: load_pairs(str(data / name), keep).split("test") for name in ("concadia", "openstax")}
        tuning = work / "tuning"
        if not (tuning / "val.parquet").is_file():
            write_tuning_data(data, tuning)
        tuned_on = load_pairs(str(tuning))
        train = make_examples(base, [*tuned_on.split("train"), *tuned_on.split(MADE)], work / "features")
        owner = {name: image_owner(part) for name, part in pairs.items()}
        judgments, memory = read_caption_judgments(data), _load_memory(work)
        return cls(data, work, base, pairs, owner, judgments, tuning, train, memory)

    def folder(self, run: Run) -> Path:
        """The folder of a run: its adapter, its checkpoints and its measurements."""
        return self.work / "".join(c if c.isalnum() else "-" for c in run.name)

    def examples(self, name: str) -> Examples:
        """The pairs of a measuring set as examples."""
        return make_examples(self.base, self.pairs[name], self.work / "features")


_MEMORY = "measured_images.safetensors"


def _load_memory(work: Path) -> ImageMemory:
    tensors = load_file(work / _MEMORY) if (work / _MEMORY).is_file() else {}
    places = {name: name.split("/") for name in tensors}
    return {(tower, bytes.fromhex(digest)): tensors[name] for name, (tower, digest) in places.items()}


def _save_memory(memory: ImageMemory, work: Path) -> None:
    """Keep image features for other processes: half of them are of photos that only measuring reads."""
    with atomic_write(work / _MEMORY) as part:
        save_file({f"{tower}/{digest.hex()}": row for (tower, digest), row in memory.items()}, part)


def train_run(run: Run, sets: Sets) -> Path:
    """The adapter folder of a run, trained unless it is there.

    Raises :class:`UsageError` for a folder that was trained with other settings.
    """
    output = sets.folder(run)

    def configure(tower: Tower) -> FinetuneConfig:
        return replace(run.recipe.settings(tower), seed=run.seed)

    if (output / "run.json").is_file():
        kept = json.loads((output / "run.json").read_text(encoding="utf-8"))["config"]
        if DEFAULTS | kept != json.loads(json.dumps(asdict(configure(tower_shape(sets.base.clip))))):
            raise UsageError(f"{output}: holds a run with other settings; remove it")
        return output
    request = Request(
        data=str(sets.tuning),
        extra=MADE,
        output=output,
        validation=None,
        comparison="val",
        cache=sets.work / "features",
        # One calibration serves to ship; the others show how far results vary.
        calibration_folds=FOLDS if run.whole else 0,
        weights="float16" if run.recipe.preset == SHIPPED.preset else "float32",
    )
    log.info("training %s", run.name)
    return finetune(request, configure, lambda line: log.info("%s", line))


def measured_run(run: Run, sets: Sets) -> Record:
    """The record of a run, which is trained and measured unless that is done."""
    folder = train_run(run, sets)
    about = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    record = {"name": run.recipe.name, "seed": run.seed, "config": about["config"]}
    record |= {"seconds": about["seconds"], "trained_values": about["trained_values"]}
    return record | _measured(str(folder), folder, sets, run)


def _measured(source: str, folder: Path, sets: Sets, run: Run | None = None) -> Record:
    path = folder / "measured.json"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        log.info("measuring %s", folder.name)
        scorer = DescScorer.from_pretrained(source, device="cpu")
        scorer.encoder = RememberingEncoder(scorer.model, scorer.encoder.batch_size, sets.memory)
        known = len(sets.memory)
        record = measure_model(scorer, sets, whole=run is None or run.whole)
        if run is not None and run.whole:
            record["interchange"]["folds"] = _fold_rows(run, sets)
        write_json(record, path)
        if len(sets.memory) > known:
            _save_memory(sets.memory, sets.work)
    measured: Record = json.loads(path.read_text(encoding="utf-8"))
    return measured


def measure_model(scorer: DescScorer, sets: Sets, whole: bool) -> Record:
    """All measurements of one model, as plain JSON types, shares in 0..1.

    whole: whether every subspace is interchanged; otherwise only those that the tables over seeds show.
    """
    record: Record = {"signature": scorer.signature}
    for name, pairs in sets.pairs.items():
        scores = model_pair_scores(scorer, pairs, sets.owner[name], "model")
        record[f"{name}_preference"] = _preference(scores, pairs, sets.owner[name])
        assert scores.over_others is not None
        record[f"{name}_grounding"] = float(scores.over_others.mean())
        probability = probability_row(scorer, pairs, "model")
        record[f"{name}_probability"] = None if probability is None else asdict(probability)
    record["sanity"] = _sanity(scorer, sets.pairs["concadia"])
    record["quality"] = [asdict(figure) for figure in measure(scorer, sets.data)]
    record["taus"] = {row.set: row.tau for row in tau_rows(scorer, sets.judgments)}
    record["interchange"] = _interchange(scorer.model, sets, whole)
    return record


def _preference(scores: PairScores, pairs: Sequence[PreferencePair], owner: Array) -> Record:
    return asdict(preference_rows(scores, pairs, owner)[0])


def _sanity(scorer: DescScorer, pairs: Sequence[PreferencePair]) -> Record:
    """By name of the attack or figure, without what is the same for every model."""
    found = sanity(scorer, pairs, "model")
    kept = ("value", "low", "high", "n")
    return {
        "attacks": {row.attack: {key: getattr(row, key) for key in (*kept, "ties")} for row in found.rows},
        "figures": {row.figure: {key: getattr(row, key) for key in kept} for row in found.figures},
    }


@torch.no_grad()
def _interchange(model: LoadedModel, sets: Sets, whole: bool) -> Record:
    """Rows by data set: of the trained rotation if there is one, and of one found in the tower as it is."""
    purpose, usual = model.purpose, site_of(preset("das-lora", tower_shape(model.clip)))
    site = usual if purpose is None else purpose.site
    assert site is not None
    found = mean_difference_rotation(model.clip, site.block, sets.train.sample(MOST_FOUND))
    by_data = {}
    for name in sets.pairs:
        swaps, rows = Swaps(model.clip, sets.examples(name), site.block), []
        if purpose is not None and whole:
            rows = interchange_table(swaps, purpose.rotation)
        elif purpose is not None:
            rows = [swaps.row("trained", site.k, purpose.rotation[: site.k])]
        rows += [swaps.row("found", k, found[:k]) for k in (1, site.k)]
        rows.append(swaps.row("full swap", len(found), torch.eye(len(found))))
        by_data[name] = [asdict(row) for row in rows]
    return by_data


def _fold_rows(run: Run, sets: Sets) -> list[Record]:
    """Interchanges of held-out training texts, in the towers that the calibration trained without them."""
    config = replace(run.recipe.settings(tower_shape(sets.base.clip)), seed=run.seed)
    site = site_of(config)
    assert site is not None
    clip, towers = load_model("base", "cpu").clip, []
    for held, trainer in train_folds(clip, sets.train, FOLDS, config, sets.folder(run) / "folds"):
        rotation, tuned = trainer.objective.rotation, trainer.objective.clip.cpu()
        assert rotation is not None
        matrix, seen = rotation.matrix().detach().cpu(), sets.train.select(~held).sample(MOST_FOUND)
        with torch.no_grad():
            ordered = order_rotation(tuned, matrix, site, seen)
        towers.append((tuned, ordered, sets.train.select(held).sample(MOST_HELD)))
    rows: list[InterchangeRow] = fold_rows(towers, site)
    return [asdict(row) for row in rows]


def text_baselines(sets: Sets) -> Record:
    """Rules that see the texts alone: "longer wins" and an n-gram classifier fitted on OpenStax ``train``."""
    train = load_pairs(str(sets.data / "openstax")).split("train")
    rows = {}
    for name, pairs in sets.pairs.items():
        for scores in (length_pair_scores(pairs), ngram_pair_scores(train, pairs)):
            rows[f"{scores.metric}, {name}"] = _preference(scores, pairs, sets.owner[name])
    return rows


def chosen_runs(planned: Sequence[Run], only: Sequence[str]) -> list[Run]:
    """The runs whose names start with one of ``only``; all if it is empty.

    Raises :class:`UsageError` if no run's name starts so.
    """
    for start in only:
        if not any(run.name.startswith(start) for run in planned):
            raise UsageError(
                f"--only {start!r}: no run begins so; the runs are {', '.join(r.name for r in planned)}"
            )
    return [run for run in planned if not only or run.name.startswith(tuple(only))]


def joined(earlier: Record, planned: Sequence[Run], sets: Sets) -> Record:
    """All results of this base: what is measured under ``--work``, and else what ``earlier`` holds of it.

    earlier: the contents of ``results.json``; empty if there are none. Records of another base are left out.
    """
    base = _measured("base", sets.work / "base", sets)
    same = earlier.get("base", {}).get("signature") == base["signature"]
    kept = {(record["name"], record["seed"]): record for record in earlier["runs"]} if same else {}
    for run in planned:
        if (sets.folder(run) / "measured.json").is_file():
            kept[run.recipe.name, run.seed] = measured_run(run, sets)
    order = list(dict.fromkeys(run.recipe.name for run in planned))
    known = sorted((key for key in kept if key[0] in order), key=lambda key: (order.index(key[0]), key[1]))
    baselines = earlier.get("baselines") or text_baselines(sets)  # rules that depend on no model
    return {"baselines": baselines, "base": base, "runs": [kept[key] for key in known]}


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True), help="The data folder.")
@click.option("--work", type=PATH, help="Folder for adapters, caches and measurements.")
@output_option
@click.option(
    "--only",
    multiple=True,
    help="Train and measure only runs whose names, such as shipped-0, start so. May be repeated.",
)
@click.option(
    "--from-json", is_flag=True, help="Train and measure nothing; write the page from results.json."
)
def main(data: Path | None, work: Path | None, output: Path, only: tuple[str, ...], from_json: bool) -> None:
    """Write results.json, results.md and its plots; the page shows a report.json in --output too."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    path = output / "results.json"
    if not from_json:
        if data is None or work is None:
            raise UsageError("--data and --work: both are needed to train and measure")
        planned = runs()
        chosen = chosen_runs(planned, only)
        sets = Sets.read(data, work)
        output.mkdir(parents=True, exist_ok=True)
        write_json(joined(read_json(path), planned, sets), path)
        for run in chosen:
            measured_run(run, sets)
            write_json(joined(read_json(path), planned, sets), path)
    write_page(read_json(path), output, read_json(output / "report.json") or None)


if __name__ == "__main__":
    main()
