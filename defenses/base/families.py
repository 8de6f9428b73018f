"""The families of defenses."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from robustbench_cli.core.class_source import read_exported
from robustbench_cli.defenses import registry

__all__ = ["family_label"]


def family_label(names: Iterable[str]) -> str:
    """The families of a model's defenses, in order; ``none`` if it has none.

    Args:
        names: The defenses. The code of a user's own is not imported for this.

    >>> family_label(["hrs", "pgd-at"])
    'random-layers+adversarial-training'
    >>> family_label(["mine.py:Mine"])
    'own'
    """
    return "+".join(dict.fromkeys(map(_family, names))) or "none"


@cache
def _family(name: str) -> str:
    module = registry.module_of(name)
    source = None if module is None else read_exported(module)
    return "own" if source is None else str(source.constants["family"])
