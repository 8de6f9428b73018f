from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.defenses.base.training.data_parallel import average_gradients, data_parallel_gradients
from robustbench_cli.defenses.base.training.gradients import cross_entropy, gradients_of
from robustbench_cli.defenses.base.training.processes import Processes


class Threads(Processes):
    """Two threads that act as two processes."""

    exchange: dict[int, Tensor]
    barrier: threading.Barrier

    def sum(self, numbers: Tensor) -> Tensor:
        self.exchange[self.rank] = numbers
        self.barrier.wait(timeout=30)
        total = self.exchange[0] + self.exchange[1]
        self.barrier.wait(timeout=30)
        return total


def in_two_threads(function: Callable[[Threads], Any]) -> list[Any]:
    """The results of a function that both threads run."""
    exchange: dict[int, Tensor] = {}
    barrier = threading.Barrier(2)
    results: dict[int, Any] = {}

    def run(rank: int) -> None:
        threads = Threads(2, rank)
        object.__setattr__(threads, "exchange", exchange)
        object.__setattr__(threads, "barrier", barrier)
        results[rank] = function(threads)

    both = [threading.Thread(target=run, args=(rank,)) for rank in (0, 1)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(timeout=60)
    return [results[0], results[1]]


def test_two_shares_give_the_gradient_of_the_batch() -> None:
    """Loss, gradients and running mean of five images are the means over the images, although the shares are 3 and 2."""
    images, labels = torch.rand(5, 4), torch.tensor([0, 1, 2, 0, 1])
    networks = [nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())

    def step(threads: Threads) -> Any:
        network = networks[threads.rank]
        share = threads.share
        gradients = data_parallel_gradients(gradients_of(cross_entropy), threads)
        return gradients(network, images[share], labels[share], list(network.parameters()))

    (loss, gradients), (second_loss, second_gradients) = in_two_threads(step)
    assert loss == second_loss
    assert all(torch.equal(first, second) for first, second in zip(gradients, second_gradients, strict=True))
    reference = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    reference[0].load_state_dict(networks[0][0].state_dict())
    shares = (slice(0, None, 2), slice(1, None, 2))
    losses = [functional.cross_entropy(reference(images[share]), labels[share]) for share in shares]
    expected = (3 * losses[0] + 2 * losses[1]) / 5
    torch.testing.assert_close(loss, expected.detach())
    for gradient, wanted in zip(gradients, torch.autograd.grad(expected, list(reference.parameters())), strict=True):
        torch.testing.assert_close(gradient, wanted)
    mean = 0.1 * networks[0][0](images).mean(0)
    for network in networks:
        torch.testing.assert_close(network[1].running_mean, mean.detach())


def test_missing_gradients_count_as_zero() -> None:
    """With 1 and 3 images: a gradient that one share lacks counts as 0, one that both lack stays missing."""
    parameters = [torch.zeros(2), torch.zeros(3), torch.zeros(1)]

    def average(threads: Threads) -> Any:
        local = [torch.full((2,), 1.0 + 4 * threads.rank), None if threads.rank else torch.ones(3), None]
        return average_gradients(local, parameters, 1 + 2 * threads.rank, threads)

    for both, one, missing in in_two_threads(average):
        assert both.tolist() == [4, 4]
        assert one.tolist() == [0.25] * 3
        assert missing is None


def test_a_single_process_exchanges_nothing() -> None:
    """Its gradients are returned unchanged."""
    gradients = [torch.ones(2), None]
    assert average_gradients(gradients, [torch.zeros(2), torch.zeros(3)], 7, Processes()) is gradients
