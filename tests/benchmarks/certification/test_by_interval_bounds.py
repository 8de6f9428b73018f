from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from robustbench_cli.attacks.cw_pgd import CWPGD
from robustbench_cli.benchmarks.certification.by_interval_bounds import HALVINGS, Intervals, bounded
from robustbench_cli.benchmarks.certification.certify import CertifiedModel, certified, stored
from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel, method_spec
from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.benchmarks.datasets.base.slice import first_examples
from robustbench_cli.benchmarks.evaluation.evaluate import evaluate
from robustbench_cli.benchmarks.training.model_cache import ModelCache
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses import registry as defenses

DIGITS = first_examples(load_dataset("digits").split("test"), 60)


@pytest.fixture
def trained(cache: Callable[..., ModelCache]) -> DefendedModel:
    """A network that was trained for bounds."""
    prepared = cache(epochs=10, batch_size=32)
    return prepared.trained(prepared.training(defenses=(method_spec(defenses, "ibp", {"eps": 0.03}).spec,)))


def certify(defended: DefendedModel, store: Path) -> CertifiedModel:
    device = torch.device("cpu")
    return certified(
        defended, DIGITS, Intervals(), dataset="digits", seed=0, store=store, device=device, batch_size=None
    )


def test_a_linear_model_has_the_radius_of_its_closed_form() -> None:
    """Its nearest boundary is as far away, in linf, as the gap of two logits over the l1 norm of their weights' difference."""
    linear = nn.Linear(12, 4)
    images = 0.45 + 0.1 * torch.rand(30, 3, 2, 2)
    logits = linear(images.flatten(1)).double()
    labels = logits.argmax(1)
    gaps = logits.gather(1, labels[:, None]) - logits
    norms = (linear.weight - linear.weight[labels].unsqueeze(1)).abs().sum(2).double()
    exact = (gaps / norms.clamp_min(1e-12)).masked_fill(gaps == 0, torch.inf).amin(1).detach().numpy()
    exact = np.minimum(exact, 0.45)
    found = list(bounded(nn.Sequential(nn.Flatten(), linear), images))
    radii = np.array([image.radius for image in found])
    assert [image.predicted for image in found] == labels.tolist()
    inside = exact < 0.4
    assert inside.sum() > 10
    # Somewhat smaller, by the halvings and by what has to be left for rounding.
    assert (radii[inside] <= exact[inside]).all()
    np.testing.assert_allclose(radii[inside], exact[inside], atol=2.0**-HALVINGS + 1e-3)


def test_what_single_precision_makes_of_a_model_counts() -> None:
    """Of all images inside the certified radius none is taken for another class, where exact sums would be of one."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 1), nn.Linear(1, 2))
    with torch.no_grad():
        model[1].weight.fill_(1.0)
        model[1].bias.fill_(1e7)
        model[2].weight.copy_(torch.tensor([[1.0], [0.0]]))
        # Class 0 where the pixel is above a quarter; but numbers as large as these are a whole one apart.
        model[2].bias.copy_(torch.tensor([-1e7, 0.25]))
    (image,) = bounded(model, torch.full((1, 1, 1, 1), 0.8))
    ball = torch.linspace(0.8 - image.radius, 0.8 + image.radius, 1001)[1:-1].clamp(0, 1).view(-1, 1, 1, 1)
    with torch.no_grad():
        assert (model(ball).argmax(1) == image.predicted).all()
        assert model(torch.full((1, 1, 1, 1), 0.4)).argmax(1) != image.predicted


def test_the_batch_size_does_not_matter(trained: DefendedModel) -> None:
    """An image's radius is its own, the model is left as it was."""
    model = trained.load()
    whole, parts = (list(bounded(model, DIGITS.images[:20], batch_size=size)) for size in (20, 3))
    np.testing.assert_allclose([one.radius for one in whole], [one.radius for one in parts], atol=1e-5)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not any(module.training for module in model.modules())


def test_no_attack_succeeds_inside_a_certified_radius(trained: DefendedModel, tmp_path: Path) -> None:
    """At each radius all certified images stand against an attack, which breaks some of the others."""
    each, labels = certify(trained, tmp_path).certificates(alpha=0.001), DIGITS.labels.numpy()
    fell = 0
    for eps in (0.02, 0.04, 0.08):
        sure = each.certified(labels, eps)
        result = evaluate(trained.load(), DIGITS.images, DIGITS.labels, attack=CWPGD(steps=15), norm="linf", eps=eps)
        stands = result.outcomes.worst()[0] == labels
        assert stands[sure].all()
        assert sure.mean() <= stands.mean()
        fell += int((~stands).sum())
    assert each.certified(labels, 0.02).mean() > 0.4
    assert fell > 10


def test_it_is_stored_and_told_in_rows(trained: DefendedModel, defended: DefendedModel, tmp_path: Path) -> None:
    """What the store holds is what was found; a network that was not trained for it has little, and says so."""
    rows = [certify(each, tmp_path).rows([0.0, 0.02], alpha=0.001)[1] for each in (trained, defended)]
    assert rows[0].certified_accuracy > rows[1].certified_accuracy + 0.3
    assert [(row.flags, row.norm, row.sigma, row.alpha, row.seed) for row in rows] == [
        ("", "linf", None, None, None),
        ("no-bound-training", "linf", None, None, None),
    ]
    again = certify(trained, tmp_path)
    kept = {model.checkpoint: model for model in stored(tmp_path, damaged=pytest.fail)}
    assert kept[trained.identity].images == again.images
    assert kept[trained.identity].procedure == Intervals()


def test_a_model_that_cannot_be_bounded(cache: Callable[..., ModelCache], tmp_path: Path) -> None:
    """One with noise is refused, and the layer is named."""
    prepared = cache(epochs=1)
    noisy = prepared.trained(prepared.training(defenses=(method_spec(defenses, "noise-injection", {}).spec,)))
    with pytest.raises(UserError, match="cannot be bounded by intervals: it is a Noisy; "):
        certify(noisy, tmp_path)
