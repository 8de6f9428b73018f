"""Plans an evaluation: how many images and draws a difference between two accuracies needs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import NormalDist

from robustbench_cli.core.errors import UserError

__all__ = ["ComparisonPlan", "images_needed", "mcnemar_power"]

_normal = NormalDist()


@dataclass(frozen=True, kw_only=True)
class ComparisonPlan:
    """What is compared, and how surely.

    Attributes:
        accuracy: The higher accuracy, in (0, 1].
        difference: By how much the other is lower, in (0, accuracy].
        disagreement: The share of images on which one draw of one model is right and one draw of the other is wrong; by
            default that of independent answers. Where one model's hard images are hard for the other too, it is less.
        draw_variance: The share of an answer's variance that comes from the draws; see
            :func:`~.protocols.draw_variance`. 0 for a deterministic model.
        level: The probability of a difference where there is none.
        power: The probability to find the difference.
    """

    accuracy: float
    difference: float
    disagreement: float | None = None
    draw_variance: float = 0.0
    level: float = 0.05
    power: float = 0.8

    def __post_init__(self) -> None:
        """Checks that there are models with these figures.

        Raises:
            UserError: There are none.
        """
        if not 0 < self.difference <= self.accuracy <= 1:
            raise UserError(
                f"a difference of {self.difference:g} below an accuracy of {self.accuracy:g} is not possible: both are shares, and the "
                "difference is above 0 and at most the accuracy"
            )
        least = max(self.difference, self.difference**2 + self.draw_variance * self._own_variance)
        if self.disagreement is not None and not least <= self.disagreement <= self._most_disagreement:
            raise UserError(
                f"a disagreement of {self.disagreement:g} is not possible: with these accuracies and draws it is from {least:.4g} to "
                f"{self._most_disagreement:.4g}"
            )

    @property
    def lower(self) -> float:
        """The lower accuracy."""
        return self.accuracy - self.difference

    @property
    def independent_disagreement(self) -> float:
        """The disagreement of independent answers."""
        return self.accuracy * (1 - self.lower) + self.lower * (1 - self.accuracy)

    @property
    def _own_variance(self) -> float:
        """The sum of both answers' variances."""
        return self.accuracy * (1 - self.accuracy) + self.lower * (1 - self.lower)

    @property
    def _most_disagreement(self) -> float:
        return min(self.accuracy + self.lower, 2 - self.accuracy - self.lower)

    @property
    def assumed_disagreement(self) -> float:
        """The disagreement, given or of independent answers."""
        return self.independent_disagreement if self.disagreement is None else self.disagreement

    @property
    def one_draw_variance(self) -> float:
        """The variance of an image's difference, with one draw of each model."""
        return self.assumed_disagreement - self.difference**2

    def variance(self, repeats: int) -> float:
        """The variance of an image's difference.

        Further draws make the part smaller that comes from draws, and leave the part that comes from the images.

        Args:
            repeats: The number of draws of each model.
        """
        return self.one_draw_variance - self.draw_variance * self._own_variance * (1 - 1 / repeats)


def images_needed(plan: ComparisonPlan, *, repeats: int = 1, paired: bool = True) -> int:
    """The number of images with which a two-sided test finds a difference.

    Paired: the sample size of Connor (Biometrics 43, 1987) for the test of McNemar, whose variances are those of the images'
    differences: ``(z_a sqrt(v + d^2) + z_b sqrt(v))^2 / d^2``. For deterministic models it is raised until the exact test has
    the power, see :func:`mcnemar_power`. Unpaired, with other images for each model: the usual formula for two shares (Fleiss,
    Statistical Methods for Rates and Proportions, 1981, section 3.2, without the correction for continuity).

    Args:
        plan: What is compared.
        repeats: The number of draws of each model.
        paired: Whether both models are evaluated on the same images.

    Returns:
        The number of images, of each model if they are not the same.

    >>> images_needed(ComparisonPlan(accuracy=0.5, difference=0.05, disagreement=0.2))
    659
    >>> images_needed(ComparisonPlan(accuracy=0.5, difference=0.05), paired=False)
    1565
    """
    difference = plan.difference
    # Other images have nothing in common that cancels.
    variance = (plan if paired else replace(plan, disagreement=None)).variance(repeats)
    # Where both accuracies are equal, the mean of their squared difference is all variance.
    variance_of_equal = variance + difference**2 * (1 if paired else 0.5)
    quantiles = _normal.inv_cdf(1 - plan.level / 2), _normal.inv_cdf(plan.power)
    root = quantiles[0] * math.sqrt(variance_of_equal) + quantiles[1] * math.sqrt(variance)
    images = math.ceil((root / difference) ** 2)
    if paired and repeats == 1 and plan.draw_variance == 0:
        while mcnemar_power(plan, images) < plan.power:
            images += max(1, images // 200)
    return images


def mcnemar_power(plan: ComparisonPlan, images: int) -> float:
    """The power of the exact test of McNemar with two deterministic models, summed over the number of images that differ.

    Args:
        plan: What is compared.
        images: The number of images.

    >>> f"{mcnemar_power(ComparisonPlan(accuracy=0.5, difference=0.05, disagreement=0.2), 659):.3f}"
    '0.801'
    """
    import numpy as np
    from scipy.special import bdtr
    from scipy.stats import binom

    disagreement = plan.assumed_disagreement
    center, half = images * disagreement, 8 * math.sqrt(images * disagreement) + 1
    differing = np.arange(max(0, math.floor(center - half)), min(images, math.ceil(center + half)) + 1)
    # The most wins of one model with which the test says that the other is better; -1 where no number is small enough.
    most = binom.ppf(plan.level / 2, differing, 0.5)
    most -= bdtr(most, differing, 0.5) > plan.level / 2
    wins = (disagreement - plan.difference) / (2 * disagreement)
    rejected = np.where(most >= 0, bdtr(most, differing, wins) + bdtr(most, differing, 1 - wins), 0.0)
    return float(binom.pmf(differing, images, disagreement) @ rejected)
