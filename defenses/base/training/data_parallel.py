"""Data-parallel training steps: each process computes its share of a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robustbench_cli.defenses.base.training.gradients import Gradients
from robustbench_cli.defenses.base.training.processes import Processes

__all__ = ["average_gradients", "data_parallel_gradients"]


def data_parallel_gradients(gradients: Gradients, processes: Processes) -> Gradients:
    """Gradients of a whole batch, from processes that each compute a share of it. All processes get the same result.

    The result is the mean over the shares, weighted by their numbers of images. The step's change of each
    floating-point buffer, such as a running mean of batch norm, is averaged too, element by element, over the processes
    that changed it. One reduction carries everything.

    Args:
        gradients: Computes the gradients of one share.
        processes: Their networks are equal before a step.
    """

    def merged(
        network: nn.Module, images: Tensor, labels: Tensor, parameters: Sequence[nn.Parameter]
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        buffers = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
        is_double = any(tensor.dtype == torch.float64 for tensor in (*parameters, *buffers))
        empty = images.new_empty(0, dtype=torch.float64 if is_double else torch.float32)
        before = _flatten(buffers, empty)
        loss, local = gradients(network, images, labels, parameters)
        change = _flatten(buffers, empty) - before
        filled, exists = _fill_missing(local, parameters)
        exists = exists.to(images.device, non_blocking=True)
        message = _flatten([*filled, loss.detach(), change, change != 0, empty.new_ones(1), exists], empty)
        sizes = [sum(parameter.numel() for parameter in parameters), 1, len(change), len(change), 1, len(local)]
        total = processes.sum(message.mul_(len(images)))
        gradient_sum, loss_sum, change_sum, change_count, count, exists_count = total.split(sizes)
        _write(buffers, before + change_sum / change_count.clamp_min(1))
        means = _unflatten(gradient_sum.div_(count), parameters)
        return (loss_sum / count)[0].to(loss.dtype), [
            # The comparison waits for the device, so it runs only for gradients that are missing here.
            mean if gradient is not None or exists_count[index] > 0 else None
            for index, (gradient, mean) in enumerate(zip(local, means, strict=True))
        ]

    return merged


def average_gradients(
    gradients: Sequence[Tensor | None], parameters: Sequence[Tensor], images: int, processes: Processes
) -> Sequence[Tensor | None]:
    """Gradients of the mean loss over a batch, from the gradients on each process's share.

    Args:
        gradients: Those of this process's share. ``None`` if the loss does not depend on the parameter.
        parameters: The tensors that the gradients belong to.
        images: The number of images in this process's share.
        processes: All of them call this function with the same parameters.

    Returns:
        The same in all processes. ``None`` if the loss does not depend on the parameter in any share.
    """
    if processes.number == 1 or not parameters:
        return gradients
    is_double = any(parameter.dtype == torch.float64 for parameter in parameters)
    empty = parameters[0].new_empty(0, dtype=torch.float64 if is_double else torch.float32)
    filled, exists = _fill_missing(gradients, parameters)
    message = _flatten([*filled, empty.new_ones(1), exists.to(empty.device)], empty)
    total = processes.sum(message.mul_(images))
    gradient_sum, count, exists_count = total.split([len(total) - len(filled) - 1, 1, len(filled)])
    means = _unflatten(gradient_sum / count, parameters)
    return [mean if weight > 0 else None for mean, weight in zip(means, exists_count.tolist(), strict=True)]


def _fill_missing(gradients: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> tuple[list[Tensor], Tensor]:
    """The gradients with zeros for missing ones, and whether each exists ``(P,)``."""
    filled = [
        torch.zeros_like(parameter) if gradient is None else gradient
        for parameter, gradient in zip(parameters, gradients, strict=True)
    ]
    return filled, torch.tensor([gradient is not None for gradient in gradients])


def _flatten(tensors: Sequence[Tensor], empty: Tensor) -> Tensor:
    """All elements of the tensors in one vector, with the dtype and device of ``empty``."""
    return torch.cat([empty, *(tensor.reshape(-1).to(empty.dtype) for tensor in tensors)])


def _unflatten(vector: Tensor, tensors: Sequence[Tensor]) -> list[Tensor]:
    """The elements of a vector in the shapes and dtypes of ``tensors``."""
    parts = vector.split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape).to(tensor.dtype) for part, tensor in zip(parts, tensors, strict=True)]


@torch.no_grad()
def _write(tensors: Sequence[Tensor], vector: Tensor) -> None:
    for tensor, part in zip(tensors, _unflatten(vector, tensors), strict=True):
        tensor.copy_(part)
