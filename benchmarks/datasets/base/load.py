"""Loads a data set by its name."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Unpack

from robustbench_cli.attacks.base.inputs import checked_keywords
from robustbench_cli.benchmarks.datasets import registry
from robustbench_cli.benchmarks.datasets.base.dataset import Dataset
from robustbench_cli.benchmarks.datasets.base.options import PREPROCESSING, DatasetOptions, split_name, with_options
from robustbench_cli.benchmarks.datasets.base.preprocessed import Preprocessed
from robustbench_cli.benchmarks.datasets.base.preprocessing import UNCHANGED, Preprocessing
from robustbench_cli.core.errors import UserError, did_you_mean

__all__ = ["load_dataset", "load_unlabeled"]


@checked_keywords
def load_dataset(name: str, *, data_dir: Path | str | None = None, **options: Unpack[DatasetOptions]) -> Dataset:
    """Loads a data set. The same name gives the same object within a process, until a file that it has read changes.

    Args:
        name: ``digits``, ``fashion-mnist``, …; ``imagefolder:PATH`` and ``npz:PATH``; or a user's own as
            ``package.module:object`` or ``path/to/file.py:object``, where the object is a :class:`Dataset` subclass or
            a function ``(argument, *, data_dir)`` that returns a :class:`Dataset`. Options may follow, as in
            ``cifar10?image_size=64``; further keywords of the class or function are options of its own.
        data_dir: The folder of downloaded data sets; the user's cache folder by default.
        **options: What brings the images to one size, and whether unreadable ones are skipped. They replace those in
            the name; see :class:`~.options.DatasetOptions`.

    Raises:
        UserError: The name is unknown, its argument or an option is wrong, or the object is no data set.

    >>> load_dataset("digits", image_size=32, channels=3).shape
    (3, 32, 32)
    """
    arguments: tuple[object, object] = name, data_dir
    if not isinstance(arguments[0], str):
        hint = "it is loaded already" if isinstance(arguments[0], Dataset) else "give its name, such as 'digits'"
        raise UserError(f"the data set is a {type(arguments[0]).__name__}: {hint}")
    if not isinstance(arguments[1], Path | str | None):
        raise UserError(f"data_dir is a {type(arguments[1]).__name__}: give the path of a folder")
    dataset = _load_once(with_options(name, options), data_dir)
    if dataset.missing_labels:
        raise UserError(dataset.missing_labels)
    return dataset


def load_unlabeled(name: str, *, data_dir: Path | None = None) -> Dataset:
    """Loads a data set whose labels are not needed, and need not exist.

    Args:
        name: See :func:`load_dataset`.
        data_dir: The folder of downloaded data sets; the user's cache folder by default.

    Returns:
        The data set. If it has no labels, each label is 0, and ``missing_labels`` says so.

    Raises:
        UserError: See :func:`load_dataset`.
    """
    return _load_once(with_options(name, {}), data_dir)


def _load_once(name: str, data_dir: Path | str | None) -> Dataset:
    """The data set of a name with its options, with or without labels."""
    key = name, None if data_dir is None else Path(data_dir).expanduser()
    if key in _loaded:
        dataset, states = _loaded[key]
        if states == list(map(_state, dataset.read_files)):
            return dataset
    dataset = _load(*key)
    _loaded[key] = dataset, list(map(_state, dataset.read_files))
    return dataset


_loaded: dict[tuple[str, Path | None], tuple[Dataset, list[tuple[int, ...]]]] = {}
"""The data sets of this process, with the states of their files."""


def _state(path: Path) -> tuple[int, ...]:
    """What changes with the content of a file; empty if the file is missing."""
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _load(name: str, data_dir: Path | None) -> Dataset:
    plain, options = split_name(name)
    thing, argument = registry.find(plain)
    preprocessing = Preprocessing.from_options({key: options.pop(key) for key in PREPROCESSING if key in options})
    keywords: dict[str, object] = {"data_dir": data_dir, **options}
    own = _keywords(thing)
    for key in options:
        if key not in own - {"data_dir", "preprocessing"}:
            known = did_you_mean(key, {*PREPROCESSING, *own} - {"data_dir", "preprocessing"})
            raise UserError(f"data set {plain} has no option '{key}': {known}")
    if "preprocessing" in own:
        keywords["preprocessing"] = preprocessing
    try:
        inspect.signature(thing).bind(argument, **keywords)
    except TypeError:
        raise UserError(
            f"data set {plain} cannot be built: give a Dataset subclass, or a function (argument, *, data_dir) that returns a Dataset"
        ) from None
    dataset = thing(argument, **keywords)
    if not isinstance(dataset, Dataset):
        raise UserError(f"data set {plain} is a {type(dataset).__name__}: it must be a Dataset")
    dataset.options = split_name(name)[1]
    if "preprocessing" in own or preprocessing == UNCHANGED:
        return dataset
    try:
        return Preprocessed(dataset, preprocessing)
    except UserError as error:
        raise UserError(f"an image of {plain} {error}") from None


def _keywords(thing: object) -> set[str]:
    """The keyword-only parameters of a data set's class or function."""
    try:
        parameters = inspect.signature(thing).parameters.values()  # type: ignore[arg-type]
    except TypeError:
        return set()
    return {parameter.name for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY}
