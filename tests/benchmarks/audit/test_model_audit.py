from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.benchmarks.audit.model_audit import (
    AuditOptions,
    ModelAuditPlan,
    audit,
    expected_seconds,
    passes_of,
    probe_of,
    run_check,
)
from robustbench_cli.benchmarks.evaluation.checks import load_checks_at
from robustbench_cli.benchmarks.evaluation.checks.base.finding import Budget, Finding
from robustbench_cli.benchmarks.evaluation.checks.not_converged import NotConverged
from robustbench_cli.core.errors import UserError


@pytest.fixture
def model() -> nn.Sequential:
    """A linear model of ten classes."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


@pytest.fixture
def images() -> Tensor:
    """Twenty images of 8 x 8."""
    return torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(1))


class OneHot(nn.Module):
    """A model that gives its class and nothing else."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits = self.network(images)
        return 10 * nn.functional.one_hot(logits.argmax(1), 10).float() + 0 * logits


def test_an_honest_model_is_consistent(model: nn.Sequential) -> None:
    """And is left as it was; a hundred images are enough for a verdict."""
    images = torch.rand(100, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    model.train()
    audited = audit(model, images, model(images).argmax(1), eps="8/255", budget="quick")
    assert (audited.verdict, audited.findings, audited.budget) == ("consistent", (), "quick")
    assert repr(audited).startswith("Audited: consistent")
    assert {"zero-gradient", "no-gradients"} < {*audited.passed}
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_masked_gradient_is_broken(model: nn.Sequential, images: Tensor) -> None:
    """By a check that runs in every evaluation: the baseline raised its flag."""
    audited = audit(OneHot(model), images, model(images).argmax(1), eps=0.1, budget="quick")
    assert audited.verdict == "broken"
    assert "zero-gradient" in {finding.check for finding in audited.findings}
    assert "zero-gradient" not in audited.passed


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"budget": "large"}, "no budget 'large'"),
        ({"norm": "l0"}, "l0"),
        ({"eps": -1}, "eps"),
        ({"eps": 0}, "eps is 0"),
        ({"eps": 0.1, "seed": -1}, "seed"),
        ({"eps": 0.1, "steps": 3}, "steps"),
    ],
)
def test_a_wrong_argument_is_named(
    model: nn.Sequential, images: Tensor, argument: dict[str, Any], message: str
) -> None:
    """In one line."""
    with pytest.raises(UserError, match=message):
        audit(model, images, torch.zeros(20, dtype=torch.int64), **({"eps": 0.1} | argument))


Planned = Callable[..., ModelAuditPlan]


def plan(model: nn.Module, images: Tensor, *, budget: Budget = "thorough", training: Any = None) -> ModelAuditPlan:
    """The plan of an audit."""
    labels = torch.zeros(len(images), dtype=torch.int64)
    options = AuditOptions(norm="linf", eps=0.1, budget=budget, device=torch.device("cpu"))
    with probe_of(model, images, labels, options, training=training) as probe:
        return ModelAuditPlan.of(probe)


def test_what_does_not_fit_the_budget_is_left_out(model: nn.Sequential, images: Tensor) -> None:
    """And named; every check that looks at a model is in one of the two lists."""
    quick, thorough = (plan(model, images, budget=budget, training=lambda: None) for budget in ("quick", "thorough"))
    reasons = {entry.check: entry.reason for entry in quick.left_out}
    assert reasons["not-converged"] == "it needs the budget standard"
    assert thorough.left_out == []
    assert {check.name for check in thorough.checks} == {*reasons, *(check.name for check in quick.checks)}


def test_a_larger_budget_costs_more(model: nn.Sequential, images: Tensor) -> None:
    """In passes, with what the checks share."""
    options = AuditOptions(norm="linf", eps=0.1, budget="thorough", device=torch.device("cpu"))
    with probe_of(model, images, torch.zeros(20, dtype=torch.int64), options) as probe:
        checks = ModelAuditPlan.of(probe).checks
        assert 0 < passes_of([check for check in checks if check.budget == "quick"], probe) < passes_of(checks, probe)


def test_checks_that_need_gradients_are_left_out_without(model: nn.Sequential, images: Tensor) -> None:
    """The others run."""

    class Cut(OneHot):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images).detach()

    planned = plan(Cut(model), images)
    reasons = {entry.check: entry.reason for entry in planned.left_out}
    assert reasons["not-converged"] == "the model gives no input gradients"
    assert "no-gradients" in {check.name for check in planned.checks}


def test_the_time_of_a_pass_is_measured(model: nn.Sequential, images: Tensor) -> None:
    """A hundred times the work takes longer."""
    wide = nn.Sequential(nn.Flatten(), nn.Linear(64, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.Linear(4096, 10))
    options = AuditOptions(norm="linf", eps=0.1, budget="quick", device=torch.device("cpu"))
    seconds = []
    for network in (model, wide):
        with probe_of(network, images, torch.zeros(20, dtype=torch.int64), options) as probe:
            seconds.append(min(expected_seconds(probe, [], 1000) for _ in range(3)))
    assert 0 < seconds[0] < seconds[1]


def test_an_error_of_a_check_loses_no_audit(
    model: nn.Sequential, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a finding, and the others run."""

    def fail(*_: object) -> None:
        raise RuntimeError("no way")

    monkeypatch.setattr(NotConverged, "finding_in_model", fail)
    labels = torch.zeros(20, dtype=torch.int64)
    options = AuditOptions(norm="linf", eps=0.1, budget="standard", device=torch.device("cpu"))
    with probe_of(model, images, labels, options) as probe:
        assert isinstance(probe.baseline_attack, PGD)
        (check,) = [check for check in load_checks_at("finding_in_model") if check.name == "not-converged"]
        found = run_check(check, probe)
    assert isinstance(found, Finding)
    assert (found.check, found.evidence) == ("check-failed", "not-converged failed: RuntimeError: no way")


def test_a_check_that_cannot_decide_is_left_out(model: nn.Sequential, images: Tensor) -> None:
    """With the reason: of seven images the binarization test can use fewer than eight."""
    audited = audit(model, images[:7], model(images[:7]).argmax(1), eps=0.01)
    (entry,) = [entry for entry in audited.left_out if entry.check == "binarization"]
    assert entry.reason.endswith("of 7 images apart, and 8 are needed")
    assert "binarization" not in audited.passed
