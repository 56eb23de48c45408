"""The command ``descscore explain``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from descscore.errors import UsageError
from descscore.options import echo, model_options


@click.command()
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
    # Imported here, so that help comes at once.
    from descscore.explanations.explainer import explain as run
    from descscore.explanations.terminal import to_text
    from descscore.scorer import DescScorer

    scorer = DescScorer.from_pretrained(model, device=device, text_policy=text_policy)  # type: ignore[arg-type]
    explanation = run(image, text, scorer=scorer, source=source, where=where)
    if html is not None:
        from descscore.explanations.html_page import to_html
        from descscore.images import load_image

        content = to_html(explanation, load_image(image), Path(image).name)
        if page is None:
            click.echo(content, nl=False)
            return
        page.write_text(content, encoding="utf-8")
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
