"""The flag of a deterministic model whose logits jump along lines, as behind a quantizer or a k-winner-take-all activation."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from robustbench_cli.attacks.base.gradients.bpda import use_surrogates
from robustbench_cli.attacks.base.losses import rounding
from robustbench_cli.attacks.base.models.measured_model import MeasuredModel
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Finding, Need, Severity, UndecidedError
from robustbench_cli.benchmarks.evaluation.checks.base.measurements import class_gaps, model_logits
from robustbench_cli.benchmarks.evaluation.checks.base.model_probe import ModelProbe

__all__ = ["Staircase", "share_of_jumps"]

_INTERVAL = 1 / 16
"""The first interval, as a share of a line from an image to one whose pixels differ by eps."""

_HALVINGS = 10

_STEEPER = 32
"""The least growth of the slope over the halvings that counts as a jump. At a single jump the slope grows by 1,024; this is the
square root. Networks of ReLU, GELU, SiLU, max-pooling and batch norm have at most 2; quantizers and k-winner-take-all 200 to 7,000.
"""

_SHARE = 0.25
"""The share of intervals with a jump above which the flag is raised."""

_IMAGES, _LINES = 16, 2


class Staircase(Check):
    """A continuous function changes by half as much over half an interval, on average; a jump keeps its size."""

    text: ClassVar[str] = (
        "the logits jump as the image moves: a gradient says nothing of the jumps, so it leads nowhere"
    )
    severity: ClassVar[Severity] = "suspicious"
    raised_when: ClassVar[str] = (
        "The model is deterministic. In more than a quarter of random intervals on lines along which all pixels move by up to eps, with "
        "random signs, ten halvings, each time into the half in which the gap between two logits changes more, make the slope at least 32 "
        "times as steep. Layers with a differentiable approximation (BPDA) are replaced by it."
    )
    why: ClassVar[str] = (
        "A gradient describes a function that is smooth nearby. At jumps the function changes without a gradient, and between "
        "them the gradient may point anywhere (k-winner-take-all) or be zero (quantizers)."
    )
    remedy: ClassVar[str] = (
        "Attack a smooth approximation (BPDA), or the mean gradient over points nearby; use attacks by scores: --suite standard."
    )
    source: ClassVar[str] = (
        "Tramer, Carlini, Brendel, Madry: On Adaptive Attacks to Adversarial Example Defenses. NeurIPS 2020, section 5 (k-WTA); "
        "Athalye, Carlini, Wagner: Obfuscated Gradients Give a False Sense of Security. ICML 2018, section 4.1"
    )
    needs: ClassVar[tuple[Need, ...]] = ()

    def finding_in_model(self, probe: ModelProbe) -> Finding | None:
        if probe.randomized:
            raise UndecidedError("a single draw of a randomized model may jump where the mean over the draws is smooth")
        images = probe.images[:_IMAGES].repeat(_LINES, 1, 1, 1)
        moves = probe.eps * Random.of(probe.seed, images).signs(images.shape[1:]).to(images)
        with use_surrogates(probe.model):
            share = share_of_jumps(probe.measured, images, (images + moves).clamp(0, 1))
        if share <= _SHARE:
            return None
        return self.finding(f"the logits jump in {share:.2f} of {len(images)} intervals", share=share)

    def passes(self, probe: ModelProbe) -> int:
        return (_HALVINGS + 3) * _LINES * min(len(probe), _IMAGES)


def share_of_jumps(measured: MeasuredModel, starts: Tensor, ends: Tensor) -> float:
    """The share of lines with a jump of the gap between the two largest logits, in one random interval each.

    Args:
        measured: The model.
        starts: ``(N, C, H, W)`` in [0, 1].
        ends: ``(N, C, H, W)`` in [0, 1].
    """
    logits = model_logits(measured, starts)
    pairs = logits.topk(2).indices

    def gap(places: Tensor) -> Tensor:
        points = torch.lerp(starts, ends, places.to(starts).view(-1, 1, 1, 1))
        return class_gaps(model_logits(measured, points), pairs).double()

    offsets = Random.of(1, starts).uniform(()).double()
    low = offsets * (1 - _INTERVAL)
    high = low + _INTERVAL
    at_low, at_high = gap(low), gap(high)
    slopes = (at_high - at_low).abs() / _INTERVAL
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        at_middle = gap(middle)
        in_first = (at_middle - at_low).abs() >= (at_high - at_middle).abs()
        low, at_low = torch.where(in_first, low, middle), torch.where(in_first, at_low, at_middle)
        high, at_high = torch.where(in_first, middle, high), torch.where(in_first, at_middle, at_high)
    changes = (at_high - at_low).abs()
    # A function that happens to return to its value in an interval is compared with its usual slope.
    usual = torch.maximum(slopes, slopes.median())
    jumps = (changes / (high - low) >= _STEEPER * usual) & (changes > 4 * rounding(logits))
    return float(jumps.double().mean())
