"""Writes the images that a defended model has learned, as training data for other models."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from torch import Tensor, nn

from robustbench_cli.benchmarks.datasets.base.dataset import Dataset
from robustbench_cli.core.atomic_write import write_atomically

__all__ = ["HasLearnedExamples", "learned_examples_of", "write_learned_data"]


@runtime_checkable
class HasLearnedExamples(Protocol):
    """A module that has learned images with their classes."""

    def learned_examples(self) -> tuple[Tensor, Tensor]:
        """The images ``(M, C, H, W)`` in [0, 1], and their classes ``(M,)``."""
        ...


def learned_examples_of(model: nn.Module) -> HasLearnedExamples | None:
    """The first module in a model that has learned images, or ``None``.

    Args:
        model: A model, possibly inside wrappers.
    """
    return next((module for module in model.modules() if isinstance(module, HasLearnedExamples)), None)


def write_learned_data(learned: HasLearnedExamples, data: Dataset, path: Path) -> int:
    """Writes learned images as the training split of a file for ``--dataset npz:PATH``, with the test split of the data.

    Args:
        learned: See :func:`learned_examples_of`.
        data: The data that they were learned from.
        path: The ``.npz`` file.

    Returns:
        The number of learned images.

    Raises:
        UserError: The file cannot be written.
    """
    images, labels = learned.learned_examples()
    test = data.split("test")
    test_images, test_labels = test.first(len(test))
    file = io.BytesIO()
    np.savez_compressed(
        file,
        train_images=images.cpu().numpy(),
        train_labels=labels.cpu().numpy(),
        images=test_images.numpy(),
        labels=test_labels.numpy(),
        classes=np.asarray(data.classes),
    )
    write_atomically(path, file.getvalue())
    return len(labels)
