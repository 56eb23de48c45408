"""What contexts and references change: ``python -m descscore.eval.human.context_study``.

The contextual score against the ratings of ``kreiss2022``, and the reference score against
the expert ratings of ``flickr8k``. It measures; nothing in descscore is chosen by it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeAlias

import click

from descscore.eval.human.caption_taus import (
    CaptionJudgments,
    read_caption_judgments,
    reference_tau_row,
    tau_rows,
)
from descscore.eval.human.context_page import DATA_FILE, PAGE_FILE, put_in
from descscore.eval.human.context_scores import VARIANTS, context_metrics
from descscore.eval.human.ratings import Item, Judgments, read_kreiss
from descscore.eval.human.rows import DifferenceRow, HumanResult, HumanRow, human_result
from descscore.eval.options import data_option
from descscore.eval.statistics.bootstrap import Resampling
from descscore.scorer import DescScorer
from descscore.texts import DEFAULT_POLICY, TextPolicy

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
    found = {r.metric: r.r for r in result.rows if (r.raters, r.phase, r.question) == where}
    plain, context, prefix, both = (model + variant for variant in VARIANTS)
    changes = [d for d in result.differences if (d.raters, d.phase, d.question) == where]
    return {
        "raters": row.raters,
        "phase": row.phase,
        "question": row.question,
        "n": row.n,
        "images": row.clusters,
        "r": found[plain],
        "r_context": found[context],
        "change": _change(changes, plain, context),
        "r_prefix": found[prefix],
        "r_prefix_context": found[both],
        "change_prefix": _change(changes, prefix, both),
    }


def _change(differences: list[DifferenceRow], first: str, second: str) -> Json:
    """r of the second metric minus r of the first, with its 95 % interval and p."""
    (found,) = (d for d in differences if (d.first, d.second) == (first, second))
    negative = {"value": found.difference, "low": found.high, "high": found.low}
    return {key: None if value is None else -value for key, value in negative.items()} | {"p": found.p}


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
    found = study(data, models, Resampling(resamples, seed))
    text = json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False)
    (output / DATA_FILE).write_text(text + "\n", encoding="utf-8")
    page = output / PAGE_FILE
    page.write_text(put_in(page.read_text(encoding="utf-8"), found), encoding="utf-8")


if __name__ == "__main__":
    main()
