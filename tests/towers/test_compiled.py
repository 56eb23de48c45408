"""``--compile``: the same scores, or one line that says what is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from batch_inputs import make_pairs, write_csv
from torch.nn.functional import normalize
from tower_models import model

from descscore import DescScorer
from descscore.errors import ModelError
from descscore.towers.image import compiled, encode_images


def has_compiler() -> bool:
    """Whether torch itself finds a C++ compiler that works."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, RuntimeError):
        return False
    return True


@pytest.mark.long
@torch.inference_mode()
def test_features_are_equal_or_the_missing_compiler_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    clip = model(vision={"layers": 1})  # compiling takes seconds a kernel
    tower, pixels = partial(encode_images, clip), torch.randn(2, 3, 32, 32)
    if not has_compiler():
        with pytest.raises(ModelError, match="C\\+\\+ compiler"):
            compiled(tower, pixels)
        return
    found = normalize(compiled(tower, pixels)(pixels), dim=-1)
    torch.testing.assert_close(found, normalize(tower(pixels), dim=-1), rtol=0, atol=1e-6)


def test_an_encoder_takes_batches_of_any_size_once_it_is_compiled(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced and run without a compiler, which is the same but for the last step."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    scorer = DescScorer.from_pretrained(tiny_folder, device="cpu")
    pixels = torch.randint(0, 256, (5, 32, 32, 3), dtype=torch.uint8)
    plain = scorer.encoder.pixels(pixels)
    scorer.encoder.compile()
    for count in (1, 2, 5):
        torch.testing.assert_close(scorer.encoder.pixels(pixels[:count]), plain[:count], rtol=0, atol=1e-6)


@pytest.mark.long
def test_without_a_compiler_the_command_says_so(tiny_folder: Path, tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", make_pairs(tmp_path / "p", 2))
    arguments = ["batch", str(source), "--output", str(tmp_path / "out"), "--model", str(tiny_folder)]
    done = subprocess.run(
        [sys.executable, "-c", "from descscore.cli import main; main()", *arguments, "--compile"],
        env={**os.environ, "CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "cannot be compiled" in done.stderr
    assert "run without --compile" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_whatever_fails_in_compiling_is_one_error() -> None:
    def tower(pixels: torch.Tensor) -> torch.Tensor:
        raise OSError("disk full")

    with pytest.raises(ModelError, match="disk full"):
        compiled(tower, torch.zeros(1))
