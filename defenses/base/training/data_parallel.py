"""Steps of a training of which each of several processes computes its share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from robustbench_cli.defenses.base.training.processes import Processes

if TYPE_CHECKING:
    from robustbench_cli.defenses.base.training.trainer import Gradients

__all__ = ["average_gradients", "data_parallel_gradients"]


def data_parallel_gradients(gradients: Gradients, processes: Processes) -> Gradients:
    """Gradients of a whole batch, by processes that each have a share of it; the very same in all of them.

    Loss and gradients are the mean of the shares', weighted by how many images each has. So is the change of the
    network's floating-point buffers in the step, such as batch statistics, over the processes that have changed them:
    what only one has changed, number by number, becomes what that one made of it. All goes in one exchange.

    Args:
        gradients: Of a share.
        processes: Their networks are equal before a step.
    """

    def merged(
        network: nn.Module, images: Tensor, labels: Tensor, parameters: Sequence[nn.Parameter]
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        buffers = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
        wide = any(tensor.dtype == torch.float64 for tensor in (*parameters, *buffers))
        empty = images.new_empty(0, dtype=torch.float64 if wide else torch.float32)
        before = _flat(buffers, empty)
        value, slopes = gradients(network, images, labels, parameters)
        change = _flat(buffers, empty) - before
        known = [
            torch.zeros_like(parameter) if slope is None else slope
            for parameter, slope in zip(parameters, slopes, strict=True)
        ]
        known_here = torch.tensor([slope is not None for slope in slopes]).to(images.device, non_blocking=True)
        own = _flat([*known, value.detach(), change, change != 0, empty.new_ones(1), known_here], empty)
        sizes = [sum(parameter.numel() for parameter in parameters), 1, len(change), len(change), 1, len(slopes)]
        total = processes.sum(own.mul_(len(images)))
        slope_sum, value_sum, change_sum, changed, number, known_by = total.split(sizes)
        _write(buffers, before + change_sum / changed.clamp_min(1))
        means = _unflat(slope_sum.div_(number), parameters)
        return (value_sum / number)[0].to(value.dtype), [
            # Only what is missing here makes it wait for the device.
            mean if slope is not None or known_by[place] > 0 else None
            for place, (slope, mean) in enumerate(zip(slopes, means, strict=True))
        ]

    return merged


def average_gradients(
    gradients: Sequence[Tensor | None], parameters: Sequence[Tensor], number: int, processes: Processes
) -> Sequence[Tensor | None]:
    """Gradients of the mean loss over a batch, from those over the share that each process has.

    Args:
        gradients: Of a share; ``None`` where a parameter has no part in it.
        parameters: What they are gradients of.
        number: How many images the share has.
        processes: All call it, for the same parameters.

    Returns:
        The very same in all of them; ``None`` where a parameter has no part in any share.
    """
    if processes.number == 1 or not parameters:
        return gradients
    wide = any(parameter.dtype == torch.float64 for parameter in parameters)
    empty = parameters[0].new_empty(0, dtype=torch.float64 if wide else torch.float32)
    known = [
        torch.zeros_like(parameter) if gradient is None else gradient
        for parameter, gradient in zip(parameters, gradients, strict=True)
    ]
    known_here = torch.tensor([gradient is not None for gradient in gradients]).to(empty.device)
    total = processes.sum(_flat([*known, empty.new_ones(1), known_here], empty).mul_(number))
    total_gradient, images, known_by = total.split([len(total) - len(known) - 1, 1, len(known)])
    means = _unflat(total_gradient / images, parameters)
    return [mean if some > 0 else None for mean, some in zip(means, known_by.tolist(), strict=True)]


def _flat(tensors: Sequence[Tensor], empty: Tensor) -> Tensor:
    """All numbers of tensors, one after the other, in the kind of an empty tensor."""
    return torch.cat([empty, *(tensor.reshape(-1).to(empty.dtype) for tensor in tensors)])


def _unflat(numbers: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Numbers that lie one after the other, in the shapes and kinds of tensors."""
    parts = numbers.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape).to(tensor.dtype) for part, tensor in zip(parts, tensors, strict=True)]


@torch.no_grad()
def _write(tensors: Sequence[Tensor], numbers: Tensor) -> None:
    for tensor, part in zip(tensors, _unflat(numbers, tensors), strict=True):
        tensor.copy_(part)
