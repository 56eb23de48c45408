"""What was found of words, as lines of text for a terminal."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from descscore.errors import DataError, InputError, UsageError
from descscore.eval.preference import image_owner
from descscore.eval.statistics.bootstrap import (
    MIN_CLUSTERS,
    Estimate,
    Resampling,
    cluster_index,
    cluster_sums,
    estimate_of,
    studentised,
)
from descscore.eval.statistics.clusters import cluster_pearson
from descscore.eval.statistics.correlation import Array
from descscore.eval.statistics.proportions import cluster_mean
from descscore.eval.word_kinds import KINDS, Tagger, bare, kinds_of
from descscore.explanations.explainer import ExplainOptions, explain_batch
from descscore.explanations.explanation import Explanation, WordParts
from descscore.images import load_image
from descscore.scorer import DescScorer
from descscore.tables.rows import PreferencePair

# Which words a model takes for marks of a description, and which for marks of a caption.
#
# Every text of a data set is explained; the parts of its words are then pooled by
# word, by kind of word, and against norms such as concreteness. Texts of one image are
# not independent, so intervals come from a bootstrap over whole images.


MEASURES = ("purpose", "through", "value")
_PAIRS_AT_ONCE = 32


@dataclass(frozen=True)
class Occurrence:
    """One word of one text. word: as :func:`bare` gives it. kinds: see :mod:`.word_kinds`, and
    parts of speech as ``pos NOUN``. image: number of its image. parts: what explains it."""

    word: str
    kinds: frozenset[str]
    in_description: bool
    image: int
    parts: WordParts


@dataclass(frozen=True)
class WordRow:
    """A word's mean part, with its interval and p against 0. q: p adjusted for all words
    tested (Benjamini and Hochberg 1995). in_descriptions: how many of n."""

    word: str
    in_descriptions: int
    mean: Estimate
    q: float | None


@dataclass(frozen=True)
class KindRow:
    """A kind's mean part, and by how much it exceeds the mean of all other words."""

    kind: str
    mean: Estimate
    difference: Estimate


@dataclass(frozen=True)
class NormRow:
    """Correlation of a norm with words' mean parts, each word once. covered: share of
    occurrences whose word the norm lists."""

    norm: str
    covered: float
    correlation: Estimate


@dataclass(frozen=True)
class MeasureReport:
    """All of one measure. agreement: correlation over occurrences with leaving the word out,
    None for ``through``, which leaving out cannot see."""

    measure: str
    words: tuple[WordRow, ...]
    kinds: tuple[KindRow, ...]
    norms: tuple[NormRow, ...]
    agreement: Estimate | None


@dataclass(frozen=True)
class WordOptions:
    """How to pool. least: occurrences that a word needs to be listed. norms: by name, a value
    by word. tagger: None for no parts of speech."""

    least: int = 10
    norms: Mapping[str, Mapping[str, float]] | None = None
    tagger: Tagger | None = None
    resampling: Resampling = Resampling()  # noqa: RUF009 - frozen


@dataclass(frozen=True)
class Explained:
    """Pairs with explanations of description and caption, and why others are missing."""

    pairs: tuple[PreferencePair, ...]
    explanations: tuple[tuple[Explanation, Explanation], ...]
    dropped: tuple[str, ...]

    @property
    def converged(self) -> float:
        """Share of texts whose parts add up, for every measure there is."""
        both = [e for pair in self.explanations for e in pair]
        fine = [e.convergence.converged and _converged(e) for e in both]
        return sum(fine) / len(fine)


def _converged(found: Explanation) -> bool:
    return found.purpose_convergence is None or found.purpose_convergence.converged


def explain_pairs(
    scorer: DescScorer, pairs: Sequence[PreferencePair], options: ExplainOptions | None = None
) -> Explained:
    """Explain both texts of every pair; one that cannot be scored is left out and named.

    Raises :class:`DataError` where none can be scored.
    """
    kept: list[PreferencePair] = []
    found: list[tuple[Explanation, Explanation]] = []
    dropped: list[str] = []
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        usable = list(_usable(scorer, pairs[start : start + _PAIRS_AT_ONCE], dropped))
        images = [image for _, image in usable]
        texts = [pair.description for pair, _ in usable] + [pair.caption for pair, _ in usable]
        explained = explain_batch(images * 2, texts, scorer, options)
        kept += [pair for pair, _ in usable]
        found += zip(explained[: len(usable)], explained[len(usable) :], strict=True)
    if not kept:
        raise DataError(f"none of {len(pairs)} pairs can be scored; the first: {dropped[0]}")
    return Explained(tuple(kept), tuple(found), tuple(dropped))


def _usable(
    scorer: DescScorer, pairs: Sequence[PreferencePair], dropped: list[str]
) -> Iterator[tuple[PreferencePair, Any]]:
    for pair in pairs:
        try:
            scorer.tokenize(pair.description), scorer.tokenize(pair.caption)
            image = load_image(pair.image.read())
        except InputError as error:
            dropped.append(f"{pair.source} row {pair.number} ({pair.id}): {error}")
            continue
        yield pair, image


def occurrences(explained: Explained, tagger: Tagger | None = None) -> list[Occurrence]:
    """Every word that the model sees, text by text."""
    owner = image_owner(explained.pairs)
    return [
        item
        for image, pair in zip(owner.tolist(), explained.explanations, strict=True)
        for is_description, found in zip((True, False), pair, strict=True)
        for item in _of_text(found, is_description, image, tagger)
    ]


def _of_text(
    found: Explanation, is_description: bool, image: int, tagger: Tagger | None
) -> Iterator[Occurrence]:
    tags = tagger(found.text) if tagger else []
    for word, kinds in zip(found.words, kinds_of(found.words), strict=True):
        if word.tokens:
            speech = {f"pos {tag}" for start, end, tag in tags if start < word.end and end > word.start}
            yield Occurrence(bare(word.text), kinds | speech, is_description, image, word)


def report(items: Sequence[Occurrence], options: WordOptions) -> list[MeasureReport]:
    """Each measure that the model has, purpose first.

    Raises :class:`UsageError` where ``least`` is under 1.
    """
    if options.least < 1:
        raise UsageError(f"least {options.least}: must be at least 1")
    return [_measure(items, name, options) for name in MEASURES if getattr(items[0].parts, name) is not None]


def _measure(items: Sequence[Occurrence], name: str, options: WordOptions) -> MeasureReport:
    values = np.array([getattr(item.parts, name) for item in items], float)
    images = np.array([item.image for item in items])
    return MeasureReport(
        measure=name,
        words=tuple(_word_rows(items, values, images, options)),
        kinds=tuple(_kind_rows(items, values, images, options.resampling)),
        norms=tuple(_norm_rows(items, values, options)),
        agreement=_agreement(items, name, values, images, options.resampling),
    )


def _word_rows(
    items: Sequence[Occurrence], values: Array, images: Array, options: WordOptions
) -> list[WordRow]:
    """Words that occur often enough and with enough images for an interval, highest mean first."""
    places: dict[str, list[int]] = defaultdict(list)
    for i, item in enumerate(items):
        places[item.word].append(i)
    often = {
        word: at
        for word, at in places.items()
        if len(at) >= options.least and len(set(images[at].tolist())) >= MIN_CLUSTERS
    }
    means = {word: cluster_mean(values[at], images[at], options.resampling) for word, at in often.items()}
    adjusted = _adjusted([mean.p for mean in means.values()])
    rows = [
        WordRow(word, sum(items[i].in_description for i in often[word]), mean, q)
        for (word, mean), q in zip(means.items(), adjusted, strict=True)
    ]
    return sorted(rows, key=lambda row: -(row.mean.value or 0.0))


def _adjusted(p: Sequence[float | None]) -> list[float | None]:
    """Benjamini and Hochberg's adjustment of the p-values that there are."""
    from scipy.stats import false_discovery_control

    known = [i for i, value in enumerate(p) if value is not None]
    found: list[float | None] = [None] * len(p)
    if known:
        adjusted = false_discovery_control([p[i] for i in known])
        for i, value in zip(known, adjusted.tolist(), strict=True):
            found[i] = value
    return found


def _kind_rows(
    items: Sequence[Occurrence], values: Array, images: Array, resampling: Resampling
) -> list[KindRow]:
    counts = Counter(kind for item in items for kind in item.kinds)
    names = [*KINDS, *sorted(kind for kind in counts if kind not in KINDS)]
    rows = []
    for kind in names:
        inside = np.array([kind in item.kinds for item in items])
        if counts[kind]:
            mean = cluster_mean(values[inside], images[inside], resampling)
            rows.append(KindRow(kind, mean, _difference(values, inside, images, resampling)))
    return rows


def _difference(values: Array, inside: Array, images: Array, resampling: Resampling) -> Estimate:
    """Mean of ``values`` inside minus outside, resampling whole images: ``(n,)``, bool ``(n,)``, ``(n,)``."""
    index = cluster_index(images, len(values))
    one = inside.astype(float)
    sums = cluster_sums(np.stack([one, one * values, 1 - one, (1 - one) * values], 1), index)
    return estimate_of(studentised(sums, _gap, resampling), index, "bootstrap-t over images")


def _gap(sums: Array) -> Array:
    """Difference of two means from counts and sums ``(..., 4)``; NaN where one has no item."""
    counts = np.where(sums[..., [0, 2]] > 0, sums[..., [0, 2]], np.nan)
    result: Array = sums[..., 1] / counts[..., 0] - sums[..., 3] / counts[..., 1]
    return result


def _norm_rows(items: Sequence[Occurrence], values: Array, options: WordOptions) -> list[NormRow]:
    sums: dict[str, list[float]] = defaultdict(list)
    for item, value in zip(items, values.tolist(), strict=True):
        sums[item.word].append(value)
    rows = []
    for name, norm in (options.norms or {}).items():
        listed = [word for word in sums if word in norm]
        means = [float(np.mean(sums[word])) for word in listed]
        found = cluster_pearson([norm[word] for word in listed], means, listed, options.resampling)
        covered = sum(len(sums[word]) for word in listed) / len(items)
        rows.append(NormRow(name, covered, found))
    return rows


def _agreement(
    items: Sequence[Occurrence], name: str, values: Array, images: Array, resampling: Resampling
) -> Estimate | None:
    other = {"value": "leave_one_out", "purpose": "leave_one_out_purpose"}.get(name)
    if other is None:
        return None
    return cluster_pearson(values, [getattr(item.parts, other) for item in items], images, resampling)


def to_json(reports: Sequence[MeasureReport], explained: Explained, signature: str) -> dict[str, Any]:
    """All of it as plain JSON types."""
    return {
        "signature": signature,
        "pairs": len(explained.pairs),
        "texts_converged": explained.converged,
        "dropped": list(explained.dropped),
        "measures": {found.measure: asdict(found) for found in reports},
    }


def lines_of(found: MeasureReport, shown: int) -> list[str]:
    """One measure as lines of text: kinds, norms, and up to ``shown`` words at either end."""
    unit = "log-odds of being a description" if found.measure == "purpose" else "cosine"
    lines = [f"{found.measure}: mean part of a word, in {unit}, with 95 % intervals over images", ""]
    lines += [f"{'kind of word':<30} {'n':>6}  {'mean':<28}  {'less all other words':<28}"]
    lines += [
        f"{row.kind:<30} {row.mean.n:>6}  {_shown(row.mean):<28}  {_shown(row.difference):<28}"
        for row in found.kinds
    ]
    for title, rows in _ends(found.words, shown):
        lines += ["", f"{title:<30} {'n':>6} {'in descr.':>9}  {'mean':<28} {'q':>7}"]
        lines += [_word_line(row) for row in rows] or ["none"]
    for norm in found.norms:
        r = norm.correlation
        lines += [
            "",
            f"{norm.norm}: r {_shown(r)} over {r.n} words, {100 * norm.covered:.0f} % of occurrences",
        ]
        lines += [f"  ({r.reason})"] if r.reason else []
    if found.agreement is not None:
        lines += ["", f"agreement with leaving the word out: r {_shown(found.agreement)}"]
    return lines


def _ends(rows: Sequence[WordRow], shown: int) -> list[tuple[str, list[WordRow]]]:
    """Words whose interval lies above 0, highest first, and those below, lowest first."""
    up = [row for row in rows if row.mean.low is not None and row.mean.low > 0]
    down = [row for row in reversed(rows) if row.mean.high is not None and row.mean.high < 0]
    return [("raise it", up[:shown]), ("lower it", down[:shown])]


def _word_line(row: WordRow) -> str:
    q = "-" if row.q is None else f"{row.q:.3f}"
    return f"{row.word[:30]:<30} {row.mean.n:>6} {row.in_descriptions:>9}  {_shown(row.mean):<28} {q:>7}"


def _shown(found: Estimate) -> str:
    if found.value is None:
        return "-"
    if found.low is None or found.high is None:
        return f"{found.value:+.4f}"
    return f"{found.value:+.4f} ({found.low:+.4f} to {found.high:+.4f})"
