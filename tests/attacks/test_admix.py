from __future__ import annotations

import copy

import torch
from torch.nn import functional

from robustbench_cli.attacks.admix import Admix
from robustbench_cli.attacks.base.gradients.eot import EOT
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat

from .conftest import Victim
from .peer_steps import EPS, inner_images


def test_the_gradient_is_that_of_the_mean_loss_of_mixed_and_scaled_copies(digits_victim: Victim) -> None:
    """Of the paper's loss, by torch's own derivative; each image is mixed with its three mirror images."""
    model, labels = copy.deepcopy(digits_victim.model).double(), digits_victim.labels
    images = inner_images(digits_victim)
    leaf = images.clone().requires_grad_()
    mirrored = (images.flip(2), images.flip(3), images.rot90(2, (2, 3)))
    copies = torch.cat([(leaf + 0.3 * other) / 2**power for other in mirrored for power in range(4)])
    loss = functional.cross_entropy(model(copies), labels.repeat(12), reduction="sum") / 12
    (expected,) = torch.autograd.grad(loss, leaf)
    threat = Threat(norm="linf", eps=torch.full((60,), EPS, dtype=torch.float64))
    random = Random.of(0, images)
    gradient = Admix(scales=4, portion=0.3).gradient(EOT(model.requires_grad_(False)), images, labels, threat, random)
    torch.testing.assert_close(gradient, expected)
