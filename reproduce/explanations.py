"""The figures of ``docs/explanations.md``: cases that show what explanations do, and what they cost.

    python -m reproduce.explanations cases docs --data DATA/concadia
    python -m reproduce.explanations cost docs --data DATA/concadia --threads 2

``cases`` explains both texts of every pair. It keeps how often explanations do what they should, three
pairs where they do, and three where they do not. Rules choose the pairs. The texts belong to others and
are not copied.

``cost`` explains both texts of the first pairs on each device, each text alone and then all together.
With ``--add FILE`` it measures nothing and adds what another machine measured.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch

from descscore.errors import DataError, UsageError
from descscore.eval.formatting import counted
from descscore.eval.statistics.bootstrap import Estimate
from descscore.eval.statistics.proportions import proportion
from descscore.eval.timing import in_turn, machine
from descscore.eval.word_kinds import kinds_of
from descscore.eval.words import Explained, WordOptions, WordRow, explain_pairs, occurrences, report
from descscore.explanations.explainer import ExplainOptions, explain_batch
from descscore.explanations.explanation import Explanation
from descscore.scorer import DescScorer
from descscore.tables.open import DataOptions, load_pairs
from descscore.tables.rows import PreferencePair
from reproduce.pages import Json, Part, RunsPart, add_option, folder_argument, render

# Cases

SOURCE = "A brown dog runs over wet sand towards the sea, a stick in its mouth."
"""A description of our own; in the counterfactual every caption takes on its purpose."""

_RANKS = (0.25, 0.5, 0.75)
_LISTED = 12
_LARGEST_Q = 0.05


@dataclass(frozen=True)
class Case:
    """One pair, explained."""

    pair: PreferencePair
    description: Explanation
    caption: Explanation

    @property
    def margin(self) -> float:
        """Cosine of the description minus that of the caption."""
        return self.description.score.cosine - self.caption.score.cosine

    @property
    def gap(self) -> float:
        """Log-odds of the description minus those of the caption."""
        return _log_odds(self.description) - _log_odds(self.caption)

    @property
    def change(self) -> float:
        """What the caption's cosine gains with the purpose of a description."""
        return self.caption.counterfactual.change if self.caption.counterfactual else 0.0

    @property
    def agree(self) -> bool:
        """Whether in both texts the strongest word's part has the same sign as the loss without the word."""
        return all(_strongest(text)[1] * _strongest(text)[2] > 0 for text in (self.description, self.caption))

    @property
    def works(self) -> bool:
        """Whether score, read-out and word parts all are as they should be."""
        return self.description.score.score > 0 and self.margin > 0 and self.gap > 0 and self.agree

    @property
    def contradiction(self) -> float:
        """How far a strongest word's part and the loss without it contradict each other; 0 if they agree."""
        both = [_strongest(text)[1:] for text in (self.description, self.caption)]
        return max(min(abs(a), abs(b)) if a * b < 0 else 0.0 for a, b in both)


def _log_odds(text: Explanation) -> float:
    assert text.purpose is not None  # checked when the cases are made
    return text.purpose.log_odds


def _strongest(text: Explanation) -> tuple[int, float, float]:
    """The word with the largest part of the log-odds: its place, the part, and what leaving it out loses."""
    place = max(range(len(text.words)), key=lambda i: abs(text.words[i].purpose or 0.0))
    word = text.words[place]
    return place, word.purpose or 0.0, word.leave_one_out_purpose or 0.0


def make_cases(scorer: DescScorer, pairs: Sequence[PreferencePair]) -> tuple[list[Case], Explained]:
    """Every pair that can be scored. Raises :class:`UsageError` for a model without a read-out."""
    purpose = scorer.model.purpose
    if purpose is None or purpose.readout is None:
        raise UsageError(f"model {scorer.model.name}: has no purpose read-out to show cases of")
    explained = explain_pairs(scorer, pairs, ExplainOptions(source=SOURCE))
    cases = [Case(p, *both) for p, both in zip(explained.pairs, explained.explanations, strict=True)]
    return cases, explained


_KINDS_OF_FAILURE: dict[str, Callable[[Case], float]] = {
    "The caption scores higher": lambda case: case.margin,
    "The read-out takes the caption for the description": lambda case: case.gap,
    "Parts and leaving out contradict each other": lambda case: -case.contradiction,
}
"""Kinds of failure, each with a number that is below 0 in a case of it; lower is worse."""


def choose(cases: Sequence[Case]) -> tuple[list[Case], list[tuple[str, Case]]]:
    """Three pairs at the quartiles of the margin among those that work, and the worst of three kinds.

    Raises :class:`DataError` if there are too few.
    """
    working = sorted((case for case in cases if case.works), key=lambda case: case.margin)
    if len(working) < len(_RANKS):
        raise DataError(f"only {len(working)} of {len(cases)} pairs work; {len(_RANKS)} are needed")
    good = [working[round(rank * (len(working) - 1))] for rank in _RANKS]
    bad: list[tuple[str, Case]] = []
    for kind, worst in _KINDS_OF_FAILURE.items():
        left = [case for case in cases if case not in [c for _, c in bad] and worst(case) < 0]
        if not left:
            raise DataError(f"no case where: {kind.lower()}")
        bad.append((kind, min(left, key=worst)))
    return good, bad


def to_json(cases: Sequence[Case], explained: Explained, signature: str) -> dict[str, Any]:
    """All that the page shows; of the data, only single words and names of files.

    Raises :class:`DataError` if there are too few cases of a kind.
    """
    good, bad = choose(cases)
    return {
        "signature": signature,
        "pairs": len(cases),
        "source": SOURCE,
        "converged": explained.converged,
        "shares": _shares(cases),
        "works": [_case(case) for case in good],
        "fails": [{"kind": kind} | _case(case) for kind, case in bad],
        "marks": _marks(explained),
    }


def _shares(cases: Sequence[Case]) -> list[dict[str, Any]]:
    shares = {
        "the description scores higher than the caption": [c.margin > 0 for c in cases],
        "the read-out puts the description above the caption": [c.gap > 0 for c in cases],
        "the strongest word's part has the sign that leaving it out gives, in both texts": [
            c.agree for c in cases
        ],
        "with the purpose of a description the caption scores higher": [c.change > 0 for c in cases],
    }
    estimates = {name: proportion([float(hit) for hit in hits]) for name, hits in shares.items()}
    return [{"name": name} | _interval("value", share) for name, share in estimates.items()]


def _interval(name: str, estimate: Estimate) -> dict[str, Any]:
    return {name: estimate.value, "low": estimate.low, "high": estimate.high}


def _case(case: Case) -> dict[str, Any]:
    return {
        "id": case.pair.id,
        "margin": case.margin,
        "gap": case.gap,
        "change": case.change,
        "description": _text(case.description),
        "caption": _text(case.caption),
    }


def _text(text: Explanation) -> dict[str, Any]:
    """strongest: the strongest word for the purpose, by its number and kinds."""
    place, part, left_out = _strongest(text)
    kinds = sorted(kinds_of(text.words)[place])
    return {
        "score": text.score.score,
        "cosine": text.score.cosine,
        "clip_score": text.score.clip_score,
        "log_odds": _log_odds(text),
        "probability": text.score.description_probability,
        "words": len(text.words),
        "strongest": {"number": place + 1, "kinds": kinds, "part": part, "left_out": left_out},
    }


def _marks(explained: Explained) -> dict[str, Any]:
    """Kinds of word, and single words, that move the purpose: means with intervals over images."""
    measured = report(occurrences(explained), WordOptions())[0]
    sure = [row for row in measured.words if row.q is not None and row.q < _LARGEST_Q]
    up = [row for row in sure if (row.mean.value or 0) > 0]
    down = [row for row in reversed(sure) if (row.mean.value or 0) < 0]
    return {
        "kinds": [
            {"kind": row.kind, "n": row.mean.n} | _interval("difference", row.difference)
            for row in measured.kinds
        ],
        "description": _listed(up),
        "caption": _listed(down),
        "agreement": measured.agreement.value if measured.agreement else None,
    }


def _listed(rows: Sequence[WordRow]) -> list[dict[str, Any]]:
    return [{"word": row.word, "n": row.mean.n, "mean": row.mean.value, "q": row.q} for row in rows[:_LISTED]]


CASES = Part(
    "explanation_cases.json", "explanations.md", "cases", lambda cases: render("explanation_cases", **cases)
)


# Cost


TIMES_GOAL = 5.0
"""How many times cheaper an explanation should be on a GPU than on the same machine's CPU."""


@dataclass(frozen=True)
class Cost:
    """Seconds a text on one device, after loading. All but ``first`` are medians over rounds.

    Attributes:
        device: the device.
        texts: how many texts.
        first: the first explanation, which includes what torch starts late.
        alone: mean over the texts, explained one by one.
        longest: the longest of them.
        together: mean over the texts, all in one call.
        alone_busy: as ``alone``, in time of the processor over all its cores.
        together_busy: as ``together``, in time of the processor.
    """

    device: str
    texts: int
    first: float
    alone: float
    longest: float
    together: float
    alone_busy: float
    together_busy: float


@dataclass(frozen=True)
class _Time:
    """Seconds on the wall clock, and of the processor over all its cores."""

    wall: float
    busy: float


@dataclass(frozen=True)
class Material:
    """n texts, and the n encoded images they are explained on."""

    images: Sequence[bytes]
    texts: Sequence[str]

    @classmethod
    def of(cls, pairs: Sequence[PreferencePair]) -> Material:
        """Both texts of every pair, descriptions first."""
        images = [pair.image.read() for pair in pairs]
        texts = [pair.description for pair in pairs] + [pair.caption for pair in pairs]
        return cls(images * 2, texts)


def measure_cost(model: str, device: str, material: Material, rounds: int) -> tuple[Cost, list[Explanation]]:
    """Times on ``device``, alone and together in turn, ``rounds`` times; and the explanations."""
    scorer = DescScorer.from_pretrained(model, device=device)
    first = _timed(scorer, material.images[:1], material.texts[:1])
    explanations = explain_batch(material.images, material.texts, scorer)
    pairs = list(zip(material.images, material.texts, strict=True))

    def each_alone(_: int) -> list[_Time]:
        return [_timed(scorer, [image], [text]) for image, text in pairs]

    times = in_turn(
        {"alone": each_alone, "together": lambda _: [_timed(scorer, material.images, material.texts)]}, rounds
    )
    alone, together = times["alone"], [time for (time,) in times["together"]]
    count, median, mean = len(material.texts), statistics.median, statistics.fmean
    cost = Cost(
        device=device,
        texts=count,
        first=first.wall,
        alone=median(mean(time.wall for time in times) for times in alone),
        longest=median(max(time.wall for time in times) for times in alone),
        together=median(time.wall for time in together) / count,
        alone_busy=median(mean(time.busy for time in times) for times in alone),
        together_busy=median(time.busy for time in together) / count,
    )
    return cost, explanations


def _timed(scorer: DescScorer, images: Sequence[bytes], texts: Sequence[str]) -> _Time:
    """Explanations are plain numbers, so the device has finished when they arrive."""
    wall, busy = time.perf_counter(), time.process_time()
    explain_batch(images, texts, scorer)
    return _Time(time.perf_counter() - wall, time.process_time() - busy)


def largest_gap(one: Sequence[Explanation], other: Sequence[Explanation]) -> float:
    """Largest difference of a word's part of the cosine between explanations of the same texts."""
    return max(
        abs(word.value - same.value)
        for text, again in zip(one, other, strict=True)
        for word, same in zip(text.words, again.words, strict=True)
    )


def run_of(
    model: str, data: str, measured: Mapping[str, tuple[Cost, Sequence[Explanation]]]
) -> dict[str, Any]:
    """One run: several devices of one machine, on the same texts. gap: see :func:`largest_gap`."""
    costs = [cost for cost, _ in measured.values()]
    explained = [explanations for _, explanations in measured.values()]
    return {
        "model": model,
        "data": Path(data).name,
        "threads": torch.get_num_threads(),
        "machines": {cost.device: machine(torch.device(cost.device)) for cost in costs},
        "costs": {cost.device: {k: v for k, v in vars(cost).items() if k != "device"} for cost in costs},
        "gap": max((largest_gap(explained[0], other) for other in explained[1:]), default=None),
    }


def setting_of(run: Json) -> tuple[int, tuple[str, ...], int]:
    """Devices and threads of a run."""
    return len(run["costs"]), tuple(sorted(run["costs"])), run["threads"]


def cost_markdown(runs: Sequence[Json]) -> str:
    """The measured part of the page. A goal without a run is shown as "not measured"."""
    cpu = [run["costs"]["cpu"] for run in runs if "cpu" in run["costs"]]
    rows = [
        {
            "device": device,
            "label": _label(run, device),
            "machine": run["machines"][device],
            "cost": cost,
            "gain": _gain(run, device),
        }
        for run in runs
        for device, cost in run["costs"].items()
    ]
    return render(
        "explanation_cost",
        rows=rows,
        slowest=max((cost["alone"] for cost in cpu), default=None),
        dearest=max((cost["together_busy"] / cost["alone_busy"] for cost in cpu), default=None),
        gain=min((row["gain"] for row in rows if row["gain"] is not None), default=None),
        goal=TIMES_GOAL,
        gaps=[run["gap"] for run in runs if run["gap"] is not None],
    )


def _gain(run: Json, device: str) -> float | None:
    """How many times cheaper than on the same machine's CPU; None on a CPU."""
    cpu = run["costs"].get("cpu")
    return None if device == "cpu" or cpu is None else cpu["together"] / run["costs"][device]["together"]


def _label(run: Json, device: str) -> str:
    if device != "cpu":
        return device
    others = " and ".join(other for other in run["costs"] if other != "cpu")
    return f"cpu, {counted(run['threads'], 'thread')}" + (f", machine with {others}" if others else "")


COST = RunsPart(
    "explanation_cost.json", "explanations.md", "cost", lambda file: cost_markdown(file["runs"]), setting_of
)


# Commands


def _read(data: str, split: str) -> tuple[PreferencePair, ...]:
    """The pairs of a split. Those with equal texts stay in: no description can win there, and that counts."""
    return load_pairs(data, DataOptions(keep_equal=True)).split(split)


_data_help = "Concadia folder, or another data set of pairs."
split_option = click.option("--split", default="test", show_default=True, help="Split to explain.")
model_option = click.option("--model", default="default", show_default=True, help="Model to explain.")


@click.group()
def main() -> None:
    """Measure explanations, and write the measured parts of FOLDER/explanations.md."""


@main.command()
@folder_argument
@click.option("--data", required=True, help=_data_help)
@split_option
@model_option
def cases(folder: Path, data: str, split: str, model: str) -> None:
    """Write FOLDER/explanation_cases.json, and the part of the page there. The model needs a read-out."""
    scorer = DescScorer.from_pretrained(model, device="cpu")
    explained_cases, explained = make_cases(scorer, _read(data, split))
    CASES.write(to_json(explained_cases, explained, scorer.signature), folder)


@main.command()
@folder_argument
@click.option("--data", help=_data_help)
@split_option
@click.option("--pairs", type=click.IntRange(min=1), default=32, show_default=True, help="Pairs to explain.")
@model_option
@click.option("--device", "devices", multiple=True, default=("cpu",), show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="Threads on the CPU; by default torch's choice.")
@add_option
def cost(
    folder: Path,
    data: str | None,
    split: str,
    pairs: int,
    model: str,
    devices: tuple[str, ...],
    rounds: int,
    threads: int | None,
    add: Path | None,
) -> None:
    """Write FOLDER/explanation_cost.json, and the part of the page there."""
    if (data is None) == (add is None):
        raise click.UsageError("give --data to measure, or --add to take over what was measured")
    if add is not None:
        runs = COST.read(add)["runs"]
    else:
        assert data is not None
        if threads is not None:
            torch.set_num_threads(threads)
        material = Material.of(_read(data, split)[:pairs])
        costs = {device: measure_cost(model, device, material, rounds) for device in devices}
        runs = [run_of(model, data, costs)]
        click.echo(cost_markdown(runs))
    COST.add(runs, folder)


if __name__ == "__main__":
    main()
