"""What several checks measure: logits and input gradients of a model at fixed draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_cli.attacks.base.losses import rounding
from robustbench_cli.attacks.base.models.measured_model import MeasuredModel
from robustbench_cli.attacks.base.models.precision import full_float32
from robustbench_cli.attacks.base.models.row_draws import row_keys
from robustbench_cli.attacks.base.rng import preserve_generators, seed_from, seed_generators
from robustbench_cli.benchmarks.evaluation.checks.base.finding import UndecidedError

__all__ = [
    "Gaps",
    "changed_rows",
    "class_gaps",
    "gap_gradients",
    "is_repeatable",
    "logits_differ",
    "logits_in_parts",
    "model_logits",
    "require_repeatable",
]


_ALONE = 4
"""The images that pass alone in :func:`logits_in_parts`, if there are twice as many."""


def is_repeatable(measured: MeasuredModel) -> bool:
    """Whether passes with the same seed give the same logits, up to rounding; measured once.

    Args:
        measured: The model, with the images of the passes. Four images and two passes are enough for a model that is
            deterministic by other measurements. Of a randomized one, 20 passes may all get the same of two draws by chance with a
            probability of 2e-6.
    """

    def measure() -> bool:
        images, passes = (measured.images, 20) if measured.randomized else (measured.images[:4], 2)
        first = model_logits(measured, images)
        return not any(logits_differ(first, model_logits(measured, images)) for _ in range(passes - 1))

    return measured.once("repeatable", measure)


def require_repeatable(measured: MeasuredModel) -> None:
    """Leaves a check out whose passes must meet the same draws.

    Args:
        measured: See :func:`is_repeatable`.

    Raises:
        UndecidedError: The model is not repeatable.
    """
    if not is_repeatable(measured):
        raise UndecidedError("the seed does not control the draws of the model")


def logits_differ(first: Tensor, second: Tensor, noise: float | None = None) -> bool:
    """Whether any logits differ by more than rounding; see :func:`changed_rows`."""
    return bool(changed_rows(first, second, noise).any())


def changed_rows(first: Tensor, second: Tensor, noise: float | None = None) -> Tensor:
    """Whether the logits of a row differ by more than rounding. Masked classes, at infinity, are equal.

    Args:
        first: ``(..., K)``.
        second: ``(..., K)``.
        noise: The tolerance of a logit; see :func:`~robustbench_cli.attacks.base.losses.rounding`.

    Returns:
        ``(...)`` bool.
    """
    return ((first - second).abs() > 2 * rounding(first, noise).unsqueeze(-1)).any(-1)


def logits_in_parts(logits: Callable[[Tensor, Tensor], Tensor], images: Tensor, indices: Tensor) -> Tensor:
    """The logits of images in other batches: a few alone; then every other image, and the rest, in the opposite order.

    Args:
        logits: Gives the logits ``(R, N, K)`` of images ``(N, C, H, W)`` with indices ``(N,)``, at the draws of these
            indices.
        images: ``(N, C, H, W)`` in [0, 1].
        indices: ``(N,)``.

    Returns:
        ``(R, N, K)``, in the order of the images.
    """
    rows = torch.arange(len(images))
    alone = rows[1 :: max(2, len(rows) // _ALONE)][:_ALONE]
    others = rows[~torch.isin(rows, alone)].flip(0)
    parts = [part for part in (*alone.split(1), others[::2], others[1::2]) if len(part)]
    passes = [logits(images[part.to(images.device)], indices[part.to(indices.device)]) for part in parts]
    return torch.cat(passes, 1)[:, torch.cat(parts).argsort().to(images.device)]


def model_logits(measured: MeasuredModel, rows: Tensor) -> Tensor:
    """The logits of a model at the draws of one fixed seed.

    Args:
        measured: The model.
        rows: ``(N, C, H, W)`` in [0, 1].

    Returns:
        ``(N, K)``, computed in float32 and without a graph.
    """
    keys = row_keys(torch.arange(len(rows), device=rows.device))

    def compute() -> Tensor:
        logits = []
        for part in measured.size.slices(len(rows)):
            with _at_fixed_draws(measured, keys[part]) as model:
                logits.append(model(rows[part]))
        return torch.cat(logits)

    with torch.no_grad(), full_float32(rows.device), preserve_generators():
        return measured.size.retry_smaller(len(rows), compute)


class Gaps(NamedTuple):
    """The gaps between two logits of each row, with their gradients.

    Attributes:
        logits: ``(N, K)``.
        pairs: ``(N, 2)``, the two classes of each row.
        gradients: ``(N, C, H, W)``, the input gradient of the first logit minus the second.
    """

    logits: Tensor
    pairs: Tensor
    gradients: Tensor


def gap_gradients(measured: MeasuredModel, rows: Tensor, pairs: Tensor | None = None) -> Gaps | None:
    """The input gradients of the gap between two logits, at the draws of one fixed seed.

    Args:
        measured: The model.
        rows: ``(N, C, H, W)`` in [0, 1].
        pairs: ``(N, 2)``, the two classes of each row; by default those with the row's two largest logits.

    Returns:
        ``None`` if the logits have no graph.
    """
    keys = row_keys(torch.arange(len(rows), device=rows.device))

    def compute() -> Gaps | None:
        parts = []
        for part in measured.size.slices(len(rows)):
            leaf = rows[part].clone().requires_grad_()
            with _at_fixed_draws(measured, keys[part]) as model:
                logits = model(leaf)
                if not logits.requires_grad:
                    return None
                chosen = logits.detach().topk(2).indices if pairs is None else pairs[part]
                class_gaps(logits, chosen).sum().backward()
            assert leaf.grad is not None
            parts.append(Gaps(logits.detach(), chosen, leaf.grad.nan_to_num(0, 0, 0)))
        return Gaps(*map(torch.cat, zip(*parts, strict=True)))

    with torch.enable_grad(), full_float32(rows.device), preserve_generators():
        return measured.size.retry_smaller(len(rows), compute)


def class_gaps(logits: Tensor, pairs: Tensor) -> Tensor:
    """The gap between the logits of two classes.

    Args:
        logits: ``(N, K)``.
        pairs: ``(N, 2)``, the two classes of each row.

    Returns:
        ``(N,)``, the first logit minus the second.
    """
    both = logits.gather(1, pairs)
    return both[:, 0] - both[:, 1]


@contextmanager
def _at_fixed_draws(measured: MeasuredModel, keys: Tensor) -> Iterator[Callable[[Tensor], Tensor]]:
    """A model at the draws of one seed, for rows with these keys."""
    seed = seed_from("checks")
    # A deterministic model is seeded too: it may still draw numbers that change nothing.
    seed_generators(seed)
    with measured.seeded(keys, seed) as model:
        yield model
