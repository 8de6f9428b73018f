"""What ``torch.cuda`` says and does while there is a pretended device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from tests.pretended.graphs import Capture

if TYPE_CHECKING:
    from tests.pretended.device import Device

__all__ = ["DeviceModule", "replaced_functions"]

_MEMORY = 2**36


class Functions:
    """The functions of ``torch.cuda``, by their names there.

    Args:
        device: The pretended devices.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._stream = Stream()

    def _index(self, device: object = None) -> int:
        index = self._device.index_of("cuda" if device is None else device)
        assert index is not None
        return index

    def _lazy_init(self) -> None:
        pass

    def _is_in_bad_fork(self) -> bool:
        return False

    def is_available(self) -> bool:
        return True

    is_initialized = is_available

    def is_bf16_supported(self, including_emulation: bool = True) -> bool:
        return True

    def device_count(self) -> int:
        return self._device.count

    def current_device(self) -> int:
        return self._device.current

    def set_device(self, device: object) -> None:
        self._device.current = self._index(device)

    def _exchange_device(self, index: int) -> int:
        previous = self._device.current
        if index >= 0:
            self.set_device(index)
        return previous

    _maybe_exchange_device = _exchange_device

    def get_device_name(self, device: object = None) -> str:
        return f"pretended device {self._index(device)}"

    def get_device_capability(self, device: object = None) -> tuple[int, int]:
        return 9, 0

    def get_device_properties(self, device: object = None) -> SimpleNamespace:
        return SimpleNamespace(name=self.get_device_name(device), total_memory=_MEMORY, multi_processor_count=100)

    def mem_get_info(self, device: object = None) -> tuple[int, int]:
        return _MEMORY, _MEMORY

    def memory_allocated(self, device: object = None) -> int:
        return 0

    memory_reserved = max_memory_allocated = max_memory_reserved = memory_allocated

    def reset_peak_memory_stats(self, device: object = None) -> None:
        pass

    def get_per_process_memory_fraction(self, device: object = None) -> float:
        return 1.0

    def set_per_process_memory_fraction(self, fraction: float, device: object = None) -> None:
        self._index(device)

    def synchronize(self, device: object = None) -> None:
        self._device.wait("synchronize")

    def empty_cache(self) -> None:
        self._device.wait("empty_cache")

    def manual_seed(self, seed: int) -> None:
        self._device.seed(self._device.current, seed)

    def manual_seed_all(self, seed: int) -> None:
        for index in range(self._device.count):
            self._device.seed(index, seed)

    def get_rng_state(self, device: object = None) -> torch.Tensor:
        return self._device.generators[self._index(device)].get_state()

    def get_rng_state_all(self) -> list[torch.Tensor]:
        return [generator.get_state() for generator in self._device.generators]

    def set_rng_state(self, state: torch.Tensor, device: object = None) -> None:
        self._device.generators[self._index(device)].set_state(state)

    def set_rng_state_all(self, states: list[torch.Tensor]) -> None:
        for generator, state in zip(self._device.generators, states, strict=True):
            generator.set_state(state)

    def current_stream(self, device: object = None) -> Stream:
        return self._stream

    default_stream = current_stream

    def set_stream(self, stream: Stream) -> None:
        self._stream = stream

    @contextmanager
    def stream(self, stream: Stream | None) -> Iterator[None]:
        previous, self._stream = self._stream, stream or self._stream
        try:
            yield
        finally:
            self._stream = previous

    def is_current_stream_capturing(self) -> bool:
        return self._device.capture is not None

    def graph_pool_handle(self) -> tuple[int, int]:
        return 0, 1

    @contextmanager
    def graph(
        self, cuda_graph: Graph, pool: object = None, stream: Stream | None = None, **_: object
    ) -> Iterator[None]:
        self.synchronize()
        with self.stream(stream):
            cuda_graph.capture_begin()
            try:
                yield
            finally:
                cuda_graph.capture_end()


class Stream:
    """A stream: operations are computed at once, so that there is nothing to wait for."""

    cuda_stream = stream_id = 0

    def __init__(self, device: object = None, priority: int = 0, **_: object) -> None:
        self.device = torch.device("cuda", 0)

    def wait_stream(self, stream: Stream) -> None:
        pass

    def wait_event(self, event: Event) -> None:
        pass

    def record_event(self, event: Event | None = None) -> Event:
        return event or Event()

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def query(self) -> bool:
        return True


class Event:
    """An event that has happened."""

    def __init__(self, enable_timing: bool = False, **_: object) -> None:
        pass

    def record(self, stream: Stream | None = None) -> None:
        pass

    def wait(self, stream: Stream | None = None) -> None:
        pass

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def elapsed_time(self, end: Event) -> float:
        return 0.0


class Graph:
    """A CUDA graph; see :class:`Capture`.

    Args:
        device: The device that it is captured on.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._capture: Capture | None = None

    def capture_begin(self, pool: object = None, capture_error_mode: str = "global") -> None:
        if self._device.capture is not None:
            raise torch.AcceleratorError("CUDA error: operation not permitted when stream is capturing")
        self._capture = self._device.capture = Capture()

    def capture_end(self) -> None:
        assert self._capture is not None
        self._device.capture = None
        self._capture.end()

    def replay(self) -> None:
        if self._capture is None or not self._capture.valid:
            raise RuntimeError("Called CUDAGraph::replay without a preceding successful capture.")
        self._device.launch("graph")
        self._device.replayed.update(self._capture.launches)
        self._capture.replay()

    def reset(self) -> None:
        self._capture = None

    def pool(self) -> tuple[int, int]:
        return 0, 1

    def register_generator_state(self, generator: torch.Generator) -> None:
        pass


class DeviceModule:
    """What torch asks of a backend's own module: the same as of ``torch.cuda``."""

    def __init__(self, device: Callable[[], Device]) -> None:
        self._functions = lambda: Functions(device())

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._functions(), name)


def replaced_functions(device: Device, generator: type[torch.Generator], backend: str) -> list[tuple[Any, str, Any]]:
    """What is replaced while there are pretended devices: owner, name and replacement.

    Args:
        device: The devices.
        generator: The class of their generators.
        backend: The name of the device in C++.
    """
    functions = Functions(device)
    names = [name for name in {**vars(Functions)} if not name.startswith("__") and name != "_index"]
    values = {name: getattr(functions, name) for name in names}
    values |= {"Stream": Stream, "Event": Event, "CUDAGraph": lambda keep_graph=False: Graph(device)}
    owners = (torch.cuda, torch.cuda.random, torch.cuda.graphs, torch.cuda.memory)
    replaced = [(owner, name, value) for owner in owners for name, value in values.items() if hasattr(owner, name)]
    begin = torch.autocast.__init__

    def autocast(self: torch.autocast, device_type: str, *args: Any, **kwargs: Any) -> None:
        begin(self, backend if device_type == "cuda" else device_type, *args, **kwargs)

    backward = torch.autograd._engine_run_backward  # type: ignore[attr-defined]

    def in_this_thread(*args: Any, **kwargs: Any) -> Any:
        # Torch has no threads for the second device. Leaving inference mode switches threads on.
        with torch.autograd.set_multithreading_enabled(False):
            return backward(*args, **kwargs)

    replaced.append((torch.autograd, "_engine_run_backward", in_this_thread))
    return [*replaced, (torch.autocast, "__init__", autocast), (torch, "Generator", generator)]
