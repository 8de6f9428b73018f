"""Whole steps as CUDA graphs on a pretended device in a process of its own; see tests/pretended/checks.py."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from robustbench_cli.attacks.base.attack import Attack
from robustbench_cli.attacks.base.gradients.eot import EOT
from robustbench_cli.attacks.base.gradients.graphed_steps import GraphedSteps, State
from robustbench_cli.attacks.base.losses import cross_entropy
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.cw import CW
from robustbench_cli.attacks.pgd import PGD
from tests.attacks.base.models.test_graphed_passes import Network, images
from tests.pretended.checks import failures_of, names_of


def results(attack: Attack, norm: Norm, *, graphs: bool) -> dict[str, Any]:
    """What an attack finds on the network, and what its source has counted and shown."""
    rows, labels = images(40), torch.arange(40, device="cuda") % 3
    source = EOT(Network().to("cuda"), graphs=graphs)
    queries: list[Tensor] = []
    source.watch = lambda points, logits: queries.extend([points.cpu(), logits.cpu()])
    threat = attack.search_threat(attack.threat(rows, norm=norm, eps=0.1, targeted=False))
    found = attack.run(source, rows, labels, threat, Random.of(0, rows)).cpu()
    assert source.recent_points is not None
    assert source.sample is not None
    return {
        "images": found,
        "recent points": source.recent_points.cpu(),
        "sample": source.sample.gradients.cpu(),
        "counts": torch.tensor([source.forwards, source.backwards, source.zero_gradient_share, source.queries]),
        **{f"query {number}": values for number, values in enumerate(queries)},
    }


def assert_attack_is_the_same(attack: Attack, norm: Norm, launches: Callable[[], int]) -> None:
    """With and without graphs, which must be used."""
    before = launches()
    expected = results(attack, norm, graphs=False)
    between = launches()
    found = results(attack, norm, graphs=True)
    assert launches() - between < 0.9 * (between - before)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, msg=lambda text, name=name: f"{name}: {text}")


def check_pgd_is_the_same(launches: Callable[[], int]) -> None:
    """With images that leave, and with restarts."""
    assert_attack_is_the_same(PGD(steps=40, restarts=2), "linf", launches)


def check_pgd_in_l2_is_the_same(launches: Callable[[], int]) -> None:
    """The ball has no bounds for each pixel."""
    assert_attack_is_the_same(PGD(steps=40), "l2", launches)


def check_cw_is_the_same(launches: Callable[[], int]) -> None:
    """Adam's moments change in place, rates between steps."""
    assert_attack_is_the_same(CW(steps=60, binary_search_steps=2, targeted_restarts=0), "l2", launches)


def source_with_graphs() -> EOT:
    """A source that has found out that its passes wait for launches."""
    source = EOT(Network().to("cuda"), graphs=True)
    for _ in range(4):
        source.gradient(images(16), torch.arange(16, device="cuda") % 3, cross_entropy)
    return source


def check_all_sizes_share_a_graph(launches: Callable[[], int]) -> None:
    """What changes in place, what is new and what the caller changes are right at every size; a kept tensor stays."""

    def step(state: State, numbers: Tensor) -> State:
        state["total"].add_(state["each"])
        return {"each": state["each"] * numbers[0]}

    graphed, kept, sizes = GraphedSteps(source_with_graphs(), step), [], (9, 9, 9, 12, 12, 5, 16, 16)
    counts = []
    for size in sizes:
        state = {name: torch.arange(float(size), device="cuda") for name in ("each", "total")}
        for number in range(1, 4):
            before = launches()
            state = graphed(state, torch.full((1,), float(number), device="cuda"))
            counts.append(launches() - before)
            if number == 2:
                state["total"] = state["total"] + 1
        kept.append((size, graphed.kept(state["total"]), graphed.kept(state["each"])))
    for size, total, each in kept:
        torch.testing.assert_close(total.cpu(), 1 + torch.arange(float(size)) * (1 + 1 + 1 + 2))
        torch.testing.assert_close(each.cpu(), torch.arange(float(size)) * 6)
    assert counts[-1] <= 4


def check_a_step_that_waits_runs_as_usual(launches: Callable[[], int]) -> None:
    """Its results are right, and one warning gives the reason."""
    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("robustbench_cli.attacks.base.gradients.graphed_steps")
    logger.addHandler(handler)
    graphed = GraphedSteps(source_with_graphs(), lambda state, numbers: {"each": state["each"] * float(numbers[0])})
    state = {"each": torch.ones(16, device="cuda")}
    try:
        for number in (2, 3, 4):
            state = graphed(state, torch.full((1,), float(number), device="cuda"))
    finally:
        logger.removeHandler(handler)
    assert state["each"].tolist() == [24] * 16
    assert len(records) == 1
    assert "cannot be recorded as a CUDA graph" in records[0]


def test_a_cpu_runs_each_step() -> None:
    """No tensor is copied, and what does not change stays."""
    graphed = GraphedSteps(EOT(Network(), graphs=True), lambda state, numbers: {"each": state["each"] * numbers[0]})
    same = torch.ones(2)
    state = {"each": torch.ones(2), "same": same}
    for _ in range(9):
        state = graphed(state, torch.tensor([2.0]))
    assert state["each"].tolist() == [512, 512]
    assert state["same"] is same
    assert graphed.kept(same) is same


CHECKS = names_of(globals())


@pytest.fixture(scope="module")
def failures() -> dict[str, str | None]:
    return failures_of(__file__)


@pytest.mark.parametrize("name", CHECKS)
def test_on_the_pretended_device(name: str, failures: dict[str, str | None]) -> None:
    assert failures[name] is None, failures[name]
