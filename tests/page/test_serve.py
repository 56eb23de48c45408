"""What ``descscore serve`` and ``app.py`` make of their options."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import descscore.page.cli
from descscore.cli import main
from descscore.page.cli import ServeOptions, make_app
from descscore.study.accounts import write_account
from descscore.study.judgments import JudgmentStore
from page_client import PageClient, ask, serve
from study_tools import make_store, profile, write_items


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
        with_try=False,
    )
    app = make_app(options)
    for address in serve(app):
        login = {"Authorization": "Basic asO2cmc6YSBsb25nIHBhc3N3b3Jk", "Host": "study.example.org"}
        assert ask(address, "GET", "/config", login)[0] == 200
        assert ask(address, "GET", "/config", login | {"Host": "example.org"})[0] == 400
        assert ask(address, "GET", "/config", {"Host": "study.example.org"})[0] == 401
        assert PageClient(address, login).act("register", profile("Jo"))["code"] is None
        assert study.by_account("jörg").pseudonym == "Jo"


@pytest.mark.long
def test_a_study_alone_loads_no_model_and_no_torch(study: JudgmentStore) -> None:
    code = (
        "import sys; from pathlib import Path; from descscore.page.cli import ServeOptions, make_app; "
        f"make_app(ServeOptions(study=Path({str(study.path.parent / 'items.csv')!r}), "
        f"database=Path({str(study.path)!r}), with_try=False)); "
        "print(sorted({'torch', 'open_clip'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("texts", [1, 2])
def test_serving_says_when_sighted_annotators_will_have_seen_an_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], texts: int
) -> None:
    items = write_items(tmp_path, images=2, texts=texts)
    make_app(ServeOptions(study=items, database=tmp_path / "study.db", with_try=False))
    assert ("several descriptions of one image" in capsys.readouterr().err) == (texts > 1)


def test_serving_wrongly_says_so(tmp_path: Path) -> None:
    def run(*args: object) -> tuple[int, str]:
        result = CliRunner().invoke(main, ["serve", *map(str, args)])
        return result.exit_code, result.stderr

    assert run("--study", "items.csv") == (
        2,
        "Error: --study and --database belong together: give both or none\n",
    )
    assert run("--without-try")[0] == 2
    assert run("--port", "70000")[0] == 2
    store = make_store(tmp_path, images=1, texts=1)
    code, said = run("--port", 0, "--study", tmp_path / "none.csv", "--database", store.path)
    assert (code, "none.csv: No such file" in said) == (1, True)
    code, said = run("--port", 0, "--study", tmp_path / "items.csv", "--database", tmp_path / "items.csv")
    assert (code, "not a SQLite database" in said) == (1, True)
    code, said = run("--host", "nonesuch.invalid")
    assert (code, said.count("\n"), "cannot listen on nonesuch.invalid" in said) == (1, 1, True)


APP = Path(__file__).parents[2] / "app.py"


def options_of_app(monkeypatch: pytest.MonkeyPatch) -> ServeOptions:
    asked: list[ServeOptions] = []
    monkeypatch.setattr(descscore.page.cli, "run", asked.append)
    runpy.run_path(str(APP), run_name="__main__")
    return asked[0]


def test_by_default_only_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GRADIO_SERVER_NAME", "GRADIO_SERVER_PORT", "DESCSCORE_MODEL", "SPACE_HOST"):
        monkeypatch.delenv(name, raising=False)
    assert options_of_app(monkeypatch) == ServeOptions(framed=True)
    assert ServeOptions().host == "127.0.0.1"


def test_a_host_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")
    monkeypatch.setenv("GRADIO_SERVER_PORT", "7999")
    monkeypatch.setenv("DESCSCORE_MODEL", "base")
    monkeypatch.setenv("SPACE_HOST", "a-b.hf.space")
    assert options_of_app(monkeypatch) == ServeOptions(
        host="0.0.0.0", port=7999, model="base", framed=True, names=("a-b.hf.space",)
    )


def test_host_names_are_checked_also_on_all_addresses(study: JudgmentStore) -> None:
    options = ServeOptions(
        host="0.0.0.0",
        study=study.path.parent / "items.csv",
        database=study.path,
        names=("study.example.org",),
        with_try=False,
    )
    for address in serve(make_app(options)):
        for host, status in (
            ("study.example.org", 200),
            ("192.168.1.7:7860", 200),
            ("localhost", 200),
            ("example.org", 400),
            ("study.example.org.example.net", 400),
        ):
            assert ask(address, "GET", "/config", {"Host": host})[0] == status
        assert b"--name" in ask(address, "GET", "/", {"Host": "example.org"})[1]


@pytest.mark.long  # a new process imports gradio
def test_gradio_gets_a_folder_that_only_this_user_can_read() -> None:
    code = (
        "from pathlib import Path; import descscore.page.site; from gradio.utils import get_upload_folder; "
        "folder = Path(get_upload_folder()); status = folder.stat(); "
        "print(folder, oct(status.st_mode & 0o777), status.st_uid)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    folder, mode, owner = done.stdout.split()
    assert (mode, int(owner)) == ("0o700", os.geteuid())
    assert not Path(folder).exists()
