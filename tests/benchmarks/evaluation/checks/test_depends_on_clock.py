from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from datetime import date
from time import perf_counter_ns

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.benchmarks.evaluation.checks.base.finding import UndecidedError
from robustbench_cli.benchmarks.evaluation.checks.depends_on_clock import DependsOnClock

from .conftest import MakeProbe

CHECK = DependsOnClock("depends-on-clock")


class Timed(nn.Module):
    """A network whose logits rise where a reading of a clock is odd."""

    def __init__(self, network: nn.Module, reading: Callable[[], int]) -> None:
        super().__init__()
        self.network, self.reading = network, reading

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits + torch.arange(10.0) * (self.reading() % 2)


@pytest.mark.parametrize(
    ("reading", "later"),
    [
        (time.perf_counter_ns, 10**-9),
        (lambda: perf_counter_ns() // 1000, 10**-6),
        (lambda: int(time.time()), 1),
        (lambda: dt.datetime.now(dt.UTC).minute, 60),
        (lambda: date.today().year, 366 * 86400),  # noqa: DTZ011
        (lambda: int(time.strftime("%M")), 60),
    ],
)
def test_a_model_that_reads_a_clock_is_found(
    network: nn.Module, images: Tensor, make_probe: MakeProbe, reading: Callable[[], int], later: float
) -> None:
    """With the step of the time that changes it, at the latest; also by a name that it imported, and however slow the clock is."""
    found = CHECK.finding_in_model(make_probe(Timed(network, reading).eval(), images, torch.zeros(8, dtype=torch.long)))
    assert found is not None
    assert found.figures["seconds"] <= later
    assert "although seed and images are the same" in found.evidence


def test_a_model_that_waits_or_draws_is_not_found(
    network: nn.Module, noisy: nn.Module, images: Tensor, make_probe: MakeProbe
) -> None:
    """A model that waits until some time has passed does not wait forever."""

    def wait() -> int:
        started = time.monotonic()
        while time.monotonic() < started + 0.05:
            pass
        return 0

    labels = torch.zeros(8, dtype=torch.long)
    for model in (network, noisy, Timed(network, wait).eval()):
        assert CHECK.finding_in_model(make_probe(model, images, labels)) is None


def test_a_model_that_counts_is_left_out(network: nn.Module, images: Tensor, make_probe: MakeProbe) -> None:
    """It changes at the same time, so nothing can be said of the clock."""
    numbers = iter(range(10**6))
    model = Timed(network, lambda: next(numbers)).eval()
    with pytest.raises(UndecidedError, match="from pass to pass"):
        CHECK.finding_in_model(make_probe(model, images, torch.zeros(8, dtype=torch.long)))
