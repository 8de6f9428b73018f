"""Feature squeezing: bit depth reduction, median filter and non-local means, as a preprocessing or as a detector."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.attacks.base.gradients.bpda import BPDALayer, SelectionLayer
from robustbench_cli.attacks.base.models.decision import RejectionLayer, with_rejections
from robustbench_cli.attacks.base.models.freezing import frozen
from robustbench_cli.defenses.base.defense import Defense
from robustbench_cli.defenses.base.training.trainer import Trainer
from robustbench_cli.defenses.base.transformed import Transformed

__all__ = ["FeatureSqueezing"]

_MOST_EXAMPLES = 5000
_BATCH_SIZE = 250


class FeatureSqueezing(Defense):
    """Feature squeezing: squeezes the image, or rejects images whose prediction changes when they are squeezed.

    Without ``false_positive_rate`` the model's input is the image after all squeezers, one after the other. With it, the
    defended model is the paper's joint detector: the model's input is the image itself. The image's score is the largest
    l1 distance between its softmax and that of a squeezed copy. The image is rejected if the score is above a threshold,
    which is set on up to 5,000 clean training examples to give this false positive rate. Training examples have lower
    scores than other images, so the false positive rate on clean test images is higher. A rejection counts as an error on
    a clean image, and as correct on a perturbed image.

    Gradient attacks adapt by themselves. The median filter and non-local means are differentiable. The bit depth
    reduction uses the gradient of the identity (BPDA). The detector uses the gradient of the mean logits of the image and
    its copies. While the image is rejected, this gradient is redirected to the leading class, because the image is
    accepted once all copies have the same wrong class.

    ``--suite adaptive`` shows non-adaptive and adaptive attacks side by side.
    """

    paper: ClassVar[str] = (
        "Weilin Xu, David Evans, Yanjun Qi, Feature Squeezing: Detecting Adversarial Examples in Deep Neural Networks, "
        "NDSS 2018, arXiv 1704.01155"
    )
    family: ClassVar[str] = "input-transformation"
    trains: ClassVar[bool] = False
    attacked_by: ClassVar[str] = (
        "the identity instead of the rounding (BPDA); for the detector, the mean logits of the image and its copies until the "
        "image is accepted"
    )

    bit_depth: int = Field(
        5,
        ge=1,
        le=8,
        description="bits per pixel and channel; 8 leaves 8-bit images unchanged",
        json_schema_extra={"formerly": "bits"},
    )
    median_size: int = Field(
        2,
        ge=1,
        description="window size of the median filter, in pixels; 1: no median filter",
        json_schema_extra={"formerly": "median"},
    )
    nlm_strength: float = Field(
        0,
        ge=0,
        description="strength h of non-local means, in 8-bit gray values, such as 2 to 4; 0: no non-local means",
        json_schema_extra={"formerly": "non_local_means"},
    )
    search_window: int = Field(
        13,
        ge=1,
        description="size of the search window of non-local means, in pixels",
        json_schema_extra={"formerly": "window"},
    )
    patch_size: int = Field(
        3,
        ge=1,
        description="size of the patches that non-local means compares, in pixels",
        json_schema_extra={"formerly": "patch"},
    )
    false_positive_rate: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="fraction of clean training examples that the detector rejects; default: no detector",
        json_schema_extra={"formerly": "false_positives"},
    )

    @property
    def needs_fit(self) -> bool:
        return self.false_positive_rate is not None

    def protect(self, model: nn.Module, example: Tensor) -> nn.Module:
        squeezers: list[nn.Module] = [BitDepth(self.bit_depth)]
        if self.median_size > 1:
            squeezers.append(Median(self.median_size))
        if self.nlm_strength:
            squeezers.append(
                NonLocalMeans(self.nlm_strength / 255, search_window=self.search_window, patch_size=self.patch_size)
            )
        if self.false_positive_rate is None:
            return Transformed(*squeezers, copy.deepcopy(model))
        return Detector(copy.deepcopy(model), squeezers).to(example.device)

    def fit(self, model: nn.Module, trainer: Trainer) -> None:
        assert isinstance(model, Detector)
        assert self.false_positive_rate is not None
        count = min(len(trainer.examples), _MOST_EXAMPLES)
        indices = torch.arange(count) * len(trainer.examples) // count
        with frozen(model), torch.no_grad(), trainer.seeded("threshold"):
            scores = torch.cat(
                [
                    model.scores(trainer.examples.batch(part)[0].to(trainer.device))
                    for part in trainer.steps(indices.split(_BATCH_SIZE), name="setting the threshold")
                ]
            )
        # The product may be slightly below a whole number because of rounding.
        rejected = int(count * self.false_positive_rate + 1e-6)
        model.rejection.threshold.copy_(scores.sort().values[count - rejected - 1])


class BitDepth(BPDALayer):
    """Rounds pixels to ``2^bit_depth`` values. Its surrogate is the identity."""

    def __init__(self, bit_depth: int) -> None:
        super().__init__()
        self.bit_depth = bit_depth

    def exact(self, values: Tensor) -> Tensor:
        largest: int = (1 << self.bit_depth) - 1
        return (values * largest).round() / largest

    def extra_repr(self) -> str:
        return f"bit_depth={self.bit_depth}"


class Median(SelectionLayer):
    """The median of the window around each pixel. Edges are reflected.

    An even number of pixels has two medians; the larger one is used. A window of even size extends one pixel further up
    and to the left.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, images: Tensor) -> Tensor:
        """Filters images ``(N, C, H, W)``."""
        padded = images
        for axis in (2, 3):
            padded = _reflect(padded, axis, before=self.size // 2, after=(self.size - 1) // 2)
        windows: Tensor = padded.unfold(2, self.size, 1).unfold(3, self.size, 1).flatten(4)
        return windows.sort(dim=4).values[..., self.size**2 // 2]

    def extra_repr(self) -> str:
        return f"size={self.size}"


class NonLocalMeans(nn.Module):
    """Non-local means: each pixel becomes a weighted mean of the pixels in a search window around it.

    The weight is ``exp(-d / h^2)``, where d is the mean squared difference between the patches around the two pixels, over
    all channels (Buades, Coll, Morel: A Non-local Algorithm for Image Denoising. CVPR 2005). Edges are reflected. A window
    or a patch of even size extends one pixel further up and to the left.

    Args:
        strength: h, in pixel values.
        search_window: The size of the search window.
        patch_size: The size of the patches.
    """

    def __init__(self, strength: float, *, search_window: int, patch_size: int) -> None:
        super().__init__()
        self.strength = strength
        self.search_window = search_window
        self.patch_size = patch_size

    def forward(self, images: Tensor) -> Tensor:
        """Filters images ``(N, C, H, W)``."""
        above, reach = self.patch_size // 2, self.search_window // 2
        padded = images
        for axis in (2, 3):
            after = (self.patch_size - 1) // 2 + (self.search_window - 1) // 2
            padded = _reflect(padded, axis, before=above + reach, after=after)
        height, width = (length + self.patch_size - 1 for length in images.shape[2:])
        center = padded[:, :, reach : reach + height, reach : reach + width].unsqueeze(3)
        total, weights = torch.zeros_like(images), torch.zeros_like(images[:, :1])
        # One row of the window at a time: memory holds as many copies of the image as the window has columns.
        for row in range(self.search_window):
            shifted = padded[:, :, row : row + height].unfold(3, width, 1)
            squares = (shifted - center).square().mean(1).transpose(1, 2)
            weight = (-functional.avg_pool2d(squares, self.patch_size, 1) / self.strength**2).exp().transpose(1, 2)
            inner = shifted[:, :, above : above + images.shape[2], :, above : above + images.shape[3]]
            total = total + (weight.unsqueeze(1) * inner).sum(3)
            weights = weights + weight.sum(2).unsqueeze(1)
        return total / weights

    def extra_repr(self) -> str:
        return f"strength={self.strength:g}, search_window={self.search_window}, patch_size={self.patch_size}"


def _reflect(images: Tensor, axis: int, *, before: int, after: int) -> Tensor:
    """Pads an axis by reflection, also beyond its length."""
    length = images.shape[axis]
    index = torch.arange(-before, length + after, device=images.device) % (2 * length)
    return images.index_select(axis, torch.minimum(index, 2 * length - 1 - index))


class Detector(nn.Module):
    """A model that rejects images whose softmax changes too much when they are squeezed.

    Args:
        model: Images ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``.
        squeezers: Each maps images to images of the same shape.
    """

    def __init__(self, model: nn.Module, squeezers: list[nn.Module]) -> None:
        super().__init__()
        self.model = model
        self.squeezers = nn.ModuleList(squeezers)
        self.rejection = _Rejection()

    @property
    def unwrapped_model(self) -> nn.Module:
        """See :class:`~robustbench_cli.attacks.base.models.unwrap.Wrapper`."""
        return self.model

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(N, K)``. Those of a rejected image are all equal."""
        logits: Tensor = self.rejection(self._all_logits(images))
        return logits

    def scores(self, images: Tensor) -> Tensor:
        """The scores ``(N,)``: the largest l1 distance between the softmax of an image and of a squeezed copy."""
        return _scores(self._all_logits(images))

    def _all_logits(self, images: Tensor) -> Tensor:
        """Logits ``(1 + S, N, K)`` of the images and of their S squeezed copies."""
        copies = [images, *(squeezer(images) for squeezer in self.squeezers)]
        logits: Tensor = self.model(torch.cat(copies)).unflatten(0, (len(copies), -1))
        return logits


class _Rejection(BPDALayer, RejectionLayer):
    """From logits ``(1 + S, N, K)`` of images and their squeezed copies to logits ``(N, K)`` of the detector."""

    threshold: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.tensor(torch.inf))

    def exact(self, values: Tensor) -> Tensor:
        return with_rejections(values[0], _scores(values) > self.threshold)

    def surrogate(self, values: Tensor) -> Tensor:
        mean: Tensor = _Agreement.apply(values.mean(0), _scores(values.detach()) > self.threshold)
        return mean


class _Agreement(torch.autograd.Function):
    """Returns the mean logits. For rejected images it redirects the gradient to the leading wrong classes.

    A rejected image has equal logits, so a loss has the same gradient for all wrong classes. But the image is accepted
    only if all copies agree on one of them. The redirected gradient distributes the sum over the wrong classes in
    proportion to their softmax.
    """

    @staticmethod
    def forward(ctx: Any, mean: Tensor, rejected: Tensor) -> Tensor:
        ctx.save_for_backward(mean, rejected)
        return mean.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        mean, rejected = ctx.saved_tensors
        positive = gradient.clamp_min(0)
        weights = mean.masked_fill(gradient <= 0, torch.finfo(mean.dtype).min).softmax(1)
        redirected = gradient - positive + positive.sum(1, keepdim=True) * weights
        return torch.where(rejected.unsqueeze(1), redirected, gradient), None


def _scores(logits: Tensor) -> Tensor:
    """The scores ``(N,)`` from logits ``(1 + S, N, K)``."""
    softmax = logits.softmax(2)
    return (softmax[1:] - softmax[0]).abs().sum(2).amax(0)
