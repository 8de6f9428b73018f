"""The pytest plugin, in a pytest of its own."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[1]

TESTS = """
import pytest, advdef
from robustbench_cli.core.errors import UserError

@pytest.fixture(scope="module")
def model():
    digits = advdef.load_dataset("digits")
    return advdef.build_model("small-cnn", shape=digits.shape, classes=digits.classes)

def test_passes(model, advdef_gate):
    result = advdef_gate(model, attack=advdef.FGSM(), eps="0.01", n=10, robust_accuracy=0.0, attack_success_rate=1)
    assert len(result.perturbed) == 10

def test_fails(model, advdef_gate):
    advdef_gate(model, dataset="digits", attack="fgsm", n=10, robust_accuracy=0.99, repeats=1)

def test_own_data(model, advdef_gate):
    test = advdef.first_examples(advdef.load_dataset("digits").split("test"), 10)
    advdef_gate(model, dataset=(test.images, test.labels), attack="fgsm", eps=0.1, robust_accuracy_low=0.9)

def test_nothing_to_judge(model, advdef_gate):
    with pytest.raises(UserError, match="give a limit, such as robust_accuracy=0.4"):
        advdef_gate(model)
    with pytest.raises(UserError, match="robust_acuracy"):
        advdef_gate(model, n=10, clean_accuracy=0.1, robust_acuracy=0.4)

def test_a_file_that_is_missing(advdef_gate):
    advdef_gate("missing.safetensors", robust_accuracy=0.4)
"""


def test_a_gate_fails_its_test_with_the_row_and_the_reason(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Limits of both directions, one's own data, and mistakes, which are errors of their test."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makepyfile(TESTS)
    done = pytester.runpytest_subprocess("-p", "robustbench_cli.pytest_plugin", "-rf")
    done.assert_outcomes(passed=2, failed=3)
    text = done.stdout.str()
    assert re.search(
        r"\nadvdef: digits \S+ as given FGSM linf eps 0\.\d+: robust_accuracy 0(\.\d)? is below 0\.99\n", text
    )
    assert re.search(r"\nadvdef: clean_accuracy \S+ \[\S+, \S+\], robust_accuracy \S+ \[\S+, \S+\]", text)
    assert "advdef: own-data" in text
    assert "missing.safetensors" in text


def test_pytest_starts_without_torch(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugin is imported in every run of everybody who has advdef installed."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makepyfile(
        "import sys\ndef test():\n    assert not {'torch', 'numpy', 'pandas', 'pydantic'} & {*sys.modules}"
    )
    pytester.runpytest_subprocess("-p", "robustbench_cli.pytest_plugin").assert_outcomes(passed=1)


def test_the_plugin_is_an_entry_point() -> None:
    """Of the group that pytest looks in."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {"advdef": "robustbench_cli.pytest_plugin"}
