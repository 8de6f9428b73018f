from __future__ import annotations

import math

import pytest
import torch

from robustbench_cli.benchmarks.devices import (
    automatic_batch_size,
    current,
    keep_freed_memory,
    limit_threads,
    share_memory,
    threads,
)


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 224, 224), (3, 5000, 5000)])
def test_a_batch_is_chosen_for_every_image(kind: str, shape: tuple[int, int, int]) -> None:
    """At least one image, at most 4096; larger images come in smaller batches; a GPU takes no fewer than a CPU."""
    size = automatic_batch_size(torch.device(kind), shape)
    assert 1 <= size <= 4096
    larger = automatic_batch_size(torch.device(kind), (shape[0], 2 * shape[1], shape[2]))
    assert larger <= size
    assert size >= automatic_batch_size(torch.device("cpu"), shape)
    if 1 < size < 4096:
        assert size * math.prod(shape[1:]) <= (4096 * 32 * 32 if kind == "cuda" else 64 * 28 * 28)


def test_keeping_memory_changes_no_result() -> None:
    """Asked for once and again, arithmetic goes on as before."""
    before = torch.arange(1e6).sum()
    keep_freed_memory()
    keep_freed_memory()
    assert torch.equal(torch.arange(1e6).sum(), before)


@pytest.mark.parametrize(
    ("shape", "chosen", "expected"), [((1, 28, 28), None, 1), ((3, 32, 32), None, 3), ((1, 8, 8), "OMP_NUM_THREADS", 3)]
)
def test_small_images_take_one_thread(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], chosen: str | None, expected: int
) -> None:
    """Unless the user has said how many; larger images take as many as torch chose."""
    before = torch.get_num_threads()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    if chosen is not None:
        monkeypatch.setenv(chosen, "3")
    torch.set_num_threads(3)
    try:
        limit_threads(shape)
        assert torch.get_num_threads() == expected
        assert threads().startswith(f"{expected}, by {chosen}" if chosen else f"{expected}; 1 for images")
    finally:
        torch.set_num_threads(before)


def test_a_cuda_device_is_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a model calls ``cuda`` is the device of its slot, and afterwards what it was before; a CPU changes nothing."""
    now = [0]
    monkeypatch.setattr(torch.cuda, "_exchange_device", lambda index: now.append(index) or now[-2])
    monkeypatch.setattr(torch.cuda, "_maybe_exchange_device", lambda index: now.append(index) or now[-2])
    with current(torch.device("cuda:3")):
        assert now[-1] == 3
    assert now[-1] == 0
    with pytest.raises(ZeroDivisionError), current(torch.device("cuda:2")):
        raise ZeroDivisionError
    assert now[-1] == 0
    with current(torch.device("cpu")):
        assert now == [0, 3, 0, 2, 0]


@pytest.mark.parametrize(
    ("device", "processes", "expected"),
    [("cuda:1", 3, [(0.3, torch.device("cuda:1"))]), ("cuda:1", 1, []), ("cpu", 3, [])],
)
def test_processes_share_a_devices_memory(
    monkeypatch: pytest.MonkeyPatch, device: str, processes: int, expected: list[tuple[float, torch.device]]
) -> None:
    """Where one alone is on it, it may take all; together they never take more than there is."""
    told: list[tuple[float, torch.device]] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, of: told.append((share, of)))
    share_memory(torch.device(device), processes)
    assert [of for _, of in told] == [of for _, of in expected]
    assert [share for share, _ in told] == pytest.approx([share for share, _ in expected])
