"""The models, one file each; a file named ``paper_cnn.py`` is the model ``paper-cnn``.

A model is a class or a function that makes an ``nn.Module`` from no parameters or any of those in
:data:`~robustbench_cli.benchmarks.models.base.factory.PARAMETERS`; or an ``nn.Module`` itself.
"""

from robustbench_cli.core.registry import Registry

__all__ = ["registry"]

registry = Registry(kind="model", package=__name__, argument=r"[\w.-]+")
