"""Fitted estimators of scikit-learn as layers of torch that compute the same and have a gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_cli.benchmarks.models.base.estimators.kernel_svm import kernel_svm_layers
from robustbench_cli.benchmarks.models.base.estimators.linear import fixed_linear, with_two_rows
from robustbench_cli.benchmarks.models.base.estimators.names import steps_of

__all__ = ["layers_of"]

_ACTIVATIONS = {"identity": nn.Identity, "logistic": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU}

_SMALLEST_VARIANCE = 1e-8
"""The smallest variance of a component that is whitened in float32, relative to the largest."""


class ScaleShift(nn.Module):
    """``values * scale + shift``, feature by feature.

    Args:
        scale: ``(D,)``.
        shift: ``(D,)``.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Any, shift: Any) -> None:
        super().__init__()
        for name, values in (("scale", scale), ("shift", shift)):
            self.register_buffer(name, torch.tensor(np.asarray(values), dtype=torch.float32), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """``(N, D)`` to ``(N, D)``."""
        return values * self.scale + self.shift


def layers_of(estimator: Any) -> nn.Sequential | None:
    """The layers that compute an estimator's decision values; ``None`` for an estimator without a gradient.

    These have one: linear classifiers, support vector machines, ``MLPClassifier``, and pipelines of them with scalers and PCA.

    Args:
        estimator: A fitted classifier, or a pipeline that ends with one.

    Returns:
        Images ``(N, C, H, W)`` to logits ``(N, K)``, whose ``argmax`` is the class that the estimator predicts.
    """
    *transformers, classifier = steps_of(estimator)
    parts = [*map(_transformer_layers, transformers), _classifier_layers(classifier)]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    return nn.Sequential(nn.Flatten(), *(layer for part in known for layer in part))


def _transformer_layers(transformer: Any) -> list[nn.Module] | None:
    """The layers of a step before the classifier; ``None`` where there are none."""
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, StandardScaler

    if isinstance(transformer, StandardScaler):
        shape = (transformer.n_features_in_,)
        scale = np.ones(shape) if transformer.scale_ is None else transformer.scale_
        mean = np.zeros(shape) if not transformer.with_mean else transformer.mean_
        return [ScaleShift(1 / scale, -mean / scale)]
    if isinstance(transformer, MinMaxScaler) and not transformer.clip:
        return [ScaleShift(transformer.scale_, transformer.min_)]
    if isinstance(transformer, MaxAbsScaler) and not getattr(transformer, "clip", False):
        return [ScaleShift(1 / transformer.scale_, np.zeros_like(transformer.scale_))]
    if isinstance(transformer, PCA):
        weight, variances = transformer.components_, transformer.explained_variance_
        if transformer.whiten:
            # In float32, rounding would fill the components that have next to no variance.
            if not variances.min() >= _SMALLEST_VARIANCE * variances.max():
                return None
            weight = weight / np.sqrt(variances)[:, None]
        return [fixed_linear(weight, -weight @ transformer.mean_)]
    return None


def _classifier_layers(classifier: Any) -> list[nn.Module] | None:
    """The layers of a classifier; ``None`` where there are none."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.linear_model import LogisticRegression, Perceptron, RidgeClassifier, RidgeClassifierCV, SGDClassifier
    from sklearn.neural_network import MLPClassifier
    from sklearn.svm import SVC, LinearSVC, NuSVC

    linear = (LogisticRegression, LinearSVC, SGDClassifier, Perceptron, RidgeClassifier, RidgeClassifierCV)
    if isinstance(classifier, (*linear, LinearDiscriminantAnalysis)):
        # Two classes without an intercept leave a vector and a number.
        weight = np.atleast_2d(classifier.coef_)
        return [fixed_linear(*with_two_rows(weight, np.broadcast_to(classifier.intercept_, len(weight))))]
    if isinstance(classifier, SVC | NuSVC):
        return kernel_svm_layers(classifier)
    if isinstance(classifier, MLPClassifier):
        *hidden, last = zip(classifier.coefs_, classifier.intercepts_, strict=True)
        layers: list[nn.Module] = []
        for weight, bias in hidden:
            layers += [fixed_linear(weight.T, bias), _ACTIVATIONS[classifier.activation]()]
        return [*layers, fixed_linear(*with_two_rows(last[0].T, last[1]))]
    return None
