"""Floor 1: the attacks, one file each, with their shared parts in ``base``.

The attacks query models through a gradient source and know nothing of any defense.
"""

from robustbench_cli.core.registry import Registry

__all__ = ["registry"]

registry = Registry(
    kind="attack",
    package=__name__,
    base=f"{__name__}.base.attack:Attack",
    argument=r"[A-Za-z]\w*",
    families=frozenset({"art", "foolbox", "torchattacks"}),
)
"""The attacks, and the libraries of attacks: ``torchattacks:PGD``."""
