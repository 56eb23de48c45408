"""Small studies for the tests: drawn photos, descriptions, and annotators who answer."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

from descscore.study.items import COLUMNS, StudyItem, read_items
from descscore.study.judgments import Annotator, JudgmentStore, Profile
from descscore.study.questions import AFTER, phases_of, questions_of
from pictures import make_photo

IMAGES = 6
TEXTS = 2


def write_items(folder: Path, images: int = IMAGES, texts: int = TEXTS) -> Path:
    """``items.csv`` beside its photos: ``texts`` descriptions of each of ``images`` photos."""
    photos = folder / "photos"
    photos.mkdir(parents=True, exist_ok=True)
    rows = []
    for image in range(images):
        name = f"Café, «view» {image}.png"
        make_photo(photos / name, seed=image)
        for text in range(texts):
            description = f"View {image} by painter {text}: " + "blue, " * (image + text)
            cells = (
                f"{image}-{text}",
                f"photos/{name}",
                description,
                f"Article {image}",
                f"On {image}.\n\nMore.",
            )
            rows.append(dict(zip(COLUMNS, cells, strict=True)))
    return write_table(folder / "items.csv", rows)


def write_table(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def make_store(folder: Path, images: int = IMAGES, texts: int = TEXTS) -> JudgmentStore:
    return JudgmentStore.for_study(folder / "study.db", read_items(write_items(folder, images, texts)))


def register(store: JudgmentStore, name: str, vision: str = "blind") -> Annotator:
    return store.register(Profile(name, vision, "always", "I agree."))[0]


def answers(seed: int, phase: str) -> dict[str, int]:
    """Answers that differ from item to item, without imaginability after the image."""
    values = [1 + (seed * step + step) % 5 for step in (1, 2, 3, 4)]
    return ratings(values[0], None if phase == AFTER else values[1], values[2], values[3])


def ratings(overall: int, imaginability: int | None, relevance: int, irrelevance: int) -> dict[str, int]:
    """Answers by question; without imaginability if that is None."""
    found = {"overall": overall, "relevance": relevance, "irrelevance": irrelevance}
    return found if imaginability is None else found | {"imaginability": imaginability}


def judge_all(store: JudgmentStore, annotator: Annotator, shift: int = 0) -> None:
    """Answer every item in every phase; what is answered depends on the item, and a little on ``shift``."""
    items: dict[str, StudyItem] = {item.item: item for item in store.items()}
    for item in store.order(annotator):
        place = list(items).index(item)
        for phase in phases_of(annotator.vision):
            store.save(annotator, item, phase, answers(place + shift * (place % 3 == 0), phase))


def profile(name: str, vision: str = "blind") -> dict[str, str]:
    """The form in which an annotator describes themselves."""
    return {"consent": "yes", "pseudonym": name, "vision": vision, "screen_reader": "often"}


def enter(page: Any, name: str, vision: str = "blind") -> dict[str, str]:
    """Register at a study's page; what this annotator's browser sends with every later action."""
    reply = page.act("register", profile(name, vision))
    assert reply.errors == ()
    assert reply.code
    return {"code": reply.code}


def hidden(reply: Any) -> dict[str, str]:
    """The hidden fields of a page, as its forms send them."""
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', reply.page or ""))


def rate(phase: str, value: int = 3) -> dict[str, str]:
    """The form of a step with every question answered by ``value``."""
    return {question.name: str(value) for question in questions_of(phase)}
