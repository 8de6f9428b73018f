from __future__ import annotations

import copy

import torch
from scipy import fft
from torch.nn import functional

from robustbench_cli.attacks.base.gradients.eot import EOT
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat
from robustbench_cli.attacks.mi_fgsm import MIFGSM
from robustbench_cli.attacks.ssa import SSA

from .conftest import Victim
from .peer_steps import EPS, inner_images, same_pixels


def test_the_gradient_is_the_mean_over_changed_spectra(digits_victim: Victim) -> None:
    """With scipy's cosine transform and torch's own derivative, and different noise for images of different radii."""
    model, labels = copy.deepcopy(digits_victim.model).double().requires_grad_(False), digits_victim.labels
    images = inner_images(digits_victim)
    threat = Threat(norm="linf", eps=torch.linspace(0, EPS, 60, dtype=torch.float64))
    gradient = SSA(spectra=3, rho=0.2).gradient(EOT(model), images, labels, threat, Random.of(1, images))
    random = Random.of(1, images)
    noise = random.normal((3, *images.shape[1:])) * threat.eps[:, None, None, None, None]
    spectra = fft.dctn((images.unsqueeze(1) + noise).numpy(), axes=(3, 4), norm="ortho")
    factors = (0.8 + 0.4 * random.uniform((3, *images.shape[1:]))).double().numpy()
    copies = torch.tensor(fft.idctn(spectra * factors, axes=(3, 4), norm="ortho")).clamp(0, 1).flatten(0, 1)
    loss = functional.cross_entropy(model(copies.requires_grad_()), labels.repeat_interleave(3), reduction="sum")
    (slopes,) = torch.autograd.grad(loss, copies)
    torch.testing.assert_close(gradient, slopes.view(60, 3, *images.shape[1:]).mean(1), rtol=1e-4, atol=1e-7)


def test_an_unchanged_spectrum_gives_the_momentum_method(digits_victim: Victim) -> None:
    """Without noise and without factors each copy is the image, up to rounding."""
    model, images, labels = digits_victim.model, digits_victim.images, digits_victim.labels
    plain = MIFGSM(steps=3)(model, images, labels, eps=0.1)
    assert same_pixels(SSA(steps=3, spectra=12, sigma=0, rho=0)(model, images, labels, eps=0.1), plain) > 0.98
    assert same_pixels(SSA(steps=3, spectra=12)(model, images, labels, eps=0.1), plain) < 0.98
