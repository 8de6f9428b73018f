"""Broken suite files."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robustbench_cli.cli.main import main

GOOD: dict[str, Any] = {
    "dataset": "digits",
    "model": {"name": "small-cnn", "mean": 0.5, "std": [0.25]},
    "n": [5, 6],
    "defenses": ["none", {"name": "gaussian-noise", "sigma_init": 0.1}, ["none", "gaussian-noise"]],
    "decision": "one-draw",
    "attacks": ["pgd", {"name": "fgsm", "eot": [1, 2]}, {"suite": "quick"}],
    "norm": "linf",
    "eps": ["1/10", 0.2],
    "targeted": "no",
    "seeds": [0, 1],
    "repeats": 2,
    "train": {"epochs": 1, "seed": 1},
    "exclude": {"attack": "pgd", "eps": 0.2},
}

KEYS = [
    *GOOD,
    *[
        "name",
        "suite",
        "eot",
        "extends",
        "include",
        "cascade",
        "accounting",
        "checkpoint",
        "hrs",
        "../a.yaml",
        "a.py:B",
        "vote",
        "l2",
        "8/255",
    ],
]

junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(KEYS),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def spoiled(draw: st.DrawFn) -> str:
    """A valid suite in which one value is replaced or one key is misspelled, as text."""
    suite = json.loads(json.dumps(GOOD))
    container: Any = suite
    while True:
        key = draw(st.sampled_from(sorted(container) if isinstance(container, dict) else range(len(container))))
        if not isinstance(container[key], dict | list) or not container[key] or draw(st.booleans()):
            break
        container = container[key]
    if isinstance(container, dict) and draw(st.booleans()):
        container[draw(st.text(max_size=5) | st.just(f"{key}s"))] = container.pop(key)
    else:
        container[key] = draw(junk)
    return json.dumps(suite)


def ended(path: Path, content: bytes) -> tuple[int, str, str]:
    """Runs ``advdef sweep --status`` on a file with this content: its exit code, stdout and stderr."""
    path.write_bytes(content)
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(["sweep", str(path), "--status", "--store", str(path.parent / "store")])
    return code, out.getvalue(), err.getvalue()


often = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@often
@given(content=spoiled() | st.dictionaries(st.sampled_from(KEYS), junk, min_size=1, max_size=3).map(json.dumps))
def test_a_broken_suite_is_an_error_of_one_line(tmp_path: Path, content: str) -> None:
    """It exits with code 2 and one line, unless the changed suite is valid."""
    code, out, err = ended(tmp_path / "suite.yaml", content.encode())
    if code == 0:
        assert " cells: " in out
        return
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1, err
    assert err.startswith("advdef: error: ")
    assert len(err) < 1500


@often
@given(content=st.binary(max_size=60) | st.text(alphabet="{}[]:,&*!-?|>'\"\n ab1\t#%@`", max_size=30).map(str.encode))
def test_any_other_file_is_an_error_of_one_line(tmp_path: Path, content: bytes) -> None:
    """It exits with code 2, and the line names the file."""
    code, out, err = ended(tmp_path / "suite.yaml", content)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1, err
    assert "suite.yaml" in err
