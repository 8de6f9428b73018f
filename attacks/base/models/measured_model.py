"""A model with its measured properties, which makes its gradient sources."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar, cast

from torch import Tensor, nn

from robustbench_cli.attacks.base.gradients.draws import Draws, EOTChoice, resolve_eot
from robustbench_cli.attacks.base.gradients.eot import gradient_source
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.models.enumerable_draws import cost_of_all_draws, enumeration_is_wrong
from robustbench_cli.attacks.base.models.logit_noise import noise_of
from robustbench_cli.attacks.base.models.passes import BatchSize, single_pass
from robustbench_cli.attacks.base.models.precision import Precision
from robustbench_cli.attacks.base.models.probes import cut_at_edges, fails_in_bf16, is_randomized
from robustbench_cli.attacks.base.models.row_draws import RowDraws

__all__ = ["MeasuredModel"]

Value = TypeVar("Value")


@dataclass(frozen=True, eq=False)
class MeasuredModel:
    """A model and its measured properties; a defense's own description may be wrong.

    Each property is measured at its first use and then cached.

    Attributes:
        model: Images ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``, frozen (see
            :func:`~robustbench_cli.attacks.base.models.freezing.frozen`).
        images: ``(N, C, H, W)`` in [0, 1], N >= 1, for the measurements; the first eight are used.
        size: The batch size, shared with the gradient sources.
        known: What has been measured, by the name of the measurement and its parameters.
        shared: Measurements of equal deterministic models on the same images and device, in the same memory layout and batch
            size. They are not repeated, and new ones are added.
    """

    model: nn.Module
    images: Tensor
    size: BatchSize = field(default_factory=BatchSize)
    known: dict[Hashable, Any] = field(default_factory=dict)
    shared: dict[Hashable, Any] = field(default_factory=dict)

    def once(self, key: Hashable, measure: Callable[[], Value], *, at_start: bool = False) -> Value:
        """A measurement, which is made at its first use.

        Args:
            key: Its name and its parameters.
            measure: Makes it.
            at_start: Whether it is made before an attack, so that it is the same for equal models; see :attr:`shared`.
        """
        if key not in self.known:
            if at_start and key in self.shared:
                self.known[key] = self.shared[key]
            else:
                self.known[key] = measure()
                # What is measured of a randomized model depends on its draws.
                if at_start and self.known.get("randomized") is False:
                    self.shared[key] = self.known[key]
        return cast("Value", self.known[key])

    @property
    def randomized(self) -> bool:
        """See :func:`~robustbench_cli.attacks.base.models.probes.is_randomized`."""
        return self.once("randomized", lambda: is_randomized(self.model, self.images, size=self.size), at_start=True)

    @property
    def row_draws(self) -> RowDraws | None:
        """Ties the draws to images; ``None`` for a deterministic model."""
        if not self.randomized:
            return None

        def classify() -> RowDraws:
            # It passes three rows at once.
            return self.size.retry_smaller(3, lambda: RowDraws(self.model, self.images, batch_size=self.size.rows))

        return self.once("row_draws", classify)

    @property
    def rows_share_draws(self) -> bool:
        """Whether the rows of a pass share one draw, so that copies of an image in a batch are not independent draws."""
        return self.row_draws is not None and self.row_draws.unit == "pass"

    @property
    def enumeration_is_wrong(self) -> bool:
        """See :func:`~robustbench_cli.attacks.base.models.enumerable_draws.enumeration_is_wrong`."""
        return self.once("enumeration", lambda: enumeration_is_wrong(self.model, self.images, size=self.size))

    @property
    def cost_of_all_draws(self) -> float | None:
        """See :func:`~robustbench_cli.attacks.base.models.enumerable_draws.cost_of_all_draws`."""

        def measure() -> float | None:
            return cost_of_all_draws(self.model, self.images, size=self.size, wrong=self.enumeration_is_wrong)

        return self.once("cost_of_all_draws", measure)

    @property
    def cut_at_edges(self) -> bool:
        """See :func:`~robustbench_cli.attacks.base.models.probes.cut_at_edges`."""
        return self.once(
            "cut_at_edges",
            lambda: cut_at_edges(self.model, self.images, size=self.size, randomized=self.randomized),
            at_start=True,
        )

    @property
    def fails_in_bf16(self) -> bool:
        """See :func:`~robustbench_cli.attacks.base.models.probes.fails_in_bf16`."""
        return self.once("fails_in_bf16", lambda: fails_in_bf16(self.model, self.images, size=self.size))

    def of_copy(self, model: nn.Module) -> MeasuredModel:
        """The same measurements for a copy of the model, without any pass through it."""
        known: dict[Hashable, Any] = {
            "randomized": self.randomized,
            "row_draws": self.row_draws and self.row_draws.of_copy(model),
            "cost_of_all_draws": self.cost_of_all_draws,
        }
        return MeasuredModel(model, self.images, self.size, known)

    @contextmanager
    def seeded(self, keys: Tensor, seed: int) -> Iterator[Callable[[Tensor], Tensor]]:
        """Makes the draws of the model a function of a seed and of the rows' keys.

        Args:
            keys: ``(M,)`` int64, one per row.
            seed: The seed of the draws.

        Yields:
            A function from rows ``(M, C, H, W)`` to logits ``(M, K)``. A backward pass must also run inside the block.
        """
        if self.row_draws is None:
            yield partial(single_pass, self.model)
            return
        with self.row_draws(keys, seed) as model:
            yield partial(single_pass, model)

    def eot(self, choice: EOTChoice) -> Draws:
        """The draws per gradient of this model; see :func:`~robustbench_cli.attacks.base.gradients.draws.resolve_eot`."""
        return resolve_eot(choice, randomized=self.randomized, cost_of_all_draws=self.cost_of_all_draws)

    def source(
        self, eot: EOTChoice, *, seed: int = 0, targeted: bool = False, precision: Precision = "tf32"
    ) -> GradientSource:
        """A gradient source of this model; see :func:`~robustbench_cli.attacks.base.gradients.eot.gradient_source`.

        Args:
            eot: The draws per gradient; see :meth:`eot`.
            seed: The seed of the frozen draw.
            targeted: Whether labels are the classes to reach.
            precision: The precision of gradients. A model that fails in bf16 gets TF32, with a warning; a
                CPU has no TF32.

        Raises:
            UserError: ``eot`` is ``"exact"``, and the randomized model cannot enumerate its draws.
        """
        if precision == "bf16" and self.fails_in_bf16:
            precision = "tf32"
        if precision == "tf32" and self.images.device.type == "cpu":
            precision = "float32"
        draws = self.eot(eot)
        source = gradient_source(
            self.model,
            eot=draws,
            randomized=self.randomized,
            seed=seed,
            row_draws=self.row_draws,
            targeted=targeted,
            batch_size=self.size,
            precision=precision,
            inside=lambda: self.cut_at_edges,
            graphs=True,
        )
        if precision != "bf16":
            # In bf16, the logits that come with a gradient are rounded to their type, which rounding() knows.
            key = ("noise", draws, precision, seed if draws == "frozen" else None)
            source.noise = lambda: self.once(key, lambda: noise_of(source, self.images), at_start=True)
        return source
