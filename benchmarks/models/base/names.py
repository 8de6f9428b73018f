"""The names of models, read without torch."""

from __future__ import annotations

from robustbench_cli.benchmarks.models import registry
from robustbench_cli.core.errors import UserError

__all__ = ["with_weights"]


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
