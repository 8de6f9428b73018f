"""Support vector machines with a kernel: their decision values, and the votes of all pairs of classes."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robustbench_cli.attacks.base.gradients.bpda import BPDALayer
from robustbench_cli.benchmarks.models.base.estimators.linear import fixed_linear, with_two_rows

__all__ = ["kernel_svm_layers"]


class Kernel(nn.Module):
    """The kernel between an image and each support vector.

    Args:
        kind: ``rbf``, ``poly`` or ``sigmoid``, as scikit-learn defines them.
        vectors: ``(S, D)``, the support vectors.
        gamma: The factor of the distance or of the inner product.
        coef0: The constant of ``poly`` and ``sigmoid``.
        degree: The power of ``poly``.
    """

    vectors: Tensor

    def __init__(self, kind: str, vectors: Any, *, gamma: float, coef0: float, degree: int) -> None:
        super().__init__()
        self.kind, self.gamma, self.coef0, self.degree = kind, gamma, coef0, degree
        self.register_buffer("vectors", torch.tensor(vectors, dtype=torch.float32), persistent=False)

    def forward(self, rows: Tensor) -> Tensor:
        """Rows ``(N, D)`` to kernel values ``(N, S)``."""
        products = rows @ self.vectors.T
        if self.kind == "rbf":
            squares = rows.square().sum(1, keepdim=True) + self.vectors.square().sum(1)
            return torch.exp(-self.gamma * (squares - 2 * products).clamp_min(0))
        scaled = self.gamma * products + self.coef0
        return scaled.tanh() if self.kind == "sigmoid" else scaled.pow(self.degree)


class Votes(BPDALayer):
    """The votes of all pairs of classes; a tie is settled as scikit-learn's ``predict`` settles it.

    A logit is the number of votes, plus a share below 1/2 by the sum of the pairs' decision values: scikit-learn's
    ``decision_function``. Votes have no slope; attacks follow soft ones.

    Args:
        classes: K.
        break_ties: Whether the decision values settle ties. If not, the first class wins.
    """

    def __init__(self, classes: int, *, break_ties: bool) -> None:
        super().__init__()
        self.break_ties = break_ties
        signs = np.zeros((classes * (classes - 1) // 2, classes))
        for number, (first, second) in enumerate(itertools.combinations(range(classes), 2)):
            signs[number, first], signs[number, second] = 1, -1
        self.register_buffer("signs", torch.from_numpy(signs).float(), persistent=False)

    signs: Tensor

    def exact(self, values: Tensor) -> Tensor:
        """Decision values of the pairs ``(N, P)``, above 0 for the first class, to logits ``(N, K)``."""
        votes, confidence = self._total(values.sign()), values @ self.signs
        logits = votes + confidence / (3 * (confidence.abs() + 1))
        if self.break_ties:
            return logits
        ordered = votes - torch.arange(votes.shape[1], device=votes.device) / (2 * votes.shape[1])
        winner = ordered.argmax(1, keepdim=True)
        highest = logits.amax(1, keepdim=True)
        above = torch.where(logits.gather(1, winner) < highest, highest + 1e-3, highest)
        return logits.scatter(1, winner, above)

    def surrogate(self, values: Tensor) -> Tensor:
        """Decision values ``(N, P)`` to soft votes ``(N, K)``."""
        # Training drives a pair's decision value beyond 1, where a soft vote is nearly a whole one. Its slope vanishes nowhere.
        return self._total(values / (values.abs() + 0.25))

    def _total(self, votes: Tensor) -> Tensor:
        """Votes ``(N, P)`` from -1 for the second class to 1 for the first, to the numbers of votes ``(N, K)``."""
        return (votes @ self.signs + self.signs.shape[1] - 1) / 2


def kernel_svm_layers(svm: Any) -> list[nn.Module] | None:
    """The layers of a support vector machine; ``None`` for a kernel that is the user's own.

    Args:
        svm: A fitted ``SVC`` or ``NuSVC``.
    """
    if svm.kernel not in {"linear", "rbf", "poly", "sigmoid"} or not isinstance(svm.support_vectors_, np.ndarray):
        return None
    classes = len(svm.classes_)
    pairs = svm.dual_coef_ if classes == 2 else _coefficients_of_pairs(svm)
    kernel = Kernel(
        svm.kernel,
        svm.support_vectors_,
        gamma=float(svm._gamma),  # noqa: SLF001 - "scale" has no other public value
        coef0=svm.coef0,
        degree=svm.degree,
    )
    # A linear kernel leaves one weight per pixel.
    layers: list[nn.Module] = [] if svm.kernel == "linear" else [kernel]
    weight = pairs @ svm.support_vectors_ if svm.kernel == "linear" else pairs
    if classes == 2:
        return [*layers, fixed_linear(*with_two_rows(weight, svm.intercept_))]
    ties = bool(svm.break_ties) and svm.decision_function_shape == "ovr"
    return [*layers, fixed_linear(weight, svm.intercept_), Votes(classes, break_ties=ties)]


def _coefficients_of_pairs(svm: Any) -> NDArray[np.float64]:
    """``(P, S)``: the coefficient of each support vector in the decision value of each pair of classes.

    libsvm keeps ``(K - 1, S)``: for a vector of one class those with each of the other classes, in order.
    """
    ends = np.cumsum(svm.n_support_)
    groups = [slice(end - count, end) for end, count in zip(ends, svm.n_support_, strict=True)]
    pairs = list(itertools.combinations(range(len(svm.classes_)), 2))
    weights = np.zeros((len(pairs), len(svm.support_vectors_)))
    for row, (first, second) in zip(weights, pairs, strict=True):
        row[groups[first]] = svm.dual_coef_[second - 1, groups[first]]
        row[groups[second]] = svm.dual_coef_[first, groups[second]]
    return weights
