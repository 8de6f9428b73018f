"""A model whose last layer is replaced by a linear classifier of two classes for each image: the binarization test."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import preserve_generators

__all__ = ["BinarizedModel", "Features", "Readout", "fit_readout", "last_layer"]

_NORMS = {"linf": torch.inf, "l2": 2.0, "l1": 1.0}

_SHRINKAGE = 0.1
"""The part of the mean variance that is added to the variance in each direction; few points do not show how large the small variances are."""

_SCALE = 5.0
"""The logit of a mean inner point. The cross-entropy does not vanish there."""


_PASSES = 4
"""The passes in which the last layer must be the same."""


def last_layer(model: nn.Module, images: Tensor) -> str | None:
    """The name of the linear layer whose output is the output of the model in several passes.

    Args:
        model: The model.
        images: ``(N, C, H, W)``, a few. A model that selects the layer of each row at random, such as HRS, takes several
            layers for these.

    Returns:
        ``None`` if there is none, or if its input has no graph to the images.
    """
    with preserve_generators():
        names = {_last_layer_of_a_pass(model, images) for _ in range(_PASSES)}
    return names.pop() if len(names) == 1 else None


def _last_layer_of_a_pass(model: nn.Module, images: Tensor) -> str | None:
    """See :func:`last_layer`."""
    passes: dict[str, tuple[Tensor, Tensor]] = {}
    handles = [
        module.register_forward_hook(lambda _, args, output, name=name: passes.update({name: (args[0], output)}))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        with torch.enable_grad():
            leaf = images.clone().requires_grad_()
            logits = model(leaf)
    finally:
        for handle in handles:
            handle.remove()
    for name, (features, output) in reversed(passes.items()):
        if features.ndim == 2 and torch.equal(output, logits):
            # The parameters may have a graph where the images have none.
            followed = features.requires_grad and torch.autograd.grad(features.sum(), leaf, allow_unused=True)[0]
            return name if isinstance(followed, Tensor) else None
    return None


class Features(nn.Module):
    """The input of the last layer, or the logits if there is no linear last layer.

    Args:
        model: Images to logits.
        layer: See :func:`last_layer`.
    """

    def __init__(self, model: nn.Module, layer: str | None) -> None:
        super().__init__()
        self.model = model
        self.layer = layer

    def forward(self, images: Tensor) -> Tensor:
        """``(N, d)`` for images ``(N, C, H, W)``."""
        if self.layer is None:
            return cast("Tensor", self.model(images))
        inputs: list[Tensor] = []
        # A hook that stays would keep the features of the latest pass in copies of the model.
        handle = self.model.get_submodule(self.layer).register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
        try:
            self.model(images)
        finally:
            handle.remove()
        return inputs[-1]


class Readout(NamedTuple):
    """A linear classifier: class 1 where ``(features - center) @ weights`` is above the threshold.

    Attributes:
        center: ``(d,)``.
        weights: ``(d,)``, scaled so that inner points are 5 below the threshold on average.
        threshold: The threshold.
        separates: Whether all inner points are of class 0 and the boundary point is of class 1.
    """

    center: Tensor
    weights: Tensor
    threshold: float
    separates: bool


def fit_readout(inner: Tensor, boundary: Tensor, *, closeness: float) -> Readout:
    """Fits the linear classifier that tells the boundary point from the inner points.

    It is Fisher's linear discriminant with a shrunk covariance, which also takes the random draws of the features into account.

    Args:
        inner: ``(n, d)``, the features of the inner points.
        boundary: ``(d,)``, the features of the boundary point.
        closeness: Where the threshold is between the last inner point, 0, and the boundary point, 1.

    >>> inner = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0]])
    >>> readout = fit_readout(inner, torch.tensor([3.0, 0.0]), closeness=0.5)
    >>> readout.separates, (readout.threshold / readout.weights).tolist()[0]
    (True, 2.0)
    """
    points, center = inner.double(), inner.double().mean(0)
    spread, direction = points - center, boundary.double() - center
    _, sizes, axes = torch.linalg.svd(spread, full_matrices=False)
    variances = sizes.square() / len(points)
    shrinkage = _SHRINKAGE * float(variances.sum()) / min(points.shape) + torch.finfo(torch.float64).tiny
    along = axes @ direction
    weights = axes.T @ (along / (variances + shrinkage)) + (direction - axes.T @ along) / shrinkage
    last, height = float((spread @ weights).max()), float(direction @ weights)
    threshold = last + closeness * (height - last)
    separates = height > last and threshold > 0
    scale = _SCALE / threshold if separates else 1.0
    weights = (scale * weights).to(inner.dtype)
    return Readout(center.to(inner.dtype), weights, scale * threshold, separates and bool(weights.isfinite().all()))


class BinarizedModel(nn.Module):
    """The features of a model with a classifier of two classes for each image.

    A row belongs to the nearest of the images; they are more than twice the radius apart.

    Args:
        features: Images to features.
        images: ``(n, C, H, W)``, the centers.
        norm: The norm of the distances.
        readouts: The classifier of each image.
    """

    centers: Tensor
    means: Tensor
    weights: Tensor
    thresholds: Tensor

    def __init__(self, features: nn.Module, images: Tensor, norm: Norm, readouts: list[Readout]) -> None:
        super().__init__()
        self.features = features
        self.order = _NORMS[norm]
        self.register_buffer("centers", images.flatten(1))
        self.register_buffer("means", torch.stack([readout.center for readout in readouts]))
        self.register_buffer("weights", torch.stack([readout.weights for readout in readouts]))
        self.register_buffer("thresholds", self.means.new_tensor([readout.threshold for readout in readouts]))

    def forward(self, images: Tensor) -> Tensor:
        """``(N, 2)``: class 1 beyond the threshold."""
        number = torch.cdist(images.detach().flatten(1), self.centers, p=self.order).argmin(1)
        offsets = self.features(images) - self.means[number]
        score = (offsets * self.weights[number]).sum(1) - self.thresholds[number]
        return torch.stack([-score / 2, score / 2], 1)
