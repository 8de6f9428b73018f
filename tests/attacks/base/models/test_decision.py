from __future__ import annotations

import pytest
import torch
from torch import nn

from robustbench_cli.attacks.base.losses import dlr, expected_margin, margin, targeted_dlr
from robustbench_cli.attacks.base.models.decision import RejectionLayer, can_reject, decisions, with_rejections
from robustbench_cli.attacks.base.models.special_labels import NO_NUMBER, REJECTED


def test_a_decision_is_a_class_a_rejection_or_a_failure() -> None:
    """The largest logit's class; of a detector none where all are equal; another word where one is no number."""
    nan = float("nan")
    logits = torch.tensor([[0.0, 2.0, 1.0], [2.0, 2.0, 1.0], [3.0, 3.0, 3.0], [nan, 2.0, 1.0], [nan, nan, nan]])
    assert decisions(logits, detector=True).tolist() == [1, 0, REJECTED, NO_NUMBER, NO_NUMBER]
    assert decisions(logits, detector=False).tolist() == [1, 0, 0, NO_NUMBER, NO_NUMBER]
    assert decisions(logits.expand(2, 5, 3), detector=True).shape == (2, 5)


def test_a_detector_is_a_model_with_a_layer_that_rejects() -> None:
    """Wherever it stands in it; no other model is one."""
    assert can_reject(nn.Sequential(nn.Linear(2, 2), nn.Sequential(RejectionLayer())))
    assert not can_reject(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))


@pytest.mark.parametrize("targeted", [False, True])
def test_a_rejection_is_no_success_for_any_label(targeted: bool) -> None:
    """Its margin is 0, and the attack's goal is not reached, whether the label is to be left or to be reached."""
    logits = with_rejections(torch.randn(7, 5), torch.ones(7, dtype=torch.bool))
    for label in range(5):
        labels = torch.full((7,), label)
        assert (margin(logits, labels) == 0).all()
        assert (expected_margin(logits[None], labels, targeted=targeted, exhaustive=True) >= 0).all()


def test_only_what_is_rejected_changes_and_every_loss_keeps_a_gradient() -> None:
    """The other rows are the same to the bit; ratios of logits stay finite where all are equal."""
    logits = torch.randn(6, 5)
    rejected = torch.arange(6) % 2 == 0
    replaced = with_rejections(logits, rejected)
    assert torch.equal(replaced[~rejected], logits[~rejected])
    for loss in (dlr, targeted_dlr):
        leaf = replaced.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(leaf, torch.zeros(6, dtype=torch.int64)).sum(), leaf)
        assert gradient.isfinite().all()
        assert (gradient[rejected].abs().amax(1) > 0).all()
