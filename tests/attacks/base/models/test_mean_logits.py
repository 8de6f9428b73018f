from __future__ import annotations

import pytest
import torch
from torch import nn

from robustbench_cli.attacks.base.models.mean_logits import MeanLogits
from robustbench_cli.core.errors import UserError


def test_the_mean_of_linear_models_is_the_linear_model_of_mean_weights() -> None:
    """In its logits, and hence in its gradients."""
    models = [nn.Linear(4, 3) for _ in range(3)]
    images = torch.rand(5, 4)
    weight = torch.stack([model.weight for model in models]).mean(0)
    bias = torch.stack([model.bias for model in models]).mean(0)
    torch.testing.assert_close(MeanLogits(models)(images), images @ weight.T + bias)


def test_models_of_other_classes_are_refused() -> None:
    """The message has both numbers."""
    with pytest.raises(UserError, match="the surrogates have 3 and 1 classes"):
        MeanLogits([nn.Linear(4, 3), nn.Linear(4, 1)])(torch.rand(2, 4))
