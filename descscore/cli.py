"""The ``descscore`` command, with its commands ``score``, ``compare`` and ``explain``.

Exit codes: 0 success, 1 failure, 2 wrong usage, 3 success except for some rows (``batch``).
An error is one line on standard error; ``--debug`` shows the traceback. Each command imports
slow modules when it runs, so that help and usage errors come at once.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from descscore import __version__
from descscore.errors import InputError, UsageError, rows_error
from descscore.files import atomic_write
from descscore.options import Group, context_option, echo, model_options


@click.group(
    cls=Group,
    lazy={
        "batch": "descscore.batch.cli:batch",
        "eval": "descscore.eval.cli:evaluate",
        "judgments": "descscore.study.cli:judgments",
        "merge": "descscore.batch.cli:merge",
        "serve": "descscore.page.cli:serve",
        "train": "descscore.training.cli:train",
    },
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="descscore")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """Score how well a text would replace an image for someone who cannot see it."""


@main.command()
@click.argument("image")
@click.argument("texts", metavar="TEXT...", nargs=-1, required=True)
@context_option
@click.option(
    "--reference",
    "references",
    multiple=True,
    help="A good description of IMAGE; adds reference_score. May be repeated.",
)
@model_options
def score(
    image: str,
    texts: tuple[str, ...],
    context: str | None,
    references: tuple[str, ...],
    model: str,
    device: str | None,
    text_policy: str,
    as_json: bool,
) -> None:
    """Score each TEXT as a replacement for IMAGE."""
    scorer, count = _scorer(model, device, text_policy), len(texts)
    try:
        results = scorer.score_batch(
            [image] * count, texts, contexts=[context] * count, references=[references] * count
        )
    except InputError as error:
        raise rows_error(error.rows, name=None) from error
    if as_json:
        rows = [{"image": image, "text": t} | r.to_dict() for t, r in zip(texts, results, strict=True)]
        echo(json.dumps(rows, ensure_ascii=False, indent=2))
        return
    for text, result in zip(texts, results, strict=True):
        echo(f"{_line(result)}  {text}")
    echo(results[0].signature)


@main.command()
@click.argument("image")
@click.option("--description", required=True, help="The text meant to replace the image.")
@click.option("--caption", required=True, help="The text meant to add to the image.")
@context_option
@model_options
def compare(
    image: str,
    description: str,
    caption: str,
    context: str | None,
    model: str,
    device: str | None,
    text_policy: str,
    as_json: bool,
) -> None:
    """Compare a description and a caption of IMAGE."""
    result = _scorer(model, device, text_policy).compare(image, description, caption, context=context)
    if as_json:
        echo(json.dumps({"image": image} | result.to_dict(), ensure_ascii=False, indent=2))
        return
    echo(f"description  {_line(result.description)}  {description}")
    echo(f"caption      {_line(result.caption)}  {caption}")
    echo(
        f"margin {result.margin:+.4f} (cosine), preferred: {result.preferred}, "
        f"probability of the description {result.probability:.3f}"
    )
    if result.contextual_margin is not None:
        echo(f"contextual margin {result.contextual_margin:+.4f}")
    echo(result.signature)


@main.command()
@click.argument("image")
@click.argument("text")
@click.option(
    "--source",
    metavar="TEXT",
    help="Another text; also show the score of TEXT with the purpose of that text.",
)
@click.option("--where", is_flag=True, help="Also map the image by occlusion: an aid, not evidence.")
@click.option(
    "--html",
    metavar="FILE",
    is_flag=False,
    flag_value="-",
    help="Write one self-contained page to FILE (.html); without FILE, print it.",
)
@model_options
def explain(
    image: str,
    text: str,
    source: str | None,
    where: bool,
    html: str | None,
    model: str,
    device: str | None,
    text_policy: str,
    as_json: bool,
) -> None:
    """Show why TEXT gets its score with IMAGE: how each word moves the score and the purpose."""
    page = _page_file(html)
    if html is not None and page is None and as_json:
        raise UsageError("--html without a file and --json both print; give --html a file")
    from descscore.explanations.explainer import explain as run
    from descscore.explanations.terminal import to_text
    from descscore.images import load_image

    picture = load_image(image)
    scorer = _scorer(model, device, text_policy)
    explanation = run(picture, text, scorer=scorer, source=source, where=where)
    if html is not None:
        from descscore.explanations.html_page import to_html

        content = to_html(explanation, picture, Path(image).name)
        if page is None:
            click.echo(content, nl=False)
            return
        with atomic_write(page) as part:
            part.write_text(content, encoding="utf-8")
        echo(f"page: {page}", err=True)
    if as_json:
        echo(json.dumps({"image": image} | explanation.to_dict(), ensure_ascii=False, indent=2))
    elif html is None:
        echo(to_text(explanation))


def _page_file(html: str | None) -> Path | None:
    """The page's file; None for standard output. Refuses other endings, which could be those of a photo."""
    if html is None or html == "-":
        return None
    path = Path(html)
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--html {html}: the page's file must end in .html")
    return path


def _scorer(model: str, device: str | None, text_policy: str) -> Any:
    from descscore.scorer import DescScorer

    return DescScorer.from_pretrained(model, device=device, text_policy=text_policy)  # type: ignore[arg-type]


def _line(result: Any) -> str:
    """A :class:`descscore.Score` in one line."""
    length = f"{result.tokens} tokens"
    length += f", in {result.windows} windows" if result.windows > 1 else ""
    length += ", cut" if result.truncated else ""
    line = f"score {result.score:.4f}  cosine {result.cosine:+.4f}  clip_score {result.clip_score:.4f}"
    if result.contextual_score is not None:
        line += f"  contextual {result.contextual_score:+.4f}{_cut(result.context_truncated, 'context')}"
    if result.reference_score is not None:
        line += f"  reference {result.reference_score:.4f}{_cut(result.references_truncated, 'reference')}"
    return f"{line}  ({length})"


def _cut(truncated: bool | None, what: str) -> str:
    return f" ({what} cut)" if truncated else ""


if __name__ == "__main__":
    sys.exit(main())
