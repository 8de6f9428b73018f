from __future__ import annotations

import pytest

from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.benchmarks.suites.config import SuiteConfig
from robustbench_cli.benchmarks.suites.load import read_suite
from robustbench_cli.benchmarks.suites.names import BUILTIN
from robustbench_cli.benchmarks.suites.radii import unusual_radius


@pytest.mark.parametrize(
    ("radii", "norm", "message"),
    [
        (["8/25"], "linf", "eps 8/25 is unusually large in linf: was 8/255 meant?"),
        (["8/255", "8/25", "8/2"], "linf", "eps 8/25 is unusually large in linf: was 8/255 meant?"),
        (["0.5"], "linf", "eps 0.5 is unusually large in linf: was 8/255 or the norm l2 meant?"),
        (["8/255"], "l2", "eps 8/255 is unusually small in l2: was 0.5 or the norm linf meant?"),
        (["128"], "l2", "eps 128 is unusually large in l2: was 128/255 meant?"),
        (["0.03"], "l1", "eps 0.03 is unusually small in l1: was 12 or the norm linf meant?"),
        (["0.5"], "l0", "eps 0.5 is unusually small in l0: was 24 meant?"),
        (["0"], "linf", "eps is 0: nothing is attacked, and the robust accuracy is the clean one"),
    ],
)
def test_a_slip_and_what_was_meant(radii: list[str], norm: Norm, message: str) -> None:
    """The first radius that is no usual one in the norm."""
    assert unusual_radius(SuiteConfig(eps=radii), [norm]) == message


@pytest.mark.parametrize(
    ("radii", "norm"),
    [
        (["0", "1/255", "8/255", "0.3"], "linf"),  # a curve; MNIST
        (
            ["36/255", "128/255", "3", "10"],
            "l2",
        ),  # certificates; CIFAR-10; ImageNet; the same per pixel as 8/255 in linf
        (["1.5", "12", "255/255", "60"], "l1"),
        (["1", "24", "100"], "l0"),
    ],
)
def test_radii_of_the_literature(radii: list[str], norm: Norm) -> None:
    assert unusual_radius(SuiteConfig(eps=radii), [norm]) == ""


def test_the_suites_of_the_project_have_usual_radii() -> None:
    """In the norms that they name, and in linf, where they name none."""
    for file in BUILTIN.glob("*.yaml"):
        config = read_suite(file.stem)
        assert unusual_radius(config, config.norm or ("linf",)) == ""
