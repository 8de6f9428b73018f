"""Gradient sources: where an attack gets its logits and gradients, so that any attack adapts to any defense."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.losses import Loss, margin
from robustbench_cli.attacks.base.models.decision import can_reject, decisions
from robustbench_cli.attacks.base.models.passes import BatchSize
from robustbench_cli.attacks.base.models.precision import full_float32
from robustbench_cli.attacks.base.models.probes import EDGE_OFFSET
from robustbench_cli.attacks.base.models.row_draws import row_keys
from robustbench_cli.core.errors import UserError

__all__ = ["GradientSource", "Precision"]

Precision = Literal["float32", "bf16"]
"""In which floating point the passes of a gradient are computed."""


_FOLLOWED = 8


class GradientSource(ABC):
    """Logits and input gradients of a model, over ``draws`` draws at a time.

    Args:
        model: Images ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``, in ``eval()`` mode with frozen parameters (see
            :func:`~robustbench_cli.attacks.base.models.freezing.frozen`).
        targeted: Whether the labels that :meth:`gradient` is given are the classes to reach.
        batch_size: Rows (images times draws) that pass through the model at once; ``None`` for all. A :class:`BatchSize` is
            shared with others that ask the same model.
        precision: With ``"bf16"``, gradients and the logits that come with them are computed in bfloat16 where that pays
            (autocast). Their margins are then rounded more coarsely (see
            :func:`~robustbench_cli.attacks.base.losses.rounding`), and what they decide is to be confirmed by
            :meth:`logits`, which are always in float32.
        inside: Says, when a gradient is first asked for, whether it is to be taken a little inside the box; see
            :func:`~robustbench_cli.attacks.base.models.probes.cut_at_edges`.

    Attributes:
        draws: D, the draws that every answer holds.
        exhaustive: Whether these are all the draws that the model can make.
        forwards: Images passed through the model so far, in passes of one draw.
        backwards: The same for passes back to the input.
        decides: Whether the logits that come with a gradient decide how small a perturbation may be, so that a GPU is to
            compute them in full float32.
        followed: ``(n, C, H, W)``, n up to 8: some of the points at which a gradient was last asked for, as far as the
            number of the question was a power of 2; ``None`` before the first.
        noise: Measures by how much a logit changes with the batch, see :mod:`~robustbench_cli.attacks.base.models.logit_noise`; ``None``
            where that is not measured.
    """

    draws: int
    exhaustive: bool

    def __init__(
        self,
        model: nn.Module,
        *,
        targeted: bool = False,
        batch_size: BatchSize | int | None = None,
        precision: Precision = "float32",
        inside: Callable[[], bool] = lambda: False,
    ) -> None:
        self.model = model
        self.targeted = targeted
        self.size = batch_size if isinstance(batch_size, BatchSize) else BatchSize(batch_size)
        self.precision = precision
        self._inside = inside
        self._seed = 0
        self._places: Tensor | None = None
        self._questions = 0
        self.forwards = 0.0
        self.backwards = 0.0
        self.full_precision = False
        self.recent_points: Tensor | None = None
        self.noise: Callable[[], float] | None = None
        # A tensor once there are gradients: reading a number off a GPU makes it wait.
        self._without_gradient: Tensor | int = 0

    @property
    def cost(self) -> float:
        """Forward passes that one image costs."""
        return float(self.draws)

    @property
    def zero_gradient_share(self) -> float:
        """The share of all gradients so far that were zero in every pixel although the goal was not reached in every draw."""
        return float(self._without_gradient) * self.cost / self.backwards if self.backwards else 0.0

    def bind_draws(self, seed: int, places: Tensor) -> None:
        """Ties all draws from here on to a seed and to images: the same questions then get the same draws.

        Args:
            seed: Of the draws.
            places: ``(N,)`` int64, a number for each of the images that the questions will be about, unlike the others'.
        """
        self._seed, self._places, self._questions = seed, places, 0

    @abstractmethod
    def _seeded_model(
        self, images: Tensor, keys: Tensor, draws: range, question: int
    ) -> AbstractContextManager[Callable[[Tensor], Tensor]]:
        """What gives logits ``(len(draws), N, K)`` of images ``(N, C, H, W)``; a pass back belongs inside it too.

        Args:
            images: ``(N, C, H, W)``.
            keys: ``(N,)``, which tell the images' draws apart.
            draws: Which of the D.
            question: Its number, which tells its draws from those of the others.
        """

    def logits(self, images: Tensor, *, rows: Tensor | None = None, copies: int = 1) -> Tensor:
        """Logits ``(D, N, K)`` of images ``(N, C, H, W)``, without a graph.

        Args:
            images: Where an image is asked about at several points, they stand side by side.
            rows: ``(n,)``, which of the images that the attack was given these are, where they are not all of them in
                their order.
            copies: Points of each: ``N = n * copies``.
        """
        self.forwards += self.cost * len(images)
        keys, question = self._keys(images, rows, copies), self._next_question()

        def compute() -> Tensor:
            pieces = []
            for part, parts in self._cuts(images):
                of_slice = []
                for draws in parts:
                    with self._seeded_model(images[part], keys[part], draws, question) as model:
                        of_slice.append(model(images[part]))
                pieces.append(torch.cat(of_slice))
            return torch.cat(pieces, dim=1)

        with torch.no_grad(), full_float32(images.device):
            return self.size.retry_smaller(len(images) * self.cost, compute)

    def _next_question(self) -> int:
        self._questions += 1
        return self._questions

    def _keys(self, images: Tensor, rows: Tensor | None, copies: int) -> Tensor:
        """``(N,)``: what tells the draws of images apart."""
        places = self._places if rows is None or self._places is None else self._places[rows]
        if places is None or len(places) * copies != len(images):
            # An attack that does not say which images these are gets draws by their order.
            places, copies = torch.arange(-len(images), 0, device=images.device), 1
        return row_keys(places.to(images.device), copies)

    def decisions(self, images: Tensor, *, rows: Tensor | None = None, copies: int = 1) -> Tensor:
        """The decisions ``(D, N)`` on images ``(N, C, H, W)``, and no more; see :meth:`logits` and :func:`.decision.decisions`."""
        return self.decisions_of(self.logits(images, rows=rows, copies=copies))

    def decisions_of(self, logits: Tensor) -> Tensor:
        """The decisions ``(D, N)`` that logits ``(D, N, K)`` of this model stand for."""
        return decisions(logits, detector=can_reject(self.model))

    def gradient(
        self, images: Tensor, labels: Tensor, loss: Loss, *, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits and the gradient of the mean loss over the draws.

        Args:
            images: ``(N, C, H, W)``.
            labels: ``(N,)``, or ``(N, m)`` if the loss needs to know more: the first column is the labels then.
            loss: The loss of one draw.
            rows: See :meth:`logits`.

        Returns:
            Logits ``(D, N, K)`` without a graph, and the gradient ``(N, C, H, W)`` of ``mean_d loss(logits_d, labels)``,
            each image's by itself; 0 where it is not finite.

        Raises:
            UserError: The model cuts its logits off from its input.
        """
        logits, gradients = self.gradients(
            images, labels, lambda logits, labels: loss(logits, labels).unsqueeze(1), rows=rows
        )
        return logits, gradients[0]

    def gradients(
        self, images: Tensor, labels: Tensor, losses: Loss, *, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits and the gradients of several losses, by one pass forward and one back for each; see :meth:`gradient`.

        Args:
            images: ``(N, C, H, W)``.
            labels: ``(N,)`` or ``(N, m)``.
            losses: L losses ``(M, L)`` of logits ``(M, K)`` and labels ``(M,)`` or ``(M, m)``.
            rows: See :meth:`logits`.

        Returns:
            Logits ``(D, N, K)`` without a graph, and the gradients ``(L, N, C, H, W)``, of the same draws and, where the
            source takes gradients inside the box, of points that much further inside.

        Raises:
            UserError: The model cuts its logits off from its input.
        """
        keys, question = self._keys(images, rows, 1), self._next_question()
        if question & (question - 1) == 0:
            self.recent_points = images[:: max(1, len(images) // _FOLLOWED)][:_FOLLOWED].clone()
        with full_float32(images.device) if self.full_precision else nullcontext():
            logits, gradients = self.size.retry_smaller(
                len(images) * self.cost, lambda: self._gradients_in_pieces(images, labels, losses, keys, question)
            )
        self.forwards += self.cost * len(images)
        self.backwards += self.cost * len(images) * len(gradients)
        self._without_gradient += self._count_without_gradient(logits, labels, gradients)
        return logits, gradients

    def _gradients_in_pieces(
        self, images: Tensor, labels: Tensor, losses: Loss, keys: Tensor, question: int
    ) -> tuple[Tensor, Tensor]:
        points = images.clamp(EDGE_OFFSET, 1 - EDGE_OFFSET) if self._inside() else images
        pieces, gradients = [], []
        for part, parts in self._cuts(images):
            leaf = points[part].detach().requires_grad_()
            of_slice, found = [], []
            for draws in parts:
                with self._seeded_model(leaf, keys[part], draws, question) as model:
                    logits, slopes = self._gradients_of_draws(model, leaf, labels[part], losses, len(draws))
                of_slice.append(logits)
                found.append(slopes)
            pieces.append(torch.cat(of_slice))
            # A root at 0 has no slope: its pixel stays where it is, and the other pixels go on.
            gradients.append(sum(found[1:], start=found[0]).nan_to_num_(0, 0, 0))
        return torch.cat(pieces, dim=1), torch.cat(gradients, dim=1)

    def _gradients_of_draws(
        self, model: Callable[[Tensor], Tensor], leaf: Tensor, labels: Tensor, losses: Loss, draws: int
    ) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            with torch.autocast(leaf.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                logits = model(leaf)
            if not logits.requires_grad:
                raise UserError(
                    "the model has no gradient: its logits are cut off from its input (detach, no_grad); use an "
                    "attack on its scores (square, nes, spsa) or on its decisions (hopskipjump)"
                )
            repeated = labels.repeat(draws, *[1] * (labels.dim() - 1))
            values = losses(logits.flatten(0, 1).to(leaf.dtype), repeated).sum(0) / self.draws
            return logits.detach(), _slopes(values, leaf)

    def _count_without_gradient(self, logits: Tensor, labels: Tensor, gradients: Tensor) -> Tensor:
        classes = labels if labels.dim() == 1 else labels[:, 0]
        margins = margin(logits, classes.expand(len(logits), -1))
        unfinished = ((margins <= 0) if self.targeted else (margins >= 0)).any(0)
        return (unfinished & (gradients.flatten(2).abs().amax(2) == 0)).sum()

    def _parts(self) -> list[range]:
        """The draws to take in each pass."""
        return [range(self.draws)]

    def _cuts(self, images: Tensor) -> Iterator[tuple[slice, list[range]]]:
        """Slices of the images that fit the batch size, each with the draws to take of it in each pass."""
        parts = self._parts()
        for part in self.size.slices(len(images), cost=self.cost * len(parts[0]) / self.draws):
            yield part, parts


def _slopes(values: Tensor, leaf: Tensor) -> Tensor:
    """The gradients ``(L, *leaf.shape)`` of L values of one graph, which is freed with the last."""
    last = len(values) - 1
    return torch.stack([_slope(value, leaf, keep=index < last) for index, value in enumerate(values.unbind())])


def _slope(value: Tensor, leaf: Tensor, *, keep: bool) -> Tensor:
    try:
        return torch.autograd.grad(value, leaf, retain_graph=keep)[0]
    except RuntimeError as error:
        # Reentrant gradient checkpointing only works where gradients are accumulated at the leaves.
        if "use_reentrant" not in str(error):
            raise
    value.backward(retain_graph=keep)
    slope, leaf.grad = leaf.grad, None
    assert slope is not None
    return slope
