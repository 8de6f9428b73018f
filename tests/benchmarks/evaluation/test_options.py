from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from robustbench_cli.benchmarks.evaluation.options import EvaluationOptions


def test_every_option_has_a_help_text() -> None:
    """One line each, from which the command line takes its own."""
    for name, field in EvaluationOptions.model_fields.items():
        assert field.description, name
        assert "\n" not in field.description
        assert not field.description.endswith(".")


def test_a_radius_may_be_a_fraction() -> None:
    """It is the double that is nearest to it."""
    values: dict[str, Any] = {"eps": "8/255"}
    assert EvaluationOptions(**values).eps == 8 / 255


@pytest.mark.parametrize(
    "values",
    [{"eps": "8/0"}, {"norm": "l3"}, {"targeted": "yes"}, {"eot": "all"}, {"repeats": 0}, {"seed": -1}, {"steps": 3}],
    ids=str,
)
def test_what_is_not_allowed_is_refused(values: dict[str, Any]) -> None:
    """Unknown names too."""
    with pytest.raises(ValidationError):
        EvaluationOptions(**values)


def test_options_import_no_torch() -> None:
    """The command line and suite files read them."""
    code = "import sys, robustbench_cli.benchmarks.evaluation.options; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
