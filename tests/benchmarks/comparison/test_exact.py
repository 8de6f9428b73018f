from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import nn

from robustbench_cli.attacks import registry
from robustbench_cli.attacks.base.threat import distance
from robustbench_cli.benchmarks.comparison.exact import GAP, exact_distance
from robustbench_cli.benchmarks.comparison.relu_network import Affine, Array, BallNorm, ReLUNetwork

SECONDS = 60.0


def random_network(sizes: tuple[int, ...], seed: int) -> ReLUNetwork:
    """Normal weights and biases."""
    generator = np.random.default_rng(seed)
    return ReLUNetwork(
        tuple(Affine(generator.normal(size=(m, n)), generator.normal(size=m) / 2) for n, m in pairwise(sizes))
    )


def by_enumeration(network: ReLUNetwork, image: Array, label: int, norm: BallNorm) -> float:
    """The distance to the other of two classes: the least of the linear programs of all activation patterns.

    The variables are the pixels, their absolute changes, and the largest of these.
    """
    hidden, last = network.layers
    size = len(image)
    eye, zeros, ones = np.eye(size), np.zeros((size, size)), np.ones((size, 1))
    change_rows = np.block([[eye, -eye, 0 * ones], [-eye, -eye, 0 * ones], [zeros, eye, -ones]])
    change_limits = np.concatenate([image, -image, np.zeros(size)])
    objective = np.concatenate([np.zeros(size), np.full(size, float(norm == "l1")), [float(norm == "linf")]])
    least = np.inf
    for pattern in product((0.0, 1.0), repeat=len(hidden.bias)):
        active = np.array(pattern)
        signs = 1 - 2 * active
        logits = last.after(Affine(active[:, None] * hidden.weight, active * hidden.bias))
        lead = (logits.weight[label] - logits.weight[1 - label], logits.bias[label] - logits.bias[1 - label])
        rows = np.concatenate([signs[:, None] * hidden.weight, lead[0][None]])
        program = linprog(
            objective,
            A_ub=np.concatenate([change_rows, np.pad(rows, ((0, 0), (0, size + 1)))]),
            b_ub=np.concatenate([change_limits, -signs * hidden.bias, [-lead[1]]]),
            bounds=[(0, 1)] * size + [(0, None)] * (size + 1),
        )
        least = min(least, program.fun if program.status == 0 else np.inf)
    return least


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_it_is_the_least_over_all_activation_patterns(norm: BallNorm) -> None:
    """Of thirty random 2-3-2 networks: the enumerated distance, or the proof that no image of the box is misclassified."""
    generator = np.random.default_rng(0)
    reachable = 0
    for seed in range(30):
        network, image = random_network((2, 3, 2), seed), generator.uniform(0, 1, 2)
        label, diameter = int(network(image).argmax()), {"linf": 1.0, "l1": 2.0}[norm]
        expected = by_enumeration(network, image, label, norm)
        result = exact_distance(network, image, label, norm, upper=diameter, seconds=SECONDS)
        assert result.solved
        if expected < diameter:
            reachable += 1
            assert result.lower <= expected * (1 + 1e-6)
            assert result.upper == pytest.approx(expected, rel=GAP)
        else:
            assert result.lower >= (1 - GAP) * diameter
    assert 10 < reachable < 30


def test_of_a_linear_classifier_it_is_the_closed_form() -> None:
    """The least margin over the dual norm of its slope, of several classes and far from the edges of the box."""
    generator = np.random.default_rng(1)
    weight = generator.normal(size=(4, 9))
    network = ReLUNetwork((Affine(weight, np.array([0.3, 0.1, -0.2, 0.0])),))
    image = np.full(9, 0.5)
    logits = network(image)
    label = int(logits.argmax())
    differences = np.delete(weight[label] - weight, label, 0)
    margins = logits[label] - np.delete(logits, label)
    for norm, dual in (("linf", np.abs(differences).sum(1)), ("l1", np.abs(differences).max(1))):
        expected = (margins / dual).min()
        assert expected < 0.5
        result = exact_distance(network, image, label, norm, upper=0.5, seconds=SECONDS)  # type: ignore[arg-type]
        assert result.upper == pytest.approx(expected, rel=GAP)
        assert result.lower == pytest.approx(expected, rel=GAP)


def test_a_misclassified_image_has_distance_0() -> None:
    """There is nothing to search for."""
    network, image = random_network((2, 3, 2), 0), np.array([0.2, 0.7])
    wrong = int(network(image).argmin())
    result = exact_distance(network, image, wrong, "linf", upper=1.0, seconds=SECONDS)
    assert (result.lower, result.upper) == (0, 0)


def test_without_time_nothing_is_proven() -> None:
    """The row is not solved; the bound of the attack stays."""
    network, image = random_network((4, 12, 12, 2), 3), np.full(4, 0.5)
    result = exact_distance(network, image, int(network(image).argmax()), "linf", upper=0.9, seconds=0)
    assert not result.solved
    assert (result.lower, result.upper) == (0, 0.9)


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_no_attack_is_nearer(norm: BallNorm) -> None:
    """On every image of a small convolutional network with max-pooling; and one of the attacks is often as near."""
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 4)
    ).eval()
    images = torch.rand(12, 1, 6, 6)
    labels = model(images).argmax(1)
    network = ReLUNetwork.of(model, images.shape[1:])
    found = torch.stack(
        [
            distance(perturbed, images, norm).where(model(perturbed).argmax(1) != labels, torch.inf)
            for name in ("fmn", "fab-t")
            for perturbed in (registry.load(name)(steps=20)(model, images, labels, norm=norm),)
        ]
    ).amin(0)
    assert found.isfinite().all()
    near = 0
    for image, label, upper in zip(images.double().flatten(1).numpy(), labels.tolist(), found.tolist(), strict=True):
        result = exact_distance(network, image, label, norm, upper=upper * 1.1, seconds=SECONDS)
        assert result.solved
        assert upper >= (1 - 1e-5) * result.lower
        near += upper <= 1.05 * result.upper
    assert near >= 6
