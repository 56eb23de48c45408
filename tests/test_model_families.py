"""Every family of open_clip's models scores as plain open_clip does."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from model_families import (
    FAMILIES,
    TEXTS,
    config_of,
    plain_model,
    save_family,
    save_in_cache,
    save_tokenizer,
    save_towers,
    tower_of,
)
from open_clip.tokenizer import HFTokenizer
from PIL import Image
from tokenizers import Tokenizer, processors

from descscore import DescScorer
from descscore.errors import ModelError, UsageError
from descscore.explanations.explainer import explain
from descscore.explanations.reasons import explains
from descscore.towers.blocks import own_text_tower
from descscore.towers.text import can_shorten, runs_short

Scorers = Callable[[str], DescScorer]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of the hub client with the configurations of text towers of another library."""
    return save_towers(tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="module")
def folders(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root, made = tmp_path_factory.mktemp("families"), {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = save_family(name, root / name, tower_of(name, cache))
        return made[name]

    return folder


@pytest.fixture(scope="module")
def scorers(cache: Path, folders: Callable[[str], Path]) -> Scorers:
    made: dict[str, DescScorer] = {}

    def scorer(name: str) -> DescScorer:
        if name not in made:
            made[name] = DescScorer.from_pretrained(
                folders(name), device="cpu", cache_dir=cache, text_policy="truncate"
            )
        return made[name]

    return scorer


def plain_tokens(name: str, folder: Path) -> torch.Tensor:
    """Token rows of the texts from open_clip's own tokenizer classes."""
    text = config_of(FAMILIES[name])["model_cfg"]["text_cfg"]
    context = text.get("context_length", 77)
    if FAMILIES[name].tokenizer == "open_clip":
        tokens: torch.Tensor = open_clip.SimpleTokenizer(context_length=context)(list(TEXTS))
        return tokens
    settings = text.get("tokenizer_kwargs", {})
    return HFTokenizer(str(folder), context_length=context, **settings)(list(TEXTS))


@pytest.mark.parametrize("name", FAMILIES)
def test_features_equal_plain_open_clips(
    name: str, scorers: Scorers, folders: Callable[[str], Path], cache: Path, photo: Path
) -> None:
    scorer, folder = scorers(name), folders(name)
    plain: Any = plain_model(config_of(FAMILIES[name]), tower_of(name, cache))
    mean, std = (config_of(FAMILIES[name])["preprocess_cfg"][key] for key in ("mean", "std"))
    size = config_of(FAMILIES[name])["model_cfg"]["vision_cfg"]["image_size"]
    prepare = open_clip.image_transform(size, False, mean=mean, std=std, resize_mode="squash")
    tokens = plain_tokens(name, folder)
    with torch.inference_mode():
        image = plain.encode_image(prepare(Image.open(photo))[None], normalize=True)
        texts = plain.encode_text(tokens, normalize=True)
    together = scorer.encoder.texts(list(TEXTS)).features
    torch.testing.assert_close(together, texts, rtol=0, atol=1e-6)
    alone = torch.cat([scorer.encoder.texts([text]).features for text in TEXTS])
    torch.testing.assert_close(alone, texts, rtol=0, atol=1e-6)
    torch.testing.assert_close(scorer.encoder.images([Image.open(photo)]), image, rtol=0, atol=1e-6)
    assert float((texts[0] - texts[1]).abs().max()) > 1e-3
    score = scorer.score(photo, TEXTS[1])
    assert score.cosine == pytest.approx(float(image[0] @ texts[1]), abs=1e-6)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("siglip", "T5Tokenizer"), ("siglip2", "GemmaTokenizer"), ("clipa", "BertTokenizer")),
        *(("worldwide", "XLMRobertaTokenizer"), ("roberta", "XLMRobertaTokenizer")),
        *(("mt5", "T5Tokenizer"), ("nllb", "NllbTokenizer")),
    ],
)
def test_a_tokenizer_that_only_has_a_name_comes_from_the_hub_s_cache(
    name: str, kind: str, folders: Callable[[str], Path], photo: Path, tmp_path: Path
) -> None:
    """As real repositories have it, the settings name a class, which decides on more than the file says."""
    folder = tmp_path / "model"
    shutil.copytree(folders(name), folder, ignore=shutil.ignore_patterns("tokenizer*"))
    cache, text = save_towers(tmp_path / "hub"), config_of(FAMILIES[name])["model_cfg"]["text_cfg"]
    with pytest.raises(ModelError, match=f"{text['hf_tokenizer_name']}: not .*in the cache"):
        DescScorer.from_pretrained(folder, device="cpu", cache_dir=cache)
    own = save_tokenizer(FAMILIES[name].tokenizer, tmp_path / "tokenizer")
    settings = json.loads((own / "tokenizer_config.json").read_text()) | {"tokenizer_class": kind}
    files = {"tokenizer.json": own / "tokenizer.json", "tokenizer_config.json": json.dumps(settings)}
    snapshot = save_in_cache(cache, text["hf_tokenizer_name"], files)
    options: dict[str, Any] = {"device": "cpu", "cache_dir": cache, "text_policy": "truncate"}
    scorer = DescScorer.from_pretrained(folder, **options)
    found = scorer.encoder.texts(list(TEXTS)).features
    tokenizer = HFTokenizer(
        str(snapshot), context_length=text.get("context_length", 77), **text.get("tokenizer_kwargs", {})
    )
    plain = plain_model(config_of(FAMILIES[name]), tower_of(name, cache))
    wanted = plain.encode_text(tokenizer(list(TEXTS)), normalize=True)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    image = scorer.encoder.images([Image.open(photo)])
    assert scorer.score(photo, TEXTS[0]).cosine == pytest.approx(float(image[0] @ wanted[0]), abs=1e-6)
    long = scorer.tokenize(TEXTS[-1])
    assert scorer.model.tokenizer.unwrap(long.rows[0])


@pytest.mark.parametrize(
    "settings",
    [
        {"tokenizer_class": "PreTrainedTokenizerFast"},
        {"tokenizer_class": "PreTrainedTokenizerFast", "padding_side": "left"},
        {"tokenizer_class": "GemmaTokenizer"},
        {"tokenizer_class": "GemmaTokenizer", "padding_side": "right"},
    ],
)
def test_rows_are_filled_up_on_the_side_that_a_folder_s_tokenizer_says(
    settings: dict[str, str], folders: Callable[[str], Path], tmp_path: Path
) -> None:
    """Gemma's class fills up on the left, unless the settings say otherwise."""
    folder = tmp_path / "model"
    shutil.copytree(folders("siglip2"), folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<pad>", **settings}))
    scorer = DescScorer.from_pretrained(folder, device="cpu")
    text = config_of(FAMILIES["siglip2"])["model_cfg"]["text_cfg"]
    plain = HFTokenizer(str(folder), context_length=text["context_length"], **text["tokenizer_kwargs"])
    row = scorer.tokenize("a cat").rows[0]
    wanted = plain("a cat")[0].tolist()
    assert len(row) == len(wanted)
    assert (row[0] == 0, row[-1] == 0) == (wanted[0] == 0, wanted[-1] == 0)
    assert scorer.model.tokenizer.decode(scorer.model.tokenizer.unwrap(row)) == "a cat"


def test_a_tokenizer_that_does_not_belong_to_the_model_is_said_at_once(
    folders: Callable[[str], Path], tmp_path: Path
) -> None:
    """Its first token of each row has no embedding: texts would end in an error of torch's."""
    folder = tmp_path / "model"
    shutil.copytree(folders("worldwide"), folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens([f"<{n}>" for n in range(100)])
    last = tokenizer.get_vocab_size() - 1
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{tokenizer.id_to_token(last)} $A </s>",
        special_tokens=[(tokenizer.id_to_token(last), last), ("</s>", 2)],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    with pytest.raises(ModelError, match=f"gives token {last}, but the model has 100 tokens"):
        DescScorer.from_pretrained(folder, device="cpu")


def test_a_model_of_sentencepiece_says_what_it_needs(
    folders: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """google/mt5-base has no tokenizer.json, and transformers would ask for another package."""
    folder = tmp_path / "model"
    shutil.copytree(folders("mt5"), folder, ignore=shutil.ignore_patterns("tokenizer*"))
    cache = save_towers(tmp_path / "hub")
    save_in_cache(cache, "google/mt5-base", {"spiece.model": "?", "tokenizer_config.json": "{}"})
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(ModelError, match=r"tokenizer google/mt5-base: .*pip install sentencepiece protobuf"):
        DescScorer.from_pretrained(folder, device="cpu", cache_dir=cache)


@pytest.mark.parametrize("name", FAMILIES)
def test_only_causal_towers_that_end_in_a_token_are_shortened(name: str, scorers: Scorers) -> None:
    clip = scorers(name).model.clip
    assert can_shorten(clip) == runs_short(clip) == (FAMILIES[name].tower == "causal")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_comparison_has_the_probability_of_the_models_own_logits(
    name: str, scorers: Scorers, photo: Path
) -> None:
    scorer = scorers(name)
    found = scorer.compare(photo, TEXTS[1], TEXTS[0])
    clip: Any = scorer.model.clip
    cosines = torch.tensor([found.description.cosine, found.caption.cosine], dtype=torch.float64)
    logits = clip.logit_scale.exp() * cosines + (0 if clip.logit_bias is None else clip.logit_bias)
    assert found.probability == pytest.approx(float(logits.softmax(0)[0]), abs=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_long_texts_go_through_in_windows_and_nothing_is_lost(
    name: str, folders: Callable[[str], Path], cache: Path, photo: Path
) -> None:
    scorer = DescScorer.from_pretrained(folders(name), device="cpu", cache_dir=cache)
    tokenizer, long = scorer.model.tokenizer, scorer.tokenize(TEXTS[-1])
    assert len(long.rows) > 1
    assert max(map(len, long.rows)) <= tokenizer.context_length
    read = "".join(tokenizer.decode(tokenizer.unwrap(row)) for row in long.rows)
    assert read.replace(" ", "") == tokenizer.decode(tokenizer.encode(TEXTS[-1])).replace(" ", "")
    assert sum(long.weights) == pytest.approx(1)
    parts = scorer.encoder.texts([tokenizer.decode(tokenizer.unwrap(row)) for row in long.rows]).features
    mean = torch.nn.functional.normalize(torch.tensor(long.weights)[None] @ parts.float())
    torch.testing.assert_close(scorer.encoder.texts([TEXTS[-1]], "weighted-windows").features, mean)
    one = scorer.tokenize("walks" * 400)
    assert all(tokenizer.unwrap(row) for row in one.rows)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_a_model_lacks_is_null_or_refused_in_one_sentence(
    name: str, scorers: Scorers, photo: Path
) -> None:
    scorer = scorers(name)
    score = scorer.score(photo, TEXTS[1])
    assert (score.description_probability, score.percentile) == (None, None)
    if FAMILIES[name].tower == "causal" and FAMILIES[name].tokenizer == "open_clip":
        assert explain(photo, TEXTS[1], scorer=scorer).words
        return
    with pytest.raises(UsageError, match="explanations need open_clip's own tokenizer"):
        explain(photo, TEXTS[1], scorer=scorer)


@pytest.mark.parametrize("name", FAMILIES)
def test_bfloat16_is_near(name: str, folders: Callable[[str], Path], cache: Path, photo: Path) -> None:
    options: dict[str, Any] = {"device": "cpu", "cache_dir": cache}
    exact = DescScorer.from_pretrained(folders(name), **options).score(photo, TEXTS[1])
    fast = DescScorer.from_pretrained(folders(name), precision="bf16", **options).score(photo, TEXTS[1])
    assert fast.cosine == pytest.approx(exact.cosine, abs=0.03)


PAGE = Path(__file__).parents[1] / "docs" / "models.md"


def table_of(scorers: Scorers) -> str:
    """The table of the documentation, from what the small models turn out to do."""
    lines = [
        "| family | such as | text run | tokenizer | fine-tuning | explanations |",
        "|---|---|---|---|---|---|",
    ]
    for name, family in FAMILIES.items():
        model = scorers(name).model
        try:
            own_text_tower(model.clip)
            tuning = "yes"
        except ModelError:
            tuning = "no: the text tower is not open_clip's"
        run = "short" if runs_short(model.clip) else f"whole: {family.tower}"
        tokenizer = "open_clip's own" if model.tokenizer.library is None else "`tokenizer.json`"
        can = "yes" if explains(model) else "no"
        lines.append(f"| {family.label} | {family.examples} | {run} | {tokenizer} | {tuning} | {can} |")
    return "\n".join(lines) + "\n"


def test_the_documentation_has_the_table_that_these_models_give(scorers: Scorers) -> None:
    begin, end = "<!-- families -->\n", "<!-- /families -->"
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(begin)
    shown, _, after = rest.partition(end)
    if os.environ.get("DESCSCORE_UPDATE_DOCS"):
        shown = table_of(scorers)
        PAGE.write_text(before + begin + shown + end + after, encoding="utf-8")
    assert shown == table_of(scorers)


def test_every_model_of_open_clip_belongs_to_a_family() -> None:
    """By the class, the mask, the pooling and the kind of tokenizer; and a known name is never guessed."""

    def kind(config: dict[str, Any]) -> tuple[object, ...]:
        text = config["text_cfg"]
        tower = (
            "hf" if text.get("hf_model_name") else text.get("no_causal_mask", False),
            text.get("embed_cls", False),
        )
        return (*tower, text.get("pool_type", "argmax"), bool(text.get("hf_tokenizer_name")))

    known = {kind(config_of(family)["model_cfg"]) for family in FAMILIES.values()}
    for name in open_clip.list_models():
        config: Any = open_clip.get_model_config(name)
        assert kind(config) in known, name
        assert "siglip" not in name.lower() or config["text_cfg"].get("hf_tokenizer_name"), name
