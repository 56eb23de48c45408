"""``app.py``: listens where a host says."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

import descscore.page.cli
from descscore.page.cli import ServeOptions

APP = Path(__file__).parents[1] / "app.py"


def served(monkeypatch: pytest.MonkeyPatch) -> ServeOptions:
    asked: list[ServeOptions] = []
    monkeypatch.setattr(descscore.page.cli, "run", asked.append)
    runpy.run_path(str(APP), run_name="__main__")
    return asked[0]


def test_by_default_only_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GRADIO_SERVER_NAME", "GRADIO_SERVER_PORT", "DESCSCORE_MODEL"):
        monkeypatch.delenv(name, raising=False)
    assert served(monkeypatch) == ServeOptions(framed=True)
    assert ServeOptions().host == "127.0.0.1"


def test_a_host_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")
    monkeypatch.setenv("GRADIO_SERVER_PORT", "7999")
    monkeypatch.setenv("DESCSCORE_MODEL", "base")
    assert served(monkeypatch) == ServeOptions(host="0.0.0.0", port=7999, model="base", framed=True)
