"""Runs attacks and defenses on a pretended device and prints what they did, as JSON: ``python -m tests.pretended.measure PART``."""

from __future__ import annotations

import copy
import json
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_cli.attacks import registry as attacks
from robustbench_cli.attacks.base.attack import Attack
from robustbench_cli.attacks.base.models.measured_model import MeasuredModel
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.parameters.surrogate import surrogate_parameters
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import distance
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.benchmarks.evaluation.evaluate import Evaluation, evaluate
from robustbench_cli.benchmarks.models.paper_cnn import PaperCNN
from robustbench_cli.benchmarks.models.small_cnn import SmallCNN
from robustbench_cli.defenses import registry as defenses
from robustbench_cli.defenses.base.defense import Defense, defend
from tests.pretended.device import Device, pretended
from tests.pretended.scenarios import SCENARIOS
from tests.pretended.training import launches_by_channels, loaded

ROOT = Path(__file__).parents[2]

Figures = dict[str, Any]

STEPS = {"hopskipjump": (200, 400), **dict.fromkeys(("apgd-t", "cw", "deepfool", "fab", "fab-t", "superdeepfool"), (2, 4))}
"""The two numbers of steps (or queries) between which an attack is measured, where they are not 4 and 8."""

EPS: dict[Norm, float] = {"linf": 0.05, "l2": 0.3, "l1": 2, "l0": 4}
"""Radii at which some images of :func:`small` fall and some do not."""

NOTHING_FALLS: dict[Norm, float] = {"linf": 1e-6, "l2": 1e-6, "l1": 1e-6, "l0": 1}

FEW = {"steps": 3, "queries": 20, "pairs": 2, "binary_search_steps": 2, "initial_samples": 5, "n_target_classes": 2}


def cases() -> list[tuple[str, Norm]]:
    """Every attack in each of its norms."""
    return [(name, norm) for name in attacks.names() for norm in attacks.load(name).norms]


QUICK = {"draws": 2, "steps": 3, "train_rate": 0.3, "test_rate": 0.3}
"""Parameters of defenses that make them quick."""


def small() -> tuple[nn.Module, Tensor, Tensor]:
    """A small network with fresh weights, images, and the classes that it gives them."""
    torch.manual_seed(0)
    model = SmallCNN(shape=(1, 8, 8), classes=10).eval()
    images = torch.rand(8, 1, 8, 8)
    return model, images, model(images).argmax(1)


def build(name: str, model: nn.Module, **values: int) -> Attack:
    """An attack with those of the values that it takes; an attack that needs a surrogate gets the model."""
    kind: type[Attack] = attacks.load(name)
    surrogates = {key: model for key in surrogate_parameters(kind)}
    return kind(**surrogates, **{key: value for key, value in values.items() if key in kind.model_fields})


def defense_of(name: str) -> Defense:
    """A defense with those of :data:`QUICK` that it takes."""
    kind: type[Defense] = defenses.load(name)
    return kind(**{key: value for key, value in QUICK.items() if key in kind.model_fields})


def steps_of(name: str, norm: Norm) -> Figures:
    """Launches and synchronizations of one step of an attack on the paper's network, while no image falls.

    They are the difference of two runs over the difference of their steps. An attack without steps is measured whole.
    """
    fields = attacks.load(name).model_fields
    knob = next((key for key in ("queries", "steps") if key in fields), None)
    if knob is None:
        return figures(run_counted(name, norm), Counter(), 1)
    low, high = STEPS.get(name, (4, 8))
    return figures(run_counted(name, norm, **{knob: high}), run_counted(name, norm, **{knob: low}), high - low)


def run_counted(name: str, norm: Norm, **values: int) -> Counter[tuple[str, str]]:
    """What an attack does on a device, from its first gradient on: the counts by kind and line of code."""
    torch.manual_seed(0)
    model = PaperCNN(shape=(1, 28, 28), classes=10).eval().requires_grad_(False)
    images = torch.rand(4, 1, 28, 28)
    labels = model(images).argmax(1)
    with pretended(ROOT) as cuda:
        model, images, labels = model.to("cuda"), images.to("cuda"), labels.to("cuda")
        attack = build(name, model, **values)
        source = MeasuredModel(model, images).source("auto")
        source.full_precision = attack.needs_full_precision()
        threat = attack.threat(images, norm=norm, eps=None if attack.minimal_norm else NOTHING_FALLS[norm], targeted=False)
        source.bind_draws(0, torch.arange(len(images), device="cuda"))
        if source.noise is not None:
            source.noise()
        cuda.reset()
        attack.run(source, images, labels, attack.search_threat(threat), Random.of(0, images))
        return counted(cuda)


def counted(cuda: Device) -> Counter[tuple[str, str]]:
    """The counts of a device by kind and line of code, as figures that can be subtracted."""
    found: Counter[tuple[str, str]] = Counter()
    for (operation, line), count in cuda.launches.items():
        found["launches", line] += count
        found["kernels", line] += 0 if operation == "graph" else count
    for (operation, line), count in cuda.replayed.items():
        found["kernels", line] += count
    for (reason, line), count in cuda.synchronizations.items():
        found["synchronizations", f"{line} ({reason})"] += count
    return found


def figures(high: Counter[tuple[str, str]], low: Counter[tuple[str, str]], steps: int) -> Figures:
    """The counts of one step by kind, and the lines of code with the most kernels and with synchronizations."""
    each = {key: (high[key] - low[key]) / steps for key in high | low}
    totals = {
        kind: round(sum(value for (other, _), value in each.items() if other == kind), 2)
        for kind in ("launches", "kernels", "synchronizations")
    }
    most = sorted(((value, line) for (kind, line), value in each.items() if kind == "kernels"), reverse=True)[:8]
    waits = [(value, line) for (kind, line), value in each.items() if kind == "synchronizations" and value]
    return {**totals, "most": most, "waits": waits}


def beside_cpu(name: str, norm: Norm) -> Figures:
    """What an attack finds on the second of two devices, and on the CPU."""
    model, images, labels = small()
    attack = build(name, model, **FEW)
    eps = None if attack.minimal_norm else EPS[norm]
    expected = attack(model, images, labels, norm=norm, eps=eps)
    with pretended(ROOT, count=2):
        moved = copy.deepcopy(model).to("cuda:1")
        found = build(name, moved, **FEW)(moved, images, labels, norm=norm, eps=eps)
    return {
        "fell": int((model(expected).argmax(1) != labels).sum()),
        "same_predictions": bool(torch.equal(model(found).argmax(1), model(expected).argmax(1))),
        "farthest": float((distance(found, images, norm) - distance(expected, images, norm)).abs().max()),
    }


def protected(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A small network with an untrained defense, images, and labels."""
    model, images, labels = small()
    torch.manual_seed(1)
    return defense_of(name).for_radius(0.1).protect(model, images[:1]).eval(), images, labels


def forward(name: str) -> Figures:
    """Launches and synchronizations of a defended model's forward pass; the second, as the first may prepare something."""
    model, images, _ = protected(name)
    with pretended(ROOT) as cuda, torch.no_grad():
        model, images = model.to("cuda"), images.to("cuda")
        model(images)
        cuda.reset()
        model(images)
        return figures(counted(cuda), Counter(), 1)


def evaluated(name: str) -> Figures:
    """What an evaluation of a defended model finds on the second of two devices, and on the CPU."""
    model, images, labels = protected(name)

    def run(device: str) -> Evaluation:
        return evaluate(
            copy.deepcopy(model), images[:4], labels[:4], attack=PGD(steps=2), eps=0.05, eot=2, repeats=2, device=device
        )

    expected = run("cpu")
    with pretended(ROOT, count=2):
        found = run("cuda:1")
    return {"cpu": comparable(expected), "cuda": comparable(found)}


def comparable(evaluation: Evaluation) -> Figures:
    """The figures and the flags of an evaluation."""
    return {**{key: float(value) for key, value in evaluation.summary.items()}, "flags": list(evaluation.flags)}


def trained(name: str) -> Figures:
    """Launches and synchronizations of a training of two batches, and of one epoch of it more."""
    model, _, _ = small()
    images, labels = torch.rand(64, 1, 8, 8), torch.arange(64) % 10
    counts = []
    for epochs in (1, 2):
        with pretended(ROOT) as cuda:
            torch.manual_seed(0)
            defend(model, defense_of(name), (images, labels), device="cuda", epochs=epochs, batch_size=32)
            counts.append(counted(cuda))
    return figures(counts[1], counts[0], 1)


def short_of_memory(_: str) -> Figures:
    """An evaluation in batches that are too large for the device, and on the CPU."""
    model, images, _ = small()
    images = torch.rand(24, 1, 8, 8)
    labels = model(images).argmax(1)
    expected = evaluate(model, images, labels, attack=PGD(steps=4), eps=EPS["linf"])
    with pretended(ROOT, memory=40_000) as cuda:  # the weights, and nine images after the first layer
        found = evaluate(model, images, labels, attack=PGD(steps=4), eps=EPS["linf"], device="cuda")
    return {"cpu": comparable(expected), "cuda": comparable(found), "out_of_memory": cuda.out_of_memory}


def scenario(name: str) -> Figures:
    """Runs one of the scenarios of the device itself."""
    next(function for function in SCENARIOS if function.__name__ == name)()
    return {}


PARTS: dict[str, tuple[Callable[..., Figures], Callable[[], list[Any]]]] = {
    "steps": (steps_of, cases),
    "attacks": (beside_cpu, cases),
    "forward": (forward, lambda: [(name,) for name in defenses.names()]),
    "defenses": (evaluated, lambda: [(name,) for name in defenses.names()]),
    "training": (trained, lambda: [(name,) for name in defenses.names() if defenses.load(name).trains]),
    "scenarios": (scenario, lambda: [(function.__name__,) for function in SCENARIOS]),
    "memory": (short_of_memory, lambda: [("pgd",)]),
    "channels": (launches_by_channels, lambda: [("hrs",), ("hrs+pgd-at",)]),
    "loading": (loaded, lambda: [("uint8",), ("float32",), ("streamed",)]),
}
"""What is run, for each of what."""


@contextmanager
def errors_into(figures: Figures) -> Iterator[None]:
    """Keeps an error as a text among the figures, so that the rest is run."""
    try:
        yield
    except Exception:  # noqa: BLE001 - whatever it is, the test reports it
        figures["error"] = traceback.format_exc(limit=-6)


def measure(parts: Iterable[str]) -> dict[str, dict[str, Figures]]:
    """The figures of some parts, by part and case."""
    torch.set_num_threads(1)
    result: dict[str, dict[str, Figures]] = {}
    for part in parts:
        run, cases_of_part = PARTS[part]
        for case in cases_of_part():
            measured = result.setdefault(part, {})[" ".join(case)] = {}
            with errors_into(measured):
                measured.update(run(*case))
    return result


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1:])))
