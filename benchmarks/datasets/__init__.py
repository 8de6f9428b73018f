"""The data sets, one file each; a file named ``fashion_mnist.py`` is the data set ``fashion-mnist``."""

from robustbench_cli.attacks.base.registry import Registry

__all__ = ["registry"]

registry = Registry(kind="dataset", package=__name__)
