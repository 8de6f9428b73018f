"""Two and three classes, whose logits near the boundary say little of their scale: every image still falls."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustbench_cli.attacks import registry
from robustbench_cli.attacks.base.attack import Attack
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.threat import distance
from robustbench_cli.benchmarks.evaluation.evaluate import evaluate

from .conftest import Victim

MINIMAL = ("deepfool", "superdeepfool", "ddn", "fmn", "cw", "cw-linf", "fab", "fab-t")
FIXED = ("pgd", "cw-pgd", "apgd-ce", "apgd-t")
CASES = [
    (name, norm, classes, opposite)
    for classes, opposite in ((2, False), (2, True), (3, False))
    # Which of two other classes is nearer is for the steps towards planes and targets to find out.
    for name in (*MINIMAL, *(FIXED if classes == 2 else ("apgd-t",)))
    for norm in registry.load(name).norms
    if norm in ("linf", "l2") or name.startswith("fab")
]
QUICK = {"steps": 30, "binary_search_steps": 3}


def product(classes: int, *, opposite: bool) -> Victim:
    """A plain matrix product of 196 pixels, whose sums differ with the batch size; two logits may be opposite numbers."""
    generator = torch.Generator().manual_seed(classes)
    weight = 3 * torch.randn(classes, 196, generator=generator)
    weight = torch.stack([weight[0], -weight[0]]) if opposite else weight
    model = nn.Sequential(nn.Flatten(), nn.Linear(196, classes)).requires_grad_(False)
    model[1].weight.copy_(weight)
    model[1].bias.copy_(-weight.sum(1) / 2)
    images = (0.5 + 0.1 * torch.randn(400, 1, 14, 14, generator=generator)).clamp(0.2, 0.8)
    leading = model(images).topk(2).values
    images = images[(leading[:, 0] - leading[:, 1] > 0.05)][:60]
    return Victim(model, images, model(images).argmax(1))


def exact(victim: Victim, norm: Norm) -> torch.Tensor:
    """``(N,)`` distances to the nearest boundary; in l1, the box is filled by the largest weight first."""
    weight, bias = victim.model[1].weight.double(), victim.model[1].bias.double()  # type: ignore[index]
    pixels, label = victim.images.flatten(1).double(), victim.labels[:, None]
    logits = pixels @ weight.T + bias
    gaps, slopes = logits.gather(1, label) - logits, weight[victim.labels][:, None] - weight[None]
    if norm != "l1":
        lengths = gaps / slopes.norm(p=1 if norm == "linf" else 2, dim=2)
    else:
        sizes, order = slopes.abs().sort(2, descending=True)
        room = torch.where(slopes < 0, 1 - pixels[:, None], pixels[:, None]).gather(2, order)
        rest = gaps[:, :, None] - ((sizes * room).cumsum(2) - sizes * room)
        lengths = torch.minimum((rest / sizes.clamp_min(1e-30)).clamp_min(0), room).sum(2)
    return lengths.scatter(1, label, torch.inf).amin(1)


@pytest.mark.parametrize(("name", "norm", "classes", "opposite"), CASES)
def test_every_image_falls_at_its_distance(name: str, norm: Norm, classes: int, opposite: bool) -> None:
    """At 1.01 of the exact distance or less, also where each image is judged alone."""
    victim = product(classes, opposite=opposite)
    kind: type[Attack] = registry.load(name)
    attack = kind(**{key: value for key, value in QUICK.items() if key in kind.model_fields})
    radii = 1.01 * exact(victim, norm)
    eps = None if attack.minimal_norm else radii
    perturbed = attack(victim.model, victim.images, victim.labels, norm=norm, eps=eps)
    alone = torch.cat([victim.model(image[None]) for image in perturbed]).argmax(1)
    assert victim.accuracy(perturbed) == 0
    assert (alone != victim.labels).all()
    assert (distance(perturbed, victim.images, norm) <= radii * (1 + 1e-6)).double().mean() > 0.9


@pytest.mark.parametrize("classes", [2, 3])
def test_none_is_left_at_any_distance(classes: int) -> None:
    """Neither by DeepFool nor by SuperDeepFool, as the benchmark judges them."""
    victim = product(classes, opposite=False)
    for name in ("deepfool", "superdeepfool"):
        found = evaluate(victim.model, victim.images, victim.labels, attack=registry.load(name)())
        assert found.summary["robust_accuracy"] == 0
