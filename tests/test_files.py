"""Files that are whole at any moment, whatever happens while they are written."""

from __future__ import annotations

import os
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from descscore.errors import DataError
from descscore.files import UNFINISHED, atomic_write, check_place, locked, open_regular, remove_unfinished


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_its_place_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("old")
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert list(tmp_path.glob("*.csv")) == [path]
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.csv"]


def test_an_error_in_the_block_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.csv"]


def test_a_link_to_the_file_itself_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("old")
    with atomic_write(path) as temporary:
        os.link(path, temporary)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.csv"]


def test_a_file_never_replaces_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "scores.csv"
    folder.mkdir()
    (folder / "mine.txt").write_text("old")
    with pytest.raises(DataError, match=r"scores\.csv"), atomic_write(folder) as temporary:
        temporary.write_text("new")
    assert names(folder) == ["mine.txt"]
    assert names(tmp_path) == ["scores.csv"]


def test_a_file_in_place_of_a_folder_is_an_error_that_names_the_wanted_file(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("a photo")
    path = tmp_path / "photo.jpg" / "page.html"
    message = r"photo\.jpg/page\.html: cannot be written"
    with pytest.raises(DataError, match=message), atomic_write(path) as temporary:
        temporary.write_text("new")


KILLED = """
import os, signal, sys
from pathlib import Path
from descscore.files import atomic_write

with atomic_write(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("old", [None, "old"])
def test_a_kill_leaves_the_old_file_or_none(old: str | None, tmp_path: Path) -> None:
    """And what it leaves half written is not taken for a result, and is removed on request."""
    path = tmp_path / "a.csv"
    if old is not None:
        path.write_text(old)
    before = names(tmp_path)
    done = subprocess.run([sys.executable, "-c", KILLED, path], check=False)
    assert done.returncode == -signal.SIGKILL
    assert list(tmp_path.glob("*.csv")) == [tmp_path / name for name in before]
    assert (path.read_text() if path.exists() else None) == old
    (left,) = tmp_path.glob(f"{UNFINISHED}*")
    remove_unfinished(tmp_path, older_than=60)
    assert left.exists()
    os.utime(left, (time.time() - 100, time.time() - 100))
    remove_unfinished(tmp_path, older_than=60)
    assert names(tmp_path) == before


def test_permissions_are_those_of_a_new_file_or_as_asked_for(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        with atomic_write(tmp_path / "public") as temporary:
            temporary.write_text("all")
        with atomic_write(tmp_path / "weights") as temporary:
            temporary.touch(mode=0o600)  # as safetensors writes its files
        with atomic_write(tmp_path / "secret", mode=0o600) as temporary:
            assert stat.S_IMODE(temporary.stat().st_mode) == 0o600
            temporary.write_text("mine")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "public").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "weights").stat().st_mode) == 0o640
    assert names(tmp_path) == ["public", "secret", "weights"]
    assert stat.S_IMODE((tmp_path / "secret").stat().st_mode) == 0o600


@contextmanager
def full_disk() -> Iterator[None]:
    """A limit on file sizes stands in for the full disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, old[1]))
    try:
        yield
    finally:  # before pytest writes to a log that is longer
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("old")
    message = r"a\.csv: cannot be written \(.*File too large"
    with full_disk(), pytest.raises(DataError, match=message), atomic_write(path) as temporary:
        temporary.write_bytes(bytes(1000))
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.csv"]


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "none" / "a.csv"
    with pytest.raises(DataError, match=r"a\.csv: cannot be written"):  # noqa: SIM117
        with atomic_write(path) as temporary:
            temporary.write_text("new")


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "step-1"
    folder.mkdir()
    (folder / "old").touch()
    with pytest.raises(ZeroDivisionError), atomic_write(folder) as temporary:  # noqa: PT012
        (temporary / "half").mkdir(parents=True)
        (temporary / f"half {1 / 0}").touch()
    assert names(folder) == ["old"]
    with atomic_write(folder) as temporary:
        (temporary / "below").mkdir(parents=True)
        (temporary / "below" / "new").write_text("new")
    assert names(folder) == ["below"]
    assert (folder / "below" / "new").read_text() == "new"
    assert names(tmp_path) == ["step-1"]


def test_one_holder_of_a_folder_at_a_time(tmp_path: Path) -> None:
    with (
        locked(tmp_path),
        pytest.raises(DataError, match="another run is writing here; try later"),
        locked(tmp_path, "try later"),
    ):
        pass
    with locked(tmp_path):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file: cannot be locked"), locked(tmp_path / "file"):
        pass


def test_an_unfinished_file_that_somebody_replaces_is_not_taken(tmp_path: Path) -> None:
    """As another user could who may write to the folder: their file would be taken for this one."""
    path, other = tmp_path / "accounts", tmp_path / "theirs"
    other.write_text("theirs")
    for replace in (os.rename, os.symlink):
        with pytest.raises(DataError, match="replaced"), atomic_write(path, 0o600) as temporary:  # noqa: PT012
            temporary.unlink()
            replace(other, temporary)
            other.touch()
        assert not path.exists()


OTHER = 12345
"""Number of a user who is not this one."""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o700)
    yield folder
    folder.chmod(0o700)


def owned_by(monkeypatch: pytest.MonkeyPatch, *paths: Path) -> None:
    """Let these files belong to another user, whatever rights the tests have."""
    real = Path.stat

    def stat_of(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        found = real(path, follow_symlinks=follow_symlinks)
        values = list(found)
        values[4] = OTHER if path in paths else found.st_uid
        return os.stat_result(values)

    monkeypatch.setattr(Path, "stat", stat_of)


def test_a_private_place_is_fine(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "mine").touch()
    for path in (folder / "mine", folder / "new", folder / "missing" / "new"):
        check_place(path)
    folder.chmod(0o1777)  # as /tmp: others may add files, but not replace this one
    check_place(folder / "mine")
    folder.chmod(0o755)
    check_place(folder / "mine")
    assert caplog.text == ""


def test_a_place_where_everybody_could_replace_the_file_is_refused(folder: Path) -> None:
    folder.chmod(0o777)
    with pytest.raises(DataError, match=r"study\.db.*every user could replace it"):
        check_place(folder / "study.db")


def test_a_file_of_another_user_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "study.db").touch()
    owned_by(monkeypatch, folder / "study.db")
    with pytest.raises(DataError, match=r"study\.db: belongs to another user"):
        check_place(folder / "study.db")


def test_a_folder_of_others_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        owned_by(patch, folder)
        check_place(folder / "study.db")
    assert f"{folder / 'study.db'}: its folder belongs to another user" in caplog.text
    caplog.clear()
    folder.chmod(0o770)
    monkeypatch.setattr(os, "getegid", lambda: OTHER)
    check_place(folder / "study.db")
    assert "its folder belongs to a group" in caplog.text


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"here")
    (tmp_path / "link").symlink_to("file")
    for name in ("pipe", "", "none"):
        with pytest.raises(OSError, match=r"not a regular file|No such file"):
            open_regular(tmp_path / name)
    with pytest.raises(OSError, match="not a regular file"):
        open_regular("/dev/null")
    for name in ("file", "link"):
        with open_regular(tmp_path / name) as file:
            assert (file.read(), file.name) == (b"here", str(tmp_path / name))
