from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.trainer import Trainer
from robustbench_cli.defenses.representation_merging import RepresentationMerging, Staircase

CPU = torch.device("cpu")


@pytest.mark.parametrize(("levels", "bound"), [(2, 1.0), (4, 2.0), (5, 0.3)])
def test_the_nearest_level_and_the_slope_of_the_clip(levels: int, bound: float) -> None:
    """The levels are those of NumPy's linspace; the slope is 1 inside the bounds and 0 outside."""
    values = (4 * torch.rand(400) - 1).requires_grad_()
    result = Staircase(levels, bound)(values)
    grid = np.linspace(0, bound, levels)
    inside = values.detach().numpy()
    nearest = grid[np.abs(inside[:, None] - grid).argmin(1)]
    np.testing.assert_allclose(result.detach().numpy(), nearest, atol=1e-6)
    (gradient,) = torch.autograd.grad(result.sum(), values)
    assert np.array_equal(gradient.numpy(), (inside >= 0) & (inside <= bound))


def test_near_representations_become_one_and_attacks_follow_the_clip(
    digits: Any, network: Callable[[], nn.Module], accuracy: Callable[..., float]
) -> None:
    """Each activation has at most four values. PGD breaks nearly all images; with the staircase's own gradient it breaks few."""
    train, test = digits
    defense = RepresentationMerging(levels=4, bound=2)
    model = defense.protect(network(), train.images[:1])
    defense.fit(model, Trainer(train, Recipe(epochs=12), seed=0, device=CPU))
    assert accuracy(model, test) > 0.85
    seen: list[float] = []
    hooks = [
        module.register_forward_hook(lambda *call: seen.append(len(call[2].unique())))
        for module in model.modules()
        if isinstance(module, Staircase)
    ]
    model.eval()(test.images[:50])
    assert seen
    assert max(seen) <= 4
    for hook in hooks:
        hook.remove()

    class OwnGradient(nn.Module):
        """The same model without the clip's gradient."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return model(images.detach()) + 0 * images.flatten(1).sum(1, keepdim=True)

    images, labels = test.images[:100], test.labels[:100]
    left = [
        accuracy(model, type(test)(PGD(steps=10)(attacked, images, labels, eps=0.15), labels))
        for attacked in (model, OwnGradient())
    ]
    assert left[0] < 0.5 < left[1]


def test_bad_parameters() -> None:
    """A staircase has two levels at least, and a bound above 0."""
    for key, value in (("levels", 1), ("bound", 0)):
        with pytest.raises(UserError, match=rf"^representation-merging.{key} is {value}: input should be"):
            RepresentationMerging.from_parameters({key: value}, name="representation-merging")
