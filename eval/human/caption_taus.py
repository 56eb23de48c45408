"""A model against people's judgments of Flickr8k captions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from descscore.eval.human.caption_ratings import (
    CAPTIONS_EACH,
    Photos,
    RatedPairs,
    crowd_tau,
    expert_tau,
    read_crowd,
    read_expert,
    read_photos,
)
from descscore.eval.human.ratings import find_folder
from descscore.eval.pairs.pair_scores import pair_cosines
from descscore.eval.statistics.correlation import Correlation
from descscore.scorer import DescScorer


@dataclass(frozen=True)
class CaptionJudgments:
    """Both kinds of ratings with the photos and captions that they are of."""

    expert: RatedPairs
    crowd: RatedPairs
    photos: Photos

    @property
    def source(self) -> str:
        """Files and digests, for signatures."""
        return f"{self.expert.source}|{self.crowd.source}"


@dataclass(frozen=True)
class TauRow:
    """Kendall's tau, -1..1, with one set of ratings; None where not defined, for this ``reason``.

    pairs of photo and caption; ratings: how many of them; left_out: own captions. There is
    no p-value: the ratings of one pair, and the pairs of one photo, are not independent.
    """

    set: str
    statistic: str
    tau: float | None
    reason: str | None
    pairs: int
    ratings: int
    left_out: int


def read_caption_judgments(data: Path, references: bool = False) -> CaptionJudgments:
    """From the folder flickr8k or the one that holds it; :class:`DataError` on missing or wrong files.

    references: whether all captions of the photos that experts judged are needed too.
    """
    folder = find_folder(data, "flickr8k", "ExpertAnnotations.txt")
    expert = read_expert(folder / "ExpertAnnotations.txt")
    crowd = read_crowd(folder / "CrowdFlowerAnnotations.txt")
    own = tuple((photo, name) for photo, _ in expert.pairs for name in own_captions(photo))
    needed = expert.pairs + crowd.pairs + (tuple(dict.fromkeys(own)) if references else ())
    return CaptionJudgments(expert, crowd, read_photos(folder, needed))


def own_captions(photo: str) -> list[str]:
    """The ids of a photo's own captions."""
    return [f"{photo}#{number}" for number in range(CAPTIONS_EACH)]


def tau_rows(scorer: DescScorer, judgments: CaptionJudgments) -> list[TauRow]:
    """tau-c with the expert ratings and tau-b with the CrowdFlower ones."""
    expert, crowd, photos = judgments.expert, judgments.crowd, judgments.photos
    cosines = pair_cosines(scorer, photos.images, photos.captions, expert.pairs + crowd.pairs)
    own, others = cosines[: len(expert.pairs)], cosines[len(expert.pairs) :]
    return [
        _row("expert", "tau-c", expert_tau(own, expert.ratings), expert),
        _row("crowdflower", "tau-b", crowd_tau(others, crowd.ratings[:, 0]), crowd),
    ]


def reference_tau_row(scorer: DescScorer, judgments: CaptionJudgments) -> TauRow:
    """tau-c of the reference score with the expert ratings, a photo's own captions as references."""
    expert, photos = judgments.expert, judgments.photos
    results = scorer.score_batch(
        [photos.images[photo] for photo, _ in expert.pairs],
        [photos.captions[caption] for _, caption in expert.pairs],
        references=[[photos.captions[name] for name in own_captions(photo)] for photo, _ in expert.pairs],
    )
    scores = [result.reference_score or 0.0 for result in results]
    return _row("expert, with references", "tau-c", expert_tau(scores, expert.ratings), expert)


def _row(name: str, statistic: str, found: Correlation, rated: RatedPairs) -> TauRow:
    return TauRow(name, statistic, found.value, found.reason, len(rated.pairs), found.n, rated.left_out)
