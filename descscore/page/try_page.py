"""The page for trying texts: scores of a description, of a caption and of drafts, and why."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from PIL import Image, ImageDraw

from descscore.context import tokenize_context
from descscore.errors import DescscoreError, InputError, TextError
from descscore.explanations.explainer import explain_batch
from descscore.explanations.explanation import Explanation, WordParts
from descscore.page.guard import MAX_BYTES, read_upload
from descscore.page.templates import FieldError, Reply, render
from descscore.records import Comparison, Score
from descscore.scorer import DescScorer
from descscore.stream.pairs import tokenize_text

# Two drawings with texts, to try the page without a photo at hand.


_SIZE = (480, 360)


@dataclass(frozen=True)
class Example:
    """A drawing with a description, a caption, and other drafts of the description."""

    title: str
    draw: Callable[[], Image.Image]
    description: str
    caption: str
    drafts: tuple[str, ...]


def house() -> Image.Image:
    """A red house on a green meadow under a yellow sun."""
    image = Image.new("RGB", _SIZE, "#8ec9f0")
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 250, 480, 360), fill="#4f9a3d")
    pen.ellipse((370, 30, 440, 100), fill="#f7d117")
    pen.rectangle((130, 170, 330, 300), fill="#c0392b")
    pen.polygon([(110, 170), (230, 80), (350, 170)], fill="#5b4636")
    pen.rectangle((210, 220, 260, 300), fill="#3b2a1e")
    for left in (150, 280):
        pen.rectangle((left, 195, left + 35, 230), fill="#fdf6e3", outline="#3b2a1e", width=3)
    return image


def boat() -> Image.Image:
    """A white sailing boat with a brown hull on a blue sea."""
    image = Image.new("RGB", _SIZE, "#cfe8f7")
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 230, 480, 360), fill="#1f6fb2")
    pen.polygon([(140, 240), (350, 240), (310, 290), (180, 290)], fill="#7a4a21")
    pen.line((240, 60, 240, 240), fill="#3b2a1e", width=6)
    pen.polygon([(250, 70), (250, 220), (350, 220)], fill="#ffffff", outline="#888888")
    pen.polygon([(230, 90), (230, 220), (160, 220)], fill="#f4f4f4", outline="#888888")
    return image


EXAMPLES = {
    "house": Example(
        "a house",
        house,
        "A red house with a brown roof on a green meadow, a yellow sun in a blue sky.",
        "Where we spent every summer of our childhood",
        ("A house.", "A red house on a meadow.", "A picture of something nice"),
    ),
    "boat": Example(
        "a boat",
        boat,
        "A sailing boat with white sails and a brown hull on a blue sea.",
        "The Albatross, back from her first race",
        ("A boat on the sea.", "Three people play football in a park."),
    ),
}


MAX_LETTERS = 2000
MAX_ARTICLE_LETTERS = 10_000
MAX_DRAFTS = 20
_LEVELS = 4


class TryPage:
    """Scores what a page sends with ``scorer``; remembers nothing."""

    def __init__(self, scorer: DescScorer) -> None:
        self.scorer = scorer

    def act(self, action: str, fields: Mapping[str, str]) -> Reply:
        """Do what the page asks for: ``open``, ``score`` or ``example:NAME``; what is wrong is said there."""
        kind, _, name = action.partition(":")
        try:
            if kind == "example" and name in EXAMPLES:
                return _example(name)
            if kind == "score":
                return self._score(fields)
            return Reply(page=render("try.html", examples=EXAMPLES, megabytes=MAX_BYTES // 2**20))
        except DescscoreError as error:
            return Reply(errors=(FieldError("", str(error)),))

    def _score(self, fields: Mapping[str, str]) -> Reply:
        asked, errors = self._read(fields)
        if asked is None:
            return Reply(errors=tuple(errors))
        found = self._find(asked)
        summary = _summary(found)
        page = render("try_result.html", found=found, summary=summary, context=self._context())
        return Reply(result=page, status=summary)

    def _context(self) -> int:
        return self.scorer.model.tokenizer.context_length

    def _read(self, fields: Mapping[str, str]) -> tuple[_Asked | None, list[FieldError]]:
        """What is asked for, or what is wrong with it."""
        errors: list[FieldError] = []
        image = _image(fields, errors)
        description = self._text(fields, "description", errors)
        caption = self._text(fields, "caption", errors) if fields.get("caption", "").strip() else None
        context = self._article(fields, errors)
        drafts = self._drafts(fields, errors)
        if errors or image is None or description is None:
            return None, errors
        return _Asked(image, description, caption, context, drafts), errors

    def _text(self, fields: Mapping[str, str], name: str, errors: list[FieldError]) -> str | None:
        text = fields.get(name, "").strip()
        problem = self._problem(text)
        if problem:
            errors.append(FieldError(name, problem))
        return None if problem else text

    def _article(self, fields: Mapping[str, str], errors: list[FieldError]) -> str | None:
        text = fields.get("context", "").strip()
        if len(text) > MAX_ARTICLE_LETTERS:
            problem = f"The text has {len(text)} characters; at most {MAX_ARTICLE_LETTERS} are taken."
            errors.append(FieldError("context", problem))
            return None
        try:
            tokenize_context(lambda words: tokenize_text(self.scorer.tokenize, words), text)
        except TextError as error:
            errors.append(FieldError("context", f"This text cannot be used: {error}"))
        return text or None

    def _problem(self, text: str) -> str | None:
        """Why a text cannot be scored."""
        if not text:
            return "Write a description."
        if len(text) > MAX_LETTERS:
            return f"The text has {len(text)} characters; at most {MAX_LETTERS} are taken."
        try:
            self.scorer.tokenize(text)
        except TextError as error:
            return f"This text cannot be scored: {error}"
        return None

    def _drafts(self, fields: Mapping[str, str], errors: list[FieldError]) -> tuple[str, ...]:
        drafts = tuple(line.strip() for line in fields.get("drafts", "").splitlines() if line.strip())
        if len(drafts) > MAX_DRAFTS:
            errors.append(
                FieldError("drafts", f"There are {len(drafts)} drafts; at most {MAX_DRAFTS} are taken.")
            )
        for number, draft in enumerate(drafts[:MAX_DRAFTS], start=1):
            problem = self._problem(draft)
            if problem:
                errors.append(FieldError("drafts", f"Draft {number}: {problem}"))
        return drafts

    def _find(self, asked: _Asked) -> _Found:
        texts = list(dict.fromkeys((asked.description, *asked.drafts)))
        contexts = [asked.context] * len(texts)
        scores = self.scorer.score_batch([asked.image] * len(texts), texts, contexts=contexts)
        ranked = sorted(zip(texts, scores, strict=True), key=lambda pair: -pair[1].cosine)
        comparison = asked.caption and self.scorer.compare(
            asked.image, asked.description, asked.caption, context=asked.context
        )
        return _Found(
            description=asked.description,
            score=scores[0],
            caption=asked.caption,
            comparison=comparison or None,
            ranked=tuple(ranked) if len(texts) > 1 else (),
            words=explain_words(self.scorer, asked.image, asked.description),
        )


@dataclass(frozen=True)
class _Asked:
    image: Image.Image
    description: str
    caption: str | None
    context: str | None
    drafts: tuple[str, ...]


@dataclass(frozen=True)
class MarkedWord:
    """A word of the description. level: 0 to 4, how far it moves the cosine beside the other words."""

    text: str
    value: float
    purpose: float | None
    seen: bool
    level: int

    @property
    def direction(self) -> str:
        """In a word what it does to the cosine."""
        if not self.seen:
            return "not read"
        return "none" if not self.level else "raises" if self.value > 0 else "lowers"


@dataclass(frozen=True)
class _Found:
    """Everything that the result shows. ranked: texts with scores, best first; empty for one text."""

    description: str
    score: Score
    caption: str | None
    comparison: Comparison | None
    ranked: tuple[tuple[str, Score], ...]
    words: tuple[MarkedWord, ...]


def explain_words(scorer: DescScorer, image: Image.Image, text: str) -> tuple[MarkedWord, ...]:
    """What each word of ``text`` does to its cosine with ``image``; empty where the model cannot say."""
    if scorer.model.precision != "float32":
        return ()
    return marked_words(explain_batch([image], [text], scorer)[0])


def marked_words(found: Explanation) -> tuple[MarkedWord, ...]:
    """The words of an explanation with how strongly each is to be marked."""
    largest = max((abs(word.value) for word in found.words), default=0.0) or 1.0
    return tuple(
        MarkedWord(word.text, word.value, word.purpose, word.tokens > 0, _level(word, largest))
        for word in found.words
    )


def _level(word: WordParts, largest: float) -> int:
    return round(abs(word.value) / largest * _LEVELS)


def _image(fields: Mapping[str, str], errors: list[FieldError]) -> Image.Image | None:
    example = EXAMPLES.get(fields.get("example", ""))
    if fields.get("image"):
        try:
            return read_upload(fields["image"])
        except InputError as error:
            errors.append(FieldError("image", str(error)))
            return None
    if example:
        return example.draw()
    errors.append(FieldError("image", "Choose an image."))
    return None


def _example(name: str) -> Reply:
    example = EXAMPLES[name]
    buffer = io.BytesIO()
    example.draw().save(buffer, "PNG")
    address = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    fields = {
        "example": name,
        "description": example.description,
        "caption": example.caption,
        "drafts": "\n".join(example.drafts),
    }
    status = f"Example: {example.title}. The form is filled in; press Score."
    return Reply(fields=fields, preview=(address, f"Drawing of {example.title}, the example"), status=status)


def _summary(found: _Found) -> str:
    """The result in a few sentences, for the top of the page and the live region."""
    score = found.score
    parts = [f"Score {score.score:.3f} on a scale from 0 to 2.5."]
    if score.description_probability is not None:
        percent = round(100 * score.description_probability)
        parts.append(f"It reads as a description with a probability of {percent} %.")
    if found.comparison:
        parts.append(_comparison_sentence(found.comparison))
    if found.ranked:
        place = [text for text, _ in found.ranked].index(found.description) + 1
        parts.append(f"Among {len(found.ranked)} drafts it is number {place}.")
    if score.truncated:
        parts.append("The text was cut: its end was not read.")
    return " ".join(parts)


def _comparison_sentence(comparison: Comparison) -> str:
    if comparison.preferred == "tie":
        return "Description and caption fit equally well."
    return f"The {comparison.preferred} is preferred."
