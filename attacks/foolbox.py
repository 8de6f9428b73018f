"""The attacks of Foolbox."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from types import ModuleType
from typing import Any, ClassVar

from torch import Tensor

from robustbench_cli.attacks.base.library import Access, Call, Library, Member
from robustbench_cli.attacks.base.norm import NORMS, Norm
from robustbench_cli.core.errors import UserError

__all__ = ["Foolbox"]

_REFUSED = frozenset({"Attack", "SpatialAttack", "DatasetAttack", "BinarizationRefinementAttack"})
"""A base class, an attack without a norm, and two that need more than a model and images."""

_BY_DECISIONS = ("Boundary", "HopSkipJump", "Pointwise", "Noise", "Contrast", "Blur", "Inversion")
"""What the names of attacks that need only decisions contain."""


class Foolbox(Library):
    """The attacks of Foolbox, as foolbox:LinfPGD."""

    paper: ClassVar[str] = (
        "Rauber, Zimmermann, Bethge, Brendel: Foolbox Native: Fast adversarial attacks to benchmark the robustness of machine "
        "learning models in PyTorch, TensorFlow, and JAX. JOSS 2020"
    )
    name: ClassVar[str] = "foolbox"
    distribution: ClassVar[str] = "foolbox"
    module: ClassVar[str] = "foolbox.attacks"
    reserved: ClassVar[frozenset[str]] = frozenset({"distance", "constraint", "init_attack", "tensorboard"})

    def imported(self) -> ModuleType:
        # Foolbox imports a git library, which fails where there is no git.
        os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
        return super().imported()

    def members(self) -> Mapping[str, Member]:
        installed = {name: kind for name, kind in vars(self.imported()).items() if inspect.isclass(kind)}
        return {
            name: Member(
                norms=_norms(kind),
                minimal_norm="MinimizationAttack" in {base.__name__ for base in kind.__mro__},
                access=_access(name),
            )
            for name, kind in installed.items()
            if issubclass(kind, installed["Attack"]) and name not in _REFUSED
        }

    def call(self, kind: Any, call: Call) -> Tensor:
        from foolbox import PyTorchModel, criteria, distances

        parameters, taken = dict(call.parameters), inspect.signature(kind.__init__).parameters
        if "distance" in taken:
            parameters["distance"] = getattr(distances, call.norm)
        if "constraint" in taken:
            parameters["constraint"] = call.norm
        model = PyTorchModel(call.model, bounds=(0, 1), device=call.images.device)
        criterion = criteria.TargetedMisclassification if call.targeted else criteria.Misclassification
        try:
            perturbed: Tensor = kind(**parameters)(model, call.images, criterion(call.labels), epsilons=call.eps)[0]
        except ValueError as error:
            if "unsupported criterion" not in str(error):
                raise
            advice = "has no target classes: leave out" if call.targeted else "needs target classes: give"
            raise UserError(f"{call.name} {advice} --targeted") from None
        return perturbed


def _access(name: str) -> Access:
    """The access to the model that an attack needs, by the name of its class."""
    if name == "GenAttack":
        return "scores"
    return "decisions" if any(word in name for word in _BY_DECISIONS) else "gradients"


def _norms(kind: Any) -> tuple[Norm, ...]:
    """The norms of an attack: that of its distance, or all where it takes one."""
    taken = inspect.signature(kind.__init__).parameters
    if "constraint" in taken:
        return ("l2", "linf")
    if kind.__name__ == "PointwiseAttack":
        return ("l0", "l2")
    if "distance" in taken:
        return NORMS
    distance = kind.distance if not isinstance(kind.distance, property) else kind().distance
    norm: Norm = str(distance).partition(" ")[0].lower()  # type: ignore[assignment]
    return (norm,)
