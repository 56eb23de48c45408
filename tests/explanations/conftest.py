"""What tests of explanations share: a small model with a purpose subspace, and explanations by it."""

from __future__ import annotations

from pathlib import Path

import pytest
from explained import TEXTS, explained_adapter

from descscore import DescScorer
from descscore.explanations.explainer import ExplainOptions, explain_batch
from descscore.explanations.explanation import Explanation
from pictures import make_photo


@pytest.fixture(scope="module")
def adapter(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return explained_adapter(tiny_folder, tmp_path_factory.mktemp("adapter"))


@pytest.fixture(scope="module")
def scorer(adapter: Path) -> DescScorer:
    return DescScorer.from_pretrained(adapter, device="cpu", text_policy="truncate")


@pytest.fixture(scope="module")
def plain(tiny_folder: Path) -> DescScorer:
    return DescScorer.from_pretrained(tiny_folder, device="cpu")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photo(tmp_path_factory.mktemp("photos") / "a <b> & c.png", 0)


@pytest.fixture(scope="module")
def explanations(scorer: DescScorer, image: Path) -> list[Explanation]:
    options = ExplainOptions(source=TEXTS[1], where=True)
    return explain_batch([image] * 3, TEXTS, scorer, options)
