"""A model with what has been measured of its draws, from which its gradient sources are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial

from torch import Tensor, nn

from robustbench_cli.attacks.base.gradients.draws import Draws, EOTChoice, resolve_eot
from robustbench_cli.attacks.base.gradients.eot import gradient_source
from robustbench_cli.attacks.base.gradients.source import GradientSource, Precision
from robustbench_cli.attacks.base.models.enumerable_draws import cost_of_all_draws
from robustbench_cli.attacks.base.models.logit_noise import lazy_noise
from robustbench_cli.attacks.base.models.passes import BatchSize, single_pass
from robustbench_cli.attacks.base.models.probes import cut_at_edges, is_randomized
from robustbench_cli.attacks.base.models.row_draws import RowDraws

__all__ = ["MeasuredModel"]


@dataclass(frozen=True, eq=False)
class MeasuredModel:
    """A model, and how it draws: measured when it is first asked for, since what a defense says of itself may be wrong.

    Attributes:
        model: Images ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``, frozen (see
            :func:`~robustbench_cli.attacks.base.models.freezing.frozen`).
        images: ``(N, C, H, W)``, N >= 1, on which it is measured; the first eight are used.
        size: Rows that pass through the model at once, here and in the sources.
    """

    model: nn.Module
    images: Tensor
    size: BatchSize = field(default_factory=BatchSize)

    @cached_property
    def randomized(self) -> bool:
        """See :func:`~robustbench_cli.attacks.base.models.probes.is_randomized`."""
        return is_randomized(self.model, self.images, size=self.size)

    @cached_property
    def row_draws(self) -> RowDraws | None:
        """What lets its draws belong to images; ``None`` for a deterministic model."""
        return RowDraws(self.model, self.images, batch_size=self.size.rows) if self.randomized else None

    @property
    def rows_share_draws(self) -> bool:
        """Whether rows of one pass share random draws, so that copies of an image in it are not as many draws."""
        return self.row_draws is not None and self.row_draws.unit == "pass"

    @cached_property
    def cost_of_all_draws(self) -> float | None:
        """See :func:`~robustbench_cli.attacks.base.models.enumerable_draws.cost_of_all_draws`."""
        return cost_of_all_draws(self.model, self.images, size=self.size)

    @cached_property
    def cut_at_edges(self) -> bool:
        """See :func:`~robustbench_cli.attacks.base.models.probes.cut_at_edges`."""
        return cut_at_edges(self.model, self.images, size=self.size)

    def of_copy(self, model: nn.Module) -> MeasuredModel:
        """What has been measured, for a copy of the model, which is asked nothing for it."""
        copied = MeasuredModel(model, self.images, self.size)
        vars(copied).update(
            randomized=self.randomized,
            row_draws=self.row_draws and self.row_draws.of_copy(model),
            cost_of_all_draws=self.cost_of_all_draws,
        )
        return copied

    @contextmanager
    def seeded(self, keys: Tensor, seed: int) -> Iterator[Callable[[Tensor], Tensor]]:
        """What gives logits ``(M, K)`` of rows ``(M, C, H, W)`` with these keys; a pass back belongs inside it too.

        Args:
            keys: ``(M,)`` int64, which tell the rows' draws apart.
            seed: Of the draws.
        """
        if self.row_draws is None:
            yield partial(single_pass, self.model)
            return
        with self.row_draws(keys, seed) as model:
            yield partial(single_pass, model)

    def eot(self, asked: EOTChoice) -> Draws:
        """The draws behind a gradient of this model; see :func:`~robustbench_cli.attacks.base.gradients.draws.resolve_eot`."""
        return resolve_eot(asked, randomized=self.randomized, cost_of_all_draws=self.cost_of_all_draws)

    def source(
        self, eot: EOTChoice, *, seed: int = 0, targeted: bool = False, precision: Precision = "float32"
    ) -> GradientSource:
        """A gradient source of this model; see :func:`~robustbench_cli.attacks.base.gradients.eot.gradient_source`.

        Args:
            eot: The draws behind every answer; see :meth:`eot`.
            seed: Of the frozen draw.
            targeted: Whether labels are classes to reach.
            precision: Of the gradients.

        Raises:
            UserError: ``"exact"`` for a randomized model whose draws cannot be counted.
        """
        source = gradient_source(
            self.model,
            eot=self.eot(eot),
            randomized=self.randomized,
            seed=seed,
            row_draws=self.row_draws,
            targeted=targeted,
            batch_size=self.size,
            precision=precision,
            inside=lambda: self.cut_at_edges,
        )
        if precision == "float32":
            # In bf16 what comes with a gradient is rounded as its type is.
            source.noise = lazy_noise(source, self.images)
        return source
