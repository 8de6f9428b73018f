"""Named recipes: the settings of a training as a paper published them, each value with its source."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

__all__ = ["Applied", "NamedRecipe"]

_OF_THE_IMAGES = frozenset({"model", "train.augmentations", "defense.eps", "defense.step_size"})
"""The values that fit only the images that a recipe is for."""

_OF_ANY_ATTACK = frozenset({"defense.eps", "defense.steps", "defense.step_size", "defense.attack_mode"})
"""The values of a defense that mean the same in every other defense that has a parameter of this name."""


@dataclass(frozen=True, kw_only=True)
class Applied:
    """What a recipe sets for one training. A value that the user gives overrides it.

    Attributes:
        training: The parameters of the training, by name.
        defenses: The parameters of each defense, by its name.
        model: The network as a user would name it; ``None``: the recipe names none, or it does not fit.
        misfits: What does not fit, each in a sentence for the user.
    """

    training: Mapping[str, Any]
    defenses: Mapping[str, Mapping[str, Any]]
    model: str | None
    misfits: tuple[str, ...]


class NamedRecipe:
    """The settings of a training, each with its source. A subclass is a recipe; its docstring describes it.

    Attributes:
        paper: Authors, title, venue.
        code: The authors' code: the repository and the files that the sources name.
        defenses: The defenses that the recipe is for, as users type them; empty for any. The first is the default.
        datasets: The data sets that it is for; empty for any.
        shape: ``(C, H, W)`` of the images that it is for. Other data of this shape and of :attr:`radius` fit too.
        radius: The usual radius in linf of the data sets that it is for.
        values: The values and their sources by name: ``model``, ``train.KEY``, or ``defense.KEY`` for a parameter of the
            defense.
        for_dataset: The values that differ for one of the data sets, by its name. ``None``: the recipe sets no value there.
        departures: Where a training by this recipe differs from the source, each in a sentence.
    """

    paper: ClassVar[str]
    code: ClassVar[str] = ""
    defenses: ClassVar[tuple[str, ...]] = ()
    datasets: ClassVar[tuple[str, ...]] = ()
    shape: ClassVar[tuple[int, int, int]] = (3, 32, 32)
    radius: ClassVar[float] = 8 / 255
    values: ClassVar[Mapping[str, tuple[Any, str]]] = {}
    for_dataset: ClassVar[Mapping[str, Mapping[str, tuple[Any, str]]]] = {}
    departures: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def settings(cls, dataset: str) -> dict[str, tuple[Any, str]]:
        """The values for a data set and their sources, by name.

        Args:
            dataset: The name of the data set; for one that the recipe is not for, the values of its main data set.
        """
        merged = {**cls.values, **cls.for_dataset.get(dataset, {})}
        return {key: (value, source) for key, (value, source) in merged.items() if value is not None}

    @classmethod
    def fits(cls, dataset: str, *, shape: tuple[int, ...], radius: float) -> bool:
        """Whether the recipe is for a data set, or for images like its own.

        Args:
            dataset: Its name, without options.
            shape: ``(C, H, W)``.
            radius: Its usual radius in linf.
        """
        known = not cls.datasets or dataset in cls.datasets
        return known or (tuple(shape) == cls.shape and math.isclose(radius, cls.radius))

    @classmethod
    def apply(
        cls,
        name: str,
        defenses: Mapping[str, Sequence[str]],
        *,
        dataset: str,
        shape: tuple[int, ...],
        radius: float,
    ) -> Applied:
        """What the recipe sets for a training.

        Args:
            name: The recipe as the user named it, for messages.
            defenses: The names of the defenses around the model, each with the names of its parameters.
            dataset: The name of the data set, without options.
            shape: ``(C, H, W)`` of its images.
            radius: Its usual radius in linf.
        """
        settings = cls.settings(dataset)
        misfits = []
        if not cls.fits(dataset, shape=shape, radius=radius):
            left_out = [key for key in settings if key in _OF_THE_IMAGES]
            settings = {key: entry for key, entry in settings.items() if key not in _OF_THE_IMAGES}
            misfits.append(f"recipe {name} is for {_joined(cls.datasets)}, not {dataset}{_left_out(left_out)}")
        of_defenses = {key: value for key, (value, _) in settings.items() if key.startswith("defense.")}
        matching = [defense for defense in defenses if defense in cls.defenses]
        if cls.defenses and not matching:
            left_out = [
                key
                for key in of_defenses
                if key not in _OF_ANY_ATTACK or not any(_parameter(key) in fields for fields in defenses.values())
            ]
            of_defenses = {key: value for key, value in of_defenses.items() if key not in left_out}
            misfits.append(
                f"recipe {name} is for {_joined(cls.defenses)}, not {_joined(defenses) or 'none'}{_left_out(left_out)}"
            )
        return Applied(
            training={_parameter(key): value for key, (value, _) in settings.items() if key.startswith("train.")},
            defenses={
                defense: {_parameter(key): value for key, value in of_defenses.items() if _parameter(key) in fields}
                for defense, fields in defenses.items()
                if defense in matching or not matching
            },
            model=settings["model"][0] if "model" in settings else None,
            misfits=tuple(misfits),
        )


def _parameter(key: str) -> str:
    """The name of a parameter in ``train.KEY`` or ``defense.KEY``."""
    return key.partition(".")[2]


def _shown(key: str) -> str:
    return "network" if key == "model" else _parameter(key)


def _left_out(keys: Sequence[str]) -> str:
    """The end of a message about values that do not fit."""
    if not keys:
        return ""
    verbs = "do not fit and are" if len(keys) > 1 else "does not fit and is"
    return f": its {_joined(map(_shown, keys))} {verbs} left out"


def _joined(names: Iterable[str]) -> str:
    """Names as a list in a sentence.

    >>> _joined(["a", "b", "c"])
    'a, b and c'
    """
    *first, last = [*names] or [""]
    return f"{', '.join(first)} and {last}" if first else last
