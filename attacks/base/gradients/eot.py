"""Expectation over transformation: gradient sources for randomized models, and the choice among them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from torch import Tensor, nn

from robustbench_cli.attacks.base.gradients.source import GradientSource, Precision
from robustbench_cli.attacks.base.models.enumerable_draws import EnumerableDraws
from robustbench_cli.attacks.base.models.frozen_draw import FrozenDraw
from robustbench_cli.attacks.base.models.passes import BatchSize, single_pass
from robustbench_cli.attacks.base.models.row_draws import RowDraws, draw_keys
from robustbench_cli.attacks.base.rng import seed_from
from robustbench_cli.core.errors import UserError

__all__ = ["EOT", "ExactExpectation", "gradient_source"]


class EOT(GradientSource):
    """Expectation over transformation (Athalye, Engstrom, Ilyas, Kwok, ICML 2018): the mean over K draws.

    The draws are one batch in which every image stands K times, if each row of a batch draws for itself; otherwise they
    are K batches. One draw is the plain backward pass; of a deterministic model it is all there is.

    Args:
        draws: K.
        randomized: Whether the model is; see :func:`~robustbench_cli.attacks.base.models.probes.is_randomized`.
        row_draws: Lets the draws of a randomized model belong to its images; where not given they come from torch's
            generators, as in training.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        draws: int = 1,
        randomized: bool = False,
        row_draws: RowDraws | None = None,
        targeted: bool = False,
        batch_size: BatchSize | int | None = None,
        precision: Precision = "float32",
        inside: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(model, targeted=targeted, batch_size=batch_size, precision=precision, inside=inside)
        self.draws = draws
        self.exhaustive = not randomized
        self._row_draws = row_draws

    @property
    def _one_draw_a_pass(self) -> bool:
        return self._row_draws is not None and self._row_draws.unit == "pass"

    def _parts(self) -> list[range]:
        most = 1 if self._one_draw_a_pass else self.size.rows or self.draws
        return [range(start, min(start + most, self.draws)) for start in range(0, self.draws, most)]

    @contextmanager
    def _seeded_model(
        self, images: Tensor, keys: Tensor, draws: range, question: int
    ) -> Iterator[Callable[[Tensor], Tensor]]:
        if self._row_draws is None:
            yield lambda images: self._logits(self.model, images, len(draws))
            return
        seed = seed_from(self._seed, question, draws.start if self._one_draw_a_pass else "")
        with self._row_draws(draw_keys(keys, draws), seed) as model:
            yield lambda images: self._logits(model, images, len(draws))

    @staticmethod
    def _logits(model: Callable[[Tensor], Tensor], images: Tensor, draws: int) -> Tensor:
        rows = images if draws == 1 else images.expand(draws, *images.shape).flatten(0, 1)
        return single_pass(model, rows).view(draws, len(images), -1)


class ExactExpectation(GradientSource):
    """The exact expectation over all draws of a model that can enumerate them."""

    exhaustive = True

    def __init__(
        self,
        model: nn.Module,
        *,
        targeted: bool = False,
        batch_size: BatchSize | int | None = None,
        precision: Precision = "float32",
        inside: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(model, targeted=targeted, batch_size=batch_size, precision=precision, inside=inside)
        if not isinstance(model, EnumerableDraws):
            raise UserError(
                "--eot exact: the draws of this defense cannot be counted; give a number of draws: --eot 10"
            )
        self._enumerable = model
        self.draws = model.number_of_draws

    @property
    def cost(self) -> float:
        return self._enumerable.cost_of_all_draws

    @contextmanager
    def _seeded_model(
        self, images: Tensor, keys: Tensor, draws: range, question: int
    ) -> Iterator[Callable[[Tensor], Tensor]]:
        yield lambda images: self._enumerable.all_draws(images.clone())


def gradient_source(
    model: nn.Module,
    *,
    eot: int | Literal["exact", "frozen"] = 1,
    randomized: bool,
    seed: int = 0,
    row_draws: RowDraws | None = None,
    targeted: bool = False,
    batch_size: BatchSize | int | None = None,
    precision: Precision = "float32",
    inside: Callable[[], bool] = lambda: False,
) -> GradientSource:
    """The source for ``--eot``: the exact expectation, the mean over a number of draws, or one frozen draw.

    Args:
        model: See :class:`GradientSource`.
        eot: ``"exact"``, K >= 1, or ``"frozen"``: one draw for all images and all questions. A deterministic model is asked
            once whatever K is.
        randomized: Whether two passes of the model differ.
        seed: Of the frozen draw.
        row_draws: See :class:`EOT`.
        targeted: See :class:`GradientSource`.
        batch_size: See :class:`GradientSource`.
        precision: See :class:`GradientSource`.
        inside: See :class:`GradientSource`.

    Raises:
        UserError: ``"exact"`` for a randomized model whose draws cannot be counted.
    """
    if not randomized:
        return EOT(model, targeted=targeted, batch_size=batch_size, precision=precision, inside=inside)
    if eot == "frozen":
        return EOT(
            FrozenDraw(model, seed=seed), targeted=targeted, batch_size=batch_size, precision=precision, inside=inside
        )
    if eot == "exact":
        return ExactExpectation(model, targeted=targeted, batch_size=batch_size, precision=precision, inside=inside)
    return EOT(
        model,
        draws=eot,
        randomized=True,
        row_draws=row_draws,
        targeted=targeted,
        batch_size=batch_size,
        precision=precision,
        inside=inside,
    )
