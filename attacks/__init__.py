"""Floor 1: the attacks, one file each, and in ``base`` what they are built from.

Everything here knows models only through what ``base.model`` asks of them, and knows no defense.
"""

from robustbench_cli.core.registry import Registry

__all__ = ["registry"]

registry = Registry(kind="attack", package=__name__, base=f"{__name__}.base.attack:Attack")
