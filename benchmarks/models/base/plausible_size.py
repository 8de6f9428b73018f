"""Refuses a file that describes a far larger network than it has weights for, before memory is allocated for the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from robustbench_cli.core.errors import UserError, is_out_of_memory, lacks_resources
from robustbench_cli.core.isolation import isolated

__all__ = ["require_plausible_size"]

_MOST_TIMES = 16
"""The most numbers of a network for one number in its file. A defense may leave a part of its base network's weights: depthwise
separable convolutions leave a fifth.
"""

_ALWAYS_ALLOWED = 2**24
"""Numbers, 64 MB: index tables and masks that a transformer computes and no file has."""

_MOST_PARTS = 20_000
"""Modules, parameters and buffers; the largest networks of timm have 5,000."""


def require_plausible_size(build: Callable[[], nn.Module], tensors: Mapping[str, Tensor], path: Path) -> None:
    """Builds a network without memory, and compares its size with a file that is to fill it.

    Args:
        build: Builds the network that the file describes.
        tensors: The tensors of the file.
        path: The file, for the message.

    Raises:
        UserError: The network has far more numbers than the file, or far more parts than any network; or ``build`` raises it.
            Other failures are left to the real build.
    """
    held = sum(tensor.numel() for tensor in tensors.values())
    # Some networks compute with numbers that have no values on the device meta.
    for device in ("meta", "cpu"):
        try:
            with isolated(), torch.device(device), _limited(held, path):
                build()
        except UserError:
            raise
        except Exception as error:
            # The real build would fail as well, after as long a time.
            if lacks_resources(error) or is_out_of_memory(error):
                raise
        else:
            return


@contextmanager
def _limited(held: int, path: Path) -> Iterator[None]:
    """Stops the building of a network that gets too large.

    Args:
        held: The numbers in the file.
        path: The file, for the message.
    """
    parts, numbers = 0, 0

    def count(_: nn.Module, name: str, part: nn.Module | Tensor | None) -> None:
        nonlocal parts, numbers
        parts += 1
        numbers += part.numel() if isinstance(part, Tensor) else 0
        if parts > _MOST_PARTS or numbers > _MOST_TIMES * held + _ALWAYS_ALLOWED:
            raise UserError(
                f"{path} has {held:,} numbers, and describes a network of at least {numbers:,} in {parts:,} parts: it is "
                "damaged, or its weights are another network's"
            )

    hooks = [
        register_module_buffer_registration_hook(count),
        register_module_module_registration_hook(count),
        register_module_parameter_registration_hook(count),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
