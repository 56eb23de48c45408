"""The rules of an audit: codes, severities, reasons in plain words, and the checks that need no model.

A rule looks at one use of an image, or at all uses on one page. Rules by the picture have no check here:
:mod:`descscore.auditing.picture_rules` decides them from scores.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from descscore.auditing import wording
from descscore.auditing.uses import MISSING, NOT_LOOKED_AT, UNREADABLE, ImageUse
from descscore.errors import UsageError, is_blank

Severity: TypeAlias = Literal["error", "warning", "review"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "review")
"""From the worst: wrong for certain, probably worth a change, and worth a person's look."""


@dataclass(frozen=True)
class Rule:
    """One rule of the audit."""

    code: str
    """A letter for the group (T text, F file, P picture, D document) and two digits. It keeps its meaning."""
    name: str
    """The rule in a word or two, such as ``missing-text``."""
    severity: Severity
    """How sure the rule is that something is wrong."""
    title: str
    """What is wrong, in a few words."""
    reason: str
    """Why it matters to a reader who cannot see the image, in plain words."""
    check: Callable[[ImageUse], str | None] | None = None
    """The message for one use, or None; no function for rules that look at more than one use."""
    default: bool = True
    """Whether the rule is on without ``--select``."""


@dataclass(frozen=True)
class Finding:
    """One rule's remark on one use of an image."""

    code: str
    """The rule's code."""
    severity: Severity
    """The rule's severity."""
    message: str
    """What is wrong here, in a sentence."""


def text_of(use: ImageUse) -> str | None:
    """The text that replaces the image for a reader; None if there is none, if the image needs none, or if a
    program fills the text in."""
    if use.hidden or use.decorative or not use.name or wording.is_template(use.name):
        return None
    return use.name


def _of_text(check: Callable[[ImageUse, str], str | None]) -> Callable[[ImageUse], str | None]:
    """A check of the text that replaces an image. It finds nothing where there is none."""

    def checked(use: ImageUse) -> str | None:
        text = text_of(use)
        return None if text is None else check(use, text)

    return checked


def _missing(use: ImageUse) -> str | None:
    if use.hidden or use.decorative or use.name or use.alt is not None or use.only_content_of:
        return None
    return "has no text alternative; write one, or mark the image as decorative"


def _empty_in_link(use: ImageUse) -> str | None:
    control = use.only_content_of
    if not control or (use.name and not use.hidden):
        return None
    if use.hidden and not use.decorative:
        return (
            f"is hidden from screen readers, but its {control} has nothing else; say what the {control} does"
        )
    return f"has no text, and its {control} has nothing else; say what the {control} does"


@_of_text
def _file_name(use: ImageUse, text: str) -> str | None:
    if _generic(use):
        return None
    if wording.is_file_name(text, use.source):
        return f"{_quoted(text)} is a file name"
    return f"{_quoted(text)} is an address" if wording.is_address(text) else None


@_of_text
def _generic(use: ImageUse, text: str) -> str | None:
    if is_blank(text) or wording.is_only_punctuation(text):
        return None
    if wording.is_generic(text, in_link=use.only_content_of is not None):
        return f"{_quoted(text)} would suit any image"
    return None


@_of_text
def _image_of(use: ImageUse, text: str) -> str | None:
    begin = wording.says_image_of(text)
    if begin is None or _generic(use):
        return None
    return f"begins with {_quoted(begin)}, which screen readers say already"


def _nothing_visible(use: ImageUse) -> str | None:
    if use.hidden or use.decorative or (use.only_content_of and not use.name):
        return None
    text = use.name or use.alt
    if not text:  # an empty one marks the image as decorative
        return None
    if is_blank(text):
        return "holds only characters that nobody can see or hear"
    return f"{_quoted(text)} holds only punctuation" if wording.is_only_punctuation(text) else None


@_of_text
def _same_as_beside(use: ImageUse, text: str) -> str | None:
    if use.caption and wording.same_words(text, use.caption):
        return f"{_quoted(text)} is the caption again: say what the image shows"
    if wording.is_repeated_beside(text, use.words_before, use.words_after):
        return f"{_quoted(text)} stands beside the image already"
    return None


@_of_text
def _keywords(_: ImageUse, text: str) -> str | None:
    return f"{_quoted(text)} is a list of words, not a sentence" if wording.is_keyword_list(text) else None


@_of_text
def _long(_: ImageUse, text: str) -> str | None:
    part, words = wording.longest_part(text), len(wording.words_of(text))
    if part > wording.MOST_WORDS_UNBROKEN:
        return f"holds {part} words without a full stop: a listener cannot pause or go back"
    if words > wording.MOST_WORDS:
        return f"holds {words} words: put the details into the page, where a listener can move among them"
    return None


@_of_text
def _unchecked(use: ImageUse, text: str) -> str | None:
    remark = None if _generic(use) else wording.machine_remark(text)
    return f"says {_quoted(remark)}: check the text, and delete these words" if remark else None


def _exposed(use: ImageUse) -> str | None:
    if not use.exposed_by:
        return None
    return f"is marked as decorative, but {use.exposed_by} shows it to screen readers"


def _without_image(*problems: str) -> Callable[[ImageUse], str | None]:
    """A check that finds the uses that have no image for one of these reasons."""
    return lambda use: use.image_detail if use.image_problem in problems else None


def _quoted(text: str, most: int = 80) -> str:
    """The text in quotation marks; a longer one is cut to ``most`` characters, with three dots at its end."""
    return f'"{text if len(text) <= most else text[: most - 3] + "..."}"'


RULES = (
    Rule(
        "T01",
        "missing-text",
        "error",
        "No text alternative",
        "A screen reader says the file's name or nothing, so the reader does not learn what the image says.",
        _missing,
    ),
    Rule(
        "T02",
        "empty-link",
        "error",
        "A link or button holds only an image without text",
        'A screen reader says only "link" or reads out the address: nobody can tell where it leads.',
        _empty_in_link,
    ),
    Rule(
        "T03",
        "file-name",
        "error",
        "The text is a file name or an address",
        "A screen reader spells it out, and the reader learns nothing about the image.",
        _file_name,
    ),
    Rule(
        "T04",
        "generic-text",
        "error",
        "A placeholder, or a text that would suit any image",
        "The reader learns that there is an image, but not what it shows.",
        _generic,
    ),
    Rule(
        "T05",
        "image-of",
        "warning",
        'The text begins with "image of"',
        'Screen readers say "image" before the text; saying it again costs time. The kind of an image, such '
        "as a painting or a map, may matter.",
        _image_of,
    ),
    Rule(
        "T06",
        "nothing-visible",
        "error",
        "The text holds nothing that can be seen or heard",
        "Blanks and punctuation are not read out, yet the image does not count as decorative either.",
        _nothing_visible,
    ),
    Rule(
        "T07",
        "repeated-text",
        "warning",
        "The text repeats the caption or the words beside the image",
        "A listener hears the same words twice, and still does not know what the image shows.",
        _same_as_beside,
    ),
    Rule(
        "T08",
        "same-text",
        "warning",
        "One text stands for different images",
        "A listener cannot tell these images apart; often the text of one was copied to the other.",
    ),
    Rule(
        "T09",
        "keywords",
        "warning",
        "A list of keywords",
        "Words without grammar do not say how the parts of the image belong together.",
        _keywords,
    ),
    Rule(
        "T10",
        "long-text",
        "warning",
        "A very long text without structure",
        "A screen reader reads the text in one go: a listener cannot skip, go back, or look up a detail.",
        _long,
    ),
    Rule(
        "T11",
        "exposed-decoration",
        "error",
        "A decorative image that screen readers meet all the same",
        "Something on the image makes screen readers stop there, though it has no text for them.",
        _exposed,
    ),
    Rule(
        "T12",
        "unchecked-text",
        "warning",
        "The text comes from a program, and nobody checked it",
        "Programs that describe images make mistakes, and screen readers read out their remark too.",
        _unchecked,
    ),
    Rule(
        "F01",
        "missing-image",
        "error",
        "The image's file does not exist",
        "Readers who see get an empty place.",
        _without_image(MISSING),
    ),
    Rule(
        "F02",
        "unreadable-image",
        "error",
        "The image's file cannot be read",
        "It is damaged, empty, or no image: browsers may show nothing.",
        _without_image(UNREADABLE),
    ),
    Rule(
        "F03",
        "not-looked-at",
        "review",
        "The image is not within the audited files",
        "Addresses are never fetched, templates are not filled in, and files outside the audited folder are "
        "not read. So nobody looked at the picture.",
        _without_image(*NOT_LOOKED_AT),
        default=False,
    ),
    Rule(
        "P01",
        "does-not-fit",
        "review",
        "The text does not fit its picture",
        "The model finds text and picture further apart than almost all right descriptions. The text may "
        "belong to another image, or say little of what can be seen.",
    ),
    Rule(
        "P02",
        "swapped-text",
        "review",
        "Another text of the same page fits the picture better",
        "The texts of two images may have changed places.",
    ),
    Rule(
        "P03",
        "reads-like-caption",
        "review",
        "The text reads like a caption",
        "A caption adds to an image that the reader sees. A text alternative must say what can be seen.",
    ),
    Rule(
        "D01",
        "unreadable-document",
        "error",
        "A document, or a part of it, cannot be read",
        "Its images were not looked at.",
    ),
)
"""All rules, in the order of the documentation."""

BY_CODE = {rule.code: rule for rule in RULES}
"""The rules by their code."""

DOES_NOT_FIT, SWAPPED, READS_LIKE_CAPTION = BY_CODE["P01"], BY_CODE["P02"], BY_CODE["P03"]
MISSING_IMAGE, UNREADABLE_IMAGE, UNREADABLE_DOCUMENT = BY_CODE["F01"], BY_CODE["F02"], BY_CODE["D01"]
_SAME_TEXT = BY_CODE["T08"]


def choose_codes(names: Iterable[str], option: str, or_worse: bool = False) -> frozenset[str]:
    """The codes of all rules that ``names`` mean: codes, beginnings of codes, names, severities or ``all``.

    Args:
        names: What a user wrote, such as ``T01``, ``P``, ``missing-text`` or ``warning``.
        option: The option's name, for the error.
        or_worse: Whether a severity means worse ones too.

    Raises:
        UsageError: A name means no rule.
    """
    chosen: set[str] = set()
    for name in names:
        wanted = name.strip()
        lower = wanted.lower()
        meant = SEVERITIES[: SEVERITIES.index(lower) + 1] if or_worse and lower in SEVERITIES else (lower,)
        codes = {
            rule.code
            for rule in RULES
            if rule.severity in meant
            or lower in ("all", rule.name)
            or (wanted and rule.code.startswith(wanted.upper()))
        }
        if not codes:
            known = ", ".join(rule.code for rule in RULES)
            raise UsageError(
                f"{option} {name!r}: no such rule; choose among {known}, T, F, P, D, error, warning, review, "
                "all and names such as missing-text"
            )
        chosen |= codes
    return frozenset(chosen)


DEFAULT_CODES = frozenset(rule.code for rule in RULES if rule.default)
"""The rules that are on by default."""


def codes_on(select: Sequence[str], ignore: Sequence[str]) -> frozenset[str]:
    """The codes of the rules that are on; the names are those of :func:`choose_codes`."""
    chosen = choose_codes(select, "--select") if select else DEFAULT_CODES
    return chosen - choose_codes(ignore, "--ignore")


def finding(rule: Rule, message: str) -> Finding:
    """A finding of ``rule``."""
    return Finding(rule.code, rule.severity, message)


def check_use(use: ImageUse) -> list[Finding]:
    """What the rules by text and by file find at one use."""
    messages = ((rule, rule.check(use)) for rule in RULES if rule.check)
    return [finding(rule, message) for rule, message in messages if message]


def check_same_text(uses: Sequence[ImageUse], identities: Sequence[object]) -> list[list[Finding]]:
    """What T08 finds at each use of one page. Of several uses of one image, only the first has a finding.

    identities: equal for uses of the same image.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for place, use in enumerate(uses):
        text = text_of(use)
        if text and not (_file_name(use) or _generic(use) or _nothing_visible(use) or use.only_content_of):
            groups[" ".join(wording.words_of(text)) or text].append(place)
    findings: list[list[Finding]] = [[] for _ in uses]
    for places in groups.values():
        others = {identities[place]: place for place in reversed(places)}
        for place in others.values() if len(others) > 1 else ():
            other = next(use for identity, use in others.items() if identity != identities[place])
            name = uses[other].source or "another image"
            line = f" in line {uses[other].line}" if uses[other].line else ""
            message = f"{_quoted(uses[place].name or '')} also stands for {_quoted(name, 60)}{line}"
            findings[place].append(finding(_SAME_TEXT, message))
    return findings
