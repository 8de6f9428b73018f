from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from robustbench_cli.attacks.cw_pgd import CWPGD
from robustbench_cli.benchmarks.certification.by_interval_bounds import BISECTION_STEPS, Intervals, certified_radii
from robustbench_cli.benchmarks.certification.certify import (
    CertificationOptions,
    CertifiedModel,
    certify_model,
    stored,
)
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
    """A network that was trained for interval bounds."""
    prepared = cache(epochs=10, batch_size=32)
    return prepared.trained(prepared.training(defenses=(method_spec(defenses, "ibp", {"eps": 0.03}).spec,)))


def certify(defended: DefendedModel, store: Path) -> CertifiedModel:
    return certify_model(defended, DIGITS, CertificationOptions(procedure=Intervals()), dataset="digits", store=store)


def test_a_linear_model_has_the_radius_of_its_closed_form() -> None:
    """Its linf distance to a decision boundary is the gap of two logits over the l1 norm of their weights' difference."""
    linear = nn.Linear(12, 4)
    images = 0.45 + 0.1 * torch.rand(30, 3, 2, 2)
    logits = linear(images.flatten(1)).double()
    labels = logits.argmax(1)
    gaps = logits.gather(1, labels[:, None]) - logits
    norms = (linear.weight - linear.weight[labels].unsqueeze(1)).abs().sum(2).double()
    exact = (gaps / norms.clamp_min(1e-12)).masked_fill(gaps == 0, torch.inf).amin(1).detach().numpy()
    exact = np.minimum(exact, 0.45)
    records = list(certified_radii(nn.Sequential(nn.Flatten(), linear), images))
    radii = np.array([record.radius for record in records])
    assert [record.predicted for record in records] == labels.tolist()
    inside = exact < 0.4
    assert inside.sum() > 10
    # The bisection and the allowance for rounding make them slightly smaller.
    assert (radii[inside] <= exact[inside]).all()
    np.testing.assert_allclose(radii[inside], exact[inside], atol=2.0**-BISECTION_STEPS + 1e-3)


def test_the_bounds_cover_the_rounding_of_single_precision() -> None:
    """No image within the radius gets another class in float32, where exact arithmetic would give the radius a larger ball."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 1), nn.Linear(1, 2))
    with torch.no_grad():
        model[1].weight.fill_(1.0)
        model[1].bias.fill_(1e7)
        model[2].weight.copy_(torch.tensor([[1.0], [0.0]]))
        # Class 0 where the pixel is above 1/4. But float32 numbers near 1e7 are a whole 1 apart.
        model[2].bias.copy_(torch.tensor([-1e7, 0.25]))
    (record,) = certified_radii(model, torch.full((1, 1, 1, 1), 0.8))
    ball = torch.linspace(0.8 - record.radius, 0.8 + record.radius, 1001)[1:-1].clamp(0, 1).view(-1, 1, 1, 1)
    with torch.no_grad():
        assert (model(ball).argmax(1) == record.predicted).all()
        assert model(torch.full((1, 1, 1, 1), 0.4)).argmax(1) != record.predicted


def test_the_batch_size_does_not_matter(trained: DefendedModel) -> None:
    """The radius of an image is the same in every batch, and the model stays unchanged."""
    model = trained.load()
    whole, parts = (list(certified_radii(model, DIGITS.images[:20], batch_size=size)) for size in (20, 3))
    np.testing.assert_allclose([one.radius for one in whole], [one.radius for one in parts], atol=1e-5)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not any(module.training for module in model.modules())


def test_no_attack_succeeds_inside_a_certified_radius(trained: DefendedModel, tmp_path: Path) -> None:
    """An attack breaks no certified image at any radius, and breaks some of the others."""
    certificates, labels = certify(trained, tmp_path).certificates(alpha=0.001), DIGITS.labels.numpy()
    broken = 0
    for eps in (0.02, 0.04, 0.08):
        certain = certificates.certified(labels, eps)
        result = evaluate(trained.load(), DIGITS.images, DIGITS.labels, attack=CWPGD(steps=15), norm="linf", eps=eps)
        unbroken = result.outcomes.worst()[0] == labels
        assert unbroken[certain].all()
        assert certain.mean() <= unbroken.mean()
        broken += int((~unbroken).sum())
    assert certificates.certified(labels, 0.02).mean() > 0.4
    assert broken > 10


def test_the_records_are_stored_and_make_rows(trained: DefendedModel, defended: DefendedModel, tmp_path: Path) -> None:
    """The store returns the records. A network without training for bounds has small radii and a flag."""
    rows = [certify(model, tmp_path).rows([0.0, 0.02], alpha=0.001)[1] for model in (trained, defended)]
    assert rows[0].certified_accuracy > rows[1].certified_accuracy + 0.3
    assert [(row.flags, row.norm, row.sigma, row.alpha, row.seed) for row in rows] == [
        ("", "linf", None, None, None),
        ("no-bound-training", "linf", None, None, None),
    ]
    certified = certify(trained, tmp_path)
    models = {model.checkpoint: model for model in stored(tmp_path, damaged=pytest.fail)}
    assert models[trained.identity].images == certified.images
    assert models[trained.identity].procedure == Intervals()


def test_a_model_that_cannot_be_bounded(cache: Callable[..., ModelCache], tmp_path: Path) -> None:
    """A model with a noise layer is an error that names the layer."""
    prepared = cache(epochs=1)
    noisy = prepared.trained(prepared.training(defenses=(method_spec(defenses, "noise-injection", {}).spec,)))
    with pytest.raises(UserError, match="cannot be bounded by intervals: it is a NoiseLayer; "):
        certify(noisy, tmp_path)
