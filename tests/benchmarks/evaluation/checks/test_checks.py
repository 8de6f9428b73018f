"""The table of checks: a check is one file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from robustbench_cli.attacks.pgd import PGD
from robustbench_cli.benchmarks.evaluation import checks
from robustbench_cli.benchmarks.evaluation.checks.wrong_gradient import WrongGradient
from robustbench_cli.benchmarks.evaluation.evaluate import evaluate

ORDER = (
    "no-eot zero-gradient wrong-gradient not-repeatable unstable remembers other-draws not-a-number unchanged every-draw "
    "single-draw few-classes left-the-ball check-failed"
)

NEW_CHECK = """
from typing import ClassVar
from robustbench_cli.benchmarks.evaluation.checks.base.check import AttackedBatch, Check

__all__ = ["DarkImages"]

class DarkImages(Check):
    text: ClassVar[str] = "the images are dark"

    def raised_by_batch(self, batch: AttackedBatch) -> bool:
        return bool(batch.images.mean() < 0.5)
"""


def test_the_order_of_flags_in_a_row_is_pinned() -> None:
    """Stored rows have it."""
    texts = {check.name: check.text for check in checks.load_checks()}
    assert list(texts) == ORDER.split()
    assert len(texts) == 14
    assert all(text and text[0].islower() and not text.endswith(".") for text in texts.values())


def test_a_new_check_is_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: nn.Module, images: Tensor
) -> None:
    """A file in the folder of checks raises a flag in a row, before ``check-failed``, and has a text in the legend."""
    (tmp_path / "dark_images.py").write_text(NEW_CHECK)
    monkeypatch.setattr(checks, "__path__", [*checks.__path__, str(tmp_path)])
    monkeypatch.setattr(checks, "registry", type(checks.registry)(**vars_of(checks.registry)))
    texts = {check.name: check.text for check in checks.load_checks()}
    assert texts["dark-images"] == "the images are dark"
    assert list(texts)[-2:] == ["dark-images", "check-failed"]
    for level, flags in ((0.4, ("dark-images",)), (0.9, ())):
        data = (images * 0.2 + level).clamp(0, 1)
        labels = network(data).argmax(1)
        assert evaluate(network, data, labels, attack=PGD(steps=2), eps=0.05).flags == flags


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
