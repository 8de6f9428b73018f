"""The type of a parameter that is a model: the file of a checkpoint as data, the loaded model in use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import PlainSerializer, PlainValidator
from torch import nn

from robustbench_cli.core.errors import UserError
from robustbench_cli.core.settings import Settings

__all__ = ["Ensemble", "Surrogate", "ensemble_parameters", "surrogate_parameters"]


def _file_or_model(value: Any) -> Path | nn.Module:
    if isinstance(value, nn.Module | Path):
        return value
    if not isinstance(value, str):
        raise UserError("give the file of a checkpoint")
    return Path(value)


def _file(value: Path | nn.Module) -> str:
    if isinstance(value, nn.Module):
        raise UserError(f"a model in memory, {type(value).__name__}, has no file")
    return str(value)


Surrogate = Annotated[
    Path | nn.Module, PlainValidator(_file_or_model), PlainSerializer(_file, return_type=str, when_used="json")
]
"""The type of a field that takes another model, images ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``.

On the command line, the value is the file of a checkpoint; the caller that builds the method replaces the file by its
model. In Python, the value is the model itself.
"""

Ensemble = tuple[Surrogate, ...]
"""The type of a field that takes several other models, each as :data:`Surrogate` does."""


def ensemble_parameters(kind: type[Settings]) -> tuple[str, ...]:
    """The names of a method's parameters that are several models, of type :data:`Ensemble`."""
    return tuple(name for name, field in kind.model_fields.items() if field.annotation == Ensemble)


def surrogate_parameters(kind: type[Settings]) -> tuple[str, ...]:
    """The names of a method's parameters that are models, of type ``Surrogate`` or ``Surrogate | None``."""
    return tuple(
        name
        for name, field in kind.model_fields.items()
        if field.annotation == Path | nn.Module
        or (field.annotation != Ensemble and Surrogate in get_args(field.annotation))
    )
