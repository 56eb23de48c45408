"""``DescScorer.score_stream``: equal to single pairs whatever happens on the way."""

from __future__ import annotations

import gc
import io
import itertools
import random
import struct
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
from batch_inputs import TEXTS, make_pairs
from PIL import Image

from descscore import DescScorer
from descscore.errors import ImageError, UsageError
from descscore.images import ImageSource, load_image
from descscore.records import Outcome, Pair
from descscore.stream.pairs import StreamOptions
from descscore.stream.worker import WorkerError

HERE = StreamOptions(workers=0)
HOSTILE = "hostile_decoders:misbehave"


@pytest.fixture(scope="module")
def scorer(tiny_folder: Path) -> DescScorer:
    return DescScorer.from_pretrained(tiny_folder, device="cpu", batch_size=4)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_pairs(tmp_path_factory.mktemp("photos"), 7, images=7).images


def cosines(outcomes: list[Outcome]) -> list[float]:
    assert {outcome.status for outcome in outcomes} == {"ok"}
    return [outcome.score.cosine for outcome in outcomes if outcome.score is not None]


@pytest.mark.parametrize("window", [1, 3, 1000])
@pytest.mark.parametrize("workers", [0, 2])
def test_equals_single_pairs_in_order(
    scorer: DescScorer, photos: list[Path], window: int, workers: int
) -> None:
    pairs = [(photos[i % 7], f"{TEXTS[i % 5]} {i}") for i in range(20)]
    random.Random(window).shuffle(pairs)
    outcomes = list(scorer.score_stream(iter(pairs), StreamOptions(workers=workers, window=window)))
    for outcome, (image, text) in zip(outcomes, pairs, strict=True):
        single = scorer.score(image, text)
        assert outcome.score is not None
        assert outcome.score.cosine == pytest.approx(single.cosine, abs=1e-6)
        assert outcome.score.tokens == single.tokens
        assert outcome.score.truncated == single.truncated
        assert outcome.score.signature == scorer.signature


def test_every_kind_of_image(scorer: DescScorer, photos: list[Path]) -> None:
    image = Image.open(photos[0]).convert("RGB")
    kinds: list[ImageSource] = [
        *(photos[0], str(photos[0]), photos[0].read_bytes(), bytearray(photos[0].read_bytes())),
        *(image, np.asarray(image)),
    ]
    found = cosines(list(scorer.score_stream([(kind, "A cat.") for kind in kinds], HERE)))
    assert found == pytest.approx([scorer.score(photos[0], "A cat.").cosine] * len(kinds), abs=1e-6)
    bad: list[Any] = [3, None, np.zeros((2, 2, 7), np.uint8), "https://example.org/a.png"]
    statuses = [outcome.status for outcome in scorer.score_stream([(b, "A cat.") for b in bad], HERE)]
    assert statuses == ["bad_image_type", "missing_image", "bad_array", "url_not_supported"]


def test_an_endless_stream_gives_its_first_results(scorer: DescScorer, photos: list[Path]) -> None:
    endless = ((photos[i % 7], f"Text {i}.") for i in itertools.count())
    others = set(psutil.Process().children())
    stream = scorer.score_stream(endless, StreamOptions(workers=1, window=5))
    assert len(cosines(list(itertools.islice(stream, 12)))) == 12
    workers = set(psutil.Process().children()) - others
    stream.close()  # type: ignore[attr-defined]
    assert workers
    assert not [worker for worker in workers if worker.is_running()]


def test_an_error_in_the_callers_stream_comes_through_and_ends_the_workers(
    scorer: DescScorer, photos: list[Path]
) -> None:
    def pairs() -> Iterator[tuple[ImageSource, str]]:
        yield photos[0], "A cat."
        raise KeyError("the caller's own")

    before = set(psutil.Process().children())
    with pytest.raises(KeyError, match="the caller's own"):
        list(scorer.score_stream(pairs(), StreamOptions(workers=1)))
    assert set(psutil.Process().children()) == before


def test_memory_does_not_grow_with_the_stream(scorer: DescScorer, photos: list[Path]) -> None:
    """Objects alive after 400 and after 2,000 pairs."""

    def alive(pairs: int) -> int:
        data = photos[0].read_bytes()
        for _ in scorer.score_stream(((data, f"word{i}") for i in range(pairs)), StreamOptions(0, window=50)):
            pass
        gc.collect()
        return len(gc.get_objects())

    alive(100)
    few = alive(400)
    assert alive(2000) - few < 2000


def test_a_hang_a_death_and_an_odd_error_are_rows(
    scorer: DescScorer, photos: list[Path], tmp_path: Path
) -> None:
    names = ["good1", "hang", "good2", "die", "once", "raise", "good3", "hang2", "good4", "hang"]
    for name in names:
        (tmp_path / f"{name}.png").write_bytes(photos[0].read_bytes())
    options = StreamOptions(workers=2, time_limit=1.5, decode=HOSTILE)
    pairs = [(tmp_path / f"{name}.png", "A cat.") for name in names]
    outcomes = list(scorer.score_stream(pairs, options))
    kinds = ["ok", "image_timeout", "ok", "decoder_died", "ok", "damaged_image", "ok"]
    assert [o.status for o in outcomes] == [*kinds, "image_timeout", "ok", "image_timeout"]
    assert "hang.png: not decoded in 1.5 seconds" in str(outcomes[1].error)
    expected = scorer.score(photos[0], "A cat.").cosine
    found = [outcome.score.cosine for outcome in outcomes if outcome.score is not None]
    assert found == pytest.approx([expected] * 5, abs=1e-6)


def test_workers_that_cannot_start_are_an_error(
    scorer: DescScorer, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DESCSCORE_TEST_BROKEN_DECODER", "1")
    options = StreamOptions(workers=2, decode="hostile_decoders:broken")
    with pytest.raises(WorkerError, match="could not be started"):
        list(scorer.score_stream([(photos[0], "A cat.")] * 3, options))


KINDS = (
    *(("PNG", "RGBA"), ("JPEG", "RGB"), ("GIF", "P")),
    *(("BMP", "RGB"), ("TIFF", "CMYK"), ("WEBP", "RGB")),
)


def fuzzed_images(photo: Path) -> Iterator[bytes]:
    """Damaged, cut, mixed-up and hostile image files, from a fixed seed."""
    rng = np.random.default_rng(0)
    image = Image.open(photo).convert("RGB")
    originals = []
    for kind, mode in (
        ("PNG", "RGBA"),
        ("JPEG", "RGB"),
        ("GIF", "P"),
        ("BMP", "RGB"),
        ("TIFF", "CMYK"),
        ("WEBP", "RGB"),
    ):
        buffer = io.BytesIO()
        image.convert(mode).save(buffer, kind)
        originals.append(buffer.getvalue())
    for round_ in range(36):
        for data in originals:
            changed = bytearray(data)
            if round_ % 3 == 0:
                changed = changed[: int(rng.integers(1, len(data)))]
            for place in rng.integers(0, len(changed), int(rng.integers(1, 30))):
                changed[place] = int(rng.integers(0, 256))
            if round_ % 5 == 0:
                changed += bytes(rng.integers(0, 256, 200, dtype=np.uint8))
            yield bytes(changed)
    yield from (b"", b"\0" * 1000, b"GIF89a", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.4")
    yield bomb(60_000, 60_000)
    yield bomb(0, 0)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it has ``width`` x ``height`` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_over_two_hundred_fuzzed_images(scorer: DescScorer, photos: list[Path]) -> None:
    """Each is scored as ``score`` would, or a row with the error that ``score`` raises."""
    images = list(fuzzed_images(photos[0]))
    assert len(images) > 200
    pairs: list[tuple[ImageSource, str]] = [(image, f"Text {i}.") for i, image in enumerate(images)]
    pairs[::10] = [(photos[0], text) for _, text in pairs[::10]]
    outcomes = list(scorer.score_stream(pairs, StreamOptions(workers=2, window=64)))
    assert len({outcome.status for outcome in outcomes}) >= 4
    for (image, text), outcome in zip(pairs, outcomes, strict=True):
        try:
            load_image(image)
        except ImageError as error:
            assert (outcome.status, outcome.score) == (error.kind, None)
        else:
            assert outcome.score is not None
            expected = scorer.score(image, text).cosine
            assert outcome.score.cosine == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("x" * 1001, "ok"),
        ("xq" * 8000, "ok"),
        ("word " * 20_001, "text_too_long"),
        ("word" + " " * 200_000, "ok"),
        ("a\x01" * 60_000, "ok"),
        ("&" + "amp;" * 25_000, "not_text"),
        ("猫が座る" * 100, "ok"),
        ("\0", "empty_text"),
        ("\ud800", "not_text"),
        (b"bytes", "not_text"),
        (3, "not_text"),
        (float("nan"), "not_text"),
    ],
)
def test_odd_texts(scorer: DescScorer, photos: list[Path], text: Any, status: str) -> None:
    start = time.process_time()
    (outcome,) = scorer.score_stream([(photos[0], text)], HERE)
    assert outcome.status == status
    assert time.process_time() - start < 20


def test_a_missing_text_of_a_frame_is_a_row_where_empty_texts_are_decorative(
    scorer: DescScorer, photos: list[Path]
) -> None:
    """pandas says neither yes nor no when it compares ``pd.NA`` with a text."""
    texts: list[Any] = ["", pd.NA, np.array(["", ""]), "A cat."]
    options = StreamOptions(workers=0, decorative_empty=True)
    outcomes = scorer.score_stream([(photos[0], text) for text in texts], options)
    assert [outcome.status for outcome in outcomes] == ["decorative", "not_text", "not_text", "ok"]


def test_references_may_be_the_arrays_that_pandas_reads_from_parquet(
    scorer: DescScorer, photos: list[Path], tmp_path: Path
) -> None:
    lists = [["A dog."], ["A cat.", "A brown cat."], []]
    frame = pd.DataFrame({"image": [str(photos[0])] * 3, "text": ["A dog."] * 3, "references": lists})
    frame.to_parquet(tmp_path / "frame.parquet")
    read: list[Any] = pd.read_parquet(tmp_path / "frame.parquet").to_dict("records")
    assert isinstance(read[0]["references"], np.ndarray)
    found, expected = (
        [each.score and each.score.reference_score for each in scorer.score_stream(rows, HERE)]
        for rows in (
            [*read, Pair(photos[0], "A dog.", references=read[1]["references"])],
            [*frame.to_dict("records"), Pair(photos[0], "A dog.", references=lists[1])],
        )
    )
    assert found == expected
    assert [score is None for score in found] == [False, False, True, False]


def test_what_is_no_text_is_not_kept(scorer: DescScorer, photos: list[Path]) -> None:
    """Memory does not grow with values that are no texts."""
    pairs = ((photos[0], b"x" * 200_000) for _ in range(200))
    tracemalloc.start()
    outcomes = list(scorer.score_stream(pairs, HERE))  # type: ignore[arg-type]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert {outcome.status for outcome in outcomes} == {"not_text"}
    assert peak < 8 << 20


@pytest.mark.parametrize(
    "wrong",
    [{"window": 0}, {"workers": -1}, {"time_limit": 0.0}, {"window_bytes": -1}, {"time_limit": float("nan")}],
)
def test_wrong_options(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        StreamOptions(**wrong)


@pytest.mark.parametrize("kind", ["array", "bytearray", "picture", "path"])
def test_an_image_is_taken_when_its_pair_is_taken(
    scorer: DescScorer, photos: list[Path], tmp_path: Path, kind: str
) -> None:
    """A reused array, buffer, picture or file holds another image when the pair's turn comes."""
    arrays = [np.asarray(Image.open(photo).convert("RGB").resize((32, 32))).copy() for photo in photos[:5]]
    array, picture, path = arrays[0].copy(), Image.fromarray(arrays[0]), tmp_path / "frame.png"
    data = bytearray(1 << 16)

    def frames() -> Iterator[tuple[Any, str]]:
        for frame in arrays:
            array[:] = frame
            picture.paste(Image.fromarray(frame))
            buffer = io.BytesIO()
            picture.save(buffer, "PNG")
            data[:] = buffer.getvalue().ljust(1 << 16, b"\0")
            if kind == "path":
                path.write_bytes(buffer.getvalue())
            yield {"array": array, "bytearray": data, "picture": picture, "path": path}[kind], "A cat."

    expected = [scorer.score(frame, "A cat.").cosine for frame in arrays]
    assert len({round(cosine, 6) for cosine in expected}) == 5
    for workers in (0, 1):
        found = cosines(list(scorer.score_stream(frames(), StreamOptions(workers=workers))))
        assert found == pytest.approx(expected, abs=1e-6)


def test_the_fault_of_a_file_that_was_just_written_names_it(scorer: DescScorer, tmp_path: Path) -> None:
    def frames() -> Iterator[tuple[Path, str]]:
        (tmp_path / "x.png").write_bytes(b"no image")
        yield tmp_path / "x.png", "A cat."

    [outcome] = scorer.score_stream(frames(), HERE)
    assert outcome.status == "not_an_image"
    assert str(outcome.error).startswith(f"{tmp_path / 'x.png'}: ")
