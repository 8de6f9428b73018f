"""Gradient sources for randomized models: the mean over K draws (EOT), the exact expectation, or one frozen draw."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal, Unpack

from torch import Tensor, nn

from robustbench_cli.attacks.base.gradients.source import GradientSource, PassOptions
from robustbench_cli.attacks.base.models.enumerable_draws import EnumerableDraws
from robustbench_cli.attacks.base.models.frozen_draw import FrozenDraw
from robustbench_cli.attacks.base.models.graphed_passes import GraphedPasses
from robustbench_cli.attacks.base.models.passes import single_pass
from robustbench_cli.attacks.base.models.row_draws import RowDraws, draw_keys
from robustbench_cli.attacks.base.rng import seed_from
from robustbench_cli.core.errors import UserError

__all__ = ["EOT", "ExactExpectation", "gradient_source"]


class EOT(GradientSource):
    """Expectation over transformation: the mean over K draws.

    If each row of a batch has its own draw, the K draws are one batch that contains every image K times. Otherwise they
    are K batches. A deterministic model needs one draw, which is plain backpropagation. The mean itself is taken in
    :class:`~robustbench_cli.attacks.base.gradients.source.GradientSource`.

    Source: Athalye, Engstrom, Ilyas, Kwok: Synthesizing Robust Adversarial Examples. ICML 2018.

    Args:
        model: See :class:`~robustbench_cli.attacks.base.gradients.source.GradientSource`.
        draws: K >= 1.
        randomized: Whether the model is; see :func:`~robustbench_cli.attacks.base.models.probes.is_randomized`.
        row_draws: Ties the draws of a randomized model to its images. Without it the draws come from torch's generators,
            as in training.
        **options: See :class:`~robustbench_cli.attacks.base.gradients.source.PassOptions`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        draws: int = 1,
        randomized: bool = False,
        row_draws: RowDraws | None = None,
        **options: Unpack[PassOptions],
    ) -> None:
        super().__init__(model, **options)
        self.draws = draws
        self.exhaustive = not randomized
        self._row_draws = row_draws
        self._pass: Callable[[Tensor], Tensor] = partial(single_pass, model)
        # One frozen draw seeds torch's generators in each pass, which no graph can repeat.
        if options.get("graphs") and not randomized and not isinstance(model, FrozenDraw):
            self._pass = self.graphs = GraphedPasses(self._pass, name=type(model).__name__)

    @property
    def _shares_draws(self) -> bool:
        """Whether all rows of a pass share one draw."""
        return self._row_draws is not None and self._row_draws.unit == "pass"

    @property
    def _has_keys(self) -> bool:
        return self._row_draws is not None

    def _draws_per_pass(self) -> list[range]:
        if self._shares_draws:
            return [range(draw, draw + 1) for draw in range(self.draws)]
        return [range(part.start, part.stop) for part in self.size.slices(self.draws)]

    @contextmanager
    def _seeded_model(
        self, images: Tensor, keys: Tensor | None, draws: range, query: int
    ) -> Iterator[Callable[[Tensor], Tensor]]:
        if self._row_draws is None or keys is None:
            yield lambda images: self._logits(self._pass, images, len(draws))
            return
        seed = seed_from(self._seed, query, draws.start if self._shares_draws else "")
        with self._row_draws(draw_keys(keys, draws), seed) as model:
            yield lambda images: self._logits(partial(single_pass, model), images, len(draws))

    @staticmethod
    def _logits(model: Callable[[Tensor], Tensor], images: Tensor, draws: int) -> Tensor:
        rows = images if draws == 1 else images.expand(draws, *images.shape).flatten(0, 1)
        return model(rows).view(draws, len(images), -1)


class ExactExpectation(GradientSource):
    """The exact expectation over all draws of a model that can enumerate them.

    Args:
        model: Is :class:`~robustbench_cli.attacks.base.models.enumerable_draws.EnumerableDraws`.
        **options: See :class:`~robustbench_cli.attacks.base.gradients.source.PassOptions`.

    Raises:
        UserError: The model cannot enumerate its draws.
    """

    exhaustive = True

    def __init__(self, model: nn.Module, **options: Unpack[PassOptions]) -> None:
        super().__init__(model, **options)
        if not isinstance(model, EnumerableDraws):
            raise UserError(
                "--eot exact: the draws of this defense cannot be counted; give a number of draws: --eot 10"
            )
        self._enumerable = model
        self.draws = model.number_of_draws
        self._all_draws: Callable[[Tensor], Tensor] = lambda images: model.all_draws(images.clone())
        if options.get("graphs"):
            self._all_draws = self.graphs = GraphedPasses(self._all_draws, name=type(model).__name__)

    @property
    def cost(self) -> float:
        return self._enumerable.cost_of_all_draws

    @contextmanager
    def _seeded_model(
        self, images: Tensor, keys: Tensor | None, draws: range, query: int
    ) -> Iterator[Callable[[Tensor], Tensor]]:
        yield self._all_draws


def gradient_source(
    model: nn.Module,
    *,
    eot: int | Literal["exact", "frozen"] = 1,
    randomized: bool,
    seed: int = 0,
    row_draws: RowDraws | None = None,
    **options: Unpack[PassOptions],
) -> GradientSource:
    """The gradient source for a value of ``--eot``.

    Args:
        model: See :class:`~robustbench_cli.attacks.base.gradients.source.GradientSource`.
        eot: K >= 1 for the mean over K draws, ``"exact"`` for the exact expectation, or ``"frozen"`` for one draw for all
            images and queries. A deterministic model has one draw for any value.
        randomized: Whether two passes of the model differ.
        seed: The seed of the frozen draw.
        row_draws: See :class:`EOT`.
        **options: See :class:`~robustbench_cli.attacks.base.gradients.source.PassOptions`.

    Raises:
        UserError: ``eot`` is ``"exact"``, and the randomized model cannot enumerate its draws.
    """
    if not randomized:
        return EOT(model, **options)
    if eot == "frozen":
        return EOT(FrozenDraw(model, seed=seed), **options)
    if eot == "exact":
        return ExactExpectation(model, **options)
    return EOT(model, draws=eot, randomized=True, row_draws=row_draws, **options)
