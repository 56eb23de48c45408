"""Write the data that ``default`` is tuned on: textbook figures, and everyday photos with made captions.

    python -m reproduce.everyday --data DATA --output tuning
    descscore train --data tuning --extra-split everyday ...

The textbooks alone (OpenStax ``train``) teach the difference between descriptions and captions on figures of
textbooks. A model tuned on them forgets some of what it knew of everyday photos. So photos of Flickr8k
``train`` join them. People wrote five descriptions of each and no caption, so a caption is made: it tells
who, where and when, around one or two words of a description, as captions under photos do.

The folder gets ``train.parquet`` and ``val.parquet``. The photos have the split :data:`MADE`, all figures the
split of their file. Everything is drawn from the seed: the same command writes the same pairs.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pyarrow as pa
import pyarrow.parquet as pq

from descscore.auditing.wording import listed
from descscore.eval.attacks import nouns
from descscore.files import atomic_write
from descscore.options import PATH
from reproduce.pages import data_option

MADE = "everyday"
"""Split of the photos with made captions."""
PHOTOS = 2500
"""Photos that join the 5,441 figures."""
GROUPS = 40
"""Groups of photos, so that each is small beside a book and the folds of a calibration come out even."""

_PEOPLE = listed(
    "Amina Anna Ben Carlos Chen Clara David Elena Emma Fatima George Hana Ivan James Jin Julia "
    "Kofi Laura Leila Liam Lucia Maria Marta Mei Miguel Noah Nora Olga Omar Paul Peter Priya Rosa Sam "
    "Sara Sofia Tom Yusuf"
)
_PLACES = listed(
    "Accra Athens Austin Bergen Berlin Boston Brighton Cairo Chicago Dakar Denver Dublin Edinburgh "
    "Geneva Glasgow Hanoi Helsinki Istanbul Kyoto Lagos Leeds Lima Lisbon London Madrid Melbourne "
    "Mexico Milan Montreal Mumbai Nairobi Naples Oslo Paris Portland Prague Quebec Rome Seattle Seoul "
    "Sydney Toronto Vienna Warsaw Zurich"
)
_MONTHS = listed("January February March April May June July August September October November December")
_EVENTS = listed("championship competition exhibition fair festival finals games holiday parade reunion show")
_ROLES = listed(
    "actor artist author captain chief coach composer director doctor engineer founder governor hero "
    "inventor king leader mayor member minister officer painter pilot pioneer player poet president "
    "professor queen researcher scientist singer soldier teacher winner writer"
)
_MADE_BY = ("Photo by", "Photograph by", "Courtesy of", "Credit:", "Picture taken by")


def made_caption(descriptions: list[str], draw: random.Random) -> str:
    """A caption of a photo with these descriptions: who, where and when, around words of one of them.

    It adds to the photo and does not say what it looks like.
    """
    words = [word for word in nouns(draw.choice(descriptions)) if word.isalpha()]
    a, b = (draw.choice(words), draw.choice(words)) if words else ("photo", "view")
    given, form = {"a": a, "b": b}, draw.choice(_FORMS)
    text = re.sub(r"{(\w+)}", lambda name: given.get(name[1]) or _DRAWS[name[1]](draw), form)
    return text[:1].upper() + text[1:] + ("." if draw.random() < 0.5 else "")


_FORMS = (
    # As under the photos of an album or a club.
    "{where}, {when}",
    "{who} and {who} in {where}, {when}",
    "{who} with the {a}, {when}",
    "{who} in {where}",
    "the {a} in {where}, {when}",
    "the {a} and the {b} at the {where} {event}",
    "{a} at the {event} in {where}, {when}",
    "our {event} in {where}: {a} and {b}",
    "{who}'s {a} came to {where} for the {event}",
    "{made_by} {who}, {where} {year}",
    # As in a newspaper or an encyclopaedia.
    "{who}, {role} from {where}, in {year}",
    "{who} was the {role} of the {where} {a} {event} in {year}",
    "{role} {who} at the {event}, {year}",
    "the {role} {who} with {whose} {a} in {where}",
    "the {a} was named after the {role} {who}",
    "{a} of the {where} {b} club, founded in {year}",
    "the {a} has been popular in {where} since {year}",
    "the {a} that made {who} the most famous {role} in {where}",
    "a {a} from {where}, which became known through the {role} {who}",
    "this {a} won the {event} of {year}",
)
"""``a`` and ``b`` are words of a description. What another name stands for is drawn, each time anew."""


def _when(draw: random.Random) -> str:
    year = str(draw.randint(1985, 2013))
    return draw.choice(
        (year, f"{draw.choice(_MONTHS)} {year}", f"{draw.randint(1, 28)} {draw.choice(_MONTHS)} {year}")
    )


_DRAWS: dict[str, Callable[[random.Random], str]] = {
    "event": lambda draw: draw.choice(_EVENTS),
    "made_by": lambda draw: draw.choice(_MADE_BY),
    "role": lambda draw: draw.choice(_ROLES),
    "when": _when,
    "where": lambda draw: draw.choice(_PLACES),
    "who": lambda draw: draw.choice(_PEOPLE),
    "whose": lambda draw: draw.choice(("his", "her")),
    "year": lambda draw: str(draw.randint(1860, 2013)),
}


def photo_pairs(path: Path, most: int, seed: int) -> Iterator[dict[str, object]]:
    """Rows of at most ``most`` photos of a Flickr8k table, with made captions."""
    draw = random.Random(seed)
    photos = pq.read_table(path)
    for number in sorted(draw.sample(range(len(photos)), min(most, len(photos)))):
        photo = photos.slice(number, 1).to_pylist()[0]
        captions = [text.rstrip(" .") for text in photo["captions"]]
        yield {
            "image": photo["image"],
            "description": draw.choice(captions),
            "caption": made_caption(captions, draw),
            "group": f"photos {number % GROUPS}",
            "split": MADE,
        }


def figure_pairs(path: Path) -> Iterator[dict[str, object]]:
    """Rows of a table of textbook figures, grouped by book, with the split of the file's name."""
    for batch in pq.ParquetFile(path).iter_batches(256, columns=["image", "description", "caption", "book"]):
        for row in batch.to_pylist():
            row["group"] = row.pop("book")
            yield {**row, "split": path.stem}


def write_tuning_data(data: Path, folder: Path, photos: int = PHOTOS, seed: int = 0) -> Path:
    """Write ``train.parquet`` and ``val.parquet`` into ``folder``, which is made, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    everyday = photo_pairs(data / "flickr8k" / "train.parquet", photos, seed)
    _write([*figure_pairs(data / "openstax" / "train.parquet"), *everyday], folder / "train.parquet")
    _write(list(figure_pairs(data / "openstax" / "val.parquet")), folder / "val.parquet")
    return folder


def _write(rows: list[dict[str, object]], path: Path) -> None:
    with atomic_write(path) as part:
        pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), part)


_SCHEMA = pa.schema(
    {
        "image": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
        "description": pa.string(),
        "caption": pa.string(),
        "group": pa.string(),
        "split": pa.string(),
    }
)


@click.command()
@data_option
@click.option("--output", type=PATH, required=True, help="Folder for the two tables.")
@click.option("--photos", type=click.IntRange(0), default=PHOTOS, show_default=True, help="Photos that join.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of everything that is drawn.")
def main(data: Path, output: Path, photos: int, seed: int) -> None:
    """Write train.parquet and val.parquet into the folder."""
    write_tuning_data(data, output, photos, seed)


if __name__ == "__main__":
    main()
