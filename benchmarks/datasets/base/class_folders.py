"""Finds image files and their labels: in one folder per class, or in a CSV file."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes

from robustbench_cli.benchmarks.datasets.base.pictures import Example, ImageFile
from robustbench_cli.core.errors import UserError
from robustbench_cli.core.regular_file import read_bounded

__all__ = ["Numbered", "class_folders", "files_in_class_folders", "image_file", "numbered", "read_labels"]

LARGEST_TEXT = 2**28
"""The most bytes of a file of labels: 1,000 times those of ImageNet."""

_FILE_COLUMNS = ("file", "file_name", "filename", "path", "image", "image_id", "imageid")
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]*)?")
_MISSING = ("nan", "none", "null", "<na>")
_LABEL_COLUMNS = ("label", "class", "class_name", "target", "predictionstring")


def class_folders(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted.

    Args:
        folder: Holds one folder per class.

    Raises:
        UserError: It holds no folders.
    """
    try:
        names, _ = find_classes(folder)
    except FileNotFoundError:
        raise UserError(f"{folder} holds no folders: give one for each class, with its images in it") from None
    return list(names)


def files_in_class_folders(folder: Path, labels: Mapping[str, int]) -> list[Example]:
    """The image files below the class folders, by class and path, in torchvision's order, with their labels.

    Args:
        folder: Holds the class folders.
        labels: By the name of the class folder.

    Raises:
        UserError: A class folder has no images.
    """
    examples: list[Example] = []
    empty = []
    for name, label in labels.items():
        paths = [path for path in _below(folder / name) if path.lower().endswith(IMG_EXTENSIONS)]
        examples += [(ImageFile(path), label) for path in paths]
        empty += [] if paths else [name]
    if empty:
        raise UserError(
            f"{folder} has no images of {', '.join(empty[:3])}: each class folder must have some, "
            f"as {', '.join(IMG_EXTENSIONS)}"
        )
    return examples


def image_file(folder: Path, name: str, *, where: str) -> ImageFile:
    """The image file that a file of labels names.

    Args:
        folder: The names are relative to it.
        name: The name in the file.
        where: The file and line, for messages.

    Raises:
        UserError: The name leads out of the folder.
    """
    if not name or name.startswith("/") or "\\" in name or "\0" in name or ".." in PurePosixPath(name).parts:
        raise UserError(f"{where}: '{name[:80]}' is no file inside {folder}: give paths relative to it, without '..'")
    return ImageFile(str(folder / name))


def read_labels(path: Path) -> list[tuple[str, str, str]]:
    """Reads a CSV file of labels: a column ``file`` and a column ``label``, each under one of its usual names.

    Args:
        path: The first line names the columns; further columns are left alone.

    Returns:
        For each row its file and line for messages, the image file's name and its label.

    Raises:
        UserError: The file cannot be read, a column is missing, or a row has too few cells.
    """
    rows = csv.reader(io.StringIO(_text(path)))
    try:
        header = [name.strip().casefold() for name in next(rows, [])]
        file = next((header.index(name) for name in _FILE_COLUMNS if name in header), None)
        label = next((header.index(name) for name in _LABEL_COLUMNS if name in header), None)
        if file is None or label is None:
            raise UserError(
                f"{path}: the first line is '{','.join(header)[:80]}': give the columns file and label, and a row per image"
            )
        found = []
        for row in rows:
            where = f"{path}, line {rows.line_num}"
            if not row:
                continue
            if len(row) <= max(file, label):
                raise UserError(f"{where}: {len(row)} cells: give a file and its label")
            found.append((where, row[file].strip(), row[label].strip()))
    except csv.Error as error:
        raise UserError(f"{path}, line {rows.line_num}: {error}") from None
    if not found:
        raise UserError(f"{path} has no rows: give one per image, with its file and its label")
    return found


class Numbered(NamedTuple):
    """Labels as numbers.

    Attributes:
        labels: In the order of the texts.
        classes: The number of classes.
        names: The class names in order; ``None`` if the labels were numbers already.
    """

    labels: list[int]
    classes: int
    names: tuple[str, ...] | None


def numbered(texts: Sequence[str], *, classes: int | None, where: str) -> Numbered:
    """Makes labels of texts: numbers are taken as they are, and names are numbered in sorted order.

    Args:
        texts: Numbers from 0, also as ``3.0``; or class names.
        classes: The number of classes, as far as it is known.
        where: The file, for messages.

    Raises:
        UserError: A label is missing, a number is negative, has a fraction or is not below ``classes``, there are more
            names than classes, or there is only one.
    """
    texts = _without_points(texts, where)
    if all(text.isascii() and text.removeprefix("-").isdigit() and len(text) < 10 for text in texts):
        labels = [int(text) for text in texts]
        number = classes or max(labels) + 1
        for label in (min(labels), max(labels)):
            if not 0 <= label < number:
                raise UserError(f"{where} has the label {label}: labels are 0 to {number - 1}")
        if number < 2:
            raise UserError(
                f"the labels of {where} are all 0: give the number of classes, as ?classes=10 after the name"
            )
        return Numbered(labels, number, None)
    names = tuple(sorted({*texts}))
    if classes is not None and len(names) != classes:
        raise UserError(f"{where} has {len(names)} class names, such as {names[0][:40]}, and classes is {classes}")
    if len(names) < 2:
        raise UserError(f"{where} has one class only, {names[0][:40]}: there is nothing to tell apart")
    numbers = {name: number for number, name in enumerate(names)}
    return Numbered([numbers[text] for text in texts], len(names), names)


def _without_points(texts: Sequence[str], where: str) -> Sequence[str]:
    """Numbers such as ``3.0`` as ``3``: pandas writes them for a column in which a label is missing. Names stay."""
    known = [text for text in texts if text and text.casefold() not in _MISSING]
    numbers = bool(known) and all(_NUMBER.fullmatch(text) for text in known)
    if "" in texts or (numbers and len(known) < len(texts)):
        raise UserError(f"{where} has an example without a label: give it one, or leave the example out")
    if not numbers:
        return texts
    for text in texts:
        if text.partition(".")[2].strip("0"):
            raise UserError(f"{where} has the label {text[:40]}: labels are whole numbers, or class names")
    return [text.partition(".")[0] for text in texts]


def _text(path: Path) -> str:
    """The text of a file of labels."""
    try:
        return read_bounded(path, LARGEST_TEXT).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def _below(folder: Path) -> Iterator[str]:
    """The paths below a folder, its own files first. A folder that is linked to several times is visited once."""
    visited = set()
    listings = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        key = os.path.realpath(parent)
        if key in visited:
            folders.clear()
            continue
        visited.add(key)
        listings.append((parent, sorted(files)))
    for parent, files in sorted(listings):
        yield from (os.path.join(parent, file) for file in files)  # noqa: PTH118 - a Path for every file costs seconds
