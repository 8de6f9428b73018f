"""The names of models and of classes, read without torch."""

from __future__ import annotations

from pathlib import Path

from robustbench_cli.benchmarks.models import registry
from robustbench_cli.core.errors import UserError
from robustbench_cli.core.names_file import read_names

__all__ = ["read_class_names", "with_weights"]


def read_class_names(path: Path) -> tuple[str, ...]:
    """The names of classes in a text file, one per line, in the order of their labels.

    Args:
        path: The file, in UTF-8.

    Raises:
        UserError: The file cannot be read, is no text, has an empty line between names, or has fewer than two names.
    """
    return read_names(path, kind="class name", least=2)


def with_weights(spec: str, weights: str | None) -> str:
    """A model's name with the name of its weights, which is how ``--weights`` reaches everything else.

    Args:
        spec: As the user named the model.
        weights: As the user named the weights; ``None`` for none.

    Raises:
        UserError: The model has no published weights, or its name has other weights already.

    >>> with_weights("torchvision:resnet18", "DEFAULT")
    'torchvision:resnet18@DEFAULT'
    """
    if weights is None:
        return spec
    prefix, colon, _ = spec.partition(":")
    if not colon or registry.module_of(prefix) is None:
        raise UserError(
            f"model {spec} has no published weights, and '{weights}' names some: give a checkpoint for a file of weights, or "
            "a model with a source, such as torchvision:resnet18"
        )
    _, at, named = spec.partition("@")
    if at and named != weights:
        raise UserError(f"model {spec} names its weights already, and they are not {weights}: give one of them")
    return spec if at else f"{spec}@{weights}"
