from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.trainer import Trainer
from robustbench_cli.defenses.free_at import FreeAT, Perturbed


def test_the_algorithm_written_out(digits: Any, normed: Callable[[], nn.Module]) -> None:
    """Weights and perturbation equal those of the paper's algorithm with torch's SGD, clipped to the box."""
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
    # One image gives the shape, four determine the memory layout. Each batch is loaded once for its replays.
    loaded = [batch for batch in batches if len(batch[0]) > 4]
    assert [len(images) for images, _ in loaded] == 2 * [34, 33, 33]
    steps = [batch for batch in loaded for _ in range(3)]
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    perturbation = torch.zeros(34, 1, 8, 8)
    theirs.train()
    for images, labels in steps:
        present = perturbation[: len(images)].clone()
        present = torch.max(torch.min(present, 1 - images), -images).requires_grad_()
        optimizer.zero_grad()
        functional.cross_entropy(theirs(images + present), labels).backward()
        moved = (present.detach() + 0.1 * present.grad.sign()).clamp(-0.1, 0.1)
        perturbation[: len(images)] = torch.max(torch.min(moved, 1 - images), -images)
        optimizer.step()
    for name, tensor in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], tensor, rtol=1e-3, atol=1e-5)


def test_no_pixel_gets_stuck() -> None:
    """A pixel that reached 0 or 1 moves back when its gradient changes sign."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, 1, -1, -1], [-1, -1, 1, 1]]))
    network = Perturbed(model, torch.zeros(3, 1, 2, 2))
    # Black, white and gray.
    images = torch.tensor([0.0, 1.0, 0.5]).view(3, 1, 1, 1).expand(3, 1, 2, 2).contiguous()
    defense, parameters = FreeAT(eps=0.25), list(model.parameters())
    up = torch.tensor([-1.0, -1, 1, 1]).view(1, 2, 2)
    # Two steps of eps cross the ball.
    for label, sign in ((0, 1), (1, -1), (0, 1)):
        for _ in range(2):
            defense.gradients(network, images, torch.full((3,), label), parameters)
        torch.testing.assert_close(network.perturbation, (images + 0.25 * sign * up).clamp(0, 1) - images)


def test_the_images_of_training_stay_in_the_box(digits: Any) -> None:
    """Also if the perturbation comes from the images of another batch."""
    train, _ = digits
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    network, recorded = Perturbed(model, torch.zeros(40, 1, 8, 8)), []
    model.register_forward_pre_hook(lambda _, rows: recorded.append(rows[0].detach()))
    for part in range(4):
        images, labels = train.images[40 * part : 40 * part + 40], train.labels[40 * part : 40 * part + 40]
        FreeAT(eps=0.3).gradients(network, images, labels, list(model.parameters()))
        assert 0 <= recorded[-1].min() <= recorded[-1].max() <= 1
        assert (recorded[-1] - images).abs().max() <= 0.3 + 1e-6


def test_the_default_replays_are_the_authors() -> None:
    """They are 8 at the radius of CIFAR-10, which is also the fallback, and 4 at that of ImageNet."""
    assert FreeAT().for_radius(8 / 255).replays == FreeAT().resolved("replays") == 8
    assert FreeAT().for_radius(4 / 255).replays == 4
    assert FreeAT(replays=3).for_radius(8 / 255).replays == 3
