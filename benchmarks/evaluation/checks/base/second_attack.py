"""Whether a second attack breaks more than the baseline attack of a probe, which has full access to the model."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from pydantic import Field
from torch import nn

from robustbench_cli.attacks.base.attack import Attack
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.benchmarks.evaluation.checks.base.model_probe import ModelProbe
from robustbench_cli.benchmarks.evaluation.checks.base.row_group import NEAR_ZERO, scored
from robustbench_cli.benchmarks.evaluation.statistics.paired import compare_paired

__all__ = ["PGDOnSurrogate", "Stronger", "second_attack", "second_attack_passes"]

_FIRST_PART = 50
"""The images of a randomized model after which a second attack stops unless it breaks more on them."""

_LEVEL = 0.001
"""The probability of a false alarm, if the second attack breaks no more than what is allowed."""


class PGDOnSurrogate(PGD):
    """PGD on another model; its images are scored on the attacked one."""

    surrogate: Any = Field(repr=False, description="the other model")

    def queried_model(self, model: nn.Module) -> nn.Module:
        surrogate: nn.Module = self.surrogate
        return surrogate


class Stronger(NamedTuple):
    """A second attack that breaks clearly more than the baseline.

    Attributes:
        evidence: What it breaks.
        figures: The same by name.
    """

    evidence: str
    figures: dict[str, float]


def second_attack(probe: ModelProbe, attack: Attack, *, allowed: float) -> Stronger | None:
    """Runs a second attack, and tests whether it breaks clearly more than the baseline.

    On a deterministic model it runs on images that the baseline left. An exact binomial test at level 0.001 asks whether it
    breaks more than ``allowed`` of them. On a randomized model the images that the baseline left in some draws are a biased
    selection, so it runs on the first images whether they are broken or not, and a paired test at level 0.001 on the same
    held-out draws asks whether it leaves less. First it runs on 50 images, and stops there if it does not leave less. This
    adds no false alarm, and it misses few of the gaps that the test can find: of 100 images the second attack must break 11 to 13
    more, and none of these is among 50 with a probability below 0.001.

    Args:
        probe: The model and the images.
        attack: The second attack.
        allowed: The share of the images left that a weaker attack may break.

    Returns:
        ``None`` where it does not, and where the baseline leaves next to nothing.
    """
    outcomes = probe.baseline.outcomes
    right = outcomes.worst_right
    if right.mean() <= NEAR_ZERO * outcomes.clean_right.mean():
        return None
    if probe.randomized:
        for rows in map(torch.arange, _parts(probe)):
            before, after = scored(outcomes, slice(len(rows))), scored(probe.evaluate(attack, rows).outcomes)
            comparison = compare_paired(before, after)
            if comparison.difference <= 0:
                return None
        if comparison.p_value >= _LEVEL:
            return None
        return Stronger(
            f"leaves {after.accuracy:.3f} of {len(rows)} images, and {probe.baseline_name} leaves {before.accuracy:.3f}",
            {"robust_accuracy_second": after.accuracy, "robust_accuracy": before.accuracy},
        )
    rows = torch.from_numpy(right.all(axis=0)).nonzero()[: probe.second_attack_images, 0]
    left = scored(probe.evaluate(attack, rows).outcomes)
    broken = round(len(rows) * (1 - left.accuracy))
    if _upper_tail(broken, len(rows), allowed) >= _LEVEL:
        return None
    return Stronger(
        f"breaks {broken} of {len(rows)} images that {probe.baseline_name} left",
        {"broken": broken, "left": len(rows)},
    )


def second_attack_passes(probe: ModelProbe, attack: Attack) -> int:
    """The cost of :func:`second_attack`; see :meth:`~.check.Check.passes`.

    Args:
        probe: The model and the images.
        attack: The second attack.
    """
    return sum(probe.passes_of(attack, count) for count in _parts(probe))


def _parts(probe: ModelProbe) -> list[int]:
    """The numbers of images on which a second attack runs one after the other."""
    images = probe.second_attack_images
    return [_FIRST_PART, images] if probe.randomized and images > _FIRST_PART else [images]


def _upper_tail(successes: int, trials: int, share: float) -> float:
    """The probability of at least so many successes."""
    from scipy.special import bdtrc

    return 1.0 if successes == 0 else float(bdtrc(successes - 1, trials, share))
