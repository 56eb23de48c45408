"""Accounts of a shared study, in a file with one line per account.

A line is ``name:salt:hash``, with salt and hash in hex. The hash is scrypt's (RFC 7914) of the password,
so nobody can read passwords from the file.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from pathlib import Path

from descscore.errors import DataError, UsageError
from descscore.files import atomic_write, check_place, locked, open_regular

_NAME = re.compile(r"[\w.@-]{1,64}")
_COST = {"n": 2**14, "r": 8, "p": 1, "maxmem": 2**26, "dklen": 32}
_SHORTEST = 8
_MOST_BYTES = 1 << 24
"""Bytes of the largest file that is read: some 70,000 accounts."""


class Accounts:
    """Names and password hashes; :meth:`user` checks an HTTP ``Authorization`` header."""

    def __init__(self, entries: dict[str, tuple[bytes, bytes]]) -> None:
        self._entries = entries
        # scrypt is slow on purpose, and a page sends many requests with the same header. Only headers
        # with a right password are remembered, so this stays small.
        self._known: dict[bytes, str] = {}

    @classmethod
    def read(cls, path: Path) -> Accounts:
        """Read the accounts of a file. Raises :class:`DataError` for an unreadable file or a wrong line."""
        entries = _read(path)
        if not entries:
            raise DataError(f"{path}: holds no accounts; 'descscore judgments account' makes them")
        return cls(entries)

    def known(self, header: str) -> str | None:
        """The account's name if :meth:`user` has found this header right before, else None. Takes no time."""
        return self._known.get(_digest(header))

    def user(self, header: str) -> str | None:
        """The account's name if a Basic ``Authorization`` header (RFC 7617) is right, else None."""
        known, credentials = self.known(header), _basic(header)
        if known is not None or credentials is None:
            return known
        name, password = credentials
        if not self._matches(name, password):
            return None
        self._known[_digest(header)] = name
        return name

    def _matches(self, name: str, password: str) -> bool:
        # An unknown name takes as long as a wrong password, so nobody can find out which names exist.
        salt, expected = self._entries.get(name, (b"-", b"-"))
        return hmac.compare_digest(_scrypt(password, salt), expected)


def write_account(path: Path, name: str, password: str) -> None:
    """Add an account, or change its password. Only the file's owner can read the file.

    Raises:
        UsageError: The name or the password cannot be used.
        DataError: The file cannot be read or written, or somebody else is writing it.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"account {name!r}: a name has 1 to 64 letters, digits and . _ - @")
    if len(password) < _SHORTEST:
        raise UsageError(f"account {name}: a password needs at least {_SHORTEST} characters")
    salt = secrets.token_bytes(16)
    hashed = _scrypt(password, salt)
    check_place(path)
    with locked(path.parent, "try again"):  # two that read before either writes would lose an account
        entries = _read(path) if path.exists() else {}
        entries[name] = (salt, hashed)
        lines = [f"{key}:{first.hex()}:{second.hex()}\n" for key, (first, second) in entries.items()]
        with atomic_write(path, mode=0o600) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")


def _read(path: Path) -> dict[str, tuple[bytes, bytes]]:
    try:
        with open_regular(path) as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise OSError(f"over {_MOST_BYTES:,} bytes")
        lines = data.decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: accounts cannot be read ({error})") from None
    entries = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            name, first, second = _parts(path, number, line)
            if name in entries:
                raise DataError(f"{path}: line {number}: has account {name!r} a second time")
            entries[name] = (first, second)
    return entries


def _parts(path: Path, number: int, line: str) -> tuple[str, bytes, bytes]:
    try:
        name, salt, hashed = line.strip().split(":")
        if not _NAME.fullmatch(name):
            raise ValueError
        return name, bytes.fromhex(salt), bytes.fromhex(hashed)
    except ValueError:
        raise DataError(f"{path}: line {number}: not an account (name:salt:hash)") from None


def _scrypt(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, **_COST)


def _digest(header: str) -> bytes:
    return hashlib.sha256(header.encode()).digest()


def _basic(header: str) -> tuple[str, str] | None:
    """Name and password in a Basic ``Authorization`` header; None if there is no name."""
    kind, _, rest = header.partition(" ")
    if kind.lower() != "basic":
        return None
    try:
        name, _, password = base64.b64decode(rest, validate=True).decode("utf-8").partition(":")
    except ValueError:  # not base64, not ASCII, or not UTF-8
        return None
    return (name, password) if name else None
