"""The command ``descscore serve``; it imports slow modules when it runs, so that help comes at once."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from descscore.errors import DataError, DescscoreError, StorageError, UsageError, is_blank
from descscore.options import echo

_FILE = click.Path(path_type=Path, dir_okay=False)


@dataclass(frozen=True)
class ServeOptions:
    """The pages to serve and their address: the options of the command, and one that only a program sets."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 7860
    """Port to listen on; 0 takes a free one."""
    model: str = "default"
    """Model of the page to try texts."""
    device: str | None = None
    """Torch device of the model; None takes a GPU if there is one."""
    study: Path | None = None
    """CSV file of the items to judge; None serves no study."""
    database: Path | None = None
    """SQLite file for the study's judgments; needed with a study."""
    consent: Path | None = None
    """File with the text that annotators agree to; None takes a general text."""
    accounts: Path | None = None
    """File of accounts; None admits everybody."""
    with_try: bool | None = None
    """Whether to serve the page to try texts; None serves it only without a study."""
    names: tuple[str, ...] = ()
    """More host names by which browsers may ask for the pages."""
    framed: bool = False
    """Whether other sites may show the pages in a frame. No option sets it."""


@click.command()
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on. The default accepts only requests from this machine.",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=7860, show_default=True, help="Port; 0 takes a free one."
)
@click.option(
    "-m",
    "--model",
    default="default",
    show_default=True,
    help="Model of the page to try texts: bundled name, folder, hf-hub:ORG/NAME, or open_clip model.",
)
@click.option("--device", help="Torch device. The default is a GPU if there is one.")
@click.option(
    "--study",
    type=_FILE,
    help="CSV of items to judge: item, image, description, article title, article text.",
)
@click.option("--database", type=_FILE, help="SQLite file for the judgments. It is created if missing.")
@click.option(
    "--consent", type=_FILE, help="File with the text that annotators agree to; by default a general text."
)
@click.option(
    "--accounts", type=_FILE, help="File of accounts that may log in. See 'descscore judgments account'."
)
@click.option(
    "--name",
    "names",
    multiple=True,
    help="Another host name by which browsers may ask for the pages, such as that of a server in front. "
    "May be repeated.",
)
@click.option(
    "--with-try/--without-try",
    default=None,
    help="With --study: also serve the page to try texts, at /try/, or leave it out. A model's scores may "
    "influence annotators, so by default it is left out.",
)
def serve(**options: Any) -> None:
    """Open a page for people who write and judge image descriptions.

    Without --study, people try texts on the page and see their scores. With --study and
    --database, annotators judge the study's descriptions; 'descscore judgments' exports the
    answers.
    """
    run(ServeOptions(**options))


def run(options: ServeOptions) -> None:
    """Serve until stopped.

    Raises:
        UsageError: The options do not fit together.
        DescscoreError: A file cannot be used, or the address cannot be served. The message names it.
    """
    _check(options)
    sock = _listen(options.host, options.port)
    app = make_app(options)
    from descscore.page.server import run_server

    host, port = sock.getsockname()[:2]
    echo(f"descscore listens on http://{f'[{host}]' if ':' in host else host}:{port}/ (stop with Ctrl-C)")
    run_server(app, sock)


def make_app(options: ServeOptions) -> Any:
    """The ASGI application for these options."""
    study = _study(options)
    from descscore.page.guard import Hosts
    from descscore.page.site import build_app
    from descscore.study.accounts import Accounts

    return build_app(
        study=study,
        trial=_trial(options) if _has_trial(options) else None,
        accounts=Accounts.read(options.accounts) if options.accounts else None,
        hosts=Hosts(options.host, options.names),
        framed=options.framed,
    )


def _check(options: ServeOptions) -> None:
    if (options.study is None) != (options.database is None):
        raise UsageError("--study and --database belong together: give both or none")
    if options.study is None and options.with_try is False:
        raise UsageError("--without-try leaves nothing to serve without --study")
    if options.study is None and options.consent is not None:
        raise UsageError("--consent is for a study: give --study and --database too")
    # Before torch and gradio are imported, which takes seconds.
    from descscore.hub import check_source
    from descscore.tables.reader import check_readable

    check_readable(path for path in (options.study, options.consent, options.accounts) if path is not None)
    if options.database is not None and not options.database.parent.is_dir():
        raise StorageError(f"{options.database}: there is no folder {options.database.parent}")
    if _has_trial(options):
        check_source(options.model)


def _has_trial(options: ServeOptions) -> bool:
    return options.study is None if options.with_try is None else options.with_try


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise DescscoreError(f"cannot listen on {host} port {port}: {error.strerror or error}") from None


def _study(options: ServeOptions) -> Any:
    """The page of the study; None without a study."""
    if options.study is None or options.database is None:
        return None
    from descscore.page.study_page import StudyPage
    from descscore.study.items import read_items
    from descscore.study.judgments import JudgmentStore
    from descscore.study.questions import QUESTIONS, questions_path, read_questions

    items, questions = read_items(options.study), read_questions(options.study)
    if questions != QUESTIONS:
        echo(f"{questions_path(options.study)}: {len(questions)} questions of this study's own")
    if len({item.image_hash for item in items}) < len(items):
        echo(
            f"{options.study}: several descriptions of one image; sighted annotators will have seen the "
            "image before they judge the second description",
            err=True,
        )
    store = JudgmentStore.for_study(options.database, items, questions)
    return StudyPage(store, items, _consent(options.consent), codes=options.accounts is None)


def _consent(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    if is_blank(text):
        raise DataError(f"{path}: is blank")
    return text


def _trial(options: ServeOptions) -> Any:
    """The page to try texts, with its model loaded."""
    from descscore.page.try_page import TryPage
    from descscore.scorer import DescScorer

    return TryPage(DescScorer.from_pretrained(options.model, device=options.device))
