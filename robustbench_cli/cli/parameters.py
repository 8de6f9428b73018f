"""From the words of the command line to attacks, defenses and their parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from robustbench_cli.cli.param_types import Setting
from robustbench_cli.core.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
    from robustbench_cli.benchmarks.suites.config import AttackEntry
    from robustbench_cli.core.settings import Settings

__all__ = ["defense_specs", "distribute", "members_named"]

_EOT = "eot-"


def distribute(settings: Sequence[Setting], kinds: Mapping[str, type[Settings]]) -> dict[str, dict[str, Any]]:
    """Gives each ``--set`` to the method that it is meant for.

    Args:
        settings: As the user wrote them.
        kinds: Every method that the command names, by name.

    Returns:
        Parameters by the methods' names.

    Raises:
        UserError: A name was not given to the command, or a key without a name fits none of the methods, or several.
    """
    from robustbench_cli.core.settings import read_value

    parameters: dict[str, dict[str, Any]] = {name: {} for name in kinds}
    for setting in settings:
        name = setting.name
        if name is None:
            fitting = [each for each, kind in kinds.items() if kind.current_name(setting.key) in kind.model_fields]
            if len(fitting) != 1:
                known = sorted({key for kind in kinds.values() for key in kind.model_fields})
                raise UserError(
                    f"--set {setting.key}: " + did_you_mean(setting.key, known)
                    if not fitting
                    else f"--set {setting.key}: several have it, name one: "
                    + " or ".join(f"{each}.{setting.key}" for each in fitting)
                )
            name = fitting[0]
        elif name not in kinds:
            # A user's own goes by path.py:Class, of which the class is enough.
            name = next((each for each in kinds if each.rpartition(":")[2] == name), name)
        if name not in kinds:
            raise UserError(f"--set {name}.{setting.key}: no '{name}' is used here; {did_you_mean(name, kinds)}")
        try:
            parameters[name][setting.key] = read_value(setting.value)
        except UserError as error:
            raise UserError(f"--set {name}.{setting.key}: {error}") from None
    return parameters


def members_named(names: Iterable[str]) -> list[AttackEntry]:
    """The attacks of ``--attack``: ``eot-pgd`` is ``pgd`` with ``--eot 10``."""
    from robustbench_cli.attacks import registry
    from robustbench_cli.attacks.base.gradients.draws import EOT_DRAWS
    from robustbench_cli.benchmarks.suites.config import AttackEntry

    return [
        AttackEntry(name=name)
        if name in registry.names() or not name.startswith(_EOT)
        else AttackEntry(name=name.removeprefix(_EOT), eot=EOT_DRAWS)
        for name in names
    ]


def defense_specs(names: Iterable[str], parameters: Mapping[str, Mapping[str, Any]]) -> tuple[MethodSpec, ...]:
    """The defenses of a command, in order."""
    from robustbench_cli.benchmarks.checkpoints.defended_model import method_spec
    from robustbench_cli.defenses import registry

    return tuple(method_spec(registry, name, dict(parameters.get(name, {}))).spec for name in names)
