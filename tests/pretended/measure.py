"""Runs attacks and defenses on a pretended device and prints what they did, as JSON: ``python -m tests.pretended.measure PART``."""

from __future__ import annotations

import json
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from robustbench_cli import verbs
from robustbench_cli.attacks import registry as attacks
from robustbench_cli.attacks.base.models.measured_model import MeasuredModel
from robustbench_cli.attacks.base.models.precision import Precision
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.benchmarks.comparison.gpu_checks import (
    CASES,
    EPS,
    attack_beside_cpu,
    attack_with,
    comparable,
    defense_beside_cpu,
    defense_with,
    small,
)
from robustbench_cli.benchmarks.evaluation.evaluate import evaluate
from robustbench_cli.benchmarks.models.paper_cnn import PaperCNN
from robustbench_cli.defenses import registry as defenses
from robustbench_cli.defenses.base.defense import defend
from tests.pretended.device import Device, pretended
from tests.pretended.scenarios import SCENARIOS
from tests.pretended.training import launches_by_channels, loaded

ROOT = Path(__file__).parents[2]

Figures = dict[str, Any]

STEPS = {
    **dict.fromkeys(("boundary", "geoda", "hopskipjump", "rays", "surfree"), (200, 400)),
    **dict.fromkeys(("apgd-t", "cw", "deepfool", "fab", "fab-t", "malt", "superdeepfool"), (4, 6)),
}
"""The two numbers of steps (or queries) between which an attack is measured, where they are not 4 and 8. The third pass is
recorded as a CUDA graph.
"""

NOTHING_FALLS: dict[Norm, float] = {"linf": 1e-6, "l2": 1e-6, "l1": 1e-6, "l0": 1}


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
        attack = attack_with(name, model, **values)
        precision: Precision = "float32" if attack.needs_full_precision() else "tf32"
        source = MeasuredModel(model, images).source("auto", precision=precision)
        threat = attack.threat(
            images, norm=norm, eps=None if attack.minimal_norm else NOTHING_FALLS[norm], targeted=False
        )
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
    for (_, line), count in cuda.replayed.items():
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
    """What an attack finds on the second of two devices, beside the CPU."""
    with pretended(ROOT, count=2):
        return attack_beside_cpu(name, norm, "cuda:1")


def forward(name: str) -> Figures:
    """Launches and synchronizations of a defended model's forward pass; the second, as the first may prepare something."""
    base, images, _ = small()
    model = defense_with(name).protect(base, images[:1]).eval()
    with pretended(ROOT) as cuda, torch.no_grad():
        model, images = model.to("cuda"), images.to("cuda")
        model(images)
        cuda.reset()
        model(images)
        return figures(counted(cuda), Counter(), 1)


def evaluated(name: str) -> Figures:
    """What an evaluation of a defended model gives on the second of two devices, beside the CPU."""
    with pretended(ROOT, count=2):
        return defense_beside_cpu(name, "cuda:1")


def trained(name: str) -> Figures:
    """Launches and synchronizations of a training of two batches, and of one epoch of it more."""
    model, _, _ = small()
    images, labels = torch.rand(64, 1, 8, 8), torch.arange(64) % 10
    counts = []
    for epochs in (1, 2):
        with pretended(ROOT) as cuda:
            torch.manual_seed(0)
            defend(model, defense_with(name), (images, labels), device="cuda", epochs=epochs, batch_size=32)
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
    return {"cpu": comparable(expected), "device": comparable(found), "out_of_memory": cuda.out_of_memory}


def evaluated_in_memory(name: str) -> Figures:
    """What the evaluation of a model in memory gives on the second of two devices, beside the CPU."""
    model, images, labels = small()

    def robust_accuracy(device: str) -> float:
        evaluation = verbs.evaluate(model, images, labels, attack=name, eps=EPS["linf"], device=device)
        return float(evaluation.summary["robust_accuracy"])

    with pretended(ROOT, count=2):
        return {"cpu": robust_accuracy("cpu"), "device": robust_accuracy("cuda:1")}


def scenario(name: str) -> Figures:
    """Runs one of the scenarios of the device itself."""
    next(function for function in SCENARIOS if function.__name__ == name)()
    return {}


PARTS: dict[str, tuple[Callable[..., Figures], Callable[[], list[Any]]]] = {
    "steps": (steps_of, lambda: CASES),
    "attacks": (beside_cpu, lambda: CASES),
    "forward": (forward, lambda: [(name,) for name in defenses.names()]),
    "defenses": (evaluated, lambda: [(name,) for name in defenses.names()]),
    "interface": (evaluated_in_memory, lambda: [("pgd",)]),
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
