"""Trainings keep a GPU busy: launches do not grow with the channels of HRS, and images are gathered on the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.mark.parametrize("name", ["hrs", "hrs+pgd-at"])
def test_channels_train_in_one_call(name: str, passed: Callable[[str, str], dict[str, Any]]) -> None:
    """A step of six channels a block makes the launches of one of two, less than 2.1 times those of one network."""
    figures = passed("channels", name)
    assert figures["few"] == figures["many"]
    launches, waits = figures["many"]
    assert waits == 0
    assert launches < 2.1 * figures["without"][0]


@pytest.mark.parametrize("kind", ["uint8", "float32", "streamed"])
def test_batches_on_the_device(kind: str, passed: Callable[[str, str], dict[str, Any]]) -> None:
    """They are those of the CPU to the last bit, of all 256 bytes; six batches come in two calls."""
    figures = passed("loading", kind)
    assert figures["same"]
    assert figures["calls"] == 2
    # One copy of the indices; in each call two gathers, a division and a change of the memory layout.
    assert figures["launches"] <= 1 + 2 * 4
    assert figures["synchronizations"] == 0
