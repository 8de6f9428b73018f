"""What one operation does on a CUDA device: launch kernels, make the host wait, or refuse tensors of several devices."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import torch
from torch import Tensor

__all__ = ["RANDOM", "device_mismatch", "is_transfer", "launches", "leaves", "mapped", "name_of", "synchronization"]

_WAITS = {
    "_linalg_check_errors",
    "_local_scalar_dense",
    "_unique2",
    "bincount",
    "equal",
    "histc",
    "masked_scatter",
    "masked_select",
    "multinomial",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
}
"""Operations after which the host needs a number from the device: a value, or the size of the result."""

_LAUNCHES_NOTHING = {
    "_unsafe_view",
    "empty",
    "empty_like",
    "empty_strided",
    "is_pinned",
    "is_same_size",
    "lift_fresh",
    "new_empty",
    "new_empty_strided",
    "resize_",
    "set_",
    *_WAITS & {"_local_scalar_dense"},
}
"""Operations that allocate or rename. Views, which say so themselves, are not listed."""

_TRANSFERS = {"_to_copy", "copy_"}
_INDEXED = {"_index_put_impl_", "_unsafe_index", "index", "index_put", "index_put_"}
_TAKE_SCALARS = {"fill", "fill_", "masked_fill", "masked_fill_", "where", *_INDEXED}
"""Operations besides the pointwise ones that accept a tensor without dimensions from the CPU."""

RANDOM = {
    "_sample_dirichlet",
    "_standard_gamma",
    "bernoulli",
    "bernoulli_",
    "binomial",
    "cauchy_",
    "exponential_",
    "geometric_",
    "log_normal_",
    "multinomial",
    "native_dropout",
    "normal",
    "normal_",
    "poisson",
    "rand",
    "rand_like",
    "randint",
    "randint_like",
    "randn",
    "randn_like",
    "random_",
    "randperm",
    "uniform_",
}
"""Operations that draw from a generator."""


def leaves(values: Iterable[Any]) -> list[Any]:
    """The values, and those in lists and tuples among them: what an operation has no deeper."""
    flat: list[Any] = []
    for value in values:
        flat.extend(value) if isinstance(value, list | tuple) else flat.append(value)
    return flat


def mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """A function of a value, or of each in a list or tuple."""
    return type(value)(map(function, value)) if type(value) in {list, tuple} else function(value)


@cache
def name_of(operation: torch._ops.OpOverload) -> str:
    """The operation's name without its overload: ``add`` for ``aten::add.Tensor``."""
    return operation._schema.name.partition("::")[2]


def is_transfer(operation: torch._ops.OpOverload) -> bool:
    """Whether the operation may copy from one device to another."""
    return name_of(operation) in _TRANSFERS


@cache
def launches(operation: torch._ops.OpOverload) -> bool:
    """Whether the operation launches a kernel (or several: how many is not known)."""
    renames = operation.is_view or torch.Tag.inplace_view in operation.tags
    return not renames and name_of(operation) not in _LAUNCHES_NOTHING


def synchronization(operation: torch._ops.OpOverload, args: Any, kwargs: Any, *, here: type[Tensor]) -> str | None:
    """Why the host waits for the device in this call; ``None`` where it does not.

    Args:
        operation: The operation.
        args: Its arguments, some of them on the device.
        kwargs: Its keyword arguments.
        here: The class of the tensors on the device.
    """
    name = name_of(operation)
    if name in _WAITS:
        return name.strip("_").removesuffix("_dense").replace("local_scalar", "item")
    if name in _TRANSFERS:
        return _transfer(name, args, kwargs, here)
    if name == "repeat_interleave" and kwargs.get("output_size") is None:
        return "repeat_interleave without output_size"
    if name in _INDEXED:
        indices = [index for index in args[1] if isinstance(index, Tensor)]
        if any(index.dim() and not isinstance(index, here) for index in indices):
            return "index from the CPU"
        # A mask becomes a list of indices, unless one value fills it.
        fills = name not in {"index", "_unsafe_index"} and args[2].numel() == 1
        if not fills and any(index.dtype in (torch.bool, torch.uint8) for index in indices):
            return "boolean mask"
    return None


def _transfer(name: str, args: Any, kwargs: Any, here: type[Tensor]) -> str | None:
    if name == "copy_":
        target, source, waits = isinstance(args[0], here), args[1], not (len(args) > 2 and args[2])
        if source.dim() == 0 and not isinstance(source, here) and args[0].dim():
            return None  # a number, which is an argument of the kernel
    else:
        target, source, waits = kwargs.get("device") is None, args[0], not kwargs.get("non_blocking")
        target = target or torch.device(kwargs["device"]).type != "cpu"
    if target == isinstance(source, here) or not waits:
        return None
    return "host to device" if target else "device to host"


def device_mismatch(operation: torch._ops.OpOverload, args: Any, flat: list[Any], *, here: type[Tensor]) -> str | None:
    """Which tensors of this call are on different devices, where CUDA does not allow it.

    Args:
        operation: The operation.
        args: Its arguments.
        flat: All its :func:`leaves`.
        here: The class of the tensors on the device.
    """
    name = name_of(operation)
    tensors = [leaf for leaf in flat if isinstance(leaf, Tensor)]
    on_device = [tensor for tensor in tensors if isinstance(tensor, here)]
    if is_transfer(operation) or name == "set_" or not on_device:
        return None
    devices = sorted({str(tensor.device) for tensor in on_device})
    if len(devices) > 1:
        return " and ".join(devices)
    takes_scalars = torch.Tag.pointwise in operation.tags or name in _TAKE_SCALARS or name.startswith("_foreach")
    for tensor in tensors:
        if isinstance(tensor, here):
            continue
        if tensor.dim() == 0 and takes_scalars and not (name.endswith("_") and tensor is args[0]):
            continue
        if name in _INDEXED and isinstance(args[0], here) and any(tensor is index for index in args[1]):
            continue
        return f"cpu {tuple(tensor.shape)} and {devices[0]} {tuple(on_device[0].shape)}"
    return None
