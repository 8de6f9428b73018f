"""Broken defenses around one small network: each deceives the attacks, or the evaluation, in a way of its own.

Each is a model as users name theirs, ``gallery.py:OneHot``. The weights of the network are in the file that the environment
names (:data:`WEIGHTS`), and the images have 8 by 8 pixels of 8 bits.

They test the flags of ``advdef attack``. The published gallery, ``benchmarks/comparison/gallery``, measures ``advdef audit`` instead: its
digits have 17 gray values, and its defenses may change without a change of what these tests expect.
"""

from __future__ import annotations

import io
import os
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import one_hot, relu

WEIGHTS = "TEST_GALLERY_WEIGHTS"

CLASSES = 10


def network(channels: int = 1) -> nn.Sequential:
    """The network inside all of them."""
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, CLASSES),
    )


class Base(nn.Module):
    """Nothing but the network."""

    trained: ClassVar[bool] = True

    def __init__(self, *, shape: Any, classes: int) -> None:
        super().__init__()
        assert (tuple(shape), classes) == ((1, 8, 8), CLASSES)
        self.network = network()
        self.network.load_state_dict(torch.load(os.environ[WEIGHTS], weights_only=True))

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.network(images)
        return logits


class OneHot(Base):
    """Says which class, and no more."""

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        return 10 * one_hot(logits.argmax(1), CLASSES).float() + 0 * logits


class LogOfSoftmax(Base):
    """The logarithm of probabilities that are sharp, and cut off."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.log(torch.softmax(20 * super().forward(images), 1) + 1e-12)


class Saturated(Base):
    """Logits a thousand times as large."""

    def forward(self, images: Tensor) -> Tensor:
        return 1000 * super().forward(images)


class NoGradient(Base):
    """Computed where no gradient is kept, with a zero that has one."""

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            logits = super().forward(images)
        return logits + 0 * images.sum((1, 2, 3))[:, None]


class Rounded(Base):
    """Sees few gray values."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward((images * 7).round() / 7)


class Thermometer(Base):
    """Sees for each pixel which of some thresholds it is above; their mean is what the network sees."""

    def forward(self, images: Tensor) -> Tensor:
        above = torch.stack([(images > (level + 0.5) / 10).float() for level in range(10)])
        return super().forward(above.mean(0) + 0 * images)


class Jpeg(Base):
    """Passes images through a JPEG file."""

    def forward(self, images: Tensor) -> Tensor:
        decoded = []
        for image in images.detach().cpu():
            buffer = io.BytesIO()
            Image.fromarray((image[0] * 255).round().byte().numpy()).save(buffer, "JPEG", quality=75)
            decoded.append(torch.from_numpy(np.array(Image.open(buffer)))[None].float() / 255)
        return super().forward(torch.stack(decoded)) + 0 * images.sum((1, 2, 3))[:, None]


class _Noise(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, images: Tensor) -> Tensor:
        return images.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        size = gradient.flatten(1).std(1)[:, None, None, None]
        return gradient + 30 * size * torch.randn_like(gradient)


class NoisyGradient(Base):
    """Adds to the gradient what is much larger than it."""

    def forward(self, images: Tensor) -> Tensor:
        seen: Tensor = _Noise.apply(images)  # type: ignore[no-untyped-call]
        return super().forward(seen)


class TurnedOffTheGrid(Base):
    """Turns the gradient around where an image is not of 8 bits, as clean images are."""

    def forward(self, images: Tensor) -> Tensor:
        levels = images * 255
        off = ((levels - levels.round()).abs() > 1e-3).flatten(1).any(1)[:, None, None, None]
        return super().forward(torch.where(off, 2 * images.detach() - images, images))


class FlatNearby(Base):
    """Changes little near some values of the pixels, and much between them."""

    def forward(self, images: Tensor) -> Tensor:
        nearest = (images * 5).round() / 5
        away = images - nearest
        return super().forward(nearest + away.sign() * relu(away.abs() - 0.06) * 2.5)


class HalfWithoutGradient(Base):
    """Hides the gradient of the pixels in the middle."""

    def forward(self, images: Tensor) -> Tensor:
        middle = torch.zeros(8, 8)
        middle[1:7, 2:6] = 1
        return super().forward(images * (1 - middle) + images.detach() * middle)


class CutInside(Base):
    """Cuts pixels off well inside the box, where most of them begin."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.clamp(0.08, 0.92))


class RejectsOffTheGrid(Base):
    """Answers an image that is not of 8 bits as if it were a coarse one."""

    def forward(self, images: Tensor) -> Tensor:
        levels = images * 255
        off = ((levels - levels.round()).abs() > 1e-3).flatten(1).any(1)[:, None, None, None]
        coarse = ((images * 2).round() / 2).detach()
        return super().forward(torch.where(off, coarse, images))


class Remembers(Base):
    """Answers an image that is near to one it has seen as it answered that one."""

    def __init__(self, *, shape: Any, classes: int) -> None:
        super().__init__(shape=shape, classes=classes)
        self.seen, self.said = torch.zeros(0, 64), torch.zeros(0, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        with torch.no_grad():
            flat, new = images.detach().flatten(1), torch.ones(len(images), dtype=torch.bool)
            known = logits.detach()
            if len(self.seen):
                far, nearest = torch.cdist(flat, self.seen, p=torch.inf).min(1)
                new, known = far >= 0.25, self.said[nearest]
            free = new.nonzero()[:, 0][: max(0, 400 - len(self.seen))]
            self.seen = torch.cat([self.seen, flat[free]])
            self.said = torch.cat([self.said, logits.detach()[free]])
        return torch.where(new[:, None], logits, known + 0.01 * logits)


class Noise(Base):
    """Adds noise to the image, as the evaluation finds out by itself."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images + 0.1 * torch.randn_like(images))


class FalseDraws(Noise):
    """Says that its draws can be counted, and gives others."""

    number_of_draws = 2
    cost_of_all_draws = 2.0

    def all_draws(self, images: Tensor) -> Tensor:
        """What it calls its draws."""
        return torch.stack([self.network(images.flip(3)), self.network(images.flip(2))])


class ByTheBatch(Base):
    """Normalizes by the other images of the batch."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward((images - images.mean(0)) / (images.std(0, correction=0) + 0.3))
