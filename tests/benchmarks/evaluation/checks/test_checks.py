"""The table of checks: a check is one file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.benchmarks.evaluation import checks
from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.finding import BUDGETS, Need, Severity
from robustbench_cli.benchmarks.evaluation.checks.wrong_gradient import WrongGradient
from robustbench_cli.benchmarks.evaluation.evaluate import evaluate
from robustbench_cli.core.class_source import read_exported

ORDER = (
    "no-eot zero-gradient wrong-gradient not-repeatable shared-draw unstable remembers other-draws not-a-number unchanged "
    "every-draw single-draw few-classes left-the-ball cannot-reach silent-success no-gradients tiny-logits check-failed"
)

NEW_CHECK = """
from typing import ClassVar
from robustbench_cli.benchmarks.evaluation.checks.base.check import Check
from robustbench_cli.benchmarks.evaluation.checks.base.moments import AttackedBatch

__all__ = ["DarkImages"]

class DarkImages(Check):
    text: ClassVar[str] = "the images are dark"

    def raised_by_batch(self, batch: AttackedBatch) -> bool:
        return bool(batch.images.mean() < 0.5)
"""


MOMENTS = (*checks.IN_EVALUATION, "finding_in_rows", "finding_in_model")


def test_the_order_of_flags_in_a_row_is_pinned() -> None:
    """Stored rows have it."""
    assert [check.name for check in checks.load_checks_at(*checks.IN_EVALUATION)] == ORDER.split()[:-1]
    assert checks.load_checks()[-1].name == ORDER.rsplit(maxsplit=1)[-1]


@pytest.mark.parametrize("name", checks.registry.names())
def test_every_check_has_its_page(name: str) -> None:
    """The legend is one line without a full stop, and the sections are sentences."""
    check = checks.registry.load(name)(name)
    assert check.text[0].islower()
    assert not check.text.endswith(".")
    assert check.severity in get_args(Severity)
    assert check.budget in BUDGETS
    assert {*check.needs} <= {*get_args(Need)}
    assert all(text[0].isupper() and text.endswith(".") for text in (check.raised_when, check.why, check.remedy))
    assert check.source
    source = read_exported(type(check).__module__)
    assert source is not None
    assert (source.constants["text"], source.constants["severity"]) == (check.text, check.severity)


@pytest.mark.parametrize(
    "moments", [checks.IN_EVALUATION, ("finding_in_rows",), ("finding_in_model", *checks.IN_EVALUATION)]
)
def test_the_checks_of_a_moment_are_those_that_override_it(moments: tuple[str, ...]) -> None:
    """The source file names one of the methods, although a base class may define them."""
    overriding = [
        check.name
        for check in checks.load_checks()
        if any(getattr(type(check), moment) is not getattr(Check, moment) for moment in moments)
    ]
    assert [check.name for check in checks.load_checks_at(*moments)] == overriding


def test_every_check_but_one_looks_at_a_moment() -> None:
    """``check-failed`` is raised by the others."""
    looking = {check.name for check in checks.load_checks_at(*MOMENTS)}
    assert {*checks.registry.names()} - looking == {"check-failed"}


def test_the_checks_of_stored_rows_load_without_torch() -> None:
    """An audit of a store takes no second for an import."""
    program = (
        "import sys; from robustbench_cli.benchmarks.evaluation import checks; "
        "assert checks.load_checks_at('finding_in_rows'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_an_error_in_an_audit_is_a_finding() -> None:
    """It names the check and the error."""
    check = checks.registry.load("no-eot")("no-eot")

    def fail() -> None:
        raise RuntimeError("no way")

    found = checks.finding_or_failure(check, fail)
    assert found is not None
    assert (found.check, found.severity) == ("check-failed", "suspicious")
    assert found.evidence == "no-eot failed: RuntimeError: no way"


def test_a_new_check_is_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: nn.Module, images: Tensor
) -> None:
    """A file in the folder of checks raises a flag in a row, before ``check-failed``, and has a text in the legend."""
    (tmp_path / "dark_images.py").write_text(NEW_CHECK)
    monkeypatch.setattr(checks, "__path__", [*checks.__path__, str(tmp_path)])
    monkeypatch.setattr(checks, "registry", type(checks.registry)(**vars_of(checks.registry)))
    texts = {check.name: check.text for check in checks.load_checks()}
    assert texts["dark-images"] == "the images are dark"
    assert list(texts).index("left-the-ball") < list(texts).index("dark-images") < list(texts).index("check-failed")
    for level, is_dark in ((0.4, True), (0.9, False)):
        data = (images * 0.2 + level).clamp(0, 1)
        flags = evaluate(network, data, network(data).argmax(1), attack=PGD(steps=2), eps=0.05).flags
        assert ("dark-images" in flags) is is_dark


def vars_of(registry: object) -> dict[str, object]:
    """The fields of a registry, without what it has found."""
    return {name: getattr(registry, name) for name in ("kind", "package", "base", "not_named", "argument")}


@pytest.mark.parametrize("moment", ["raised_by_batch", "raised_by_models", "applies"])
def test_a_check_that_fails_loses_no_result(
    monkeypatch: pytest.MonkeyPatch, network: nn.Module, images: Tensor, moment: str
) -> None:
    """Its error is a flag, and the other checks run."""

    def fail(*_: object) -> bool:
        raise RuntimeError("no way")

    monkeypatch.setattr(WrongGradient, moment, fail)
    labels = network(images).argmax(1)
    blind = nn.Sequential(network, nn.Threshold(1e9, 0.0))
    assert evaluate(network, images, labels, attack=PGD(steps=2), eps=0.05).flags == ("check-failed",)
    found = evaluate(blind, images, torch.zeros(8, dtype=torch.int64), attack=PGD(steps=2), eps=0.05).flags
    assert "zero-gradient" in found
    assert found[-1] == "check-failed"
