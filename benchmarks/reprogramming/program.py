"""The adversarial program: a trained frame around small images that lets a classifier solve another task."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.core.errors import UserError
from robustbench_cli.core.settings import Settings

__all__ = ["Program", "Reprogramming"]


class Reprogramming(Settings):
    """Adversarial reprogramming: what stands before a frozen model is trained until its answers solve another task.

    The program is the locally connected layer of the HRS paper: the task's image, zero-padded, goes through a window
    that has weights of its own at every place, and ``tanh(relu(...))`` makes pixels in [0, 1] of it. It is trained by
    the cross-entropy of the model's logits with the task's labels; the model's class k stands for the task's class k.
    The paper trains for 50 epochs by SGD; here it is Adam with a one-cycle rate.
    """

    paper: ClassVar[str] = (
        "Gamaleldin F. Elsayed, Ian Goodfellow, Jascha Sohl-Dickstein, Adversarial Reprogramming of Neural Networks, ICLR 2019, "
        "arXiv 1806.11146"
    )

    kernel: int = Field(3, ge=1, description="side of the window that a pixel of the model's input is made from")
    shift: int = Field(0, ge=0, description="the task's class k is to be the model's class k + shift, counted around")
    epochs: int = Field(20, ge=1, description="passes through the task's training images")
    lr: float = Field(0.02, gt=0, description="learning rate, at its highest")
    examples: int = Field(10_000, ge=1, description="how many of the task's training images are used at most")


class Program(nn.Module):
    """A locally connected layer from a task's images to a model's.

    Args:
        task: ``(c, h, w)`` of the task's images.
        shape: ``(C, H, W)`` of the model's.
        kernel: Side k of the window; images are zero-padded to ``(H + k - 1, W + k - 1)``, theirs in the middle.

    Raises:
        UserError: The task's images are larger than that.
    """

    def __init__(self, task: tuple[int, int, int], shape: tuple[int, int, int], *, kernel: int) -> None:
        super().__init__()
        spare = [shape[axis] + kernel - 1 - task[axis] for axis in (1, 2)]
        if min(spare) < 0:
            largest = f"{shape[1] + kernel - 1}x{shape[2] + kernel - 1}"
            raise UserError(
                f"images of {task[1]}x{task[2]} do not fit into {largest}, a window of {kernel} around the model's "
                f"{shape[1]}x{shape[2]}: give a task of smaller images, or a larger reprogramming.kernel"
            )
        self.shape = shape
        self.kernel = kernel
        self.padding = (spare[1] // 2, spare[1] - spare[1] // 2, spare[0] // 2, spare[0] - spare[0] // 2)
        places, inputs = shape[1] * shape[2], task[0] * kernel**2
        # Biases too, since where the padding is they are all there is, and relu has no slope at 0.
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(places, inputs, shape[0]).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(places, 1, shape[0]).uniform_(-bound, bound))

    def forward(self, images: Tensor) -> Tensor:
        """The model's input ``(N, C, H, W)`` in [0, 1] for images ``(N, c, h, w)`` of the task."""
        windows = functional.unfold(functional.pad(images, self.padding), self.kernel)
        pixels = torch.baddbmm(self.bias, windows.permute(2, 0, 1), self.weight)
        return pixels.relu().tanh().permute(1, 2, 0).reshape(len(images), *self.shape)
