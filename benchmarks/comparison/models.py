"""The images and the trained models of the comparisons."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel, method_spec
from robustbench_cli.benchmarks.comparison.noisy_fgsm import NoisyFGSM
from robustbench_cli.benchmarks.datasets.base.dataset import SplitName
from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.benchmarks.datasets.base.slice import first_examples
from robustbench_cli.benchmarks.training.model_cache import ModelCache
from robustbench_cli.defenses import registry as defenses

__all__ = [
    "ADVERSARIAL",
    "DROPOUT",
    "NOISE",
    "PLAIN",
    "SWITCHING",
    "ImageSet",
    "correctly_classified",
    "test_images",
    "trained",
    "training_images",
]

DATASET = "fashion-mnist"
PLAIN, ADVERSARIAL = "plain", "adversarially trained"
SWITCHING, NOISE, DROPOUT = "hrs", "gaussian-noise", "defensive-dropout"

_DEFENSES: dict[str, tuple[str, dict[str, Any]]] = {
    PLAIN: ("none", {}),
    ADVERSARIAL: (defenses.name_of(NoisyFGSM), {}),
    SWITCHING: ("hrs", {"channels": [2, 2], "decision": "deterministic"}),
    NOISE: ("gaussian-noise", {"decision": "deterministic", "sigma_init": 0.2, "sigma_inner": 0.1}),
    DROPOUT: ("defensive-dropout", {"decision": "deterministic"}),
}
"""The defense of each model. Of the randomized ones it is the deterministic counterpart, since AutoAttack counts single
draws, and its results on randomized models cannot be compared with others.
"""


@dataclass(frozen=True)
class ImageSet:
    """Images and their classes.

    Attributes:
        images: ``(N, C, H, W)`` in [0, 1].
        labels: ``(N,)``.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The images and labels at indices ``(B,)``."""
        return self.images[indices], self.labels[indices]


def test_images(n: int) -> ImageSet:
    """The first ``n`` test images of Fashion-MNIST."""
    return _first("test", n)


def training_images(n: int) -> ImageSet:
    """The first ``n`` training images of Fashion-MNIST."""
    return _first("train", n)


def _first(split: SplitName, n: int) -> ImageSet:
    first = first_examples(load_dataset(DATASET).split(split), n)
    return ImageSet(first.images, first.labels)


@torch.no_grad()
def correctly_classified(defended: DefendedModel, examples: ImageSet, *, most: int | None = None) -> ImageSet:
    """The examples that a model classifies correctly.

    Args:
        defended: The model.
        examples: All examples.
        most: The maximum number; the first ones are taken.
    """
    rows = (defended.load()(examples.images).argmax(1) == examples.labels).nonzero().squeeze(1)[:most]
    return ImageSet(examples.images[rows], examples.labels[rows])


def trained(names: Sequence[str] = (PLAIN, ADVERSARIAL)) -> dict[str, DefendedModel]:
    """The paper's network with different defenses. Each is trained once and stays in the user's cache folder.

    Args:
        names: The models: :data:`PLAIN`, :data:`ADVERSARIAL`, or the deterministic counterpart of a randomized defense:
            :data:`SWITCHING`, :data:`NOISE`, :data:`DROPOUT`.
    """
    cache = ModelCache(
        dataset=DATASET,
        data_dir=None,
        device=torch.device("cpu"),
        seed=0,
        recipe={"epochs": 3},
        begin=lambda label, path: print(f"training {label}, once: {path}", file=sys.stderr),
        progress=lambda at: print(f"{at.name}: epoch {at.epoch} of {at.epochs}, {at.seconds:.0f} s", file=sys.stderr),
    )
    specs = {name: method_spec(defenses, *_DEFENSES[name]).spec for name in names}
    return {name: cache.trained(cache.training(defenses=(spec,))) for name, spec in specs.items()}
