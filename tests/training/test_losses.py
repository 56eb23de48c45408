"""Each loss against a value worked out by hand, its gradient, and what must hold for any input."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from descscore.errors import UsageError
from descscore.training.losses import (
    ImageMoments,
    contrastive_loss,
    cosines,
    ending_loss,
    hold_loss,
    interchange_hits,
    interchange_loss,
    joint_loss,
    logit_shifts,
    outrank_loss,
    pair_logits,
    preference_hits,
    preference_loss,
    spread_loss,
)

SCALE = torch.tensor(math.log(10.0))
IMAGES = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
GOOD = torch.tensor([[3.0, 4.0], [0.0, 5.0]])  # cosines 0.6 and 1
POOR = torch.tensor([[4.0, 3.0], [6.0, 8.0]])  # cosines 0.8 and 0.8


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_cosines() -> None:
    torch.testing.assert_close(cosines(IMAGES, GOOD), torch.tensor([0.6, 1.0]))


def test_preference_loss_by_hand() -> None:
    # Cross-entropy of two logits is softplus(wrong - right): 10*(0.8-0.6) and 10*(0.8-1).
    expected = (softplus(2.0) + softplus(-2.0)) / 2
    assert float(preference_loss(pair_logits(IMAGES, GOOD, POOR, SCALE))) == pytest.approx(expected, abs=1e-6)


def test_preference_logits_by_hand() -> None:
    logits = pair_logits(IMAGES, GOOD, POOR, SCALE)
    torch.testing.assert_close(logits, torch.tensor([[6.0, 8.0], [10.0, 8.0]]))
    assert preference_hits(logits).tolist() == [False, True]


def test_interchange_loss_by_hand() -> None:
    # First: a description's purpose must raise the logit, it goes 6 -> 8. Second: a
    # caption's must lower it, it goes 10 -> 8. Both right by 2.
    logits = pair_logits(IMAGES, GOOD, POOR, SCALE)
    loss = interchange_loss(logits, torch.tensor([True, False]))
    assert float(loss) == pytest.approx(softplus(-2.0), abs=1e-6)
    assert interchange_hits(logits, torch.tensor([True, False])).tolist() == [True, True]


def test_interchange_loss_by_hand_when_wrong() -> None:
    logits = pair_logits(IMAGES, GOOD, POOR, SCALE)
    loss = interchange_loss(logits, torch.tensor([False, True]))
    assert float(loss) == pytest.approx(softplus(2.0), abs=1e-6)
    assert interchange_hits(logits, torch.tensor([False, True])).tolist() == [False, False]


def test_a_tie_is_no_hit() -> None:
    ties = torch.ones(2, 2)
    assert not preference_hits(ties).any()
    assert not interchange_hits(ties, torch.tensor([True, False])).any()


@pytest.mark.parametrize(("weight", "expected"), [(0.0, 3.0), (0.25, 2.5), (1.0, 1.0)])
def test_joint_loss_by_hand(weight: float, expected: float) -> None:
    assert float(joint_loss(torch.tensor(1.0), torch.tensor(3.0), weight)) == expected


@pytest.mark.parametrize("weight", [-0.1, 1.1, math.nan])
def test_joint_weight_outside_its_range_is_refused(weight: float) -> None:
    with pytest.raises(UsageError, match="joint weight"):
        joint_loss(torch.tensor(1.0), torch.tensor(3.0), weight)


def test_contrastive_loss_by_hand() -> None:
    # Logits [[6, 0], [8, 10]]: rows softplus(-6), softplus(-2); columns softplus(2), softplus(-10).
    expected = (softplus(-6.0) + softplus(-2.0) + softplus(2.0) + softplus(-10.0)) / 4
    loss = contrastive_loss(IMAGES, GOOD, SCALE)
    assert float(loss) == pytest.approx(expected, abs=1e-6)


def test_rows_of_one_image_are_no_negatives() -> None:
    images, texts = IMAGES[[0, 0, 1]], torch.cat([GOOD[:1], GOOD])
    owners = torch.tensor([7, 7, 3])
    # Rows: [6, -, 0] twice and [8, 8, 10]; columns: [6, -, 8] twice and [0, 0, 10].
    rows = 2 * softplus(-6.0) + math.log1p(2 * math.exp(-2))
    columns = 2 * softplus(2.0) + math.log1p(2 * math.exp(-10))
    loss = contrastive_loss(images, texts, SCALE, owners)
    assert float(loss) == pytest.approx((rows + columns) / 6, abs=1e-6)


def test_shifts_are_changes_of_the_logits() -> None:
    images, tuned, untuned = features(3)
    unit = torch.nn.functional.normalize(images, dim=-1)
    for i in range(4):
        here = torch.stack([cosines(unit[i].expand(4, 6), text) for text in (tuned, untuned)])
        shifts = logit_shifts(tuned, untuned, SCALE) @ unit[i]
        torch.testing.assert_close(shifts, 10 * (here[0] - here[1]), atol=1e-5, rtol=0)


def test_hold_and_spread_are_variances_of_the_logits_changes() -> None:
    images, tuned, untuned = features(4)
    images = torch.nn.functional.normalize(images, dim=-1)
    moments, shifts = ImageMoments.of(images), logit_shifts(tuned, untuned, SCALE)
    changes = (shifts @ images.T).double().numpy()  # text by image
    assert float(hold_loss(shifts, moments)) == pytest.approx(changes.var(axis=1).mean(), rel=1e-4)
    assert float(spread_loss(shifts, moments)) == pytest.approx(changes.mean(axis=1).var(), rel=1e-4)


def test_hold_and_spread_by_hand() -> None:
    moments = ImageMoments.of(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))  # mean (1/2, 1/2), covariance +-1/4
    # The first text gains 3 with one image and 1 with the other, the second 2 with both.
    shifts = torch.tensor([[3.0, 1.0], [2.0, 2.0]])
    assert float(hold_loss(shifts, moments)) == pytest.approx((1.0 + 0.0) / 2)
    assert float(spread_loss(shifts, moments)) == pytest.approx(0.0)
    assert float(spread_loss(torch.tensor([[3.0, 1.0], [0.0, 0.0]]), moments)) == pytest.approx(1.0)


def test_a_model_cannot_hold_on_by_shrinking_its_scale() -> None:
    _, tuned, untuned = features(5)
    scale = SCALE.clone().requires_grad_()
    assert not logit_shifts(tuned, untuned, scale).requires_grad


def features(seed: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first, second, third = torch.randn(3, 4, 6, generator=generator, dtype=dtype)
    return first, second, third


def test_gradients_match_finite_differences() -> None:
    inputs = (*(t.requires_grad_() for t in features(0, torch.float64)), SCALE.double().requires_grad_())
    target = torch.tensor([True, False, True, True])

    def drift(shifts: Tensor, moments: ImageMoments) -> Tensor:
        return hold_loss(shifts, moments) + spread_loss(shifts, moments)

    def everything(images: Tensor, first: Tensor, second: Tensor, scale: Tensor) -> Tensor:
        swaps = interchange_loss(pair_logits(images, first, second, scale), target)
        joint = joint_loss(swaps, preference_loss(pair_logits(images, first, second, scale)), 0.3)
        moments = ImageMoments(images.mean(0), images.T.cov(correction=0))
        shifts = logit_shifts(first, second, SCALE.double())  # no gradient reaches the scale
        return joint + contrastive_loss(images, first, scale) + drift(shifts, moments)

    assert torch.autograd.gradcheck(everything, inputs)


@given(st.integers(0, 2**16), st.floats(0.1, 100), st.floats(-2, 4.6))
@settings(max_examples=30, deadline=None)
def test_losses_depend_on_directions_alone(seed: int, factor: float, scale: float) -> None:
    images, first, second = features(seed)
    log_scale = torch.tensor(scale)
    loss = preference_loss(pair_logits(images, first, second, log_scale))
    torch.testing.assert_close(
        preference_loss(pair_logits(images * factor, first * factor, second, log_scale)),
        loss,
        atol=1e-3,
        rtol=1e-3,
    )
    assert loss >= 0
    assert contrastive_loss(images, first, log_scale) >= 0
    moments = ImageMoments.of(torch.nn.functional.normalize(images, dim=-1))
    assert hold_loss(logit_shifts(first, second, log_scale), moments) >= 0


@given(st.integers(0, 2**16))
@settings(max_examples=20, deadline=None)
def test_swapping_roles_mirrors_the_loss(seed: int) -> None:
    images, first, second = features(seed)
    logits = pair_logits(images, first, second, SCALE)
    target = torch.tensor([True, False, True, False])
    torch.testing.assert_close(
        interchange_loss(logits, target), interchange_loss(logits.flip(1), ~target), atol=1e-6, rtol=1e-5
    )


def test_losses_are_float32_under_autocast() -> None:
    images, first, second = features(0)
    with torch.autocast("cpu", torch.bfloat16):
        loss = preference_loss(pair_logits(images.bfloat16(), first.bfloat16(), second.bfloat16(), SCALE))
        contrast = contrastive_loss(images, first, SCALE)
    assert loss.dtype == contrast.dtype == torch.float32
    torch.testing.assert_close(contrast, contrastive_loss(images, first, SCALE))


# The third kind, captions and endings


def test_outrank_loss_by_hand() -> None:
    # Own logits 6 and 10. Rivals have 8 and 6 with the first image, 6 and 8 with the second.
    rivals = torch.tensor([[4.0, 3.0], [3.0, 4.0]])
    expected = [math.log(1 + math.exp(2) + 1), math.log(1 + math.exp(-4) + math.exp(-2))]
    assert float(outrank_loss(IMAGES, GOOD, rivals, SCALE)) == pytest.approx(sum(expected) / 2, abs=1e-5)
    ignored = torch.tensor([[True, False], [False, True]])
    expected = [math.log(2), math.log(1 + math.exp(-4))]
    found = outrank_loss(IMAGES, GOOD, rivals, SCALE, ignored)
    assert float(found) == pytest.approx(sum(expected) / 2, abs=1e-5)


def test_a_rival_that_scores_lower_costs_less() -> None:
    near, far = torch.tensor([[1.0, 1.0]]), torch.tensor([[-1.0, -1.0]])
    assert outrank_loss(IMAGES, GOOD, far, SCALE) < outrank_loss(IMAGES, GOOD, near, SCALE)


def test_ending_loss_by_hand() -> None:
    # With the first image the logits 6 and 8 differ by 2, with the second 8 and 6.
    found = ending_loss(torch.tensor([[3.0, 4.0]]), torch.tensor([[4.0, 3.0]]), IMAGES, SCALE)
    assert float(found) == pytest.approx(4.0, abs=1e-4)
    assert float(ending_loss(GOOD, 3 * GOOD, IMAGES, SCALE)) == pytest.approx(0.0, abs=1e-9)


def test_no_ending_shrinks_the_scale() -> None:
    scale = SCALE.clone().requires_grad_()
    texts = GOOD.clone().requires_grad_()
    ending_loss(texts, POOR, IMAGES, scale).backward()
    assert scale.grad is None
    assert texts.grad is not None
