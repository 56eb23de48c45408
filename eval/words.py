"""Which words a model takes for marks of a description, and which for marks of a caption.

Every text of a data set is explained. The parts of its words are then pooled by word, by
kind of word, and against norms such as concreteness. Texts of one image are not
independent, so intervals come from a bootstrap over whole images.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from descscore.errors import DataError, InputError, UsageError
from descscore.eval.features import image_owner
from descscore.eval.formatting import Columns, decimals, row_lines
from descscore.eval.statistics.bootstrap import (
    MIN_CLUSTERS,
    Estimate,
    Resampling,
    cluster_index,
    cluster_pearson,
    cluster_sums,
    estimate_of,
    studentised,
)
from descscore.eval.statistics.correlation import Array
from descscore.eval.statistics.proportions import cluster_mean
from descscore.eval.word_kinds import KINDS, Tagger, bare, kinds_of
from descscore.explanations.explanation import Explanation, WordParts
from descscore.explanations.reasons import ExplainOptions, explain_batch
from descscore.images import load_image
from descscore.scorer import DescScorer
from descscore.tables.rows import PreferencePair, some_lines

MEASURES = ("purpose", "through", "value")
"""The fields of :class:`WordParts` that are pooled."""

_PAIRS_AT_ONCE = 32


@dataclass(frozen=True)
class Occurrence:
    """One word of one text."""

    word: str
    """The word in lower case, without a possessive ending."""
    kinds: frozenset[str]
    """Kinds of word (:mod:`.word_kinds`), and parts of speech as ``pos NOUN``."""
    in_description: bool
    """Whether the text is the description; otherwise it is the caption."""
    image: int
    """Number of the text's image."""
    parts: WordParts
    """How much the word moved its text's values."""


@dataclass(frozen=True)
class WordRow:
    """A word's mean part, with its p against 0."""

    word: str
    in_descriptions: int
    """How many of its occurrences are in descriptions."""
    mean: Estimate
    q: float | None
    """p adjusted for all words tested (Benjamini and Hochberg 1995); None without a p."""


@dataclass(frozen=True)
class KindRow:
    """The mean part of a kind of word."""

    kind: str
    mean: Estimate
    difference: Estimate
    """``mean`` minus the mean part of all other words."""


@dataclass(frozen=True)
class NormRow:
    """How a norm goes with words' mean parts."""

    norm: str
    covered: float
    """Share of occurrences whose word the norm lists."""
    correlation: Estimate
    """Pearson's; each word counts once."""


@dataclass(frozen=True)
class MeasureReport:
    """The report of one of :data:`MEASURES`."""

    measure: str
    words: tuple[WordRow, ...]
    """Words that occur often enough, highest mean first."""
    kinds: tuple[KindRow, ...]
    norms: tuple[NormRow, ...]
    agreement: Estimate | None
    """Correlation over occurrences with what leaving the word out loses; None for ``through``, which
    leaving out cannot measure."""


@dataclass(frozen=True)
class WordOptions:
    """How to pool."""

    least: int = 10
    """Occurrences that a word needs to be listed."""
    norms: Mapping[str, Mapping[str, float]] | None = None
    """Norms by name, each a value by word."""
    tagger: Tagger | None = None
    """Gives a text's parts of speech."""
    resampling: Resampling = Resampling()  # noqa: RUF009 - frozen


@dataclass(frozen=True)
class Explained:
    """Pairs that could be scored, with their explanations."""

    pairs: tuple[PreferencePair, ...]
    explanations: tuple[tuple[Explanation, Explanation], ...]
    """Of each pair, that of the description and that of the caption."""
    dropped: tuple[str, ...]
    """For each other pair, its place and why it cannot be scored."""

    @property
    def converged(self) -> float:
        """Share of texts whose parts add up, for every measure there is."""
        converged = [
            all(each.converged for each in (text.convergence, text.purpose_convergence) if each)
            for pair in self.explanations
            for text in pair
        ]
        return sum(converged) / len(converged)


def explain_pairs(
    scorer: DescScorer, pairs: Sequence[PreferencePair], options: ExplainOptions | None = None
) -> Explained:
    """Explain both texts of every pair; one that cannot be scored is left out and named.

    Raises :class:`DataError` if none can be scored.
    """
    kept: list[PreferencePair] = []
    explanations: list[tuple[Explanation, Explanation]] = []
    dropped: list[str] = []
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        usable = list(_usable(scorer, pairs[start : start + _PAIRS_AT_ONCE], dropped))
        images = [image for _, image in usable]
        texts = [pair.description for pair, _ in usable] + [pair.caption for pair, _ in usable]
        explained = explain_batch(images * 2, texts, scorer, options)
        kept += [pair for pair, _ in usable]
        explanations += zip(explained[: len(usable)], explained[len(usable) :], strict=True)
    if not kept:
        raise DataError(f"none of {len(pairs)} pairs can be scored; the first: {dropped[0]}")
    return Explained(tuple(kept), tuple(explanations), tuple(dropped))


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
        for in_description, text in zip((True, False), pair, strict=True)
        for item in _of_text(text, in_description, image, tagger)
    ]


def _of_text(
    text: Explanation, in_description: bool, image: int, tagger: Tagger | None
) -> Iterator[Occurrence]:
    tags = tagger(text.text) if tagger else []
    for word, kinds in zip(text.words, kinds_of(text.words), strict=True):
        if word.tokens:
            speech = {f"pos {tag}" for start, end, tag in tags if start < word.end and end > word.start}
            yield Occurrence(bare(word.text), kinds | speech, in_description, image, word)


def report(items: Sequence[Occurrence], options: WordOptions) -> list[MeasureReport]:
    """Each measure that the model has, purpose first.

    Raises :class:`UsageError` if ``least`` is under 1.
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
    """Benjamini and Hochberg's adjustment of the p-values; None stays None."""
    from scipy.stats import false_discovery_control

    known = [value for value in p if value is not None]
    adjusted = iter(false_discovery_control(known).tolist() if known else ())
    return [None if value is None else next(adjusted) for value in p]


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
    """Difference of two means from counts and sums ``(..., 4)``; NaN if one has no item."""
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
        correlation = cluster_pearson([norm[word] for word in listed], means, listed, options.resampling)
        covered = sum(len(sums[word]) for word in listed) / len(items)
        rows.append(NormRow(name, covered, correlation))
    return rows


def _agreement(
    items: Sequence[Occurrence], name: str, values: Array, images: Array, resampling: Resampling
) -> Estimate | None:
    other = {"value": "leave_one_out", "purpose": "leave_one_out_purpose"}.get(name)
    if other is None:
        return None
    return cluster_pearson(values, [getattr(item.parts, other) for item in items], images, resampling)


def to_json(
    reports: Sequence[MeasureReport], explained: Explained, unusable: Sequence[str], signature: str
) -> dict[str, Any]:
    """All reports as plain JSON types. unusable: a line for each row that gave no pair."""
    return {
        "signature": signature,
        "pairs": len(explained.pairs),
        "texts_converged": explained.converged,
        "dropped": [*unusable, *explained.dropped],
        "measures": {each.measure: asdict(each) for each in reports},
    }


_KIND_COLUMNS: Columns = {
    "kind of word": "kind",
    "n": lambda row: row.mean.n,
    "mean": lambda row: _interval(row.mean),
    "minus all other words": lambda row: _interval(row.difference),
}
_WORD_COLUMNS: Columns = {
    "n": lambda row: row.mean.n,
    "in descr.": "in_descriptions",
    "mean": lambda row: _interval(row.mean),
    "q": lambda row: decimals(row.q, ".3f"),
}


def lines_of(measured: MeasureReport, count: int) -> list[str]:
    """One measure as lines of text: kinds, norms, and up to ``count`` words at either end."""
    unit = "log-odds of being a description" if measured.measure == "purpose" else "cosine"
    blocks = [
        f"{measured.measure}: mean part of a word, in {unit}, with 95 % intervals over images",
        "\n".join(row_lines(measured.kinds, _KIND_COLUMNS, style="plain")),
    ]
    for title, rows in _ends(measured.words, count):
        columns = {title: lambda row: row.word[:30], **_WORD_COLUMNS}
        blocks.append("\n".join(row_lines(rows, columns, style="plain")) if rows else f"{title}\nnone")
    for norm in measured.norms:
        r, covered = norm.correlation, f"{100 * norm.covered:.0f} % of occurrences"
        reason = f"\n  ({r.reason})" if r.reason else ""
        blocks.append(f"{norm.norm}: r {_interval(r)} over {r.n} words, {covered}{reason}")
    if measured.agreement is not None:
        blocks.append(f"agreement with leaving the word out: r {_interval(measured.agreement)}")
    return "\n\n".join(blocks).splitlines()


def explained_lines(explained: Explained, options: WordOptions) -> list[str]:
    """How many pairs were explained, why others were not, and how many texts converged."""
    speech = "parts of speech by spaCy" if options.tagger else "no parts of speech (no spaCy model)"
    return [
        f"{len(explained.pairs)} pairs explained, {len(explained.dropped)} could not be scored; {speech}",
        *some_lines(explained.dropped),
        f"{100 * explained.converged:.1f} % of texts converged",
    ]


def _ends(rows: Sequence[WordRow], count: int) -> list[tuple[str, list[WordRow]]]:
    """Words whose interval lies above 0, highest first, and those below, lowest first."""
    up = [row for row in rows if row.mean.low is not None and row.mean.low > 0]
    down = [row for row in reversed(rows) if row.mean.high is not None and row.mean.high < 0]
    return [("raise it", up[:count]), ("lower it", down[:count])]


def _interval(estimate: Estimate) -> str:
    if estimate.value is None:
        return "-"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:+.4f}"
    return f"{estimate.value:+.4f} ({estimate.low:+.4f} to {estimate.high:+.4f})"
