"""What ``descscore serve`` makes of its options, over HTTP."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from descscore.page.accounts import write_account
from descscore.page.cli import ServeOptions, make_app
from descscore.study.judgments import JudgmentStore
from page_client import PageClient, ask, serve
from study_tools import make_store, write_items


@pytest.fixture
def study(tmp_path: Path) -> JudgmentStore:
    return make_store(tmp_path, images=2, texts=1)


def test_a_name_that_is_passed_on_and_accounts_in_any_script(study: JudgmentStore, tmp_path: Path) -> None:
    write_account(tmp_path / "accounts", "jörg", "a long password")
    options = ServeOptions(
        study=study.path.parent / "items.csv",
        database=study.path,
        accounts=tmp_path / "accounts",
        names=("study.example.org",),
        without_try=True,
    )
    app = make_app(options)
    for address in serve(app):
        login = {"Authorization": "Basic asO2cmc6YSBsb25nIHBhc3N3b3Jk", "Host": "study.example.org"}
        assert ask(address, "GET", "/config", login)[0] == 200
        assert ask(address, "GET", "/config", login | {"Host": "example.org"})[0] == 400
        assert ask(address, "GET", "/config", {"Host": "study.example.org"})[0] == 401
        profile = {"pseudonym": "Jo", "vision": "blind", "screen_reader": "often", "consent": "yes"}
        assert PageClient(address, login).act("register", profile)["code"] is None
        assert study.by_account("jörg").pseudonym == "Jo"


def test_a_study_alone_loads_no_model_and_no_torch(study: JudgmentStore) -> None:
    code = (
        "import sys; from pathlib import Path; from descscore.page.cli import ServeOptions, make_app; "
        f"make_app(ServeOptions(study=Path({str(study.path.parent / 'items.csv')!r}), "
        f"database=Path({str(study.path)!r}), without_try=True)); "
        "print(sorted({'torch', 'open_clip'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("texts", [1, 2])
def test_serving_says_when_sighted_annotators_will_have_seen_an_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], texts: int
) -> None:
    items = write_items(tmp_path, images=2, texts=texts)
    make_app(ServeOptions(study=items, database=tmp_path / "study.db", without_try=True))
    assert ("several descriptions of one image" in capsys.readouterr().err) == (texts > 1)
