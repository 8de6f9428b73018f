"""The names of models and of classes, read without torch."""

from __future__ import annotations

from pathlib import Path

from robustbench_cli.benchmarks.models import registry
from robustbench_cli.core.errors import UserError

__all__ = ["read_class_names", "with_weights"]

_LONGEST_FILE = 10_000_000


def read_class_names(path: Path) -> tuple[str, ...]:
    """The names of classes in a text file, one per line, in the order of their labels.

    Args:
        path: The file, in UTF-8.

    Raises:
        UserError: The file cannot be read, is no text, has an empty line between names, or has less than two names.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LONGEST_FILE + 1)
        lines = [line.strip() for line in content.decode("utf-8-sig").rstrip().splitlines()]
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): give a text file with one class name per line"
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is no text in UTF-8: give a text file with one class name per line") from None
    if len(content) > _LONGEST_FILE:
        raise UserError(f"{path} is larger than {_LONGEST_FILE:,} bytes: give a text file with one class name per line")
    if "" in lines:
        raise UserError(f"{path}: line {lines.index('') + 1} is empty: give one class name per line")
    if len(lines) < 2:
        raise UserError(f"{path} has {len(lines)} names: give one class name per line, at least two")
    return tuple(lines)


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
