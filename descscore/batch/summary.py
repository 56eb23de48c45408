"""A run's results as a whole: their distribution, the worst rows, the rows that failed, and the counts."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from descscore.records import DECORATIVE, OK
from descscore.tables.cells import short

LISTED = 10
"""Most rows that are listed: of the worst ones, and of those that failed in one way."""

_STEPS = 100
"""Steps in which a score of 1 is counted."""

_SHARES = (5, 25, 50, 75, 95)


@dataclass(frozen=True)
class Digest:
    """Results of any number of rows in bounded memory. Two digests add up."""

    counts: dict[str, int] = field(default_factory=dict)
    """Number of scored rows by their score in hundredths, as text, for JSON."""
    worst: list[dict[str, Any]] = field(default_factory=list)
    """The ten rows with the lowest cosines, the lowest first: id, score, cosine, text."""
    failures: dict[str, list[str]] = field(default_factory=dict)
    """The ids of the first ten rows of each status that is a failure."""
    first_errors: dict[str, str] = field(default_factory=dict)
    """The error of the first row of each such status."""

    COLUMNS: ClassVar = ("id", "text", "score", "cosine", "status", "error")
    """The columns of results that a digest reads; ``text`` may be missing."""

    @classmethod
    def of(cls, tables: Iterable[pa.Table]) -> Digest:
        """The digest of tables of results, one in memory at a time."""
        return sum(map(cls._of, tables), cls())

    @classmethod
    def _of(cls, table: pa.Table) -> Digest:
        names = [name for name in ("id", "score", "cosine", "text") if name in table.column_names]
        scored = table.select(names).filter(pc.equal(table["status"], OK))
        steps = pc.round(pc.multiply(scored["score"], _STEPS)).cast(pa.int32()).to_pylist()
        order = pc.sort_indices(scored, [("cosine", "ascending")])[:LISTED]
        worst = [
            {
                "id": row["id"],
                "score": round(row["score"], 4),
                "cosine": round(row["cosine"], 4),
                "text": short(row.get("text") or ""),
            }
            for row in scored.take(order).to_pylist()
        ]
        failures: dict[str, list[str]] = {}
        errors: dict[str, str] = {}
        bad = table.select(["id", "status", "error"]).filter(
            pc.invert(pc.is_in(table["status"], pa.array([OK, DECORATIVE])))
        )
        for status in bad["status"].unique().to_pylist():
            rows = bad.filter(pc.equal(bad["status"], status))[:LISTED]
            failures[status], errors[status] = rows["id"].to_pylist(), short(rows["error"][0].as_py(), 200)
        return cls({str(step): n for step, n in Counter(steps).items()}, worst, failures, errors)

    def __add__(self, other: Digest) -> Digest:
        counts = Counter(self.counts)
        counts.update(other.counts)
        worst = sorted([*self.worst, *other.worst], key=lambda row: row["cosine"])[:LISTED]
        failures = {
            kind: [*self.failures.get(kind, []), *other.failures.get(kind, [])][:LISTED]
            for kind in sorted({*self.failures, *other.failures})
        }
        errors = {kind: error for kind, error in other.first_errors.items() if kind not in self.failures}
        errors |= self.first_errors
        return Digest(dict(sorted(counts.items())), worst, failures, dict(sorted(errors.items())))

    def distribution(self) -> dict[str, float]:
        """Scores, to a hundredth, that the given share of the rows does not exceed; empty without rows."""
        if not self.counts:
            return {}
        counted = sorted((int(step), n) for step, n in self.counts.items())
        scores = [step / _STEPS for step, _ in counted]
        rows = list(accumulate(n for _, n in counted))  # with this score or a lower one
        places = {f"{share} %": bisect_left(rows, share * rows[-1] / 100) for share in _SHARES}
        found = {name: scores[place] for name, place in places.items()}
        return {"lowest": scores[0], **found, "highest": scores[-1]}

    def to_lines(self, statuses: Mapping[str, int]) -> list[str]:
        """The lines of a summary. statuses: number of rows by status."""
        lines = []
        spread = self.distribution()
        if spread:
            lines.append("scores: " + ", ".join(f"{name} {value:.2f}" for name, value in spread.items()))
        if self.worst:
            lines.append(f"the {len(self.worst)} rows with the lowest cosine:")
            lines += [f"  {row['cosine']:+.4f}  {short(row['id'])}  {row['text']}" for row in self.worst]
        for kind, ids in self.failures.items():
            more = statuses.get(kind, 0) - len(ids)
            listed = ", ".join(map(short, ids))
            lines.append(f"{kind}: ids {listed}" + (f" and {more:,} more" if more > 0 else ""))
            if kind in self.first_errors:
                lines.append(f"  the first: {self.first_errors[kind]}")
        if self.failures:
            lines.append("the column error of the results says why each row failed")
        return lines


@dataclass(frozen=True)
class Summary:
    """The result of a run, for people."""

    output: str
    """The folder of the results."""
    rows: int
    """Rows of this run, scored by this start or an earlier one."""
    statuses: dict[str, int]
    """Number of rows by status."""
    scored: int
    """Rows that this start processed, whatever their status."""
    seconds: float
    """Time that this start took."""
    signature: str
    """Everything that the scores depend on."""
    digest: Digest = Digest()
    """Distribution, worst rows, failed rows and the first error of each kind."""

    @property
    def failed(self) -> int:
        """Number of rows that could not be scored."""
        return sum(count for status, count in self.statuses.items() if status not in (OK, DECORATIVE))

    def to_json(self) -> str:
        """All fields, ``failed``, and the digest's fields, with ``distribution`` in place of ``counts``."""
        values = asdict(self)
        digest = values.pop("digest")
        del digest["counts"]
        spread = {"distribution": self.digest.distribution()}
        return json.dumps({**values, "failed": self.failed, **spread, **digest}, indent=2)

    def to_text(self) -> str:
        """Rows by status, what the digest says, the rows that this start scored, and the signature."""
        statuses = sorted(self.statuses.items(), key=lambda item: (item[0] != OK, item[0]))
        lines = [f"{name:<20} {count:>12,}" for name, count in [*statuses, ("rows", self.rows)]]
        lines += self.digest.to_lines(self.statuses)
        if self.scored:
            rate = self.scored / max(self.seconds, 1e-9)
            lines.append(f"{self.scored:,} rows done now in {self.seconds:.1f} s ({rate:.1f} a second)")
        return "\n".join([*lines, f"{self.output}: {self.signature}"])
