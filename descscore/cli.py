"""The ``descscore`` command, with its commands ``score``, ``compare`` and ``explain``.

Exit codes: 0 success, 1 failure, 2 wrong usage, 3 success except for some rows (``batch``).
An error is one line on standard error; ``--debug``, before or after the command, shows the traceback.
Each command imports slow modules when it runs, so that help and usage errors come at once.
"""

from __future__ import annotations

import atexit
import gc
import json
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import click

from descscore import __version__
from descscore.errors import ImageError, InputError, UsageError, first_ten, is_blank, rows_error
from descscore.files import atomic_write
from descscore.options import Group, context_option, echo, model_options, verbose_option
from descscore.tables.cells import text_coding

_INPUT_LIMIT = 1 << 24
"""Bytes of texts that are read from standard input or a file."""


@click.group(
    cls=Group,
    lazy={
        "audit": "descscore.auditing.cli:audit",
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
@click.argument("images", metavar="IMAGE TEXT...", nargs=-1, required=True)
@click.option("--text", "texts", multiple=True, help="A text; IMAGE may then be repeated. May be repeated.")
@context_option
@click.option(
    "--reference",
    "references",
    multiple=True,
    help="A good description of IMAGE; adds reference_score. May be repeated.",
)
@verbose_option
@model_options
def score(
    images: tuple[str, ...],
    texts: tuple[str, ...],
    context: str | None,
    references: tuple[str, ...],
    verbose: bool,
    model: str,
    device: str | None,
    text_policy: str,
    as_json: bool,
) -> None:
    """Score each TEXT as a replacement for IMAGE.

    A TEXT or reference that is - stands for the lines of standard input, and @FILE for the lines of a file;
    blank lines are skipped. Write @@ for the @ at the beginning of a text. The arguments are IMAGE TEXT...,
    or with --text only images.
    """
    hint = "; with --text, all other arguments are images" if texts and len(images) > 1 else ""
    if not texts:
        images, texts = images[:1], images[1:]
        _refuse_images(images[0], texts)
    texts = tuple(line for text in texts for line in _texts(text))
    if not texts:
        raise UsageError("no text: give at least one after the image, or with --text")
    _check_images(images, hint)
    pairs = [(image, text) for image in images for text in texts]
    columns = {
        "contexts": [_whole(context)] * len(pairs),
        "references": [[line for text in references for line in _texts(text)]] * len(pairs),
    }
    scorer = _scorer(model, device, text_policy)
    try:
        results = scorer.score_batch(*zip(*pairs, strict=True), **columns)
    except InputError as error:
        raise rows_error(error.rows, name=None) from error
    if as_json:
        rows = [{"image": i, "text": t} | r.to_dict() for (i, t), r in zip(pairs, results, strict=True)]
        echo(json.dumps(rows, ensure_ascii=False, indent=2))
        return
    from descscore.screen import Line, show_meaning, show_scores

    lines = [Line(text, result) for (_, text), result in zip(pairs, results, strict=True)]
    for number, image in enumerate(images):
        show_scores(image, lines[number * len(texts) : (number + 1) * len(texts)], verbose)
    show_meaning(results, verbose)


@main.command()
@click.argument("image")
@click.option(
    "--description", required=True, help="The text meant to replace the image; - or @FILE reads it."
)
@click.option("--caption", required=True, help="The text meant to add to the image; - or @FILE reads it.")
@context_option
@verbose_option
@model_options
def compare(
    image: str,
    description: str,
    caption: str,
    context: str | None,
    verbose: bool,
    model: str,
    device: str | None,
    text_policy: str,
    as_json: bool,
) -> None:
    """Compare a description and a caption of IMAGE."""
    texts, context = (_whole(description), _whole(caption)), _whole(context)
    _check_images([image])
    result = _scorer(model, device, text_policy).compare(image, *texts, context=context)
    if as_json:
        echo(json.dumps({"image": image} | result.to_dict(), ensure_ascii=False, indent=2))
        return
    from descscore.screen import show_comparison, show_meaning

    show_comparison(image, result, texts, verbose)
    show_meaning([result.description, result.caption], verbose)


@main.command(short_help="Show why TEXT gets its score with IMAGE, word by word.")
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
@verbose_option
@model_options
def explain(
    image: str,
    text: str,
    source: str | None,
    where: bool,
    html: str | None,
    verbose: bool,
    model: str,
    device: str | None,
    text_policy: str,
    as_json: bool,
) -> None:
    """Show why TEXT gets its score with IMAGE: how each word moves the score and the purpose.

    A TEXT that is - stands for all of standard input, and @FILE for all of a file.
    """
    page = _page_file(html)
    if html is not None and page is None and as_json:
        raise UsageError("--html without a file and --json both print; give --html a file")
    from descscore.explanations.explainer import explain as run
    from descscore.explanations.terminal import progress_bar, to_text
    from descscore.images import load_image
    from descscore.screen import show_meaning, text_width

    text, source, picture = _whole(text), _whole(source), load_image(image)
    scorer = _scorer(model, device, text_policy)
    with progress_bar() as progress:
        explanation = run(picture, text, scorer=scorer, source=source, where=where, progress=progress)
    if html is not None:
        from descscore.explanations.html_page import to_html

        content = to_html(explanation, picture, Path(image).name)
        if page is None:
            echo(content)
            return
        with atomic_write(page) as part:
            part.write_text(f"{content}\n", encoding="utf-8")
        echo(f"page: {page}", err=True)
    if as_json:
        echo(json.dumps({"image": image} | explanation.to_dict(), ensure_ascii=False, indent=2))
    elif html is None:
        echo(image)
        echo(to_text(explanation, verbose, text_width()))
        echo("")
        show_meaning([explanation.score], verbose)


def _refuse_images(image: str, texts: Sequence[str]) -> None:
    """Raise :class:`UsageError` if texts are names of image files, as a shell makes them of ``*.png``."""
    from descscore.formats import IMAGE_SUFFIXES

    def named_as_image(text: str) -> bool:
        return Path(text).suffix.lower() in IMAGE_SUFFIXES

    files = [text for text in texts if named_as_image(text) and _is_file(text)]
    if not files:
        return
    if not named_as_image(image) and not _is_file(image):
        raise UsageError(f"the image comes first: descscore score {shlex.quote(files[0])} TEXT")
    names = shlex.join([image, *files][:3]) + (" ..." if len(files) > 2 else "")
    wanted = [text for text in texts if text not in files] or ["A cat on a wall."]
    options = " ".join(f"--text {shlex.quote(text)}" for text in wanted)
    raise UsageError(
        f"{first_ten(files, ', ')}: an image file where a text belongs; "
        f"give texts with --text: descscore score {names} {options}"
    )


def _check_images(images: Sequence[str], hint: str = "") -> None:
    """Raise :class:`ImageError` for paths that lead to no file, before a model is loaded. hint: its end."""
    from descscore.images import check_path

    problems: dict[int, InputError] = {}
    for number, image in enumerate(images):
        try:
            check_path(image)
        except ImageError as error:
            problems[number] = ImageError(error.kind, f"{error}{hint}")
    if problems:
        raise rows_error(problems, name=None)


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long for a file name
        return False


@overload
def _whole(text: str) -> str: ...
@overload
def _whole(text: str | None) -> str | None: ...
def _whole(text: str | None) -> str | None:
    """One text: all of standard input for ``-``, all of a file for ``@FILE``; without line ends around it."""
    if text is None:
        return None
    data = _read(text)
    return text.removeprefix("@") if data is None else data.strip("\r\n")


def _texts(text: str) -> list[str]:
    """The texts that an argument stands for: the lines of what it names; blank lines are none."""
    data = _read(text)
    if data is None:
        return [text.removeprefix("@")]
    return [line for line in re.split("\r\n|\n|\r", data) if not is_blank(line)]


def _read(text: str) -> str | None:
    """What ``-`` and ``@FILE`` stand for; None for a text, whose first ``@`` is written ``@@``."""
    if text == "-":
        name, data = "standard input", sys.stdin.buffer.read(_INPUT_LIMIT + 1)
    elif text.startswith("@") and not text.startswith("@@"):
        name = text[1:]
        if not _is_file(name):
            raise UsageError(f"{text}: no such file; write @{text} for a text that begins with @")
        with Path(name).open("rb") as file:
            data = file.read(_INPUT_LIMIT + 1)
    else:
        return None
    if len(data) > _INPUT_LIMIT:
        raise UsageError(f"{name}: over {_INPUT_LIMIT:,} bytes; 'descscore batch' scores more")
    coding, start = text_coding(data)
    try:
        decoded = data[start:].decode(coding)
    except UnicodeDecodeError as error:
        raise UsageError(f"{name}: is not UTF-8 text ({error.reason} at byte {error.start})") from None
    if is_blank(decoded):
        raise UsageError(f"{name}: holds no text")
    return decoded


def _page_file(html: str | None) -> Path | None:
    """The page's file; None for standard output. Refuses other endings, which could be those of a photo."""
    if html is None or html == "-":
        return None
    path = Path(html)
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--html {html}: the page's file must end in .html")
    return path


def _scorer(model: str, device: str | None, text_policy: str) -> Any:
    # To look for garbage among all that torch imports takes a sixth of a command's time, and finds none.
    gc.disable()
    try:
        from descscore.scorer import DescScorer

        return DescScorer.from_pretrained(model, device=device, text_policy=text_policy)  # type: ignore[arg-type]
    finally:
        gc.enable()
        atexit.register(gc.freeze)  # Python collects once more at exit, and passes over what is frozen


if __name__ == "__main__":
    sys.exit(main())
