"""The baseline of an audit: a file of known findings, which later audits leave out."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from descscore.auditing.results import AuditedUse
from descscore.auditing.uses import ImageUse
from descscore.errors import UsageError
from descscore.files import atomic_write, open_regular

FORMAT = 1
"""Version of the baseline's format."""

MOST_BASELINE = 1 << 28
"""Bytes of the largest baseline that is read."""

_NAMES = ("code", "document", "source", "text")
Known = Counter[tuple[str, ...]]
"""How often each known finding occurs: code, document, source and text."""


def _key(code: str, use: ImageUse, folder: Path) -> tuple[str, ...]:
    document = Path(os.path.relpath(use.document, folder)).as_posix()
    return code, document, use.source, use.name if use.name is not None else use.alt or ""


def without_known(records: Iterable[AuditedUse], baseline: Known, folder: Path) -> Iterator[AuditedUse]:
    """The records without the findings of a baseline, each of which silences as many findings as it counts.

    folder: that of the baseline's file; documents are named relative to it.
    """
    left = Counter(baseline)
    for record in records:
        kept = []
        for one in record.findings:
            key = _key(one.code, record.use, folder)
            if left[key] > 0:
                left[key] -= 1
            else:
                kept.append(one)
        count = len(record.findings) - len(kept)
        yield replace(record, findings=tuple(kept), known=count) if count else record


def write_baseline(records: Iterable[AuditedUse], path: Path) -> int:
    """Write the findings of ``records`` as known ones; returns their number.

    A finding is known by its rule, document, source and text, not by its line: it stays so if lines move.
    """
    known: Known = Counter(
        _key(one.code, record.use, path.parent) for record in records for one in record.findings
    )
    findings = [dict(zip(_NAMES, key, strict=True)) | {"count": known[key]} for key in sorted(known)]
    text = json.dumps({"format": FORMAT, "findings": findings}, ensure_ascii=False, indent=1)
    with atomic_write(path) as part:
        part.write_text(text + "\n", encoding="utf-8", errors="surrogatepass")
    return sum(known.values())


def read_baseline(path: Path) -> Known:
    """The known findings in a file of :func:`write_baseline`.

    Raises:
        UsageError: The file is missing or is not such a file.
    """
    try:
        with open_regular(path) as file:
            data = file.read(MOST_BASELINE)
        content = json.loads(data.decode("utf-8", "surrogatepass"))
        if content["format"] != FORMAT:
            raise ValueError(f"has format {content['format']!r}, not {FORMAT}")
        known: Known = Counter()
        for one in content["findings"]:
            key = tuple(one[name] for name in _NAMES)
            if not (all(isinstance(part, str) for part in key) and isinstance(one["count"], int)):
                raise ValueError(f"holds a finding that is not one: {str(one)[:80]}")
            known[key] += one["count"]
        return known
    except OSError as error:
        raise UsageError(f"--baseline {path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"--baseline {path}: is not a baseline of 'descscore audit' ({error})") from None
