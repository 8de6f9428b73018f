"""The spectrum simulation attack."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from robustbench_cli.attacks.base.cosine_transform import CosineTransform
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.search.copies import chunks_of, mean_gradient
from robustbench_cli.attacks.base.threat import Threat
from robustbench_cli.attacks.mi_fgsm import MIFGSM

__all__ = ["SSA"]


class SSA(MIFGSM):
    """MI-FGSM with the mean gradient over copies whose spectra are changed at random.

    A copy is the image plus normal noise, and each of its discrete cosine coefficients is multiplied by a number that is uniform
    around 1 (equation 7 of the paper). As in the authors' code, the gradient is that at the copies, without the derivative of
    the transformation. With momentum this is the paper's S2I-MI-FGSM; with ``decay`` 0 it is S2I-FGSM.
    """

    paper: ClassVar[str] = (
        "Long, Zhang, Zeng, Gao, Liu, Zhang, Song: Frequency Domain Model Augmentation for Adversarial Attack. ECCV 2022, "
        "arXiv 2207.05382"
    )

    spectra: int = Field(20, ge=1, description="copies at each step, each of which takes a pass (N in the paper)")
    sigma: float = Field(1.0, ge=0, description="standard deviation of the noise, as a multiple of eps")
    rho: float = Field(0.5, ge=0, lt=1, description="largest relative change of a coefficient")

    def gradient(
        self, source: GradientSource, points: Tensor, labels: Tensor, threat: Threat, random: Random
    ) -> Tensor:
        transform = CosineTransform(points)
        width = (self.sigma * threat.eps).to(points.dtype)[:, None, None, None, None]

        def chunks() -> Iterator[tuple[Tensor, list[float]]]:
            for count in chunks_of(self.spectra):
                shape = (count, *points.shape[1:])
                noisy = (points.unsqueeze(1) + width * random.normal(shape)).flatten(0, 1)
                factors = 1 + self.rho * (2 * random.uniform(shape) - 1).flatten(0, 1)
                copies = transform.inverse(transform(noisy) * factors)
                yield copies.view(-1, *shape), [1.0] * count

        return mean_gradient(source, chunks(), labels)
