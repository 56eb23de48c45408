"""The built wheel in a clean environment, with the network off."""

from __future__ import annotations

import json
import os
import shutil
import site
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from conftest import make_photo

ROOT = Path(__file__).parents[1]

NO_NETWORK = """\
import socket

def refuse(*args, **kwargs):
    raise AssertionError(f"the network was used: {args}")

socket.socket.connect = refuse
socket.socket.connect_ex = refuse
socket.getaddrinfo = refuse
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    # A copy of what goes in: setuptools would take stale files from a build folder along.
    source = out / "source"
    for name in ("descscore", "training", "eval"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel; only its dependencies come from this one.

    The path file adds this environment's packages without running their own path
    files, so an editable install of the repository stays out of sight.
    """
    root = tmp_path_factory.mktemp("clean") / "env"
    venv.create(root, with_pip=False)
    python = root / "bin" / "python"
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(root)}))
    install = [
        sys.executable, "-m", "pip", "--python", str(python), "install",
        "--quiet", "--no-deps", "--no-index", str(wheel),
    ]  # fmt: skip
    subprocess.run(install, check=True, capture_output=True)
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    (packages / "sitecustomize.py").write_text(NO_NETWORK)
    return root


def run(environment: Path, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run in ``folder`` without any variable that would switch hub clients off line."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_", "PYTHON"))}
    clean["HF_HOME"] = str(folder / "hub")
    program, *rest = command
    return subprocess.run(
        [str(environment / "bin" / program), *rest],
        cwd=folder,
        env=clean,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_wheel_holds_the_model_and_no_more(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for needed in (
        "descscore/assets/base/open_clip_model.safetensors",
        "descscore/assets/base/open_clip_config.json",
        "descscore/py.typed",
        "descscore/training/pretraining/pretrain.py",
        "descscore/eval/transfer/quality.py",
        "descscore/eval/report/templates/page.html.jinja",
    ):
        assert needed in names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"descscore"}
    assert not [name for name in names if name.endswith((".jpg", ".png", ".pt", ".bin"))]


def test_score_from_the_wheel_with_the_network_off(environment: Path, tmp_path: Path) -> None:
    make_photo(tmp_path / "photo.jpg", seed=1)
    done = run(environment, tmp_path, "descscore", "score", "photo.jpg", "A red car.", "A cat.", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["text"] for row in rows] == ["A red car.", "A cat."]
    code = "import descscore; print(descscore.__file__)"
    where = run(environment, tmp_path, "python", "-c", code).stdout.strip()
    assert Path(where).is_relative_to(environment)

    from descscore import DescScorer

    expected = DescScorer.from_pretrained().score_batch(
        [tmp_path / "photo.jpg"] * 2, ["A red car.", "A cat."]
    )
    assert [row["cosine"] for row in rows] == pytest.approx([r.cosine for r in expected], abs=1e-6)


def test_a_download_without_a_network_is_one_clear_error(environment: Path, tmp_path: Path) -> None:
    make_photo(tmp_path / "photo.jpg", seed=1)
    done = run(environment, tmp_path, "descscore", "score", "photo.jpg", "a", "--model", "ViT-B-32/openai")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: model 'ViT-B-32/openai': not in ")
    assert "Traceback" not in done.stderr
