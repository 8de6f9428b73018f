"""Certificates by randomized smoothing: l2 radii within which no attack changes the vote of noisy draws."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy import stats
from torch import Tensor, nn

from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.models.freezing import frozen
from robustbench_cli.attacks.base.models.measured_model import MeasuredModel
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import preserve_generators, seed_from, seeded
from robustbench_cli.benchmarks.certification.certificates import Certificates
from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel
from robustbench_cli.benchmarks.devices import automatic_batch_size, keep_freed_memory
from robustbench_cli.benchmarks.evaluation.pass_settings import measured_on
from robustbench_cli.benchmarks.evaluation.statistics.intervals import Floats
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses import registry as defenses
from robustbench_cli.defenses.gaussian_noise import GaussianNoise
from robustbench_cli.defenses.randomized_smoothing import RandomizedSmoothing, base_classifier

__all__ = ["Smoothing", "VoteCounts", "certificates", "lower_bound", "sample_votes"]

Integers = NDArray[np.int64]


class VoteCounts(BaseModel):
    """The votes of one image's noisy draws. The stored file has one line for each.

    Attributes:
        index: The image's index in the data slice; ``place`` in the file.
        top: The most frequent class of the first ``n0`` draws; -1 where most of them have no class.
        count: How many of the ``samples`` further draws are of that class.
        seconds: Wall time.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    index: int = Field(alias="place")
    top: int
    count: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Smoothing:
    """Certification by randomized smoothing: the noise, and the numbers of draws.

    Attributes:
        sigma: Standard deviation of the noise, in pixel values, above 0.
        n0: Draws that select the class to certify, at least 1.
        samples: Further draws that bound the probability of that class, at least 1.

    Raises:
        UserError: sigma, n0 or samples is out of range.
    """

    norm: ClassVar[Norm] = "l2"
    record: ClassVar[type[VoteCounts]] = VoteCounts
    name: ClassVar[str] = "smoothing"

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
        """The radius of an image whose draws are all of one class. Below 0, no image can be certified."""
        return self.sigma * float(stats.norm.ppf(lower_bound(np.array([self.samples]), self.samples, alpha=alpha)[0]))

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters that are part of the stored identity."""
        return dict(vars(self))

    @property
    def passes(self) -> int:
        """Forward passes per image."""
        return self.n0 + self.samples

    def flags(self, defended: DefendedModel) -> list[str]:
        """The names of the :data:`~.procedures.CERTIFICATE_FLAGS` that apply to a model."""
        trained = set()
        for spec in defended.defenses:
            kind = defenses.load(spec.name)
            if issubclass(kind, RandomizedSmoothing):
                trained.add(spec.parameters["sigma"])
            elif issubclass(kind, GaussianNoise):
                trained.add(kind.model_validate(spec.parameters).sigma_of_images)
        if not trained - {0}:
            return ["no-noise-training"]
        return [] if self.sigma in trained else ["other-noise"]

    def require(self, model: nn.Module, images: Tensor) -> None:
        """Checks that a defended model can be certified.

        Args:
            model: It may be untrained.
            images: ``(N, C, H, W)`` in [0, 1], N >= 1, on which its randomness is measured.

        Raises:
            UserError: The rows of a batch share the model's random draws.
        """
        base = base_classifier(model)
        with frozen(base), seeded(0):
            _require_independent_draws(MeasuredModel(base, images))

    def examine(
        self,
        model: nn.Module,
        images: Tensor,
        *,
        indices: Sequence[int],
        seed: int,
        device: torch.device,
        batch_size: int | None,
    ) -> Iterator[VoteCounts]:
        """Samples the votes of a defended model without its own smoothing noise; see :func:`sample_votes`."""
        base = base_classifier(model)
        return sample_votes(base, images, self, indices=indices, seed=seed, device=device, batch_size=batch_size)

    def certificates(self, records: Sequence[VoteCounts], *, alpha: float) -> Certificates:
        """The certificates that follow from the records; see :func:`certificates`."""
        return certificates(records, self, alpha=alpha)


def lower_bound(successes: Integers, trials: int, *, alpha: float) -> Floats:
    """The one-sided lower confidence bound for a probability.

    Args:
        successes: ``(N,)`` in 0 to ``trials``.
        trials: The number of trials behind each entry.
        alpha: The bound exceeds the probability with a chance of at most alpha, in (0, 1).

    Returns:
        ``(N,)`` bounds.

    Raises:
        UserError: alpha is not in (0, 1).

    Source: Clopper and Pearson (1934).
    """
    if not 0 < alpha < 1:
        raise UserError(f"alpha is {alpha:g}: give the chance of a wrong certificate, between 0 and 1, such as 0.001")
    # The beta distribution is not defined for 0 successes; the bound is 0 then.
    positive = np.maximum(successes, 1)
    return np.asarray(np.where(successes > 0, stats.beta.ppf(alpha, positive, trials - positive + 1), 0.0))


def sample_votes(
    model: nn.Module,
    images: Tensor,
    smoothing: Smoothing,
    *,
    indices: Sequence[int] | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    batch_size: int | None = None,
) -> Iterator[VoteCounts]:
    """Samples the votes of the smoothed model, image by image.

    The noise of an image depends only on the seed and the image's index. It is the same for every batch size, and
    differs between a CPU and a GPU.

    Args:
        model: The base classifier: images ``(N, C, H, W)``, not clipped to [0, 1], to logits ``(N, K)``. It stays
            unchanged.
        images: ``(N, C, H, W)`` in [0, 1].
        smoothing: The noise and the numbers of draws.
        indices: The images' indices in the data slice; 0 to N - 1 by default.
        seed: The seed of all draws.
        device: The device to compute on.
        batch_size: Rows per forward pass; chosen for the device by default.

    Yields:
        The votes of each image, in the order of the images.

    Raises:
        UserError: The rows of a batch share the model's random draws.

    Source: the two sampling steps of CERTIFY, Cohen, Rosenfeld and Kolter (ICML 2019), Section 3.2.2.
    """
    device, shape = torch.device(device), tuple(images.shape[1:])
    keep_freed_memory()
    rows = len(images) * smoothing.passes
    with (
        preserve_generators(),
        measured_on(model, images, device, "float32", batch_size=batch_size, rows=rows) as measured,
    ):
        noise = _Noise(shape, device=device, batch_size=measured.size.rows)
        _require_independent_draws(measured)
        source = measured.source(1)
        for index, image in zip(range(len(images)) if indices is None else indices, images, strict=True):
            started = time.perf_counter()
            # The model's own draws depend on the image's index too.
            batches = noise.around(image.to(device), smoothing, seed_from(seed, "certify", index))
            # Classes are shifted by one, since np.bincount takes no -1.
            votes = _decisions(source, batches, seed_from(seed, "certify", index, "model")) + 1
            selection, estimation = np.split(votes, [smoothing.n0])
            top = int(np.bincount(selection).argmax())
            count = int((estimation == top).sum())
            yield VoteCounts(index=index, top=top - 1, count=count, seconds=time.perf_counter() - started)


def _require_independent_draws(measured: MeasuredModel) -> None:
    """Checks that each row of a batch has its own random draw.

    Raises:
        UserError: The rows share draws.
    """
    if measured.rows_share_draws:
        raise UserError(
            "the rows of one pass share what this model draws, so that its draws are not independent and nothing can be "
            "certified: let it draw for each row"
        )


def _decisions(source: GradientSource, batches: Iterator[Tensor], seed: int) -> Integers:
    """The predicted classes of all rows, -1 where a row has none.

    All logits are decided and copied from the device at once, since each copy waits for the device.
    """
    outputs: list[Tensor] = []
    done = 0
    for rows in batches:
        source.bind_draws(seed, torch.arange(done, done + len(rows), device=rows.device))
        outputs.append(source.logits(rows))
        done += len(rows)
    logits = torch.cat(outputs, dim=1)
    return np.asarray(source.decisions_of(logits)[0].clamp_min(-1).cpu().numpy())


class _Noise:
    """Noisy copies of images, in one buffer that is reused for every batch.

    Args:
        shape: ``(C, H, W)``.
        device: The device of the buffer.
        batch_size: Rows in the buffer, where that is more than one block.

    Attributes:
        block: Rows that are drawn at once. It depends on the device and the shape only, and so do the random numbers.
    """

    def __init__(self, shape: tuple[int, ...], *, device: torch.device, batch_size: int | None) -> None:
        channels, height, width = shape
        self.block = automatic_batch_size(device, shape)
        self._rows = self.block * max(1, (batch_size or 0) // self.block)
        self._buffer = torch.empty(self._rows, height, width, channels, device=device)
        self._generator = torch.Generator(device)

    def around(self, image: Tensor, smoothing: Smoothing, seed: int) -> Iterator[Tensor]:
        """Draws the noisy copies of an image.

        Args:
            image: ``(C, H, W)``.
            smoothing: The noise and the numbers of draws.
            seed: The seed of the noise.

        Yields:
            Batches ``(B, C, H, W)``. The next batch overwrites the one before it.
        """
        self._generator.manual_seed(seed)
        total, center = smoothing.n0 + smoothing.samples, image.permute(1, 2, 0)
        for start in range(0, total, self._rows):
            rows = self._buffer[: total - start]
            for block in rows.split(self.block):
                # Channels last: it is the model's layout, and torch fills contiguous memory fastest.
                block.normal_(0, smoothing.sigma, generator=self._generator).add_(center)
            yield rows.permute(0, 3, 1, 2)


def certificates(records: Sequence[VoteCounts], smoothing: Smoothing, *, alpha: float) -> Certificates:
    """The certified radius ``sigma * Phi^-1(p)``, where p is the lower confidence bound of the top class's probability.

    It abstains where p is below 1/2, or where most draws have no class.

    Args:
        records: The votes of each image.
        smoothing: How the draws were made.
        alpha: The chance in (0, 1) that a certificate is wrong.

    Raises:
        UserError: alpha is not in (0, 1).

    Source: CERTIFY, Cohen, Rosenfeld and Kolter (ICML 2019).
    """
    top = np.array([record.top for record in records], dtype=np.int64)
    count = np.array([record.count for record in records], dtype=np.int64)
    probability = lower_bound(count, smoothing.samples, alpha=alpha)
    certain = (probability >= 0.5) & (top >= 0)
    radius = smoothing.sigma * stats.norm.ppf(np.where(certain, probability, 0.5))
    return Certificates(predicted=np.where(certain, top, -1), radius=radius)
