"""What the metrics load: no user interface, no cluster, no plots, torchmetrics only where it is asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import make_photo

CODE = """
import json, sys

model, photo, module_cache = sys.argv[1:]
watched = {"gradio", "ray", "matplotlib", "peft", "datasets", "evaluate", "pycocoevalcap", "torchmetrics"}

import descscore
from descscore.coco import DescScore
from descscore.evaluate_module import module_path
descscore.score(photo, "A cat.", model, device="cpu")
descscore.RecordMetric(model)([{"image": photo, "text": "A cat."}])
DescScore({1: photo}, model).compute_score({1: []}, {1: ["A cat."]})
module_path()
plain = sorted(watched & set(sys.modules))

import evaluate
module = evaluate.load(module_path(), cache_dir=module_cache)
module.compute(predictions=["A cat."], images=[photo], model=model)
with_evaluate = sorted(watched & set(sys.modules))

import torchmetrics
before = set(sys.modules)
from descscore.metrics import DescriptionScore
from descscore.metrics import PreferenceAccuracy
metric, pairs = DescriptionScore(model), PreferenceAccuracy(model)
metric.update([photo], ["A cat."])
pairs.update([photo], ["A cat."], ["1984"])
metric.compute(), pairs.compute()
added = sorted(watched & (set(sys.modules) - before))
print(json.dumps([plain, with_evaluate, added]))
"""


@pytest.mark.long
def test_metrics_load_no_user_interface_no_cluster_and_no_plots(tiny_folder: Path, tmp_path: Path) -> None:
    photo = make_photo(tmp_path / "photo.png", seed=0)
    command = [sys.executable, "-c", CODE, str(tiny_folder), str(photo), str(tmp_path / "cache")]
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    plain, with_evaluate, added = json.loads(done.stdout.splitlines()[-1])
    assert plain == []
    assert with_evaluate == ["datasets", "evaluate"]
    assert added == []  # torchmetrics itself loads matplotlib where it is installed
