"""Feature squeezing: fewer grey values, a median filter and non-local means, and the detector made of them."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.attacks.base.gradients.bpda import BPDALayer, Selecting
from robustbench_cli.attacks.base.models.decision import Rejecting, rejecting
from robustbench_cli.attacks.base.models.freezing import frozen
from robustbench_cli.defenses.base.defense import Defense
from robustbench_cli.defenses.base.training.trainer import Trainer
from robustbench_cli.defenses.base.transformed import Transformed

__all__ = ["FeatureSqueezing"]

_MOST_EXAMPLES = 5000
_AT_ONCE = 250


class FeatureSqueezing(Defense):
    """Feature squeezing: images of fewer grey values and without small detail, or a rejection where that matters.

    Without ``false_positives`` the model sees the image squeezed, by all squeezers one after the other. With it, the
    defended model is the paper's joint detector: the model sees the image itself, and the image is rejected if the
    softmax of the image and that of any one squeezed copy are further apart, in l1, than in all but this share of the
    clean training examples (of at most 5,000). Examples that the model was trained on are closer than others: of clean
    test images more are rejected. A rejection is wrong for a clean image and right for a perturbed one.

    Every attack by gradients adapts by itself: the median filter and non-local means have a gradient, that of the grey
    values is the identity's, and that of the detector is the gradient of the mean logits of the image and its copies,
    turned to the leading class as long as the image is rejected: it is accepted once it is taken for the same wrong
    class in all of them.

    Attacks that do not adapt stand beside those that do in ``--suite adaptive``.
    """

    paper: ClassVar[str] = (
        "Weilin Xu, David Evans, Yanjun Qi, Feature Squeezing: Detecting Adversarial Examples in Deep Neural Networks, "
        "NDSS 2018, arXiv 1704.01155"
    )
    trains: ClassVar[bool] = False
    attacked_by: ClassVar[str] = (
        "the identity in the place of rounding (BPDA); of the detector, the mean logits of the image and its copies until "
        "it is accepted"
    )

    bits: int = Field(
        5, ge=1, le=8, description="bits of each pixel and channel; 8 leaves images of 8 bits as they are"
    )
    median: int = Field(2, ge=1, description="side of the median filter's window, in pixels; 1 leaves it out")
    non_local_means: float = Field(
        0,
        ge=0,
        description="strength of non-local means, h, in 8-bit grey values, such as 2 to 4; 0 leaves it out",
    )
    window: int = Field(13, ge=1, description="side of the square in which non-local means looks for similar pixels")
    patch: int = Field(3, ge=1, description="side of the square around each pixel that non-local means compares")
    false_positives: float | None = Field(
        None, gt=0, lt=1, description="share of clean training examples to reject; where not given, nothing is rejected"
    )

    @property
    def needs_fit(self) -> bool:
        return self.false_positives is not None

    def protect(self, model: nn.Module, example: Tensor) -> nn.Module:
        squeezers: list[nn.Module] = [BitDepth(self.bits)]
        if self.median > 1:
            squeezers.append(Median(self.median))
        if self.non_local_means:
            squeezers.append(NonLocalMeans(self.non_local_means / 255, window=self.window, patch=self.patch))
        if self.false_positives is None:
            return Transformed(*squeezers, copy.deepcopy(model))
        return Detector(copy.deepcopy(model), squeezers).to(example.device)

    def fit(self, model: nn.Module, trainer: Trainer) -> None:
        assert isinstance(model, Detector)
        assert self.false_positives is not None
        count = min(len(trainer.examples), _MOST_EXAMPLES)
        places = torch.arange(count) * len(trainer.examples) // count
        with frozen(model), torch.no_grad(), trainer.seeded("threshold"):
            scores = torch.cat(
                [model.scores(trainer.examples.batch(part)[0].to(trainer.device)) for part in places.split(_AT_ONCE)]
            )
        # A little more, or a product that is whole but for rounding would lose one.
        rejected = int(count * self.false_positives + 1e-6)
        model.rejection.threshold.copy_(scores.sort().values[count - rejected - 1])


class BitDepth(BPDALayer):
    """Pixels rounded to the ``2^bits`` values that as many bits can hold; its surrogate is the identity."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def exact(self, given: Tensor) -> Tensor:
        largest: int = (1 << self.bits) - 1
        return (given * largest).round() / largest

    def extra_repr(self) -> str:
        return f"bits={self.bits}"


class Median(Selecting):
    """The median of the window around each pixel, the upper one of an even number; images are mirrored at their edges.

    A window of even side reaches one pixel further up and to the left.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(N, C, H, W)``, filtered."""
        wide = images
        for axis in (2, 3):
            wide = _mirrored(wide, axis, before=self.side // 2, after=(self.side - 1) // 2)
        windows: Tensor = wide.unfold(2, self.side, 1).unfold(3, self.side, 1).flatten(4)
        return windows.sort(dim=4).values[..., self.side**2 // 2]

    def extra_repr(self) -> str:
        return f"side={self.side}"


class NonLocalMeans(nn.Module):
    """Each pixel becomes the mean of those around it, of which those weigh most whose own surroundings look alike.

    The weight is ``exp(-d / h^2)``, where d is the mean squared difference of the patches around the two pixels, over
    all channels (Buades, Coll, Morel: A Non-local Algorithm for Image Denoising. CVPR 2005). Images are mirrored at
    their edges; a window or a patch of even side reaches one pixel further up and to the left.

    Args:
        strength: h, in pixel values.
        window: Side of the square in which pixels are looked for.
        patch: Side of the square around each of them that is compared.
    """

    def __init__(self, strength: float, *, window: int, patch: int) -> None:
        super().__init__()
        self.strength = strength
        self.window = window
        self.patch = patch

    def forward(self, images: Tensor) -> Tensor:
        """Images ``(N, C, H, W)``, filtered."""
        above, reach = self.patch // 2, self.window // 2
        wide = images
        for axis in (2, 3):
            after = (self.patch - 1) // 2 + (self.window - 1) // 2
            wide = _mirrored(wide, axis, before=above + reach, after=after)
        height, width = (length + self.patch - 1 for length in images.shape[2:])
        own = wide[:, :, reach : reach + height, reach : reach + width].unsqueeze(3)
        total, weights = torch.zeros_like(images), torch.zeros_like(images[:, :1])
        # A row of the window at a time, so that memory holds the image as often as the window is wide.
        for row in range(self.window):
            others = wide[:, :, row : row + height].unfold(3, width, 1)
            squares = (others - own).square().mean(1).transpose(1, 2)
            weight = (-functional.avg_pool2d(squares, self.patch, 1) / self.strength**2).exp().transpose(1, 2)
            inner = others[:, :, above : above + images.shape[2], :, above : above + images.shape[3]]
            total = total + (weight.unsqueeze(1) * inner).sum(3)
            weights = weights + weight.sum(2).unsqueeze(1)
        return total / weights

    def extra_repr(self) -> str:
        return f"strength={self.strength:g}, window={self.window}, patch={self.patch}"


def _mirrored(images: Tensor, axis: int, *, before: int, after: int) -> Tensor:
    """Images with as many places more before and after an axis, mirrored at its ends again and again."""
    length = images.shape[axis]
    place = torch.arange(-before, length + after, device=images.device) % (2 * length)
    return images.index_select(axis, torch.minimum(place, 2 * length - 1 - place))


class Detector(nn.Module):
    """A model that rejects what it says otherwise of when it is squeezed.

    Args:
        model: Images ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``.
        squeezers: Each gives images of the same shape.
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
        """Logits ``(N, K)``; where an image is rejected, no class stands above another."""
        logits: Tensor = self.rejection(self._of_all(images))
        return logits

    def scores(self, images: Tensor) -> Tensor:
        """``(N,)``: how far apart, in l1, the softmax of an image and of a squeezed copy are at most."""
        return _scores(self._of_all(images))

    def _of_all(self, images: Tensor) -> Tensor:
        """Logits ``(1 + S, N, K)`` of the images and of all their squeezed copies."""
        copies = [images, *(squeezer(images) for squeezer in self.squeezers)]
        logits: Tensor = self.model(torch.cat(copies)).unflatten(0, (len(copies), -1))
        return logits


class _Rejection(BPDALayer, Rejecting):
    """From logits ``(1 + S, N, K)`` of images and their squeezed copies to those of the detector."""

    threshold: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("threshold", torch.tensor(torch.inf))

    def exact(self, given: Tensor) -> Tensor:
        return rejecting(given[0], _scores(given) > self.threshold)

    def surrogate(self, given: Tensor) -> Tensor:
        mean: Tensor = _Agreement.apply(given.mean(0), _scores(given.detach()) > self.threshold)
        return mean


class _Agreement(torch.autograd.Function):
    """Mean logits as they are; where an image is rejected, their gradient is turned to the class nearest to agreement.

    There a loss sees a tie and gains by all other classes alike, while the image is only accepted if all copies are
    taken for one of them. What it gains by them goes to them in proportion to the softmax of the mean logits among
    them.
    """

    @staticmethod
    def forward(ctx: Any, mean: Tensor, rejected: Tensor) -> Tensor:
        ctx.save_for_backward(mean, rejected)
        return mean.clone()

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        (slope,) = slopes
        mean, rejected = ctx.saved_tensors
        gained = slope.clamp_min(0)
        shares = mean.masked_fill(slope <= 0, torch.finfo(mean.dtype).min).softmax(1)
        turned = slope - gained + gained.sum(1, keepdim=True) * shares
        return torch.where(rejected.unsqueeze(1), turned, slope), None


def _scores(logits: Tensor) -> Tensor:
    softmax = logits.softmax(2)
    return (softmax[1:] - softmax[0]).abs().sum(2).amax(0)
