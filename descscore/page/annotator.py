"""The pages as Gradio apps: each is one component with markup of our own, and one event.

Own markup (``assets/page``) and not Gradio's inputs, so that labels, groups, errors and
focus are what browsers and screen readers know best: plain HTML forms. Gradio serves the
page, carries the events, and bounds the load by its queue.
"""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeAlias

import gradio as gr
from fastapi import FastAPI
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import RedirectResponse

from descscore.page.accounts import Accounts
from descscore.page.guard import ACCOUNT_HEADER, Guard
from descscore.page.study_page import StudyPage
from descscore.page.templates import FieldError, Reply, asset, render
from descscore.page.try_page import TryPage

# Read when gradio is imported, or makes a queue: it reports to nobody, and does not sum up all
# events so far after each.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = str(10**9)

Act: TypeAlias = "Callable[[str, Mapping[str, str], str | None], Reply]"

_LONGEST_ACTION = 60
_FONTS = ["system-ui", "sans-serif"]
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]", "::1")
_SORRY = "Something went wrong here. What you filled in is kept; please tell the people who run this page."
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Site:
    """Which pages there are and who may see them.

    study, trial: the pages; at least one. accounts: who may come in, None for everybody.
    local: whether only this machine may ask. names: host names that the page is asked for by
    nevertheless, because a server on this machine hands requests on. framed: whether other
    sites may show it.
    """

    study: StudyPage | None = None
    trial: TryPage | None = None
    accounts: Accounts | None = None
    local: bool = True
    names: tuple[str, ...] = ()
    framed: bool = False


def build_app(site: Site) -> Any:
    """The ASGI application of a site: a study at ``/`` and the page to try at ``/try``, or that alone."""
    app: Any = FastAPI(openapi_url=None)
    both = site.study is not None and site.trial is not None
    images_at = None
    if site.trial is not None:
        trial, path = site.trial, "/try" if both else "/"
        blocks = _blocks("", both, lambda action, fields, _: trial.act(action, fields), _Load(16, 1))
        _mount(app, blocks, path)
        images_at = path.rstrip("/") + "/"
    if both:
        app.add_route("/try", lambda _: RedirectResponse("/try/"))
    if site.study is not None:
        _mount(app, _blocks(site.study.mark, both, site.study.act, _Load(256, 8)), "/")
    if site.local:
        app = TrustedHostMiddleware(app, allowed_hosts=[*_LOOPBACK, *site.names])
    return Guard(app, site.accounts, site.framed, images_at)


@dataclass(frozen=True)
class _Load:
    """How many events may wait, and how many are worked on at once."""

    waiting: int
    at_once: int


def _blocks(study: str, both: bool, act: Act, load: _Load) -> gr.Blocks:
    """study: its mark, blank for the page to try. both: whether there are two pages."""
    serial = count(1)

    def answer(event: gr.EventData, request: gr.Request) -> dict[str, Any]:
        action, fields, ticket = _checked(event._data)
        reply = _reply(act, action, fields, request)
        # Without the serial number, the same answer twice would be no change, and not shown.
        return reply.to_dict() | {"ticket": ticket, "serial": next(serial)}

    with gr.Blocks(title="descscore", analytics_enabled=False) as blocks:
        component = gr.HTML(
            value={"ticket": 0, "serial": 0},
            html_template=render("skeleton.html", study=study, both=both),
            js_on_load=asset("annotator.js"),
            apply_default_css=False,
        )
        component.act(
            answer,
            outputs=component,
            show_progress="hidden",
            api_visibility="private",
            concurrency_limit=load.at_once,
            trigger_mode="multiple",
        )
    blocks.queue(max_size=load.waiting, api_open=False)
    return blocks


def _reply(act: Act, action: str, fields: Mapping[str, str], request: gr.Request) -> Reply:
    account = request.headers.get(ACCOUNT_HEADER.decode())
    try:
        return act(action, fields, account and account.encode("latin-1").decode())
    except Exception:  # noqa: BLE001 - a page that is not answered would wait for ever
        _log.exception("a page's action %r failed", action)
        return Reply(errors=(FieldError("", _SORRY),))


def _checked(data: Any) -> tuple[str, dict[str, str], int]:
    """Action, text fields and number of an event; anything else in it is dropped."""
    data = data if isinstance(data, dict) else {}
    action, fields = data.get("action"), data.get("fields")
    texts = fields.items() if isinstance(fields, dict) else ()
    kept = {name: value for name, value in texts if isinstance(name, str) and isinstance(value, str)}
    ticket = data.get("ticket")
    name = action[:_LONGEST_ACTION] if isinstance(action, str) else ""
    return name, kept, ticket if isinstance(ticket, int) else 0


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
    """Switch off what a browser would keep of earlier runs, which Gradio has since 6.24."""
    known = inspect.signature(gr.mount_gradio_app).parameters
    return {"run_history": False} if "run_history" in known else {}


_HEAD = '<meta name="color-scheme" content="light">'
