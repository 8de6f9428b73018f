"""What the pretended device itself must do, in functions that a process of their own runs: test_device.py names them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.pretended.device import pretended

ROOT = Path(__file__).parents[2]


def tensors_of_two_devices_raise() -> None:
    with pretended(ROOT, count=2):
        images = torch.rand(3, 4, device="cuda")
        for other in (torch.rand(3, 4), torch.rand(3, 4, device="cuda:1")):
            with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
                images + other
        with pytest.raises(RuntimeError, match="same device"):
            torch.stack([images[0, 0], torch.tensor(1.0)])
        assert (images + torch.tensor(1.0)).device == torch.device("cuda:0")
        with pytest.raises(TypeError, match=r"Tensor\.cpu"):
            images.numpy()
        with pytest.raises(RuntimeError, match="invalid device ordinal"):
            torch.zeros(1, device="cuda:2")


def synchronizations_are_counted() -> None:
    with pretended(ROOT) as cuda:
        numbers = torch.arange(6.0, device="cuda")
        quiet = [
            lambda: numbers.add(1),
            lambda: numbers.where(numbers > 2, 0),
            lambda: numbers.masked_fill(numbers > 2, 0),
            lambda: torch.arange(3, device="cuda"),
            lambda: numbers.clone().__setitem__(numbers > 2, 1.0),
            lambda: numbers.topk(2),
        ]
        waiting = [
            lambda: numbers[0].item(),
            lambda: bool(numbers.any()),
            lambda: numbers[numbers > 2],
            lambda: numbers.nonzero(),
            lambda: numbers.unique(),
            lambda: numbers.cpu(),
            lambda: torch.tensor([1.0], device="cuda"),
            lambda: torch.ones(2).to("cuda"),
            lambda: numbers[torch.tensor([0, 1])],
            lambda: numbers.tolist(),
            torch.cuda.synchronize,
        ]
        for expected, actions in ((0, quiet), (1, waiting)):
            for number, action in enumerate(actions):
                cuda.reset()
                action()
                assert cuda.synchronizations.total() == expected, (expected, number, cuda.synchronizations)
        cuda.reset()
        assert torch.ones(2).to("cuda", non_blocking=True).device.type == "cuda"
        assert cuda.synchronizations.total() == 0


def launches_are_counted() -> None:
    with pretended(ROOT) as cuda:
        rows = torch.rand(4, 3, device="cuda")
        cuda.reset()
        _ = rows.view(3, 4).T[1:].unsqueeze(0), torch.empty(3, device="cuda"), rows.detach(), rows.shape
        assert cuda.launches.total() == 0
        rows.mul(2).add_(1)
        rows[0] = 3.0
        assert {operation: count for (operation, _), count in cuda.launches.items()} == {
            "mul": 1,
            "add_": 1,
            "fill_": 1,
        }


def numbers_are_those_of_the_cpu() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    images, labels = torch.rand(5, 1, 8, 8), torch.arange(5)
    leaf = images.clone().requires_grad_()
    (expected,) = torch.autograd.grad(F.cross_entropy(model(leaf), labels), leaf)
    weight = model[0].weight
    with pretended(ROOT, count=2):
        model.to("cuda:1")
        leaf = images.to("cuda:1").requires_grad_()
        (found,) = torch.autograd.grad(F.cross_entropy(model(leaf), labels.to("cuda:1")), leaf)
        assert found.device == torch.device("cuda:1") and model[0].weight is weight and weight.is_cuda
        torch.testing.assert_close(found.cpu(), expected)
        with torch.autocast("cuda", torch.bfloat16):
            assert model(leaf).dtype == torch.bfloat16
        model.cpu()
    assert model[0].weight is weight and not weight.is_cuda and not torch.cuda.is_available()


def a_device_draws_for_itself() -> None:
    with pretended(ROOT, count=2):
        torch.manual_seed(3)
        drawn = torch.rand(4), torch.rand(4, device="cuda:0").cpu(), torch.rand(4, device="cuda:1").cpu()
        assert not torch.equal(drawn[0], drawn[1])
        torch.manual_seed(3)
        state = torch.cuda.get_rng_state(0)
        assert torch.equal(torch.rand(4, device="cuda:0").cpu(), drawn[1])
        assert torch.equal(torch.rand(4), drawn[0])
        torch.cuda.set_rng_state(state, 0)
        assert torch.equal(torch.rand(4, device="cuda:0").cpu(), drawn[1])


def memory_is_limited() -> None:
    with pretended(ROOT, memory=1000) as cuda:
        torch.zeros(250, device="cuda")
        with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
            torch.zeros(251, device="cuda")
        assert cuda.out_of_memory == 1


def a_graph_is_replayed_into_its_memory() -> None:
    with pretended(ROOT) as cuda:
        images, shift, factor = torch.zeros(3, device="cuda"), torch.ones(3, device="cuda"), 2
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            leaf = images.detach().requires_grad_()
            (slope,) = torch.autograd.grad((leaf * factor + shift).sin().sum(), leaf)
            noise = torch.rand(3, device="cuda")
            shift += 1
        assert shift.tolist() == [1, 1, 1] and slope.isnan().all()  # nothing has happened yet
        factor = 5  # which the graph does not know
        drawn = []
        for replays in (1, 2):
            images.copy_(torch.arange(3.0) * replays)
            cuda.reset()
            graph.replay()
            assert cuda.launches.total() == 1 and cuda.replayed.total() > 3
            torch.testing.assert_close(slope.cpu(), 2 * (torch.arange(3.0) * replays * 2 + replays).cos())
            assert shift.tolist() == [1 + replays] * 3
            drawn.append(noise.cpu())
        assert not torch.equal(*drawn)


def a_graph_reads_numbers_once() -> None:
    with pretended(ROOT):
        images, number = torch.ones(2, device="cuda"), torch.tensor(2.0)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=torch.cuda.Stream()):
            scaled = images * number
        number.fill_(9)
        graph.replay()
        assert scaled.tolist() == [2, 2]


def a_graph_does_not_keep_its_inputs() -> None:
    with pretended(ROOT):
        images = torch.ones(2, device="cuda")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            total = images.sum() + 1
        graph.replay()
        assert total.item() == 3
        del images
        with pytest.raises(RuntimeError, match="after an input of it was freed"):
            graph.replay()


def a_capture_cannot_wait() -> None:
    with pretended(ROOT):
        images = torch.ones(2, device="cuda")
        for action in (lambda: images.sum().item(), lambda: images[images > 0], torch.cuda.synchronize):
            graph = torch.cuda.CUDAGraph()
            with pytest.raises(RuntimeError, match="CUDA error: operation failed"), torch.cuda.graph(graph):
                assert torch.cuda.is_current_stream_capturing()
                action()
            assert not torch.cuda.is_current_stream_capturing()
            with pytest.raises(RuntimeError, match="without a preceding successful capture"):
                graph.replay()
        graph = torch.cuda.CUDAGraph()
        with pytest.raises(RuntimeError, match="seed"), torch.cuda.graph(graph):
            torch.manual_seed(0)


SCENARIOS = (
    tensors_of_two_devices_raise,
    synchronizations_are_counted,
    launches_are_counted,
    numbers_are_those_of_the_cpu,
    a_device_draws_for_itself,
    memory_is_limited,
    a_graph_is_replayed_into_its_memory,
    a_graph_reads_numbers_once,
    a_graph_does_not_keep_its_inputs,
    a_capture_cannot_wait,
)
