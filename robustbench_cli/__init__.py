"""advdef: measures how much robustness a defense against adversarial examples really provides.

``import advdef`` gives the verbs of the command line to Python. A name is imported when it is first used, so importing
the package loads no other library.
"""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # Type checkers cannot follow __getattr__. tests/test_init.py prints the line that a new file needs.
    from robustbench_cli.attacks.admix import Admix as Admix
    from robustbench_cli.attacks.apgd_ce import APGDCE as APGDCE
    from robustbench_cli.attacks.apgd_dlr import APGDDLR as APGDDLR
    from robustbench_cli.attacks.apgd_pm import APGDPM as APGDPM
    from robustbench_cli.attacks.apgd_t import APGDT as APGDT
    from robustbench_cli.attacks.base.attack import Attack as Attack
    from robustbench_cli.attacks.base.attack import FixedRadiusAttack as FixedRadiusAttack
    from robustbench_cli.attacks.base.attack import MinimalNormAttack as MinimalNormAttack
    from robustbench_cli.attacks.boundary import Boundary as Boundary
    from robustbench_cli.attacks.cw import CW as CW
    from robustbench_cli.attacks.cw_linf import CWLinf as CWLinf
    from robustbench_cli.attacks.cw_pgd import CWPGD as CWPGD
    from robustbench_cli.attacks.ddn import DDN as DDN
    from robustbench_cli.attacks.deepfool import DeepFool as DeepFool
    from robustbench_cli.attacks.di_fgsm import DIFGSM as DIFGSM
    from robustbench_cli.attacks.expected_cost import ExpectedCost as ExpectedCost
    from robustbench_cli.attacks.fab import FAB as FAB
    from robustbench_cli.attacks.fab_t import FABT as FABT
    from robustbench_cli.attacks.fgsm import FGSM as FGSM
    from robustbench_cli.attacks.fmn import FMN as FMN
    from robustbench_cli.attacks.geoda import GeoDA as GeoDA
    from robustbench_cli.attacks.hidden_h1 import HiddenH1 as HiddenH1
    from robustbench_cli.attacks.hidden_h2 import HiddenH2 as HiddenH2
    from robustbench_cli.attacks.hidden_h3 import HiddenH3 as HiddenH3
    from robustbench_cli.attacks.hopskipjump import HopSkipJump as HopSkipJump
    from robustbench_cli.attacks.latent import Latent as Latent
    from robustbench_cli.attacks.malt import MALT as MALT
    from robustbench_cli.attacks.mi_fgsm import MIFGSM as MIFGSM
    from robustbench_cli.attacks.nes import NES as NES
    from robustbench_cli.attacks.ni_fgsm import NIFGSM as NIFGSM
    from robustbench_cli.attacks.non_adaptive import NonAdaptive as NonAdaptive
    from robustbench_cli.attacks.none import NoAttack as NoAttack
    from robustbench_cli.attacks.paper_cw_pgd import PaperCWPGD as PaperCWPGD
    from robustbench_cli.attacks.paper_pgd import PaperPGD as PaperPGD
    from robustbench_cli.attacks.pgd import PGD as PGD
    from robustbench_cli.attacks.pma import PMA as PMA
    from robustbench_cli.attacks.rays import RayS as RayS
    from robustbench_cli.attacks.second_order import SecondOrder as SecondOrder
    from robustbench_cli.attacks.si_ni_fgsm import SINIFGSM as SINIFGSM
    from robustbench_cli.attacks.sigma_zero import SigmaZero as SigmaZero
    from robustbench_cli.attacks.simba import SimBA as SimBA
    from robustbench_cli.attacks.sparse_rs import SparseRS as SparseRS
    from robustbench_cli.attacks.spsa import SPSA as SPSA
    from robustbench_cli.attacks.square import Square as Square
    from robustbench_cli.attacks.ssa import SSA as SSA
    from robustbench_cli.attacks.superdeepfool import SuperDeepFool as SuperDeepFool
    from robustbench_cli.attacks.surfree import SurFree as SurFree
    from robustbench_cli.attacks.ti_fgsm import TIFGSM as TIFGSM
    from robustbench_cli.attacks.transfer import Transfer as Transfer
    from robustbench_cli.attacks.vmi_fgsm import VMIFGSM as VMIFGSM
    from robustbench_cli.attacks.vni_fgsm import VNIFGSM as VNIFGSM
    from robustbench_cli.benchmarks.audit.model_audit import audit as audit
    from robustbench_cli.benchmarks.checkpoints.checkpoint import load_checkpoint as load_checkpoint
    from robustbench_cli.benchmarks.checkpoints.checkpoint import save_checkpoint as save_checkpoint
    from robustbench_cli.benchmarks.checkpoints.load_model import load_model as load_model
    from robustbench_cli.benchmarks.corruptions.base.corruption import corrupt as corrupt
    from robustbench_cli.benchmarks.datasets.base.dataset import Dataset as Dataset
    from robustbench_cli.benchmarks.datasets.base.load import load_dataset as load_dataset
    from robustbench_cli.benchmarks.datasets.base.slice import first_examples as first_examples
    from robustbench_cli.benchmarks.models.base.build import build_model as build_model
    from robustbench_cli.defenses.adv_bnn import AdvBNN as AdvBNN
    from robustbench_cli.defenses.advkip import AdvKIP as AdvKIP
    from robustbench_cli.defenses.arlst import ARLST as ARLST
    from robustbench_cli.defenses.awp import AWP as AWP
    from robustbench_cli.defenses.base.defense import Defense as Defense
    from robustbench_cli.defenses.base.defense import defend as defend
    from robustbench_cli.defenses.csa import CSA as CSA
    from robustbench_cli.defenses.cstar import CSTAR as CSTAR
    from robustbench_cli.defenses.deadwooding import Deadwooding as Deadwooding
    from robustbench_cli.defenses.defensive_distillation import DefensiveDistillation as DefensiveDistillation
    from robustbench_cli.defenses.defensive_dropout import DefensiveDropout as DefensiveDropout
    from robustbench_cli.defenses.dsara import DSARA as DSARA
    from robustbench_cli.defenses.fast_at import FastAT as FastAT
    from robustbench_cli.defenses.feature_squeezing import FeatureSqueezing as FeatureSqueezing
    from robustbench_cli.defenses.free_at import FreeAT as FreeAT
    from robustbench_cli.defenses.gaussian_noise import GaussianNoise as GaussianNoise
    from robustbench_cli.defenses.gdws import GDWS as GDWS
    from robustbench_cli.defenses.hrs import HRS as HRS
    from robustbench_cli.defenses.hrs import hrs as hrs
    from robustbench_cli.defenses.ibp import IBP as IBP
    from robustbench_cli.defenses.infoat import InfoAT as InfoAT
    from robustbench_cli.defenses.interpolated_at import InterpolatedAT as InterpolatedAT
    from robustbench_cli.defenses.j_sigr import JSIGR as JSIGR
    from robustbench_cli.defenses.jpeg import JPEG as JPEG
    from robustbench_cli.defenses.ladder import Ladder as Ladder
    from robustbench_cli.defenses.macer import MACER as MACER
    from robustbench_cli.defenses.mart import MART as MART
    from robustbench_cli.defenses.multi_norm_at import MultiNormAT as MultiNormAT
    from robustbench_cli.defenses.noise_injection import NoiseInjection as NoiseInjection
    from robustbench_cli.defenses.none import Undefended as Undefended
    from robustbench_cli.defenses.pgd_at import PGDAT as PGDAT
    from robustbench_cli.defenses.pni import PNI as PNI
    from robustbench_cli.defenses.random_resize_pad import RandomResizePad as RandomResizePad
    from robustbench_cli.defenses.randomized_smoothing import RandomizedSmoothing as RandomizedSmoothing
    from robustbench_cli.defenses.representation_merging import RepresentationMerging as RepresentationMerging
    from robustbench_cli.defenses.rse import RSE as RSE
    from robustbench_cli.defenses.sap import SAP as SAP
    from robustbench_cli.defenses.smoothadv import SmoothAdv as SmoothAdv
    from robustbench_cli.defenses.soae_at import SOAEAT as SOAEAT
    from robustbench_cli.defenses.sparta import Sparta as Sparta
    from robustbench_cli.defenses.total_variation import TotalVariation as TotalVariation
    from robustbench_cli.defenses.trades import TRADES as TRADES
    from robustbench_cli.verbs import attack as attack
    from robustbench_cli.verbs import certify as certify
    from robustbench_cli.verbs import defense as defense
    from robustbench_cli.verbs import evaluate as evaluate

__version__ = "0.1.0"

_EXPORTS = {
    "Attack": "robustbench_cli.attacks.base.attack:Attack",
    "Dataset": "robustbench_cli.benchmarks.datasets.base.dataset:Dataset",
    "Defense": "robustbench_cli.defenses.base.defense:Defense",
    "FixedRadiusAttack": "robustbench_cli.attacks.base.attack:FixedRadiusAttack",
    "HRS": "robustbench_cli.defenses.hrs:HRS",
    "MinimalNormAttack": "robustbench_cli.attacks.base.attack:MinimalNormAttack",
    "attack": "robustbench_cli.verbs:attack",
    "audit": "robustbench_cli.benchmarks.audit.model_audit:audit",
    "build_model": "robustbench_cli.benchmarks.models.base.build:build_model",
    "certify": "robustbench_cli.verbs:certify",
    "corrupt": "robustbench_cli.benchmarks.corruptions.base.corruption:corrupt",
    "defend": "robustbench_cli.defenses.base.defense:defend",
    "defense": "robustbench_cli.verbs:defense",
    "evaluate": "robustbench_cli.verbs:evaluate",
    "first_examples": "robustbench_cli.benchmarks.datasets.base.slice:first_examples",
    "hrs": "robustbench_cli.defenses.hrs:hrs",
    "load_checkpoint": "robustbench_cli.benchmarks.checkpoints.checkpoint:load_checkpoint",
    "load_dataset": "robustbench_cli.benchmarks.datasets.base.load:load_dataset",
    "load_model": "robustbench_cli.benchmarks.checkpoints.load_model:load_model",
    "save_checkpoint": "robustbench_cli.benchmarks.checkpoints.checkpoint:save_checkpoint",
}
"""The names that are neither an attack nor a defense."""


@cache
def _exports() -> dict[str, str]:
    """Every name with its module and object: those above, and the class of each file of ``attacks`` and ``defenses``."""
    from robustbench_cli.attacks import registry as attacks
    from robustbench_cli.defenses import registry as defenses

    classes = {**attacks.classes(), **defenses.classes()}
    return _EXPORTS | {name: f"{module}:{name}" for name, module in classes.items()}


def __getattr__(name: str) -> Any:
    location = _EXPORTS.get(name)
    if location is None:
        # Python and its tools look up such names in every module; they are no misspelling.
        if name.startswith("_") or importlib.util.find_spec(f"{__name__}.{name}") is not None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        location = _exports().get(name)
    if location is None:
        from robustbench_cli.core.suggest import did_you_mean

        raise AttributeError(f"module {__name__!r} has no attribute {name!r}: {did_you_mean(name, _exports())}")
    module, _, attribute = location.partition(":")
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *_exports()})
