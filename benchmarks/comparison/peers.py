"""PGD and C&W of other libraries and the official AutoAttack, called as their documentation says.

PGD and C&W get the same budget as ours. AutoAttack and our standard suite have no parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_cli.attacks import registry
from robustbench_cli.attacks.base.threat import per_image
from robustbench_cli.attacks.cw import CW
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.benchmarks.devices import automatic_batch_size, keep_freed_memory
from robustbench_cli.benchmarks.evaluation.evaluate import evaluate
from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes
from robustbench_cli.benchmarks.suites.load import read_suite

__all__ = [
    "LIBRARIES",
    "OFFICIAL",
    "OURS",
    "AutoAttackBudget",
    "CWBudget",
    "Library",
    "PGDBudget",
    "Run",
    "foolbox_run",
]

Run = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""An attack as a function of a model, images ``(N, C, H, W)`` and labels ``(N,)``. It returns perturbed images."""

BATCH = 250
"""The batch size of the other libraries."""


@dataclass(frozen=True, kw_only=True)
class PGDBudget:
    """One run of PGD on the cross-entropy from a random start. Libraries without a default step size get ours.

    Attributes:
        norm: The norm of the ball.
        eps: The radius.
        steps: Gradients per image.
    """

    norm: Literal["linf", "l2"]
    eps: float
    steps: int = 40

    @property
    def step_size(self) -> float:
        """2.5 times the radius over the number of steps, as Madry et al. advise (ICLR 2018)."""
        return 2.5 * self.eps / self.steps

    def __str__(self) -> str:
        return f"PGD {self.steps}, {self.norm} {self.eps:g}"


@dataclass(frozen=True, kw_only=True)
class CWBudget:
    """One run of C&W, with Adam and a binary search for the constant.

    Attributes:
        constants: Steps of the binary search.
        steps: Steps of Adam for each constant: at most ``constants * steps`` gradients per image.
        initial_const: The first constant.
        lr: The learning rate of Adam.
    """

    constants: int = 5
    steps: int = 200
    initial_const: float = 0.1
    lr: float = 0.01

    def __str__(self) -> str:
        return f"C&W {self.constants} x {self.steps}, l2"


@dataclass(frozen=True, kw_only=True)
class AutoAttackBudget:
    """AutoAttack's standard version, or our standard suite; neither has parameters.

    Attributes:
        norm: The norm of the ball.
        eps: The radius.
    """

    norm: Literal["linf", "l2", "l1"]
    eps: float

    def __str__(self) -> str:
        return f"AutoAttack, {self.norm} {self.eps:g}"


class Library:
    """A library of attacks; the attacks that it does not have raise ``NotImplementedError``.

    Attributes:
        distribution: Its name on the package index.
    """

    distribution: ClassVar[str]

    def begin(self) -> None:
        """Prepares the process as the library's own program does, where it has one."""

    def wrap(self, model: nn.Module) -> Any:
        """The model in the form that the library takes. This is not timed."""
        return model

    def pgd(self, model: Any, images: Tensor, labels: Tensor, budget: PGDBudget) -> Tensor:
        """Runs PGD.

        Args:
            model: From :meth:`wrap`, in ``eval()`` mode.
            images: ``(N, C, H, W)`` in [0, 1].
            labels: ``(N,)``, the true classes.
            budget: The parameters.

        Returns:
            Perturbed images ``(N, C, H, W)``.
        """
        raise NotImplementedError(f"{self.distribution} has no PGD")

    def cw(self, model: Any, images: Tensor, labels: Tensor, budget: CWBudget) -> Tensor:
        """Runs the C&W L2 attack; see :meth:`pgd`."""
        raise NotImplementedError(f"{self.distribution} has no C&W")

    def autoattack(self, model: Any, images: Tensor, labels: Tensor, budget: AutoAttackBudget) -> Tensor:
        """Runs AutoAttack, or our standard suite; see :meth:`pgd`."""
        raise NotImplementedError(f"{self.distribution} has no AutoAttack")


class Advdef(Library):
    """This project with the settings of its own evaluation: channels last, automatic batch size, freed memory kept."""

    distribution = "advdef"

    def begin(self) -> None:
        keep_freed_memory()

    def wrap(self, model: nn.Module) -> nn.Module:
        return model.to(memory_format=torch.channels_last)

    def pgd(self, model: Any, images: Tensor, labels: Tensor, budget: PGDBudget) -> Tensor:
        attack = PGD(steps=budget.steps)
        size = automatic_batch_size(images.device, tuple(images.shape[1:]))
        return attack(model, images, labels, norm=budget.norm, eps=budget.eps, batch_size=size)

    def cw(self, model: Any, images: Tensor, labels: Tensor, budget: CWBudget) -> Tensor:
        attack = CW(
            steps=budget.steps, binary_search_steps=budget.constants, initial_const=budget.initial_const, lr=budget.lr
        )
        size = automatic_batch_size(images.device, tuple(images.shape[1:]))
        return attack(model, images, labels, batch_size=size)

    def autoattack(self, model: Any, images: Tensor, labels: Tensor, budget: AutoAttackBudget) -> Tensor:
        best, before = images.clone(), None
        # Conditional attacks are for models with masked gradients; the models of the comparison have none.
        for member in (member for member in read_suite("standard").entries if member.only_if is None):
            kind = registry.load(member.name)
            if budget.norm not in member.norms_among(kind.norms):
                continue
            attack = kind.from_parameters(member.parameters, name=member.name)
            evaluation = evaluate(
                model, images, labels, attack=attack, norm=budget.norm, eps=budget.eps, earlier=before
            )
            best = torch.where(per_image(_broken(evaluation.outcomes, before), images), evaluation.perturbed, best)
            before = evaluation.outcomes
        return best


class Foolbox(Library):
    """Rauber, Zimmermann, Bethge, Brendel, JOSS 2020."""

    distribution = "foolbox"

    def wrap(self, model: nn.Module) -> Any:
        import foolbox

        return foolbox.PyTorchModel(model, bounds=(0, 1))

    def pgd(self, model: Any, images: Tensor, labels: Tensor, budget: PGDBudget) -> Tensor:
        from foolbox.attacks import L2PGD, LinfPGD

        kind = LinfPGD if budget.norm == "linf" else L2PGD
        attack = kind(abs_stepsize=budget.step_size, steps=budget.steps, random_start=True)
        return _in_batches(lambda x, y: attack(model, x, y, epsilons=budget.eps)[0], images, labels)

    def cw(self, model: Any, images: Tensor, labels: Tensor, budget: CWBudget) -> Tensor:
        from foolbox.attacks import L2CarliniWagnerAttack

        attack = L2CarliniWagnerAttack(
            binary_search_steps=budget.constants,
            steps=budget.steps,
            stepsize=budget.lr,
            initial_const=budget.initial_const,
        )
        return _in_batches(lambda x, y: attack(model, x, y, epsilons=None)[0], images, labels)


class Torchattacks(Library):
    """Kim, arXiv 2010.01950. Its C&W has one constant for all images, and gets the whole budget of steps for it."""

    distribution = "torchattacks"

    def pgd(self, model: Any, images: Tensor, labels: Tensor, budget: PGDBudget) -> Tensor:
        import torchattacks

        kind = torchattacks.PGD if budget.norm == "linf" else torchattacks.PGDL2
        attack = kind(model, eps=budget.eps, alpha=budget.step_size, steps=budget.steps, random_start=True)
        return _in_batches(attack, images, labels)

    def cw(self, model: Any, images: Tensor, labels: Tensor, budget: CWBudget) -> Tensor:
        import torchattacks

        return _in_batches(torchattacks.CW(model, steps=budget.constants * budget.steps, lr=budget.lr), images, labels)


class ART(Library):
    """The Adversarial Robustness Toolbox: Nicolae et al., arXiv 1807.01069.

    Its C&W does a line search in every step, with up to ten additional forward passes.
    """

    distribution = "adversarial-robustness-toolbox"

    def wrap(self, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> Any:
        from art.estimators.classification import PyTorchClassifier

        return PyTorchClassifier(
            model=model,
            loss=nn.CrossEntropyLoss(),
            optimizer=optimizer,
            input_shape=(1, 28, 28),
            nb_classes=10,
            clip_values=(0, 1),
            device_type="cpu",
        )

    def pgd(self, model: Any, images: Tensor, labels: Tensor, budget: PGDBudget) -> Tensor:
        from art.attacks.evasion import ProjectedGradientDescentPyTorch

        attack = ProjectedGradientDescentPyTorch(
            model,
            norm=np.inf if budget.norm == "linf" else 2,
            eps=budget.eps,
            eps_step=budget.step_size,
            max_iter=budget.steps,
            num_random_init=1,
            batch_size=BATCH,
            verbose=False,
        )
        return torch.from_numpy(attack.generate(images.numpy(), labels.numpy()))

    def cw(self, model: Any, images: Tensor, labels: Tensor, budget: CWBudget) -> Tensor:
        from art.attacks.evasion import CarliniL2Method

        attack = CarliniL2Method(
            model,
            learning_rate=budget.lr,
            binary_search_steps=budget.constants,
            max_iter=budget.steps,
            initial_const=budget.initial_const,
            batch_size=BATCH,
            verbose=False,
        )
        return torch.from_numpy(attack.generate(images.numpy(), labels.numpy()))


class CleverHans(Library):
    """Papernot et al., arXiv 1610.00768. Its C&W sums the constants of all images in a batch."""

    distribution = "cleverhans"

    def pgd(self, model: Any, images: Tensor, labels: Tensor, budget: PGDBudget) -> Tensor:
        from cleverhans.torch.attacks.projected_gradient_descent import projected_gradient_descent

        norm = np.inf if budget.norm == "linf" else 2

        def attack(x: Tensor, y: Tensor) -> Any:
            return projected_gradient_descent(
                model, x, budget.eps, budget.step_size, budget.steps, norm, clip_min=0, clip_max=1, y=y
            )

        return _in_batches(attack, images, labels)

    def cw(self, model: Any, images: Tensor, labels: Tensor, budget: CWBudget) -> Tensor:
        from cleverhans.torch.attacks.carlini_wagner_l2 import carlini_wagner_l2

        def attack(x: Tensor, y: Tensor) -> Any:
            return carlini_wagner_l2(
                model,
                x,
                10,
                y=y,
                lr=budget.lr,
                initial_const=budget.initial_const,
                binary_search_steps=budget.constants,
                max_iterations=budget.steps,
            )

        return _in_batches(attack, images, labels)


class AutoAttack(Library):
    """The official AutoAttack, as its authors publish it: Croce, Hein, ICML 2020, arXiv 2003.01690."""

    distribution = "pyautoattack"

    def autoattack(self, model: Any, images: Tensor, labels: Tensor, budget: AutoAttackBudget) -> Tensor:
        import pyautoattack

        norm = {"linf": "Linf", "l2": "L2", "l1": "L1"}[budget.norm]
        attack = pyautoattack.AutoAttack(model, norm=norm, eps=budget.eps, seed=0, device=images.device)
        perturbed: Tensor = attack.run_standard_evaluation(images, labels, batch_size=BATCH)[0]
        return perturbed


OURS, OFFICIAL = "advdef", "AutoAttack"

LIBRARIES: dict[str, Library] = {
    OURS: Advdef(),
    "Foolbox": Foolbox(),
    "torchattacks": Torchattacks(),
    "ART": ART(),
    "CleverHans": CleverHans(),
    OFFICIAL: AutoAttack(),
}
"""The libraries by the name in the tables; ours is the first."""


def foolbox_run(attack: Any, *, eps: float | None) -> Run:
    """An attack of Foolbox as a function.

    Args:
        attack: An instance of the attack.
        eps: The radius; ``None`` for a minimal-norm attack.
    """

    def run(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        perturbed: Tensor = attack(Foolbox().wrap(model), images, labels, epsilons=eps)[0]
        return perturbed

    return run


def _broken(outcomes: Outcomes, before: Outcomes | None) -> Tensor:
    """Which images ``(N,)`` an attack broke that were classified correctly and unbroken by the attacks before it."""
    broken = outcomes.broken() & outcomes.clean_right.all(0)
    return torch.from_numpy(broken if before is None else broken & ~before.broken())


def _in_batches(attack: Callable[[Tensor, Tensor], Tensor], images: Tensor, labels: Tensor) -> Tensor:
    pairs = zip(images.split(BATCH), labels.split(BATCH), strict=True)
    return torch.cat([attack(x, y).detach() for x, y in pairs])
