"""The attacks of the Adversarial Robustness Toolbox (ART)."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.library import Call, Library, Member
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.core.errors import UserError

__all__ = ["ART"]

_ALL: tuple[Norm, ...] = ("linf", "l2", "l1")
# GeoDA of version 1.20 fails with NumPy 2.
_MEMBERS: Mapping[str, Member] = {
    "AutoAttack": Member(norms=("linf", "l2")),
    "AutoConjugateGradient": Member(norms=_ALL),
    "AutoProjectedGradientDescent": Member(norms=_ALL),
    "BasicIterativeMethod": Member(norms=("linf",)),
    "FastGradientMethod": Member(norms=_ALL),
    "MomentumIterativeMethod": Member(norms=_ALL),
    "ProjectedGradientDescent": Member(norms=_ALL),
    "RescalingAutoConjugateGradient": Member(norms=_ALL),
    "VirtualAdversarialMethod": Member(norms=("l2",)),
    "SquareAttack": Member(norms=("linf", "l2"), access="scores"),
    "BoundaryAttack": Member(norms=("l2",), minimal_norm=True, access="decisions"),
    "CarliniL0Method": Member(norms=("l0",), minimal_norm=True),
    "CarliniL2Method": Member(norms=("l2",), minimal_norm=True),
    "CarliniLInfMethod": Member(norms=("linf",), minimal_norm=True),
    "DeepFool": Member(norms=("l2",), minimal_norm=True),
    "ElasticNet": Member(norms=("l1",), minimal_norm=True),
    "HopSkipJump": Member(norms=("l2", "linf"), minimal_norm=True, access="decisions"),
    "NewtonFool": Member(norms=("l2",), minimal_norm=True),
    "PixelAttack": Member(norms=("l0",), minimal_norm=True, access="scores"),
    "SaliencyMapMethod": Member(norms=("l0",), minimal_norm=True),
    "SignOPTAttack": Member(norms=("l2",), minimal_norm=True, access="decisions"),
    "SimBA": Member(norms=("l2",), minimal_norm=True, access="scores"),
    "ThresholdAttack": Member(norms=("linf",), minimal_norm=True, access="scores"),
    "ZooAttack": Member(norms=("l2",), minimal_norm=True, access="scores"),
}
_NORMS = {"linf": np.inf, "l2": 2, "l1": 1}

_OF_PROBABILITIES = frozenset({"NewtonFool", "SimBA", "VirtualAdversarialMethod"})
"""Attacks whose formulas are of probabilities, and not of logits."""

_TARGETS_ONLY = frozenset({"SaliencyMapMethod"})
"""Always targeted; without targets they draw random ones."""

_SINGLE = frozenset({"SimBA", "ZooAttack"})
"""Attacks that take one image at a time, or fail with several in version 1.20."""


class ART(Library):
    """The attacks of the Adversarial Robustness Toolbox, as art:ProjectedGradientDescent."""

    paper: ClassVar[str] = "Nicolae et al.: Adversarial Robustness Toolbox v1.0.0. 2018, arXiv 1807.01069"
    name: ClassVar[str] = "art"
    distribution: ClassVar[str] = "adversarial-robustness-toolbox"
    module: ClassVar[str] = "art.attacks.evasion"
    reserved: ClassVar[frozenset[str]] = frozenset(
        {"classifier", "estimator", "estimator_orig", "norm", "eps", "targeted", "batch_size", "verbose"}
        | {"summary_writer", "minimal", "parallel_pool_size", "attacks", "mask"}
    )

    def members(self) -> Mapping[str, Member]:
        installed = vars(self.imported())
        return {name: member for name, member in _MEMBERS.items() if name in installed}

    def call(self, kind: Any, call: Call) -> Tensor:
        taken = inspect.signature(kind.__init__).parameters
        if call.targeted and "targeted" not in taken and kind.__name__ not in _TARGETS_ONLY:
            raise UserError(f"{call.name} has no target classes: leave out --targeted")
        given = {
            "norm": _NORMS.get(call.norm),
            **({} if call.eps is None else {"eps": call.eps}),
            "targeted": call.targeted,
            "batch_size": 1 if kind.__name__ in _SINGLE else len(call.images),
            "verbose": False,
        }
        given = {key: value for key, value in given.items() if key in taken}
        probabilities = kind.__name__ in _OF_PROBABILITIES
        attack = kind(_classifier(call, probabilities=probabilities), **given, **call.parameters)
        has_labels = call.targeted or kind.__name__ not in _TARGETS_ONLY
        labels = nn.functional.one_hot(call.labels, call.classes).cpu().numpy() if has_labels else None
        perturbed = attack.generate(x=call.images.cpu().numpy(), y=labels)
        return torch.as_tensor(perturbed, device=call.images.device)


def _classifier(call: Call, *, probabilities: bool) -> Any:
    """The model as ART takes it, with logits or probabilities as its output."""
    from art.estimators.classification import PyTorchClassifier

    return PyTorchClassifier(
        model=nn.Sequential(call.model, nn.Softmax(1)) if probabilities else call.model,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(call.images.shape[1:]),
        nb_classes=call.classes,
        clip_values=(0.0, 1.0),
        device_type="gpu" if call.images.is_cuda else "cpu",
    )
