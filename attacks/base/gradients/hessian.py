"""Products of directions with the Hessian of a loss, through a gradient source."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from robustbench_cli.attacks.base.gradients.query_results import GradientGraph
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.losses import Loss
from robustbench_cli.attacks.base.models.precision import gradient_precision

__all__ = ["HessianProducts"]


class HessianProducts:
    """Multiplies directions by the Hessian of the mean loss over the draws of the source's latest query.

    A product is the gradient of ``gradient^T direction``. Where one pass holds all images and draws, the graph of the gradient
    is kept from product to product. Otherwise it is computed again each time: the graphs of several passes would fill the memory, and
    draws that are bound to images end with their pass.

    A graph costs a forward and a backward pass, and so does a product, which goes through both of them. On a CPU, a product takes
    as long as three forward passes (measured on the networks ``small-cnn`` and ``paper-cnn``).

    Source: Pearlmutter: Fast Exact Multiplication by the Hessian. Neural Computation 6(1), 1994.

    Args:
        source: Its latest query was a gradient at these images.
        images: ``(N, C, H, W)``.
        labels: ``(N,)``.
        loss: The loss of one draw.

    Raises:
        UserError: A layer of the model has no second derivative.
    """

    def __init__(self, source: GradientSource, images: Tensor, labels: Tensor, loss: Loss) -> None:
        source.require_second_derivative(images)
        self._source, self._images = source, images
        self._open_graphs = partial(source.gradient_graphs, images, labels, loss, query=source.queries)
        self._kept: list[GradientGraph] = []

    def __call__(self, directions: Tensor) -> Tensor:
        """The products ``(N, C, H, W)`` for directions ``(N, C, H, W)``. Entries that are not finite are set to 0."""
        source = self._source
        with gradient_precision(source.precision, directions.device):
            products = source.size.retry_smaller(len(directions) * source.cost, partial(self._products, directions))
        source.forwards += source.cost * len(directions)
        source.backwards += source.cost * len(directions)
        return products.nan_to_num(0, 0, 0)

    def _products(self, directions: Tensor) -> Tensor:
        if not self._source.takes_one_pass(self._images):
            self._kept.clear()
        elif not self._kept:
            self._kept = [*self._open_graphs()]
        total = torch.zeros_like(directions)
        for graph in self._kept or self._open_graphs():
            # Where the model and the loss are linear, the gradient is a constant.
            if graph.gradient.requires_grad:
                (product,) = torch.autograd.grad(
                    graph.gradient, graph.leaf, directions[graph.part], retain_graph=True, materialize_grads=True
                )
                total[graph.part] += product
        return total
