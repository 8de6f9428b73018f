"""advdef: measures how much robustness a defense against adversarial examples really provides.

``import advdef`` gives the verbs of the command line to Python. A name is imported when it is first used, so importing
the package loads no other library.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustbench_cli.attacks.base.attack import Attack as Attack
    from robustbench_cli.attacks.base.attack import FixedRadiusAttack as FixedRadiusAttack
    from robustbench_cli.attacks.base.attack import MinimalNormAttack as MinimalNormAttack
    from robustbench_cli.attacks.cw import CW as CW
    from robustbench_cli.attacks.cw_pgd import CWPGD as CWPGD
    from robustbench_cli.attacks.fgsm import FGSM as FGSM
    from robustbench_cli.attacks.pgd import PGD as PGD
    from robustbench_cli.benchmarks.checkpoints.checkpoint import load_checkpoint as load_checkpoint
    from robustbench_cli.benchmarks.checkpoints.checkpoint import save_checkpoint as save_checkpoint
    from robustbench_cli.benchmarks.datasets.base.dataset import Dataset as Dataset
    from robustbench_cli.benchmarks.datasets.base.load import load_dataset as load_dataset
    from robustbench_cli.benchmarks.datasets.base.slice import first_examples as first_examples
    from robustbench_cli.benchmarks.evaluation.evaluate import evaluate as evaluate
    from robustbench_cli.benchmarks.models.base.build import build_model as build_model
    from robustbench_cli.defenses.base.defense import Defense as Defense
    from robustbench_cli.defenses.base.defense import defend as defend
    from robustbench_cli.defenses.gaussian_noise import GaussianNoise as GaussianNoise
    from robustbench_cli.defenses.hrs import HRS as HRS
    from robustbench_cli.defenses.hrs import hrs as hrs
    from robustbench_cli.defenses.none import Undefended as Undefended

__version__ = "0.1.0"

_EXPORTS = {
    "Attack": "robustbench_cli.attacks.base.attack:Attack",
    "CW": "robustbench_cli.attacks.cw:CW",
    "CWPGD": "robustbench_cli.attacks.cw_pgd:CWPGD",
    "Dataset": "robustbench_cli.benchmarks.datasets.base.dataset:Dataset",
    "Defense": "robustbench_cli.defenses.base.defense:Defense",
    "FGSM": "robustbench_cli.attacks.fgsm:FGSM",
    "FixedRadiusAttack": "robustbench_cli.attacks.base.attack:FixedRadiusAttack",
    "GaussianNoise": "robustbench_cli.defenses.gaussian_noise:GaussianNoise",
    "HRS": "robustbench_cli.defenses.hrs:HRS",
    "MinimalNormAttack": "robustbench_cli.attacks.base.attack:MinimalNormAttack",
    "PGD": "robustbench_cli.attacks.pgd:PGD",
    "Undefended": "robustbench_cli.defenses.none:Undefended",
    "build_model": "robustbench_cli.benchmarks.models.base.build:build_model",
    "defend": "robustbench_cli.defenses.base.defense:defend",
    "evaluate": "robustbench_cli.benchmarks.evaluation.evaluate:evaluate",
    "first_examples": "robustbench_cli.benchmarks.datasets.base.slice:first_examples",
    "hrs": "robustbench_cli.defenses.hrs:hrs",
    "load_checkpoint": "robustbench_cli.benchmarks.checkpoints.checkpoint:load_checkpoint",
    "load_dataset": "robustbench_cli.benchmarks.datasets.base.load:load_dataset",
    "save_checkpoint": "robustbench_cli.benchmarks.checkpoints.checkpoint:save_checkpoint",
}


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        # Python and its tools look up such names in every module; they are no misspelling.
        if name.startswith("_") or importlib.util.find_spec(f"{__name__}.{name}") is not None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from robustbench_cli.core.suggest import did_you_mean

        raise AttributeError(f"module {__name__!r} has no attribute {name!r}: {did_you_mean(name, _EXPORTS)}")
    module, _, attribute = _EXPORTS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
