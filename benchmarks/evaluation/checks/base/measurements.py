"""What several checks measure: logits and input gradients of a model at fixed draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from robustbench_cli.attacks.base.losses import rounding
from robustbench_cli.attacks.base.models.measured_model import MeasuredModel
from robustbench_cli.attacks.base.models.precision import full_float32
from robustbench_cli.attacks.base.models.row_draws import row_keys
from robustbench_cli.attacks.base.rng import preserve_generators, seed_from, seed_generators

__all__ = ["class_gaps", "gap_gradients", "is_repeatable", "logits_differ", "model_logits"]


def is_repeatable(measured: MeasuredModel) -> bool:
    """Whether two passes with the same seed give the same logits, up to rounding.

    Args:
        measured: The model, with the images of the two passes.
    """
    first, second = (model_logits(measured, measured.images) for _ in range(2))
    return not bool(((first - second).abs() > rounding(first).unsqueeze(-1)).any())


def logits_differ(first: Tensor, second: Tensor, noise: float | None) -> bool:
    """Whether logits differ by more than rounding.

    Args:
        first: ``(R, N, K)``.
        second: ``(R, N, K)``.
        noise: The tolerance of a logit; see :func:`~robustbench_cli.attacks.base.losses.rounding`.
    """
    return bool(((first - second).abs() > 2 * rounding(first, noise).unsqueeze(-1)).any())


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


def gap_gradients(measured: MeasuredModel, rows: Tensor, pairs: Tensor) -> Tensor | None:
    """The input gradients of the gap between two logits, at the draws of one fixed seed.

    Args:
        measured: The model.
        rows: ``(N, C, H, W)`` in [0, 1].
        pairs: ``(N, 2)``, the two classes of each row.

    Returns:
        ``(N, C, H, W)``; ``None`` if the logits have no graph.
    """
    keys = row_keys(torch.arange(len(rows), device=rows.device))

    def compute() -> Tensor | None:
        gradients = []
        for part in measured.size.slices(len(rows)):
            leaf = rows[part].clone().requires_grad_()
            with _at_fixed_draws(measured, keys[part]) as model:
                gaps = class_gaps(model(leaf), pairs[part])
                if not gaps.requires_grad:
                    return None
                gaps.sum().backward()
            assert leaf.grad is not None
            gradients.append(leaf.grad.nan_to_num(0, 0, 0))
        return torch.cat(gradients)

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
