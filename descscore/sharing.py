"""Share adapters on the Hugging Face hub: the model card in the folder, and the upload of what others need.

>>> from descscore import Adapter, DescScorer
>>> Adapter("runs/mine").push_to_hub("org/name")
>>> DescScorer.from_pretrained("hf-hub:org/name")
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from descscore import __version__
from descscore.adapters import (
    ADAPTER_FILE,
    BASE_FOLDER,
    CARD,
    TEXT_WEIGHTS,
    AdapterInfo,
    licence_of,
    read_adapter,
)
from descscore.errors import ModelError, UsageError
from descscore.files import atomic_write, read_json
from descscore.hub import is_repository_name, parse_name, reason_of
from descscore.lora import LORA_CONFIG, LORA_WEIGHTS
from descscore.purpose import FILE as PURPOSE_FILE

RUN_FILE = "run.json"
"""The record of a fine-tuning run. It may name folders of a machine, so it is not shared."""

SHARED = (ADAPTER_FILE, CARD, LORA_CONFIG, LORA_WEIGHTS, TEXT_WEIGHTS, PURPOSE_FILE, f"{BASE_FOLDER}/*")
"""The files of an adapter's folder that others need, as patterns."""

_BUNDLED_LICENCE = "descscore-weights"
_TRAINED = ("base_licence", "config", "data", "history", "pairs", "steps", "trained_values", "unusable")


class Adapter:
    """An adapter's folder, as ``descscore train`` writes it.

    Args:
        folder: The folder.

    Raises:
        ModelError: It holds no adapter.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.info = read_adapter(self.folder)

    def write_card(self) -> Path:
        """Write the model card ``README.md``, from what the folder says of the base and of the run."""
        with atomic_write(self.folder / CARD) as part:
            part.write_text(model_card(self.folder, self.info), encoding="utf-8")
        return self.folder / CARD

    def push_to_hub(self, name: str, *, private: bool | None = None, revision: str | None = None) -> str:
        """Upload the adapter with its card, in one commit; checkpoints and image features stay here.

        The repository is made if there is none. A card that is there already is uploaded as it is.

        Args:
            name: Name of the repository, ``ORG/NAME``.
            private: Whether a new repository is private; by default what the owner's settings say.
            revision: The branch; by default the main one.

        Returns:
            The address of the commit. :meth:`descscore.DescScorer.from_pretrained` takes ``hf-hub:ORG/NAME``.

        Raises:
            UsageError: The name is none of a repository.
            ModelError: The upload failed. The message says why.
        """
        name = name.removeprefix("hf-hub:").removeprefix("hub:")
        if not is_repository_name(name):
            raise UsageError(f"{name!r}: expected the name of a repository, ORG/NAME")
        if not (self.folder / CARD).is_file():
            self.write_card()
        from huggingface_hub import HfApi

        api = HfApi(endpoint=constants.ENDPOINT, library_name="descscore", library_version=__version__)
        try:
            api.create_repo(name, private=private, exist_ok=True)
            commit = api.upload_folder(
                repo_id=name,
                folder_path=self.folder,
                allow_patterns=list(SHARED),
                revision=revision,
                commit_message="Upload a descscore adapter",
            )
        except Exception as error:
            reason = reason_of(error, 300)
            raise ModelError(
                f"adapter {self.folder}: cannot be uploaded to {constants.ENDPOINT} ({reason})"
            ) from error
        return str(commit.commit_url)


def model_card(folder: Path, info: AdapterInfo) -> str:
    """The text of a model card: base, data, settings, measurements, and the licence of the base."""
    from huggingface_hub import ModelCardData

    path = folder / RUN_FILE
    run = read_json(path) if path.is_file() else {}
    run = {key: run[key] for key in _TRAINED if key in run} if isinstance(run, dict) else {}
    licence = _licence(folder, info, run)
    repository = parse_name(info.base)
    data = ModelCardData(
        license="other" if licence in (None, _BUNDLED_LICENCE) else licence,
        license_name=_BUNDLED_LICENCE if licence == _BUNDLED_LICENCE else None,
        base_model=repository.id if repository else None,
        library_name="descscore",
        pipeline_tag="zero-shot-image-classification",
        tags=["alt-text", "image-description", "accessibility", "clip"],
    )
    parts = [_USE, _base(info, licence), *_data(run), *_settings(run), *_measurements(run), _LIMITS]
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(parts)


_USE = """# A model that prefers image descriptions to captions

This adapter for descscore turns an open_clip model into one that
scores how well a text would replace an image for someone who cannot see it.

```python
from descscore import DescScorer

scorer = DescScorer.from_pretrained("hf-hub:ORG/NAME")  # this page's name, or the folder
print(scorer.score("photo.jpg", "A brown dog runs over wet sand.").score)
```
"""
_LIMITS = """## Limits

Scores of different models are on different scales. A score does not check facts, and it cannot replace
readers. The adapter works on the base above alone, and checks that.
"""


def _licence(folder: Path, info: AdapterInfo, run: dict[str, Any]) -> str | None:
    if info.base == "base":
        return _BUNDLED_LICENCE
    named = run.get("base_licence")
    if isinstance(named, str) and re.fullmatch(r"[\w.-]{1,60}", named, re.ASCII):
        return named
    return licence_of(folder / BASE_FOLDER / CARD)


def _base(info: AdapterInfo, licence: str | None) -> str:
    elsewhere = info.pretrained or info.base == "base" or parse_name(info.base) is not None
    held = f"`{info.base_name}`" if elsewhere else f"in the folder `{info.base}`"
    terms = (
        f"`{licence}`"
        if licence
        else "not stated; look at the base's own page before you pass the adapter on"
    )
    if licence == _BUNDLED_LICENCE:
        terms = "for research, testing and teaching only (`LICENSE-WEIGHTS` in descscore)"
    model = f"The untuned model is {held}, with weights `{info.base_weights}`."
    return f"## Base\n\n{model} Licence of the base: {terms}.\n"


def _data(run: dict[str, Any]) -> list[str]:
    if "pairs" not in run:
        return []
    counts = ", ".join(f"{count:,} in `{split or 'train'}`" for split, count in run["pairs"].items())
    left = sum(run.get("unusable", {}).values())
    name = Path(str(run.get("data", "")).rstrip("/")).name  # a folder of somebody's machine says nothing
    kind = f"Pairs of a description and a caption of one image, from `{name}`"
    return [f"## Data\n\n{kind}: {counts}. Rows left out: {left:,}.\n"]


def _settings(run: dict[str, Any]) -> list[str]:
    config = run.get("config")
    if not isinstance(config, dict):
        return []
    rows = "\n".join(f"| `{key}` | {value} |" for key, value in config.items() if value is not None)
    done = f"{run.get('steps', 0):,} steps changed {run.get('trained_values', 0):,} values."
    return [f"## Settings\n\n{done}\n\n| setting | value |\n|---|---|\n{rows}\n"]


def _measurements(run: dict[str, Any]) -> list[str]:
    """The validation whose weights were kept: that of the best score."""
    lines = [line for line in run.get("history", ()) if "validation_score" in line]
    if not lines:
        return (
            ["## Measurements\n\nThe run had no validation split, so nothing was measured.\n"] if run else []
        )
    best = max(lines, key=lambda line: line["validation_score"])
    values = {key.removeprefix("validation_"): value for key, value in best.items() if "validation_" in key}
    rows = "\n".join(f"| {key.replace('_', ' ')} | {value:.4f} |" for key, value in values.items())
    what = "All but the loss are shares of 1; `score` is their mean."
    table = f"| measure | value |\n|---|---|\n{rows}\n"
    return [f"## Measurements\n\nOn the validation split, after step {best['step']:,}. {what}\n\n{table}"]
