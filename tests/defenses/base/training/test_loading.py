from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from robustbench_cli.benchmarks.datasets.base.split import TensorSplit
from robustbench_cli.benchmarks.models.preact_resnet18 import PreActResNet18
from robustbench_cli.defenses.base.training.loading import (
    Examples,
    InMemoryExamples,
    Loader,
    TensorExamples,
    joined_examples,
    layout_for_training,
    mixed_batches,
)

CPU = torch.device("cpu")


def in_bytes(count: int = 40) -> TensorSplit:
    torch.manual_seed(0)
    return TensorSplit(torch.randint(0, 256, (count, 3, 4, 4), dtype=torch.uint8), torch.arange(count))


class Streamed:
    """Examples without tensors, which count their reads."""

    def __init__(self, examples: Examples) -> None:
        self.examples = examples
        self.reads: list[int] = []

    def __len__(self) -> int:
        return len(self.examples)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        self.reads.append(len(indices))
        return self.examples.batch(indices)


@pytest.mark.parametrize(
    ("width", "device", "layout"),
    [
        (4, "cpu", torch.contiguous_format),
        (8, "cpu", torch.channels_last),
        (4, "cuda", torch.channels_last),
    ],
)
def test_no_layout_in_which_torch_corrupts_its_memory(width: int, device: str, layout: torch.memory_format) -> None:
    """The shortcuts of a narrow residual network are strided 1 x 1 convolutions with few channels."""
    network = PreActResNet18(channels=3, classes=10, width=width)
    assert layout_for_training(network, torch.device(device)) == layout


@pytest.mark.parametrize(
    "examples",
    [in_bytes(), TensorExamples(torch.rand(40, 3, 4, 4), torch.arange(40)), Streamed(in_bytes())],
    ids=["uint8", "float32", "streamed"],
)
def test_batches(examples: Examples) -> None:
    """Each batch has the images and labels of its indices, in order and in the network's layout."""
    loader = Loader(examples, CPU)
    batches = torch.randperm(40).tensor_split(3)
    loaded = list(loader.batches(batches, lambda images, labels: (images + 1, -labels)))
    assert len(loaded) == 3
    for indices, (rows, labels) in zip(batches, loaded, strict=True):
        images, expected = examples.batch(indices)
        assert torch.equal(rows, images + 1)
        assert torch.equal(labels, -expected)
        assert rows.is_contiguous(memory_format=torch.channels_last)
    images, _ = loader.batch(batches[0])
    assert torch.equal(images, examples.batch(batches[0])[0])


def test_one_batch_at_a_time_on_a_cpu() -> None:
    """On a CPU ``prepare`` runs just before its step, so that both draw in the order of the steps."""
    events: list[str] = []
    examples = Streamed(in_bytes())
    loader = Loader(examples, CPU)
    batches = torch.arange(40).tensor_split(2)

    def prepare(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        events.append("prepared")
        return images, labels

    events.extend("step" for _ in loader.batches(batches, prepare))
    assert events == ["prepared", "step", "prepared", "step"]
    assert examples.reads == [20, 20]


def test_which_examples_can_move() -> None:
    """Examples in memory say their size and move; others are left where they are."""
    split = in_bytes(10)
    assert isinstance(split, InMemoryExamples)
    assert split.nbytes == 10 * 3 * 4 * 4 + 10 * 8
    moved = split.to(torch.device("meta"))
    images, labels = moved.batch(torch.empty(3, dtype=torch.int64, device="meta"))
    assert (images.device.type, images.dtype, labels.device.type) == ("meta", torch.float32, "meta")
    assert split.batch(torch.tensor([1]))[0].device == CPU
    floats = TensorExamples(torch.rand(4, 1, 2, 2), torch.arange(4))
    assert isinstance(floats, InMemoryExamples)
    assert floats.nbytes == 4 * 4 * 4 + 4 * 8
    assert floats.to(torch.device("meta")).images.device.type == "meta"
    assert not isinstance(Streamed(split), InMemoryExamples)


@pytest.mark.parametrize("wrap", [lambda examples: examples, Streamed], ids=["in-memory", "streamed"])
def test_joined_examples(wrap: Any) -> None:
    """They equal the examples of one tensor with the rows of both, for any order of the indices, on one side or on both."""
    first, second = in_bytes(10), in_bytes(17)
    joined = joined_examples(first, wrap(second))
    images = torch.cat([first.images(torch.arange(10)), second.images(torch.arange(17))])
    labels = torch.cat([first.labels, second.labels])
    assert len(joined) == 27
    for indices in (torch.randperm(27), torch.arange(10).flip(0), torch.tensor([26, 10, 11])):
        loaded = joined.batch(indices)
        assert torch.equal(loaded[0], images[indices])
        assert torch.equal(loaded[1], labels[indices])
    if isinstance(joined, InMemoryExamples):
        assert joined.nbytes == first.nbytes + second.nbytes
        assert joined.to(CPU).batch(torch.tensor([12]))[1] == 2
    assert isinstance(joined, InMemoryExamples) == (wrap is not Streamed)


@pytest.mark.parametrize(("number", "fraction", "batches"), [(500, 0.7, 8), (7, 0.5, 3), (40, 0.01, 20)])
def test_mixed_batches(number: int, fraction: float, batches: int) -> None:
    """Each batch has its share of extra examples. None comes twice before all came once, and epochs take different ones."""
    own, extra = torch.arange(100), 100 + torch.arange(number)
    epochs = []
    for seed in (0, 1):
        generator = torch.Generator().manual_seed(seed)
        order = own[torch.randperm(100, generator=generator)]
        epoch = mixed_batches(order, extra, fraction=fraction, batches=batches, generator=generator)
        sizes = [len(part) for part in own.tensor_split(batches)]
        assert [len(batch) for batch in epoch] == sizes
        added = [int((batch >= 100).sum()) for batch in epoch]
        assert all(abs(count - fraction * size) <= 1 for count, size in zip(added, sizes, strict=True))
        assert sum(added) == round(fraction * 100)
        counts = torch.cat(tuple(epoch)).bincount(minlength=100 + number)
        assert counts[:100].max() <= 1
        assert counts[100:].max() - counts[100:].min() <= 1
        epochs.append(torch.cat(tuple(epoch)))
    assert not torch.equal(epochs[0].sort().values, epochs[1].sort().values)
