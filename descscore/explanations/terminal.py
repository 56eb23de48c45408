"""An explanation as lines of text, readable by eye and by ear: signed numbers, no frames, no colour."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from descscore.explanations.explanation import Convergence, Explanation, PurposePlace, WordParts

_WORD, _BAR, _SCALE = 20, 12, 48


def to_text(found: Explanation) -> str:
    """The whole explanation, one line a word in the order of the text."""
    blocks = [
        _scores(found),
        *([_purpose(found.purpose)] if found.purpose else []),
        _words(found),
        _sums(found),
        *([_counterfactual(found)] if found.counterfactual else []),
        *([_map(found)] if found.occlusion else []),
        [found.score.signature],
    ]
    return "\n\n".join("\n".join(block) for block in blocks)


def strongest(words: Sequence[WordParts], key: str = "value", count: int = 3) -> tuple[list[str], list[str]]:
    """The words that raise ``key`` most and those that lower it most, each with its signed number."""
    seen = [(getattr(word, key), word.text) for word in words if word.tokens]
    up = sorted((item for item in seen if item[0] > 0), key=lambda item: -item[0])
    down = sorted((item for item in seen if item[0] < 0), key=lambda item: item[0])
    shown = [[f"{text} ({value:+.3f})" for value, text in part[:count]] for part in (up, down)]
    return shown[0], shown[1]


def convergence_sentence(name: str, found: Convergence) -> str:
    """Whether the parts add up, in a sentence."""
    verdict = "add up" if found.converged else "DO NOT add up (not converged)"
    return (
        f"{name}: the words' parts {verdict}: difference from a text without words "
        f"{found.difference:+.4f}, missed by {found.delta:+.1e}, {found.steps} steps."
    )


def place_sentence(place: PurposePlace) -> str:
    """The read-out, and where it lies among the reference texts, in a sentence."""
    text = f"probability {place.probability:.3f} of being a description (log-odds {place.log_odds:+.2f})"
    if place.above_descriptions is None or place.above_captions is None:
        return text
    return (
        f"{text}; higher than {place.above_descriptions:.0f} % of reference descriptions "
        f"and {place.above_captions:.0f} % of reference captions"
    )


def _scores(found: Explanation) -> list[str]:
    score = found.score
    lines = [
        printable(found.text),
        f"score {score.score:.4f}  cosine {score.cosine:+.4f}  base's score {score.clip_score:.4f}",
    ]
    if score.truncated:
        lines.append(f"cut: the text has {score.tokens} tokens, and the model does not read them all")
    return lines


def _purpose(place: PurposePlace) -> list[str]:
    lines = [f"purpose: {place_sentence(place)}"]
    if place.descriptions is None or place.captions is None:
        return lines
    low = min(place.descriptions[0], place.captions[0], place.log_odds)
    high = max(place.descriptions[-1], place.captions[-1], place.log_odds)

    def at(value: float) -> int:
        return round((value - low) / max(high - low, 1e-9) * (_SCALE - 1))

    rows = [("captions", place.captions), ("descriptions", place.descriptions)]
    lines += [f"  {name:<13}{_spread(quantiles, at)}" for name, quantiles in rows]
    lines.append(f"  {'this text':<13}{' ' * at(place.log_odds)}X")
    scale = f"{low:<+8.1f}{high:>+{_SCALE - 8}.1f}"
    lines.append(f"  {'log-odds':<13}{scale}  (. all, - 5 to 95 %, = middle half)")
    return lines


def _spread(quantiles: Sequence[float], at: Callable[[float], int]) -> str:
    """A line of marks from the lowest to the highest of the reference texts."""
    line = [" "] * _SCALE
    for mark, outer in ((".", 0.0), ("-", 0.05), ("=", 0.25)):
        first, last = (quantiles[round(q * (len(quantiles) - 1))] for q in (outer, 1 - outer))
        for place in range(at(first), at(last) + 1):
            line[place] = mark
    return "".join(line).rstrip()


def _words(found: Explanation) -> list[str]:
    largest = max((abs(word.value) for word in found.words), default=0.0) or 1.0
    head = f"{'word':<{_WORD}} {'cosine':>8} {'bar':<{_BAR}} {'left out':>9}"
    mediated = any(word.through is not None for word in found.words)
    read_out = any(word.purpose is not None for word in found.words)
    head += f" {'through':>8} {'around':>8}" * mediated + f" {'purpose':>8} {'left out':>9}" * read_out
    return [head, *(_line(word, largest) for word in found.words)]


def _line(word: WordParts, largest: float) -> str:
    name = printable(word.text)
    name = name if len(name) <= _WORD else name[: _WORD - 3] + "..."
    if not word.tokens:
        return f"{name:<{_WORD}} (not seen by the model)"
    bar = ("+" if word.value > 0 else "-") * round(abs(word.value) / largest * _BAR)
    line = f"{name:<{_WORD}} {word.value:+8.4f} {bar:<{_BAR}} {word.leave_one_out:+9.4f}"
    if word.through is not None:
        line += f" {word.through:+8.4f} {word.around:+8.4f}"
    if word.purpose is not None:
        line += f" {word.purpose:+8.3f} {word.leave_one_out_purpose:+9.3f}"
    return line


def printable(text: str) -> str:
    """``text`` with control characters replaced: a terminal would obey them, and HTML forbids some."""
    return "".join(c if c.isprintable() or c in "\u200c\u200d" else "\ufffd" for c in text)


def _sums(found: Explanation) -> list[str]:
    lines = []
    names = [("value", "cosine"), *([("purpose", "purpose")] if found.purpose else [])]
    for key, name in names:
        up, down = strongest(found.words, key)
        raised, lowered = ", ".join(up) or "none", ", ".join(down) or "none"
        lines.append(f"{name}: raised most by {raised}; lowered most by {lowered}")
    lines.append(convergence_sentence("cosine", found.convergence))
    if found.purpose_convergence:
        lines.append(convergence_sentence("purpose", found.purpose_convergence))
    return [printable(line) for line in lines]


def _counterfactual(found: Explanation) -> list[str]:
    other = found.counterfactual
    assert other is not None
    known = "" if other.source_probability is None else f" (probability {other.source_probability:.3f})"
    return [
        f"with the purpose of: {printable(other.source)}{known}",
        f"it would score {other.score:.4f}, cosine {other.cosine:+.4f} (change {other.change:+.4f})",
    ]


def _map(found: Explanation) -> list[str]:
    where = found.occlusion
    assert where is not None
    lines = [f"{'':8}" + " ".join(f"{f'col {c + 1}':>7}" for c in range(len(where.values[0])))]
    lines += [f"row {r + 1:<4}" + " ".join(f"{v:+7.4f}" for v in row) for r, row in enumerate(where.values)]
    title = "cosine lost when a part of the image is covered, top to bottom, left to right:"
    return [title, *lines, where.note]
