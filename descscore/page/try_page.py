"""The page to try texts: scores of a description, a caption and drafts, and the effect of each word."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock

from PIL import Image, ImageDraw

from descscore.context import ContextTexts, tokenize_context
from descscore.errors import DescscoreError, InputError, TextError, is_blank
from descscore.explanations.reasons import explain_encoded, explains
from descscore.formats import BROWSER_FORMATS
from descscore.page.reply import FieldError, Reply, problem, render
from descscore.page.uploads import MAX_BYTES, UPLOADS_TAKEN, UploadDecoder
from descscore.page.verdict import (
    MarkedWord,
    Result,
    advice,
    comparisons,
    fit,
    headline,
    marked_words,
    verdict,
)
from descscore.scorer import DescScorer, comparison
from descscore.templates import data_address
from descscore.texts import TokenizedText

MAX_LETTERS = 2000
MAX_ARTICLE_LETTERS = 10_000
MAX_DRAFTS = 20

MAX_TOKENS = 4096
"""Most tokens that the model reads for one form. A sentence has about 20. Texts of rare characters that fit
the other limits could have a hundred thousand."""

MAX_EXPLAINED_TOKENS = 160
"""Longest text that is explained word by word. The time grows with the square of the length."""


class TryPage:
    """Scores the texts of the page with ``scorer``, one form at a time, and stores nothing."""

    def __init__(self, scorer: DescScorer) -> None:
        self.scorer = scorer
        self._decoder = UploadDecoder(scorer.encoder.spec)
        self._turn = Lock()

    def act(
        self, action: str, fields: Mapping[str, str], account: str | None = None, image: bytes | None = None
    ) -> Reply:
        """As :meth:`descscore.page.site.Page.act`. ``account`` is not used: all see the same page.

        The actions are ``open``, ``score``, ``example:NAME``, and for programs ``values``: the scores without
        words and page, in ``values`` of the reply.
        """
        kind, _, name = action.partition(":")
        try:
            if kind == "example" and name in EXAMPLES:
                return _fill_in(name)
            if kind in ("score", "values"):
                return self._score(fields, image, shown=kind == "score")
            return _form_page()
        except DescscoreError as error:
            return problem(str(error))

    def _score(self, fields: Mapping[str, str], upload: bytes | None, shown: bool) -> Reply:
        form = _Form(fields, upload, self.scorer)
        # The texts are checked first, because that is quick.
        image = None if form.errors else self._image(form)
        if form.errors or image is None:
            return Reply(errors=tuple(form.errors))
        with self._turn:
            result = self._result(form, image, shown)
        if not shown:
            return Reply(values=result.to_dict())
        page = render(
            "try_result.html",
            result=result,
            headline=headline(result.score),
            comparisons=comparisons(result),
            advice=advice(result),
            fit=fit,
            context=self.scorer.model.tokenizer.context_length,
            explained_tokens=MAX_EXPLAINED_TOKENS,
        )
        return Reply(result=page, status=verdict(result))

    def _image(self, form: _Form) -> Image.Image | None:
        if form.upload is None:
            return form.example.draw() if form.example else None
        try:
            return self._decoder.read(form.upload)
        except InputError as error:
            form.wrong("image", str(error))
            return None

    def _result(self, form: _Form, image: Image.Image, explained: bool) -> Result:
        scorer, texts = self.scorer, list(form.tokens)
        encoded = scorer.encoder.tokenized(list(form.tokens.values()))
        features = scorer.encoder.images([image])
        contexts = [ContextTexts(form.context)] * len(texts)
        scores = dict(
            zip(texts, scorer.scores(features.expand(len(texts), -1), encoded, contexts), strict=True)
        )
        drafts = [(text, scores[text]) for text in dict.fromkeys((form.description, *form.drafts))]
        described = scores[form.description]
        compared = None
        if form.caption:
            compared = comparison(described, scores[form.caption], scorer.model.logit_scale)
        tokens = form.tokens[form.description]
        words: tuple[MarkedWord, ...] = ()
        too_long = _length(tokens) > MAX_EXPLAINED_TOKENS
        if explained and explains(scorer.model) and not too_long:
            encoded = scorer.encoder.tokenized([tokens])
            words = marked_words(explain_encoded(scorer, [form.description], features, encoded)[0])
        return Result(
            description=form.description,
            score=described,
            caption=form.caption,
            comparison=compared,
            ranked=tuple(sorted(drafts, key=lambda pair: -pair[1].cosine)) if len(drafts) > 1 else (),
            words=words,
            too_long=too_long,
        )


class _Form:
    """The filled-in form, checked against the limits of the page and of the model.

    Attributes:
        errors: What is wrong.
        upload: The file that was chosen; None if none was.
        example: The example that was chosen; None if none was.
        description: The description.
        caption: The caption; None if the field is blank.
        drafts: Other descriptions.
        context: Tokens of the article; None if the field is blank.
        tokens: Tokens of description, caption and drafts, by text.
    """

    def __init__(self, fields: Mapping[str, str], upload: bytes | None, scorer: DescScorer) -> None:
        self._fields = fields
        self._scorer = scorer
        self.errors: list[FieldError] = []
        self.tokens: dict[str, TokenizedText] = {}
        self.upload = upload
        self.example = EXAMPLES.get(fields.get("example", ""))
        if upload is None and self.example is None:
            self.wrong("image", "Choose an image.")
        self.description = self._text("description")
        self.caption = None if is_blank(fields.get("caption", "")) else self._text("caption")
        self.context = self._context()
        self.drafts = self._drafts()
        self._check_length()

    def wrong(self, field: str, message: str) -> None:
        """Add an error of a field."""
        self.errors.append(FieldError(field, message))

    def _text(self, field: str) -> str:
        text = self._fields.get(field, "").strip()
        fault = self._fault(text)
        if fault:
            self.wrong(field, fault)
        return text

    def _context(self) -> TokenizedText | None:
        text = self._fields.get("context", "").strip()
        if len(text) > MAX_ARTICLE_LETTERS:
            self.wrong("context", _too_long(text, MAX_ARTICLE_LETTERS))
            return None
        try:
            return tokenize_context(self._scorer.tokenize, text or None)
        except TextError as error:
            self.wrong("context", f"This text cannot be used: {error}")
            return None

    def _drafts(self) -> tuple[str, ...]:
        lines = self._fields.get("drafts", "").splitlines()
        drafts = tuple(line.strip() for line in lines if not is_blank(line))
        if len(drafts) > MAX_DRAFTS:
            self.wrong("drafts", f"There are {len(drafts)} drafts; the limit is {MAX_DRAFTS}.")
        for number, draft in enumerate(drafts[:MAX_DRAFTS], start=1):
            fault = self._fault(draft)
            if fault:
                self.wrong("drafts", f"Draft {number}: {fault}")
        return drafts

    def _fault(self, text: str) -> str | None:
        """The reason why a text cannot be scored, or None."""
        if not text:
            return "Write a description."
        if len(text) > MAX_LETTERS:
            return _too_long(text, MAX_LETTERS)
        try:
            self.tokens[text] = self._scorer.tokenize(text)
        except TextError as error:
            return f"This text cannot be scored: {error}"
        return None

    def _check_length(self) -> None:
        tokens = [*self.tokens.values(), *([self.context] if self.context else [])]
        count = sum(map(_length, tokens))
        if count > MAX_TOKENS:
            message = f"All texts together have {count} tokens (parts of words); the limit is {MAX_TOKENS}."
            self.wrong("", f"{message} Shorten them, or leave some out.")


def _length(text: TokenizedText) -> int:
    """Number of tokens of a text that the model reads."""
    return sum(map(len, text.rows))


def _too_long(text: str, limit: int) -> str:
    return f"The text has {len(text)} characters; the limit is {limit}."


def _form_page() -> Reply:
    page = render(
        "try.html",
        examples=EXAMPLES,
        formats=UPLOADS_TAKEN,
        drafts=MAX_DRAFTS,
        accept=",".join(f"image/{name.lower()}" for name in BROWSER_FORMATS if name != "MPO"),
        megabytes=MAX_BYTES // 2**20,
        letters=MAX_LETTERS,
        article_letters=MAX_ARTICLE_LETTERS,
    )
    return Reply(page=page)


_SIZE = (480, 360)


@dataclass(frozen=True)
class Example:
    """A drawing to try the page without a photo, with a description, a caption and other drafts."""

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


def _fill_in(name: str) -> Reply:
    """The form filled in with an example."""
    example = EXAMPLES[name]
    buffer = io.BytesIO()
    example.draw().save(buffer, "PNG")
    address = data_address(buffer.getvalue(), "image/png")
    fields = {
        "example": name,
        "description": example.description,
        "caption": example.caption,
        "drafts": "\n".join(example.drafts),
    }
    status = f"Example: {example.title}. The form is filled in; press Score."
    return Reply(fields=fields, preview=(address, f"Drawing of {example.title}, the example"), status=status)
