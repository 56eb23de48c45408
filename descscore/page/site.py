"""Build the site that ``descscore serve`` serves, with one Gradio app per page.

Each app has one component without events, which holds plain HTML forms (``assets/page``) instead
of Gradio's inputs, because browsers and screen readers support plain forms best. Gradio serves the page.
The page's script sends each action to ``act``, and shows the :class:`Reply` that comes back as the answer.
Gradio's own events would go through its queue. It keeps sessions and replies in memory, even if nobody
fetches them. Here the server keeps nothing when a request ends. Programs can score too
(:mod:`descscore.page.endpoint`).
"""

from __future__ import annotations

import asyncio
import atexit
import inspect
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import gradio as gr
from fastapi import FastAPI
from gradio.events import api
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from descscore.page.endpoint import NAME, Endpoint, json_of, score, whole
from descscore.page.guard import ACCOUNT_HEADER, MAX_FORM, Guard, Hosts, Lane, RefusedError
from descscore.page.reply import Reply, asset, problem, render
from descscore.page.study_page import StudyPage
from descscore.page.uploads import MAX_BYTES
from descscore.study.accounts import Accounts

# Gradio reads these when it creates a page. It may not report usage. By default, the folder for its files is
# one that all users of the machine share.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="descscore-page-")
atexit.register(shutil.rmtree, os.environ["GRADIO_TEMP_DIR"], ignore_errors=True)

_LONGEST_ACTION = 60
_OPENING = ("open", "example")
_FONTS = ["system-ui", "sans-serif"]
_HEAD = '<meta name="color-scheme" content="light dark">'
_SORRY = "Something went wrong here. What you filled in is kept; please tell the people who run this page."
_log = logging.getLogger(__name__)


class Page(Protocol):
    """A page: it answers actions."""

    def act(
        self, action: str, fields: Mapping[str, str], account: str | None = None, image: bytes | None = None
    ) -> Reply:
        """Do an action. The reply also reports errors; the page then keeps its form.

        Args:
            action: The name of the pressed button, or ``open``.
            fields: The text fields of its form by name.
            account: The account that is logged in, if the site has accounts.
            image: The file that was chosen in the form; None without one.
        """


def build_app(
    study: StudyPage | None = None,
    trial: Page | None = None,
    accounts: Accounts | None = None,
    hosts: Hosts | None = None,
    framed: bool = False,
) -> Any:
    """The ASGI application of a site with at least one page.

    Args:
        study: The study's page, served at ``/``.
        trial: The page to try texts, served at ``/try`` if there is a study, else at ``/``.
        accounts: The accounts that may log in; None admits everybody.
        hosts: The names by which clients may address the site; by default those of this machine alone.
        framed: Whether other sites may show the pages in a frame.
    """
    app: Any = FastAPI(openapi_url=None)
    app.add_exception_handler(RefusedError, _refused)
    both = study is not None and trial is not None
    images_at = None
    if trial is not None:
        images_at = "/try/" if both else "/"
        _add(app, images_at, _Desk(trial, Lane(at_once=2, waiting=16)), "", both)
    if both:
        app.add_route("/try", lambda _: RedirectResponse("/try/"))
    if study is not None:
        _add(app, "/", _Desk(study, Lane(at_once=8, waiting=256)), study.mark, both)
    return Guard(app, accounts, framed, images_at, hosts or Hosts())


async def _refused(_: Request, error: RefusedError) -> Response:
    return PlainTextResponse(error.reason, error.status)


class _Desk:
    """Takes a page's actions. To open it, and to read images, there are threads of their own.

    So the page opens while others compute, and no image holds up those who send none.

    Args:
        page: The page that answers the actions.
        work: Threads for all other actions.
    """

    def __init__(self, page: Page, work: Lane) -> None:
        self._page, self._work = page, work
        self._opening, self._images = Lane(at_once=4, waiting=256), Lane(at_once=2, waiting=8)

    async def answer(self, request: Request) -> Response:
        """The page's reply to an action, as JSON. Raises as :meth:`values`."""
        event = _Event.of(await request.body())
        reply = await _unless_gone(request, self._work_on(request, event))
        return Response(json.dumps(reply.to_dict()), media_type="application/json")

    async def values(self, request: Request, fields: Mapping[str, str], image: bytes) -> Reply:
        """The page's reply to a program, which listens as long as it wants one.

        Raises:
            RefusedError: Too much work waits, or the request cannot be used.
        """
        return await self._work_on(request, _Event("values", fields, image))

    async def _work_on(self, request: Request, event: _Event) -> Reply:
        lane = self._work if event.image is None else self._images
        if event.action.partition(":")[0] in _OPENING:
            lane = self._opening
        account = request.headers.get(ACCOUNT_HEADER.decode())
        return await lane.run(self._reply, event, account and account.encode("latin-1").decode())

    def _reply(self, event: _Event, account: str | None) -> Reply:
        try:
            return self._page.act(event.action, event.fields, account, event.image)
        except Exception:  # noqa: BLE001 - whatever happened, the page keeps its form
            _log.exception("a page's action %r failed", event.action)
            return problem(_SORRY)


@dataclass(frozen=True)
class _Event:
    """What somebody did on a page."""

    action: str
    fields: Mapping[str, str]
    image: bytes | None

    @classmethod
    def of(cls, body: bytes) -> _Event:
        """The event in a request: a line of JSON and, if an image was chosen, its bytes.

        Raises:
            RefusedError: The JSON is too large, or not what the page's script sends.
        """
        head, newline, image = body.partition(b"\n")
        if len(head) > MAX_FORM:
            raise RefusedError(413)
        match json_of(head):
            case {"action": str(action), "fields": dict(fields)} if all(
                isinstance(value, str) for value in fields.values()
            ):
                texts = {whole(name): whole(value) for name, value in fields.items()}
                return cls(whole(action)[:_LONGEST_ACTION], texts, image if newline else None)
        raise RefusedError(400)


async def _unless_gone(request: Request, work: Any) -> Reply:
    """The result of ``work``; drops it when the client goes away, so that nobody waits behind it."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise RefusedError(408)
        result: Reply = task.result()
        return result
    finally:
        task.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _add(app: FastAPI, path: str, desk: _Desk, mark: str, both: bool) -> None:
    """Add a page to the site.

    Args:
        app: The site.
        path: The page's path, with a slash at its end.
        desk: What answers its actions.
        mark: The study's mark; blank for the page to try texts.
        both: Whether the site has both pages, with links between them.
    """
    with gr.Blocks(title="descscore", analytics_enabled=False) as blocks:
        gr.HTML(
            html_template=render("skeleton.html", study=mark, both=both),
            js_on_load=asset("annotator.js") + asset("study.js" if mark else "try.js"),
            apply_default_css=False,
        )
        if not mark:
            api(score, api_name=NAME)
    app.add_route(path + "act", desk.answer, methods=["POST"])
    if not mark:
        endpoint = Endpoint(desk.values)
        app.add_route(path + "gradio_api/upload", endpoint.upload, methods=["POST"])
        app.add_route(path + "gradio_api/queue/join", endpoint.join, methods=["POST"])
        app.add_route(path + "gradio_api/queue/data", endpoint.events, methods=["GET"])
    gr.mount_gradio_app(
        app,
        blocks,
        path=path.rstrip("/") or "/",
        theme=gr.themes.Base(font=_FONTS, font_mono=["monospace"]),
        css=asset("annotator.css"),
        head=f"{_HEAD}<style>{asset('frame.css')}</style>",
        footer_links=[],
        **_without_history(),
        show_error=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        max_file_size=1 if mark else MAX_BYTES,
        enable_monitoring=False,
    )


def _without_history() -> dict[str, bool]:
    """Option that stops browsers from keeping earlier runs, which Gradio has made them do since 6.24."""
    parameters = inspect.signature(gr.mount_gradio_app).parameters
    return {"run_history": False} if "run_history" in parameters else {}
