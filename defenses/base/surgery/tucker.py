"""A convolution that becomes three smaller ones: 1 x 1, K x K between fewer channels, 1 x 1 (Tucker-2)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.surgery.resized import ResizedLayer

__all__ = ["TuckerConvolution", "mode_bases", "truncated"]


class TuckerConvolution(ResizedLayer):
    """A convolution that is first trained towards a low Tucker-2 rank, and then replaced by three convolutions.

    Weights ``(O, I, K, K)`` of rank ``(r, s)`` are ``U core V``: a 1 x 1 convolution to s channels, one with the core's
    weights ``(r, s, K, K)``, and a 1 x 1 convolution to O channels. Until :meth:`compress`, the layer is the given convolution
    with the two variables of ADMM, which a training stores and resumes.

    Args:
        layer: A convolution with one group.

    Attributes:
        target: The weights of low rank that the training approaches ``(O, I, K, K)``; ``None`` after :meth:`compress`.
        dual: The sum of the distances so far ``(O, I, K, K)``; ``None`` after :meth:`compress`.
    """

    target: Tensor | None
    dual: Tensor | None

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.layers: nn.Conv2d | nn.Sequential = copy.deepcopy(layer)
        self.register_buffer("target", layer.weight.detach().clone())
        self.register_buffer("dual", torch.zeros_like(layer.weight))

    def forward(self, maps: Tensor) -> Tensor:
        """The outputs ``(N, O, H', W')`` of maps ``(N, I, H, W)``."""
        outputs: Tensor = self.layers(maps)
        return outputs

    @property
    def dense(self) -> nn.Conv2d | None:
        """The convolution; ``None`` after :meth:`compress`."""
        return self.layers if isinstance(self.layers, nn.Conv2d) else None

    @property
    def penalty(self) -> Tensor:
        """ADMM's ``||W - target + dual||^2``, with a graph ``()``."""
        assert self.dense is not None
        assert self.target is not None
        assert self.dual is not None
        return (self.dense.weight - self.target + self.dual).square().sum()

    @property
    def energies(self) -> tuple[Tensor, Tensor]:
        """The squared singular values of ``W + dual`` by its output channels ``(O,)`` and by its input channels ``(I,)``."""
        (outputs, _), (inputs, _) = mode_bases(self._shifted())
        return outputs, inputs

    @torch.no_grad()
    def project(self, ranks: tuple[int, int]) -> None:
        """A step of ADMM: the target becomes ``W + dual`` at given ranks, and the dual gets the distance of W from it."""
        assert self.dense is not None
        assert self.target is not None
        assert self.dual is not None
        left, core, right = truncated(self._shifted(), ranks)
        self.target.copy_(torch.einsum("or,rskl,is->oikl", left, core, right))
        self.dual.add_(self.dense.weight - self.target)

    @torch.no_grad()
    def compress(self, ranks: tuple[int, int]) -> None:
        """Replaces the convolution by three, from its weights at given ranks."""
        assert self.dense is not None
        left, core, right = truncated(self.dense.weight, ranks)
        bias = self.dense.bias
        self._build(ranks)
        state = {"0.weight": right.T[:, :, None, None], "1.weight": core, "2.weight": left[:, :, None, None]}
        self.layers.load_state_dict(state if bias is None else state | {"2.bias": bias})

    def resize(self, state: Mapping[str, Tensor]) -> None:
        """Takes the ranks from a state dict, before it is loaded; nothing if it has the given convolution.

        Raises:
            UserError: The state dict has another core than this convolution can have.
        """
        core = state.get("layers.1.weight")
        if core is None or self.dense is None:
            return
        outputs, inputs, *kernel = self.dense.weight.shape
        if (
            core.dim() != 4
            or [*core.shape[2:]] != kernel
            or not (0 < core.shape[0] <= outputs and 0 < core.shape[1] <= inputs)
        ):
            raise UserError(
                f"the core is to have a shape of at most {tuple(self.dense.weight.shape)}, not {tuple(core.shape)}"
            )
        self._build((core.shape[0], core.shape[1]))

    def _shifted(self) -> Tensor:
        assert self.dense is not None
        assert self.dual is not None
        return self.dense.weight.detach() + self.dual

    def _build(self, ranks: tuple[int, int]) -> None:
        """Makes the three convolutions, with any weights, and drops what is needed in training."""
        dense = self.dense
        assert dense is not None
        made: dict[str, Any] = {"device": dense.weight.device, "dtype": dense.weight.dtype}
        options: dict[str, Any] = {
            name: getattr(dense, name) for name in ("kernel_size", "stride", "padding", "dilation", "padding_mode")
        }
        self.layers = nn.Sequential(
            nn.Conv2d(dense.in_channels, ranks[1], 1, bias=False, **made),
            nn.Conv2d(ranks[1], ranks[0], bias=False, **options, **made),
            nn.Conv2d(ranks[0], dense.out_channels, 1, bias=dense.bias is not None, **made),
        ).train(self.training)
        self.target = self.dual = None


def mode_bases(weight: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The squared singular values and the left singular vectors of the two unfoldings of a convolution's weights.

    Args:
        weight: ``(O, I, K, K)``.

    Returns:
        For the output channels values ``(O,)``, largest first, and vectors ``(O, O)`` as columns; likewise for the input
        channels.
    """

    def basis(unfolded: Tensor) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(unfolded @ unfolded.T)
        return values.flip(0).clamp_min(0), vectors.flip(1)

    return basis(weight.flatten(1)), basis(weight.transpose(0, 1).flatten(1))


def truncated(weight: Tensor, ranks: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """The truncated higher-order singular value decomposition of a convolution's weights in its channels.

    Source: De Lathauwer, De Moor, Vandewalle: A Multilinear Singular Value Decomposition. SIAM Journal on Matrix Analysis
    and Applications 2000.

    Args:
        weight: ``(O, I, K, K)``.
        ranks: r and s.

    Returns:
        ``(O, r)`` and ``(I, s)`` with orthonormal columns, around the core ``(r, s, K, K)``.
    """
    (_, outputs), (_, inputs) = mode_bases(weight)
    left, right = outputs[:, : ranks[0]], inputs[:, : ranks[1]]
    return left, torch.einsum("or,oikl,is->rskl", left, weight, right), right
