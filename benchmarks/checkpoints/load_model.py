"""Loads a trained model, from a file or by the name of its published weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from robustbench_cli.attacks.base.inputs import checked_keywords
from robustbench_cli.benchmarks.checkpoints.checkpoint import load_checkpoint
from robustbench_cli.benchmarks.models.base.build import Numbers, build_model, is_trained
from robustbench_cli.benchmarks.models.base.names import with_weights
from robustbench_cli.benchmarks.models.base.source import config_for, model_source
from robustbench_cli.benchmarks.weights.file_names import SUFFIXES
from robustbench_cli.core.errors import UserError
from robustbench_cli.core.python_messages import names_keywords

__all__ = ["load_model"]


@checked_keywords
@names_keywords
def load_model(
    name: str | Path,
    *,
    weights: str | None = None,
    model: str | None = None,
    shape: tuple[int, int, int] | None = None,
    classes: int | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    class_names: Sequence[str] | None = None,
) -> nn.Module:
    """Loads a trained model: images ``(N, C, H, W)`` in [0, 1] → logits ``(N, K)``, with the normalization inside.

    For a network without training there is ``build_model``, and ``load_checkpoint`` returns the description of a file too.

    Args:
        name: The file or the folder of a checkpoint; or the name of published weights, such as
            ``torchvision:resnet18@DEFAULT``, ``timm:resnet18.a1_in1k`` or ``hf-hub:OWNER/NAME``.
        weights: The name of the weights, where ``name`` does not say it: ``"DEFAULT"``.
        model: The network of a file that advdef did not write, as ``build_model`` takes it.
        shape: ``(C, H, W)`` of the images; by default the size that published weights were trained for.
        classes: K; by default that of published weights.
        mean: Mean of the normalization; by default the one that comes with the weights.
        std: Standard deviation of the normalization.
        class_names: The names of the classes, for a model of ``open-clip:``.

    Returns:
        The model in ``eval()`` mode, on the CPU.

    Raises:
        UserError: The name has no weights, they cannot be found, downloaded or read, or an argument does not fit them.
    """
    if isinstance(name, Path) or name.endswith(SUFFIXES) or Path(name).is_dir():
        if weights is not None:
            raise UserError(f"weights is {weights!r} and {name} has weights too: give one of them")
        config = config_for(model, class_names=class_names, data_names=None)
        return load_checkpoint(name, model=model, shape=shape, classes=classes, mean=mean, std=std, config=config).model
    if model is not None:
        raise UserError(f"model is {model!r} and {name} is a model: give model only with a file")
    spec = with_weights(name, weights)
    if not is_trained(spec):
        raise UserError(
            f"model {spec} has no weights: name them, as in weights='DEFAULT', or use build_model for fresh ones"
        )
    config = config_for(spec, class_names=class_names, data_names=None)
    return _published(spec, shape=shape, classes=classes, normalization=(mean, std), config=config or None)


def _published(
    spec: str,
    *,
    shape: tuple[int, int, int] | None,
    classes: int | None,
    normalization: tuple[Numbers | None, Numbers | None],
    config: dict[str, Any] | None,
) -> nn.Module:
    """A model with its published weights; the shape and the classes are those of the weights where not given."""
    mean, std = normalization
    source = model_source(spec, config=config)
    if source is not None:
        metadata = source.metadata
        size = metadata.image_size
        shape = shape or (None if size is None else (metadata.channels, *size))
        classes = classes or metadata.classes
    if shape is None or classes is None:
        raise UserError(
            f"model {spec} does not say its {'shape' if shape is None else 'classes'}: give shape and classes"
        )
    if source is not None:
        is_given = mean is not None or std is not None
        metadata.note_assumptions(
            source.spec, shape=shape, classes=classes, normalization_is_given=is_given, size_is_chosen=True
        )
    return build_model(spec, shape=shape, classes=classes, mean=mean, std=std, config=config).eval()
