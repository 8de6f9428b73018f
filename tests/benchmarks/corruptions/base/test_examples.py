"""The examples of a plan, and those that are attacked."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import ClassVar

import torch

from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.corruptions.base.examples import corrupted_examples, source_examples
from robustbench_cli.benchmarks.datasets.base.dataset import Dataset, SplitName
from robustbench_cli.benchmarks.datasets.base.split import Split, TensorSplit


class Published(Dataset):
    """Two images for each corruption and severity, and how often they were read."""

    only_corrupted: ClassVar[bool] = True
    shape = (1, 2, 2)

    def __init__(self, argument: str | None = None, *, data_dir: Path | None = None) -> None:
        super().__init__(argument, data_dir=data_dir)
        self.reads: Counter[tuple[str, int]] = Counter()

    def load(self, name: SplitName) -> Split:
        raise NotImplementedError

    def published(self, corruption: str, severity: int) -> Split:
        self.reads[corruption, severity] += 1
        return TensorSplit(torch.full((2, *self.shape), severity / 5), torch.tensor([0, 1]))


def test_a_plan_reads_published_images_once() -> None:
    """It asks for each set twice; what it keeps has no pixels, and the hash of the images that are attacked."""
    data = Published()
    specs = [MethodSpec(name="fog", parameters={"severity": severity}) for severity in (1, 2, 3)]
    planned = [[source_examples(data, 2, spec) for spec in specs] for _ in range(2)]
    assert {*data.reads.values()} == {1}
    assert len({examples.sha256 for examples in planned[0]}) == 3
    for spec, examples in zip(specs, planned[1], strict=True):
        attacked = corrupted_examples(data, 2, spec, seed=0)
        assert attacked.sha256 == examples.sha256
        assert attacked.images.shape == examples.images.shape
        assert attacked.images.unique().tolist() == [torch.tensor(spec.parameters["severity"] / 5).item()]
        assert examples.images.is_meta
