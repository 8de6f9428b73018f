"""The moments of Adam against torch's optimizer."""

from __future__ import annotations

import torch
from torch import nn

from robustbench_cli.attacks.base.search.adam import bias_corrections, update_moments


def test_a_step_is_adams() -> None:
    """That of ``torch.optim.Adam`` for every image at its own learning rate, over many steps."""
    generator = torch.Generator().manual_seed(0)
    iterates = torch.rand(3, 1, 4, 4, generator=generator)
    rates = torch.tensor([0.01, 0.1, 0.0])
    parameters = [nn.Parameter(image.clone()) for image in iterates]
    theirs = torch.optim.Adam([{"params": [p], "lr": rate.item()} for p, rate in zip(parameters, rates, strict=True)])
    first, second = torch.zeros_like(iterates), torch.zeros_like(iterates)
    for step in range(1, 21):
        gradient = torch.randn(iterates.shape, generator=generator)
        factor, smallest = bias_corrections(step)
        root = update_moments(gradient, first, second, smallest)
        iterates = iterates - rates.view(-1, 1, 1, 1) * factor * first / root
        for parameter, slope in zip(parameters, gradient, strict=True):
            parameter.grad = slope
        theirs.step()
        torch.testing.assert_close(iterates, torch.stack([p.detach() for p in parameters]), rtol=1e-5, atol=1e-6)
