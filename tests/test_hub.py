"""Models on the hub: what is asked, what comes, what stays; and adapters that go there."""

from __future__ import annotations

import copy
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub_stand_in import COMMIT, stand_in
from model_families import save_family, save_in_cache

from descscore import Adapter, DescScorer
from descscore.adapters import AdapterInfo, include_base, licence_of, save_lora, weights_hash
from descscore.errors import ModelError, UsageError
from descscore.models import load_model
from descscore.training.lora import attach_lora

SCORE = """
import json, sys
import numpy as np
from huggingface_hub import constants
from descscore import Adapter, DescScorer
from descscore.errors import DescscoreError
done = []
for source in {sources!r}:
    if source.startswith("http://"):  # from here on, the hub is asked at this address
        constants.ENDPOINT = source
        continue
    try:
        scorer = DescScorer.from_pretrained(source, device="cpu")
        score = scorer.score(np.zeros((8, 8, 3), np.uint8), "A red cat walks.")
        done.append([score.cosine, score.clip_score, scorer.signature])
    except DescscoreError as error:
        done.append(str(error))
print(json.dumps(done))
"""


def online(code: str, hub: str, cache: Path, **more: str) -> Any:
    """What a program prints as JSON that may ask the hub at an address."""
    environment = {**os.environ, "HF_ENDPOINT": hub, "HF_HUB_CACHE": str(cache), "HF_TOKEN": "hf_no", **more}
    environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        environment[name] = more.get(name, "0")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def make_adapter(base: Path, folder: Path) -> Path:
    clip = load_model(base, "cpu").clip
    info = AdapterInfo(include_base(base, folder), weights_hash(clip))
    save_lora(attach_lora(copy.deepcopy(clip), rank=2), info, folder)
    return folder


def test_a_repository_is_fetched_once_and_found_in_the_cache_afterwards(tmp_path: Path) -> None:
    base = save_family("siglip", tmp_path / "siglip")
    for name in ("model.safetensors", "open_clip_pytorch_model.bin", "notes.txt", "big/other.safetensors"):
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_bytes(b"not needed")
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    cache, sources = tmp_path / "cache", ["hf-hub:org/siglip", "hub:org/siglip@v1", "hf-hub:org/siglip"]
    with stand_in() as hub:
        hub.add("org/siglip", base)
        later = ["http://127.0.0.1:9", *sources, f"hf-hub:org/siglip@{COMMIT}", "hf-hub:org/other"]
        found = online(SCORE.format(sources=[*sources, *later]), hub.address, cache)
        first, second, third = found[:3]
        assert hub.downloaded() == {
            *("open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json"),
            *("tokenizer_config.json", "README.md"),
        }
        assert sum("GET /api/models" in line for line in hub.asked) == len(sources)
    assert first == third
    assert first[:2] == pytest.approx(second[:2], abs=1e-6)
    assert "model:hf-hub:org/siglip|" in first[2]
    plain = DescScorer.from_pretrained(save_family("siglip", tmp_path / "plain"), device="cpu")
    assert plain.model.weights_hash in first[2]
    # Nobody answered any more; the second source names a revision that was fetched.
    again = found[3:]
    assert [one[2] for one in again[:3]] == [first[2], second[2], first[2]]
    assert again[3][0] == pytest.approx(first[0], abs=1e-6)
    assert "not in the cache" in again[4]


@pytest.mark.long  # it waits for hubs that do not answer
def test_what_is_wrong_is_said_in_one_line_within_ten_seconds(tmp_path: Path) -> None:
    """A name that does not exist, a hub that is not there, and one that never ends its answer."""
    trickle = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        while True:
            try:
                caller = trickle.accept()[0]
                caller.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
                for _ in range(60):
                    caller.sendall(b" ")
                    time.sleep(0.5)
            except OSError:
                return

    threading.Thread(target=answer, daemon=True).start()
    code = """
import json, time
from huggingface_hub import constants
from descscore.errors import ModelError
from descscore.models import load_model
said = []
for source, address in {cases!r}:
    constants.ENDPOINT = address or constants.ENDPOINT
    begun = time.monotonic()
    try:
        load_model(source, "cpu")
    except ModelError as error:
        said.append([str(error), time.monotonic() - begun])
print(json.dumps(said))
"""
    with stand_in() as hub:
        hub.files["org/empty"] = {"README.md": b""}
        slow = f"http://127.0.0.1:{trickle.getsockname()[1]}"
        cases = [
            ("hf-hub:org/nonesuch", hub.address),
            ("hf-hub:org/empty@v9", hub.address),
            ("hf-hub:org/empty", hub.address),
            ("hf-hub:org/empty", "http://127.0.0.1:9"),
            ("ViT-B-16-SigLIP/webli", "http://127.0.0.1:9"),
            ("hf-hub:org/empty", slow),
        ]
        said = online(code.format(cases=cases), hub.address, tmp_path / "cache")
        assert sum("org/nonesuch" in line for line in hub.asked) == 1
    trickle.close()
    expected = [
        "hf-hub:org/nonesuch: http.* has no such model",
        "hf-hub:org/empty@v9: http.* has no revision 'v9'",
        "hf-hub:org/empty: holds neither open_clip_config.json nor descscore_adapter.json",
        "hf-hub:org/empty: not in the cache .*, and http://127.0.0.1:9 cannot be reached",
        "'ViT-B-16-SigLIP/webli': .*timm/ViT-B-16-SigLIP: not in the cache .* cannot be reached",
        "hf-hub:org/empty: not in the cache .*no answer within 8 seconds",
    ]
    assert len(said) == len(expected)
    for (message, seconds), words in zip(said, expected, strict=True):
        assert re.search(words, message), message
        assert "\n" not in message
        assert len(message) < 500
        assert seconds < 10, message


@pytest.mark.long
def test_an_adapter_goes_to_the_hub_and_comes_back(tmp_path: Path, tiny_folder: Path) -> None:
    folder = make_adapter(tiny_folder, tmp_path / "adapter")
    for private in ("checkpoints/step-1/weights.safetensors", "features/a.npz", "run.json"):
        (folder / private).parent.mkdir(parents=True, exist_ok=True)
        (folder / private).write_text("{}")
    code = f"""
import json
from descscore import Adapter
print(json.dumps(Adapter({str(folder)!r}).push_to_hub("org/mine")))
"""
    with stand_in() as hub:
        assert online(code, hub.address, tmp_path / "cache") == f"{hub.address}/org/mine/commit/{COMMIT}"
        assert set(hub.files["org/mine"]) == {
            *("README.md", "adapter_config.json", "adapter_model.safetensors", "descscore_adapter.json"),
            *("base_model/open_clip_config.json", "base_model/open_clip_model.safetensors"),
        }
        (found,) = online(SCORE.format(sources=["hf-hub:org/mine"]), hub.address, tmp_path / "cache")
    scorer = DescScorer.from_pretrained(folder, device="cpu")
    score = scorer.score(np.zeros((8, 8, 3), np.uint8), "A red cat walks.")
    assert found[:2] == pytest.approx([score.cosine, score.clip_score], abs=1e-6)


def test_an_adapters_base_may_lie_on_the_hub(tmp_path: Path, tiny_folder: Path) -> None:
    clip = load_model(tiny_folder, "cpu").clip
    files = {path.name: path for path in tiny_folder.iterdir()}
    save_in_cache(tmp_path / "cache", "org/base", files, COMMIT)
    folder = tmp_path / "adapter"
    info = AdapterInfo(f"hf-hub:org/base@{COMMIT}", weights_hash(clip))
    save_lora(attach_lora(copy.deepcopy(clip), rank=2), info, folder)
    model = load_model(folder, "cpu", tmp_path / "cache")
    assert model.tuned
    assert weights_hash(model.base) == weights_hash(clip)
    assert "base_model: org/base" in Adapter(folder).write_card().read_text()
    with pytest.raises(ModelError, match=r"hf-hub:org/base@.*not in the cache"):
        load_model(folder, "cpu", tmp_path / "empty")


def test_a_cache_that_is_not_whole_does_not_count(tmp_path: Path, tiny_folder: Path) -> None:
    """As a download leaves it that was stopped: weights come last."""
    folder = make_adapter(tiny_folder, tmp_path / "adapter")
    config = {"open_clip_config.json": tiny_folder / "open_clip_config.json"}
    save_in_cache(tmp_path / "cache", "org/base", config)
    files = {name: folder / name for name in ("descscore_adapter.json", "adapter_config.json")}
    save_in_cache(tmp_path / "cache", "org/mine", files)
    for name in ("org/base", "org/mine"):
        with pytest.raises(ModelError, match=rf"{name}: not whole in the cache .*no weights"):
            load_model(f"hf-hub:{name}", "cpu", tmp_path / "cache")


@pytest.mark.parametrize(
    "source",
    [
        *(
            "./runs/mine",
            "runs/*.csv",
            "photos/*.jpg",
            "model.safetensors",
            "org/name",
            "~/model",
            "org/name@main",
        ),
        *(
            "hf-hub:",
            "hf-hub:name",
            "hf-hub:/org/name",
            "hf-hub:org/name/more",
            "hf-hub:../name",
            "hub:org/na me",
        ),
        *("hf-hub:org/name@", "hf-hub:org/name@../x", "hf-hub:org/*", "hub:org/n--m", "HF-HUB:org/name"),
    ],
)
def test_what_is_no_name_on_the_hub_never_goes_there(source: str, tmp_path: Path, monkeypatch: Any) -> None:
    def asked(*args: object, **options: object) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("descscore.hub._listing", asked)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", asked)
    with pytest.raises(ModelError) as caught:
        load_model(source, "cpu", tmp_path)
    assert "\n" not in str(caught.value)
    assert source in str(caught.value)


def test_an_upload_needs_a_name(tmp_path: Path, tiny_folder: Path) -> None:
    adapter = Adapter(make_adapter(tiny_folder, tmp_path / "adapter"))
    for name in ("mine", "org/na me", "../mine", ""):
        with pytest.raises(UsageError, match="ORG/NAME"):
            adapter.push_to_hub(name)
    with pytest.raises(ModelError, match="not an adapter description"):
        Adapter(tmp_path)


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("---\nlicense: mit\ntags:\n- a\n---\n# Model\n", "mit"),
        ("---\nlicense: other\nlicense_name: apple-ascl\n---\n", "apple-ascl"),
        ("---\nlicense: 'cc-by-4.0'\n---\n", "cc-by-4.0"),
        ("---\nlicense: [a, b]\n---\n", None),
        ('---\nlicense: a"b\n---\n', None),
        ("# Model\nlicense: mit\n", None),
        ("", None),
    ],
)
def test_the_licence_of_a_card(tmp_path: Path, text: str, licence: str | None) -> None:
    (tmp_path / "README.md").write_text(text)
    assert licence_of(tmp_path / "README.md") == licence
    assert licence_of(tmp_path / "none.md") is None
