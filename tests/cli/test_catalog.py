from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge

from robustbench_cli.cli import catalog
from robustbench_cli.cli.catalog import (
    KINDS,
    _load,
    _plain,
    _registry_of,
    _sentences,
    _type,
    card,
    names,
    summaries,
)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "suite"])
def test_a_summary_read_from_the_source_is_that_of_the_class(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For everything that is registered, and for the norms, the access and the type of attacks too."""
    # The cost is no part of a summary, and measuring it runs every attack; test_show.py does that.
    monkeypatch.setattr(catalog, "_cost", lambda attack: None)
    for entry in summaries(kind):
        loaded = card(kind, entry["name"])
        assert {key: loaded.get(key) for key in entry} == entry


@pytest.mark.parametrize("kind", KINDS)
def test_names_are_sorted_and_can_be_loaded(kind: str) -> None:
    """Nothing is named twice, and a thing of that name exists."""
    found = names(kind)
    assert found == sorted({*found})
    if kind != "suite":
        assert all(_load(kind, name) is not None for name in found)
        assert {*_registry_of(kind).names()} <= {*found}


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (int, "int"),
        (float | None, "float | null"),
        (Literal["adam", "sgd"], "adam | sgd"),
        (tuple[Annotated[int, Ge(1)], ...], "tuple[int >= 1, ...]"),
        (dict[str, Any], "dict[str, Any]"),
    ],
)
def test_types_are_in_a_users_notation(annotation: Any, text: str) -> None:
    """As one writes the values down, not as Python writes the type."""
    assert _type(annotation) == text


def test_a_sentence_ends_before_a_capital() -> None:
    """And not after "et al."."""
    assert _sentences("As Wang et al. (2019) do. Then more. And more.") == (
        "As Wang et al. (2019) do.",
        "Then more. And more.",
    )


def test_markup_is_left_out() -> None:
    """References and code become plain text."""
    assert _plain("Uses :class:`~a.b.C` and ``x``.") == "Uses a.b.C and x."
