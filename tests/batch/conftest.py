"""What tests of the batch scorer share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for a data set that ``datasets`` loads, with a cache of its own."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    return tmp_path / "set"
