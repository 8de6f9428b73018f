"""CUDA graphs on a pretended device: operations are recorded, and replayed into the same memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from tests.pretended.rules import leaves, mapped

__all__ = ["Capture"]


class Capture:
    """The operations of one CUDA graph.

    What a real graph would compute otherwise than the code that was captured shows here as well. Numbers that Python knew
    are fixed. Tensors made during the capture keep their memory, and hold no result before the first replay. A tensor from
    before the capture is read where it was, and a replay after it was freed raises.

    Attributes:
        valid: Whether the capture has done nothing that a graph cannot hold.
        launches: The kernels of one replay by operation and line of code.
    """

    def __init__(self) -> None:
        self.valid = True
        self.launches: Counter[tuple[str, str]] = Counter()
        self._steps: list[tuple[Callable[..., Any], Any, list[Tensor | None]]] = []
        self._owned: dict[int, Tensor] = {}
        self._overwritten: dict[int, tuple[Tensor, Tensor]] = {}

    def run(self, operation: torch._ops.OpOverload, compute: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Records an operation, and computes its result, whose shape the code that follows needs.

        Args:
            operation: The operation.
            compute: Computes it from its arguments.
            args: Its arguments, on the CPU.
            kwargs: Its keyword arguments.
        """
        if operation._schema.is_mutable:
            self._preserve(operation, args, kwargs)
        recorded = self._mapped(self._recorded, args, kwargs)
        result = compute(*args, **kwargs)
        inputs = {_memory(leaf) for leaf in leaves((*args, *kwargs.values())) if isinstance(leaf, Tensor)}
        outputs: list[Tensor | None] = []
        for leaf in leaves([result]):
            is_new = isinstance(leaf, Tensor) and _memory(leaf) not in inputs
            outputs.append(leaf if is_new else None)
            if is_new:
                self._owned[_memory(leaf)] = leaf
        self._steps.append((compute, recorded, outputs))
        return result

    def end(self) -> None:
        """Ends the capture: nothing that it recorded has happened yet.

        Raises:
            AcceleratorError: The capture is not valid.
        """
        for tensor, numbers in self._overwritten.values():
            tensor.copy_(numbers)
        self._overwritten.clear()
        if not self.valid:
            raise torch.AcceleratorError("CUDA error: operation failed due to a previous error during capture")
        for _, _, outputs in self._steps:
            for tensor in outputs:
                if tensor is not None and tensor.is_floating_point():
                    tensor.fill_(torch.nan)

    def replay(self) -> None:
        """Runs all operations again, into the memory of the capture."""
        for compute, recorded, outputs in self._steps:
            args, kwargs = self._mapped(lambda leaf: leaf.tensor() if isinstance(leaf, _External) else leaf, *recorded)
            for kept, leaf in zip(outputs, leaves([compute(*args, **kwargs)]), strict=True):
                if kept is not None:
                    kept.copy_(leaf)

    def constant(self, number: Tensor) -> Tensor:
        """A tensor without dimensions on the CPU, whose present value becomes an argument of the kernel."""
        value = number.clone()
        self._owned[_memory(value)] = value
        return value

    def _recorded(self, leaf: Any) -> Any:
        return _External(leaf) if isinstance(leaf, Tensor) and _memory(leaf) not in self._owned else leaf

    @staticmethod
    def _mapped(function: Callable[[Any], Any], args: Any, kwargs: Any) -> tuple[Any, Any]:
        return [mapped(function, value) for value in args], {
            key: mapped(function, value) for key, value in kwargs.items()
        }

    def _preserve(self, operation: torch._ops.OpOverload, args: Any, kwargs: Any) -> None:
        """Keeps the numbers of tensors from before the capture that an operation overwrites."""
        for position, argument in enumerate(operation._schema.arguments):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            value = args[position] if position < len(args) else kwargs.get(argument.name)
            for leaf in leaves([value]):
                if isinstance(leaf, Tensor) and _memory(leaf) not in self._owned:
                    storage = leaf.untyped_storage()
                    count = storage.nbytes() // leaf.itemsize
                    whole = torch.empty(0, dtype=leaf.dtype).set_(storage, 0, (count,), (1,))
                    self._overwritten.setdefault(_memory(leaf), (whole, whole.clone()))


class _External:
    """A tensor from before the capture, which the graph does not keep alive."""

    def __init__(self, tensor: Tensor) -> None:
        self._storage = StorageWeakRef(tensor.untyped_storage())
        self._dtype = tensor.dtype
        self._view = tensor.storage_offset(), tensor.shape, tensor.stride()

    def tensor(self) -> Tensor:
        storage = torch.UntypedStorage._new_with_weak_ptr(self._storage.cdata)
        if storage is None:
            raise torch.AcceleratorError("a CUDA graph is replayed after an input of it was freed")
        return torch.empty(0, dtype=self._dtype).set_(storage, *self._view)


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
