"""What `make gpu` measures: each part returns rows of seconds, ours beside a plain loop and other libraries."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, get_args
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustbench_cli.attacks.base.models.measured_model import MeasuredModel
from robustbench_cli.attacks.base.models.passes import BatchSize
from robustbench_cli.attacks.base.models.precision import Precision, full_float32, gradient_precision
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import Threat, distance
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.benchmarks.comparison import gpu_networks, peers
from robustbench_cli.benchmarks.comparison.gpu_checks import CASES, attack_beside_cpu, defense_beside_cpu
from robustbench_cli.benchmarks.comparison.peers import OFFICIAL, OURS, AutoAttackBudget, CWBudget, PGDBudget
from robustbench_cli.benchmarks.comparison.timing import in_turn
from robustbench_cli.benchmarks.devices import automatic_batch_size
from robustbench_cli.benchmarks.models.paper_cnn import PaperCNN
from robustbench_cli.defenses import registry as defenses
from robustbench_cli.defenses.base.defense import defend
from robustbench_cli.defenses.base.surgery.batched_ensemble import BatchedEnsemble
from robustbench_cli.defenses.fast_at import FastAT
from robustbench_cli.defenses.hrs import HRS

__all__ = ["PARTS", "Row", "Sizes", "timed"]

PLAIN = "plain loop"

FIRST = f"{OURS}, first cell"
"""Ours with the measurements of the model, which only the first evaluation of a model in a process makes."""

COMPILED = "torch.compile"
"""The plain loop with a network that ``torch.compile(mode="reduce-overhead")`` has made."""

TINY = 1e-6
"""A radius at which no image breaks."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is measured.

    Attributes:
        images: The images of a small network; other numbers of images are capped by it.
        steps: The steps of PGD.
        cw: The constants of C&W and its steps for each.
        training: The training images.
        pixels: The height and width of the largest images.
        turns: Timed runs of each.
    """

    images: int = 2000
    steps: int = 40
    cw: tuple[int, int] = (5, 200)
    training: int = 20_000
    pixels: int = 224
    turns: int = 3


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement.

    Attributes:
        name: What was measured.
        seconds: By the name of the program.
        over: The program that ours is divided by, or that is divided by ours if ``faster``.
        faster: Whether the ratio says how many times as fast we are.
        goal: The limit of the ratio.
        note: What was found.
    """

    name: str
    seconds: Mapping[str, float] = field(default_factory=dict)
    over: str = PLAIN
    faster: bool = False
    goal: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Our time over the other's, or the other's over ours; ``None`` where one of them is missing."""
        if not {OURS, self.over} <= self.seconds.keys():
            return None
        ours, other = self.seconds[OURS], self.seconds[self.over]
        return other / ours if self.faster else ours / other

    @property
    def reached(self) -> bool | None:
        """Whether the ratio keeps to the goal; ``None`` without either."""
        if self.ratio is None or self.goal is None:
            return None
        return self.ratio >= self.goal if self.faster else self.ratio <= self.goal


def timed(runs: Mapping[str, Callable[[], object]], device: torch.device, *, turns: int) -> dict[str, float]:
    """The median wall time of each run in seconds, in turn, after one turn that is not timed.

    Args:
        runs: The functions by name.
        device: The device, which must be idle when a time is read.
        turns: The number of timed turns.
    """

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return {name: median(seconds) for name, seconds in in_turn(runs, turns=turns, clock=clock).items()}


def plain_pgd(model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, budget: PGDBudget) -> Tensor:
    """PGD in linf as one writes it by hand: forward, cross-entropy, backward, a signed step, two clamps."""
    low, high = (images - budget.eps).clamp(min=0), (images + budget.eps).clamp(max=1)
    perturbed = images
    for _ in range(budget.steps):
        leaf = perturbed.detach().requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(model(leaf), labels, reduction="sum"), leaf)
        perturbed = torch.clamp(perturbed + budget.step_size * slope.sign(), low, high)
    return perturbed


def our_pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    budget: PGDBudget,
    precision: Precision,
    measurements: dict[Hashable, Any],
) -> Tensor:
    """Our PGD in linf as an evaluation runs it; the first one measures the model, and later ones use its measurements."""
    size = BatchSize(automatic_batch_size(images.device, tuple(images.shape[1:])))
    source = MeasuredModel(model, images[:8], size, shared=measurements).source("auto", precision=precision)
    source.bind_draws(0, torch.arange(len(images), device=images.device))
    eps = torch.full((len(images),), budget.eps, dtype=torch.float64, device=images.device)
    threat = Threat(norm="linf", eps=eps)
    return PGD(steps=budget.steps).run(source, images, labels, threat, Random.of(0, images))


def other_libraries(name: str) -> dict[str, peers.Library]:
    """The installed libraries among those that have the attack."""
    candidates = {"torchattacks": peers.Torchattacks(), "Foolbox": peers.Foolbox()}
    if name == "cw":
        del candidates["torchattacks"]  # it has one constant for all images, and so another budget
    return {name: library for name, library in candidates.items() if find_spec(library.distribution)}


def all_at_once(attack: Callable[..., Tensor], model: object, images: Tensor, labels: Tensor, budget: object) -> Tensor:
    """An attack of another library on all images in one batch, as ours."""
    with mock.patch.object(peers, "BATCH", len(images)):
        return attack(model, images, labels, budget)


def beside(model: nn.Module, images: Tensor, labels: Tensor, budget: PGDBudget) -> dict[str, Callable[[], object]]:
    """PGD by hand, ours, and that of other libraries, which get all images at once."""

    def theirs(library: peers.Library) -> Callable[[], object]:
        return partial(all_at_once, library.pgd, library.wrap(model), images, labels, budget)

    return {
        PLAIN: lambda: plain_pgd(model, images, labels, budget),
        OURS: partial(our_pgd, model, images, labels, budget, "tf32", {}),
        FIRST: lambda: our_pgd(model, images, labels, budget, "tf32", {}),
        **{name: theirs(library) for name, library in other_libraries("pgd").items()},
    }


def paper_cnn(images: int, device: torch.device) -> tuple[nn.Module, Tensor, Tensor]:
    """The paper's network with fresh weights, random images, and the classes that it gives them."""
    return _with_images(PaperCNN(shape=(1, 28, 28), classes=10).eval(), (images, 1, 28, 28), device)


def _with_images(model: nn.Module, shape: tuple[int, ...], device: torch.device) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model = model.to(device).requires_grad_(False)
    images = torch.rand(shape, device=device)
    with torch.no_grad():
        return model, images, torch.cat([model(part).argmax(1) for part in images.split(500)])


def patterns(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images ``(N, 1, 28, 28)`` that a network learns in an epoch: for each of ten classes a coarse pattern, and noise."""
    coarse = torch.rand(10, 1, 7, 7, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (count,), generator=generator)
    noise = torch.randn(count, 1, 28, 28, generator=generator)
    return (0.25 + 0.5 * F.interpolate(coarse, size=28)[labels] + 0.1 * noise).clamp(0, 1), labels


def trained_cnn(sizes: Sizes, device: torch.device) -> nn.Module:
    """The paper's network, trained on :func:`patterns` by fast adversarial training in linf."""
    torch.manual_seed(0)
    network = PaperCNN(shape=(1, 28, 28), classes=10)
    examples = patterns(sizes.training, 1)
    return defend(network, FastAT(eps=0.05), examples, device=device, epochs=2).requires_grad_(False)


def check_attacks(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """Every attack beside the CPU."""
    wrong = []
    for name, norm in CASES:
        try:
            figures = attack_beside_cpu(name, norm, str(device))
        except Exception as error:  # noqa: BLE001 - whatever it is, the others are still checked
            wrong.append(f"{name} {norm}: {type(error).__name__}: {str(error).splitlines()[0]}")
            continue
        if figures["other_predictions"] > 1 or figures["other_distances"] > 0.5:
            wrong.append(f"{name} {norm}: {figures}")
    yield Row(name=f"{len(CASES)} attacks beside the CPU", note="; ".join(wrong) or "the same")


def check_defenses(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """Every defense beside the CPU."""
    wrong = []
    for name in defenses.names():
        try:
            figures = defense_beside_cpu(name, str(device))
        except Exception as error:  # noqa: BLE001 - whatever it is, the others are still checked
            wrong.append(f"{name}: {type(error).__name__}: {str(error).splitlines()[0]}")
            continue
        before, after = (figures[place]["robust_accuracy"] for place in ("cpu", "device"))
        if abs(before - after) > 0.25:
            wrong.append(f"{name}: robust accuracy {before:g} on the CPU, {after:g} here")
    yield Row(name=f"{len(defenses.names())} defenses beside the CPU", note="; ".join(wrong) or "the same")


def small_network(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """PGD on the paper's network while nothing breaks, and its time per step for two numbers of images."""
    budget = PGDBudget(norm="linf", eps=TINY, steps=sizes.steps)
    model, images, labels = paper_cnn(sizes.images, device)
    seconds = timed(beside(model, images, labels, budget), device, turns=sizes.turns)
    yield Row(name=f"{budget}, paper-cnn, {len(images)} images", seconds=seconds, goal=1.15)
    for count in (sizes.images // 8, sizes.images // 2):
        seconds = timed(beside(model, images[:count], labels[:count], budget), device, turns=sizes.turns)
        a_step = {name: value / budget.steps for name, value in seconds.items()}
        yield Row(name=f"... a step, {count} images", seconds=a_step, goal=1.15)


def compiled_network(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """The graphs that we record beside those of ``torch.compile``, on the paper's network."""
    budget = PGDBudget(norm="linf", eps=TINY, steps=sizes.steps)
    model, images, labels = paper_cnn(sizes.images, device)
    if device.type != "cuda":
        yield Row(name="torch.compile", note="only a GPU has graphs")
        return
    compiled = torch.compile(model, mode="reduce-overhead")

    def graphed(part: Tensor) -> Tensor:
        # What the step before returned may be written over.
        torch.compiler.cudagraph_mark_step_begin()
        logits: Tensor = compiled(part)
        return logits

    started = time.perf_counter()
    plain_pgd(graphed, images, labels, PGDBudget(norm="linf", eps=TINY, steps=4))
    note = f"{time.perf_counter() - started:.1f} s to compile"
    runs: dict[str, Callable[[], object]] = {
        **beside(model, images, labels, budget),
        COMPILED: lambda: plain_pgd(graphed, images, labels, budget),
    }
    seconds = timed(runs, device, turns=sizes.turns)
    yield Row(
        name=f"{budget}, paper-cnn, {len(images)} images, graphs", seconds=seconds, over=COMPILED, goal=1.0, note=note
    )


def large_networks(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """PGD on residual networks while nothing breaks."""
    for name, build, count, shape in (
        ("ResNet-18", gpu_networks.resnet18_cifar, 1024, (3, 32, 32)),
        ("ResNet-50", gpu_networks.resnet50, 128, (3, sizes.pixels, sizes.pixels)),
    ):
        model, images, labels = _with_images(build(), (min(count, sizes.images), *shape), device)
        budget = PGDBudget(norm="linf", eps=TINY, steps=sizes.steps)
        seconds = timed(beside(model, images, labels, budget), device, turns=1)
        yield Row(name=f"{budget}, {name}, {len(images)} images of {shape[1]}", seconds=seconds, goal=1.03)


def precisions(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """PGD on a wide residual network in each precision of gradients, beside a plain loop in the same."""
    shape = (min(512, sizes.images), 3, 32, 32)
    model, images, labels = _with_images(gpu_networks.wrn_28_10(), shape, device)
    budget = PGDBudget(norm="linf", eps=TINY, steps=sizes.steps)

    def plain(precision: Precision, images: Tensor, labels: Tensor) -> None:
        with (
            gradient_precision(precision, device),
            torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"),
        ):
            plain_pgd(model, images, labels, budget)

    for precision in get_args(Precision):
        # In full float32 a pass takes seven times as long.
        few = slice(len(images) // 4 if precision == "float32" else None)
        data = images[few], labels[few]
        runs: dict[str, Callable[[], object]] = {
            PLAIN: partial(plain, precision, *data),
            OURS: partial(our_pgd, model, *data, budget, precision, {}),
        }
        seconds = timed(runs, device, turns=1)
        yield Row(name=f"{budget}, WRN-28-10, {len(data[0])} images, {precision}", seconds=seconds, goal=1.03)


def trained_network(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """PGD, C&W and the standard suite on an adversarially trained network."""
    model = trained_cnn(sizes, device)
    on_cpu, classes = patterns(sizes.images // 2, 2)
    images, labels = on_cpu.to(device), classes.to(device)
    budget = PGDBudget(norm="linf", eps=0.1, steps=sizes.steps)
    seconds = timed(beside(model, images, labels, budget), device, turns=sizes.turns)
    name = f"{budget}, adversarially trained, {len(images)} images"
    yield Row(name=name, seconds=seconds, over="torchattacks", goal=1.0)
    few = slice(sizes.images // 4)
    yield _cw(model, images[few], labels[few], CWBudget(constants=sizes.cw[0], steps=sizes.cw[1]), device)
    yield _standard(model, on_cpu[few], classes[few], device)


def _cw(model: nn.Module, images: Tensor, labels: Tensor, budget: CWBudget, device: torch.device) -> Row:
    seconds: dict[str, float] = {}
    lengths = []
    for name, library in {OURS: peers.Advdef(), **other_libraries("cw")}.items():
        run = partial(all_at_once, library.cw, library.wrap(model), images, labels, budget)
        seconds |= timed({name: run}, device, turns=1)
        perturbed = run()
        # A perturbation of minimal size is too close to the boundary to be judged in TF32.
        with torch.no_grad(), full_float32(device):
            fell = model(perturbed).argmax(1) != labels
        length = distance(perturbed, images, "l2")[fell].mean()
        lengths.append(f"{name} {int(fell.sum())} fell, mean l2 {length:.3f}")
    return Row(
        name=f"{budget}, {len(images)} images",
        seconds=seconds,
        over="Foolbox",
        faster=True,
        goal=5,
        note="; ".join(lengths),
    )


def _standard(model: nn.Module, images: Tensor, labels: Tensor, device: torch.device) -> Row:
    budget = AutoAttackBudget(norm="linf", eps=0.1)
    official = peers.LIBRARIES[OFFICIAL]
    runs: dict[str, Callable[[], Tensor]] = {OURS: lambda: peers.Advdef().autoattack(model, images, labels, budget)}
    if find_spec(official.distribution):
        runs[OFFICIAL] = partial(all_at_once, official.autoattack, model, images.to(device), labels.to(device), budget)
    seconds: dict[str, float] = {}
    notes = []
    for name, run in runs.items():
        started = time.perf_counter()
        perturbed = run().to(device)
        seconds[name] = time.perf_counter() - started
        with torch.no_grad(), full_float32(device):
            right = (model(perturbed).argmax(1) == labels.to(device)).double().mean()
        notes.append(f"{name}: robust accuracy {right:.3f}")
    return Row(
        name=f"suite standard, {len(images)} images",
        seconds=seconds,
        over=OFFICIAL,
        faster=True,
        goal=3,
        note="; ".join(notes),
    )


def hrs_training(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """An epoch of HRS [5][5]: its channels together, and one after another."""
    examples = patterns(sizes.training, 1)

    def train(*, together: bool) -> None:
        def ensemble(networks: list[nn.Module], **_: object) -> BatchedEnsemble:
            return BatchedEnsemble(networks, vectorized=together)

        torch.manual_seed(0)
        with mock.patch("robustbench_cli.defenses.hrs.BatchedEnsemble", ensemble):
            defend(PaperCNN(shape=(1, 28, 28), classes=10), HRS(channels=(5, 5)), examples, device=device, epochs=1)

    runs: dict[str, Callable[[], object]] = {
        OURS: lambda: train(together=True),
        "one by one": lambda: train(together=False),
    }
    seconds = timed(runs, device, turns=1)
    yield Row(
        name=f"HRS [5][5], an epoch of {sizes.training} images", seconds=seconds, over="one by one", faster=True, goal=5
    )


def commands(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """A sweep of 16 cells by two processes on one device, and a command whose result is stored already."""
    import numpy as np

    images, labels = patterns(1000, 1)
    with tempfile.TemporaryDirectory() as folder:
        half = len(images) // 2
        np.savez(
            Path(folder, "patterns.npz"),
            images=images[:half].numpy(),
            labels=labels[:half].numpy(),
            train_images=images[half:].numpy(),
            train_labels=labels[half:].numpy(),
        )
        Path(folder, "suite.yaml").write_text(
            "dataset: npz:patterns.npz\nmodel: small-cnn\nn: 100\ndefenses: [none]\nattacks: [fgsm, pgd, mi-fgsm, fmn]\n"
            "norm: linf\neps: [0.02, 0.05, 0.1, 0.15]\ntrain: {epochs: 1}\n",
            encoding="utf-8",
        )

        def seconds(*words: str) -> float:
            started = time.perf_counter()
            # An installed program has compiled files; this environment may forbid them beside the sources.
            environment = os.environ | {
                "XDG_CACHE_HOME": folder,
                "PYTHONPATH": os.pathsep.join(sys.path),
                "PYTHONDONTWRITEBYTECODE": "",
                "PYTHONPYCACHEPREFIX": str(Path(folder, "compiled")),
            }
            done = subprocess.run(  # noqa: S603 - our own program
                [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise RuntimeError(done.stderr.strip().rpartition("\n")[2])
            return time.perf_counter() - started

        program = ("-m", "robustbench_cli")
        place = ("--gpus", "0", "--per-gpu", "2") if device.type == "cuda" else ("--jobs", "2", "--device", "cpu")
        yield Row(
            name="sweep of 16 cells, two processes", seconds={OURS: seconds(*program, "sweep", "suite.yaml", *place)}
        )
        words = (
            "attack --dataset npz:patterns.npz --model small-cnn --epochs 1 --attack fgsm --norm linf --eps 0.1 --n 100"
        )
        attack = (*program, *words.split(), "--device", device.type)
        seconds(*attack)
        programs = {
            OURS: attack,
            "import torch": ("-c", "import torch"),
            "and look for CUDA": ("-c", "import torch; torch.cuda.is_available()"),
        }
        times = {name: min(seconds(*program) for _ in range(2)) for name, program in programs.items()}
        more = times[OURS] - times["import torch"]
        yield Row(name="attack, all stored", seconds=times, note=f"{more:.1f} s more than torch's import; goal 0.5 s")


PARTS: dict[str, tuple[Callable[[Sizes, torch.device], Iterator[Row]], int]] = {
    "attacks": (check_attacks, 50),
    "defenses": (check_defenses, 50),
    "small": (small_network, 40),
    "compiled": (compiled_network, 40),
    "large": (large_networks, 40),
    "precisions": (precisions, 40),
    "trained": (trained_network, 80),
    "hrs": (hrs_training, 30),
    "commands": (commands, 50),
}
"""The parts by name, each with the seconds that it may take."""
