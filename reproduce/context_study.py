"""What contexts and references change: ``python -m reproduce.context_study``.

The contextual score against the ratings of ``kreiss2022``, and the reference score against the
expert ratings of ``flickr8k``, as numbers in a file and as a page. Nothing in descscore is chosen by it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeAlias

import click

from descscore.eval.captions import PUBLISHED as PUBLISHED_TAUS
from descscore.eval.captions import CaptionJudgments, read_caption_judgments, reference_tau_row, tau_rows
from descscore.eval.formatting import counted, markdown_table, plain, signed, signed_interval
from descscore.eval.human import DifferenceRow, HumanResult, HumanRow, human_result
from descscore.eval.metric_scores import VARIANTS, context_metrics
from descscore.eval.options import data_option
from descscore.eval.ratings import Item, Judgments, read_kreiss
from descscore.eval.statistics.bootstrap import Resampling
from descscore.scorer import DescScorer
from descscore.texts import DEFAULT_POLICY, TextPolicy
from reproduce import performance_page

Json: TypeAlias = dict[str, Any]

AS_PUBLISHED: TextPolicy = "truncate"
"""What Kreiss et al. 2022 do with articles over the context length."""


def study(data: Path, models: tuple[str, ...], resampling: Resampling) -> Json:
    """All that the page shows, as plain JSON types. data: the folder that holds both data sets.

    Raises :class:`descscore.errors.DataError` on missing or wrong files.
    """
    judgments, captions = read_kreiss(data), read_caption_judgments(data, references=True)
    return {
        "models": [_model(name, judgments, captions, resampling) for name in models],
        "sources": [judgments.source, captions.source],
        "resamples": resampling.resamples,
        "seed": resampling.seed,
    }


def _model(name: str, judgments: Judgments, captions: CaptionJudgments, resampling: Resampling) -> Json:
    scorer = DescScorer.from_pretrained(name, device="cpu")
    expert, _ = tau_rows(scorer, captions)
    referenced = reference_tau_row(scorer, captions)
    return {
        "model": name,
        "contexts": [
            context_part(name, judgments, DescScorer(scorer.model, policy), resampling)
            for policy in (DEFAULT_POLICY, AS_PUBLISHED)
        ],
        "taus": {"pairs": expert.pairs, "score": expert.tau, "reference_score": referenced.tau},
    }


def context_part(name: str, judgments: Judgments, scorer: DescScorer, resampling: Resampling) -> Json:
    """The contextual score under one text policy, against every panel of raters."""
    result = human_result(judgments, context_metrics(judgments.items, scorer, name), resampling)
    return {
        "policy": scorer.text_policy,
        "signature": scorer.signature,
        "texts": text_figures(judgments.items, scorer),
        "rows": [panel_row(name, row, result) for row in result.rows if row.metric == name],
    }


def text_figures(items: tuple[Item, ...], scorer: DescScorer) -> Json:
    """How the articles and descriptions lie in the model: what decides how much a context can change."""
    articles = list(dict.fromkeys(item.context or "" for item in items))
    contexts = scorer.encoder.texts(articles, scorer.text_policy)
    texts = scorer.encoder.texts([item.text for item in items], scorer.text_policy)
    place = [articles.index(item.context or "") for item in items]
    cosines = (texts.features.double() * contexts.features[place].double()).sum(-1)
    return {
        "texts": len(items),
        "articles": len(articles),
        "articles_over": sum(text.tokens > scorer.model.tokenizer.context_length for text in contexts.texts),
        "context_length": scorer.model.tokenizer.context_length,
        "mean_norm": float(texts.norms.double().mean()),
        "mean_context_norm": float(contexts.norms.double().mean()),
        "mean_context_cosine": float(cosines.mean()),
    }


def panel_row(model: str, row: HumanRow, result: HumanResult) -> Json:
    """One question to one group of raters: r of the four metrics, and what the context adds."""
    where = (row.raters, row.phase, row.question)
    by_metric = {r.metric: r.r for r in result.rows if (r.raters, r.phase, r.question) == where}
    plain, context, prefix, both = (model + variant for variant in VARIANTS)
    changes = [d for d in result.differences if (d.raters, d.phase, d.question) == where]
    return {
        "raters": row.raters,
        "phase": row.phase,
        "question": row.question,
        "n": row.n,
        "images": row.clusters,
        "r": by_metric[plain],
        "r_context": by_metric[context],
        "change": _change(changes, plain, context),
        "r_prefix": by_metric[prefix],
        "r_prefix_context": by_metric[both],
        "change_prefix": _change(changes, prefix, both),
    }


def _change(differences: list[DifferenceRow], first: str, second: str) -> Json:
    """r of the second metric minus r of the first, with its 95 % interval and p."""
    (difference,) = (d for d in differences if (d.first, d.second) == (first, second))
    negative = {"value": difference.difference, "low": difference.high, "high": difference.low}
    return {key: None if value is None else -value for key, value in negative.items()} | {"p": difference.p}


@click.command()
@data_option("The data folder, with kreiss2022 and flickr8k")
@click.option("--model", "models", multiple=True, default=("base", "default"), show_default=True)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    required=True,
    help="Folder of the page, and for the file of its numbers.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--resamples", type=int, default=1999, show_default=True)
def main(data: Path, models: tuple[str, ...], output: Path, seed: int, resamples: int) -> None:
    """Measure contexts and references; write the numbers to a file and into the page."""
    numbers = study(data, models, Resampling(resamples, seed))
    text = json.dumps(numbers, indent=1, ensure_ascii=False, allow_nan=False)
    (output / DATA_FILE).write_text(text + "\n", encoding="utf-8")
    page = output / PAGE_FILE
    page.write_text(put_in(page.read_text(encoding="utf-8"), numbers), encoding="utf-8")


DATA_FILE, PAGE_FILE = "context.json", "context_and_references.md"
_DIGITS = 3

PUBLISHED = {
    ("BLV", None, "overall"): (0.075, 0.201),
    ("BLV", None, "imaginability"): (0.105, 0.182),
    ("BLV", None, "relevance"): (0.085, 0.202),
    ("BLV", None, "irrelevance"): (0.089, 0.142),
    ("sighted", "before", "overall"): (-0.014, 0.238),
    ("sighted", "before", "imaginability"): (0.065, 0.315),
    ("sighted", "before", "relevance"): (0.000, 0.190),
    ("sighted", "before", "irrelevance"): (-0.167, -0.019),
    ("sighted", "after", "overall"): (0.138, 0.331),
    ("sighted", "after", "relevance"): (0.106, 0.240),
    ("sighted", "after", "irrelevance"): (-0.080, 0.052),
}
"""r of CLIPScore without and with context, by raters, phase and question (Kreiss et al. 2022)."""


def put_in(text: str, numbers: Json) -> str:
    """The page with the part ``measured`` made from ``numbers``; :class:`DataError` without its marks."""
    return performance_page.put_in(text, "measured", measured(numbers))


def measured(numbers: Json) -> str:
    """What was measured, as Markdown; every number in it is from ``numbers`` or published."""
    row = numbers["models"][0]["contexts"][0]["rows"][0]
    notes = (
        f"Pearson's r with the mean ratings of the {row['n']} descriptions of {row['images']} images in",
        "`kreiss2022`. Intervals of 95 % come from a bootstrap over whole images",
        f"({numbers['resamples']:,} resamples, seed {numbers['seed']}). Published: CLIPScore without and",
        "with context (OpenAI CLIP ViT-B/32, with the prefix).",
    )
    parts = [" ".join(notes) + "\n", *map(_context_part, numbers["models"]), _reference_part(numbers)]
    used = [part["signature"] for model in numbers["models"] for part in model["contexts"]]
    signatures = "\n".join(f"- `{signature}`" for signature in used)
    return "\n".join([*parts, f"Signatures:\n\n{signatures}\n"])


def _context_part(model: Json) -> str:
    whole, cut = model["contexts"]
    change = "change (95 %)"
    head = ["raters", "question", "published", "r", "r in context", change, "with prefix", change]
    rows = markdown_table(head, [_cells(row) for row in whole["rows"]])
    return f"### Context: {model['model']}\n\n{_reading(whole, cut)}\n\n{rows}"


def _cells(row: Json) -> list[str]:
    before, after = PUBLISHED[row["raters"], row["phase"], row["question"]]
    return [
        row["raters"] if row["phase"] is None else f"{row['raters']}, {row['phase']} the image",
        row["question"],
        f"{_r(before)} → {_r(after)}",
        _r(row["r"]),
        _r(row["r_context"]),
        _shown_change(row["change"]),
        f"{_r(row['r_prefix'])} → {_r(row['r_prefix_context'])}",
        _shown_change(row["change_prefix"]),
    ]


def _r(value: float | None) -> str:
    return signed(value, _DIGITS)


def _shown_change(change: Json) -> str:
    return f"{_r(change['value'])} ({signed_interval(change['low'], change['high'], _DIGITS)})"


def _reading(whole: Json, cut: Json) -> str:
    """What the table says, in words. cut: the same with articles cut, as published."""
    rows, texts = whole["rows"], whole["texts"]
    published = sum(after > before for before, after in PUBLISHED.values())
    norm, context_norm = texts["mean_norm"], texts["mean_context_norm"]
    said = (
        f"The published r rises with context in {published} of {len(PUBLISHED)} rows.",
        f"Under the text policy `{whole['policy']}` it {_rises(rows, 'change')}; with the prefix it",
        f"{_rises(rows, 'change_prefix')}. {_verdict(rows)}",
        f"Of {counted(texts['articles'], 'article')} {texts['articles_over']} are over",
        f"{texts['context_length']} tokens; cut to that, as published (`{cut['policy']}`), r",
        f"{_rises(cut['rows'], 'change')}; with the prefix it {_rises(cut['rows'], 'change_prefix')}.",
        f"Raw embeddings have a mean length of {plain(norm)} (descriptions) and {plain(context_norm)}",
        f"(articles), so that in the second form of the formula the image weighs {plain(norm)} and the",
        f"context {signed(context_norm - norm)} on average. The mean cosine of a description and its",
        f"article is {signed(texts['mean_context_cosine'])}.",
    )
    return " ".join(said)


def _rises(rows: list[Json], key: str) -> str:
    """In how many rows r rises, and in how many the change's interval leaves out 0 on either side."""
    changes = [row[key] for row in rows]
    rises = sum((change["value"] or 0) > 0 for change in changes)
    above, below = _sure(changes)
    return (
        f"rises in {rises} of {len(rows)} (the change's interval lies above 0 in {above}, below 0 in {below})"
    )


def _sure(changes: list[Json]) -> tuple[int, int]:
    """How many changes have an interval above 0, and how many one below 0."""
    known = [change for change in changes if change["low"] is not None]
    return sum(change["low"] > 0 for change in known), sum(change["high"] < 0 for change in known)


def _verdict(rows: list[Json]) -> str:
    """A gain counts as seen where its interval lies above 0: a sign alone is half chance."""
    seen, _ = _sure([row["change"] for row in rows])
    if not seen:
        return "The published gain is not seen: no rise can be told from none."
    return f"The published gain is seen in {seen} of {counted(len(rows), 'row')}."


def _reference_part(numbers: Json) -> str:
    pairs = numbers["models"][0]["taus"]["pairs"]
    rows = [
        [model["model"], _tau(model["taus"]["score"]), _tau(model["taus"]["reference_score"])]
        for model in numbers["models"]
    ]
    alone, with_references = (PUBLISHED_TAUS[name][0] for name in ("CLIP-S", "RefCLIP-S"))
    rows.append(["CLIP-S, RefCLIP-S (published)", f"{alone:.1f}", f"{with_references:.1f}"])
    said = (
        f"Kendall's tau-c, times 100, with the expert ratings of {pairs:,} pairs in Flickr8k (captions, not",
        "descriptions). References are the photo's own five captions; pairs of a photo with one of them",
        "are left out.",
    )
    shown = markdown_table(["model", "without references (cosine)", "with references"], rows)
    return f"### References\n\n{' '.join(said)}\n\n{shown}"


def _tau(value: float | None) -> str:
    return "not defined" if value is None else f"{100 * value:.1f}"


if __name__ == "__main__":
    main()
