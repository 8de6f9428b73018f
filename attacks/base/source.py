"""Gradient sources: where an attack gets its logits and gradients, so that any attack adapts to any defense."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.decision import can_reject, decisions
from robustbench_cli.attacks.base.errors import UserError, is_out_of_memory
from robustbench_cli.attacks.base.losses import Loss, margin
from robustbench_cli.attacks.base.model import INSIDE, EnumerableDraws, OneDraw

__all__ = ["EOT", "Exact", "GradientSource", "Precision", "gradient_source"]

Precision = Literal["float32", "bf16"]
"""In which floating point the passes of a gradient are computed."""


Answer = TypeVar("Answer")


class GradientSource(ABC):
    """Logits and input gradients of a model, over ``draws`` draws at a time.

    Args:
        model: Images ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``, in ``eval()`` mode with frozen parameters (see
            :func:`~robustbench_cli.attacks.base.model.frozen`).
        targeted: Whether the labels that :meth:`gradient` is given are the classes to reach.
        batch_size: Rows (images times draws) that pass through the model at once; ``None`` for all. It is halved where
            they do not fit the memory.
        precision: With ``"bf16"``, gradients and the logits that come with them are computed in bfloat16 where that pays
            (autocast). Their margins are then rounded more coarsely (see
            :func:`~robustbench_cli.attacks.base.losses.rounding`), and what they decide is to be confirmed by
            :meth:`logits`, which are always in float32.
        inside: Says, when a gradient is first asked for, whether it is to be taken a little inside the box; see
            :func:`~robustbench_cli.attacks.base.model.cut_at_edges`.

    Attributes:
        draws: D, the draws that every answer holds.
        exhaustive: Whether these are all the draws that the model can make.
        forwards: Images passed through the model so far, in passes of one draw.
        backwards: The same for passes back to the input.
    """

    draws: int
    exhaustive: bool

    def __init__(
        self,
        model: nn.Module,
        *,
        targeted: bool = False,
        batch_size: int | None = None,
        precision: Precision = "float32",
        inside: Callable[[], bool] = lambda: False,
    ) -> None:
        self.model = model
        self.targeted = targeted
        self.batch_size = batch_size
        self.precision = precision
        self._inside = inside
        self.forwards = 0.0
        self.backwards = 0.0
        # A tensor once there are gradients: reading a number off a GPU makes it wait.
        self._without_gradient: Tensor | int = 0

    @property
    def cost(self) -> float:
        """Forward passes that one image costs."""
        return float(self.draws)

    @property
    def share_without_gradient(self) -> float:
        """The share of all gradients so far that were zero in every pixel although the goal was not reached in every draw."""
        return float(self._without_gradient) * self.cost / self.backwards if self.backwards else 0.0

    @abstractmethod
    def _logits(self, images: Tensor, draws: int) -> Tensor:
        """Logits ``(draws, N, K)``, differentiable in the images."""

    def logits(self, images: Tensor) -> Tensor:
        """Logits ``(D, N, K)`` of images ``(N, C, H, W)``, without a graph."""
        self.forwards += self.cost * len(images)
        with torch.no_grad():
            return self._fitting_memory(images, lambda: self._logits_in_pieces(images))

    def _logits_in_pieces(self, images: Tensor) -> Tensor:
        pieces = [
            torch.cat([self._logits(images[rows], draws) for draws in parts]) for rows, parts in self._cuts(images)
        ]
        return torch.cat(pieces, dim=1)

    def _fitting_memory(self, images: Tensor, compute: Callable[[], Answer]) -> Answer:
        """Computes, with half the batch as often as the memory does not hold it."""
        while True:
            try:
                return compute()
            except RuntimeError as error:
                rows = self.batch_size or round(len(images) * self.cost)
                if not is_out_of_memory(error) or rows <= 1:
                    raise
            self.batch_size = rows // 2
            torch.cuda.empty_cache()

    def decisions(self, images: Tensor) -> Tensor:
        """The decisions ``(D, N)`` on images ``(N, C, H, W)``, and no more; see :func:`.decision.decisions`."""
        return self.decided(self.logits(images))

    def decided(self, logits: Tensor) -> Tensor:
        """The decisions ``(D, N)`` that logits ``(D, N, K)`` of this model stand for."""
        return decisions(logits, detector=can_reject(self.model))

    def gradient(self, images: Tensor, labels: Tensor, loss: Loss) -> tuple[Tensor, Tensor]:
        """Logits and the gradient of the mean loss over the draws.

        Args:
            images: ``(N, C, H, W)``.
            labels: ``(N,)``, or ``(N, m)`` if the loss needs to know more: the first column is the labels then.
            loss: The loss of one draw.

        Returns:
            Logits ``(D, N, K)`` without a graph, and the gradient ``(N, C, H, W)`` of ``mean_d loss(logits_d, labels)``,
            each image's by itself; 0 where it is not finite.

        Raises:
            UserError: The model cuts its logits off from its input.
        """
        logits, gradients = self.gradients(images, labels, lambda logits, labels: loss(logits, labels).unsqueeze(1))
        return logits, gradients[0]

    def gradients(self, images: Tensor, labels: Tensor, losses: Loss) -> tuple[Tensor, Tensor]:
        """Logits and the gradients of several losses, by one pass forward and one back for each; see :meth:`gradient`.

        Args:
            images: ``(N, C, H, W)``.
            labels: ``(N,)`` or ``(N, m)``.
            losses: L losses ``(M, L)`` of logits ``(M, K)`` and labels ``(M,)`` or ``(M, m)``.

        Returns:
            Logits ``(D, N, K)`` without a graph, and the gradients ``(L, N, C, H, W)``, of the same draws and, where the
            source takes gradients inside the box, of points that much further inside.

        Raises:
            UserError: The model cuts its logits off from its input.
        """
        logits, gradients = self._fitting_memory(images, lambda: self._gradients_in_pieces(images, labels, losses))
        self.forwards += self.cost * len(images)
        self.backwards += self.cost * len(images) * len(gradients)
        self._without_gradient += self._count_without_gradient(logits, labels, gradients)
        return logits, gradients

    def _gradients_in_pieces(self, images: Tensor, labels: Tensor, losses: Loss) -> tuple[Tensor, Tensor]:
        low = self.precision == "bf16"
        points = images.clamp(INSIDE, 1 - INSIDE) if self._inside() else images
        pieces, gradients = [], []
        for rows, parts in self._cuts(images):
            leaf = points[rows].detach().requires_grad_()
            of_slice, found = [], []
            for draws in parts:
                with torch.enable_grad():
                    with torch.autocast(leaf.device.type, torch.bfloat16, enabled=low):
                        logits = self._logits(leaf, draws)
                    if not logits.requires_grad:
                        raise UserError(
                            "the model has no gradient: its logits are cut off from its input (detach, no_grad); use an "
                            "attack on its scores (square, nes, spsa) or on its decisions (hopskipjump)"
                        )
                    told = labels[rows].repeat(draws, *[1] * (labels.dim() - 1))
                    values = losses(logits.flatten(0, 1).to(leaf.dtype), told).sum(0) / self.draws
                    found.append(_slopes(values, leaf))
                of_slice.append(logits.detach())
            pieces.append(torch.cat(of_slice))
            # A root at 0 has no slope: its pixel stays where it is, and the other pixels go on.
            gradients.append(sum(found[1:], start=found[0]).nan_to_num_(0, 0, 0))
        return torch.cat(pieces, dim=1), torch.cat(gradients, dim=1)

    def _count_without_gradient(self, logits: Tensor, labels: Tensor, gradients: Tensor) -> Tensor:
        classes = labels if labels.dim() == 1 else labels[:, 0]
        margins = margin(logits, classes.expand(len(logits), -1))
        unfinished = ((margins <= 0) if self.targeted else (margins >= 0)).any(0)
        return (unfinished & (gradients.flatten(2).abs().amax(2) == 0)).sum()

    def _parts(self) -> list[int]:
        """The numbers of draws to take in each pass; they add up to all."""
        return [self.draws]

    def _cuts(self, images: Tensor) -> Iterator[tuple[slice, list[int]]]:
        """Slices of the images that fit ``batch_size``, each with the numbers of draws to take of it in each pass."""
        parts = self._parts()
        if self.batch_size is None:
            yield slice(0, len(images)), parts
            return
        at_once = max(1, int(self.batch_size // (self.cost * parts[0] / self.draws)))
        # Equal slices: a small rest would cost nearly as much as a whole one.
        slices = max(1, math.ceil(len(images) / at_once))
        for index in range(slices):
            yield slice(index * len(images) // slices, (index + 1) * len(images) // slices), parts


def _slopes(values: Tensor, leaf: Tensor) -> Tensor:
    """The gradients ``(L, *leaf.shape)`` of L values of one graph, which is freed with the last."""
    last = len(values) - 1
    return torch.stack(
        [torch.autograd.grad(value, leaf, retain_graph=index < last)[0] for index, value in enumerate(values.unbind())]
    )


class EOT(GradientSource):
    """Expectation over transformation (Athalye, Engstrom, Ilyas, Kwok, ICML 2018): the mean over K draws.

    The draws are one batch in which every image stands K times, if each row of a batch draws for itself; otherwise they
    are K batches. One draw is the plain backward pass; of a deterministic model it is all there is.

    Args:
        draws: K.
        randomized: Whether the model is; see :func:`~robustbench_cli.attacks.base.model.is_randomized`.
        rows_share_draws: See the function of this name in :mod:`~robustbench_cli.attacks.base.model`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        draws: int = 1,
        randomized: bool = False,
        rows_share_draws: bool = False,
        targeted: bool = False,
        batch_size: int | None = None,
        precision: Precision = "float32",
        inside: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(model, targeted=targeted, batch_size=batch_size, precision=precision, inside=inside)
        self.draws = draws
        self.exhaustive = not randomized
        self._rows_share_draws = rows_share_draws

    def _parts(self) -> list[int]:
        most = 1 if self._rows_share_draws else self.batch_size or self.draws
        return [min(most, self.draws - start) for start in range(0, self.draws, most)]

    def _logits(self, images: Tensor, draws: int) -> Tensor:
        rows = images if draws == 1 else images.expand(draws, *images.shape).flatten(0, 1)
        logits: Tensor = self.model(rows)
        return logits.view(draws, len(images), -1)


class Exact(GradientSource):
    """The exact expectation over all draws of a model that can enumerate them."""

    exhaustive = True

    def __init__(
        self,
        model: nn.Module,
        *,
        targeted: bool = False,
        batch_size: int | None = None,
        precision: Precision = "float32",
        inside: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(model, targeted=targeted, batch_size=batch_size, precision=precision, inside=inside)
        if not isinstance(model, EnumerableDraws):
            raise UserError(
                "--eot exact: the draws of this defense cannot be counted; give a number of draws: --eot 10"
            )
        self._enumerable = model
        self.draws = model.number_of_draws

    @property
    def cost(self) -> float:
        return self._enumerable.cost_of_all_draws

    def _logits(self, images: Tensor, draws: int) -> Tensor:
        return self._enumerable.all_draws(images)


def gradient_source(
    model: nn.Module,
    *,
    eot: int | Literal["exact", "frozen"] = 1,
    randomized: bool,
    seed: int = 0,
    rows_share_draws: bool = False,
    targeted: bool = False,
    batch_size: int | None = None,
    precision: Precision = "float32",
    inside: Callable[[], bool] = lambda: False,
) -> GradientSource:
    """The source for ``--eot``: the exact expectation, the mean over a number of draws, or one frozen draw.

    Args:
        model: See :class:`GradientSource`.
        eot: ``"exact"``, K >= 1, or ``"frozen"``: one draw for all images and all questions. A deterministic model is asked
            once whatever K is.
        randomized: Whether two passes of the model differ.
        seed: Of the frozen draw.
        rows_share_draws: See :class:`EOT`.
        targeted: See :class:`GradientSource`.
        batch_size: See :class:`GradientSource`.
        precision: See :class:`GradientSource`.
        inside: See :class:`GradientSource`.

    Raises:
        UserError: ``"exact"`` for a randomized model whose draws cannot be counted.
    """
    if not randomized:
        return EOT(model, targeted=targeted, batch_size=batch_size, precision=precision, inside=inside)
    if eot == "frozen":
        return EOT(
            OneDraw(model, seed=seed), targeted=targeted, batch_size=batch_size, precision=precision, inside=inside
        )
    if eot == "exact":
        return Exact(model, targeted=targeted, batch_size=batch_size, precision=precision, inside=inside)
    return EOT(
        model,
        draws=eot,
        randomized=True,
        rows_share_draws=rows_share_draws,
        targeted=targeted,
        batch_size=batch_size,
        precision=precision,
        inside=inside,
    )
