"""A pretended CUDA device: real numbers on the CPU behind tensors that claim to be on CUDA, under the rules of a real one.

    with pretended(ROOT) as cuda:
        evaluate(model, images, labels, attack=attack, device="cuda")
    cuda.launches          # Counter of (operation, file:line): each operation at least one kernel
    cuda.synchronizations  # Counter of (reason, file:line): where the host waits for the device

An operation on tensors of several devices raises, as CUDA does. A device draws from random generators of its own. CUDA graphs
are recorded and replayed (graphs.py). To C++ a tensor is on a ``PrivateUse1`` device, because torch refuses CUDA tensors where
there is no GPU; Python code sees ``cuda``. Registering that device cannot be undone, so it needs a process of its own.

It cannot see the kernels within one operation (a sort is several), streams that run at the same time, fragmented memory, TF32,
or fused optimizers, which torch uses for plain tensors only.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

from tests.pretended import rules
from tests.pretended.cuda import DeviceModule, replaced_functions
from tests.pretended.graphs import Capture

__all__ = ["Device", "MixedDevicesError", "OnDevice", "pretended"]

BACKEND = "pretended"
"""The name of the device in C++."""

_cpp_device = torch._C.TensorBase.device
_in_use: list[Device] = []
_registered: list[object] = []


class MixedDevicesError(RuntimeError):
    """An operation got tensors of several devices."""


class OnDevice(Tensor):
    """A tensor on a pretended device.

    Attributes:
        numbers: The CPU tensor behind it.
    """

    numbers: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    def __new__(cls, numbers: Tensor, index: int) -> Self:
        made: Self = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            numbers.shape,
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            layout=numbers.layout,
            device=torch.device(BACKEND, index),
        )
        made.numbers = numbers
        return made

    def __repr__(self, **_: object) -> str:  # type: ignore[override]
        _in_use[-1].wait("print")
        return f"OnDevice({self.numbers})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _in_use[-1].run(func, args, kwargs or {})


class Device:
    """One or more pretended devices, and what was done on them.

    Args:
        root: The folder whose code is named in the counts.
        count: The number of devices.
        memory: The bytes of the largest result of one operation; a larger one raises ``torch.OutOfMemoryError``.

    Attributes:
        launches: By operation and line of code, how often a kernel was launched; a graph's replay is one launch.
        replayed: By operation and line of code, the kernels that replays have run.
        synchronizations: By reason and line of code, how often the host waited for a device.
        out_of_memory: How often the memory was too small.
        current: The index of the current device.
        capture: The CUDA graph that is being captured.
    """

    def __init__(self, root: Path, *, count: int, memory: int | None) -> None:
        self.root, self.count, self.memory = str(root), count, memory
        self.generators = [torch.Generator() for _ in range(count)]
        self.current = self.out_of_memory = 0
        self.capture: Capture | None = None
        self.reset()

    def reset(self) -> None:
        """Sets all counts to zero."""
        self.launches: Counter[tuple[str, str]] = Counter()
        self.replayed: Counter[tuple[str, str]] = Counter()
        self.synchronizations: Counter[tuple[str, str]] = Counter()

    def line(self) -> str:
        """The innermost line of code in :attr:`root` that is being run."""
        frame = sys._getframe(1)
        while frame is not None:
            file = frame.f_code.co_filename
            if file.startswith(self.root) and "/.venv/" not in file and "/tests/pretended/" not in file:
                return f"{file[len(self.root) + 1 :].removeprefix('robustbench_cli/')}:{frame.f_lineno}"
            frame = frame.f_back  # type: ignore[assignment]
        return "elsewhere"

    def wait(self, reason: str) -> None:
        """Counts a synchronization.

        Raises:
            AcceleratorError: A graph is being captured.
        """
        self.synchronizations[reason, self.line()] += 1
        if self.capture is not None:
            self.capture.valid = False
            raise torch.AcceleratorError(
                f"CUDA error: operation not permitted when stream is capturing ({reason} at {self.line()})"
            )

    def launch(self, operation: str) -> None:
        """Counts a launch, or adds it to the graph that is being captured."""
        counts = self.launches if self.capture is None else self.capture.launches
        counts[operation, self.line()] += 1

    def index_of(self, device: object) -> int | None:
        """The index of a pretended device; ``None`` for another device."""
        device = torch.device("cuda", device) if isinstance(device, int) else torch.device(str(device or "cpu"))
        if device.type not in {"cuda", BACKEND}:
            return None
        index = self.current if device.index is None else device.index
        if index >= self.count:
            raise torch.AcceleratorError("CUDA error: invalid device ordinal")
        return index

    def seed(self, index: int, seed: int) -> None:
        """Seeds a device's generator, which draws other numbers than the CPU's from the same seed."""
        if self.capture is not None:
            raise RuntimeError("the seed of a CUDA generator cannot change while a graph is being captured")
        self.generators[index].manual_seed((int(seed) ^ 0x5DEECE66D) & (2**63 - 1))

    def run(self, operation: torch._ops.OpOverload, args: Any, kwargs: Any) -> Any:
        """Runs one operation that torch dispatches.

        Raises:
            MixedDevicesError: Its tensors are on several devices.
            OutOfMemoryError: Its result is larger than the memory.
        """
        flat = rules.leaves((*args, *kwargs.values()))
        inputs = [leaf for leaf in flat if isinstance(leaf, OnDevice)]
        target = self.index_of(kwargs.get("device"))
        if not inputs and target is None:
            return operation(*args, **kwargs)
        if mismatch := rules.device_mismatch(operation, args, flat, here=OnDevice):
            raise MixedDevicesError(
                f"Expected all tensors to be on the same device, but found {mismatch} ({operation} at {self.line()})"
            )
        self._count(operation, args, kwargs)
        index = inputs[0].device.index if target is None else target
        real_args = tuple(rules.mapped(self._behind, value) for value in args)
        real_kwargs = {name: rules.mapped(self._behind, value) for name, value in kwargs.items()}
        result = self._compute(operation, index, real_args, real_kwargs)
        if kwargs.get("device") is not None and target is None:
            return result  # copied to the CPU
        if rules.name_of(operation) == "copy_" and not isinstance(args[0], OnDevice):
            return args[0]
        wrapped = rules.mapped(lambda leaf: OnDevice(leaf, index) if isinstance(leaf, Tensor) else leaf, result)
        return return_and_correct_aliasing(operation, args, kwargs, wrapped) if inputs and target is None else wrapped

    def _count(self, operation: torch._ops.OpOverload, args: Any, kwargs: Any) -> None:
        if reason := rules.synchronization(operation, args, kwargs, here=OnDevice):
            self.wait(reason)
        if rules.launches(operation):
            self.launch(rules.name_of(operation))

    def _behind(self, leaf: Any) -> Any:
        """An argument of an operation as the CPU needs it."""
        if isinstance(leaf, torch.device):
            return torch.device("cpu")
        if isinstance(leaf, OnDevice):
            return leaf.numbers
        is_number = self.capture is not None and isinstance(leaf, Tensor) and leaf.dim() == 0
        return self.capture.constant(leaf) if is_number else leaf

    def _compute(self, operation: torch._ops.OpOverload, index: int, args: Any, kwargs: Any) -> Any:
        """The operation on the numbers behind the tensors; recorded if a graph is being captured."""
        compute: Callable[..., Any] = operation
        if rules.name_of(operation) in rules.RANDOM and kwargs.get("generator") is None:
            compute = partial(self._draw, operation, self.generators[index])
        if rules.is_transfer(operation):
            compute = partial(_copied, operation)
        if self.capture is not None:
            return self.capture.run(operation, compute, args, kwargs)
        result = compute(*args, **kwargs)
        for leaf in rules.leaves([result]) if self.memory is not None and not operation.is_view else ():
            if isinstance(leaf, Tensor) and leaf.nbytes > self.memory:
                self.out_of_memory += 1
                raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {leaf.nbytes} bytes (pretended)")
        return result

    @staticmethod
    def _draw(operation: Callable[..., Any], generator: torch.Generator, *args: Any, **kwargs: Any) -> Any:
        """Replaces the CPU's generator with a device's."""
        own = torch.default_generator.get_state()
        torch.default_generator.set_state(generator.get_state())
        try:
            return operation(*args, **kwargs)
        finally:
            generator.set_state(torch.default_generator.get_state())
            torch.default_generator.set_state(own)


class Generator(torch.Generator):
    """A generator of the CPU or of a pretended device, which to C++ is one of the CPU."""

    on_device: int | None

    def __new__(cls, device: object = "cpu") -> Self:
        generator = super().__new__(cls, device="cpu")
        generator.on_device = _in_use[-1].index_of(device)
        return generator

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("cpu") if self.on_device is None else torch.device("cuda", self.on_device)


def _copied(operation: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A copy that shares no memory with the original, also where both are on the CPU in truth."""
    kwargs.pop("pin_memory", None)
    result = operation(*args, **kwargs)
    return result.clone() if result is not args[0] and result.data_ptr() == args[0].data_ptr() else result


class _Dispatched(TorchDispatchMode):
    """Also sees operations without tensors, which may make one on a device."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Torch would import its compiler, which takes seconds.
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _in_use[-1].run(func, args, kwargs or {})


class _Translated(TorchFunctionMode):
    """Calls torch's functions with the name of the device in C++, and does what they do apart from dispatched operations."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.device:
            return func(*args, **kwargs)
        args, kwargs = tuple(map(_translated, args)), {key: _translated(value) for key, value in kwargs.items()}
        first = args[0] if args else None
        if func in (torch.tensor, torch.as_tensor, torch.asarray) and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        if func is torch.Tensor.pin_memory:
            return first
        if func == torch.Tensor.data.__set__ and isinstance(first, OnDevice) != isinstance(args[1], OnDevice):
            # It moves the parameter to another device.
            torch.utils.swap_tensors(first, nn.Parameter(args[1], first.requires_grad))
            return None
        if func is torch.Tensor.cuda:
            return first.to(_translated(args[1] if len(args) > 1 else "cuda"))
        return _special(func, args, kwargs) if isinstance(first, OnDevice) else func(*args, **kwargs)


def _special(func: Any, args: Any, kwargs: Any) -> Any:
    """A function of a tensor on a device that C++ would treat otherwise than a CUDA tensor."""
    first = args[0]
    if func is torch.Tensor.__setitem__ and isinstance(args[2], bool | int | float):
        # Torch would make a tensor of the number on a device that is not CUDA.
        return func(*args[:2], torch.tensor(args[2], dtype=first.dtype))
    if func is torch.Tensor.new_tensor:
        return torch.tensor(*args[1:], **{"dtype": first.dtype, **kwargs}).to(_translated(first.device))
    if func is torch.Tensor.tolist:
        return first.cpu().tolist()
    if func is torch.Tensor.numpy:
        raise TypeError(f"can't convert {first.device} device type tensor to numpy. Use Tensor.cpu() first")
    return func(*args, **kwargs)


def _translated(value: Any) -> Any:
    """A CUDA device by its name in C++; anything else as it is."""
    if isinstance(value, torch.device | str) and str(value).partition(":")[0] == "cuda":
        return torch.device(BACKEND, _in_use[-1].index_of(value))
    return value


def _register() -> None:
    """Makes the device known to torch, once in a process."""
    kind = torch._C._autograd.DeviceType.PrivateUse1  # type: ignore[attr-defined]
    yes = {"is_available": lambda self: True, "is_built": lambda self: True}
    hooks = type("Hooks", (torch._C._acc.PrivateUse1Hooks,), {**yes, "has_primary_context": lambda self, index: True})()
    guard = type("Guard", (torch._C._acc.DeviceGuard,), {"type_": lambda self: kind})()
    torch.utils.rename_privateuse1_backend(BACKEND)
    torch._register_device_module(BACKEND, DeviceModule(lambda: _in_use[-1]))
    torch._C._acc.register_python_privateuseone_hook(hooks)
    torch._C._acc.register_python_privateuseone_device_guard(guard)
    others, aten = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    others.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    # What autocast computes in bfloat16 on CUDA, and what in float32, as far as models here use it.
    for name in ("addmm", "baddbmm", "bmm", "conv2d", "linear", "matmul", "mm"):
        aten.impl(name, _with_autocast(name, torch.float32, None), "AutocastPrivateUse1")
    for name in ("cross_entropy_loss", "exp", "log", "log_softmax.int", "logsumexp", "softmax.int"):
        aten.impl(name, _with_autocast(name, torch.bfloat16, torch.float32), "AutocastPrivateUse1")
    # Torch seeds the device, for one, also while none is pretended.
    _in_use.append(Device(Path("/"), count=1, memory=None))
    _registered.extend([hooks, guard, others, aten])


def _with_autocast(name: str, source: torch.dtype, target: torch.dtype | None) -> Callable[..., Any]:
    """An operation with its tensors of one type converted to another; ``None`` for the type of the autocast context."""
    base, _, overload = name.partition(".")
    operation = getattr(torch.ops.aten, base)
    operation = getattr(operation, overload) if overload else operation
    autocast = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def run(*args: Any, **kwargs: Any) -> Any:
        dtype = target or torch.get_autocast_dtype(BACKEND)

        def cast(leaf: Any) -> Any:
            return leaf.to(dtype) if isinstance(leaf, Tensor) and leaf.dtype == source else leaf

        with torch._C._ExcludeDispatchKeyGuard(autocast):
            return operation(*[rules.mapped(cast, value) for value in args], **kwargs)

    return run


def _python_device(tensor: Tensor) -> torch.device:
    device: torch.device = _cpp_device.__get__(tensor)  # type: ignore[attr-defined]
    return torch.device("cuda", device.index) if device.type == BACKEND else device


@contextlib.contextmanager
def pretended(root: Path, *, count: int = 1, memory: int | None = None) -> Iterator[Device]:
    """Provides pretended CUDA devices inside the context; tensors on them are useless afterwards.

    Args:
        root: See :class:`Device`.
        count: See :class:`Device`.
        memory: See :class:`Device`.
    """
    device = Device(root, count=count, memory=memory)
    _in_use.append(device)
    swaps = torch.__future__.get_swap_module_params_on_conversion()
    replaced = replaced_functions(device, Generator, BACKEND)
    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in replaced]
    try:
        # A parameter stays the same object when its module moves, as on a real device.
        torch.__future__.set_swap_module_params_on_conversion(True)
        for owner, name, function in replaced:
            setattr(owner, name, function)
        Tensor.device = property(_python_device)  # type: ignore[assignment]
        Tensor.is_cuda = property(lambda tensor: tensor.device.type == "cuda")  # type: ignore[assignment]
        with _Translated(), _Dispatched():
            yield device
    finally:
        for owner, name, function in originals:
            setattr(owner, name, function)
        del Tensor.device, Tensor.is_cuda
        torch.__future__.set_swap_module_params_on_conversion(swaps)
        _in_use.pop()


_register()
