"""``descscore explain``. Heavy imports stand inside the command."""

from __future__ import annotations

import json
from pathlib import Path

import click

from descscore.cli import model_options
from descscore.errors import UsageError


@click.command()
@click.argument("image")
@click.argument("text")
@click.option(
    "--source",
    metavar="TEXT",
    help="Also: what TEXT would score if it spoke with the purpose of this other text.",
)
@click.option("--where", is_flag=True, help="Also: a map of the image by occlusion, an aid, not evidence.")
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
    """Show why TEXT scores as it does with IMAGE: what each word did to the score and to the purpose."""
    page = _page_file(html)
    if html is not None and page is None and as_json:
        raise UsageError("--html without a file and --json both print; give --html a file")
    from descscore.explanations.explainer import explain as run
    from descscore.explanations.terminal import to_text
    from descscore.scorer import DescScorer

    scorer = DescScorer.from_pretrained(model, device=device, text_policy=text_policy)  # type: ignore[arg-type]
    found = run(image, text, scorer=scorer, source=source, where=where)
    if html is not None:
        from descscore.explanations.html_page import to_html
        from descscore.images import load_image

        written = to_html(found, load_image(image), Path(image).name)
        if page is None:
            click.echo(written, nl=False)
            return
        page.write_text(written, encoding="utf-8")
        click.echo(f"page: {page}", err=True)
    if as_json:
        click.echo(json.dumps({"image": image} | found.to_dict(), ensure_ascii=False, indent=2))
    elif html is None:
        click.echo(to_text(found))


def _page_file(html: str | None) -> Path | None:
    """Where the page goes, None for standard output; another name than a page's would overwrite a photo."""
    if html is None or html == "-":
        return None
    path = Path(html)
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--html {html}: the page's file must end in .html")
    return path
