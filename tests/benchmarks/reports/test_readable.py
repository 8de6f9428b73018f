from __future__ import annotations

import math

import pandas as pd
import pytest

from robustbench_cli.benchmarks.reports.readable import ambiguous_files, records


@pytest.mark.parametrize(
    ("checkpoints", "names"),
    [
        ([("hrs", "a/hrs.safetensors"), ("none", "a/none.safetensors")], {}),
        ([("hrs", "a/1.safetensors"), ("hrs", "a/2.safetensors")], {"a/1.safetensors": "1.safetensors"}),
        ([("hrs", "a/x.safetensors"), ("hrs", "b/x.safetensors")], {"a/x.safetensors": "a/x.safetensors"}),
    ],
)
def test_checkpoints_are_named_where_models_have_the_same_name(
    checkpoints: list[tuple[str, str]], names: dict[str, str]
) -> None:
    """By the file, or by the whole path where two files have the same name."""
    found = ambiguous_files(checkpoints)
    assert names.items() <= found.items()
    assert bool(found) == bool(names)


def test_missing_values_are_none() -> None:
    """NaN is no value of JSON, and no number to print."""
    assert records(pd.DataFrame([{"a": math.nan, "b": 1, "c": "x"}])) == [{"a": None, "b": 1, "c": "x"}]
