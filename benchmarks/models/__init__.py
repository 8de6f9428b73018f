"""The models, one file each; a file named ``paper_cnn.py`` is the model ``paper-cnn``.

A model is any callable ``(*, shape, classes)`` that returns an ``nn.Module``.
"""

from robustbench_cli.attacks.base.registry import Registry

__all__ = ["registry"]

registry = Registry(kind="model", package=__name__, not_named=frozenset({"base"}), argument=r"[\w.-]+")
