from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.attacks.base.threat import distance
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.trainer import Trainer
from robustbench_cli.defenses.multi_norm_at import MultiNormAT

RADII = {"linf": 0.15, "l2": 0.5, "l1": 1.5}


def losses(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return functional.cross_entropy(network(images), labels, reduction="none")


def test_a_step_of_msd_is_the_steepest(digits: Any, network: Callable[[], nn.Module]) -> None:
    """One step equals the best of the three norms' steps, which are computed image by image in NumPy's words here."""
    train, _ = digits
    images, labels = train.images[:60], train.labels[:60]
    model = network().eval()
    defense = MultiNormAT(eps_linf=0.15, eps_l2=0.5, eps_l1=1.5, steps=1)
    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(functional.cross_entropy(model(leaf), labels, reduction="sum"), leaf)
    # A step of 2.5 eps ends on the sphere, before the box: the l1 step moves the two entries with the largest slopes.
    best, chosen = torch.full((60,), -torch.inf), set()
    for index, (image, slope) in enumerate(zip(images, gradient, strict=True)):
        free = torch.where((slope > 0) & (image < 1) | (slope < 0) & (image > 0), slope, 0)
        top = free.flatten().abs().topk(2).indices
        sparse = torch.zeros(64)
        sparse[top] = free.flatten()[top].sign() * 1.25 * 1.5
        candidates = {
            "linf": (image + 0.15 * slope.sign()).clamp(0, 1),
            "l2": (image + 0.5 * slope / slope.norm()).clamp(0, 1),
            "l1": nearest_in_l1(image, sparse.view_as(image), 1.5),
        }
        rows = torch.stack(list(candidates.values()))
        values = losses(model, rows, labels[index].expand(3))
        best[index] = values.max()
        chosen.add(list(candidates)[int(values.argmax())])
    found = defense.steepest(model, images, labels)
    torch.testing.assert_close(losses(model, found, labels), best, rtol=1e-3, atol=1e-3)
    assert len(chosen) > 1


def nearest_in_l1(image: Tensor, change: Tensor, radius: float) -> Tensor:
    """The projection by a fine search over the amount that all changes lose."""
    amounts = torch.linspace(0, float(change.abs().max()), 20_001)[:, None]
    shrunk = change.flatten().sign() * (change.flatten().abs() - amounts).clamp_min(0)
    points = (image.flatten() + shrunk).clamp(0, 1)
    inside = (points - image.flatten()).abs().sum(1) <= radius
    return points[int(inside.int().argmax())].view_as(image)


@pytest.mark.parametrize("combination", ["max", "avg", "msd"])
def test_the_images_of_a_step(digits: Any, normed: Callable[[], nn.Module], combination: str) -> None:
    """Each is in one of the balls and in the box; max takes the worst of three, avg takes all, and msd does not go down."""
    train, _ = digits
    images, labels = train.images[:40], train.labels[:40]
    model = normed().train()
    defense = MultiNormAT(combination=combination, steps=4).for_radius(0.15)
    assert defense.radii == RADII
    trained: list[Tensor] = []
    model.register_forward_pre_hook(lambda module, rows: trained.append(rows[0].detach()) if module.training else None)
    defense.loss(model, images, labels)
    (rows,) = trained
    assert len(rows) == (120 if combination == "avg" else 40)
    assert rows.min() >= 0
    assert rows.max() <= 1
    originals = images.repeat(len(rows) // 40, 1, 1, 1)
    inside = torch.stack([distance(rows, originals, norm) <= eps * (1 + 1e-5) for norm, eps in RADII.items()])  # type: ignore[arg-type]
    assert inside.any(0).all()
    if combination == "avg":
        assert inside[0, :40].all()
        assert inside[1, 40:80].all()
        assert inside[2, 80:].all()
    else:
        assert (losses(model.eval(), rows, labels) >= losses(model, images, labels) - 1e-5).all()


def test_held_out_images_are_attacked_in_each_norm(digits: Any, network: Callable[[], nn.Module]) -> None:
    """The held-out accuracy is that under all attacks together: less than without the attack in one of the norms."""
    train, _ = digits
    recorded = {}
    for norms in (("linf", "l2", "l1"), ("l2", "l1")):
        torch.manual_seed(0)
        trainer = Trainer(
            train, Recipe(epochs=3, lr=0.01, held_out=0.2, held_out_steps=5), seed=0, device=torch.device("cpu")
        )
        trainer.fit(network(), name="training", eps={norm: RADII[norm] for norm in norms})  # type: ignore[misc]
        recorded[len(norms)] = trainer.record["trained"]["training"]
    assert recorded[3]["held_out_accuracy"] < recorded[2]["held_out_accuracy"]
    assert {key for key in recorded[3] if key.startswith("eps")} == {"eps", "eps_l2", "eps_l1"}


def test_bad_parameters() -> None:
    """One norm alone, a norm twice, and another word are usage errors."""
    for norms, message in {("l2",): "at least 2 items", ("l2", "l2"): "name each norm once"}.items():
        with pytest.raises(UserError, match=rf"^multi-norm-at.norms is .*{message}"):
            MultiNormAT.from_parameters({"norms": norms}, name="multi-norm-at")
    with pytest.raises(UserError, match=r"^multi-norm-at.combination is 'sum': input should be 'max', 'avg' or 'msd'"):
        MultiNormAT.from_parameters({"combination": "sum"}, name="multi-norm-at")
    with pytest.raises(
        UserError, match=r"eps_linf is given and linf is not among norms: add it, or leave eps_linf out"
    ):
        MultiNormAT.from_parameters({"norms": ("l2", "l1"), "eps_linf": 0.1}, name="multi-norm-at")
