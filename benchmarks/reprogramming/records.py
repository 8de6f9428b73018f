"""The stored results of adversarial reprogramming."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from robustbench_cli.attacks.base.gradients.draws import Draws
from robustbench_cli.benchmarks.store.record_folder import RecordFolder
from robustbench_cli.benchmarks.store.store import REPROGRAMMING

__all__ = ["RECORDS", "ReprogrammedModel"]


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


RECORDS = RecordFolder(
    folder=REPROGRAMMING,
    kind=ReprogrammedModel,
    cell_of=lambda row: row.cell,
    noun="result",
    redo="run the cell again",
)
"""The results in any store."""
