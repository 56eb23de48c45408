"""Write files in one step and where nobody else can replace them, and let one process write to a folder.

Unfinished files of a killed process have names that start with :data:`UNFINISHED` and end in ``.part``, so
no search for results finds them.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from descscore.errors import DataError

UNFINISHED = ".unfinished-"
LOCK_FILE = ".lock"
_log = logging.getLogger(__name__)
MOST_SETTINGS = 1 << 20
"""Bytes of the largest file of settings that is read."""


@contextlib.contextmanager
def atomic_write(path: Path, mode: int | None = None) -> Iterator[Path]:
    """Replace a file or a folder in one step.

    The block writes a temporary file, or a temporary folder, next to ``path``. If the block ends without
    an error, the temporary file is flushed to the disk and replaces ``path``. Otherwise it is removed, and
    ``path`` does not change. So other processes, and runs after a kill, see the old or the new content and
    never a part. (An old folder, unlike an old file, is missing for a moment.)

    Args:
        path: what to replace; its folder must exist.
        mode: permissions that the file has from the start, such as 0o600; by default those of any new
            file.

    Yields:
        The temporary path to write.

    Raises:
        DataError: if the path cannot be written; with the path and the reason. Other errors of the block
            are not changed.
    """
    temporary = path.parent / f"{UNFINISHED}{secrets.token_hex(8)}.part"
    created: int | None = None
    try:
        if mode is not None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            created = os.open(temporary, flags, mode)
        yield temporary
        # The descriptor is still open, so no other file can have its number.
        if created is not None and not os.path.samestat(os.fstat(created), os.lstat(temporary)):
            raise OSError("another program has replaced the unfinished file")
        if mode is None and temporary.is_file():
            _open_to_others(temporary)
        for part in [temporary, *temporary.rglob("*")]:
            _flush(part)
        if path.is_dir() and temporary.is_dir():
            shutil.rmtree(path)
        os.replace(temporary, path)
        with contextlib.suppress(OSError):  # not every file system can flush a folder
            _flush(path.parent)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error})") from error
    finally:
        if created is not None:
            os.close(created)
        # Also after success: to put a link to a file in the place of that file moves nothing.
        with contextlib.suppress(OSError):
            _remove(temporary)


def _open_to_others(temporary: Path) -> None:
    """Give a private file the permissions of any new file. safetensors makes all of its files private."""
    if stat.S_IMODE(temporary.stat().st_mode) == 0o600:
        new = temporary.with_suffix(".new")
        new.touch(exist_ok=False)
        temporary.chmod(stat.S_IMODE(new.stat().st_mode))
        new.unlink()


def check_place(path: Path) -> None:
    """Check that no other user can read or replace a private file at ``path``.

    A folder in which some other users may write is only logged, because the user may share it on purpose.

    Raises:
        DataError: The file belongs to another user, or every user may replace it.
    """
    try:
        folder = path.parent.stat()
    except OSError:
        return  # writing the file then raises the exact error
    user, mode = os.geteuid(), folder.st_mode
    with contextlib.suppress(OSError):
        if path.lstat().st_uid != user:
            raise DataError(f"{path}: belongs to another user, who could read and change it")
    if mode & stat.S_ISVTX:  # as in /tmp: others may add files, but not replace this one
        return
    if mode & stat.S_IWOTH:
        raise DataError(f"{path}: every user could replace it, because all may write to {path.parent}")
    if folder.st_uid not in (user, 0):
        _log.warning("%s: its folder belongs to another user, who can replace it", path)
    elif mode & stat.S_IWGRP and folder.st_gid != os.getegid():
        _log.warning("%s: its folder belongs to a group whose members can replace it", path)


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading bytes.

    Raises:
        OSError: It cannot be opened, or is no regular file. A named pipe would wait for a writer, and a
            device may never end.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "is not a regular file", os.fspath(path))
    # Without waiting, in case something else has taken the file's place by now.
    return io.BufferedReader(
        _NamedFile(os.fspath(path), opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
    )


class _NamedFile(io.FileIO):
    """A file whose errors while it is read name it, as those of opening do."""

    def readinto(self, buffer: Any) -> int | None:
        try:
            return super().readinto(buffer)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.name) from None

    def readall(self) -> bytes | None:  # type: ignore[override]
        try:
            return super().readall()
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.name) from None


def read_json(path: Path) -> Any:
    """The value in a JSON file of settings.

    Raises:
        OSError: As :func:`open_regular`.
        ValueError: It is not JSON, or holds over :data:`MOST_SETTINGS` bytes. The message quotes none of it.
    """
    with open_regular(path) as file:
        data = file.read(MOST_SETTINGS + 1)
    if len(data) > MOST_SETTINGS:
        raise ValueError(f"holds over {MOST_SETTINGS:,} bytes")
    try:
        return json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not valid JSON: {str(error)[:200]}") from None


def remove_unfinished(folder: Path, older_than: float = 0.0) -> None:
    """Delete unfinished files of killed processes in ``folder``, but not in its subfolders.

    Args:
        folder: the folder.
        older_than: smallest age in seconds, for a folder to which other processes may be writing.
    """
    for path in folder.glob(f"{UNFINISHED}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime >= older_than:
                _remove(path)


@contextlib.contextmanager
def locked(folder: Path, advice: str = "wait for it") -> Iterator[None]:
    """Keep other processes out of a folder that exists. The system frees the lock of a killed process.

    Raises:
        DataError: if another process holds the lock (the message ends with ``advice``), or the folder cannot
            be locked.
    """
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise DataError(f"{folder}: another run is writing here; {advice}") from None
    except OSError as error:
        raise DataError(f"{folder}: cannot be locked ({error})") from None
    try:
        yield
    finally:
        lock.release()


def _flush(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
