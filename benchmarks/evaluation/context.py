"""How an evaluation runs: where, in which batches, and what it resumes from. None of this changes a result."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch

from robustbench_cli.benchmarks.evaluation.outcomes import Outcomes
from robustbench_cli.benchmarks.evaluation.partial_results import PartialResults

__all__ = ["RunContext"]


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """How an evaluation runs.

    Attributes:
        device: Where to compute; the model's own device by default.
        batch_size: Rows that pass through the model at once; chosen for the device by default.
        earlier: The outcomes of an earlier untargeted attack on the same model and images, at this radius or a smaller
            one. The images that it broke are not attacked again, and count as broken.
        partial_results: Stores the result of each batch, and returns those of an interrupted call with the same
            arguments.
        allow_no_gradients: Whether an attack that the model gives no gradients counts as having broken nothing, with the flag
            ``no-gradients``, because other attacks of its cascade need none. Otherwise it is an error.
        measurements: What earlier evaluations of equal models have measured. It is not measured again, and this evaluation adds
            its own. ``None`` to measure all.
        progress: Called after each batch with the number of images done. By default a notebook shows a bar.
    """

    device: torch.device | str | None = None
    batch_size: int | None = None
    earlier: Outcomes | None = None
    partial_results: PartialResults | None = None
    allow_no_gradients: bool = False
    measurements: dict[Hashable, Any] | None = None
    progress: Callable[[int], None] = lambda _: None
