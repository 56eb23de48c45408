"""Features that a stream remembers: those used last, and nothing that changes behind anybody's back."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from descscore.stream.image_features import FeatureMemory


def feature(number: int) -> np.ndarray:
    return np.full(3, number, np.float32)


def test_the_contents_used_last_are_kept() -> None:
    memory = FeatureMemory(2)
    assert memory.get(b"a") is None
    memory.keep(b"a", feature(1))
    memory.keep(b"b", feature(2))
    assert memory.get(b"a") is not None  # used again: b is now the oldest
    memory.keep(b"c", feature(3))
    assert memory.get(b"b") is None
    assert memory.get(b"a").tolist() == [1, 1, 1]
    assert memory.get(b"c").tolist() == [3, 3, 3]


def test_what_was_given_out_stays_when_its_place_is_taken() -> None:
    memory = FeatureMemory(1)
    given = feature(1)
    memory.keep(b"a", given)
    given[:] = 9
    found = memory.get(b"a")
    memory.keep(b"b", feature(2))
    assert found.tolist() == [1, 1, 1]
    assert memory.get(b"a") is None


def test_it_is_a_dict_of_the_last_ones_whatever_is_asked_of_it() -> None:
    rng = np.random.default_rng(0)
    memory, plain = FeatureMemory(7), OrderedDict[bytes, float]()
    for number in range(3000):
        digest = b"%d" % rng.integers(12)
        if rng.random() < 0.5:
            memory.keep(digest, feature(number))
            plain[digest] = number
            plain.move_to_end(digest)
            if len(plain) > 7:
                plain.popitem(last=False)
        else:
            found = memory.get(digest)
            assert (None if found is None else found.tolist()) == (
                [plain[digest]] * 3 if digest in plain else None
            )
            if digest in plain:
                plain.move_to_end(digest)
        assert len(memory) == len(plain)
