"""Integrated gradients: against captum, against hooks, against planted answers, and against themselves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import captum.attr
import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conftest import TINY
from descscore.explanations.attribution import (
    STEPS,
    Attribution,
    TextRows,
    attribute,
    evaluate,
    nodes,
    without_words,
)
from descscore.interchange import Rotation
from descscore.purpose import Purpose, Readout, Site

EOT, WIDTH = 999, 32
SMALL = {**TINY["model_cfg"], "text_cfg": {**TINY["model_cfg"]["text_cfg"], "vocab_size": EOT + 1}}


def make_clip(seed: int = 0, spread: float = 1.0) -> Any:
    """A CLIP with random weights; a larger spread of embeddings makes its text tower less linear."""
    torch.manual_seed(seed)
    clip = open_clip.CLIP(**SMALL).eval().requires_grad_(False)
    clip.token_embedding.weight.mul_(spread)
    return clip


def make_purpose(block: int = 2, k: int = 5, seed: int = 1) -> Purpose:
    generator = torch.Generator().manual_seed(seed)
    readout = Readout(torch.randn(k, generator=generator), torch.tensor(0.3))
    return Purpose(Site(block, k), Rotation(WIDTH, seed).matrix().detach(), readout)


def make_texts(*lengths: int, owner: list[int] | None = None, seed: int = 0) -> TextRows:
    """Random texts of those lengths, start and end token included, with random images."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.zeros(len(lengths), max(lengths), dtype=torch.int64)
    for row, length in enumerate(lengths):
        tokens[row, :length] = torch.randint(1, EOT - 1, (length,), generator=generator)
        tokens[row, 0], tokens[row, length - 1] = EOT - 1, EOT
    owners = torch.tensor(owner if owner is not None else range(len(lengths)))
    shares = 1 / torch.bincount(owners)[owners].float()
    images = torch.randn(int(owners.max()) + 1, 16, generator=generator)
    return TextRows(tokens, owners, shares, F.normalize(images, dim=-1))


def rows_of(texts: TextRows, rows: list[int]) -> TextRows:
    """Some of the texts, which must have one row each, in that order."""
    return TextRows(texts.tokens[rows], torch.arange(len(rows)), texts.share[rows], texts.images[rows])


@pytest.fixture(scope="module")
def clip() -> Any:
    return make_clip(spread=3.0)


def plain_state(clip: Any, embedded: Tensor, end: int) -> Tensor:
    """open_clip's own text tower on embeddings ``(b, length, width)``: state ``(b, width)`` at ``end``."""
    length = embedded.shape[1]
    hidden = clip.transformer(embedded, attn_mask=clip.attn_mask[:length, :length])
    return clip.ln_final(hidden)[:, end]


def captum_parts(clip: Any, texts: TextRows, row: int, steps: int = 50) -> Tensor:
    """captum's integrated gradients of one text's cosine, summed over dimensions: ``(length,)``."""
    tokens = texts.tokens[row][None]
    end = int((tokens[0] == EOT).nonzero())
    empty = torch.zeros_like(tokens)
    empty[0, 0], empty[0, end] = tokens[0, 0], EOT

    def cosine(embedded: Tensor) -> Tensor:
        feature = F.normalize(plain_state(clip, embedded, end) @ clip.text_projection, dim=-1)
        return feature @ texts.images[row]

    def embed(ids: Tensor) -> Tensor:
        return clip.token_embedding(ids) + clip.positional_embedding[: ids.shape[1]]

    method = captum.attr.IntegratedGradients(cosine)
    found = method.attribute(embed(tokens), embed(empty), n_steps=steps, method="gausslegendre")
    return found.sum(-1)[0]


@pytest.mark.parametrize("block", [0, 3])
def test_equals_captum(clip: Any, block: int) -> None:
    texts = make_texts(6, 11, 20)
    found = attribute(clip, texts, make_purpose(block), steps=(50,), filler="padding")
    for row in range(3):
        expected = captum_parts(clip, texts, row)
        np.testing.assert_allclose(found.cosine[row], expected, atol=2e-6)
    assert float(found.cosine.abs().max()) > 0.01


@pytest.mark.parametrize("block", [0, 2, 3])
def test_the_mediated_part_equals_captum_with_all_else_held(block: int) -> None:
    """Gradients are stopped by a hook everywhere but in the subspace of the end token's state."""
    clip, texts, purpose = make_clip(spread=3.0), make_texts(6, 11), make_purpose(block)
    found = attribute(clip, texts, purpose, steps=(50,), filler="padding")
    basis = purpose.rotation[: purpose.site.k]
    assert found.through is not None
    for row in range(2):
        end = int((texts.tokens[row] == EOT).nonzero())

        def hook(_module: nn.Module, _inputs: Any, hidden: Tensor, end: int = end) -> Tensor:
            within = hidden[:, end] @ basis.T @ basis
            kept = hidden.detach().clone()
            kept[:, end] += within - within.detach()
            return kept

        handle = clip.transformer.resblocks[block].register_forward_hook(hook)
        expected = captum_parts(clip, texts, row)
        handle.remove()
        np.testing.assert_allclose(found.through[row], expected, atol=2e-6)
    assert float(found.through.abs().max()) > 1e-3


def test_parts_through_two_halves_of_the_state_add_up(clip: Any) -> None:
    """After the last block only the end token's state matters: what is not in one half is in the other."""
    texts, purpose = make_texts(6, 11), make_purpose(3, 12)
    other = Purpose(Site(3, WIDTH - 12), purpose.rotation.roll(-12, 0))
    one, two = attribute(clip, texts, purpose, (50,)), attribute(clip, texts, other, (50,))
    np.testing.assert_allclose(one.through + two.through, one.cosine, atol=1e-6)  # type: ignore[operator]
    whole = attribute(clip, texts, Purpose(Site(3, WIDTH), purpose.rotation), (50,))
    np.testing.assert_allclose(whole.through, whole.cosine, atol=1e-6)  # type: ignore[arg-type]


class Uniform(nn.Module):
    """In place of a block: every state gains the mean of a linear map of all states up to it."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight

    def get_weight_dtype(self) -> torch.dtype:
        return self.weight.dtype

    def forward(self, hidden: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        count = torch.arange(1, hidden.shape[1] + 1).view(1, -1, 1)
        return hidden + (hidden @ self.weight).cumsum(1) / count


def linear_clip() -> tuple[Any, Tensor]:
    """A text tower that is linear up to its site, after block 0, and the map it applies there."""
    clip = make_clip()
    weight = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(3))
    clip.transformer.resblocks[0] = Uniform(weight)
    return clip, weight


def test_a_planted_linear_answer_is_found_exactly() -> None:
    clip, weight = linear_clip()
    purpose, texts = make_purpose(block=0), make_texts(5, 9, 9)
    assert purpose.readout is not None
    direction = purpose.readout.weight @ purpose.rotation[: purpose.site.k]
    found = attribute(clip, texts, purpose, steps=(1,))
    assert found.log_odds is not None
    assert found.log_odds_path is not None
    table = clip.token_embedding.weight
    for row, length in enumerate((5, 9, 9)):
        moved = table[texts.tokens[row, :length]] - table[0]
        expected = (moved @ weight / length) @ direction
        expected[[0, -1]] = 0
        np.testing.assert_allclose(found.log_odds[row, :length], expected, atol=1e-6)
        assert not found.log_odds[row, length:].any()
        np.testing.assert_allclose(found.log_odds_path.difference[row], expected.sum(), atol=1e-5)
    assert found.log_odds_path.converged.all()


def test_what_the_subspace_cannot_reach_is_not_mediated() -> None:
    """The features are made to ignore the first dimension of the state, which is all the subspace holds."""
    clip = make_clip(spread=3.0)
    clip.ln_final = nn.Identity()
    clip.text_projection[0] = 0
    purpose = Purpose(Site(3, 1), torch.eye(WIDTH))
    found = attribute(clip, make_texts(6, 11), purpose, (50,))
    assert found.through is not None
    assert float(found.through.abs().max()) == 0
    assert float(found.cosine.abs().max()) > 0.01


def test_a_path_may_start_at_end_tokens(clip: Any) -> None:
    texts = make_texts(4, 9, 30)
    found = attribute(clip, texts, make_purpose(), filler="end")
    for row, length in enumerate((4, 9, 30)):
        tokens = texts.tokens[row].clone()
        tokens[1:length] = EOT
        embedded = clip.token_embedding(tokens[:length]) + clip.positional_embedding[:length]
        state = plain_state(clip, embedded[None], length - 1)
        start = F.normalize(state @ clip.text_projection, dim=-1)[0] @ texts.images[row]
        whole = evaluate(clip, texts).cosine[row]
        np.testing.assert_allclose(found.cosine_path.difference[row], whole - start, atol=1e-6)
        assert float(found.cosine[row, length:].abs().sum()) == 0  # no part behind the text
    assert found.cosine_path.converged.all()
    assert not torch.allclose(found.cosine, attribute(clip, texts, make_purpose(), filler="padding").cosine)


def test_the_difference_is_that_of_whole_texts(clip: Any) -> None:
    """Against ``encode_text`` of the text, and of its start and end tokens with padding between them."""
    texts = make_texts(4, 9, 30)
    found = attribute(clip, texts, make_purpose(), filler="padding")
    whole, empty = texts.tokens, torch.zeros_like(texts.tokens)
    for row in range(3):
        end = int((whole[row] == EOT).nonzero())
        empty[row, 0], empty[row, end] = whole[row, 0], EOT
    assert torch.equal(without_words(clip, whole, "padding"), empty)

    def cosines(tokens: Tensor) -> Tensor:
        padded = F.pad(tokens, (0, 77 - tokens.shape[1]))
        return (F.normalize(clip.encode_text(padded), dim=-1) * texts.images).sum(-1)

    np.testing.assert_allclose(found.cosine_path.value, cosines(whole), atol=1e-6)
    np.testing.assert_allclose(found.cosine_path.difference, cosines(whole) - cosines(empty), atol=1e-6)
    np.testing.assert_allclose(evaluate(clip, texts).cosine, cosines(whole), atol=1e-6)
    total = found.cosine.sum(1) - found.cosine_path.difference
    np.testing.assert_allclose(found.cosine_path.delta, total, atol=1e-12)
    assert found.cosine_path.converged.all()


def same(left: Attribution, rows: list[int], right: Attribution) -> None:
    for name in ("cosine", "through", "log_odds"):
        part, other = getattr(left, name)[rows], getattr(right, name)
        length = min(part.shape[1], other.shape[1])
        np.testing.assert_allclose(part[:, :length], other[:, :length], atol=2e-6)
        assert not part[:, length:].any()


def test_parts_do_not_depend_on_the_other_texts(clip: Any) -> None:
    texts, purpose = make_texts(20, 5, 77, 9), make_purpose()
    together = attribute(clip, texts, purpose, (20,))
    for row in range(4):
        same(together, [row], attribute(clip, rows_of(texts, [row]), purpose, (20,)))
    order = [2, 0, 3, 1]
    same(together, order, attribute(clip, rows_of(texts, order), purpose, (20,)))


def test_parts_do_not_depend_on_how_many_passes_there_are(clip: Any) -> None:
    """With 300 nodes two long texts no longer fit into one pass; each alone does."""
    texts, purpose = make_texts(77, 60), make_purpose()
    together = attribute(clip, texts, purpose, (300,))
    for row in range(2):
        same(together, [row], attribute(clip, rows_of(texts, [row]), purpose, (300,)))


def test_windows_are_one_text(clip: Any) -> None:
    """The cosine is that of the unit mean of the windows' unit features, and its parts add up to it."""
    texts = make_texts(9, 12, 5, owner=[0, 0, 1])
    found = attribute(clip, texts, make_purpose())
    unit = F.normalize(clip.encode_text(F.pad(texts.tokens, (0, 65))), dim=-1)
    expected = F.normalize(unit[:2].mean(0), dim=-1) @ texts.images[0]
    assert float(found.cosine_path.value[0]) == pytest.approx(float(expected), abs=1e-6)
    assert found.cosine_path.converged.all()
    assert found.log_odds_path is not None
    assert found.log_odds_path.converged.all()
    assert bool((found.cosine[:2].abs().sum(1) > 0).all())


def test_steps_are_raised_only_where_they_must_be() -> None:
    clip = make_clip(spread=20.0)
    texts, purpose = make_texts(6, 20, 40, 77), make_purpose(3)
    rough = attribute(clip, texts, purpose, (2,))
    assert not rough.cosine_path.converged.all()
    fine = attribute(clip, texts, purpose, (*range(2, 16), *STEPS))
    assert fine.cosine_path.converged.all()
    assert len(set(fine.steps.tolist())) > 1
    for row, steps in enumerate(fine.steps.tolist()):
        same(fine, [row], attribute(clip, rows_of(texts, [row]), purpose, (steps,)))


def test_not_converged_is_said() -> None:
    found = attribute(make_clip(spread=20.0), make_texts(40, 77), None, (1, 2))
    missed = found.cosine_path.delta.abs() > (0.01 * found.cosine_path.difference.abs()).clamp(min=1e-3)
    assert missed.any()
    assert torch.equal(found.cosine_path.converged, ~missed)
    assert found.steps[missed].eq(2).all()


def test_a_model_without_purpose_has_no_such_parts(clip: Any) -> None:
    texts = make_texts(6, 11)
    found = attribute(clip, texts)
    assert found.through is None
    assert found.log_odds is None
    assert found.log_odds_path is None
    np.testing.assert_allclose(found.cosine, attribute(clip, texts, make_purpose()).cosine, atol=2e-6)
    unread = Purpose(Site(2, 5), make_purpose().rotation)
    assert attribute(clip, texts, unread).through is not None
    assert attribute(clip, texts, unread).log_odds is None


def test_a_tower_pooled_by_its_end_tokens_number(clip: Any) -> None:
    """With ``eos`` pooling the end token is known by its id and need not be the highest."""
    text = {**SMALL["text_cfg"], "pool_type": "eos", "eos_id": 7}
    torch.manual_seed(0)
    other = open_clip.CLIP(**{**SMALL, "text_cfg": text}).eval().requires_grad_(False)
    texts = make_texts(6, 11)
    tokens = texts.tokens.masked_fill(texts.tokens == 7, 8).masked_fill(texts.tokens == EOT, 7)
    found = attribute(other, replace(texts, tokens=tokens), make_purpose())
    features = F.normalize(other.encode_text(F.pad(tokens, (0, 66))), dim=-1)
    np.testing.assert_allclose(found.cosine_path.value, (features * texts.images).sum(-1), atol=1e-6)
    assert found.cosine_path.converged.all()


def test_nodes_integrate_polynomials_exactly() -> None:
    for steps in (1, 5, 50):
        places, weights = np.array(nodes(steps)).T
        assert weights.sum() == pytest.approx(1, abs=1e-12)
        for power in (0, 1, 2 * steps - 1):
            assert weights @ places**power == pytest.approx(1 / (power + 1), abs=1e-12)
