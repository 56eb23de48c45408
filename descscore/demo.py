"""Score sample photos of installed packages: ``python -m descscore.demo``.

The photos are sample data of matplotlib and scikit-image, read from the installed packages.
Each photo is scored with a description, a caption, and the descriptions of the other photos. All
texts were written for this demonstration.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from descscore.errors import DataError, DescscoreError
from descscore.scorer import DescScorer


@dataclass(frozen=True)
class Photo:
    """A sample photo and two texts for it."""

    package: str
    """The package that contains the photo."""
    path: str
    """The photo's path in the package."""
    description: str
    """A text that can replace the photo."""
    caption: str
    """A text that adds to it."""

    @property
    def name(self) -> str:
        return Path(self.path).name

    def find(self) -> Path:
        """The photo's file. Raises :class:`DataError` if the package or the photo is missing."""
        spec = find_spec(self.package)
        if spec is None or spec.origin is None:
            raise DataError(f"{self.package} is not installed; run: pip install 'descscore[demo]'")
        path = Path(spec.origin).parent / self.path
        if not path.is_file():
            raise DataError(f"{path}: this version of {self.package} does not carry the photo")
        return path


PHOTOS = (
    Photo(
        "skimage",
        "data/chelsea.png",
        "The face of a ginger tabby cat with green eyes, looking to the side.",
        "Chelsea is the best known pet in image processing.",
    ),
    Photo(
        "skimage",
        "data/coffee.png",
        "A white cup of black coffee on a saucer with a spoon, on a wooden table.",
        "The break that every morning meeting should begin with.",
    ),
    Photo(
        "skimage",
        "data/rocket.jpg",
        "A white rocket lifts off from its launch pad between towers, fire and smoke below it.",
        "The mission of February 2015 on its way to observe the solar wind.",
    ),
    Photo(
        "matplotlib",
        "mpl-data/sample_data/grace_hopper.jpg",
        "A woman in a dark naval uniform and a white cap looks into the camera, a flag behind her.",
        "Grace Hopper, one of the first programmers of the Harvard Mark I, in 1984.",
    ),
)


def table(scorer: DescScorer, photos: tuple[Photo, ...] = PHOTOS) -> str:
    """A line with score and cosine for each photo and text, and the number of descriptions that win.

    Of the other photos' descriptions, the one with the highest score is shown.
    """
    lines = [f"{'photo':<17} {'kind':<20} {'score':>6} {'cosine':>8}  text", "-" * 100]
    won_caption = won_other = 0
    for i, photo in enumerate(photos):
        others = [other.description for other in photos[:i] + photos[i + 1 :]]
        texts = [photo.description, photo.caption, *others]
        results = scorer.score_batch([photo.find()] * len(texts), texts)
        best = max(range(2, len(texts)), key=lambda number: results[number].cosine)
        for kind, number in (("description", 0), ("caption", 1), ("other's description", best)):
            text, result = texts[number], results[number]
            short = text if len(text) <= 46 else text[:43] + "..."
            lines.append(f"{photo.name:<17} {kind:<20} {result.score:6.3f} {result.cosine:+8.4f}  {short}")
        won_caption += results[0].cosine > results[1].cosine
        won_other += sum(results[0].cosine > result.cosine for result in results[2:])
    lines.append("-" * 100)
    lines.append(f"The description beats the caption on {won_caption} of {len(photos)} photos")
    lines.append(
        f"and another photo's description in {won_other} of {len(photos) * (len(photos) - 1)} pairs."
    )
    return "\n".join([*lines, scorer.signature])


def main() -> int:
    try:
        print(table(DescScorer.from_pretrained("default")))
    except DescscoreError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
