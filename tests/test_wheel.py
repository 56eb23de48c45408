"""The built distributions: what they hold, what they say, and the wheel at work with the network off."""

from __future__ import annotations

import json
import os
import shutil
import site
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

from conftest import make_photo
from descscore import __version__

ROOT = Path(__file__).parents[1]

NO_NETWORK = """\
import socket

def refuse(*args, **kwargs):
    raise AssertionError(f"the network was used: {args}")

socket.socket.connect = refuse
socket.socket.connect_ex = refuse
socket.getaddrinfo = refuse
"""


INSTALLED = {"descscore": "descscore", "training": "descscore/training", "eval": "descscore/eval"}
"""Where the repository's folders lie in the wheel."""

FOLDERS = (*INSTALLED, "reproduce", "tests", "docs", ".ci")
FILES = (
    ".gitignore", ".pre-commit-config.yaml", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE",
    "LICENSE-WEIGHTS", "MANIFEST.in", "MODEL_CARD.md", "Makefile", "README.md", "app.py", "mkdocs.yml",
    "pyproject.toml", "setup.py",
)  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository: setuptools would take stale files from a build folder along."""
    folder = tmp_path_factory.mktemp("source")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, folder)
    return folder


def build(source: Path, out: Path, *options: str) -> None:
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), *options, str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel built from the tree."""
    out = tmp_path_factory.mktemp("wheel")
    build(source, out, "--wheel")
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def released(source: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what a release has: the source distribution and the wheel built from that."""
    out = tmp_path_factory.mktemp("released")
    clean = ("build", "descscore.egg-info")  # what building the other wheel left in the tree
    for name in clean:
        shutil.rmtree(source / name, ignore_errors=True)
    build(source, out)
    return out


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        name = f"descscore-{__version__}.dist-info/METADATA"
        return Parser().parsestr(archive.read(name).decode("utf-8"))


def below(folder: Path) -> set[str]:
    """Every file below ``folder``, but for what Python compiles as it goes."""
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(folder).as_posix() for path in files}


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


def test_the_wheel_holds_every_file_of_the_three_folders_and_no_more(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert len(names) == len(set(names))
    expected = {f"{place}/{name}" for folder, place in INSTALLED.items() for name in below(ROOT / folder)}
    info = f"descscore-{__version__}.dist-info/"
    assert {name for name in names if not name.startswith(info)} == expected
    assert "descscore/py.typed" in expected


def test_the_only_weights_are_the_bundled_models(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        large = {entry.filename: entry.file_size for entry in archive.infolist() if entry.file_size > 300_000}
    assert set(large) == {
        "descscore/assets/base/open_clip_model.safetensors",
        "descscore/assets/default/adapter_model.safetensors",
    }
    assert sum(large.values()) < 43_000_000
    data = (".jpg", ".png", ".pt", ".bin", ".npz", ".parquet", ".pkl")
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(data)]


@pytest.mark.long
def test_the_source_distribution_holds_the_whole_repository(source: Path, released: Path) -> None:
    with tarfile.open(next(released.glob("*.tar.gz"))) as archive:
        files = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    written = {"PKG-INFO", "setup.cfg", *(name for name in files if name.startswith("descscore.egg-info/"))}
    expected = {f"{folder}/{name}" for folder in FOLDERS for name in below(source / folder)} | set(FILES)
    assert files - written == expected


@pytest.mark.long
def test_the_wheel_from_the_source_distribution_is_the_wheel_from_the_tree(
    wheel: Path, released: Path
) -> None:
    def contents(path: Path) -> dict[str, int]:
        with zipfile.ZipFile(path) as archive:
            return {entry.filename: entry.CRC for entry in archive.infolist()}

    assert contents(next(released.glob("*.whl"))) == contents(wheel)


@pytest.mark.long
def test_a_package_index_would_take_both(released: Path) -> None:
    files = [str(path) for path in sorted(released.iterdir())]
    assert len(files) == 2
    command = [sys.executable, "-m", "twine", "--no-color", "check", "--strict", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2


def test_the_metadata_are_complete_and_name_no_address(metadata: Message) -> None:
    assert metadata["Name"] == "descscore"
    assert metadata["Version"] == __version__
    assert metadata["Summary"]
    assert metadata["Author"] == "descscore contributors"
    assert metadata["License-Expression"] == "Apache-2.0 AND LicenseRef-descscore-weights"
    assert metadata.get_all("License-File") == ["LICENSE", "LICENSE-WEIGHTS"]
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload().startswith("# descscore")
    assert {"Home-page", "Project-URL", "Download-URL"}.isdisjoint(metadata.keys())


def test_both_licences_are_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in ("LICENSE", "LICENSE-WEIGHTS"):
            found = archive.read(f"descscore-{__version__}.dist-info/licenses/{name}")
            assert found == (ROOT / name).read_bytes()


@pytest.mark.long
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


@pytest.mark.long
def test_a_download_without_a_network_is_one_clear_error(environment: Path, tmp_path: Path) -> None:
    make_photo(tmp_path / "photo.jpg", seed=1)
    done = run(environment, tmp_path, "descscore", "score", "photo.jpg", "a", "--model", "ViT-B-32/openai")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: model 'ViT-B-32/openai': ")
    assert "not in the cache" in last
    assert "Traceback" not in done.stderr
