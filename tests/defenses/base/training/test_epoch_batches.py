from __future__ import annotations

import pytest
import torch
from torch import Tensor

from robustbench_cli.benchmarks.datasets.base.split import TensorSplit
from robustbench_cli.defenses.base.training.epoch_batches import EpochBatches
from robustbench_cli.defenses.base.training.recipe import Recipe

EXAMPLES = TensorSplit(torch.zeros(1297, 1, 1, 1, dtype=torch.uint8), torch.arange(1297) % 10)


def test_every_example_once_an_epoch() -> None:
    """The batches of an epoch contain each example once, in a new order, and their sizes differ by at most one."""
    batches = EpochBatches(EXAMPLES, Recipe(batch_size=500), seed=0)
    first, second = batches.of_epoch(1), batches.of_epoch(2)
    assert [len(indices) for indices in (*first, *second)] == [433, 432, 432] * 2
    for epoch in (first, second):
        assert torch.equal(torch.cat([*epoch]).sort().values, torch.arange(1297))
    assert not torch.equal(torch.cat([*first]), torch.cat([*second]))


def test_an_epoch_of_a_fraction() -> None:
    """Each epoch takes other examples, none of them twice."""
    batches = EpochBatches(EXAMPLES, Recipe(batch_size=250, epoch_fraction=0.4), seed=0)
    assert [len(indices) for indices in batches.of_epoch(1)] == [173, 173, 173]
    first, second = ({*torch.cat([*batches.of_epoch(seed)]).tolist()} for seed in (1, 2))
    assert len(first) == len(second) == round(0.4 * 1297)
    # The overlap of two random halves is hypergeometric, with mean 207.7 and standard deviation 8.6.
    assert 165 < len(first & second) < 250


def test_held_out_examples_are_in_no_batch() -> None:
    """They and the others are all examples; the indices of extra ones follow."""
    recipe = Recipe(batch_size=100, held_out=0.1, extra="npz:more.npz", extra_fraction=0.5)
    batches = EpochBatches(EXAMPLES, recipe, seed=0, extra=2000)
    assert len(batches.held_out_indices) == 130
    both = torch.cat([batches.train_indices, batches.held_out_indices])
    assert torch.equal(both.sort().values, torch.arange(1297))
    taken: Tensor = torch.cat([*batches.of_epoch(1)])
    assert len(taken) == len(batches.train_indices)
    assert not {*taken.tolist()} & {*batches.held_out_indices.tolist()}
    assert taken.max() < 1297 + 2000
    assert (taken >= 1297).double().mean() == pytest.approx(0.5, abs=0.01)


def test_fewer_examples() -> None:
    """An epoch takes each of them once, and the whole stays as it was."""
    whole = EpochBatches(EXAMPLES, Recipe(batch_size=500), seed=0)
    fewer = whole.only(torch.tensor([1, 4, 7]))
    assert sorted(torch.cat([*fewer.of_epoch(5)]).tolist()) == [1, 4, 7]
    assert (fewer.images, whole.images) == (3, 1297)
