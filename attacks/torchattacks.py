"""The attacks of torchattacks."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from robustbench_cli.attacks.base.library import Access, Call, Library, Member
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.core.errors import UserError

__all__ = ["Torchattacks"]

_FIXED_RADIUS: Mapping[tuple[Norm, ...], tuple[str, ...]] = {
    ("linf",): (
        *("FGSM", "BIM", "RFGSM", "PGD", "EOTPGD", "FFGSM", "TPGD", "MIFGSM", "UPGD", "DIFGSM", "TIFGSM", "Jitter"),
        *("NIFGSM", "PGDRS", "SINIFGSM", "VMIFGSM", "VNIFGSM", "SPSA", "PIFGSM", "PIFGSMPP"),
    ),
    ("l2",): ("PGDL2", "PGDRSL2"),
    # FAB of version 3.5.1 fails in l1.
    ("linf", "l2"): ("APGD", "APGDT", "AutoAttack", "FAB", "Square"),
}
_MINIMAL_NORM: Mapping[tuple[Norm, ...], tuple[str, ...]] = {
    ("l2",): ("CW", "DeepFool"),
    ("l1",): ("EADL1", "EADEN"),
    ("l0",): ("JSMA", "SparseFool", "OnePixel", "Pixle"),
}
_ACCESS: Mapping[str, Access] = dict.fromkeys(("SPSA", "Square", "OnePixel", "Pixle"), "scores")
_UNTARGETED = frozenset({"FAB"})
"""They have a targeted mode but treat the targets as true labels."""

_NORMS = {"linf": "Linf", "l2": "L2"}


class Torchattacks(Library):
    """The attacks of torchattacks, as torchattacks:PGD."""

    paper: ClassVar[str] = "Kim: Torchattacks: A PyTorch Repository for Adversarial Attacks. 2020, arXiv 2010.01950"
    name: ClassVar[str] = "torchattacks"
    distribution: ClassVar[str] = "torchattacks"
    module: ClassVar[str] = "torchattacks"
    reserved: ClassVar[frozenset[str]] = frozenset(
        {"model", "norm", "eps", "max_epsilon", "seed", "n_classes", "verbose"}
    )

    def members(self) -> Mapping[str, Member]:
        installed = vars(self.imported())
        return {
            name: Member(norms=norms, minimal_norm=minimal_norm, access=_ACCESS.get(name, "gradients"))
            for minimal_norm, table in ((False, _FIXED_RADIUS), (True, _MINIMAL_NORM))
            for norms, names in table.items()
            for name in names
            if name in installed
        }

    def call(self, kind: Any, call: Call) -> Tensor:
        given = {
            "norm": _NORMS.get(call.norm),
            "eps": call.eps,
            "max_epsilon": call.eps,
            "seed": call.seed,
            "n_classes": call.classes,
            "verbose": False,
        }
        taken = inspect.signature(kind).parameters
        given = {key: value for key, value in given.items() if key in taken}
        attack = kind(call.model, **given, **call.parameters)
        if call.targeted:
            if kind.__name__ in _UNTARGETED or "targeted" not in attack.supported_mode:
                raise UserError(f"{call.name} has no target classes: leave out --targeted")
            # The labels of the call are then the classes to reach.
            attack.set_mode_targeted_by_label(quiet=True)
        perturbed: Tensor = attack(call.images, call.labels)
        return perturbed
