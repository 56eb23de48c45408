"""``DescScorer.score_stream``: equal to single pairs whatever happens on the way."""

from __future__ import annotations

import gc
import io
import itertools
import os
import random
import signal
import struct
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from batch_inputs import TEXTS
from PIL import Image

import descscore.encoder as encoder
import descscore.stream.image_features as image_stage
import descscore.stream.worker as decode_worker
from conftest import make_photo, save_model
from descscore import DescScorer
from descscore.errors import ImageError, UsageError
from descscore.images import ImageSource, PixelSpec, load_image, picture_pixels
from descscore.records import Outcome
from descscore.stream.pairs import StreamOptions
from descscore.stream.pool import DecodePool, PoolOptions
from descscore.stream.worker import WorkerError

HERE = StreamOptions(workers=0)
HOSTILE = "hostile_decoders:misbehave"


@pytest.fixture(scope="module")
def scorer(tiny_folder: Path) -> DescScorer:
    return DescScorer.from_pretrained(tiny_folder, device="cpu", batch_size=4)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    return [make_photo(folder / f"{i}.png", seed=i, size=(40 + 9 * i, 50)) for i in range(7)]


def cosines(outcomes: list[Outcome]) -> list[float]:
    assert {outcome.status for outcome in outcomes} == {"ok"}
    return [outcome.score.cosine for outcome in outcomes if outcome.score is not None]


def batches(scorer: DescScorer, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each batch holds that the scorer encodes from now on."""
    encoded: list[int] = []
    real = scorer.encoder.pixels
    monkeypatch.setattr(scorer.encoder, "pixels", lambda p: encoded.append(len(p)) or real(p))
    return encoded


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


def test_images_of_one_content_are_encoded_once(
    scorer: DescScorer, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = batches(scorer, monkeypatch)
    copies = [tmp_path / f"copy{i}.png" for i in range(6)]
    for copy in copies:
        copy.write_bytes(photos[0].read_bytes())
    images: list[ImageSource] = [photos[0], *copies, photos[0].read_bytes(), photos[1]] * 3
    pairs = [(image, f"Text {i}.") for i, image in enumerate(images)]
    found = cosines(list(scorer.score_stream(pairs, StreamOptions(workers=0, window=5))))
    assert sum(encoded) == 2
    assert found == pytest.approx([scorer.score(i, t).cosine for i, t in pairs], abs=1e-6)


def test_batches_are_full_until_too_little_is_left_to_decode(
    scorer: DescScorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the window: batches of ever new sizes would each cost a GPU its preparation."""
    encoded = batches(scorer, monkeypatch)
    pairs = [(make_photo(tmp_path / f"{i}.png", seed=i, size=(40, 40)), f"Text {i}.") for i in range(40)]
    outcomes = list(scorer.score_stream(pairs, StreamOptions(workers=0, window=6)))
    full = scorer.encoder.batch_size
    assert sum(encoded) == 40
    assert encoded[: (40 - 3 * full) // full] == [full] * ((40 - 3 * full) // full)
    assert cosines(outcomes) == pytest.approx([scorer.score(i, t).cosine for i, t in pairs], abs=1e-6)


def test_batches_filled_up_for_a_gpu_give_the_same_features(tiny_folder: Path) -> None:
    """Filled up on the CPU here; also where a batch is halved because even a full one does not fit."""
    filled = DescScorer.from_pretrained(tiny_folder, device="cpu", batch_size=8).encoder
    plain = DescScorer.from_pretrained(tiny_folder, device="cpu", batch_size=8).encoder
    filled._fills_up, run = True, filled._picture_features
    ran: list[int] = []

    def at_most_six(pictures: torch.Tensor) -> torch.Tensor:
        if len(pictures) > 6:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        ran.append(len(pictures))
        return run(pictures)

    filled._picture_features = at_most_six
    pictures = torch.randint(0, 256, (11, 32, 32, 3), dtype=torch.uint8)
    torch.testing.assert_close(filled.pixels(pictures), plain.pixels(pictures), rtol=0, atol=1e-6)
    assert ran == [4, 4, 4]  # of the last, three are asked for
    assert plain._fills_up is False


def test_what_is_remembered_is_bounded(
    scorer: DescScorer, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room for two features only, more are encoded, and all results are right."""
    monkeypatch.setattr(image_stage, "REMEMBERED", 2)
    stages: list[image_stage.ImageStage] = []
    real = image_stage.ImageStage.__init__

    def init(self: image_stage.ImageStage, *args: Any) -> None:
        real(self, *args)
        stages.append(self)

    monkeypatch.setattr(image_stage.ImageStage, "__init__", init)
    pairs = [(photos[i % 7], f"Text {i}.") for i in range(40)]
    found = cosines(list(scorer.score_stream(pairs, StreamOptions(workers=0, window=3))))
    assert found == pytest.approx([scorer.score(i, t).cosine for i, t in pairs], abs=1e-6)
    (stage,) = stages
    assert len(stage._known) == len(stage._paths) == 2
    assert not stage._wanted
    assert not stage._keys_of
    assert not stage._pile


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


def test_a_killed_or_stopped_worker_is_replaced(photos: list[Path]) -> None:
    """From outside, as the system's out-of-memory killer does it."""
    spec = PixelSpec(32, 32)
    with DecodePool(spec, PoolOptions(workers=1, slots=2, time_limit=1.0)) as pool:
        for number, harm in enumerate((None, signal.SIGKILL, signal.SIGSTOP)):
            if harm is not None:
                os.kill(workers(pool)[0], harm)
            pool.submit(number, str(photos[0]))
            answer = pool.get()
            if harm == signal.SIGSTOP:
                assert answer.error is not None
                assert answer.error.kind == "image_timeout"
            else:
                assert answer.error is None
                assert answer.slot is not None
                pool.release(answer.slot)
        pool.submit(9, str(photos[0]))
        assert pool.get().error is None


def workers(pool: DecodePool) -> list[int]:
    return [child.pid for child in psutil.Process(pool.process.pid).children()]


def test_workers_end_with_the_process_that_hands_images_out(photos: list[Path]) -> None:
    with DecodePool(PixelSpec(32, 32), PoolOptions(workers=2, slots=4)) as pool:
        pool.submit(0, str(photos[0]))
        assert pool.get().error is None
        running = [psutil.Process(pid) for pid in workers(pool)]
        assert running
        pool.process.kill()
        pool.submit(1, str(photos[0]))
        with pytest.raises(WorkerError, match="has ended"):
            pool.get()
        psutil.wait_procs(running, timeout=20)
        assert not [each for each in running if each.is_running()]


def test_a_file_over_the_limit_is_said_and_none_sets_the_limit_aside(
    photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracemalloc.start()
    try:
        assert decode_worker.read_image_file(str(photos[0])) == photos[0].read_bytes()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10e6
    monkeypatch.setattr(decode_worker, "MAX_FILE_BYTES", 1000)
    file = tmp_path / "long.png"
    file.write_bytes(bytes(1000))
    assert decode_worker.read_image_file(str(file)) == bytes(1000)
    file.write_bytes(bytes(1001))
    with pytest.raises(ImageError, match=r"long.png: over the limit of 1000 bytes") as found:
        decode_worker.read_image_file(str(file))
    assert found.value.kind == "image_too_large"


def test_pictures_in_slots_are_copied_to_where_they_are_asked_for(photos: list[Path]) -> None:
    """Out of order, and whatever lies in the other slots."""
    spec = PixelSpec(32, 48)
    with DecodePool(spec, PoolOptions(workers=2, slots=8)) as pool:
        for number, photo in enumerate(photos):
            pool.submit(number, str(photo))
        slots = {answer.number: answer.slot for answer in (pool.get() for _ in photos)}
        chosen = [5, 0, 3]
        out = np.full((3, 32, 48, 3), 7, np.uint8)
        taken = [slots[number] for number in chosen]
        assert None not in taken
        pool.pixels([slot for slot in taken if slot is not None], out)
        for place, number in enumerate(chosen):
            assert (out[place] == picture_pixels(load_image(photos[number]), spec)).all()


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


@pytest.mark.parametrize("limit", [1, 3])
def test_the_batch_is_halved_when_memory_runs_out(
    tiny_folder: Path, photos: list[Path], limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = DescScorer.from_pretrained(tiny_folder, device="cpu", batch_size=16)
    real_image, real_texts = scorer.encoder._picture_features, encoder.run_texts

    def small(pixels: torch.Tensor) -> torch.Tensor:
        if len(pixels) > limit:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return real_image(pixels)

    def small_texts(clip: Any, tokens: torch.Tensor, *rest: Any) -> Any:
        if len(tokens) > limit:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return real_texts(clip, tokens, *rest)

    monkeypatch.setattr(scorer.encoder, "_picture_features", small)
    monkeypatch.setattr(encoder, "run_texts", small_texts)
    pairs = [(photos[i % 7], f"{TEXTS[i % 5]} {i}") for i in range(14)]
    found = cosines(list(scorer.score_stream(pairs, HERE)))
    assert scorer.encoder.batch_size <= limit
    plain = DescScorer.from_pretrained(tiny_folder, device="cpu")
    monkeypatch.undo()
    assert found == pytest.approx([plain.score(i, t).cosine for i, t in pairs], abs=1e-6)


def test_other_errors_of_the_model_are_not_taken_for_memory(
    tiny_folder: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = DescScorer.from_pretrained(tiny_folder, device="cpu")

    def fail(pixels: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(scorer.encoder, "_picture_features", fail)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        list(scorer.score_stream([(photos[0], "A cat.")], HERE))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reduced_precision_is_close_and_in_the_signature(
    tmp_path: Path, photos: list[Path], precision: str
) -> None:
    from conftest import TINY

    folder = save_model(tmp_path / "m", TINY)
    full = DescScorer.from_pretrained(folder, device="cpu")
    reduced = DescScorer.from_pretrained(folder, device="cpu", precision=precision)
    assert f"precision:{precision}" in reduced.signature
    assert "precision:float32" in full.signature
    pairs = [(photos[i % 7], f"{TEXTS[i % 5]} {i}") for i in range(20)]
    a, b = (np.array(cosines(list(s.score_stream(pairs, HERE)))) for s in (full, reduced))
    assert 0 < np.abs(a - b).mean() < 3e-3
    assert full.model.clip.ln_final.weight.dtype == torch.float32
    with pytest.raises(UsageError, match="bfloat"):
        DescScorer.from_pretrained(folder, device="cpu", precision="bfloat")


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("x" * 1001, "text_too_long"),
        ("x" * 1000, "ok"),
        ("word " * 20_001, "text_too_long"),
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


@pytest.mark.parametrize(
    "wrong",
    [{"window": 0}, {"workers": -1}, {"time_limit": 0.0}, {"window_bytes": -1}, {"time_limit": float("nan")}],
)
def test_wrong_options(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        StreamOptions(**wrong)
