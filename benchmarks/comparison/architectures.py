"""The percentile of an architecture among random ones of equal cost, trained and attacked in the same way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from robustbench_cli.attacks.base.rng import seeded
from robustbench_cli.benchmarks.comparison.gallery.processes import Failed, in_processes
from robustbench_cli.benchmarks.comparison.tables import markdown
from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.benchmarks.datasets.base.slice import first_examples
from robustbench_cli.benchmarks.interface.evaluate import evaluate_attacks
from robustbench_cli.benchmarks.models.base.build import build_model
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.architectures.architecture import Architecture
from robustbench_cli.defenses.base.architectures.cell_network import CellNetwork
from robustbench_cli.defenses.base.defense import defend
from robustbench_cli.defenses.pgd_at import PGDAT

__all__ = ["Contender", "compare_architectures", "parameters_of", "percentile", "random_architectures"]

DATASET, EPS, ATTACK = "digits", 0.15, "standard"
TOLERANCE = 0.1
"""The largest relative difference of the numbers of parameters."""

_STEPS = 3
"""The steps of the attack in training."""

_MAX_DRAWS = 2000
"""Draws for each random architecture, until one has the cost."""


@dataclass(frozen=True)
class Contender:
    """An architecture and how it is trained and attacked.

    Attributes:
        architecture: As text.
        epochs: Of the adversarial training.
        images: Test images to attack.
        seed: Of the initial weights and the training.
    """

    architecture: str
    epochs: int
    images: int
    seed: int = 0


def compare_architectures(text: str, *, count: int, epochs: int, images: int, jobs: int) -> None:
    """Trains an architecture and random ones of equal cost by ``pgd-at``, attacks them by ``standard``, and prints its percentile.

    Args:
        text: The architecture, as the model ``dsara`` takes it.
        count: The number of random architectures.
        epochs: Of each training.
        images: Test images.
        jobs: The number of processes.

    Raises:
        UserError: The architecture cannot be read, too few have its cost, or a training fails.
    """
    reference = Architecture.parse(text)
    data = load_dataset(DATASET)
    rivals = random_architectures(reference, count, channels=data.shape[0], classes=data.classes)
    contenders = [Contender(str(architecture), epochs, images) for architecture in (reference, *rivals)]
    results: dict[str, tuple[float, float]] = {}
    for contender, result in in_processes(accuracies, contenders, jobs=jobs):
        if isinstance(result, Failed):
            raise UserError(f"{contender.architecture} fails: {result.reason}")
        results[contender.architecture] = result
        print(f"{len(results)} of {len(contenders)}: {contender.architecture}: {100 * result[1]:.1f}", flush=True)
    cost = {name: parameters_of(Architecture.parse(name), data.shape[0], data.classes) for name in results}
    lines = [
        (name, f"{cost[name]:,}", *(f"{100 * value:.1f}" for value in results[name]))
        for name in sorted(results, key=lambda name: -results[name][1])
    ]
    print(f"\n{markdown(('architecture', 'parameters', 'clean', ATTACK), lines)}\n")
    for column, index in (("clean", 0), (ATTACK, 1)):
        own, *others = (results[contender.architecture][index] for contender in contenders)
        print(
            f"{column}: {100 * own:.1f}, at the percentile {percentile(own, others):.0f} of {count} random architectures"
        )


def accuracies(contender: Contender) -> tuple[float, float]:
    """The clean and the robust accuracy after adversarial training.

    Args:
        contender: The architecture.
    """
    data = load_dataset(DATASET)
    with seeded(contender.seed):
        network = build_model(f"dsara:{contender.architecture}", shape=data.shape, classes=data.classes)
    defense = PGDAT(steps=_STEPS, eps=EPS)
    trained = defend(network, defense, data.split("train"), seed=contender.seed, epochs=contender.epochs)
    test = first_examples(data.split("test"), contender.images)
    found = evaluate_attacks(trained, test.images, test.labels, ATTACK, report=lambda _name, _done, _of: None, eps=EPS)
    return found.summary["clean_accuracy"], found.summary["robust_accuracy"]


def random_architectures(reference: Architecture, count: int, *, channels: int, classes: int) -> list[Architecture]:
    """Different random architectures of the size of another, whose parameters differ from its by 10 % at most.

    Args:
        reference: The other one; it is not among them.
        count: Their number.
        channels: C.
        classes: K.

    Raises:
        UserError: Too few have this cost.
    """
    cost, generator = parameters_of(reference, channels, classes), torch.Generator().manual_seed(0)
    drawn: dict[str, Architecture] = {}
    for _ in range(_MAX_DRAWS * count):
        architecture = Architecture.draw(reference.cells, reference.width, generator)
        close = abs(parameters_of(architecture, channels, classes) - cost) <= TOLERANCE * cost
        if close and architecture != reference:
            drawn[str(architecture)] = architecture
        if len(drawn) == count:
            return list(drawn.values())
    raise UserError(
        f"only {len(drawn)} of {count} random architectures have {cost:,} parameters within {TOLERANCE:.0%}: compare with fewer"
    )


def parameters_of(architecture: Architecture, channels: int, classes: int) -> int:
    """The number of parameters of an architecture's network.

    Args:
        architecture: The architecture.
        channels: C.
        classes: K.
    """
    with torch.device("meta"):
        network = CellNetwork.of(architecture, channels=channels, classes=classes)
    return sum(parameter.numel() for parameter in network.parameters())


def percentile(value: float, others: Sequence[float]) -> float:
    """The percentage of other values below a value; those equal to it count half.

    Args:
        value: The value.
        others: One or more others.

    >>> percentile(3.0, [1.0, 2.0, 3.0, 4.0])
    62.5
    """
    return 100 * sum((other < value) + (other == value) / 2 for other in others) / len(others)
