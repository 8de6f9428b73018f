"""The parameters of methods that count some errors of a classifier more than others: protected classes and their costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Self

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor

from robustbench_cli.core.errors import UserError, did_you_mean
from robustbench_cli.core.settings import Settings

__all__ = ["ClassCosts"]


def _as_list(value: Any) -> Any:
    """A single class as a list of one. Truth values would pass for the classes 0 and 1."""
    values = [value] if isinstance(value, str | int) else value
    if isinstance(values, list | tuple) and any(isinstance(entry, bool) for entry in values):
        raise ValueError("give names or numbers of classes")
    return values


class ClassCosts(Settings):
    """A method with a cost matrix ``C``: ``C[y, j]`` is the cost of the prediction j where the class is y.

    The diagonal is 0. Every other entry is ``cost`` in the row of a protected class, ``false_alarm`` where another class is
    taken for a protected one, and 1 elsewhere.
    """

    protected: Annotated[tuple[int | str, ...], BeforeValidator(_as_list)] = Field(
        (), description="protected classes, by name or number; none by default, and every error costs 1 then"
    )
    cost: float = Field(10, ge=1e-6, le=1e6, description="cost of taking a protected class for another one")
    false_alarm: float = Field(1, ge=1e-6, le=1e6, description="cost of taking another class for a protected one")

    def for_classes(self, classes: int | None, names: Sequence[str] | None, *, name: str) -> Self:
        """The method with the numbers of the protected classes in the place of their names.

        Args:
            classes: K; ``None`` if it is unknown.
            names: The names of the classes, in order; ``None`` if the data have none.
            name: How the user called the method, for the messages.

        Raises:
            UserError: A protected class does not exist.

        >>> ClassCosts(protected=["cat", 2]).for_classes(3, ["dog", "Cat", "emu"], name="csa").protected
        (1, 2)
        """
        numbers = self._numbers(classes, names, name)
        return self if numbers == self.protected else self.model_copy(update={"protected": numbers})

    def costs(self, labels: Tensor, classes: int) -> Tensor:
        """The rows of the cost matrix for some labels.

        Args:
            labels: ``(B,)``, int64 in [0, K).
            classes: K.

        Returns:
            ``(B, K)``, float32, on the device of the labels.

        Raises:
            UserError: A protected class does not exist, or still has its name.

        >>> ClassCosts(protected=[0], cost=10, false_alarm=5).costs(torch.arange(3), 3)
        tensor([[ 0., 10., 10.],
                [ 5.,  0.,  1.],
                [ 5.,  1.,  0.]])
        """
        numbers = self._numbers(classes, None, type(self).__name__)
        mask = torch.zeros(classes, dtype=torch.bool, device=labels.device)
        for number in numbers:
            # A number as an index, unlike a list of them, makes no copy to a GPU.
            mask[number] = True
        alarms = torch.ones(classes, device=labels.device).masked_fill_(mask, self.false_alarm)
        rows = alarms.expand(len(labels), -1).masked_fill(mask[labels].unsqueeze(1), self.cost)
        return rows.scatter(1, labels.unsqueeze(1), 0)

    def _numbers(self, classes: int | None, names: Sequence[str] | None, name: str) -> tuple[int, ...]:
        """The numbers of the protected classes; the arguments are those of :meth:`for_classes`."""
        return tuple(_number(entry, classes, names, where=f"{name}.protected") for entry in self.protected)


def _number(entry: int | str, classes: int | None, names: Sequence[str] | None, *, where: str) -> int:
    """The number of a class; the arguments are those of :meth:`ClassCosts.for_classes`."""
    known = "" if classes is None else f", 0 to {classes - 1}"
    if isinstance(entry, int):
        if entry < 0 or (classes is not None and entry >= classes):
            raise UserError(f"{where} has the class {entry}, which does not exist: give numbers{known or ' from 0 on'}")
        return entry
    if names is None:
        raise UserError(f"{where} has the class '{entry}', and the data name no classes: give its number{known}")
    folded = [name.casefold() for name in names]
    if entry.casefold() not in folded:
        raise UserError(f"{where} has the class '{entry}', which does not exist: {did_you_mean(entry, names)}")
    return folded.index(entry.casefold())
