"""Loads a data set by its name."""

from __future__ import annotations

import inspect
from functools import cache
from pathlib import Path

from robustbench_cli.attacks.base.inputs import checked_keywords
from robustbench_cli.benchmarks.datasets import registry
from robustbench_cli.benchmarks.datasets.base.dataset import Dataset
from robustbench_cli.core.errors import UserError

__all__ = ["load_dataset"]


@checked_keywords
def load_dataset(name: str, *, data_dir: Path | str | None = None) -> Dataset:
    """Loads a data set. The same name gives the same object within a process, so its images are read once.

    Args:
        name: ``digits``, ``fashion-mnist``, …; ``imagefolder:PATH`` and ``npz:PATH``; or a user's own as
            ``package.module:object`` or ``path/to/file.py:object``, where the object is a :class:`Dataset` subclass or
            a function ``(argument, *, data_dir)`` that returns a :class:`Dataset`.
        data_dir: The folder of downloaded data sets; the user's cache folder by default.

    Raises:
        UserError: The name is unknown, its argument is wrong, or the object is no data set.
    """
    arguments: tuple[object, object] = name, data_dir
    if not isinstance(arguments[0], str):
        hint = "it is loaded already" if isinstance(arguments[0], Dataset) else "give its name, such as 'digits'"
        raise UserError(f"the data set is a {type(arguments[0]).__name__}: {hint}")
    if not isinstance(arguments[1], Path | str | None):
        raise UserError(f"data_dir is a {type(arguments[1]).__name__}: give the path of a folder")
    return _load(name, None if data_dir is None else Path(data_dir).expanduser())


@cache
def _load(name: str, data_dir: Path | None) -> Dataset:
    thing, argument = registry.find(name)
    try:
        inspect.signature(thing).bind(argument, data_dir=data_dir)
    except TypeError:
        raise UserError(
            f"data set {name} cannot be built: give a Dataset subclass, or a function (argument, *, data_dir) that returns a Dataset"
        ) from None
    dataset = thing(argument, data_dir=data_dir)
    if not isinstance(dataset, Dataset):
        raise UserError(f"data set {name} is a {type(dataset).__name__}: it must be a Dataset")
    return dataset
