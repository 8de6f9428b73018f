"""Randomized smoothing: radii in l2 inside of which no attack changes the vote of noisy draws."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy import stats
from torch import Tensor, nn

from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.models.freezing import frozen, frozen_on
from robustbench_cli.attacks.base.models.measured_model import MeasuredModel
from robustbench_cli.attacks.base.models.passes import BatchSize
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import preserve_generators, seed_from, seeded
from robustbench_cli.benchmarks.certification.certificates import Certificates
from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel
from robustbench_cli.benchmarks.devices import automatic_batch_size, keep_freed_memory
from robustbench_cli.benchmarks.evaluation.statistics import Floats
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses import registry as defenses
from robustbench_cli.defenses.gaussian_noise import GaussianNoise
from robustbench_cli.defenses.randomized_smoothing import RandomizedSmoothing, base_classifier

__all__ = ["Sampled", "Smoothing", "certificates", "lower_bound", "sampled"]

Integers = NDArray[np.int64]


class Sampled(BaseModel):
    """What the draws of one image gave.

    Attributes:
        place: Of the image in the data slice.
        top: The class that the first ``n0`` draws chose; -1 where that was none.
        count: How many of the further ``samples`` draws were of it.
        seconds: Wall time.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    place: int
    top: int
    count: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Smoothing:
    """How a classifier is smoothed and its vote is sampled.

    Attributes:
        sigma: Standard deviation of the noise, in pixel values, above 0.
        n0: Draws that choose the class to certify, at least 1.
        samples: Further draws that bound its probability, at least 1.

    Raises:
        UserError: One of them is not what it must be.
    """

    norm: ClassVar[Norm] = "l2"
    record: ClassVar[type[Sampled]] = Sampled

    sigma: float
    n0: int = 100
    samples: int = 10_000

    def __post_init__(self) -> None:
        if not (math.isfinite(self.sigma) and self.sigma > 0):
            raise UserError(f"sigma is {self.sigma:g}: give the noise's standard deviation, above 0, such as 0.25")
        for name, number in (("n0", self.n0), ("samples", self.samples)):
            if number < 1:
                raise UserError(f"{name} is {number}: give a number of draws, at least 1")

    def largest_radius(self, alpha: float) -> float:
        """The radius where every draw is of one class; negative where even that certifies nothing."""
        return self.sigma * float(stats.norm.ppf(lower_bound(np.array([self.samples]), self.samples, alpha=alpha)[0]))

    @property
    def words(self) -> dict[str, Any]:
        """What tells it from others of its kind."""
        return dict(vars(self))

    @property
    def passes(self) -> int:
        """Forward passes that an image costs."""
        return self.n0 + self.samples

    def flags(self, defended: DefendedModel) -> list[str]:
        """What speaks against certifying a model so: names of :data:`~.certification.CERTIFICATE_FLAGS`."""
        trained = set()
        for each in defended.defenses:
            kind = defenses.load(each.name)
            if issubclass(kind, RandomizedSmoothing):
                trained.add(each.parameters["sigma"])
            elif issubclass(kind, GaussianNoise):
                trained.add(kind.model_validate(each.parameters).sigma_of_images)
        if not trained - {0}:
            return ["no-noise-training"]
        return [] if self.sigma in trained else ["other-noise"]

    def require(self, model: nn.Module, images: Tensor) -> None:
        """Makes sure that a defended model is of a kind that can be certified; see :func:`sampled`.

        Args:
            model: May be untrained.
            images: ``(N, C, H, W)`` in [0, 1], N >= 1, on which its draws are measured.
        """
        base = base_classifier(model)
        with frozen(base), seeded(0):
            _require_own_draws(MeasuredModel(base, images))

    def examined(
        self,
        model: nn.Module,
        images: Tensor,
        *,
        places: Sequence[int],
        seed: int,
        device: torch.device,
        batch_size: int | None,
    ) -> Iterator[Sampled]:
        """The draws of images around a defended model without the noise of its own smoothing; see :func:`sampled`."""
        base = base_classifier(model)
        return sampled(base, images, self, places=places, seed=seed, device=device, batch_size=batch_size)

    def certificates(self, records: Sequence[Sampled], *, alpha: float) -> Certificates:
        """What is certified; see :func:`certificates`."""
        return certificates(records, self, alpha=alpha)


def lower_bound(successes: Integers, trials: int, *, alpha: float) -> Floats:
    """The one-sided lower bound of Clopper and Pearson (1934) for a probability, wrong with chance alpha at most.

    Args:
        successes: ``(N,)`` in 0 to ``trials``.
        trials: Of each.
        alpha: In (0, 1).

    Raises:
        UserError: Alpha is not inside (0, 1).
    """
    if not 0 < alpha < 1:
        raise UserError(f"alpha is {alpha:g}: give the chance of a wrong certificate, between 0 and 1, such as 0.001")
    # Where there is no success, the distribution is none and the bound is 0.
    some = np.maximum(successes, 1)
    return np.asarray(np.where(successes > 0, stats.beta.ppf(alpha, some, trials - some + 1), 0.0))


def sampled(
    model: nn.Module,
    images: Tensor,
    smoothing: Smoothing,
    *,
    places: Sequence[int] | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    batch_size: int | None = None,
) -> Iterator[Sampled]:
    """Samples the vote on images one after the other: the two samplings of CERTIFY (Cohen et al., Section 3.2.2).

    The noise of an image follows from the seed and its place alone. It is the same for every batch size, and other on a
    CPU than on a GPU.

    Args:
        model: The classifier to smooth: images ``(N, C, H, W)``, here not cut to [0, 1], to logits ``(N, K)``. It is
            left as it was.
        images: ``(N, C, H, W)`` in [0, 1].
        smoothing: The noise and the numbers of draws.
        places: Of the images, in their order; 0 to N - 1 where not given.
        seed: Of all draws.
        device: Where to compute.
        batch_size: Rows that pass through the model at once; chosen for the device where not given.

    Raises:
        UserError: The rows of one pass share what the model draws for itself.
    """
    device, shape = torch.device(device), tuple(images.shape[1:])
    keep_freed_memory()
    noise = _Noise(shape, device=device, batch_size=batch_size)
    with preserve_generators(), frozen_on(model, device, images[:4]):
        measured = MeasuredModel(model, images[:8].to(device), BatchSize(batch_size or noise.block))
        _require_own_draws(measured)
        source = measured.source(1)
        for place, image in zip(range(len(images)) if places is None else places, images, strict=True):
            started = time.perf_counter()
            # What the model draws for itself is the image's own too.
            batches = noise.around(image.to(device), smoothing, seed_from(seed, "certify", place))
            seen = _decisions(source, batches, seed_from(seed, "certify", place, "model"))
            chosen, counted = np.split(seen + 1, [smoothing.n0])
            top = int(np.bincount(chosen).argmax()) - 1
            count = int((counted == top + 1).sum())
            yield Sampled(place=place, top=top, count=count, seconds=time.perf_counter() - started)


def _require_own_draws(measured: MeasuredModel) -> None:
    """Makes sure that each row of a pass draws for itself.

    Raises:
        UserError: They share draws.
    """
    if measured.rows_share_draws:
        raise UserError(
            "the rows of one pass share what this model draws, so that its draws are not independent and nothing can be "
            "certified: let it draw for each row"
        )


def _decisions(source: GradientSource, batches: Iterator[Tensor], seed: int) -> Integers:
    """The classes of all rows, -1 where there is none; decided and brought from the device at once, since each costs."""
    answers: list[Tensor] = []
    done = 0
    for rows in batches:
        source.bind_draws(seed, torch.arange(done, done + len(rows), device=rows.device))
        answers.append(source.logits(rows))
        done += len(rows)
    logits = torch.cat(answers, dim=1)
    return np.asarray(source.decisions_of(logits)[0].clamp_min(-1).cpu().numpy())


class _Noise:
    """Noisy copies of images, in one piece of memory that is filled again and again.

    Args:
        shape: ``(C, H, W)``.
        device: Where.
        batch_size: Rows to hold at once where that is more than a block.

    Attributes:
        block: Rows that are drawn at once: the device and the shape say how many, and so what numbers they get.
    """

    def __init__(self, shape: tuple[int, ...], *, device: torch.device, batch_size: int | None) -> None:
        channels, height, width = shape
        self.block = automatic_batch_size(device, shape)
        self._held = self.block * max(1, (batch_size or 0) // self.block)
        self._memory = torch.empty(self._held, height, width, channels, device=device)
        self._generator = torch.Generator(device)

    def around(self, image: Tensor, smoothing: Smoothing, seed: int) -> Iterator[Tensor]:
        """All draws of an image ``(C, H, W)`` in batches ``(B, C, H, W)``, each of use until the next is asked for."""
        self._generator.manual_seed(seed)
        total, centre = smoothing.n0 + smoothing.samples, image.permute(1, 2, 0)
        for start in range(0, total, self._held):
            rows = self._memory[: total - start]
            for block in rows.split(self.block):
                # Channels innermost: the model's layout, in which torch draws many numbers at once too.
                block.normal_(0, smoothing.sigma, generator=self._generator).add_(centre)
            yield rows.permute(0, 3, 1, 2)


def certificates(images: Sequence[Sampled], smoothing: Smoothing, *, alpha: float) -> Certificates:
    """CERTIFY of Cohen et al.: the radius ``sigma * Phi^-1(p)`` for a lower bound p of the chosen class's probability.

    Where p is below 1/2, or the chosen class is none, it abstains.

    Args:
        images: Their draws.
        smoothing: How they were drawn.
        alpha: The chance in (0, 1) that a certificate may be wrong.

    Raises:
        UserError: Alpha is not inside (0, 1).
    """
    top = np.array([image.top for image in images], dtype=np.int64)
    count = np.array([image.count for image in images], dtype=np.int64)
    least = lower_bound(count, smoothing.samples, alpha=alpha)
    certain = (least >= 0.5) & (top >= 0)
    radius = smoothing.sigma * stats.norm.ppf(np.where(certain, least, 0.5))
    return Certificates(predicted=np.where(certain, top, -1), radius=radius)
