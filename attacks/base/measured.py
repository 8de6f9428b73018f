"""A model with what has been measured of its draws, from which its gradient sources are made."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

from robustbench_cli.attacks.base.draws import AskedDraws, Draws, resolve_eot
from robustbench_cli.attacks.base.model import cost_of_all_draws, cut_at_edges, is_randomized, rows_share_draws
from robustbench_cli.attacks.base.noise import noise_once
from robustbench_cli.attacks.base.source import GradientSource, Precision, gradient_source

__all__ = ["MeasuredModel"]


@dataclass(frozen=True, eq=False)
class MeasuredModel:
    """A model, and how it draws: measured when it is first asked for, since what a defense says of itself may be wrong.

    Attributes:
        model: Images ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``, frozen (see
            :func:`~robustbench_cli.attacks.base.model.frozen`).
        images: ``(N, C, H, W)``, N >= 1, on which it is measured; the first eight are used.
    """

    model: nn.Module
    images: Tensor

    @cached_property
    def randomized(self) -> bool:
        """See :func:`~robustbench_cli.attacks.base.model.is_randomized`."""
        return is_randomized(self.model, self.images)

    @cached_property
    def rows_share_draws(self) -> bool:
        """See :func:`~robustbench_cli.attacks.base.model.rows_share_draws`."""
        return self.randomized and rows_share_draws(self.model, self.images)

    @cached_property
    def cost_of_all_draws(self) -> float | None:
        """See :func:`~robustbench_cli.attacks.base.model.cost_of_all_draws`."""
        return cost_of_all_draws(self.model, self.images)

    @cached_property
    def cut_at_edges(self) -> bool:
        """See :func:`~robustbench_cli.attacks.base.model.cut_at_edges`."""
        return cut_at_edges(self.model, self.images)

    def eot(self, asked: AskedDraws) -> Draws:
        """The draws behind a gradient of this model; see :func:`~robustbench_cli.attacks.base.draws.resolve_eot`."""
        return resolve_eot(asked, randomized=self.randomized, cost_of_all_draws=self.cost_of_all_draws)

    def source(
        self,
        eot: AskedDraws,
        *,
        seed: int = 0,
        targeted: bool = False,
        batch_size: int | None = None,
        precision: Precision = "float32",
    ) -> GradientSource:
        """A gradient source of this model; see :func:`~robustbench_cli.attacks.base.source.gradient_source`.

        Args:
            eot: The draws behind every answer; see :meth:`eot`.
            seed: Of the frozen draw.
            targeted: Whether labels are classes to reach.
            batch_size: Rows that pass through the model at once; all where not given.
            precision: Of the gradients.

        Raises:
            UserError: ``"exact"`` for a randomized model whose draws cannot be counted.
        """
        source = gradient_source(
            self.model,
            eot=self.eot(eot),
            randomized=self.randomized,
            seed=seed,
            rows_share_draws=self.rows_share_draws,
            targeted=targeted,
            batch_size=batch_size,
            precision=precision,
            inside=lambda: self.cut_at_edges,
        )
        if precision == "float32":
            # In bf16 what comes with a gradient is rounded as its type is.
            source.noise = noise_once(source, self.images)  # type: ignore[attr-defined]
        return source
