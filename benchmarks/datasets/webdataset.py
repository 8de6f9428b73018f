"""WebDataset: tar archives in which the files of an example have one name and different endings."""

from __future__ import annotations

import glob
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, ClassVar

from robustbench_cli.benchmarks.datasets.base.class_folders import numbered
from robustbench_cli.benchmarks.datasets.base.dataset import SplitName
from robustbench_cli.benchmarks.datasets.base.pictures import Example, Picture, Pictures, class_count, shuffled
from robustbench_cli.benchmarks.datasets.base.preprocessing import UNCHANGED, Preprocessing
from robustbench_cli.benchmarks.datasets.base.tar_index import TarMember, members
from robustbench_cli.core.errors import UserError, one_line

__all__ = ["WebDataset"]

IMAGES = ("jpg", "jpeg", "png", "ppm", "bmp", "tif", "tiff", "webp")
LABELS = ("cls", "json", "txt")
"""The endings of labels, the first of which is read. Others are left alone: some hold pickled objects."""

LARGEST_LABEL = 2**20
"""The most bytes of a label."""

MOST_SHARDS = 100_000

_RANGE = re.compile(r"([0-9]+)\.\.([0-9]+)")
_BRACES = re.compile(r"\{([^{}]*)\}")


class WebDataset(Pictures):
    """Tar archives of WebDataset: ``PATTERN`` is a path such as ``data/val-{000000..000012}.tar`` or ``data/*.tar``.

    Braces, ``*``, ``?`` and ``[…]`` are those of a shell; what a ``*`` finds is sorted. ``::`` joins several patterns.
    Files whose names differ only behind the first dot belong to one example: an image (``.jpg``, ``.png``, …) and its label,
    a class number or name in ``.cls`` or ``.txt``, or in ``.json`` under the key ``label``, ``cls`` or ``class``. All examples are
    the test split; ``?train=PATTERN`` names the archives to train on. ``?classes=N`` gives the number of classes where
    labels are numbers; otherwise it is the largest label plus one. The archives are not unpacked, and only the images that
    are evaluated are read. The order is shuffled, and depends only on the number of examples.
    """

    argument_name: ClassVar[str | None] = "PATTERN"

    def __init__(
        self,
        argument: str | None = None,
        *,
        data_dir: Path | None = None,
        preprocessing: Preprocessing = UNCHANGED,
        on_bad_image: str = "stop",
        classes: str | None = None,
        train: str | None = None,
    ) -> None:
        super().__init__(argument, data_dir=data_dir, preprocessing=preprocessing, on_bad_image=on_bad_image)
        patterns: dict[SplitName, str | None] = {"test": argument, "train": train}
        shards = [
            (split, path) for split, pattern in patterns.items() if pattern is not None for path in _shards(pattern)
        ]
        self.read_files = [path for _, path in shards]
        found = [
            (split, image, text)
            for split, path in shards
            for image, text in _examples(path, stop=on_bad_image == "stop")
        ]
        if not any(split == "test" and text is not None for split, _, text in found):
            raise UserError(f"{argument} has no images: give archives with files such as 0001.jpg and 0001.cls")
        number = class_count(classes)
        labels, self.classes, self.class_names = numbered(
            [text for *_, text in found if text is not None], classes=number, where=argument or ""
        )
        self.classes_inferred = number is None and self.class_names is None
        self._examples: dict[SplitName, list[Example]] = {split: [] for split, pattern in patterns.items() if pattern}
        numbers = iter(labels)
        for split, image, text in found:
            # The label of a missing image is never evaluated.
            self._examples[split].append((image, 0 if text is None else next(numbers)))
        self.shape = self.shape_of(self._examples["test"])

    def examples(self, name: SplitName) -> list[Example]:
        if name not in self._examples:
            raise UserError(f"{self.argument} is the test split: name the archives to train on with ?train=PATTERN")
        return shuffled(self._examples[name])


def _shards(pattern: str) -> list[Path]:
    """The archives that a pattern names, in its order: ``{00..12}`` is a range, ``{a,b}`` a list, ``*`` any text, and ``::`` joins patterns."""
    names = [name for part in pattern.split("::") for name in _expanded(part, pattern)]
    # A file that two patterns find is one archive.
    return [*dict.fromkeys(path for name in names for path in _files(Path(name).expanduser()))]


def _expanded(part: str, pattern: str) -> list[str]:
    """The paths of a pattern, with its braces expanded."""
    parts = []
    count = 1
    # Every second part is what was between braces.
    for index, text in enumerate(_BRACES.split(part)):
        choices = _choices(text) if index % 2 else [text]
        count *= len(choices)
        if count > MOST_SHARDS:
            raise UserError(f"{pattern} names more than {MOST_SHARDS:,} archives")
        parts.append(choices)
    return ["".join(names) for names in itertools.product(*parts)]


def _files(path: Path) -> list[Path]:
    """The files that a path names, or that a path with ``*``, ``?`` or ``[…]`` finds, sorted."""
    if path.is_file():
        return [path]
    # Unlike pathlib's, it leaves out hidden files, such as those that macOS adds.
    files = [name for name in map(Path, sorted(glob.glob(str(path)))) if name.is_file()]  # noqa: PTH207
    if not files:
        fault = "no file matches" if glob.has_magic(str(path)) else "no file"
        raise UserError(
            f"{fault} {path}: give webdataset:PATTERN, such as webdataset:data/val-{{000..012}}.tar or webdataset:data/*.tar"
        )
    return files


def _choices(text: str) -> list[str]:
    """The expansions of one pair of braces."""
    match = _RANGE.fullmatch(text)
    if match is None:
        return text.split(",")
    first, last = int(match[1]), int(match[2])
    if not 0 <= last - first < MOST_SHARDS:
        raise UserError(f"the range {{{text}}} is empty or too long: give {{FIRST..LAST}}")
    # As a shell does, numbers with leading zeros keep their width.
    width = max(len(match[1]), len(match[2])) if "0" in (match[1][0], match[2][0]) and len(match[1]) > 1 else 0
    return [f"{number:0{width}}" for number in range(first, last + 1)]


@dataclass(frozen=True, slots=True)
class _NoImage:
    """A missing image. It cannot be read, so it is left out and counted as other unreadable images are."""

    name: str

    def __str__(self) -> str:
        return self.name

    def open(self) -> IO[bytes]:
        raise UserError("it is missing, a link, a sparse member, or has another ending")


def _examples(path: Path, *, stop: bool) -> Iterator[tuple[Picture, str | None]]:
    """The images of an archive and their labels as text; ``None`` where there is no image, which is an error with ``stop``."""
    for stem, group in itertools.groupby(members(path), key=lambda member: _split(member.name)[0]):
        files: dict[str, TarMember] = {}
        others: dict[str, TarMember] = {}
        for member in group:
            ending = _split(member.name)[1]
            if ending in files:
                raise UserError(f"{path} has {member.name} twice")
            (files if member.is_file else others)[ending] = member
        # A name such as 0001.seg.png is a second picture of the example, and no input.
        image, label = _first(files, IMAGES), _first(files, LABELS)
        if image is not None:
            if label is None:
                raise UserError(f"{path}: {stem} has an image and no label: give it a .cls, .json or .txt, no link")
            yield image, _label(label)
            continue
        link = _first(others, IMAGES)
        if link is None and (label is None or not _is_label(label)):
            continue
        if stop:
            fault = (
                f"{label} is a label without an image: give the image as .{', .'.join(IMAGES)}"
                if link is None
                else f"{link} is a link or sparse: store the image itself"
            )
            raise UserError(f"{fault}, or leave it out with --on-bad-image skip")
        yield _NoImage(f"the image of {label}" if link is None else str(link)), None


def _first(files: Mapping[str, TarMember], endings: Sequence[str]) -> TarMember | None:
    """The file with the first of some endings."""
    return next((files[ending] for ending in endings if ending in files), None)


def _split(name: str) -> tuple[str, str]:
    """The name of an example and the ending of one of its files: what is before and behind the first dot of the file."""
    folder, slash, file = name.rpartition("/")
    stem, _, ending = file.partition(".")
    return f"{folder}{slash}{stem}", ending.lower()


def _is_label(member: TarMember) -> bool:
    """Whether a file without an image is a label; in .json, it may be a description of something else."""
    if not member.name.lower().endswith(".json"):
        return True
    try:
        return bool(_label(member))
    except UserError:
        return False


def _label(member: TarMember) -> str:
    """The label in a file."""
    if member.size > LARGEST_LABEL:
        raise UserError(f"{member} has {member.size:,} bytes: a label may have {LARGEST_LABEL:,}")
    try:
        with member.open() as file:
            text = file.read().decode("utf-8").strip()
        if member.name.lower().endswith(".json"):
            value = json.loads(text)
            text = next((str(value[key]) for key in ("label", "cls", "class") if key in value), "")
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{member} cannot be read as a label ({one_line(error)})") from None
    if not text:
        raise UserError(f"{member} has no label: give a class number or name (in .json under the key label)")
    return text
