"""The stored results of adversarial reprogramming."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from robustbench_cli.attacks.base.gradients.draws import Draws
from robustbench_cli.benchmarks.store.records import encoded, read_record
from robustbench_cli.benchmarks.store.store import REPROGRAMMING, stale_temporary_files
from robustbench_cli.core.atomic_write import write_atomically
from robustbench_cli.core.errors import UserError

__all__ = ["ReprogrammedModel", "leftovers", "read", "record_file", "stored", "take", "write"]


class ReprogrammedModel(BaseModel):
    """The stored result of a reprogramming: a row of its table.

    Attributes:
        dataset: The data set that the model was trained on.
        model: The model's name.
        checkpoint: The checkpoint's file.
        defense: The label of the defenses.
        task: The data set that the program makes it classify.
        reprogramming: The attack's label.
        eot: The draws behind each gradient.
        n: The number of test images of the task.
        repeats: The draws that scored each image.
        seed: The seed of everything that is random.
        reprogrammed_accuracy: Share of test images and draws with the task's class: low for a well protected model.
        reprogrammed_accuracy_low: Lower end of its 95 % confidence interval.
        reprogrammed_accuracy_high: Upper end of that interval.
        commonest_class: Share of the test images that are of the most frequent class: the accuracy of guessing it.
        forwards: Images passed through the model in training, in passes of one draw.
        backwards: Images passed back to its input.
        seconds: Wall time.
        device: The device that computed it.
        cell: The content hash.
        versions: The versions of the libraries that computed it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str | None
    model: str
    checkpoint: str
    defense: str
    task: str
    reprogramming: str
    eot: Draws
    n: int
    repeats: int
    seed: int
    reprogrammed_accuracy: float
    reprogrammed_accuracy_low: float
    reprogrammed_accuracy_high: float
    commonest_class: float
    forwards: int
    backwards: int
    seconds: float
    device: str
    cell: str
    versions: dict[str, str]


def record_file(store: Path, cell: str) -> Path:
    """The file of a result.

    Args:
        store: The folder of the store.
        cell: The content hash.
    """
    return store / REPROGRAMMING / f"{cell}.json"


def read(path: Path) -> ReprogrammedModel:
    """Reads a result.

    Raises:
        UserError: The file is missing or damaged, or its name is not its cell.
    """
    row = read_record(path, ReprogrammedModel, name="result", hint=f"remove {path} to run the cell again")
    if row.cell != path.stem:
        raise UserError(f"{path} has the cell {row.cell}: remove it, or restore its name")
    return row


def write(store: Path, row: ReprogrammedModel) -> None:
    """Stores a result.

    Args:
        store: The folder of the store.
        row: The result.

    Raises:
        UserError: The store cannot be written.
    """
    write_atomically(record_file(store, row.cell), encoded(row))


def stored(store: Path, *, damaged: Callable[[UserError], None]) -> Iterator[ReprogrammedModel]:
    """The results in a store, in the order of their cells.

    Args:
        store: The folder of the store.
        damaged: Called with an error for each file that cannot be read; it is skipped.
    """
    for path in sorted((store / REPROGRAMMING).glob("*.json")):
        try:
            row = read(path)
        except UserError as error:
            damaged(error)
        else:
            yield row


def take(store: Path, other: Path, *, damaged: Callable[[UserError], None]) -> int:
    """Copies the results that another store has and this one lacks. Nothing is overwritten.

    Args:
        store: The folder of this store.
        other: The folder of the other store.
        damaged: As for :func:`stored`.

    Returns:
        The number of results that were copied.

    Raises:
        UserError: This store cannot be written.
    """
    copied = 0
    for row in stored(other, damaged=damaged):
        if not record_file(store, row.cell).exists():
            write(store, row)
            copied += 1
    return copied


def leftovers(store: Path, *, older_than: float) -> list[Path]:
    """Half-written files that a killed process left.

    Args:
        store: The folder of the store.
        older_than: Age in seconds. A younger file may still be in use.
    """
    return stale_temporary_files(store / REPROGRAMMING, older_than=older_than)
