from __future__ import annotations

import pytest
import torch
from scipy.stats import percentileofscore

from robustbench_cli.benchmarks.comparison import architectures
from robustbench_cli.benchmarks.comparison.architectures import (
    Contender,
    accuracies,
    compare_architectures,
    parameters_of,
    percentile,
    random_architectures,
)
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.architectures.architecture import Architecture

TEXT = "4x2,sep3-skip-none-max-sep5,skip-avg-none-max-skip,sep3-sep5-sep3-none-avg"


@pytest.mark.parametrize("value", [0.0, 0.3, 0.55, 0.9, 1.0])
def test_the_percentile_is_that_of_scipy(value: float) -> None:
    """Equal values count half, as accuracies on few images often are equal."""
    others = torch.randint(10, (40,), generator=torch.Generator().manual_seed(0)).div(10).tolist()
    assert percentile(value, others) == pytest.approx(percentileofscore(others, value, kind="mean"))


def test_random_architectures_cost_as_much() -> None:
    reference = Architecture.parse(TEXT)
    drawn = random_architectures(reference, 2, channels=1, classes=10)
    cost = parameters_of(reference, 1, 10)
    assert len({*map(str, drawn)} | {TEXT}) == 3
    assert all(abs(parameters_of(architecture, 1, 10) / cost - 1) <= 0.1 for architecture in drawn)
    assert drawn == random_architectures(reference, 2, channels=1, classes=10)


def test_too_few_of_equal_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures, "_MAX_DRAWS", 5)
    monkeypatch.setattr(architectures, "TOLERANCE", 0)
    with pytest.raises(UserError, match=r"only 0 of 2 random architectures have .* compare with fewer"):
        random_architectures(Architecture.parse(TEXT), 2, channels=1, classes=10)


def test_the_report(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """All are trained and attacked alike, and the percentile is of the one given."""
    drawn = [TEXT.replace("avg", name) for name in ("max", "skip", "sep3", "sep5")]
    monkeypatch.setattr(architectures, "random_architectures", lambda *_, **__: map(Architecture.parse, drawn))
    monkeypatch.setattr(
        architectures,
        "in_processes",
        lambda function, arguments, jobs: [
            (one, (0.9, 0.5 if one.architecture == TEXT else 0.6 if number % 4 else 0.4))
            for number, one in enumerate(arguments)
            if (one.epochs, one.images, one.seed) == (3, 50, 0)
        ],
    )
    compare_architectures(TEXT, count=4, epochs=3, images=50, jobs=1)
    *_, clean, robust = capsys.readouterr().out.splitlines()
    assert clean == "clean: 90.0, at the percentile 50 of 4 random architectures"
    assert robust == "standard: 50.0, at the percentile 25 of 4 random architectures"


def test_an_architecture_is_trained_and_attacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures, "ATTACK", "fgsm")
    monkeypatch.setattr(architectures, "_STEPS", 1)
    clean, robust = accuracies(Contender(TEXT, epochs=1, images=4))
    assert 0 <= robust <= clean <= 1
