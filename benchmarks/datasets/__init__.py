"""The data sets, one file each; a file named ``fashion_mnist.py`` is the data set ``fashion-mnist``."""

from robustbench_cli.core.registry import Registry

__all__ = ["DEFAULT_DATASET", "DEFAULT_N", "registry"]

registry = Registry(kind="dataset", package=__name__, argument=".*")

DEFAULT_DATASET = "digits"
"""The default data set: it needs no download."""

DEFAULT_N = 1000
"""The number of test images where the user names none."""
