"""What contexts and references change: ``python -m reproduce.context_study``.

The contextual score against the ratings of ``kreiss2022``, and the reference score against the
expert ratings of ``flickr8k``, as numbers in a file and as a page. Nothing in descscore is chosen by it.
"""

from __future__ import annotations

from pathlib import Path

import click

from descscore.eval.captions import PUBLISHED as PUBLISHED_TAUS
from descscore.eval.captions import CaptionJudgments, read_caption_judgments, reference_tau_row, tau_rows
from descscore.eval.human import DifferenceRow, HumanResult, HumanRow, human_result
from descscore.eval.metric_scores import VARIANTS, context_metrics
from descscore.eval.ratings import Item, Judgments, read_kreiss
from descscore.eval.statistics.bootstrap import Resampling
from descscore.options import data_option, resampling_options
from descscore.scorer import DescScorer
from descscore.texts import DEFAULT_POLICY, TextPolicy
from reproduce.pages import Json, Part, render

AS_PUBLISHED: TextPolicy = "truncate"
"""What Kreiss et al. 2022 do with articles over the context length."""
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
    """Norms and cosines of the embeddings, which decide how much a context can change a score."""
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


def to_markdown(numbers: Json) -> str:
    """What was measured; every number in it is from ``numbers`` or published."""
    return render(
        "context_study",
        **numbers,
        first=numbers["models"][0]["contexts"][0]["rows"][0],
        changes=_count_changes,
        published=PUBLISHED,
        published_rises=sum(after > before for before, after in PUBLISHED.values()),
        published_taus=PUBLISHED_TAUS,
    )


def _count_changes(rows: list[Json], key: str) -> Json:
    """How many changes of r are rises, and how many have an interval above 0, or below 0.

    A gain counts only if its interval lies above 0, because chance alone gives every second change that sign.
    """
    changes = [row[key] for row in rows]
    known = [change for change in changes if change["low"] is not None]
    return {
        "rows": len(rows),
        "rises": sum((change["value"] or 0) > 0 for change in changes),
        "above": sum(change["low"] > 0 for change in known),
        "below": sum(change["high"] < 0 for change in known),
    }


PART = Part("context.json", "context_and_references.md", "measured", to_markdown)


@click.command()
@data_option("The data folder, with kreiss2022 and flickr8k")
@click.option("--model", "models", multiple=True, default=("base", "default"), show_default=True)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    required=True,
    help="Folder of the page, and for the file of its numbers.",
)
@resampling_options
def main(data: Path, models: tuple[str, ...], output: Path, seed: int, resamples: int) -> None:
    """Measure contexts and references; write the numbers to a file and into the page."""
    numbers = study(data, models, Resampling(resamples, seed))
    PART.write(numbers, output)


if __name__ == "__main__":
    main()
