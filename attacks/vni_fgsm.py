"""NI-FGSM with variance tuning."""

from __future__ import annotations

from typing import ClassVar

from robustbench_cli.attacks.ni_fgsm import NIFGSM
from robustbench_cli.attacks.vmi_fgsm import VMIFGSM

__all__ = ["VNIFGSM"]


class VNIFGSM(NIFGSM, VMIFGSM):
    """VMI-FGSM with the gradient taken one step ahead along the momentum, as in NI-FGSM."""

    paper: ClassVar[str] = VMIFGSM.paper
