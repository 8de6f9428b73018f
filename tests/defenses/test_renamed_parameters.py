from __future__ import annotations

import warnings
from typing import Any

import pytest

from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.core.errors import UserError
from robustbench_cli.core.settings import RenamedParameter
from robustbench_cli.defenses import registry

RENAMES = [
    ("adv-bnn", "prior", "prior_sigma", 0.2),
    ("awp", "on", "objective", "mart"),
    ("defensive-dropout", "rate", "test_rate", 0.3),
    ("fast-at", "fall", "overfitting_drop", 0.4),
    ("feature-squeezing", "bits", "bit_depth", 3),
    ("feature-squeezing", "median", "median_size", 1),
    ("feature-squeezing", "non_local_means", "nlm_strength", 2.0),
    ("feature-squeezing", "window", "search_window", 11),
    ("feature-squeezing", "patch", "patch_size", 5),
    ("feature-squeezing", "false_positives", "false_positive_rate", 0.05),
    ("gaussian-noise", "place", "location", "input"),
    ("macer", "noises", "noise_samples", 3),
    ("macer", "weight", "radius_weight", 2.0),
    ("pni", "per", "granularity", "channel"),
    ("random-resize-pad", "smallest", "min_size", 0.8),
    ("rse", "place", "location", "weights"),
    ("smoothadv", "noises", "noise_samples", 3),
    ("total-variation", "rate", "drop_rate", 0.3),
    ("total-variation", "weight", "tv_weight", 0.1),
]


@pytest.mark.parametrize(("name", "former", "current", "value"), RENAMES)
def test_former_names_remain_valid(name: str, former: str, current: str, value: Any) -> None:
    """The former name of a parameter sets it, and hashes contain the former name, so a rename changes no cell."""
    kind = registry.load(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RenamedParameter)
        defense = kind.from_parameters({former: value}, name=name)
    assert defense == kind.from_parameters({current: value}, name=name)
    assert getattr(defense, current) == value
    parameters = MethodSpec.of(defense, name=name).identity["parameters"]
    assert parameters[former] == value
    assert current not in parameters


def test_a_former_name_warns_and_excludes_the_current_one() -> None:
    """The warning names the current parameter; setting both is a usage error."""
    kind = registry.load("pni")
    with pytest.warns(RenamedParameter, match=r"^noise: parameter 'per' is now called 'granularity'$"):
        kind.from_parameters({"per": "layer"}, name="noise")
    with pytest.raises(UserError, match=r"pni.per is the former name of pni.granularity: set only granularity"):
        kind.from_parameters({"per": "layer", "granularity": "layer"}, name="pni")
