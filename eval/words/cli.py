"""``descscore eval words``. Heavy imports stand inside the command."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.option("--data", required=True, help="Concadia folder, table (CSV, JSONL, Parquet), or hub data set.")
@click.option("--split", default="test", show_default=True, help="Split to look at.")
@click.option(
    "--image-root", type=click.Path(path_type=Path), help="Folder that image paths are relative to."
)
@click.option("--limit", type=click.IntRange(min=1), help="Look at the first so many pairs only.")
@click.option(
    "--model", default="default", show_default=True, help="Bundled name, folder, or open_clip model."
)
@click.option("--device", help="Torch device; by default a GPU where there is one.")
@click.option(
    "--least", type=click.IntRange(min=1), default=10, show_default=True, help="Occurrences a word needs."
)
@click.option(
    "--shown", type=click.IntRange(min=1), default=15, show_default=True, help="Words shown at most."
)
@click.option(
    "--norms",
    type=click.Path(path_type=Path),
    multiple=True,
    help="CSV of words with norms, such as concreteness. May be repeated.",
)
@click.option("--norm-column", multiple=True, help="Column of --norms to use; by default found by name.")
@click.option("--norm-word-column", help="Column of --norms with the words; by default found by name.")
@click.option(
    "--spacy",
    default="auto",
    show_default=True,
    help="spaCy model for parts of speech; 'auto': en_core_web_sm where installed; 'none'.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the resampling."
)
@click.option("--resamples", type=int, default=1999, show_default=True, help="Bootstrap draws a number.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def words(
    data: str,
    split: str,
    image_root: Path | None,
    limit: int | None,
    model: str,
    device: str | None,
    least: int,
    shown: int,
    norms: tuple[Path, ...],
    norm_column: tuple[str, ...],
    norm_word_column: str | None,
    spacy: str,
    seed: int,
    resamples: int,
    as_json: bool,
) -> None:
    """Which words a model takes for marks of a description, and which for marks of a caption."""
    from descscore.data.datasets import DataOptions, load_pairs
    from descscore.eval.statistics.bootstrap import Resampling
    from descscore.eval.words import words as measure
    from descscore.eval.words.parts_of_speech import load_tagger
    from descscore.eval.words.word_lines import lines_of
    from descscore.eval.words.word_norms import read_norms
    from descscore.scorer import DescScorer

    known = {k: v for path in norms for k, v in read_norms(path, norm_column, norm_word_column).items()}
    options = measure.WordOptions(least, known, load_tagger(spacy), Resampling(resamples, seed))
    pairs = load_pairs(data, DataOptions(image_root=image_root, keep_equal=True)).split(split)[:limit]
    scorer = DescScorer.from_pretrained(model, device=device)
    explained = measure.explain_pairs(scorer, pairs)
    reports = measure.report(measure.occurrences(explained, options.tagger), options)
    if as_json:
        click.echo(json.dumps(measure.to_json(reports, explained, scorer.signature), indent=2))
        return
    for found in reports:
        click.echo("\n".join([*lines_of(found, shown), ""]))
    speech = "parts of speech by spaCy" if options.tagger else "no parts of speech (no spaCy model)"
    click.echo(
        f"{len(explained.pairs)} pairs of split {split!r}, {len(explained.dropped)} not usable; {speech}"
    )
    click.echo(f"{100 * explained.converged:.1f} % of texts converged")
    click.echo(scorer.signature)
