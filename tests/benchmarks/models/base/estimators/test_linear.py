from __future__ import annotations

import numpy as np
import torch

from robustbench_cli.benchmarks.models.base.estimators.linear import fixed_linear, with_two_rows


def test_a_fixed_layer_has_no_state_and_the_weights_of_the_estimator() -> None:
    layer = fixed_linear(np.array([[1.0, 2.0], [0.0, -1.0]]), np.array([0.5, 0.0]))
    assert layer(torch.tensor([[3.0, 1.0]])).tolist() == [[5.5, -1.0]]
    assert not layer.state_dict()


def test_a_binary_classifier_gets_a_logit_of_zero() -> None:
    """Then the difference of the logits is its decision value; other classifiers keep their rows."""
    weight, bias = with_two_rows(np.array([[3.0, 4.0]]), np.array([1.0]))
    assert weight.tolist() == [[0, 0], [3, 4]] and bias.tolist() == [0, 1]
    assert with_two_rows(np.eye(3), np.zeros(3))[0].shape == (3, 3)
