"""Attacks on a model in memory give what the command line gives for its checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import robustbench_cli as advdef
from robustbench_cli.benchmarks.checkpoints.checkpoint import load_checkpoint
from robustbench_cli.benchmarks.evaluation.evaluate import evaluate as evaluate_one
from robustbench_cli.benchmarks.interface.evaluate import evaluate_attacks
from robustbench_cli.core.errors import UserError
from robustbench_cli.core.escaping import unescaped_from_csv

SUITE = """
cascade: true
attacks:
  - {name: cw-pgd, steps: 3}
  - {name: pgd, steps: 3}
  - {name: fmn, steps: 10}
  - {name: square, queries: 30}
  - {name: hopskipjump, queries: 100, only_if: blinded}
"""

N = 16


def images() -> Any:
    return advdef.first_examples(advdef.load_dataset("digits").split("test"), N)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A network and a randomized one, which have learned a little."""
    from robustbench_cli.cli.main import main

    paths = {name: tmp_path_factory.mktemp("models") / f"{name}.safetensors" for name in ("none", "gaussian-noise")}
    for name, path in paths.items():
        assert main(["train", "--defense", name, "--epochs", "3", "-q", "-o", str(path)]) == 0
    return paths


def silent(*_: object) -> None:
    """Shows no progress."""


@pytest.mark.parametrize(
    ("defense", "words", "attack", "keywords"),
    [
        ("none", ("--suite", "suite.yaml", "--eps", "1/10"), "suite.yaml", {"eps": "1/10"}),
        (
            "gaussian-noise",
            ("--attack", "fgsm", "--attack", "square", "--set", "square.queries=20", "--eps", "0.1", "--repeats", "4"),
            ["fgsm", advdef.Square(queries=20)],
            {"eps": "0.1", "repeats": 4},
        ),
        (
            "none",
            ("--attack", "fgsm", "--norm", "l2", "--eps", "0.5", "--targeted", "next", "--seed", "3"),
            "fgsm",
            {"eps": 0.5, "norm": "l2", "targeted": "next", "seed": 3},
        ),
    ],
)
def test_the_rows_are_those_of_the_command_line(
    advdef: Callable[..., Any],
    checkpoints: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    defense: str,
    words: tuple[str, ...],
    attack: Any,
    keywords: dict[str, Any],
) -> None:
    """Every figure, every flag and every count of passes, attack by attack and in the worst case."""
    monkeypatch.chdir(tmp_path)
    Path("suite.yaml").write_text(SUITE)
    path = checkpoints[defense]
    command = ("attack", "--checkpoint", str(path), "--n", str(N), *words, "-q", "-o", "rows.csv")
    assert advdef(*command).code == 0
    expected = pd.read_csv("rows.csv", keep_default_na=False, dtype=str)
    test = images()
    result = evaluate_attacks(load_checkpoint(path)[0], test.images, test.labels, attack, report=silent, **keywords)
    made = result.table.astype(str)
    assert len(made) == len(expected)
    for name in ("attack", "norm", "eps", "targeted", "eot", "n", "repeats", "seed", "flags"):
        assert list(made[name]) == list(map(unescaped_from_csv, expected[name])), name
    measured = [
        name for name in expected if "accuracy" in name or name in {"attack_success_rate", "forwards", "backwards"}
    ]
    for name in [name for name in measured if name in result.table]:
        assert [float(value or "nan") for value in expected[name]] == pytest.approx(list(result.table[name])), name
    assert {"robust_accuracy", "robust_accuracy_low", "forwards"} <= set(measured) & set(result.table)
    worst = result.table.iloc[-1]
    assert result.summary["robust_accuracy"] == worst["robust_accuracy"]
    assert (result.forwards, result.backwards) == (worst["forwards"], worst["backwards"])


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A linear network whose answers are easily changed."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()


@pytest.fixture(scope="module")
def batch(network: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Images that the network classifies as their labels."""
    pixels = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return pixels, network(pixels).argmax(1)


def test_an_attack_alone_is_what_the_evaluation_of_one_attack_gives(
    network: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]
) -> None:
    """The outcomes, the images and the passes are the same; so they are by the attack's name."""
    alone = evaluate_one(network, *batch, attack=advdef.FGSM(), eps=0.3)
    for attack in (advdef.FGSM(), "fgsm", ["fgsm"]):
        result = evaluate_attacks(network, *batch, attack, report=silent, eps=0.3)
        assert torch.equal(result.perturbed, alone.perturbed)
        assert result.summary == alone.summary
        assert (result.forwards, result.backwards, result.precision) == (
            alone.forwards,
            alone.backwards,
            alone.precision,
        )


def test_the_worst_case_is_chosen_image_by_image(network: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Its images are those of the strongest attack, they are inside the ball, and the network gets them as wrong as it says."""
    result = evaluate_attacks(
        network, *batch, ["fgsm", advdef.Square(queries=40), advdef.FMN(steps=20)], report=silent, eps="5/255"
    )
    frame = result.to_frame()
    assert set(result.attacks) == {"fgsm", "square(queries=40)", "fmn(steps=20)"}
    for number, name in enumerate(frame["attack"]):
        assert torch.equal(result.perturbed[number], result.attacks[name].perturbed[number])
    assert float((result.perturbed - batch[0]).abs().max()) <= 5 / 255 + 1e-7
    right = (network(result.perturbed).argmax(1) == batch[1]).numpy()
    assert np.array_equal(frame["robust_correct"].to_numpy() == 1, right)
    assert result.summary["robust_accuracy"] == right.mean()
    assert right.mean() <= result.table["robust_accuracy"].min()


class Rounded(nn.Module):
    """A model without a slope."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(images)
        return (10 * logits).round() + 0 * logits


def test_an_attack_with_a_condition_runs_where_gradients_are_masked(
    network: nn.Module, batch: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    """And has no row elsewhere."""
    path = tmp_path / "suite.yaml"
    path.write_text("cascade: true\nattacks: [fgsm, {name: hopskipjump, queries: 100, only_if: blinded}]\n")
    masked = evaluate_attacks(Rounded(network), *batch, str(path), report=silent, eps=0.02)
    assert [name.partition("(")[0] for name in masked.table["attack"]] == ["fgsm", "+hopskipjump", "worst-case"]
    plain = evaluate_attacks(network, *batch, str(path), report=silent, eps=0.02)
    assert list(plain.table["attack"]) == ["fgsm"] == list(plain.attacks)


def test_a_model_is_left_as_it_was(network: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Its weights, its mode and the caller's random numbers."""
    model = nn.Sequential(network, nn.Dropout()).train()
    state, generator = {key: value.clone() for key, value in model.state_dict().items()}, torch.get_rng_state()
    evaluate_attacks(model, *batch, ["fgsm", "pgd"], report=silent, eps=0.01)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)


def test_progress_names_each_attack(network: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    """It begins at none of the images and ends at all."""
    seen: list[tuple[str, int, int]] = []
    evaluate_attacks(network, *batch, ["fgsm", "none"], report=lambda *state: seen.append(state), eps=0.01)
    assert seen == [("fgsm", 0, 12), ("fgsm", 12, 12), ("none", 0, 12), ("none", 12, 12)]


def test_inputs_of_other_types(network: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Arrays, bytes and labels of any integer type are the same images and labels."""
    levels = (batch[0] * 255).round().to(torch.uint8)
    labels = network(levels / 255).argmax(1)
    expected = evaluate_attacks(network, levels / 255, labels, "fgsm", report=silent, eps=0.01)
    for pixels, classes in (
        (levels, labels.to(torch.uint8)),
        (levels.numpy(), labels.numpy().astype("int16")),
        ((levels / 255).numpy(), labels.tolist()),
    ):
        other = evaluate_attacks(network, pixels, classes, "fgsm", report=silent, eps=0.01)
        assert torch.equal(other.perturbed, expected.perturbed)


def test_stopping_early_says_which_images_were_attacked(network: nn.Module) -> None:
    """The rows of the frame have the labels of the images that they name."""
    pixels = torch.rand(120, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    labels = network(pixels).argmax(1)
    result = evaluate_attacks(network, pixels, labels, "fgsm", report=silent, eps=0.5, stop_when_decided=0.9)
    frame = result.to_frame()
    assert len(frame) == result.row["n"] < 120
    assert np.array_equal(frame["label"], labels.numpy()[frame.index])


@pytest.mark.parametrize(
    ("attack", "keywords", "message"),
    [
        ("pdg", {"eps": 0.1}, "unknown attack 'pdg': did you mean 'pgd'"),
        ("standart", {"eps": 0.1}, "did you mean 'standard'"),
        ("pgd", {}, "pgd needs a radius: give eps, as in eps='8/255'"),
        (["cw"], {"eps": 0.1, "norm": "linf"}, "cw does not support the norm linf"),
        (["pgd", "cw"], {"eps": 0.1}, "cw does not support the norm linf"),
        (advdef.CW(), {"eps": 0.1, "norm": "linf"}, "CW does not know the norm linf: it knows l2"),
        (3, {"eps": 0.1}, "attack is 3: give an attack such as"),
        ([], {"eps": 0.1}, "attack is \\[\\]: give an attack such as"),
        (["fgsm", 3], {"eps": 0.1}, "attack is 3: give an attack such as"),
        (None, {"eps": 0.1, "norm": "l0"}, "pgd does not support the norm l0"),
        ("fgsm", {"esp": 0.1}, "evaluate has no parameter 'esp': did you mean 'eps'"),
        ("fgsm", {"eps": 0.1, "norm": "l3"}, "evaluate does not know the norm l3"),
        ("hrs-fashion", {"eps": 0.1}, "'dataset' is not for --suite"),
        (["fgsm", "pgd"], {"eps": 0.1, "stop_when_decided": 0.4}, "judges one attack alone"),
    ],
)
def test_mistakes_have_a_line(
    network: nn.Module, batch: tuple[torch.Tensor, torch.Tensor], attack: Any, keywords: dict[str, Any], message: str
) -> None:
    """What is wrong, and what would be right."""
    with pytest.raises(UserError, match=message):
        evaluate_attacks(network, *batch, attack, report=silent, **keywords)
