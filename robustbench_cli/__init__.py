"""advdef: train, attack and compare defenses against adversarial examples.

``import robustbench_cli as advdef`` gives the verbs of the command line to Python. A name is imported when it is first
used, so that importing the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustbench_cli.attacks.cw import CW as CW
    from robustbench_cli.attacks.cw_pgd import CWPGD as CWPGD
    from robustbench_cli.attacks.fgsm import FGSM as FGSM
    from robustbench_cli.attacks.pgd import PGD as PGD

__version__ = "0.1.0"

_PLACES = {
    "CW": "robustbench_cli.attacks.cw:CW",
    "CWPGD": "robustbench_cli.attacks.cw_pgd:CWPGD",
    "FGSM": "robustbench_cli.attacks.fgsm:FGSM",
    "PGD": "robustbench_cli.attacks.pgd:PGD",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _PLACES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
