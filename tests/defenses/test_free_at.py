from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from robustbench_cli.defenses.base.recipe import Recipe
from robustbench_cli.defenses.base.training import Trainer
from robustbench_cli.defenses.free_at import FreeAT


def test_the_algorithm_written_out(digits: Any, normed: Callable[[], nn.Module]) -> None:
    """Weights and perturbation are those of the paper's algorithm, with a pass back for each of them and torch's SGD."""
    train, _ = digits
    small = type(train)(train.images[:100], train.labels[:100])
    theirs = normed()
    theirs[6].p = 0.0
    recipe = Recipe(
        epochs=6, batch_size=34, optimizer="sgd", lr=0.05, weight_decay=0, schedule="constant", momentum=0.9
    )
    defense = FreeAT(eps=0.1, replays=3)
    ours = defense.protect(theirs, small.images[:1])
    batches: list[tuple[torch.Tensor, torch.Tensor]] = []

    class Watched:
        def __len__(self) -> int:
            return 100

        def batch(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            batches.append(small.batch(indices))
            return batches[-1]

    defense.fit(ours, Trainer(Watched(), recipe, seed=0, device=torch.device("cpu")))
    # The first is asked for its shape.
    steps = [batch for batch in batches if len(batch[0]) > 1]
    assert len(steps) == 2 * 3 * 3
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    perturbation = torch.zeros(34, 1, 8, 8)
    theirs.train()
    for images, labels in steps:
        present = perturbation[: len(images)].clone().requires_grad_()
        optimizer.zero_grad()
        functional.cross_entropy(theirs((images + present).clamp(0, 1)), labels).backward()
        perturbation[: len(images)] = (present.detach() + 0.1 * present.grad.sign()).clamp(-0.1, 0.1)
        optimizer.step()
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], tensor, rtol=1e-3, atol=1e-5)
