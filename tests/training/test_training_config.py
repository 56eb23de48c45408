"""Presets as published and as scaled, ranges of every setting, and the JSON form."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import TINY
from descscore.errors import UsageError
from descscore.purpose import Site
from descscore.training.config import LOSS_WEIGHTS, PRESETS, FinetuneConfig, Tower, options, preset
from descscore.training.lora import tower_shape
from descscore.training.objective import site_of

PUBLISHED = {
    "das-lora": ("interchange", "lora", 1e-5, 64, 10, 256, 100_000),
    "bft-lora": ("preference", "lora", 1e-5, 128, None, None, None),
    "das-full": ("interchange", "full", 1e-5, None, 10, 256, 100_000),
    "bft-full": ("preference", "full", 5e-6, None, None, None, None),
    "joint": ("joint", "lora", 1e-5, 64, 10, 256, 100_000),
}
SCALED = {  # a tower of 6 blocks, width 128
    "das-lora": (16, 4, 64),
    "bft-lora": (32, None, None),
    "das-full": (None, 4, 64),
    "bft-full": (None, None, None),
    "joint": (16, 4, 64),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_as_published(name: str) -> None:
    c = preset(name)
    found = (c.loss, c.tuning, c.learning_rate, c.lora_rank, c.block, c.k, c.examples_per_epoch)
    assert found == PUBLISHED[name]
    assert c.lora_alpha == c.lora_rank
    assert (c.epochs, c.batch_size, c.pairs_per_batch, c.validation_pairs) == (10, 12, 6, 5000)
    assert (c.validate_every, c.patience, c.preset) == (500, None, name)


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_scale_with_the_tower(name: str) -> None:
    c = preset(name, Tower(width=128, blocks=6))
    assert (c.lora_rank, c.block, c.k) == SCALED[name]
    assert c.examples_per_epoch is None


def test_presets_cover_the_tables() -> None:
    assert set(PRESETS) - {"small-data"} == set(PUBLISHED) == set(SCALED)


@pytest.mark.parametrize("tower", [Tower(192, 6), Tower()])
def test_the_recipe_for_small_data_meets_every_text_and_fits_into_three_megabytes(tower: Tower) -> None:
    c = preset("small-data", tower)
    assert (c.loss, c.tuning, c.learning_rate, c.epochs, c.text_window) == ("joint", "lora", 1e-3, 2, 32)
    assert c.examples_per_epoch is None
    assert min(c.neither_weight, c.spread_weight, c.ending_weight, c.hold_weight) > 0
    assert c.lora_rank is not None
    attention, feed_forward = 8 * tower.width * tower.blocks, 10 * tower.width * tower.blocks
    values = c.lora_rank * (attention + feed_forward + 49_408 + tower.width)
    if tower.width == 192:
        assert 2 * values + 4 * tower.width**2 < 2.9e6  # float16, and the rotation


def test_the_default_is_another_images_source_and_the_published_one_is_a_choice() -> None:
    assert preset("das-lora").source_image == "other"
    assert replace(preset("das-lora"), source_image="same").source_image == "same"


def test_shape_of_a_tower() -> None:
    assert tower_shape(open_clip.CLIP(**TINY["model_cfg"])) == Tower(width=32, blocks=4)


def test_site() -> None:
    assert site_of(preset("das-lora")) == Site(10, 256)
    assert site_of(preset("bft-lora")) is None


@pytest.mark.parametrize("name", ["das", "", "DAS-LORA"])
def test_an_unknown_preset_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(UsageError, match="das-lora, bft-lora, das-full, bft-full, joint"):
        preset(name)


@pytest.mark.parametrize("tower", [Tower(512, 1), Tower(4, 12)])
def test_a_tower_that_is_too_small_is_refused(tower: Tower) -> None:
    with pytest.raises(UsageError, match="too small"):
        preset("das-lora", tower)


@pytest.mark.parametrize("name", PRESETS)
def test_json_round_trip(name: str) -> None:
    config = replace(preset(name), seed=3, contrastive_weight=0.5)
    assert FinetuneConfig(**json.loads(json.dumps(asdict(config)))) == config


@settings(deadline=None)
@given(st.floats(1e-8, 1), st.integers(0, 2**32), st.integers(1, 50), st.floats(0, 1))
def test_json_keeps_every_number(rate: float, seed: int, epochs: int, weight: float) -> None:
    config = replace(preset("joint"), learning_rate=rate, seed=seed, epochs=epochs, joint_weight=weight)
    assert FinetuneConfig(**json.loads(json.dumps(asdict(config)))) == config


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"loss": "hinge"}, "loss 'hinge'.*interchange, preference, joint"),
    ({"tuning": "half"}, "tuning 'half'"),
    ({"source_image": "none"}, "source_image 'none'"),
    ({"precision": "fp8"}, "precision 'fp8'"),
    ({"learning_rate": 0.0}, "learning_rate 0"),
    ({"learning_rate": float("nan")}, "learning_rate nan"),
    ({"learning_rate": "1e-5"}, "learning_rate '1e-5'"),
    ({"joint_weight": 1.5}, "joint_weight 1.5"),
    ({"interpolation": 1.01}, "interpolation 1.01: must be a number, at least 0 and at most 1"),
    ({"interpolation": -0.5}, "interpolation -0.5"),
    ({"hold_weight": -1.0}, "hold_weight -1.0"),
    ({"contrastive_weight": float("inf")}, "contrastive_weight inf"),
    ({"epochs": 0}, "epochs 0"),
    ({"epochs": 1.5}, "epochs 1.5"),
    ({"epochs": True}, "epochs True"),
    ({"epochs": None}, "epochs None"),
    ({"batch_size": 5}, "batch_size 5"),
    ({"accumulation": 4}, "batch_size 12: must be a multiple of 8"),
    ({"patience": 0}, "patience 0"),
    ({"lora_rank": None}, "lora_rank and lora_alpha"),
    ({"lora_alpha": None}, "lora_rank and lora_alpha"),
    ({"tuning": "full"}, "lora_rank and lora_alpha"),
    ({"block": None}, "block and k"),
    ({"k": None}, "block and k"),
    ({"loss": "preference"}, "block and k"),
]


@pytest.mark.parametrize(("change", "words"), WRONG, ids=[str(change) for change, _ in WRONG])
def test_a_wrong_value_is_refused_by_name(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        replace(preset("das-lora"), **change)


def test_every_setting_but_the_presets_own_is_an_option_with_its_range_and_default() -> None:
    offered = {option.name: option.help for option in options()}
    assert [f.name for f in fields(FinetuneConfig)] == ["preset", "loss", "tuning", *offered]
    assert offered["epochs"].endswith("[default: 10; at least 1]")
    assert offered["token_dropout"].endswith("[default: 0.0; at least 0 and below 1]")
    assert offered["learning_rate"].endswith("[above 0]")
    assert offered["schedule"].endswith("[default: constant]")


@pytest.mark.parametrize("weight", LOSS_WEIGHTS)
def test_a_loss_on_pairs_gets_pairs_also_beside_interchanges_alone(weight: str) -> None:
    settings = preset("das-lora")
    assert not settings.needs_pairs
    assert replace(settings, **{weight: 0.5}).needs_pairs


@pytest.mark.parametrize("weight", LOSS_WEIGHTS)
def test_the_page_on_training_says_what_each_loss_is_for(weight: str) -> None:
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    assert f"| `--{weight.replace('_', '-')}` | " in page
