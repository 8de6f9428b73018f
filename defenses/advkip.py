"""Adversarial kernel inducing points: a small data set learned by kernel regression under attack."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.attacks.base.models.freezing import frozen
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.defense import Defense
from robustbench_cli.defenses.base.kernels import neural_tangent_kernel, rbf_kernel
from robustbench_cli.defenses.base.training.adversarial import AttackInTraining, ascend
from robustbench_cli.defenses.base.training.trainer import Trainer

__all__ = ["AdvKIP", "KernelRegression"]

_MAX_ENTRIES = 2**27
"""The largest number of entries of the learned images' kernel matrices in all layers, 1 GiB in float64; a training step keeps about
ten numbers for each entry.
"""

_MAX_PIXELS = 2**28
"""The largest number of pixels of the learned images, 1 GiB. They are allocated before a checkpoint fills them, so a damaged or
hostile file must not choose their number.
"""


class AdvKIP(AttackInTraining, Defense):
    """AdvKIP: kernel regression on a small data set, which is learned so that the regression withstands PGD.

    The regression on learned images X with targets Y is ``f(x) = K(x, X) (K(X, X) + r I)^-1 Y``. K is the neural tangent
    kernel of an infinitely wide, fully connected ReLU network, or RBF. A training step makes images x' by PGD on the squared
    error ``||f(x') - y||^2``, and descends the same error in X and Y. X starts from training images. Targets are one-hot
    labels minus their mean. The regression replaces the network, of which only the number of classes is used.

    ``advdef train`` writes the learned images beside the checkpoint, as training data for any network::

        advdef train --defense advkip -o kip.safetensors
        advdef train --dataset npz:kip.learned.npz --defense none -o network.safetensors

    In the style of the paper: its text was not at hand, only its abstract. The fully connected network behind the kernel, the
    squared error and the size of the set are our choices. On digits the regression is robust, and a network trained on its
    images is not: see the page "Published systems, measured".
    """

    paper: ClassVar[str] = (
        "Tsilivis, Su, Kempe: Can We Achieve Robustness from Data Alone? 2022, arXiv 2207.11727; after Nguyen, Chen, Lee: "
        "Dataset Meta-Learning from Kernel Ridge-Regression. ICLR 2021, arXiv 2011.00050"
    )
    family: ClassVar[str] = "other-training"

    per_class: int = Field(20, ge=1, description="number of learned images of each class")
    kernel: Literal["ntk", "rbf"] = Field(
        "ntk", description="ntk: neural tangent kernel; rbf: exp(-gamma ||x - x'||^2)"
    )
    depth: int = Field(2, ge=1, le=100, description="number of hidden layers of the network behind ntk")
    gamma: float = Field(0.25, gt=0, description="gamma of rbf")
    ridge: float = Field(1e-3, gt=0, description="r, relative to the mean of the diagonal of K(X, X)")

    @property
    def takes_mixed_labels(self) -> bool:
        return False

    def protect(self, model: nn.Module, example: Tensor) -> nn.Module:
        with frozen(model), torch.no_grad():
            classes = model(example.clone()).shape[1]
        images = classes * self.per_class
        entries = _MAX_ENTRIES // (self.depth if self.kernel == "ntk" else 1)
        limit = min(math.isqrt(entries), _MAX_PIXELS // example[0].numel())
        if images > limit:
            raise UserError(
                f"advkip.per_class is {self.per_class}, and {images:,} learned images or their kernel matrix are too large: "
                f"give at most {limit // classes}, as {classes} classes may have {limit:,} images"
            )
        return KernelRegression(self, example, classes)

    def fit(self, model: nn.Module, trainer: Trainer) -> None:
        assert isinstance(model, KernelRegression)
        model.images.data.copy_(self._initial_images(trainer, model.targets.shape[1]))
        trainer.fit(
            model, name="kernel inducing points", loss=self.loss, eps=self.radius, on_finish=model.update_coefficients
        )

    def _initial_images(self, trainer: Trainer, classes: int) -> Tensor:
        """Training images of each class ``(M, C, H, W)``, in an order from the seed."""
        with trainer.seeded("initial images"):
            order = trainer.train_indices[torch.randperm(len(trainer.train_indices))]
        images, labels = [], []
        for part in order.split(trainer.recipe.batch_size):
            rows, targets = trainer.batch(part)
            images.append(rows)
            labels.append(targets)
            counts = torch.cat(labels).bincount(minlength=classes)
            if counts.amin() >= self.per_class:
                break
        fewest = int(counts.argmin())
        if not counts[fewest]:
            raise UserError(f"advkip starts from training images of each class: add images of class {fewest}")
        if counts[fewest] < self.per_class:
            raise UserError(
                f"advkip.per_class is {self.per_class}, and class {fewest} has {counts[fewest]} training images to start from: "
                f"give at most {counts[fewest]}"
            )
        loaded = torch.cat(labels)
        chosen = torch.cat([(loaded == label).nonzero()[: self.per_class, 0] for label in range(classes)])
        return torch.cat(images)[chosen]

    def loss(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The mean squared error on images from PGD; see :data:`~.gradients.TrainingLoss`.

        Args:
            network: The regression in training.
            images: ``(B, C, H, W)`` in [0, 1].
            labels: ``(B,)``.
        """
        assert isinstance(network, KernelRegression)
        targets = _targets(labels, network.targets.shape[1])

        def squared_error(logits: Tensor) -> Tensor:
            return (logits - targets).square().sum()

        perturbed = ascend(network, images, squared_error, self.pgd())
        return squared_error(network(perturbed)) / len(images)


def _targets(labels: Tensor, classes: int) -> Tensor:
    """The targets ``(B, K)`` of labels ``(B,)``: each row sums to 0."""
    return functional.one_hot(labels, classes).float() - 1 / classes


class KernelRegression(nn.Module):
    """Kernel regression on images and targets, which are its parameters.

    In ``train()`` mode a pass solves the regression, with a gradient for images and targets. In ``eval()`` mode it takes the
    stored coefficients, which are solved when that mode begins. Images in [0, 1] and targets start at random.

    Args:
        settings: The kernel, the ridge and the number of images of each class.
        example: One image ``(1, C, H, W)``.
        classes: K.
    """

    def __init__(self, settings: AdvKIP, example: Tensor, classes: int) -> None:
        super().__init__()
        self.settings = settings
        labels = torch.arange(classes, device=example.device).repeat_interleave(settings.per_class)
        self.images = nn.Parameter(torch.rand(len(labels), *example.shape[1:]).to(example))
        self.targets = nn.Parameter(_targets(labels, classes))
        self.coefficients: Tensor
        self.register_buffer("coefficients", torch.zeros_like(self.targets))

    def forward(self, images: Tensor) -> Tensor:
        """The logits ``(N, K)`` of images ``(N, C, H, W)``, about 1 - 1/K for the class and -1/K for the others."""
        coefficients = self.solve() if self.training else self.coefficients
        # In bfloat16 an angle near 0 would be lost.
        with torch.autocast(images.device.type, enabled=False):
            return self.similarities(images.to(self.images.dtype)) @ coefficients

    def similarities(self, images: Tensor) -> Tensor:
        """The kernel ``(N, M)`` between images ``(N, C, H, W)`` and those of the regression, in the precision of the former."""
        first, second = images.flatten(1), self.images.flatten(1).to(images.device, images.dtype)
        if self.settings.kernel == "rbf":
            return rbf_kernel(first, second, self.settings.gamma)
        return neural_tangent_kernel(first, second, self.settings.depth)

    def solve(self) -> Tensor:
        """The coefficients ``(K(X, X) + r I)^-1 Y`` of the images ``(M, K)``, with a graph; computed in float64."""
        # An Apple GPU has no float64.
        device = torch.device("cpu") if self.images.device.type == "mps" else self.images.device
        matrix = self.similarities(self.images.to(device, torch.float64))
        ridge = self.settings.ridge * matrix.diagonal().mean()
        # Of an indefinite matrix the result is not finite, which the trainer reports.
        identity = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
        factor, _ = torch.linalg.cholesky_ex(matrix + ridge * identity)
        return torch.cholesky_solve(self.targets.to(matrix), factor).to(self.targets)

    @torch.no_grad()
    def update_coefficients(self) -> None:
        """Clips the images to [0, 1] and solves for the coefficients that ``eval()`` mode takes."""
        self.images.clamp_(0, 1)
        self.coefficients.copy_(self.solve())

    def train(self, mode: bool = True) -> KernelRegression:
        """Sets the mode; see the class."""
        if self.training and not mode:
            self.update_coefficients()
        return super().train(mode)

    def learned_examples(self) -> tuple[Tensor, Tensor]:
        """The images ``(M, C, H, W)`` in [0, 1] and the classes of their largest targets ``(M,)``."""
        return self.images.detach().clamp(0, 1), self.targets.argmax(1)
