"""Data sets of the Hugging Face Hub, which its library ``datasets`` downloads and keeps in its cache."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

from robustbench_cli.benchmarks.datasets.base.class_folders import numbered
from robustbench_cli.benchmarks.datasets.base.dataset import SplitName
from robustbench_cli.benchmarks.datasets.base.pictures import Example, Pictures, shuffled
from robustbench_cli.benchmarks.datasets.base.preprocessing import UNCHANGED, Preprocessing
from robustbench_cli.core.errors import UserError, did_you_mean, one_line
from robustbench_cli.core.hub_probe import why_unreachable
from robustbench_cli.core.libraries import require_library
from robustbench_cli.core.regular_file import open_regular

__all__ = ["HuggingFace"]

_LABELS = ("label", "labels", "fine_label", "class", "target")
"""The usual names of a column of labels that is not marked as one."""

_TEST = ("test", "validation")
"""The splits that are evaluated where the user names none; the first one that exists."""


class HuggingFace(Pictures):
    """A data set of the Hugging Face Hub, as ``OWNER/NAME`` or ``OWNER/NAME@REVISION``; or a folder in its format (``./NAME``).

    Needs the library ``datasets`` (``pip install 'advdef[datasets]'``), which downloads all splits of a configuration. No code
    of a repository runs. The columns of images and labels are found by their types; ``?image=COLUMN`` and ``?label=COLUMN``
    name them where there are several. The test images are the split ``test``, else ``validation``, or ``?split=NAME``;
    ``?config=NAME`` names the configuration. The order is shuffled, and depends only on the number of examples.
    """

    argument_name: ClassVar[str | None] = "OWNER/NAME"

    def __init__(
        self,
        argument: str | None = None,
        *,
        data_dir: Path | None = None,
        preprocessing: Preprocessing = UNCHANGED,
        on_bad_image: str = "stop",
        split: str | None = None,
        config: str | None = None,
        image: str | None = None,
        label: str | None = None,
    ) -> None:
        super().__init__(argument, data_dir=data_dir, preprocessing=preprocessing, on_bad_image=on_bad_image)
        self._config = config
        table = self._table(_TEST if split is None else (split,))
        self._image = self._column(table, "image", image)
        self._label = self._column(table, "label", label)
        names = getattr(table.features[self._label], "names", None)
        self._number_of: Mapping[str, int] | None = None
        if names is None:
            texts = [str(value) for value in self._values(table)]
            _, self.classes, self.class_names = numbered(texts, classes=None, where=f"hf:{argument}")
            self.classes_inferred = self.class_names is None
            if self.class_names is not None:
                self._number_of = {name: number for number, name in enumerate(self.class_names)}
        else:
            self.classes, self.class_names = len(names), tuple(names)
        self._test = self._examples_of(table)
        self.shape = self.shape_of(self._test)

    def examples(self, name: SplitName) -> list[Example]:
        return self._test if name == "test" else self._examples_of(self._table(("train",)))

    def _examples_of(self, table: Any) -> list[Example]:
        """The images of a split with their numbers of classes, shuffled."""
        datasets = require_library("datasets", extra="datasets", needed_by="data set hf")
        for column in (self._image, self._label):
            if column not in table.features:
                raise UserError(f"hf:{self.argument}: a split has no column {column}")
        # Not decoded: the files pass the same checks as those of any other data set.
        try:
            undecoded = table.cast_column(self._image, datasets.Image(decode=False))
        except Exception as error:  # noqa: BLE001 - the library raises errors of many kinds
            raise UserError(f"hf:{self.argument}: the column {self._image} has no images ({one_line(error)})") from None
        roots = _roots(datasets, self.argument or "")
        labels = [self._number(value) for value in self._values(table)]
        return shuffled([(_Row(undecoded, index, self._image, roots), label) for index, label in enumerate(labels)])

    def _values(self, table: Any) -> list[int | str]:
        """The column of labels, as it is in the table."""
        values = list(table[self._label])
        if not values or not all(isinstance(value, int | str) for value in values):
            raise UserError(f"hf:{self.argument}: the column {self._label} has no label for each image")
        if any(isinstance(value, int) and value < 0 for value in values):
            raise UserError(
                f"hf:{self.argument}: the column {self._label} has images without a label (-1): give another ?split=NAME"
            )
        return values

    def _number(self, value: int | str) -> int:
        """The class of a label: its name is among the class names, or it is the number itself."""
        text = str(value)
        if self._number_of is not None:
            number = self._number_of.get(text)
        else:
            number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None
        if number is None or number >= self.classes:
            raise UserError(
                f"hf:{self.argument}: the column {self._label} has the unknown class '{text[:80]}': "
                f"the test images have {self.classes:,} classes, and it is none of them"
            )
        return number

    def _table(self, splits: Sequence[str]) -> Any:
        """The first of some splits that exists."""
        datasets = require_library("datasets", extra="datasets", needed_by="data set hf")
        path, _, revision = (self.argument or "").partition("@")
        # A folder is named like a repository: a path says which one is meant.
        keywords = {} if Path(path).expanduser().is_dir() else {"revision": revision or None}
        fault: Exception = ValueError("no split")
        is_unreachable = bool(keywords) and _is_unreachable(path)
        for split in splits:
            try:
                with _quiet(datasets), _offline(datasets, is_unreachable):
                    return datasets.load_dataset(str(Path(path).expanduser()), self._config, split=split, **keywords)
            except Exception as error:  # noqa: BLE001 - the library raises errors of many kinds
                fault = error
                if not (isinstance(error, ValueError) and "split" in str(error).lower()):
                    break
        raise UserError(f"hf:{self.argument} cannot be loaded ({one_line(fault)}): {_way_out(fault)}")

    def _column(self, table: Any, kind: str, name: str | None) -> str:
        """The column of images or of labels."""
        features = table.features
        if name is not None:
            if name not in features:
                raise UserError(
                    f"hf:{self.argument} has no column '{name}': {did_you_mean(name, features, lead='it has ')}"
                )
            return name
        wanted = "Image" if kind == "image" else "ClassLabel"
        columns = [key for key, feature in features.items() if type(feature).__name__ == wanted]
        if not columns and kind == "label":
            columns = [key for key in _LABELS if key in features][:1]
        if len(columns) != 1:
            among = columns or list(features)
            number = "several columns" if columns else "no column"
            raise UserError(
                f"hf:{self.argument} has {number} of {kind}s: give one of {', '.join(among)} as ?{kind}=COLUMN"
            )
        return str(columns[0])


@dataclass(frozen=True, slots=True)
class _Row:
    """The image file in a row of a table."""

    table: Any
    index: int
    column: str
    roots: tuple[Path, ...]

    def __str__(self) -> str:
        return f"image {self.index} of the column {self.column}"

    def open(self) -> IO[bytes]:
        """Opens the file: the bytes in the table, or a file that the library has downloaded."""
        cell = self.table[self.index][self.column]
        if cell is None:
            raise OSError("the row has no image")
        if cell["bytes"] is not None:
            return io.BytesIO(cell["bytes"])
        # A table may name any file of this machine.
        path = Path(cell["path"]).resolve()
        if not any(path.is_relative_to(root) for root in self.roots):
            raise OSError(f"{path} is outside of the data set")
        return open_regular(path)


def _roots(datasets: Any, argument: str) -> tuple[Path, ...]:
    """The folders in which a data set's image files may be: its own, or the caches of the library."""
    # The library datasets depends on huggingface_hub, which keeps the files that are downloaded.
    hub = require_library("huggingface_hub", extra="datasets", needed_by="data set hf")
    cached = (hub.constants.HF_HUB_CACHE, datasets.config.HF_DATASETS_CACHE)
    folder = Path(argument).expanduser()
    return tuple(Path(root).expanduser().resolve() for root in (*cached, *([folder] if folder.is_dir() else [])))


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """Hides the library's progress bars; its warnings stay."""
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _is_unreachable(repository: str) -> bool:
    """Whether the Hub gives no answer about a data set."""
    hub = require_library("huggingface_hub", extra="datasets", needed_by="data set hf")
    try:
        return why_unreachable(hub, repository, "README.md", repo_type="dataset") is not None
    except Exception:  # noqa: BLE001 - an error is an answer too; the library datasets has its message
        return False


@contextmanager
def _offline(datasets: Any, is_offline: bool) -> Iterator[None]:
    """Lets the libraries of the Hub use only their caches: without a network they try again for half a minute.

    Args:
        datasets: The library.
        is_offline: Whether to do so.
    """
    hub = require_library("huggingface_hub", extra="datasets", needed_by="data set hf")
    settings = (hub.constants, datasets.config)
    before = [module.HF_HUB_OFFLINE for module in settings]
    try:
        for module in settings:
            module.HF_HUB_OFFLINE = is_offline or module.HF_HUB_OFFLINE
        yield
    finally:
        for module, value in zip(settings, before, strict=True):
            module.HF_HUB_OFFLINE = value


def _way_out(error: Exception) -> str:
    """What a user can do about an error of the library."""
    text = f"{type(error).__name__} {error}".lower()
    if "gated" in text or "authenticat" in text or "401" in text:
        return "accept its terms on the Hub, and log in with 'hf auth login'"
    if "script" in text:
        return "it needs code of its repository, which is never run: look for a copy in Parquet format"
    if isinstance(error, OSError) and ("reach" in text or "offline" in text or "connection" in text):
        return "connect to the network, or give a folder with the files of the data set"
    if "config name" in text or "builderconfig" in text:
        return "give ?config=NAME after the name"
    if "split" in text:
        return "give ?split=NAME after the name"
    return "give the OWNER/NAME of a data set on the Hub, or a folder in its format"
