"""The cost of our attacks and defenses, relative to the passes that they need."""

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
from robustbench_cli.benchmarks.datasets.base.split import TensorSplit
from robustbench_cli.benchmarks.devices import automatic_batch_size, limit_threads
from robustbench_cli.benchmarks.models.base.build import build_model
from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.trainer import Trainer
from robustbench_cli.defenses.hrs import hrs
from robustbench_cli.defenses.pgd_at import PGDAT

__all__ = ["certify_overhead", "hrs_forward", "pgd_overhead", "training_overhead"]

BATCH = 128
SHAPE = (1, 28, 28)
STEPS = 40


def pgd_overhead(defended: DefendedModel, examples: ImageSet, norm: Norm, *, turns: int) -> Ratio:
    """The time of PGD while no image breaks, over that of one forward and backward pass per step.

    Args:
        defended: The model to attack.
        examples: Images that it classifies correctly.
        norm: The norm of the ball, which is too small to break any image.
        turns: Timed runs of both.

    Raises:
        RuntimeError: An image broke.
    """
    images, labels = examples.images, examples.labels
    size = automatic_batch_size(images.device, SHAPE)
    eps = torch.full((len(images),), 1e-6, dtype=torch.float64)
    model = defended.load().to(memory_format=torch.channels_last)

    def passes_only() -> None:
        for _ in range(STEPS):
            for x, y in zip(images.split(size), labels.split(size), strict=True):
                leaf = x.detach().requires_grad_()
                torch.autograd.grad(functional.cross_entropy(model(leaf), y, reduction="sum"), leaf)

    def ours() -> None:
        source = gradient_source(model, randomized=False, batch_size=size)
        PGD(steps=STEPS).run(source, images, labels, Threat(norm=norm, eps=eps), Random.of(0, images))
        if source.backwards != STEPS * len(images):
            raise RuntimeError("an image broke, so the attack made fewer passes than the baseline")

    with frozen(model):
        seconds = in_turn({"ours": ours, "passes": passes_only}, turns=turns)
    return ratio(seconds["ours"], seconds["passes"])


def hrs_forward(channels: tuple[int, ...], *, rows: int, turns: int) -> Ratio:
    """The time of a forward pass of HRS, over that of the network alone: the paper's, with random weights.

    Args:
        channels: N_i of each block.
        rows: Batch size.
        turns: Timed runs of both.
    """
    base = build_model("paper-cnn", shape=SHAPE, classes=10).eval()
    switching = hrs(base, SHAPE, channels=channels).eval()
    images = torch.rand(rows, *SHAPE)
    for model in (base, switching):
        model.to(memory_format=torch.channels_last)
    with torch.no_grad():
        seconds = in_turn({"hrs": lambda: switching(images), "base": lambda: base(images)}, turns=turns)
    return ratio(seconds["hrs"], seconds["base"])


def training_overhead(model: str, *, steps: int, batches: int, augmentations: tuple[str, ...], turns: int) -> Ratio:
    """The time of an epoch of adversarial training, over that of a bare loop with the same passes and the same optimizer.

    The images are in uint8. Only our training augments them.

    Args:
        model: The name of a network; it gets random weights.
        steps: Steps of the attack.
        batches: Batches in the epoch, of 128 images.
        augmentations: The augmentations of our training.
        turns: Timed runs of both.
    """
    limit_threads(SHAPE)
    pixels = torch.randint(256, (batches * BATCH, *SHAPE), dtype=torch.uint8)
    labels = torch.arange(len(pixels)) % 10
    network = build_model(model, shape=SHAPE, classes=10).to(memory_format=torch.channels_last)
    recipe = Recipe.from_parameters({"epochs": 1, "batch_size": BATCH, "augmentations": augmentations}, name="train")
    defense = PGDAT(eps=0.1, steps=steps)
    optimizer = recipe.build_optimizer(network)

    def ours() -> None:
        defense.fit(network, Trainer(TensorSplit(pixels, labels), recipe, seed=0, device=torch.device("cpu")))

    def bare() -> None:
        for x, y in zip((pixels / 255).split(BATCH), labels.split(BATCH), strict=True):
            images = x.contiguous(memory_format=torch.channels_last)
            low, high = (images - 0.1).clamp_min(0), (images + 0.1).clamp_max(1)
            iterates = images + torch.empty_like(images).uniform_(-0.1, 0.1)
            with frozen(network):
                for _ in range(steps):
                    leaf = iterates.clamp(low, high).detach().requires_grad_()
                    (gradient,) = torch.autograd.grad(functional.cross_entropy(network(leaf), y), leaf)
                    iterates = leaf.detach() + 0.25 / steps * gradient.sign()
            network.train()
            optimizer.zero_grad()
            functional.cross_entropy(network(iterates.clamp(low, high)), y).backward()
            optimizer.step()

    seconds = in_turn({"ours": ours, "bare": bare}, turns=turns)
    return ratio(seconds["ours"], seconds["bare"])


def certify_overhead(model: str, *, images: int, samples: int = 10_000, turns: int) -> Ratio:
    """The time of a certification by smoothing, storing included, over that of as many forward passes.

    Args:
        model: The name of a network; it gets random weights.
        images: The number of images.
        samples: See :class:`~robustbench_cli.benchmarks.certification.by_smoothing.Smoothing`.
        turns: Timed runs of both.
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

        def passes_only() -> None:
            for _ in range(images):
                for start in range(0, smoothing.passes, size):
                    network(noisy[: smoothing.passes - start])

        with frozen(network), torch.no_grad():
            seconds = in_turn({"ours": ours, "passes": passes_only}, turns=turns)
    return ratio(seconds["ours"], seconds["passes"])
