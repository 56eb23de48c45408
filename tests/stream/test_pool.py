"""Worker processes that decode images: they may die or hang, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import psutil
import pytest
from batch_inputs import make_pairs

import descscore
from descscore import images
from descscore.errors import ImageError
from descscore.images import PixelSpec, load_image, picture_pixels
from descscore.stream import worker
from descscore.stream.pool import DecodePool
from descscore.stream.worker import PoolOptions, WorkerError

PATH = {
    "PYTHONPATH": os.pathsep.join([str(Path(descscore.__file__).parents[1]), str(Path(__file__).parents[1])])
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_pairs(tmp_path_factory.mktemp("photos"), 7, images=7).images


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
        assert worker.read_image_file(str(photos[0])) == photos[0].read_bytes()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10e6
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 1000)
    file = tmp_path / "long.png"
    file.write_bytes(bytes(1000))
    assert worker.read_image_file(str(file)) == bytes(1000)
    file.write_bytes(bytes(1001))
    with pytest.raises(ImageError, match=r"long.png: over the limit of 1000 bytes") as found:
        worker.read_image_file(str(file))
    assert found.value.kind == "image_too_large"


def test_an_image_that_takes_too_much_memory_costs_its_own_row(photos: list[Path]) -> None:
    """A decoder that nobody has bounded yet: the system refuses it the memory, and not the machine."""
    spec = PixelSpec(32, 32)
    options = PoolOptions(workers=1, slots=2, function="hostile_decoders:take_memory")
    with DecodePool(spec, options) as pool:
        for number, name in enumerate(("hungry", str(photos[0]))):
            pool.submit(number, name)
        first, second = pool.get(), pool.get()
    assert first.error is not None
    assert first.error.kind == "image_too_large"
    assert "hungry: takes over 4,294,967,296 bytes of memory" in str(first.error)
    assert second.error is None


def test_a_search_path_may_hold_what_python_passes_over(
    photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Notebooks often add a ``Path``, which no import looks at."""
    monkeypatch.setattr(sys, "path", [Path("/nowhere"), *sys.path])
    with DecodePool(PixelSpec(32, 32), PoolOptions(workers=1, slots=2)) as pool:
        pool.submit(0, str(photos[0]))
        assert pool.get().error is None


@pytest.mark.parametrize("limit", [1e9, float("inf")])
def test_a_time_limit_may_be_longer_than_the_system_can_wait(photos: list[Path], limit: float) -> None:
    with DecodePool(PixelSpec(32, 32), PoolOptions(workers=1, slots=2, time_limit=limit)) as pool:
        pool.submit(0, str(photos[0]))
        assert pool.get().error is None


def test_an_odd_error_of_a_decoder_quotes_no_bytes_of_the_image() -> None:
    options = PoolOptions(workers=1, slots=2, function="operator:truediv")  # fails with any arguments
    with DecodePool(PixelSpec(32, 32), options) as pool:
        pool.submit(0, b"\x89PNG")
        error = pool.get().error
    assert error is not None
    assert str(error).startswith("image bytes: cannot be decoded (TypeError(")


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


SCRIPT = """
import sys
from descscore.images import PixelSpec
from descscore.stream.pool import DecodePool
from descscore.stream.worker import PoolOptions

with DecodePool(PixelSpec(32, 32), PoolOptions(workers=1, slots=2)) as pool:
    pool.submit(0, sys.argv[1])
    print(pool.get().error)
"""


def test_a_script_needs_no_main_guard(photos: list[Path], tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, script, photos[0]], capture_output=True, text=True, env={**os.environ, **PATH}
    )
    assert (done.stdout, done.stderr) == ("None\n", "")


HANGING = """
import sys
from descscore.images import PixelSpec
from descscore.stream.pool import DecodePool
from descscore.stream.worker import PoolOptions

pool = DecodePool(PixelSpec(32, 32), PoolOptions(1, 2, 3600, "hostile_decoders:misbehave"))
for number, image in enumerate(sys.argv[1:]):
    pool.submit(number, image)
pool.get()
print("decoding", flush=True)
pool.get()
"""


def test_a_worker_that_hangs_dies_with_the_process_that_scores(photos: list[Path], tmp_path: Path) -> None:
    """Even if that is killed and can end nothing itself."""
    images = [photos[0], tmp_path / "hang.png"]
    process = subprocess.Popen(
        [sys.executable, "-c", HANGING, *images], stdout=subprocess.PIPE, env={**os.environ, **PATH}
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"decoding\n"
    below = psutil.Process(process.pid).children(recursive=True)
    assert len(below) == 2
    process.kill()
    process.wait()
    psutil.wait_procs(below, timeout=20)
    assert not [each for each in below if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("module", ["worker", "dispatcher"])
def test_the_processes_of_a_pool_import_no_torch(module: str) -> None:
    code = (
        f"import sys, descscore.stream.{module}; print(sorted({{'torch', 'open_clip'}} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **PATH}
    )
    assert done.stdout.strip() == "[]"
