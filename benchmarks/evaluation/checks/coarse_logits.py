"""The flag of a model whose logits have few distinct values."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Finding, Need, Severity
from robustbench_cli.benchmarks.evaluation.checks.base.model_probe import ModelProbe

__all__ = ["CoarseLogits", "has_half_precision"]

_LEAST = 8
"""The fewest images that show how many values the logits have."""

_HALF_BITS = 11
"""The significant bits of float16; bfloat16 has 8."""


class CoarseLogits(Check):
    """One-hot outputs, rounded logits and logits in half precision are coarse."""

    text: ClassVar[str] = (
        "the logits have few distinct values, as one-hot, rounded or half-precision outputs do: attacks cannot see progress"
    )
    severity: ClassVar[Severity] = "suspicious"
    raised_when: ClassVar[str] = (
        "All logits of the clean images are numbers of half precision (11 significant bits), or the largest logits of N images, "
        "at least 8, have fewer than N / 2 distinct values."
    )
    why: ClassVar[str] = (
        "Small changes of an image change nothing in such outputs. Attacks by scores have no progress to follow, and gradients "
        "through the rounding are zero or replaced. Half precision rounds away the small perturbations that attacks try first."
    )
    remedy: ClassVar[str] = (
        "Give the logits before the rounding, in float32. If the deployed model is coarse, attack it with a differentiable "
        "approximation (BPDA) and with attacks by decisions: --suite standard."
    )
    source: ClassVar[str] = (
        "Carlini, Athalye, Papernot et al.: On Evaluating Adversarial Robustness. arXiv 1902.06705; Athalye, Carlini, Wagner: "
        "Obfuscated Gradients Give a False Sense of Security. ICML 2018, section 3.1"
    )
    needs: ClassVar[tuple[Need, ...]] = ("logits",)

    def finding_in_model(self, probe: ModelProbe) -> Finding | None:
        logits = probe.logits
        values = len(logits.max(1).values.unique())
        if len(logits) >= _LEAST and values < len(logits) / 2:
            evidence = f"the largest logits of {len(logits)} images have {values} distinct values"
        elif has_half_precision(logits):
            evidence = f"all logits of {len(logits)} images are numbers of half precision"
        else:
            return None
        return self.finding(evidence, values=values, n=len(logits))


def has_half_precision(logits: Tensor) -> bool:
    """Whether all finite numbers have at most 11 significant bits.

    Args:
        logits: ``(N, K)``.

    >>> has_half_precision(torch.tensor([[0.5, 1 / 3]])), has_half_precision(torch.tensor([[0.5, 1 / 3]]).half())
    (False, True)
    """
    mantissas, _ = torch.frexp(logits[logits.isfinite()].double())
    scaled = mantissas * 2**_HALF_BITS
    return bool((scaled == scaled.round()).all())
