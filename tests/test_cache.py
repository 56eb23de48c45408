"""The feature cache: right features, encoded once, whatever happens to the files or the process."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from conftest import TINY, make_photo, save_model
from descscore.cache import FeatureCache, ImageKey, image_key
from descscore.encoder import Encoder
from descscore.errors import DataError, ImageError, ModelError
from descscore.models import load_model
from descscore.tables.rows import FileImage

KEY = ImageKey(weights="0123456789ab", structure="ba9876543210", preprocessing="32px-squash-bicubic-clip")


def feature(image: Image.Image) -> Tensor:
    """Six numbers that tell images apart."""
    pixels = torch.tensor(list(image.resize((2, 1)).tobytes()), dtype=torch.float32)
    return pixels / 255


class Counting:
    """An encoder that counts what it is given."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        self.batches.append(len(images))
        return torch.stack([feature(image) for image in images])

    @property
    def total(self) -> int:
        return sum(self.batches)


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    return [make_photo(tmp_path / f"{i}.png", seed=i, size=(8, 6)) for i in range(7)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def expected(paths: Sequence[Path]) -> Tensor:
    return torch.stack([feature(Image.open(path).convert("RGB")) for path in paths])


def feature_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.safetensors"))


def test_features_come_in_order_and_are_encoded_once(folder: Path, photos: list[Path]) -> None:
    encode = Counting()
    cache = FeatureCache(folder, KEY, batch_size=3)
    assert torch.equal(cache.get_many(photos, encode), expected(photos))
    assert encode.batches == [3, 3, 1]
    back = photos[::-1]
    again = FeatureCache(folder, KEY).get_many(back, encode)
    assert torch.equal(again, expected(back))
    assert encode.total == 7


def test_equal_content_is_encoded_once_whatever_its_form(folder: Path, photos: list[Path]) -> None:
    copy = Path(shutil.copy(photos[0], folder.parent / "copy.png"))
    sources = [photos[0], str(copy), photos[0].read_bytes(), FileImage(copy), photos[1]]
    encode = Counting()
    found = FeatureCache(folder, KEY).get_many(sources, encode)
    assert encode.total == 2
    assert torch.equal(found, expected([photos[0]] * 4 + [photos[1]]))


def test_only_missing_images_are_encoded(folder: Path, photos: list[Path]) -> None:
    encode = Counting()
    FeatureCache(folder, KEY).get_many(photos[:4], encode)
    FeatureCache(folder, KEY).get_many(photos, encode)
    assert encode.batches == [4, 3]


def test_changed_content_is_encoded_anew(folder: Path, photos: list[Path]) -> None:
    encode = Counting()
    FeatureCache(folder, KEY).get_many(photos[:1], encode)
    make_photo(photos[0], seed=99, size=(8, 6))
    assert torch.equal(FeatureCache(folder, KEY).get_many(photos[:1], encode), expected(photos[:1]))
    assert encode.total == 2


@pytest.mark.parametrize("part", ["weights", "structure", "preprocessing"])
def test_another_model_has_its_own_features(folder: Path, photos: list[Path], part: str) -> None:
    encode = Counting()
    FeatureCache(folder, KEY).get_many(photos, encode)
    FeatureCache(folder, replace(KEY, **{part: "other"})).get_many(photos, encode)
    assert encode.total == 14
    assert len(list(folder.iterdir())) == 2
    texts = [path.read_text() for path in folder.glob("*/key.json")]
    assert any('"other"' in text for text in texts)


def test_features_go_to_disk_a_file_at_a_time(folder: Path, photos: list[Path]) -> None:
    FeatureCache(folder, KEY, batch_size=1, file_size=2).get_many(photos, Counting())
    assert len(feature_files(folder)) == 4
    encode = Counting()
    assert torch.equal(FeatureCache(folder, KEY).get_many(photos, encode), expected(photos))
    assert encode.total == 0


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 0x10  # inside a feature: the file is still well formed
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def noise(path: Path) -> None:
    path.write_bytes(os.urandom(300))


def replaced(digests: Tensor, features: Tensor) -> Callable[[Path], None]:
    """Damage: other tensors, with a checksum that fits."""

    def replace_it(path: Path) -> None:
        parts = {"digests": digests.contiguous(), "features": features}
        data = b"".join(part.view(torch.uint8).numpy().tobytes() for part in parts.values())
        save_file(parts, path, metadata={"sha256": hashlib.sha256(data).hexdigest()})

    return replace_it


_DIGESTS, _NAN = torch.zeros(3, 32, dtype=torch.uint8), float("nan")


@pytest.mark.parametrize(
    "damage",
    [
        *(cut, flip, empty, noise),
        replaced(_DIGESTS, torch.zeros(2, 6)),
        replaced(_DIGESTS[:, :16], torch.zeros(3, 6)),
        replaced(_DIGESTS, torch.zeros(3, 6, dtype=torch.bfloat16)),
        replaced(_DIGESTS, torch.full((3, 6), _NAN)),
        replaced(_DIGESTS, torch.zeros(3)),
        replaced(torch.zeros(32, dtype=torch.uint8), torch.zeros(32, 6)),
    ],
)
def test_damaged_files_are_noticed_and_rebuilt(
    folder: Path, photos: list[Path], damage: object, caplog: pytest.LogCaptureFixture
) -> None:
    cache = FeatureCache(folder, KEY, batch_size=1, file_size=3)
    cache.get_many(photos, Counting())
    assert callable(damage)
    damage(feature_files(folder)[0])
    encode = Counting()
    assert torch.equal(cache.get_many(photos, encode), expected(photos))
    assert encode.total in (1, 3)
    assert "damaged feature cache file" in caplog.text
    repaired = Counting()
    cache.get_many(photos, repaired)
    assert repaired.total == 0


def test_a_damaged_image_is_named_and_the_rest_is_kept(folder: Path, photos: list[Path]) -> None:
    photos[2].write_bytes(photos[2].read_bytes()[:60])
    photos[5].unlink()
    encode = Counting()
    cache = FeatureCache(folder, KEY)
    with pytest.raises(ImageError, match=r"^[^:]*2\.png: [^:]*$"):
        cache.get_many(photos, encode)
    with pytest.raises(ImageError) as missing:
        cache.get_many(photos[3:], encode)
    assert missing.value.kind == "missing_image"
    good = [photo for i, photo in enumerate(photos) if i not in (2, 5)]
    assert torch.equal(cache.get_many(good, encode), expected(good))
    assert encode.total == 5


def test_when_no_image_can_be_read_nothing_is_kept(folder: Path) -> None:
    with pytest.raises(ImageError, match=r"^image bytes: [^:]*$"):
        FeatureCache(folder, KEY).get_many([b"", b"none"], Counting())
    assert not folder.exists()


def test_an_image_that_changes_between_looks_is_an_error(folder: Path, photos: list[Path]) -> None:
    class Changing:
        def __init__(self) -> None:
            self.reads = 0

        def check(self) -> None: ...

        def read(self) -> bytes:
            self.reads += 1
            return photos[min(self.reads, 2)].read_bytes()

    with pytest.raises(ImageError, match="changed while it was read"):
        FeatureCache(folder, KEY).get_many([Changing()], Counting())


def test_an_error_in_the_model_keeps_what_came_before(folder: Path, photos: list[Path]) -> None:
    def failing(images: Sequence[Image.Image]) -> Tensor:
        if failing_calls.append(1) or len(failing_calls) == 3:
            raise RuntimeError("out of memory")
        return torch.stack([feature(image) for image in images])

    failing_calls: list[int] = []
    cache = FeatureCache(folder, KEY, batch_size=2)
    with pytest.raises(RuntimeError, match="out of memory"):
        cache.get_many(photos, failing)
    encode = Counting()
    cache.get_many(photos, encode)
    assert encode.total == 3


@pytest.mark.parametrize("wrong", [torch.full((7, 6), torch.nan), torch.zeros(3, 6), torch.zeros(7)])
def test_wrong_features_are_refused(folder: Path, photos: list[Path], wrong: Tensor) -> None:
    with pytest.raises(ModelError, match="features"):
        FeatureCache(folder, KEY).get_many(photos, lambda images: wrong)
    assert not feature_files(folder)


def test_no_sources_are_an_error(folder: Path) -> None:
    with pytest.raises(DataError, match="no images"):
        FeatureCache(folder, KEY).get_many([], Counting())


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path, photos: list[Path]) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot be written"):
        FeatureCache(tmp_path / "file", KEY).get_many(photos, Counting())


def test_a_full_disk_leaves_no_broken_file(
    folder: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DataError, match="No space left"):
            FeatureCache(folder, KEY).get_many(photos, Counting())
    assert [path for path in folder.rglob("*") if path.is_file()] == []
    assert torch.equal(FeatureCache(folder, KEY).get_many(photos, Counting()), expected(photos))


def test_old_temporary_files_go_and_young_ones_stay(folder: Path, photos: list[Path]) -> None:
    space = folder / KEY.folder
    space.mkdir(parents=True)
    old, young = space / ".unfinished-old.part", space / ".unfinished-young.part"
    old.touch()
    young.touch()
    os.utime(old, (time.time() - 7200,) * 2)
    FeatureCache(folder, KEY).get_many(photos, Counting())
    assert not old.exists()
    assert young.exists()


def fill(folder: Path, photos: list[Path], pauses: list[float], start: Barrier) -> None:
    """What a writing process does: a file for every image, each after its pause in seconds."""

    def slow(images: Sequence[Image.Image]) -> Tensor:
        time.sleep(pauses.pop(0))
        return torch.stack([feature(image) for image in images])

    start.wait()
    FeatureCache(folder, KEY, batch_size=1, file_size=1).get_many(photos, slow)


@pytest.mark.long
def test_processes_may_write_at_the_same_time_and_be_killed(folder: Path, photos: list[Path]) -> None:
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(2)
    finished = context.Process(target=fill, args=(folder, photos[:4], [0.02] * 4, start))
    killed = context.Process(target=fill, args=(folder, [photos[5], photos[6]], [0.03, 600.0], start))
    for writer in (finished, killed):
        writer.start()
    deadline = time.monotonic() + 120
    while len(feature_files(folder)) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.kill()
    for writer in (finished, killed):
        writer.join()
    assert finished.exitcode == 0
    assert killed.exitcode != 0
    encode = Counting()
    assert torch.equal(FeatureCache(folder, KEY).get_many(photos, encode), expected(photos))
    assert encode.total == 2


@given(
    st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=6), min_size=1, max_size=4), st.integers(1, 3)
)
@settings(max_examples=10, deadline=None)
def test_any_calls_give_the_right_features(
    tmp_path_factory: pytest.TempPathFactory, calls: list[list[int]], size: int
) -> None:
    root = tmp_path_factory.mktemp("calls")
    paths = [make_photo(root / f"{i}.png", seed=i, size=(8, 6)) for i in range(7)]
    encode = Counting()
    for call in calls:
        sources = [paths[i] for i in call]
        found = FeatureCache(root / "cache", KEY, batch_size=size, file_size=size).get_many(sources, encode)
        assert torch.equal(found, expected(sources))
    assert encode.total == len({i for call in calls for i in call})


def test_real_features_are_those_of_the_encoder(tiny_folder: Path, folder: Path, photos: list[Path]) -> None:
    model = load_model(tiny_folder, device="cpu")
    encoder = Encoder(model, batch_size=4)
    cache = FeatureCache(folder, image_key(model), batch_size=4)
    first, second = cache.get_many(photos, encoder.images), cache.get_many(photos, encoder.images)
    assert torch.equal(first, second)
    direct = encoder.images([Image.open(path).convert("RGB") for path in photos])
    torch.testing.assert_close(first, direct.clone(), atol=1e-6, rtol=0)


def test_key_follows_image_weights_activation_and_preprocessing(tmp_path: Path, tiny_folder: Path) -> None:
    key = image_key(load_model(tiny_folder, device="cpu"))
    assert image_key(load_model(tiny_folder, device="cpu")) == key
    other_weights = save_model(tmp_path / "other", TINY, seed=1)
    assert image_key(load_model(other_weights, device="cpu")).weights != key.weights
    quick = {**TINY, "model_cfg": {**TINY["model_cfg"], "quick_gelu": True}}
    quick_key = image_key(load_model(save_model(tmp_path / "quick", quick), device="cpu"))
    assert (quick_key.weights, quick_key.preprocessing) == (key.weights, key.preprocessing)
    assert quick_key.structure != key.structure
    crop = {**TINY, "preprocess_cfg": {**TINY["preprocess_cfg"], "resize_mode": "shortest"}}
    crop_key = image_key(load_model(save_model(tmp_path / "crop", crop), device="cpu"))
    assert crop_key.preprocessing != key.preprocessing
    assert len({k.folder for k in (key, quick_key, crop_key)}) == 3


def test_tuning_the_text_tower_keeps_the_images_key(tiny_folder: Path) -> None:
    model = load_model(tiny_folder, device="cpu")
    key = image_key(model)
    with torch.no_grad():
        model.clip.ln_final.weight.mul_(2)  # type: ignore[union-attr, operator]
    assert image_key(model) == key


def test_folder_name_follows_the_whole_key() -> None:
    assert len(KEY.folder) == 16
    assert KEY.folder == replace(KEY).folder
    assert replace(KEY, weights="x").folder != KEY.folder


def zeros(images: Sequence[Image.Image]) -> Tensor:
    return torch.zeros(len(images), 6)


@pytest.mark.parametrize("planted", ["by others", "by a link"])
def test_features_that_others_may_have_written_are_not_used(
    folder: Path, photos: list[Path], tmp_path: Path, planted: str
) -> None:
    """A file with false features has a checksum that fits; who can write it decides what a model sees."""
    FeatureCache(tmp_path / "false", KEY).get_many(photos, zeros)
    (false,) = feature_files(tmp_path / "false")
    target = folder / KEY.folder / false.name
    target.parent.mkdir(parents=True)
    if planted == "by others":
        shutil.copyfile(false, target)
        target.chmod(0o666)
    else:
        target.symlink_to(false)
    encode = Counting()
    for _ in range(2):
        assert torch.equal(FeatureCache(folder, KEY).get_many(photos, encode), expected(photos))
    assert encode.total == 7


def test_only_its_owner_can_write_to_a_cache(folder: Path, photos: list[Path]) -> None:
    before = os.umask(0)
    try:
        FeatureCache(folder, KEY).get_many(photos, Counting())
        modes = [path.stat().st_mode & 0o077 for path in (folder / KEY.folder, *feature_files(folder))]
        assert modes == [0, 0]
        (folder / KEY.folder).chmod(0o777)  # as an earlier version made it
        FeatureCache(folder, KEY).get_many(photos, Counting())
        assert not (folder / KEY.folder).stat().st_mode & 0o022
    finally:
        os.umask(before)


def test_a_cache_of_another_user_is_refused(
    folder: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    FeatureCache(folder, KEY).get_many(photos, Counting())
    (folder / KEY.folder).chmod(0o777)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 12345)
    with pytest.raises(DataError, match="others can write here"):
        FeatureCache(folder, KEY).get_many(photos, Counting())
