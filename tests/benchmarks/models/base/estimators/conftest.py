"""Small images of random features, whose classes a linear classifier tells apart in part."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_cli.benchmarks.models.base.estimators.names import EstimatorName
from robustbench_cli.benchmarks.models.base.estimators.network import EstimatorNetwork

SHAPE, CLASSES = (1, 3, 3), 4


class Examples(NamedTuple):
    """Images ``(N, 1, 3, 3)`` and labels, and the same for scikit-learn."""

    images: Tensor
    labels: Tensor
    rows: NDArray[np.float64]

    def learned(self, name: str) -> EstimatorNetwork:
        """A network that has learned from them; only the labels below its number of classes."""
        network = EstimatorNetwork(EstimatorName(name), shape=SHAPE, classes=int(self.labels.max()) + 1)
        network.learn(self.images, self.labels, seed=0)
        return network.eval()

    def binary(self) -> Examples:
        """The images with two classes."""
        return self._replace(labels=self.labels % 2)


@pytest.fixture(scope="session")
def examples() -> Examples:
    """120 images of four classes with overlapping centers."""
    random = np.random.default_rng(0)
    labels = np.arange(120) % CLASSES
    rows = (random.random((CLASSES, 9))[labels] * 0.5 + random.random((120, 9)) * 0.5).astype(np.float32)
    return Examples(torch.from_numpy(rows).reshape(-1, *SHAPE), torch.from_numpy(labels), rows.astype(np.float64))
