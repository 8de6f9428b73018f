from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
import torch

from robustbench_cli.benchmarks.devices import (
    automatic_batch_size,
    current,
    limit_threads,
    threads,
    use_share,
    worker_environment,
)


@pytest.mark.parametrize(
    ("kind", "shape", "size"),
    [
        ("cpu", (1, 8, 8), 784),
        ("cpu", (1, 28, 28), 64),
        ("cpu", (3, 28, 28), 64),
        ("cpu", (3, 64, 64), 12),
        ("cpu", (3, 224, 224), 8),
        ("cpu", (3, 512, 512), 2),
        ("cpu", (3, 5000, 5000), 1),
    ],
)
def test_the_batch_size_fits_the_device(kind: str, shape: tuple[int, int, int], size: int) -> None:
    """64 images of 28 x 28 on a CPU, as many pixels of other sizes; at least a few images."""
    assert automatic_batch_size(torch.device(kind), shape) == size


@pytest.mark.parametrize(
    ("gigabytes", "pixels", "size"),
    [(16, 8, 4096), (16, 32, 4096), (16, 224, 83), (128, 224, 668), (8, 224, 41), (1, 5000, 1)],
)
def test_the_batch_size_follows_the_free_memory_of_a_gpu(
    gigabytes: int, pixels: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4 KiB per pixel, at most 4096 images. What the process has reserved and does not use is free, up to its limit."""
    free, used, reserved = 2**30 * gigabytes, 2**20, 2**28
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: used)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: reserved + used)
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: 1.0, raising=False)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free - reserved, 2**40))
    assert automatic_batch_size(torch.device("cuda"), (3, pixels, pixels)) == size
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**39, 2**40))
    monkeypatch.setattr(
        torch.cuda, "get_per_process_memory_fraction", lambda device: (free + used) / 2**40, raising=False
    )
    assert automatic_batch_size(torch.device("cuda"), (3, pixels, pixels)) == size


KEPT_MEMORY = """
import os, sys
import torch
from robustbench_cli.benchmarks.devices import keep_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

if sys.argv[1] == "keep":
    keep_freed_memory()
    keep_freed_memory()
before = resident()
tensor = torch.ones(2**24)
del tensor
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the option is glibc's")
def test_freed_memory_stays_with_the_process() -> None:
    """Most of a tensor of 64 MiB is resident after it is freed; by default the system has it back."""

    def kept(word: str) -> int:
        done = subprocess.run([sys.executable, "-c", KEPT_MEMORY, word], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert kept("keep") > 48 * 2**20
    assert kept("default") < 16 * 2**20


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
    [
        ("cuda:1", 3, [("device", 1), ("share", 0.3, 1)]),
        ("cuda:1", 1, [("device", 1)]),
        ("cuda", 2, [("device", 0), ("share", 0.45, 0)]),
        ("cpu", 3, [("threads", 2)]),
        ("cpu", 30, [("threads", 1)]),
    ],
)
@pytest.mark.parametrize("chosen", [False, True])
def test_processes_share_a_device(
    monkeypatch: pytest.MonkeyPatch, device: str, processes: int, expected: list[object], chosen: bool
) -> None:
    """The device comes first, so that CUDA starts on no other; a process alone on it may take all of its memory.

    The threads are those that the user has chosen, if so.
    """
    calls: list[object] = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda of: calls.append(("device", of.index)))
    monkeypatch.setattr(
        torch.cuda,
        "set_per_process_memory_fraction",
        lambda share, of: calls.append(("share", pytest.approx(share), of.index)),
    )
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    monkeypatch.setattr(torch, "set_num_threads", lambda number: calls.append(("threads", number)))
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    if chosen:
        monkeypatch.setenv("MKL_NUM_THREADS", "5")
    use_share(torch.device(device), processes)
    assert calls == ([] if chosen and device == "cpu" else expected)


@pytest.mark.parametrize("variable", [None, "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF", "PYTORCH_ALLOC_CONF"])
def test_worker_processes_get_segments_that_grow(monkeypatch: pytest.MonkeyPatch, variable: str | None) -> None:
    """Unless the user has set the allocator; and this process does not."""
    names = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    if variable is not None:
        monkeypatch.setenv(variable, "backend:native")
    before = dict(os.environ)
    with worker_environment():
        settings = [os.environ[name] for name in names if name in os.environ]
        assert settings == ["expandable_segments:True" if variable is None else "backend:native"]
    assert dict(os.environ) == before
