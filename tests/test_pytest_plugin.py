"""The pytest plugin: what its function says of models, and the fixture in a pytest of its own."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import robustbench_cli as advdef
from robustbench_cli.core.errors import UserError
from robustbench_cli.pytest_plugin import gate

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[1]

TESTS = """
import sys

def test_pytest_starts_without_torch(advdef_gate):
    assert not {'torch', 'numpy', 'pandas', 'pydantic'} & {*sys.modules}

def test_fails(advdef_gate):
    import torch
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    advdef_gate(model, dataset="digits", attack="fgsm", n=10, robust_accuracy=0.99)

def test_misspelled(advdef_gate):
    advdef_gate("net.pt", model="net.py:build", attack="fgsm", n=10, robust_acuracy=0.4, clean_accuracy=0.1)
"""


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """The nearest class mean, as a linear network."""
    train = advdef.first_examples(advdef.load_dataset("digits").split("train"), 500)
    images = train.images.flatten(1)
    means = torch.stack([images[train.labels == label].mean(0) for label in range(10)])
    linear = nn.Linear(64, 10)
    linear.weight.data, linear.bias.data = 2 * means, -means.square().sum(1)
    return nn.Sequential(nn.Flatten(), linear)


def test_a_row_within_its_limits_passes(model: nn.Module) -> None:
    """Limits of both directions; the evaluation comes back."""
    result = gate(model, attack=advdef.FGSM(), eps="0.01", n=10, robust_accuracy=0.0, attack_success_rate=1)
    assert len(result.perturbed) == 10


def test_a_broken_limit_fails_with_the_row_and_the_reason(model: nn.Module) -> None:
    """At the usual radius of the data set; the second line has the measured values."""
    with pytest.raises(pytest.fail.Exception) as failed:
        gate(model, dataset="digits", attack="fgsm", n=10, robust_accuracy=0.99, repeats=1)
    row, values = str(failed.value).splitlines()
    assert re.fullmatch(
        r"advdef: digits Sequential as given fgsm linf eps 0\.\d+ n 10: robust_accuracy 0(\.\d)? is below 0\.99", row
    )
    assert re.match(r"advdef: clean_accuracy \S+ \[\S+, \S+\], robust_accuracy \S+ \[\S+, \S+\]", values)


def test_a_user_judges_own_data(model: nn.Module) -> None:
    """Images and labels in the place of a name."""
    test = advdef.first_examples(advdef.load_dataset("digits").split("test"), 10)
    with pytest.raises(pytest.fail.Exception, match=r"own-data.*eps 0\.1 n 10: robust_accuracy_low \S+ is below 0\.9"):
        gate(model, dataset=(test.images, test.labels), attack="fgsm", eps=0.1, robust_accuracy_low=0.9)


def test_a_file_of_weights_takes_its_network(model: nn.Module, tmp_path: Path) -> None:
    """As load_model does; a model in memory has its network and its normalization."""
    torch.save(model.state_dict(), tmp_path / "net.pt")
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    network = f"{tmp_path}/net.py:build"
    result = gate(
        tmp_path / "net.pt",
        model=network,
        mean=0.0,
        std=1.0,
        attack="fgsm",
        n=10,
        clean_accuracy=0.5,
    )
    assert len(result.perturbed) == 10
    with pytest.raises(UserError, match="gives 10 logits an image, the data have 7 classes"):
        gate(tmp_path / "net.pt", model=network, classes=7, n=10, clean_accuracy=0.5)
    test = advdef.first_examples(advdef.load_dataset("digits").split("test"), 10)
    own: dict[str, Any] = {"dataset": (test.images, test.labels), "attack": "fgsm", "eps": 0.1, "clean_accuracy": 0.5}
    own |= {"mean": 0.0, "std": 1.0}
    assert len(gate(tmp_path / "net.pt", model=network, classes=10, **own).perturbed) == 10
    with pytest.raises(UserError, match="does not say what it holds: give its classes"):
        gate(tmp_path / "net.pt", model=network, **own)
    with pytest.raises(UserError, match="mean is for a file or a name"):
        gate(model, mean=0.5, robust_accuracy=0)


def test_a_defense_is_put_around_the_model(model: nn.Module, tmp_path: Path) -> None:
    """By name, from the user's own file or with parameters; it changes the model and is named in the failure."""
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "from robustbench_cli.defenses.base.defense import Defense\n"
        "class Negative(nn.Module):\n    def forward(self, logits):\n        return -logits\n"
        "class Wrong(Defense):\n"
        "    def protect(self, model, example):\n        return nn.Sequential(model, Negative())\n"
    )
    wrong = f"{tmp_path}/mine.py:Wrong"
    with pytest.raises(
        pytest.fail.Exception, match=rf"digits Sequential {wrong} fgsm .*clean_accuracy 0 is below 0\.5"
    ):
        gate(model, defense=wrong, attack="fgsm", n=10, clean_accuracy=0.5)
    jpeg = advdef.defense("jpeg", quality=40)
    with pytest.raises(pytest.fail.Exception, match=r"Sequential jpeg\(quality=40\) fgsm"):
        gate(model, defense=jpeg, attack="fgsm", n=10, eps=0.9, robust_accuracy=0.99)


def test_a_defense_that_trains_needs_training_images(model: nn.Module) -> None:
    """The images to attack are none."""
    test = advdef.first_examples(advdef.load_dataset("digits").split("test"), 10)
    with pytest.raises(UserError, match="pgd-at trains, and the images are those to attack"):
        gate(model, defense="pgd-at", dataset=(test.images, test.labels), attack="fgsm", eps=0.1, clean_accuracy=0.5)


def test_mistakes_are_errors_of_their_test(model: nn.Module) -> None:
    """No limit, a slip in the name of a column, a column of stores, and a file that is missing."""
    with pytest.raises(UserError, match=r"give a limit, such as robust_accuracy=0\.4"):
        gate(model)
    with pytest.raises(UserError, match="no parameter 'robust_acuracy': did you mean 'robust_accuracy'"):
        gate(model, robust_acuracy=0.4)
    for name in ("robust_acuracy", "des", "mce", "certified_accuracy"):
        with pytest.raises(UserError, match=name):
            gate(model, n=10, clean_accuracy=0.1, **{name: 0.4})
    with pytest.raises(UserError, match=r"missing\.safetensors"):
        gate("missing.safetensors", robust_accuracy=0.4)


def test_pytest_shows_a_broken_gate_without_a_traceback(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plugin is imported in every run of everybody who has advdef installed, so it must not import torch."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makepyfile(TESTS)
    done = pytester.runpytest_subprocess("-p", "robustbench_cli.pytest_plugin", "-rf")
    done.assert_outcomes(passed=1, failed=2)
    text = done.stdout.str()
    assert re.search(
        r"_ test_misspelled _+\nadvdef: advdef_gate has no parameter 'robust_acuracy': did you mean 'robust_accuracy'\?\n=",
        text,
    )
    assert re.search(r"_ test_fails _+\nadvdef: digits .* is below 0\.99\nadvdef: clean_accuracy .*\n_", text)


def test_the_plugin_is_an_entry_point() -> None:
    """Of the group that pytest looks in."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {"advdef": "robustbench_cli.pytest_plugin"}
