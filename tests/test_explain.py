"""Explanations: against scoring, against interventions by hand, and as text, JSON and a page."""

from __future__ import annotations

import html.parser
import json
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner, Result
from PIL import Image

import descscore
from descscore import DescScorer
from descscore.adapters import AdapterInfo, save_full, weights_hash
from descscore.cli import main
from descscore.errors import ImageError, InputError, ModelError, TextError, UsageError
from descscore.explanations.changes import GRID, occlude, visible_box
from descscore.explanations.explainer import ExplainOptions, explain, explain_batch
from descscore.explanations.explanation import Explanation
from descscore.explanations.html_page import to_html
from descscore.explanations.terminal import to_text
from descscore.models import load_model
from descscore.purpose import Purpose, Readout, Rotation, Site, save_purpose
from descscore.towers.text import run_from_block, run_to_block
from pictures import make_photo
from reproduce.purpose_subspace import log_odds_of, reference_places

TEXTS = ("A red car stands at a gate.", "Ada Lovelace, London & 1843 👩\u200d💻", "A dog. " * 40)
PLACES = torch.stack([torch.linspace(-1, 3, 101), torch.linspace(-3, 1, 101)])


@pytest.fixture(scope="module")
def adapter(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as an adapter: other text weights, a random rotation, a read-out, references."""
    folder = tmp_path_factory.mktemp("adapter")
    clip, base = (load_model(tiny_folder, "cpu").clip for _ in range(2))
    info = AdapterInfo(str(tiny_folder), weights_hash(base), tuning="full", block=2, k=5)
    torch.manual_seed(1)
    clip.token_embedding.weight.data *= 3
    readout = Readout(torch.randn(5), torch.tensor(0.1))
    rotation = Rotation(32, 1).matrix().detach()
    save_full(clip, base, info, folder)
    save_purpose(Purpose(Site(2, 5), rotation, readout, torch.linspace(-1, 1, 101), PLACES), folder)
    return folder


@pytest.fixture(scope="module")
def scorer(adapter: Path) -> DescScorer:
    return DescScorer.from_pretrained(adapter, device="cpu", text_policy="truncate")


@pytest.fixture(scope="module")
def plain(tiny_folder: Path) -> DescScorer:
    return DescScorer.from_pretrained(tiny_folder, device="cpu")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photo(tmp_path_factory.mktemp("photos") / "a <b> & c.png", 0)


@pytest.fixture(scope="module")
def found(scorer: DescScorer, image: Path) -> list[Explanation]:
    options = ExplainOptions(source=TEXTS[1], where=True)
    return explain_batch([image] * 3, TEXTS, scorer, options)


def test_scores_are_those_of_scoring(found: list[Explanation], scorer: DescScorer, image: Path) -> None:
    expected = scorer.score_batch([image] * 3, TEXTS)
    for item, score in zip(found, expected, strict=True):
        assert item.score.to_dict() == pytest.approx(score.to_dict())
        assert item.score.clip_score != pytest.approx(item.score.score, abs=1e-4)


def test_parts_add_up(found: list[Explanation]) -> None:
    for item in found:
        assert item.convergence.converged
        assert item.purpose_convergence is not None
        assert item.purpose_convergence.converged
        for key, path in (("value", item.convergence), ("purpose", item.purpose_convergence)):
            total = sum(getattr(word, key) for word in item.words)
            assert total - path.difference == pytest.approx(path.delta, abs=1e-9)
            assert abs(path.delta) <= max(0.01 * abs(path.difference), 1e-3)
        for word in item.words:
            assert word.through is not None
            assert word.around is not None
            assert word.through + word.around == pytest.approx(word.value, abs=1e-12)
        assert any(word.through for word in item.words)


def test_words_are_the_texts(found: list[Explanation]) -> None:
    for item, text in zip(found, TEXTS, strict=True):
        assert "".join(word.text for word in item.words) == re.sub(r"\s", "", text)
        assert all(text[word.start : word.end] == word.text for word in item.words)
    unseen = [word for word in found[2].words if not word.tokens]
    assert found[2].score.truncated
    assert len(unseen) == 120 - 75
    assert all(word.value == word.purpose == word.leave_one_out == 0 for word in unseen)


def test_leave_one_out_is_the_score_without_the_words_tokens(
    found: list[Explanation], scorer: DescScorer, image: Path
) -> None:
    """In these texts no word changes its neighbours' tokens, so the shortened text can simply be scored."""
    text, words = TEXTS[0], found[0].words
    shorter = [text[: word.start] + text[word.end :] for word in words]
    scores = scorer.score_batch([image] * len(words), shorter)
    odds = [score.description_probability for score in scores]
    place = found[0].purpose
    assert place is not None
    for word, score, p in zip(words, scores, odds, strict=True):
        assert word.leave_one_out == pytest.approx(found[0].score.cosine - score.cosine, abs=2e-6)
        assert p is not None
        assert word.leave_one_out_purpose == pytest.approx(place.log_odds - np.log(p / (1 - p)), abs=1e-4)
    assert max(abs(word.leave_one_out) for word in words) > 1e-3


def test_one_word_alone_can_be_left_out(scorer: DescScorer, image: Path) -> None:
    item = explain(image, "Boats", scorer=scorer)
    (word,) = item.words
    assert word.value == pytest.approx(item.convergence.difference, abs=2e-3)
    assert np.isfinite(word.leave_one_out)


def test_the_purpose_place(found: list[Explanation], scorer: DescScorer) -> None:
    for item in found:
        place = item.purpose
        assert place is not None
        assert place.probability == item.score.description_probability
        assert place.probability == pytest.approx(1 / (1 + np.exp(-place.log_odds)), abs=1e-5)
        assert (place.block, place.k) == (2, 5)
        for above, row in zip((place.above_descriptions, place.above_captions), PLACES, strict=True):
            assert above == pytest.approx(100 * float((row < place.log_odds).double().mean()), abs=0.5)
    odds = log_odds_of(scorer.model, TEXTS)
    assert sorted(odds.tolist()) == pytest.approx(sorted(i.purpose.log_odds for i in found), abs=1e-4)  # type: ignore[union-attr]


def test_the_counterfactual_is_an_interchange(
    found: list[Explanation], scorer: DescScorer, image: Path
) -> None:
    """By hand: the state at the site takes on the source's coordinates, and the run goes on."""
    model = scorer.model
    purpose = model.purpose
    assert purpose is not None
    basis = purpose.rotation[:5]
    photo = scorer.encoder.images([Image.open(image)])[0]
    rows = [torch.tensor([scorer.tokenize(text).rows[0]]) for text in TEXTS]
    with torch.no_grad():
        source = run_to_block(model.clip, rows[1], 2).state
        for item, row in zip(found, rows, strict=True):
            run = run_to_block(model.clip, row, 2)
            moved = run.state + (source - run.state) @ basis.T @ basis
            feature = F.normalize(run_from_block(model.clip, run.replaced(torch.tensor([0]), moved)), dim=-1)
            other = item.counterfactual
            assert other is not None
            assert other.cosine == pytest.approx(float(feature[0] @ photo), abs=2e-6)
            assert other.change == pytest.approx(other.cosine - item.score.cosine, abs=1e-9)
            assert other.score == pytest.approx(2.5 * max(other.cosine, 0))
            assert other.source_probability == pytest.approx(found[1].score.description_probability)
    assert found[1].counterfactual.change == pytest.approx(0, abs=2e-6)  # type: ignore[union-attr]
    assert abs(found[0].counterfactual.change) > 1e-3  # type: ignore[union-attr]


def test_many_texts_are_explained_as_each_alone(
    found: list[Explanation], scorer: DescScorer, image: Path
) -> None:
    for item, text in zip(found, TEXTS, strict=True):
        alone = explain(image, text, scorer=scorer)
        for word, other in zip(item.words, alone.words, strict=True):
            for key in ("value", "through", "purpose", "leave_one_out", "leave_one_out_purpose"):
                assert getattr(word, key) == pytest.approx(getattr(other, key), abs=1e-5), (word, key)


@pytest.mark.parametrize("policy", ["windows", "weighted-windows"])
def test_windows_explain_the_whole_text(adapter: Path, image: Path, policy: Any) -> None:
    scorer = DescScorer.from_pretrained(adapter, device="cpu", text_policy=policy)
    text = "A red car stands at a gate. " * 8 + "Ada, 1843, at her desk. " * 8
    item = explain(image, text, scorer=scorer, source="A dog.")
    assert item.score.windows > 1
    assert item.convergence.converged
    assert all(word.tokens for word in item.words)
    assert all(word.value for word in item.words)
    assert item.score.cosine == pytest.approx(scorer.score(image, text).cosine, abs=1e-6)
    without = text[len("A red") :]
    shorter = explain(image, "A" + without, scorer=scorer)
    assert item.words[1].text == "red"
    if shorter.score.windows == item.score.windows:
        lost = item.score.cosine - shorter.score.cosine
        assert item.words[1].leave_one_out == pytest.approx(lost, abs=2e-6)


def test_a_model_without_purpose(plain: DescScorer, image: Path) -> None:
    item = explain(image, TEXTS[0], scorer=plain)
    assert item.purpose is None
    assert item.purpose_convergence is None
    assert item.convergence.converged
    for word in item.words:
        assert word.through is word.around is word.purpose is word.leave_one_out_purpose is None
    with pytest.raises(UsageError, match="no purpose subspace"):
        explain(image, TEXTS[0], scorer=plain, source=TEXTS[1])
    with pytest.raises(UsageError, match="no purpose read-out"):
        reference_places(plain.model, ())


def test_input_fails_as_in_scoring(scorer: DescScorer, image: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"not a photo")
    for photo, text, kind in (
        (tmp_path / "none.jpg", "a", ImageError),
        (tmp_path / "broken.jpg", "a", ImageError),
        ("https://example.org/a.jpg", "a", ImageError),
        (image, "", TextError),
        (image, " \n", TextError),
        (image, 5, TextError),
    ):
        with pytest.raises(InputError) as explained:
            explain(photo, text, scorer=scorer)  # type: ignore[arg-type]
        with pytest.raises(kind) as scored:
            scorer.score_batch([photo], [text])  # type: ignore[list-item]
        assert str(explained.value) == str(scored.value)
    with pytest.raises(UsageError, match="1 images but 2 texts"):
        explain_batch([image], ["a", "b"], scorer)
    with pytest.raises(TextError):
        explain(image, "a", scorer=scorer, source=" ")
    assert explain_batch([], [], scorer) == []


def test_other_precisions_are_refused(plain: DescScorer, image: Path) -> None:
    with pytest.raises(UsageError, match="float32"):
        explain(image, "a", scorer=DescScorer(replace(plain.model), precision="bf16"))


def test_the_package_offers_the_function() -> None:
    assert descscore.explain is explain
    assert descscore.explain is explain  # importing its module must not take its place
    assert descscore.Explanation is Explanation


class Corner(torch.nn.Module):
    """An image tower that sees nothing but the top left quarter: how bright it is."""

    image_size = 32
    preprocess_cfg: ClassVar = {"size": 32, "resize_mode": "squash"}

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        half = pixels.shape[-1] // 2
        bright = pixels[:, :, :half, :half].mean((1, 2, 3))
        return torch.stack([bright, torch.ones_like(bright)], 1)


def test_the_map_finds_what_the_tower_sees(tiny_folder: Path) -> None:
    model = load_model(tiny_folder, "cpu")
    model.clip.visual = Corner()
    photo = Image.new("RGB", (64, 64), "black")
    photo.paste("white", (8, 8, 24, 24))
    values = occlude(model, photo, F.normalize(torch.tensor([[1.0, 0.2], [-1.0, 0.2]]), dim=-1)).values
    assert values.shape == (2, GRID, GRID)
    assert not values[0, 5:].any()
    assert not values[0, :, 5:].any()
    assert values[0, 1:3, 1:3].min() > 0
    assert int(values[0].argmax()) // GRID in (1, 2)
    assert torch.equal(values[1].sign(), -values[0].sign())


@pytest.mark.parametrize(
    ("mode", "size", "box"),
    [
        ("squash", (200, 100), (0, 0, 1, 1)),
        ("shortest", (200, 100), (0.25, 0, 0.75, 1)),
        ("shortest", (100, 400), (0, 0.375, 1, 0.625)),
        ("longest", (200, 100), (0, -0.5, 1, 1.5)),
    ],
)
def test_the_map_lies_where_the_model_looks(
    plain: DescScorer,
    mode: str,
    size: tuple[int, int],
    box: tuple[float, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = plain.model.clip.visual.preprocess_cfg | {"resize_mode": mode}
    monkeypatch.setattr(plain.model.clip.visual, "preprocess_cfg", config)
    assert visible_box(plain.model, size) == pytest.approx(box)


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def test_json_holds_everything(found: list[Explanation], adapter: Path, image: Path) -> None:
    result = run(
        "explain",
        image,
        TEXTS[1],
        "--source",
        TEXTS[1],
        "--where",
        "--json",
        "--model",
        adapter,
        "--device",
        "cpu",
    )
    assert result.exit_code == 0, result.output
    data = json.loads(result.output)
    assert data["image"] == str(image)
    assert data["text"] == TEXTS[1]
    assert data["score"] == pytest.approx(found[1].score.score)
    assert data["convergence"]["converged"] is True
    assert {"delta", "difference", "steps"} < set(data["convergence"])
    assert {"text", "start", "end", "value", "purpose"} < set(data["words"][0])
    assert [w["value"] for w in data["words"]] == pytest.approx([w.value for w in found[1].words], abs=1e-5)
    assert data["counterfactual"]["source"] == TEXTS[1]
    assert len(data["occlusion"]["values"]) == GRID
    assert "not evidence" in data["occlusion"]["note"]
    assert json.loads(json.dumps(found[1].to_dict()))["words"][0]["text"] == "Ada"


def test_text_gives_every_number_with_its_sign(
    found: list[Explanation], plain: DescScorer, image: Path
) -> None:
    for item in found:
        text = to_text(item)
        for word in item.words:
            line = f"{word.value:+8.4f}" if word.tokens else "(not seen by the model)"
            assert line in text
        assert "add up" in text
        assert item.score.signature in text
        assert "higher than" in text
    assert "purpose" not in to_text(explain(image, "A dog", scorer=plain))


def test_text_obeys_no_control_characters(scorer: DescScorer, image: Path) -> None:
    text = to_text(explain(image, "red \x1b[31mfox\x07 runs\u202e", scorer=scorer))
    assert not {"\x1b", "\x07", "\u202e"} & set(text)


def test_parts_that_do_not_add_up_are_said_not_to(scorer: DescScorer, image: Path) -> None:
    item = explain_batch([image], [TEXTS[2]], scorer, ExplainOptions(steps=(1,)))[0]
    assert not item.convergence.converged
    assert "DO NOT add up" in to_text(item)
    assert "DO NOT add up" in to_html(item, Image.open(image), "a")


class Page(html.parser.HTMLParser):
    """Tags, attributes and text of a page, and whether tags are nested as they should be."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_stands_alone(found: list[Explanation], image: Path) -> None:
    for item in found:
        page = Page(to_html(item, Image.open(image), image.name))
        assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
        for tag, attributes in page.tags:
            for name in ("src", "href", "data", "action", "srcset", "poster"):
                assert (attributes.get(name) or "data:").startswith("data:"), tag
            assert not any(name.startswith("on") for name in attributes)
        assert "url(" not in page.text
        assert "@import" not in page.text
        assert "not evidence" in page.text


def test_the_page_reads_without_colour(found: list[Explanation], image: Path) -> None:
    item = found[1]
    page = Page(to_html(item, Image.open(image), image.name))
    assert dict(page.tags[0][1]) == {"lang": "en"}
    assert sum(tag == "h1" for tag, _ in page.tags) == 1
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
    assert all(
        attributes.get("role") == "img" and attributes.get("aria-label")
        for tag, attributes in page.tags
        if tag == "svg"
    )
    assert all(attributes.get("scope") in ("row", "col") for tag, attributes in page.tags if tag == "th")
    for word in item.words:
        for key, form in (("value", "+.4f"), ("through", "+.4f"), ("around", "+.4f"), ("purpose", "+.3f")):
            assert format(getattr(word, key), form) in page.text
    ranks = [int(rank) for rank in re.findall(r"</th><td>(\d+)</td>", to_html(item, Image.open(image), "a"))]
    values = [word.value for word in item.words]
    assert sorted(ranks) == list(range(1, len(values) + 1))
    assert np.argsort(ranks).tolist() == np.argsort([-value for value in values]).tolist()


def test_the_page_escapes_what_it_shows(scorer: DescScorer, image: Path) -> None:
    text = "<script>alert(1)</script> \"A\" & 'b' <img src=x onerror=alert(1)> \x00 {style}"
    item = explain(image, text, scorer=scorer, source="<b>x</b>")
    page = Page(to_html(item, Image.open(image), image.name))
    assert not {"script", "b"} & {tag for tag, _ in page.tags}
    assert sum(tag == "img" for tag, _ in page.tags) == 1
    assert "a <b> & c.png" in str([attributes.get("alt") for tag, attributes in page.tags if tag == "img"])
    assert " ".join(text.replace("\x00", "\ufffd").split()) in " ".join(page.text.split())


def test_the_page_goes_where_it_should(adapter: Path, image: Path, tmp_path: Path) -> None:
    options = ("--model", adapter, "--device", "cpu")
    before = image.read_bytes()
    wrong = run("explain", image, "A dog", "--html", image, *options)
    assert wrong.exit_code == 2
    assert ".html" in wrong.stderr
    assert image.read_bytes() == before
    page = tmp_path / "page.html"
    written = run("explain", image, "A dog", "--html", page, *options)
    assert written.exit_code == 0, written.output
    assert Page(page.read_text(encoding="utf-8")).text.count("A dog")
    printed = run("explain", image, "A dog", *options, "--html")
    assert printed.stdout == page.read_text(encoding="utf-8")
    assert run("explain", image, "A dog", "--json", *options, "--html").exit_code == 2
    both = run("explain", image, "A dog", "--json", "--html", page, *options)
    assert json.loads(both.stdout)["text"] == "A dog"
    lost = run("explain", image, "A dog", "--html", tmp_path / "none" / "page.html", *options)
    assert lost.exit_code == 1
    assert len(lost.stderr.splitlines()) == 1


def test_failures_are_one_line(adapter: Path, plain: DescScorer, image: Path, tmp_path: Path) -> None:
    for args, code, mention in (
        ((tmp_path / "none.jpg", "a"), 1, "none.jpg"),
        ((image, ""), 1, "empty or blank"),
        ((image, "a", "--text-policy", "nonesuch"), 2, "nonesuch"),
        ((image,), 2, "TEXT"),
    ):
        result = run("explain", *args, "--model", adapter, "--device", "cpu")
        assert result.exit_code == code
        assert mention in result.stderr
        assert "Traceback" not in result.output


REAL_TEXT = (
    "a woman and the man in a red car on the street with 2 small dogs, near an old building of 1912 behind "
    "Queen Elizabeth; portrait, black and white map: the river left, a museum standing by Smith in Paris"
)


def real_texts(shared_data: Path | None) -> list[str]:
    """50 published descriptions and captions, or where there are none, strings of real words."""
    if shared_data is not None:
        entries = json.loads((shared_data / "concadia" / "wiki_split.json").read_text())["images"][:25]
        return [entry[kind]["raw"] for entry in entries for kind in ("description", "caption")]
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(REAL_TEXT.split(), rng.integers(3, 40))) + "." for _ in range(50)]


def test_fifty_real_texts_add_up_under_the_bundled_model(shared_data: Path | None, tmp_path: Path) -> None:
    scorer = DescScorer.from_pretrained("default", device="cpu")
    texts = real_texts(shared_data)
    assert len(texts) == 50
    photo = make_photo(tmp_path / "a.png", 3)
    for item, text in zip(explain_batch([photo] * 50, texts, scorer), texts, strict=True):
        for path, key in ((item.convergence, "value"), (item.purpose_convergence, "purpose")):
            if path is not None:
                total = sum(getattr(word, key) for word in item.words)
                assert abs(total - path.difference) <= max(0.01 * abs(path.difference), 1e-3), text
                assert path.converged


def test_one_text_takes_under_a_second(tmp_path: Path) -> None:
    """In the processor's own time, which other programs on the machine do not lengthen much."""
    scorer = DescScorer.from_pretrained("default", device="cpu")
    photo = make_photo(tmp_path / "a.png", 3)
    text = "A woman in a dark naval uniform and a white cap looks into the camera, a flag behind her."
    times = []
    for _ in range(2):
        start = time.process_time()
        explain(photo, text, scorer=scorer)
        times.append(time.process_time() - start)
    assert min(times) < 1.0


def test_a_tower_that_is_not_causal_is_refused_by_name(tmp_path: Path, tiny_folder: Path) -> None:
    config: dict[str, Any] = json.loads((tiny_folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["no_causal_mask"] = True
    folder = tmp_path / "open"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    (folder / "open_clip_model.safetensors").write_bytes(
        (tiny_folder / "open_clip_model.safetensors").read_bytes()
    )
    with pytest.raises(ModelError, match="causal"):
        DescScorer.from_pretrained(folder, device="cpu")
