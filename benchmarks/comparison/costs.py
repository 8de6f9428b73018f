"""What our own attacks and defenses cost, as a multiple of the least that they could."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch.nn import functional

from robustbench_cli.attacks.base.gradients.eot import gradient_source
from robustbench_cli.attacks.base.models.freezing import frozen
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.benchmarks.certification.by_smoothing import Smoothing
from robustbench_cli.benchmarks.certification.certify import CertificationOptions, certify_model
from robustbench_cli.benchmarks.checkpoints.checkpoint import CheckpointInfo, save_checkpoint
from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel, open_defended_model
from robustbench_cli.benchmarks.comparison.models import ImageSet
from robustbench_cli.benchmarks.comparison.timing import Ratio, in_turn, ratio
from robustbench_cli.benchmarks.datasets.base.slice import Slice
from robustbench_cli.benchmarks.devices import automatic_batch_size, limit_threads
from robustbench_cli.benchmarks.models.base.build import build_model
from robustbench_cli.defenses.hrs import hrs

__all__ = ["certify_overhead", "hrs_forward", "pgd_overhead"]

SHAPE = (1, 28, 28)
STEPS = 40


def pgd_overhead(defended: DefendedModel, examples: ImageSet, norm: Norm, *, turns: int) -> Ratio:
    """PGD while no image falls, over as many forward and backward passes to the input as it has steps.

    Args:
        defended: The model to attack.
        examples: Images that it classifies right.
        norm: Of the ball, which is too small for any image to fall.
        turns: Times that both are run.

    Raises:
        RuntimeError: An image fell.
    """
    images, labels = examples.images, examples.labels
    size = automatic_batch_size(images.device, SHAPE)
    eps = torch.full((len(images),), 1e-6, dtype=torch.float64)
    model = defended.load().to(memory_format=torch.channels_last)

    def least() -> None:
        for _ in range(STEPS):
            for x, y in zip(images.split(size), labels.split(size), strict=True):
                leaf = x.detach().requires_grad_()
                torch.autograd.grad(functional.cross_entropy(model(leaf), y, reduction="sum"), leaf)

    def ours() -> None:
        source = gradient_source(model, randomized=False, batch_size=size)
        PGD(steps=STEPS).run(source, images, labels, Threat(norm=norm, eps=eps), Random.of(0, images))
        if source.backwards != STEPS * len(images):
            raise RuntimeError("an image fell: the attack did less than the passes that it is compared with")

    with frozen(model):
        seconds = in_turn({"ours": ours, "least": least}, turns=turns)
    return ratio(seconds["ours"], seconds["least"])


def hrs_forward(channels: tuple[int, ...], *, rows: int, turns: int) -> Ratio:
    """A forward pass of HRS on the paper's network with fresh weights, over one of that network alone.

    Args:
        channels: N_i, of each block.
        rows: Images in the batch.
        turns: Times that both are run.
    """
    base = build_model("paper-cnn", shape=SHAPE, classes=10).eval()
    switching = hrs(base, SHAPE, channels=channels).eval()
    images = torch.rand(rows, *SHAPE)
    for model in (base, switching):
        model.to(memory_format=torch.channels_last)
    with torch.no_grad():
        seconds = in_turn({"hrs": lambda: switching(images), "base": lambda: base(images)}, turns=turns)
    return ratio(seconds["hrs"], seconds["base"])


def certify_overhead(model: str, *, images: int, samples: int = 10_000, turns: int) -> Ratio:
    """Certifying images by randomized smoothing, with all that is stored, over forward passes of as many noisy images.

    Args:
        model: The name of a network, which has fresh weights.
        images: How many are certified.
        samples: See :class:`~robustbench_cli.benchmarks.certification.by_smoothing.Smoothing`.
        turns: Times that both are run.
    """
    limit_threads(SHAPE)
    smoothing = Smoothing(sigma=0.25, samples=samples)
    options = CertificationOptions(procedure=smoothing)
    data = Slice(torch.rand(images, *SHAPE), torch.zeros(images, dtype=torch.int64), sha256="random")
    network = build_model(model, shape=SHAPE, classes=10).eval().to(memory_format=torch.channels_last)
    size = automatic_batch_size(data.images.device, SHAPE)
    noisy = torch.randn(size, *SHAPE).contiguous(memory_format=torch.channels_last)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "fresh.safetensors")
        save_checkpoint(path, network, CheckpointInfo(model=model, shape=SHAPE, classes=10))
        defended = open_defended_model(path)

        def ours() -> None:
            with tempfile.TemporaryDirectory(dir=folder) as store:
                certify_model(defended, data, options, dataset="", store=Path(store))

        def least() -> None:
            for _ in range(images):
                for start in range(0, smoothing.passes, size):
                    network(noisy[: smoothing.passes - start])

        with frozen(network), torch.no_grad():
            seconds = in_turn({"ours": ours, "least": least}, turns=turns)
    return ratio(seconds["ours"], seconds["least"])
