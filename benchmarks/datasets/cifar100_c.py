"""CIFAR-100-C, as it was published."""

from __future__ import annotations

from typing import ClassVar

from robustbench_cli.benchmarks.datasets.base.corrupted import CifarC

__all__ = ["Cifar100C"]


class Cifar100C(CifarC):
    """CIFAR-100-C: the 10,000 test images of CIFAR-100 under each of 19 corruptions at 5 severities, read where they are."""

    paper: ClassVar[str] = "D. Hendrycks, T. Dietterich, ICLR 2019, arXiv 1903.12261; doi.org/10.5281/zenodo.3555552"
    classes = 100
