"""Adversarial training beside ART's: the same network, initial weights, images and budget."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.rng import seeded
from robustbench_cli.benchmarks.comparison.contest import Array, Contest, robust_accuracy
from robustbench_cli.benchmarks.comparison.models import ImageSet
from robustbench_cli.benchmarks.comparison.peers import ART, LIBRARIES, OURS, AutoAttackBudget
from robustbench_cli.benchmarks.comparison.tables import markdown
from robustbench_cli.benchmarks.comparison.timing import clock, ratio
from robustbench_cli.benchmarks.models.base.build import build_model
from robustbench_cli.defenses import registry as defenses
from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.trainer import Trainer

__all__ = ["TRAINERS", "Trained", "TrainingBudget", "Weights", "compare_trainers", "score", "train", "trainers_table"]

LIBRARIES_WITH_TRAINERS = (OURS, "ART")
"""The libraries with adversarial training; torchattacks, Foolbox and CleverHans have none."""

TRAINERS = ("pgd-at", "trades", "awp", "fast-at")
"""Our defenses for which ART has a trainer."""

Weights = dict[str, Array]
"""The state dict of a network, as arrays."""


@dataclass(frozen=True, kw_only=True)
class TrainingBudget:
    """The budget of one training. The optimizer is AdamW with a constant learning rate, except for fast-at.

    For fast-at, ART has its own cyclic learning rate, and ours has that of our usual recipe.

    Attributes:
        eps: The linf radius.
        steps: Steps of the attack in training; fast-at has one.
        epochs: Training epochs.
        batch_size: Images per step.
        lr: The learning rate of AdamW.
    """

    eps: float = 0.1
    steps: int = 5
    epochs: int = 5
    batch_size: int = 128
    lr: float = 1e-3

    @property
    def step_size(self) -> float:
        """The default of our defenses."""
        return 2.5 * self.eps / self.steps

    def __str__(self) -> str:
        return f"linf {self.eps:g}, {self.steps} steps, {self.epochs} epochs of batches of {self.batch_size}"


@dataclass(frozen=True)
class Trained:
    """The result of one training.

    Attributes:
        clean: Accuracy on the test images.
        robust: Robust accuracy under our standard suite.
        seconds: The time of the training.
    """

    clean: float
    robust: float
    seconds: float


def compare_trainers(trainers: Sequence[str], training: ImageSet, test: ImageSet, *, epochs: int, turns: int) -> None:
    """Prints the accuracies and the times of networks that we and ART have trained.

    Args:
        trainers: Names in :data:`TRAINERS`.
        training: The training images.
        test: The test images.
        epochs: Training epochs.
        turns: Trainings by each library, each from other initial weights and in another order.
    """
    budget = TrainingBudget(epochs=epochs)
    print(
        f"{budget}, {len(training)} training images; {len(test)} test images under the suite 'standard'\n", flush=True
    )
    results: dict[tuple[str, str], list[Trained]] = {}
    with Contest(LIBRARIES_WITH_TRAINERS) as contest:

        def trained(library: str, name: str, images: ImageSet, seed: int) -> tuple[Weights, float]:
            start = _weights(_network(seed))
            arrays = (images.images.numpy(), images.labels.numpy())
            return contest.call(library, train, library, name, start, *arrays, budget, seed)

        for name in trainers:
            for library in LIBRARIES_WITH_TRAINERS:
                # A warm-up training, which is not timed.
                trained(library, name, ImageSet(training.images[:128], training.labels[:128]), 0)
            for turn in range(turns):
                for library in LIBRARIES_WITH_TRAINERS:
                    result = score(*trained(library, name, training, turn), test, eps=budget.eps)
                    results.setdefault((name, library), []).append(result)
                    print(f"{name} by {library}, turn {turn + 1} of {turns}: {result}", file=sys.stderr, flush=True)
    print(trainers_table(results), flush=True)


def trainers_table(results: Mapping[tuple[str, str], Sequence[Trained]]) -> str:
    """A table of means over turns, the spread of the robust accuracy, and each library's time over ours.

    The spread is the standard deviation of one training, and the range.

    Args:
        results: The results of all turns, by trainer and library, ours among them.
    """
    rows = []
    for (name, library), turns in results.items():
        robust = [100 * turn.robust for turn in turns]
        spread = f" ± {stdev(robust):.1f} ({min(robust):.1f} to {max(robust):.1f})" if len(robust) > 1 else ""
        seconds = [turn.seconds for turn in turns]
        rows.append(
            (
                name,
                library,
                f"{100 * fmean(turn.clean for turn in turns):.1f} %",
                f"{fmean(robust):.1f} %{spread}",
                f"{fmean(seconds):.0f}",
                str(ratio(seconds, [turn.seconds for turn in results[name, OURS]])),
            )
        )
    return markdown(("trainer", "library", "clean", "robust", "seconds", f"over {OURS}"), rows)


def train(
    library: str, name: str, start: Weights, images: Array, labels: Array, budget: TrainingBudget, seed: int
) -> tuple[Weights, float]:
    """Trains a small network. It runs in the process of the library.

    Args:
        library: A name in :data:`~.peers.LIBRARIES`.
        name: A name in :data:`TRAINERS`.
        start: The initial weights, which stay unchanged.
        images: ``(N, C, H, W)``, float32 in [0, 1].
        labels: ``(N,)``, int64.
        budget: The budget of the training.
        seed: The seed of all draws.

    Returns:
        The trained weights, and the seconds.
    """
    network = _with_weights(start)
    trainer = _ours if library == OURS else _art
    started = clock()
    trained = trainer(name, network, images, labels, budget, seed)
    seconds = clock() - started
    return _weights(trained), seconds


def score(weights: Weights, seconds: float, test: ImageSet, *, eps: float) -> Trained:
    """Measures the accuracies of a small network.

    Args:
        weights: The weights from :func:`train`.
        seconds: The time of the training.
        test: The test images.
        eps: The linf radius of the standard suite.
    """
    library = LIBRARIES[OURS]
    model = library.wrap(_with_weights(weights).eval())
    budget = AutoAttackBudget(norm="linf", eps=eps)
    perturbed = library.autoattack(model, test.images, test.labels, budget)
    with torch.no_grad():
        clean = (model(test.images).argmax(1) == test.labels).double().mean().item()
    return Trained(clean, robust_accuracy(model, test, perturbed, budget), seconds)


def _ours(name: str, network: nn.Module, images: Array, labels: Array, budget: TrainingBudget, seed: int) -> nn.Module:
    attack = {} if name == "fast-at" else {"steps": budget.steps, "step_size": budget.step_size}
    defense = defenses.load(name).from_parameters({"eps": budget.eps, **attack}, name=name)
    recipe = Recipe(epochs=budget.epochs, batch_size=budget.batch_size)
    if name != "fast-at":
        recipe = recipe.model_copy(update={"lr": budget.lr, "schedule": "constant"})
    examples = ImageSet(torch.from_numpy(images), torch.from_numpy(labels))
    model: nn.Module = defense.protect(network, examples.images[:1])
    defense.fit(model, Trainer(examples, recipe, seed=seed, device=torch.device("cpu")))
    return model


def _art(name: str, network: nn.Module, images: Array, labels: Array, budget: TrainingBudget, seed: int) -> nn.Module:
    np.random.seed(seed)  # noqa: NPY002, ART draws from it
    torch.manual_seed(seed)
    _ART_TRAINERS[name](_Whole(network), budget).fit(
        images, np.eye(10, dtype=np.float32)[labels], batch_size=budget.batch_size, nb_epochs=budget.epochs
    )
    return network


class _Whole(nn.Module):
    """Hides the layers of a network from ART, whose trainers take the output of a ``Sequential``'s first layer as logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits


def _art_pgd_at(network: _Whole, budget: TrainingBudget) -> Any:
    from art.defences.trainer import AdversarialTrainerMadryPGD

    trainer = AdversarialTrainerMadryPGD(
        _classifier(network, budget),
        batch_size=budget.batch_size,
        eps=budget.eps,
        eps_step=budget.step_size,
        max_iter=budget.steps,
    )
    # Its default batch size of the attack is 32.
    trainer.attack.set_params(batch_size=budget.batch_size)
    return trainer


def _art_trades(network: _Whole, budget: TrainingBudget) -> Any:
    from art.defences.trainer import AdversarialTrainerTRADESPyTorch

    classifier = _classifier(network, budget)
    return AdversarialTrainerTRADESPyTorch(classifier, _attack(classifier, budget), beta=6)


def _art_awp(network: _Whole, budget: TrainingBudget) -> Any:
    from art.defences.trainer import AdversarialTrainerAWPPyTorch

    classifier = _classifier(network, budget)
    # One SGD step gives the direction; its length has no effect.
    proxy = copy.deepcopy(network)
    return AdversarialTrainerAWPPyTorch(
        classifier,
        ART().wrap(proxy, torch.optim.SGD(proxy.parameters(), lr=0.01)),
        _attack(classifier, budget),
        mode="PGD",
        gamma=0.01,
        beta=0,
        warmup=0,
    )


def _art_fast_at(network: _Whole, budget: TrainingBudget) -> Any:
    from art.defences.trainer import AdversarialTrainerFBFPyTorch

    # It sets learning rates up to 0.21, which are for SGD; momentum and weight decay are those of the paper's code.
    optimizer = torch.optim.SGD(network.parameters(), lr=budget.lr, momentum=0.9, weight_decay=5e-4)
    return AdversarialTrainerFBFPyTorch(ART().wrap(network, optimizer), eps=budget.eps)


_ART_TRAINERS: dict[str, Callable[[_Whole, TrainingBudget], Any]] = {
    "pgd-at": _art_pgd_at,
    "trades": _art_trades,
    "awp": _art_awp,
    "fast-at": _art_fast_at,
}


def _classifier(network: nn.Module, budget: TrainingBudget) -> Any:
    """The network with the optimizer of our recipe."""
    return ART().wrap(network, torch.optim.AdamW(network.parameters(), lr=budget.lr, weight_decay=0.01))


def _attack(classifier: Any, budget: TrainingBudget) -> Any:
    from art.attacks.evasion import ProjectedGradientDescent

    return ProjectedGradientDescent(
        classifier,
        eps=budget.eps,
        eps_step=budget.step_size,
        max_iter=budget.steps,
        num_random_init=1,
        batch_size=budget.batch_size,
        verbose=False,
    )


def _network(seed: int) -> nn.Module:
    """The small network with random weights."""
    with seeded(seed):
        return build_model("small-cnn", shape=(1, 28, 28), classes=10)


def _weights(network: nn.Module) -> Weights:
    return {key: value.numpy() for key, value in network.state_dict().items()}


def _with_weights(weights: Weights) -> nn.Module:
    network = _network(0)
    # Copies, so that training does not change the initial weights.
    network.load_state_dict({key: torch.tensor(value) for key, value in weights.items()})
    return network
