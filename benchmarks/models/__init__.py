"""The models, one file each; a file named ``paper_cnn.py`` is the model ``paper-cnn``.

A model is a class or a function that returns an ``nn.Module``, with no parameters or any of
:data:`~robustbench_cli.benchmarks.models.base.factory.PARAMETERS`; or it is an ``nn.Module``. A source of many
models with published weights is a :class:`~robustbench_cli.benchmarks.models.base.source.ModelSource`.
"""

from robustbench_cli.core.registry import Registry

__all__ = ["registry"]

registry = Registry(
    kind="model",
    package=__name__,
    argument=r"[\w.,-]+",
    own_argument=r"\w[\w.,-]*(=\w[\w.,-]*)*(/\w[\w.,-]*)*(@\w[\w.-]*)?(\?[\w=&%.,-]*)?",
)
