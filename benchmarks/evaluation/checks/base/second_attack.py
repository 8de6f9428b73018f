"""Whether a second attack breaks more than the baseline attack of a probe, which has full access to the model."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from robustbench_cli.attacks.base.attack import Attack
from robustbench_cli.attacks.base.gradients.draws import EOTChoice
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.benchmarks.evaluation.checks.base.model_probe import ModelProbe
from robustbench_cli.benchmarks.evaluation.checks.base.row_group import NEAR_ZERO, scored
from robustbench_cli.benchmarks.evaluation.statistics.paired import ScoredDraws, p_value_of_a_lead

__all__ = ["PGDOnSurrogate", "Stronger", "compared_on_first_images", "second_attack", "second_attack_passes"]

_FIRST_PART = 50
"""The images of a randomized model after which a second attack stops unless it promises more; see :data:`_PROMISING`."""

_PROMISING = 0.03
"""By how much a second attack must lower the accuracy of the first images to run on the others.

A test finds a fall by about 0.1 on 100 images, and of eleven images that only the second attack breaks, at most one is among the
first 50 with a probability below 0.005. An attack that is no stronger stops in four of five audits.
"""

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


def second_attack(
    probe: ModelProbe, attack: Attack, *, allowed: float, restarted: Attack | None = None
) -> Stronger | None:
    """Runs a second attack, and tests whether it breaks clearly more than the baseline.

    On a deterministic model it runs on images that the baseline left. An exact binomial test at level 0.001 asks whether it
    breaks more than ``allowed`` of them. If so, ``restarted`` runs on the same images, and the test is repeated on those that it
    leaves too: a baseline from a single start leaves some images by chance, which is no fault of the gradients.

    On a randomized model the images that the baseline left in some draws are a biased selection. So the second attack runs on
    the first images, broken or not, and a paired test at level 0.001 asks whether it leaves less; see
    :func:`compared_on_first_images`.

    Args:
        probe: The model and the images.
        attack: The second attack.
        allowed: The share of the images left that a weaker attack may break.
        restarted: An attack with the baseline's access and with restarts, for deterministic models.

    Returns:
        ``None`` where it does not, and where the baseline leaves next to nothing.
    """
    outcomes = probe.baseline.outcomes
    right = outcomes.worst_right
    if right.mean() <= NEAR_ZERO * outcomes.clean_right.mean():
        return None
    if probe.randomized:
        pair = compared_on_first_images(probe, attack)
        if pair is None or p_value_of_a_lead(*pair, level=_LEVEL) >= _LEVEL:
            return None
        before, after = pair
        return Stronger(
            f"leaves {after.accuracy:.3f} of {len(after.shares)} images, and {probe.baseline_name} leaves {before.accuracy:.3f}",
            {"robust_accuracy_second": after.accuracy, "robust_accuracy": before.accuracy},
        )
    rows = torch.from_numpy(right.all(axis=0)).nonzero()[: probe.second_attack_images, 0]
    broken, baseline = _broken(probe, attack, rows), probe.baseline_name
    if restarted is not None and _breaks_more(broken, allowed):
        broken = broken[~_broken(probe, restarted, rows)]
        baseline += " and an attack with restarts"
    if not _breaks_more(broken, allowed):
        return None
    return Stronger(
        f"breaks {broken.sum()} of {len(broken)} images that {baseline} left",
        {"broken": int(broken.sum()), "left": len(broken)},
    )


def _broken(probe: ModelProbe, attack: Attack, rows: Tensor) -> NDArray[np.bool_]:
    """``(n,)``: whether an attack breaks each of the images ``rows`` ``(n,)`` of a deterministic model."""
    return np.asarray(~scored(probe.evaluate(attack, rows).outcomes).right.all(axis=0))


def _breaks_more(broken: NDArray[np.bool_], allowed: float) -> bool:
    """Whether more than ``allowed`` of the images are broken, by an exact binomial test at level 0.001."""
    return _upper_tail(int(broken.sum()), len(broken), allowed) < _LEVEL


def compared_on_first_images(
    probe: ModelProbe, attack: Attack, *, eot: EOTChoice = "auto"
) -> tuple[ScoredDraws, ScoredDraws] | None:
    """Runs a second attack on the first images of a randomized model, of which each pass costs as many as it has draws.

    It runs on 50 images, and on the others only if it lowers their accuracy by at least 0.03. To stop adds no false alarm.

    Args:
        probe: The model and the images.
        attack: The second attack.
        eot: Its draws per gradient.

    Returns:
        What the baseline left of these images, and what the second attack left; ``None`` if it stopped.
    """
    first, right = min(_FIRST_PART, probe.second_attack_images), []
    for rows in filter(len, torch.arange(probe.second_attack_images).tensor_split([first])):
        outcomes = probe.evaluate(attack, rows, eot=eot).outcomes
        right.append(scored(outcomes).right)
        after = ScoredDraws(right=np.concatenate(right, axis=1), shared=bool(outcomes.draws_shared))
        before = scored(probe.baseline.outcomes, slice(after.right.shape[1]))
        if before.accuracy - after.accuracy < _PROMISING:
            return None
    return before, after


def second_attack_passes(probe: ModelProbe, attack: Attack) -> int:
    """The cost of :func:`second_attack`; see :meth:`~.check.Check.passes`.

    Args:
        probe: The model and the images.
        attack: The second attack.
    """
    return probe.passes_of(attack, probe.second_attack_images)


def _upper_tail(successes: int, trials: int, share: float) -> float:
    """The probability of at least that many successes."""
    from scipy.special import bdtrc

    return 1.0 if successes == 0 else float(bdtrc(successes - 1, trials, share))
