from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from robustbench_cli.defenses.base.training.attention_svm import AttentionSVMs, fit_svms, svm_parameters


def clusters(classes: int, features: int, unit: float = 1) -> tuple[Tensor, Tensor]:
    """Latents of overlapping Gaussian classes."""
    torch.manual_seed(0)
    labels = torch.arange(classes).repeat(40)
    return unit * (1.5 * torch.randn(classes, features)[labels] + torch.randn(len(labels), features)), labels


def attention_by_hand(machines: AttentionSVMs, machine: int, latent: Tensor) -> np.ndarray[Any, Any]:
    scores = machines.attention_weight[machine].numpy() @ latent.numpy() + machines.attention_bias[machine].numpy()
    powers = np.exp(np.tanh(scores))
    return np.asarray(np.exp(powers / powers.sum()))


@pytest.mark.parametrize("unit", [1.0, 1e-3])
def test_the_machines_are_optimal(unit: float) -> None:
    """Given its attention, each machine's loss is that of SciPy's optimum within 2 %, whatever the unit of the latents is."""
    latents, labels = clusters(3, 5, unit)
    machines = fit_svms(latents, labels, 3)
    scale = latents.square().mean().sqrt().item()
    for machine, (first, second) in enumerate(combinations(range(3), 2)):
        rows = (labels == first) | (labels == second)
        signs = np.where(labels[rows] == first, 1, -1)
        scored = np.stack([attention_by_hand(machines, machine, row) * row.numpy() for row in latents[rows]]) / scale

        def loss(point: Any, scored: Any = scored, signs: Any = signs) -> float:
            hinge = np.maximum(0, 1 - signs * (scored @ point[:-1] + point[-1])).mean()
            return float(np.square(point[:-1]).mean() + hinge)

        ours = np.append(machines.weight[machine].numpy() * scale, machines.bias[machine])
        best = min(loss(minimize(loss, start, method="Powell").x) for start in (ours, np.zeros(6)))
        assert loss(ours) <= 1.02 * best


def test_the_attention_is_near_one() -> None:
    """It keeps the bounds that the softmax of values in [-1, 1] has, and they are reached."""
    features = 64
    machines = AttentionSVMs(
        2, torch.zeros(1, features), torch.zeros(1), 1e6 * torch.eye(features)[None], torch.zeros(1, features)
    )
    latents = torch.full((1, 2, features), -1.0)
    latents[0, 0, 0], latents[0, 1, 1:] = 1, 1
    attention = machines.attention(latents)
    high = math.exp(1 / (1 + (features - 1) * math.exp(-2)))
    low = math.exp(1 / (1 + (features - 1) * math.exp(2)))
    assert attention.max().item() == pytest.approx(high, abs=1e-6) == pytest.approx(1.111, abs=1e-3)
    assert attention.min().item() == pytest.approx(low, abs=1e-6) == pytest.approx(1.002, abs=1e-3)


def test_every_pair_has_its_machine() -> None:
    """The numbers are those of the pairs in order, and the sign turns with them."""
    machines = fit_svms(*clusters(4, 3), 4)
    for number, (first, second) in enumerate(combinations(range(4), 2)):
        there = machines.machine_of(torch.tensor([first, second]), torch.tensor([second, first]))
        assert there[0].tolist() == [number, number]
        assert there[1].tolist() == [1, -1]
    assert svm_parameters(4, 3) == sum(
        part.numel() for part in (machines.weight, machines.bias, machines.attention_weight, machines.attention_bias)
    )


@pytest.mark.parametrize("step", [0.5, 1.0, 2.0])
def test_steps_towards_the_boundary(step: float) -> None:
    """With the attention of the start, h falls to (1 - step) h along the normal; a latent beyond the boundary stays."""
    latents, labels = clusters(3, 5)
    machines, targets = fit_svms(latents, labels, 3), (labels + 1) % 3
    moved = machines.towards(latents, labels, targets, step)
    pairs = list(combinations(range(3), 2))
    beyond = 0
    for start, end, label, target in zip(latents, moved, labels.tolist(), targets.tolist(), strict=True):
        machine = pairs.index((min(label, target), max(label, target)))
        normal = attention_by_hand(machines, machine, start) * machines.weight[machine].numpy()
        sign = 1 if label < target else -1
        value, after = (sign * (normal @ point.numpy() + machines.bias[machine].item()) for point in (start, end))
        if value <= 0:
            beyond += 1
            assert torch.equal(start, end)
        else:
            assert after == pytest.approx((1 - step) * value, abs=1e-4)
            way = (end - start).numpy()
            assert np.linalg.norm(way - (way @ normal) / (normal @ normal) * normal) < 1e-5
    assert beyond < 20


def test_a_class_without_examples() -> None:
    """Its machines have the weight 0, and latents stay where they would move towards it."""
    latents, labels = clusters(3, 5)
    machines = fit_svms(latents[labels < 2], labels[labels < 2], 3)
    assert machines.weight[1:].eq(0).all()
    assert machines.weight[0].ne(0).any()
    moved = machines.towards(latents, labels, torch.full_like(labels, 2), 1)
    assert torch.equal(moved[labels < 2], latents[labels < 2])


def test_the_seed_determines_the_machines() -> None:
    """The same seed gives the same machines, bit by bit; another one another attention."""
    latents, labels = clusters(3, 5)
    fitted = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        fitted.append(fit_svms(latents, labels, 3))
    assert torch.equal(fitted[0].weight, fitted[1].weight)
    assert torch.equal(fitted[0].attention_weight, fitted[1].attention_weight)
    assert not torch.equal(fitted[0].attention_weight, fitted[2].attention_weight)
