"""Find compressed columns in Arrow streams, which a few kilobytes of can fill all memory.

``datasets`` maps its files into memory as they are, and never compresses them. Arrow would unpack compressed
columns of a stranger's file at once, whatever their size. It does not tell that there are any, so this module
looks at the head of each message. Arrow 0.17 named the compression in a note beside a batch. Arrow still
obeys the note in messages of that version, so they may have none.
"""

from __future__ import annotations

import struct
from pathlib import Path

import pyarrow as pa

_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3
_NEWEST = 4
"""Number of version V5, which Arrow writes since 1.0."""


def check_uncompressed(path: Path) -> None:
    """Raise :class:`ValueError` for an Arrow stream with compressed columns; Arrow's errors if it is none."""
    with pa.memory_map(str(path)) as file:
        for message in pa.ipc.MessageReader.open_stream(file):
            if _is_compressed(message.metadata.to_pybytes()):
                raise ValueError(f"{path} holds compressed columns, as datasets never writes them")


def _is_compressed(head: bytes) -> bool:
    """Whether a message is a batch that names a compression, or may name one in a note.

    Source: the tables ``Message``, ``DictionaryBatch`` and ``RecordBatch`` in Arrow's documentation of its
    format, and the internals of FlatBuffers: a table begins with the distance to the places of its fields.
    """
    message = _target(head, 0)
    place = _field(head, message, 1)
    kind = head[place] if place else 0
    if kind not in (_DICTIONARY_BATCH, _RECORD_BATCH):
        return False
    place = _field(head, message, 0)
    version = struct.unpack_from("<h", head, place)[0] if place else 0
    if version != _NEWEST and _field(head, message, 4):
        return True
    batch = _target(head, _field(head, message, 2))
    if kind == _DICTIONARY_BATCH:
        batch = _target(head, _field(head, batch, 1))
    return _field(head, batch, 3) != 0


def _target(head: bytes, place: int) -> int:
    """Where the table stands to which a place leads."""
    return place + int(struct.unpack_from("<I", head, place)[0])


def _field(head: bytes, table: int, number: int) -> int:
    """Where a field of a table stands; 0 if it has none."""
    places = table - int(struct.unpack_from("<i", head, table)[0])
    if places < 0:
        raise ValueError("the head of an Arrow message makes no sense")
    size, at = struct.unpack_from("<H", head, places)[0], 4 + 2 * number
    if at + 2 > size:
        return 0
    distance = int(struct.unpack_from("<H", head, places + at)[0])
    return table + distance if distance else 0
