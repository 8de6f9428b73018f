"""Classical classifiers: scikit-learn's estimators, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from robustbench_cli.benchmarks.models.base.estimators.names import EstimatorName
from robustbench_cli.benchmarks.models.base.estimators.network import EstimatorNetwork
from robustbench_cli.benchmarks.models.base.metadata import ModelMetadata
from robustbench_cli.benchmarks.models.base.source import ModelSource
from robustbench_cli.core.errors import UserError

__all__ = ["ScikitLearn"]


class ScikitLearn(ModelSource):
    """A classifier of scikit-learn: ``sklearn:SVC``, ``sklearn:SVC?C=10``, or a pipeline ``sklearn:PCA,SVC?pca__n_components=20``.

    It is fitted on the pixels of all training images at once. Linear classifiers, support vector machines and
    ``MLPClassifier``, also behind scalers and PCA, have a gradient. Others are attacked by their scores and decisions. Files
    are written and read by skops: needs the extra ``advdef[sklearn]``.
    """

    prefix: ClassVar[str] = "sklearn"
    form: ClassVar[str] = "[TRANSFORMER,...]CLASSIFIER[?PARAMETER=VALUE&...]"

    def __init__(self, argument: str | None = None, *, config: Mapping[str, Any] | None = None) -> None:
        super().__init__(argument, config=config)
        if self.weights is not None:
            raise UserError(f"sklearn:{self.name} has no published weights: leave out '@{self.weights}'")
        self._estimator = EstimatorName(self.name)
        self.name = self._estimator.text

    @property
    def metadata(self) -> ModelMetadata:
        return ModelMetadata()

    def untrained(self, *, shape: tuple[int, int, int], classes: int) -> nn.Module:
        return EstimatorNetwork(self._estimator, shape=shape, classes=classes)

    def pretrained(self, *, shape: tuple[int, int, int]) -> nn.Module:
        raise UserError(f"{self.spec} has no published weights: train it, or give --checkpoint FILE.skops")
