from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from robustbench_cli.benchmarks.comparison.noisy_fgsm import NoisyFGSM


def test_the_loss_is_that_at_the_step_from_the_noise() -> None:
    """On a linear model of two classes the step is known: every pixel moves by eps against the label's weights."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    images, labels = torch.rand(6, 3, 2, 2), torch.tensor([0, 1, 1, 0, 0, 1])
    towards_one = (network[1].weight[1] - network[1].weight[0]).detach().sign()
    move = 0.3 * torch.where(labels == 0, 1, -1)[:, None] * towards_one
    torch.manual_seed(7)
    noise = torch.empty_like(images).uniform_(-0.6, 0.6)
    expected = functional.cross_entropy(network(images + noise + move.view_as(images)), labels)
    torch.manual_seed(7)
    torch.testing.assert_close(NoisyFGSM(eps=0.3)._loss(network, images, labels), expected)
