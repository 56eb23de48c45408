"""The judgments' database: concurrent writers, kills, full and read-only disks, deletion."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import datetime, tzinfo
from functools import partial
from pathlib import Path

import pytest

import descscore.study.database as database
import descscore.study.judgments as judgments
from descscore.errors import DataError, StorageError, UsageError
from descscore.study.database import connection
from descscore.study.items import read_items
from descscore.study.judgments import JudgmentStore, Profile
from descscore.study.questions import AFTER, BEFORE, NO_IMAGE
from study_tools import IMAGES, TEXTS, answers, judge_all, make_store, ratings, register, write_items

JUDGMENTS = 50

WRITER = """
import sys
from pathlib import Path
from descscore.study.judgments import JudgmentStore
from descscore.study.judgments import Profile

path, name = Path(sys.argv[1]), sys.argv[2]
store = JudgmentStore(path)
annotator, code = store.register(Profile(name, "blind", "always", "I agree."))
sys.stdin.readline()  # all start at once
for place, item in enumerate(store.order(annotator)):
    store.save(annotator, item, "none", {
        "overall": 1 + place % 5, "imaginability": 2, "relevance": 3, "irrelevance": 1 + int(name) % 5
    })
    print(item, flush=True)
"""


def writer(store: JudgmentStore, name: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(store.path), str(name)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("number", "count"), [(2, 10), pytest.param(8, 50, marks=pytest.mark.long)])
def test_writers_at_once_lose_and_double_nothing(tmp_path: Path, number: int, count: int) -> None:
    store = make_store(tmp_path, images=count, texts=1)
    writers = [writer(store, name) for name in range(number)]
    for process in writers:
        process.stdin.write("\n")
        process.stdin.flush()
    with database.connection(store.path):  # somebody reads meanwhile, too
        said = [process.communicate(timeout=120)[0].split() for process in writers]
    assert [process.returncode for process in writers] == [0] * number
    kept = store.judgments()
    assert len(kept) == number * count
    for name in range(number):
        mine = [judgment for judgment in kept if judgment.pseudonym == str(name)]
        assert [judgment.item for judgment in mine] == said[name]
        assert len(set(said[name])) == count
        assert [judgment.ratings["overall"] for judgment in mine] == [1 + p % 5 for p in range(count)]
        assert {judgment.ratings["irrelevance"] for judgment in mine} == {1 + name % 5}


@pytest.mark.long
def test_a_killed_writer_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    store = make_store(tmp_path, images=JUDGMENTS, texts=1)
    process = writer(store, 3)
    process.stdin.write("\n")
    process.stdin.flush()
    said = [process.stdout.readline().strip() for _ in range(JUDGMENTS // 2)]
    os.kill(process.pid, signal.SIGKILL)
    said += process.stdout.read().split()
    assert process.wait() == -signal.SIGKILL
    kept = [judgment.item for judgment in store.judgments()]
    assert kept[: len(said)] == said
    assert len(kept) <= len(said) + 1  # one may have been kept without its word having come
    again = store.by_pseudonym("3")
    judge_all(store, again)
    assert len(store.judgments()) == JUDGMENTS


def test_every_annotator_gets_every_item_once_in_an_order_of_their_own(tmp_path: Path) -> None:
    store = make_store(tmp_path, images=10, texts=2)
    orders = [store.order(register(store, f"p{number}")) for number in range(6)]
    items = {item.item for item in store.items()}
    assert all(set(order) == items and len(order) == len(items) for order in orders)
    assert len(set(orders)) == len(orders)
    assert store.order(store.by_pseudonym("P3")) == orders[3]


def test_saving_again_replaces_but_never_what_was_said_before_the_image(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    sighted, blind = register(store, "ann", "sighted"), register(store, "bo")
    item = store.order(sighted)[0]
    kept = []
    for overall in (2, 5):
        kept.append(store.save(sighted, item, BEFORE, ratings(overall, 3, 3, 3)))
        kept.append(store.save(sighted, item, AFTER, ratings(overall, None, 3, 3)))
        kept.append(store.save(blind, item, NO_IMAGE, ratings(overall, 3, 3, 3)))
    assert kept == [True, True, True, False, True, True]
    assert store.ratings(sighted) == {
        (item, BEFORE): ratings(2, 3, 3, 3),
        (item, AFTER): ratings(5, None, 3, 3),
    }
    assert store.ratings(blind) == {(item, NO_IMAGE): ratings(5, 3, 3, 3)}


class Clock(datetime):
    """A clock that stands on the first day of ``year``."""

    year_shown = 2031

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:
        return datetime(cls.year_shown, 1, 1, tzinfo=tz)


def test_a_clock_that_runs_backwards_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judgments, "datetime", Clock)
    store = make_store(tmp_path)
    annotator = register(store, "ann")
    order = store.order(annotator)
    for year, item in zip((2031, 2020, 2025), order[:3], strict=True):
        monkeypatch.setattr(Clock, "year_shown", year)
        store.save(annotator, item, NO_IMAGE, answers(year, NO_IMAGE))
    assert [judgment.item for judgment in store.judgments()] == list(order[:3])
    store.save(annotator, order[0], NO_IMAGE, answers(0, NO_IMAGE))  # saved again, years earlier
    assert store.ratings(annotator)[order[0], NO_IMAGE] == answers(0, NO_IMAGE)


@pytest.mark.parametrize(
    ("item", "phase", "ratings"),
    [
        ("0-0", NO_IMAGE, ratings(6, 3, 3, 3)),
        ("0-0", NO_IMAGE, ratings(0, 3, 3, 3)),
        ("0-0", NO_IMAGE, ratings(3, None, 3, 3)),
        ("0-0", AFTER, ratings(3, 3, 3, 3)),
        ("nonesuch", NO_IMAGE, ratings(3, 3, 3, 3)),
        ("0-0", "later", ratings(3, 3, 3, 3)),
    ],
)
def test_what_is_no_judgment_is_refused(
    tmp_path: Path, item: str, phase: str, ratings: dict[str, int]
) -> None:
    store = make_store(tmp_path)
    annotator = register(store, "ann")
    with pytest.raises(UsageError):
        store.save(annotator, item, phase, ratings)
    assert store.judgments() == []


def test_deletion_leaves_nothing_of_one_and_all_of_others(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    gone, stays = register(store, "Quillon-Zephyrine"), register(store, "bo", "sighted")
    for annotator in (gone, stays):
        judge_all(store, annotator)
    before = [judgment for judgment in store.judgments() if judgment.pseudonym == "bo"]
    assert store.delete(gone) == len(store.order(stays))
    assert store.judgments() == before
    assert store.by_pseudonym("Quillon-Zephyrine") is None
    assert store.order(gone) == ()
    for file in tmp_path.glob("study.db*"):
        assert b"quillon" not in file.read_bytes().lower()
    with pytest.raises(UsageError):
        store.save(gone, "0-0", NO_IMAGE, answers(0, NO_IMAGE))
    assert register(store, "Quillon-Zephyrine").number not in (gone.number, stays.number)


def test_the_same_study_goes_on_and_another_is_refused(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    annotator = register(store, "ann")
    judge_all(store, annotator)
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "photos", moved / "photos")
    items = read_items(Path(shutil.copy(tmp_path / "items.csv", moved)))
    again = JudgmentStore.for_study(store.path, items)
    assert len(again.judgments()) == len(items)
    assert {item.image.parent for item in again.items()} == {moved / "photos"}
    with pytest.raises(StorageError, match="made for 12 items, but there are 10"):
        JudgmentStore.for_study(store.path, read_items(write_items(tmp_path / "fewer", images=5)))
    changed = list(items)
    changed[0] = type(items[0])(**(vars(items[0]) | {"description": "Another."}))
    with pytest.raises(StorageError, match="'0-0' then, '0-0' now, differ"):
        JudgmentStore.for_study(store.path, changed)


def test_other_files_are_not_taken_for_a_study(tmp_path: Path) -> None:
    items = read_items(write_items(tmp_path))
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as opened:
        opened.execute("CREATE TABLE addresses (name TEXT)")
    text = tmp_path / "notes.db"
    text.write_text("not a database, but long enough to be read as the header of one. " * 20)
    for path, reason in ((other, "of another program"), (text, "not a SQLite database")):
        before = path.read_bytes()
        with pytest.raises(StorageError, match=reason):
            JudgmentStore.for_study(path, items)
        with pytest.raises(StorageError, match=reason):
            JudgmentStore(path).judgments()
        assert path.read_bytes() == before
    with pytest.raises(StorageError, match="no such database"):
        JudgmentStore(tmp_path / "none.db").judgments()
    assert not (tmp_path / "none.db").exists()
    with pytest.raises(StorageError, match="no folder"):
        JudgmentStore.for_study(tmp_path / "nowhere" / "study.db", items)


def test_the_journal_is_a_write_ahead_log_and_every_write_a_transaction(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    with sqlite3.connect(store.path) as opened:
        assert opened.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert opened.execute("PRAGMA user_version").fetchone() == (len(database.MIGRATIONS),)
    annotator = register(store, "ann")

    def fail_in_the_middle() -> None:
        with database.transaction(store.path) as inside:
            assert inside.execute("PRAGMA synchronous").fetchone() == (2,)  # at each commit, on the disk
            inside.execute("DELETE FROM annotators")
            raise KeyError

    with pytest.raises(KeyError):
        fail_in_the_middle()
    assert store.by_pseudonym("ann") == annotator
    assert len(store.order(annotator)) == IMAGES * TEXTS


def test_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(tmp_path)
    judge_all(store, register(store, "ann"))
    kept = store.judgments()
    later = (*database.MIGRATIONS, "ALTER TABLE annotators ADD COLUMN language TEXT")
    with monkeypatch.context() as patch:
        patch.setattr(database, "MIGRATIONS", later)
        with pytest.raises(StorageError, match="of an older version; 'descscore serve' updates it"):
            store.judgments()
        again = JudgmentStore.for_study(store.path, store_items(tmp_path))
        assert again.judgments() == kept
    with pytest.raises(StorageError, match=r"newer descscore \(version 3; this one knows up to 2\)"):
        store.judgments()


def store_items(folder: Path) -> tuple[object, ...]:
    return read_items(folder / "items.csv")


def test_a_full_disk_says_so_and_keeps_what_there_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path)
    annotator = register(store, "ann")
    first, second = store.order(annotator)[:2]
    store.save(annotator, first, NO_IMAGE, ratings(1, 2, 3, 4))
    real = sqlite3.connect

    def full(*args: object, **kwargs: object) -> sqlite3.Connection:
        opened = real(*args, **kwargs)
        opened.execute("PRAGMA max_page_count = 1")  # at most what there is already
        return opened

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", full)
        with pytest.raises(StorageError, match=r"nothing was saved: the disk is full"):
            store.register(Profile("x" * 200_000, "blind", "always", "I agree."))
    assert store.by_pseudonym("x" * 200_000) is None
    store.save(annotator, second, NO_IMAGE, ratings(1, 2, 3, 4))
    assert len(store.judgments()) == 2


def in_child(work: Callable[[], None]) -> str:
    """What ``work`` raises in a child process, which may give up its rights for good."""
    reader, writer_end = os.pipe()
    child = os.fork()
    if not child:
        try:
            work()
            said = "nothing was raised"
        except StorageError as error:
            said = str(error)
        except BaseException as error:  # noqa: BLE001 - the parent's assertion shows it
            said = repr(error)
        os.write(writer_end, said.encode())
        os._exit(0)
    os.close(writer_end)
    os.waitpid(child, 0)
    with os.fdopen(reader) as stream:
        return stream.read()


def test_a_disk_that_takes_no_more_bytes(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    annotator = register(store, "ann")
    item = store.order(annotator)[0]

    def write_beyond_the_limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        store.save(annotator, item, NO_IMAGE, ratings(1, 2, 3, 4))

    assert "nothing was saved" in in_child(write_beyond_the_limit)
    assert store.judgments() == []
    store.save(annotator, item, NO_IMAGE, ratings(1, 2, 3, 4))
    assert len(store.judgments()) == 1


def test_a_read_only_folder_says_so() -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's folders are closed to other users
        folder = Path(name)
        folder.chmod(0o755)
        store = make_store(folder)
        annotator = register(store, "ann")
        item = store.order(annotator)[0]
        store.path.chmod(0o444)
        folder.chmod(0o555)

        def write_as_nobody() -> None:
            if os.geteuid() == 0:
                os.setuid(65534)
            store.save(annotator, item, NO_IMAGE, ratings(1, 2, 3, 4))

        said = in_child(write_as_nobody)
        assert "read-only" in said
        assert str(store.path) in said
        folder.chmod(0o755)


def test_a_full_disk_after_a_deletion_does_not_undo_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path)
    annotator = register(store, "ann")
    judge_all(store, annotator)
    asked: list[str] = []

    class FullDisk(sqlite3.Connection):
        def execute(self, sql: str, *values: object) -> sqlite3.Cursor:
            if "wal_checkpoint" in sql:
                asked.append(sql)
                raise sqlite3.OperationalError("database or disk is full")
            return super().execute(sql, *values)

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=FullDisk))
        assert store.delete(annotator) == IMAGES * TEXTS
    assert len(asked) == 1
    assert store.judgments() == []


def test_only_the_owner_can_read_a_study(tmp_path: Path) -> None:
    """Also its journals, which hold what was said last, and a study made with other permissions."""
    before = os.umask(0)
    try:
        store = make_store(tmp_path, images=1, texts=1)
        with connection(store.path) as reader:  # keeps the journals
            reader.execute("SELECT count(*) FROM items").fetchone()
            judge_all(store, register(store, "Ann"))
            files = sorted(tmp_path.glob("study.db*"))
            assert [path.name for path in files] == ["study.db", "study.db-shm", "study.db-wal"]
            assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    finally:
        os.umask(before)
    store.path.chmod(0o644)
    JudgmentStore.for_study(store.path, store.items())
    assert store.path.stat().st_mode & 0o777 == 0o600


def test_a_study_where_everybody_could_replace_it_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    items = make_store(tmp_path, images=1, texts=1).items()
    with pytest.raises(DataError, match="every user could replace it"):
        JudgmentStore.for_study(folder / "study.db", items)
    assert list(folder.iterdir()) == []
