"""Fine-tuning of every family whose text tower is open_clip's own: as plain open_clip computes it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from click.testing import CliRunner
from model_families import FAMILIES, config_of, plain_model, save_family, save_towers, tower_of
from test_trainer import write_pairs
from torch import Tensor

from descscore import DescScorer
from descscore.adapters import AdapterInfo, include_base, save_full, save_lora, weights_hash
from descscore.cli import main
from descscore.clip import text_tower
from descscore.errors import ModelError, UsageError
from descscore.interchange import Exchange, interchange_texts
from descscore.models import load_model
from descscore.purpose import Site
from descscore.tokenizer import Tokenizer, token_rows
from descscore.towers.text import can_shorten, encode_tokens, end_positions
from descscore.training.config import FinetuneConfig, Tower, preset
from descscore.training.data import EpochPlan, Examples, WordSwap, read_vocabulary
from descscore.training.lora import attach_lora, lora_parameters, select_full, tower_shape, trained_parameters
from descscore.training.objective import encode, encode_exchange

TUNABLE = [name for name, family in FAMILIES.items() if family.tunable]


def rows(clip: Any) -> Tensor:
    """Four rows of the full context length, the last two of which fill it."""
    tower = text_tower(clip)
    length, most = tower.context_length, tower.vocab_size
    tokens = torch.randint(4, most - 2, (4, length), generator=torch.Generator().manual_seed(0))
    eos = 2 if getattr(tower, "pool_type", getattr(tower, "text_pool_type", "")) == "eos" else most - 1
    for row, end in zip(tokens, (4, length // 2, length - 1, length - 1), strict=True):
        row[end] = eos
        row[end + 1 :] = 1 if eos == 2 else 0
    return tokens


def plain_interchange(clip: Any, tokens: Tensor, other: Tensor, matrix: Tensor, site: Site) -> Tensor:
    """open_clip's own run of ``tokens``, in which a hook gives the states of ``other`` their purpose."""
    block, end, states = text_tower(clip).transformer.resblocks[site.block], end_positions(clip, tokens), []
    places = (torch.arange(len(tokens)), end)
    first = block.register_forward_hook(
        lambda _, inputs, out: states.append(out[torch.arange(len(other)), end_positions(clip, other)])
    )
    clip.encode_text(other)
    first.remove()

    def swap(_: Any, inputs: Any, out: Tensor) -> Tensor:
        turned, source = out[places] @ matrix.T, states[0] @ matrix.T
        mixed = torch.cat([source[:, : site.k], turned[:, site.k :]], dim=1)
        return out.index_put(places, mixed @ matrix)

    second = block.register_forward_hook(swap)
    features: Tensor = clip.encode_text(tokens, normalize=False)
    second.remove()
    return features


@pytest.mark.parametrize("name", TUNABLE)
def test_features_interchanges_and_gradients_equal_open_clips(name: str) -> None:
    clip = plain_model(config_of(FAMILIES[name])).double()
    tokens, site = rows(clip), Site(2, 5)
    matrix = torch.linalg.qr(
        torch.randn(32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ).Q
    exchange = Exchange(torch.arange(4), torch.tensor([2, 3, 0, 1]))
    expected = plain_interchange(clip, tokens, tokens[exchange.source], matrix, site)
    for found in (
        interchange_texts(clip, tokens, exchange, matrix, site),
        encode_exchange(clip, tokens, exchange, matrix, site),
    ):
        torch.testing.assert_close(found.plain, clip.encode_text(tokens, normalize=False))
        torch.testing.assert_close(found.swapped, expected)
    assert (expected - clip.encode_text(tokens, normalize=False)).abs().max() > 1e-3
    wrapped = attach_lora(copy.deepcopy(clip).requires_grad_(True), 2, targets="tower").base_model.model
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in trained_parameters(wrapped).values():
            weight += 0.05 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
    weights = list(trained_parameters(wrapped).values())
    ours = torch.autograd.grad(encode(wrapped, tokens).square().sum(), weights)
    theirs = torch.autograd.grad(wrapped.encode_text(tokens, normalize=False).square().sum(), weights)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(encode_tokens(wrapped, tokens), encode(wrapped, tokens))


@pytest.mark.parametrize("name", TUNABLE)
def test_nothing_outside_the_text_tower_is_trained(name: str) -> None:
    clip = plain_model(config_of(FAMILIES[name]))
    inside = "text." if text_tower(clip) is not clip else ""
    select_full(clip.requires_grad_(True))
    names = set(trained_parameters(clip))
    assert "logit_scale" in names
    assert f"{inside}token_embedding.weight" in names
    assert not [one for one in names if one.startswith(("visual.", "text_decoder.", "logit_bias"))]
    attach_lora(clip, 2, targets="tower")
    assert all(
        one.startswith((f"{inside}transformer.", f"{inside}token_emb")) for one in trained_parameters(clip)
    )


@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize("name", ["siglip", "coca", "mobileclip"])
def test_adapters_come_back_as_they_were(name: str, tuning: str, tmp_path: Path) -> None:
    base = save_family(name, tmp_path / "base")
    model = load_model(base, "cpu")
    clip = copy.deepcopy(model.clip).requires_grad_(True)
    folder = tmp_path / "adapter"
    info = AdapterInfo(include_base(base, folder), weights_hash(model.clip), tuning=tuning)
    if tuning == "lora":
        wrapped = attach_lora(clip, 2, targets="tower")
    else:
        select_full(clip)
    with torch.no_grad():
        for weight in trained_parameters(clip).values():
            weight += 0.1
    if tuning == "lora":
        save_lora(wrapped, info, folder)
    else:
        save_full(clip, model.clip, info, folder)
    back, tokens = load_model(folder, "cpu"), rows(clip)
    expected = clip.encode_text(tokens, normalize=False)
    torch.testing.assert_close(back.clip.encode_text(tokens, normalize=False), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(back.base.encode_text(tokens), model.clip.encode_text(tokens))
    assert back.clip.visual is back.base.visual


def shapes(config: dict[str, Any]) -> Any:
    """A model with no memory behind its weights: counting needs shapes only. Its image tower is any."""
    settings = {key: value for key, value in config.items() if key != "custom_text"}
    settings["vision_cfg"] = {"layers": 1, "width": 64, "image_size": 16, "patch_size": 16}
    with torch.device("meta"):
        return (open_clip.CustomTextCLIP if config.get("custom_text") else open_clip.CLIP)(**settings)


def test_the_presets_scale_with_siglip_b() -> None:
    """Width 768, 12 blocks, 32,000 tokens: 8 r d values a block for attention, worked out by hand."""
    clip = shapes(open_clip.get_model_config("ViT-B-16-SigLIP"))
    tower = tower_shape(clip)
    assert tower == Tower(768, 12)
    for name, rank in (("das-lora", 96), ("bft-lora", 192), ("joint", 96)):
        config = preset(name, tower)
        assert (config.lora_rank, config.lora_alpha) == (rank, rank)
        assert (config.block, config.k) == ((10, 384) if name != "bft-lora" else (None, None))
        attach_lora(fresh := copy.deepcopy(clip), rank)
        trained = sum(weight.numel() for weight in trained_parameters(fresh).values())
        assert trained == lora_parameters(clip, rank) == 8 * rank * 768 * 12
    assert 8 * 96 * 768 * 12 == 7_077_888
    # small-data: rank 16 on attention, feed-forward layers (768 and 3072 wide) and words.
    assert lora_parameters(clip, 16, "tower") == 1_179_648 + 2 * 16 * (768 + 3072) * 12 + 16 * (32_000 + 768)
    select_full(clip)
    full = sum(
        weight.numel() for name, weight in trained_parameters(clip).items() if name.startswith("text.")
    )
    assert full == sum(weight.numel() for weight in clip.text.parameters())


def test_the_presets_scale_with_a_long_context() -> None:
    """A context of 248 tokens adds positions, which LoRA leaves alone."""
    config = open_clip.get_model_config("ViT-L-14")
    short, long = (
        shapes(config),
        shapes({**config, "text_cfg": {**config["text_cfg"], "context_length": 248}}),
    )
    assert long.positional_embedding.shape == (248, 768)
    assert tower_shape(long) == tower_shape(short) == Tower(768, 12)
    assert lora_parameters(long, 96) == lora_parameters(short, 96) == 7_077_888
    counts = [sum(p.numel() for p in one.parameters()) for one in (long, short)]
    assert counts[0] - counts[1] == (248 - 77) * 768


def examples_of(tokenizer: Tokenizer, count: int = 40) -> Examples:
    texts = [f"A brown dog and a red cat walks in the sand{'.' * (i % 2)}" for i in range(count)]
    texts += [f"A man in a coat.{' walks' * (i % 3)}" for i in range(count)]
    tokens = token_rows(tokenizer, texts)
    return Examples(torch.zeros(count, 4), torch.arange(count), tokens, tokenizer, texts=tuple(texts))


@pytest.mark.parametrize(
    "name", ["siglip", "siglip2", "clipa", pytest.param("mobileclip", marks=pytest.mark.long), "worldwide"]
)
def test_altered_rows_are_still_rows_of_the_tower(name: str, tmp_path: Path) -> None:
    """Swapped words, cut texts, left-out tokens and full stops, under tokenizers of every kind."""
    model = load_model(save_family(name, tmp_path), "cpu")
    tokenizer, examples = model.tokenizer, examples_of(model.tokenizer)
    config = FinetuneConfig(
        preset="small-data", loss="joint", tuning="lora", learning_rate=1e-3, lora_rank=2, lora_alpha=2,
        block=2, k=4, batch_size=8, text_window=10, token_dropout=0.1, word_swap=0.5, neither_weight=0.5,
        ending_weight=1.0,
    )  # fmt: skip
    embedding = text_tower(model.clip).token_embedding.weight
    words = WordSwap.of(embedding, read_vocabulary(tokenizer, len(embedding)))
    shown = EpochPlan(examples, config, 0, words).examples
    assert shown.kinds == 4
    stops = tokenizer.encode("a.") != tokenizer.encode("a")
    assert (shown.twins is not None) == stops
    for tokens in [shown.tokens, *([shown.twins] if shown.twins is not None else [])]:
        assert tokens.shape == (160, tokenizer.context_length)
        for row in tokens.tolist():
            body = tokenizer.unwrap(row)
            assert tuple(row) == tokenizer.wrap(body)
            assert not {*tokenizer.start, *tokenizer.end} & set(body)
    changed = (shown.tokens[:80] != examples.tokens).any(1).double().mean()
    assert changed > 0.5
    assert torch.equal(EpochPlan(examples, config, 0, words).examples.tokens, shown.tokens)


@pytest.mark.parametrize(("name", "chosen"), [("siglip", "small-data"), ("coca", "das-lora")])
def test_the_train_command_makes_an_adapter_with_a_card(name: str, chosen: str, tmp_path: Path) -> None:
    base, table = save_family(name, tmp_path / "base"), write_pairs(tmp_path / "pairs.parquet", 12)
    (base / "README.md").write_text("---\nlicense: mit\n---\n# The base\n")
    args = ["train", "--data", str(table), "--preset", chosen, "--base", str(base), "--device", "cpu"]
    args += ["--output", str(tmp_path / "out"), "--epochs", "1", "--batch-size", "4"]
    result = CliRunner().invoke(main, [*args, "--calibration-folds", "0"])
    assert result.exit_code == 0, result.output
    card = (tmp_path / "out" / "README.md").read_text()
    assert "license: mit\n" in card.split("---")[1]
    for part in ("## Base", "## Data", "## Settings", "## Measurements", "library_name: descscore"):
        assert part in card
    assert "8 in `train`, 4 in `val`" in card
    assert f"| `preset` | {chosen} |" in card
    assert "| preference | " in card
    assert str(tmp_path) not in card
    scorer = DescScorer.from_pretrained((tmp_path / "out").rename(tmp_path / "moved"), device="cpu")
    score = scorer.score(torch.zeros(8, 8, 3, dtype=torch.uint8).numpy(), "A red cat.")
    assert score.percentile is not None
    assert score.cosine != pytest.approx(score.clip_score / 2.5, abs=1e-7)
    assert can_shorten(scorer.model.clip) is False


@pytest.mark.parametrize(
    ("family", "tower"), [("roberta", "RobertaModel"), ("mt5", "MT5Stack"), ("nllb", "M2M100Encoder")]
)
def test_towers_of_other_libraries_are_refused_by_name(family: str, tower: str, tmp_path: Path) -> None:
    cache = save_towers(tmp_path / "hub")
    clip = load_model(save_family(family, tmp_path / "base", tower_of(family, cache)), "cpu", cache).clip
    nothing = Exchange(*[torch.zeros(1).long()] * 2)
    for refused in (
        lambda: attach_lora(clip, 2),
        lambda: select_full(clip),
        lambda: tower_shape(clip),
        lambda: interchange_texts(clip, torch.zeros(1, 8).long(), nothing, torch.eye(4), Site(0, 1)),
    ):
        with pytest.raises((ModelError, UsageError), match=f"text tower is an? {tower}, which can score"):
            refused()
