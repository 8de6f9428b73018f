"""Probes of a model before an attack: randomness, gradients at the edges of the box, and bfloat16."""

from __future__ import annotations

import logging
import math
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.losses import rounding
from robustbench_cli.attacks.base.models.passes import BatchSize, logits_of, single_pass
from robustbench_cli.attacks.base.rng import seeded
from robustbench_cli.core.errors import is_out_of_memory, one_line

__all__ = ["EDGE_OFFSET", "cut_at_edges", "fails_in_bf16", "is_randomized"]

_logger = logging.getLogger(__name__)

EDGE_OFFSET = 1e-6
"""Distance from 0 and 1 at which a pixel counts as inside the box: above float32 rounding, too small to change logits."""

_CONFIRMING_PASSES = 20
"""Passes of one row that tell a switch between two paths from a dependence on the batch; it is missed with a probability of 1e-6."""


def cut_at_edges(model: nn.Module, images: Tensor, *, size: BatchSize | None = None, randomized: bool = True) -> bool:
    """Whether any pixel has no gradient at 0 or 1, but has one slightly further inside the box.

    A model that clamps its input to [0, 1] has no gradient at pixels of exactly 0 or 1, and many pixels are. An attack
    that follows this gradient never moves them.

    Args:
        model: In ``eval()`` mode.
        images: ``(N, C, H, W)`` in [0, 1], N >= 1. The first two are used, with every pixel rounded to 0 or 1, the second
            one as its negative: so both edges are tried where all images are dark or bright.
        size: The batch size.
        randomized: Whether the model may be randomized. Then the pixels at the edges and those inside pass in two batches,
            which see the same draws; otherwise they pass together.
    """
    rounded, rows = images[:2].round(), size or BatchSize()
    edges = torch.cat([rounded[:1], 1 - rounded[-1:]])

    def cut() -> bool:
        batches = [edges.clamp(EDGE_OFFSET, 1 - EDGE_OFFSET), edges]
        batches = batches if randomized else [torch.cat(batches)]
        inside, at_edges = torch.cat([_has_slope(model, batch, rows) for batch in batches]).split(len(edges))
        return bool((inside & ~at_edges).any())

    return rows.retry_smaller(len(edges) * (1 if randomized else 2), cut)


def _has_slope(model: nn.Module, images: Tensor, size: BatchSize) -> Tensor:
    """``(N, C, H, W)`` bool: the pixels with a nonzero gradient."""
    with seeded(0):
        return torch.cat([_pixels_with_slope(model, images[rows]) for rows in size.slices(len(images))])


def _pixels_with_slope(model: nn.Module, images: Tensor) -> Tensor:
    leaf = images.detach().requires_grad_()
    with torch.enable_grad():
        logits = single_pass(model, leaf)
        if not logits.requires_grad:
            return torch.zeros_like(images, dtype=torch.bool)
        weights = torch.arange(1, logits.shape[1] + 1, device=logits.device)
        (logits * weights).sum().backward()
    return torch.zeros_like(images, dtype=torch.bool) if leaf.grad is None else leaf.grad != 0


def fails_in_bf16(model: nn.Module, images: Tensor, *, size: BatchSize | None = None) -> bool:
    """Whether a model raises an error or gives NaN or +inf in bfloat16, which is logged.

    Args:
        model: In ``eval()`` mode, whose logits are numbers in float32.
        images: ``(N, C, H, W)`` in [0, 1], N >= 1; the first eight are used.
        size: The batch size.
    """
    probe, rows = images[:8], size or BatchSize()

    def reason() -> str:
        for part in rows.slices(len(probe)):
            leaf = probe[part].detach().requires_grad_()
            try:
                with torch.enable_grad(), torch.autocast(leaf.device.type, torch.bfloat16):
                    logits = single_pass(model, leaf)
                if logits.requires_grad:
                    logits.sum().backward()
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                return one_line(error)
            # A logit of -inf masks a class.
            if not bool((logits < torch.inf).all()):
                return "its logits are NaN or infinite"
        return ""

    with seeded(0):
        failure = rows.retry_smaller(len(probe), reason)
    if failure:
        _logger.warning("%s fails in bf16, so its gradients are not computed in it: %s", type(model).__name__, failure)
    return bool(failure)


@torch.no_grad()
def is_randomized(model: nn.Module, images: Tensor, *, size: BatchSize | None = None) -> bool:
    """Whether the logits of the same image differ between passes by more than float rounding.

    Randomness is measured and not declared, so a defense cannot hide it by mistake. The probe compares two passes of at
    least eight rows. Two rows alone may happen to draw the same option of a switch.

    Rows that share one draw per pass may still agree in both passes. So the probe passes single rows as well. If the model
    changes the state of a reachable generator, it makes 30 such passes: a model that switches between two paths is then
    missed with a probability of 1e-9. Otherwise it makes eight, since the model may have a generator of its own.

    A deterministic model may also answer a single row otherwise than a batch, for example with batch statistics. If no reachable
    generator changed its state, such a difference counts as randomness only if one of 20 further passes of the row, or another
    pass of the batch, differs as well.

    Args:
        model: In ``eval()`` mode.
        images: ``(N, C, H, W)`` in [0, 1], N >= 1; the first eight are used.
        size: The batch size.
    """
    probe, size = images[:8], size or BatchSize()
    copies = math.ceil(8 / len(probe))
    rows = probe.repeat(copies, *[1] * (probe.dim() - 1))
    states = _all_generator_states()
    logits = torch.cat([logits_of(model, rows, size) for _ in range(2)]).unflatten(0, (2 * copies, len(probe)))
    tolerance = rounding(logits).amax(0).unsqueeze(-1)
    if bool(((logits - logits[0]).abs() > tolerance).any()):
        return True
    draws_from_known = _all_generator_states() != states
    numbers = torch.arange(30 if draws_from_known else 8, device=probe.device) % len(probe)
    # Compared together, since each comparison would wait for the GPU.
    alone = torch.cat([logits_of(model, probe[number % len(probe), None], size) for number in range(len(numbers))])
    differs = ((alone - logits[0, numbers]).abs() > tolerance[numbers]).any(1)
    if not bool(differs.any()):
        return False
    if draws_from_known:
        return True
    first = differs.tolist().index(True)
    row = first % len(probe)
    again = (logits_of(model, probe[row, None], size) for _ in range(_CONFIRMING_PASSES))
    return any(bool(((other - alone[first]).abs() > tolerance[row]).any()) for other in again) or bool(
        ((logits_of(model, rows, size)[: len(probe)] - logits[0]).abs() > tolerance).any()
    )


def _all_generator_states() -> list[Any]:
    """The states of the global generators: torch's, Python's and NumPy's."""
    on_devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    name, numpy_state, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - a model may use the older interface
    states = [state.numpy().tobytes() for state in (torch.get_rng_state(), *on_devices)]
    return [*states, random.getstate(), name, np.asarray(numpy_state).tobytes(), *rest]
