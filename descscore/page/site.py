"""Build the site that ``descscore serve`` serves, with one Gradio app per page.

Each app has one component and one event. The component holds plain HTML forms (``assets/page``) instead
of Gradio's inputs, because browsers and screen readers support plain forms best. Gradio serves the page,
transports the events, and limits the load by its queue. A request passes the :class:`Guard` and reaches
its page's ``act`` as an event. Then the page's script shows the :class:`Reply`.
"""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Mapping
from itertools import count
from typing import Any, Protocol

import gradio as gr
from fastapi import FastAPI
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import RedirectResponse

from descscore.page.guard import ACCOUNT_HEADER, Guard
from descscore.page.reply import FieldError, Reply, asset, render
from descscore.page.study_page import StudyPage
from descscore.study.accounts import Accounts

# Gradio reads these when it creates a page and its queue. They stop it from reporting usage, and from
# summing up all earlier events after each event.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = str(10**9)

_LONGEST_ACTION = 60
_FONTS = ["system-ui", "sans-serif"]
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]", "::1")
_HEAD = '<meta name="color-scheme" content="light">'
_SORRY = "Something went wrong here. What you filled in is kept; please tell the people who run this page."
_log = logging.getLogger(__name__)


class Page(Protocol):
    """A page: it answers events."""

    def act(self, action: str, fields: Mapping[str, str], account: str | None) -> Reply:
        """Do ``action`` with the form's ``fields``; ``account`` is logged in, if the site has accounts."""


def build_app(
    study: StudyPage | None = None,
    trial: Page | None = None,
    accounts: Accounts | None = None,
    local: bool = True,
    names: tuple[str, ...] = (),
    framed: bool = False,
) -> Any:
    """The ASGI application of a site with at least one page.

    Args:
        study: the study's page, served at ``/``.
        trial: the page to try texts, served at ``/try`` if there is a study, else at ``/``.
        accounts: the accounts that may log in; None admits everybody.
        local: whether to refuse requests from other machines.
        names: host names to accept as well, for which another server on this machine passes requests on.
        framed: whether other sites may show the pages in a frame.
    """
    app: Any = FastAPI(openapi_url=None)
    both = study is not None and trial is not None
    images_at = None
    if trial is not None:
        path = "/try" if both else "/"
        _mount(app, _blocks(trial, "", both, waiting=16, at_once=1), path)
        images_at = path.rstrip("/") + "/"
    if both:
        app.add_route("/try", lambda _: RedirectResponse("/try/"))
    if study is not None:
        _mount(app, _blocks(study, study.mark, both, waiting=256, at_once=8), "/")
    if local:
        app = TrustedHostMiddleware(app, allowed_hosts=[*_LOOPBACK, *names])
    return Guard(app, accounts, framed, images_at)


def _blocks(page: Page, mark: str, both: bool, waiting: int, at_once: int) -> gr.Blocks:
    """The Gradio app of a page.

    Args:
        page: the page that answers the events.
        mark: the study's mark; blank for the page to try texts.
        both: whether the site has both pages, with links between them.
        waiting: number of events that may wait.
        at_once: number of events that are answered at once.
    """
    serial = count(1)

    def answer(event: gr.EventData, request: gr.Request) -> dict[str, Any]:
        action, fields, ticket = _checked(event._data)
        reply = _reply(page, action, fields, request)
        # The serial number makes replies differ; Gradio does not show the same value twice.
        return reply.to_dict() | {"ticket": ticket, "serial": next(serial)}

    with gr.Blocks(title="descscore", analytics_enabled=False) as blocks:
        component = gr.HTML(
            value={"ticket": 0, "serial": 0},
            html_template=render("skeleton.html", study=mark, both=both),
            js_on_load=asset("annotator.js"),
            apply_default_css=False,
        )
        component.act(
            answer,
            outputs=component,
            show_progress="hidden",
            api_visibility="private",
            concurrency_limit=at_once,
            trigger_mode="multiple",
        )
    blocks.queue(max_size=waiting, api_open=False)
    return blocks


def _checked(data: Any) -> tuple[str, dict[str, str], int]:
    """Action, text fields and ticket number of an event; drops everything else."""
    data = data if isinstance(data, dict) else {}
    action, fields, ticket = data.get("action"), data.get("fields"), data.get("ticket")
    pairs = fields.items() if isinstance(fields, dict) else ()
    texts = {name: value for name, value in pairs if isinstance(name, str) and isinstance(value, str)}
    name = action[:_LONGEST_ACTION] if isinstance(action, str) else ""
    return name, texts, ticket if isinstance(ticket, int) else 0


def _reply(page: Page, action: str, fields: Mapping[str, str], request: gr.Request) -> Reply:
    account = request.headers.get(ACCOUNT_HEADER.decode())
    try:
        return page.act(action, fields, account and account.encode("latin-1").decode())
    except Exception:  # noqa: BLE001 - a page without an answer would wait for ever
        _log.exception("a page's action %r failed", action)
        return Reply(errors=(FieldError("", _SORRY),))


def _mount(app: FastAPI, blocks: gr.Blocks, path: str) -> None:
    gr.mount_gradio_app(
        app,
        blocks,
        path=path,
        theme=gr.themes.Base(font=_FONTS, font_mono=["monospace"]),
        css=asset("annotator.css"),
        head=_HEAD,
        footer_links=[],
        **_without_history(),
        show_error=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        max_file_size=1,
        enable_monitoring=False,
    )


def _without_history() -> dict[str, bool]:
    """Option that stops browsers from keeping earlier runs, which Gradio has made them do since 6.24."""
    parameters = inspect.signature(gr.mount_gradio_app).parameters
    return {"run_history": False} if "run_history" in parameters else {}
