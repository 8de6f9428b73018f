"""CIFAR-10-C, as it was published."""

from __future__ import annotations

from typing import ClassVar

from robustbench_cli.benchmarks.datasets.base.corrupted import CifarC

__all__ = ["Cifar10C"]


class Cifar10C(CifarC):
    """CIFAR-10-C: the 10,000 test images of CIFAR-10 under each of 19 corruptions at 5 severities, read where they are."""

    paper: ClassVar[str] = "D. Hendrycks, T. Dietterich, ICLR 2019, arXiv 1903.12261; doi.org/10.5281/zenodo.2535967"
    classes = 10
