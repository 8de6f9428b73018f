"""An estimator of scikit-learn as a network: images to logits."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robustbench_cli.attacks.base.models.passes import NoGradientError
from robustbench_cli.benchmarks.models.base.estimators.layers import layers_of
from robustbench_cli.benchmarks.models.base.estimators.names import EstimatorName, name_of
from robustbench_cli.benchmarks.weights.skops_file import ESTIMATOR, read_estimator, write_estimator
from robustbench_cli.core.errors import UserError, one_line
from robustbench_cli.defenses.base.surgery.resized import ResizedLayer
from robustbench_cli.defenses.base.training.at_once import LearnsAtOnce

__all__ = ["EstimatorNetwork"]

_SMALLEST = 1e-6
"""What a probability of 0 counts as, in a vote of trees that gives a class none, unless a smaller one is there."""


class EstimatorNetwork(ResizedLayer, LearnsAtOnce):
    """A classifier of scikit-learn. The class with the largest logit is always the one that its ``predict`` gives.

    The logits are, in this order, those of :func:`~.layers.layers_of`, which have a gradient; the ``decision_function``; the
    logarithms of ``predict_proba``; or 1 for the predicted class and 0 for the others. They are all 0 before it is fitted.

    Args:
        name: Builds the estimator that is fitted.
        shape: ``(C, H, W)`` of the images. The features are their pixels in this order.
        classes: K. The labels are 0 to K - 1.

    Attributes:
        estimator: The fitted estimator as the bytes of a skops file, ``(B,)`` uint8; empty before it is fitted. It is the
            whole state dict.
        fitted: The fitted estimator; ``None`` before.
        layers: It as layers of torch; ``None`` if it has no gradient.
    """

    estimator: Tensor

    def __init__(self, name: EstimatorName, *, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.name, self.features, self.classes = name, math.prod(shape), classes
        self.fitted: Any = None
        self.layers: nn.Sequential | None = None
        self.register_buffer(ESTIMATOR, torch.zeros(0, dtype=torch.uint8))

    @property
    def has_learned(self) -> bool:
        return self.fitted is not None

    def learn(self, images: Tensor, labels: Tensor, *, seed: int) -> None:
        """Fits the estimator on all examples at once; see :class:`~robustbench_cli.defenses.base.training.at_once.LearnsAtOnce`.

        Args:
            images: ``(N, C, H, W)``.
            labels: ``(N,)``.
            seed: Its ``random_state``, unless its name has one.

        Raises:
            UserError: The estimator refuses a parameter or the examples.
        """
        estimator = self.name.build(seed=seed % 2**32)
        try:
            with warnings.catch_warnings():
                # Of a solver that has not converged: its accuracy shows it.
                warnings.simplefilter("ignore")
                estimator.fit(_rows(images), labels.cpu().numpy())
        except Exception as error:
            raise UserError(f"sklearn:{self.name.text} cannot be fitted: {one_line(error)}") from error
        self.resize({ESTIMATOR: write_estimator(estimator)})

    def resize(self, state: Mapping[str, Tensor]) -> None:
        """Takes the estimator from a state dict: its parts have sizes of their own.

        Args:
            state: May lack the estimator.

        Raises:
            UserError: It is no skops file that is safe to read, or its estimator is of another kind, for other images, or
                incomplete.
        """
        data = state.get(ESTIMATOR)
        if data is None or torch.equal(data.to(self.estimator), self.estimator):
            return
        if not data.numel():
            raise UserError(f"{ESTIMATOR} is not fitted: fit it first")
        try:
            fitted = read_estimator(data)
            self._require_fit(fitted)
            layers = layers_of(fitted)
        except UserError as error:
            raise UserError(f"{ESTIMATOR} {error}") from None
        except Exception as error:  # noqa: BLE001 - a file may give an estimator any attributes
            raise UserError(f"{ESTIMATOR} lacks what fit would give it ({one_line(error)}): fit it again") from None
        self.fitted, self.layers = fitted, None if layers is None else layers.to(self.estimator.device)
        self.estimator = data.detach().clone().to(self.estimator.device)

    def _require_fit(self, fitted: Any) -> None:
        """Checks that an estimator is a classifier for the images and the classes.

        Raises:
            UserError: It is not. The message continues a sentence about it.
        """
        from sklearn.base import is_classifier

        kind, expected = name_of(fitted), ",".join(self.name.steps)
        if not is_classifier(fitted):
            raise UserError(f"is a {kind}, which predicts no classes: give a classifier")
        if kind != expected:
            raise UserError(f"is a {kind}, not a {expected}: give --model sklearn:{kind}, or leave it out")
        features, classes = getattr(fitted, "n_features_in_", None), np.asarray(getattr(fitted, "classes_", ()))
        if features != self.features:
            raise UserError(
                f"takes {features} features, and an image has {self.features} pixels: fit it on such images"
            )
        if not np.array_equal(classes, np.arange(self.classes)):
            shown = ", ".join(map(str, classes.ravel()[:3]))
            raise UserError(
                f"has the {len(classes)} classes {shown:.80}, ..., and the data 0 to {self.classes - 1}: fit it on such labels"
            )

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        """Takes the estimator before torch compares the sizes."""
        own = state_dict.get(prefix + ESTIMATOR)
        if own is not None:
            self.resize({ESTIMATOR: own})
        super()._load_from_state_dict(state_dict, prefix, *args)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` to logits ``(N, K)``.

        Raises:
            NoGradientError: The images need a gradient, and the estimator has none.
        """
        if self.layers is not None:
            logits: Tensor = self.layers(images)
            return logits
        if not (self.has_learned and len(images)):
            return images.new_zeros(len(images), self.classes)
        if images.requires_grad and torch.is_grad_enabled():
            raise NoGradientError(
                f"sklearn:{self.name.text} has no gradient: give an attack on its scores (square, nes, spsa) or on its decisions "
                "(boundary, geoda, hopskipjump, rays, surfree)"
            )
        with warnings.catch_warnings():
            # It may have been fitted on a table with names for the pixels.
            warnings.simplefilter("ignore")
            return torch.from_numpy(_logits(self.fitted, _rows(images))).to(images)


def _rows(images: Tensor) -> NDArray[np.float64]:
    """``(N, C, H, W)`` as the rows ``(N, D)`` that scikit-learn takes."""
    return images.detach().flatten(1).double().cpu().numpy()


def _log_probabilities(fitted: Any, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """The logarithms ``(N, K)`` of the probabilities; those of a probability 0 are finite, and no larger than the others."""
    # Naive Bayes computes logarithms. Nearly all of its probabilities round to 0 or 1, from which no attack could go on.
    has_logarithms = hasattr(fitted, "predict_log_proba")
    scores = fitted.predict_log_proba(rows) if has_logarithms else np.log(fitted.predict_proba(rows))
    finite = np.isfinite(scores)
    lowest = scores.min(1, keepdims=True, where=finite, initial=math.log(_SMALLEST))
    logarithms: NDArray[np.float64] = np.where(finite, scores, lowest)
    return logarithms


def _logits(fitted: Any, rows: NDArray[np.float64]) -> NDArray[np.float32]:
    """The logits ``(N, K)`` of a fitted estimator; see :class:`EstimatorNetwork`."""
    predicted = np.asarray(fitted.predict(rows), dtype=np.int64)
    everywhere = np.arange(len(rows))
    if hasattr(fitted, "decision_function"):
        values = np.asarray(fitted.decision_function(rows))
        scores = np.stack([np.zeros(len(rows)), values], 1) if values.ndim == 1 else values
    elif hasattr(fitted, "predict_proba"):
        scores = _log_probabilities(fitted, rows)
    else:
        scores = np.zeros((len(rows), len(fitted.classes_)))
        scores[everywhere, predicted] = 1
    logits = scores.astype(np.float32)
    # Ties, and rules of predict that its scores do not follow.
    contradicted = logits.argmax(1) != predicted
    highest = np.nextafter(logits.max(1), np.float32(np.inf))
    logits[everywhere[contradicted], predicted[contradicted]] = highest[contradicted]
    return logits
