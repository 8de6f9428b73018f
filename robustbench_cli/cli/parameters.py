"""The attacks and the parameters of the command line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from robustbench_cli.cli.param_types import Setting
from robustbench_cli.core.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from robustbench_cli.benchmarks.suites.config import AttackEntry
    from robustbench_cli.core.settings import Settings

__all__ = ["attack_entries", "distribute"]

_EOT = "eot-"


def distribute(settings: Sequence[Setting], settable: Mapping[str, type[Settings]]) -> dict[str, dict[str, Any]]:
    """Assigns each ``--set`` to the attack, defense or training that it is meant for.

    Args:
        settings: As the user wrote them.
        settable: Everything that has parameters in this command, by name.

    Returns:
        The parameters, by name; empty for what nothing is set of.

    Raises:
        UserError: A name is not used in the command, a value cannot be read, or a key without a name belongs to none of
            them, or to several.
    """
    from robustbench_cli.core.settings import read_value

    parameters: dict[str, dict[str, Any]] = {name: {} for name in settable}
    for setting in settings:
        name = _owner(setting, settable)
        try:
            parameters[name][setting.key] = read_value(setting.value)
        except UserError as error:
            raise UserError(f"--set {name}.{setting.key}: {error}") from None
    return parameters


def _owner(setting: Setting, settable: Mapping[str, type[Settings]]) -> str:
    """The name of what a ``--set`` changes."""
    from robustbench_cli.benchmarks.evaluation.options import GridOptions

    key = setting.key
    if setting.name is None:
        owners = [name for name, settings in settable.items() if settings.current_name(key) in settings.model_fields]
        if owners == ["train"] and key in GridOptions.model_fields:
            raise UserError(
                f"--set {key}: --{key} is that of the attacks, train.{key} that of the training: give one of them"
            )
        if len(owners) == 1:
            return owners[0]
        if owners:
            qualified = " or ".join(f"{name}.{key}" for name in owners)
            raise UserError(f"--set {key}: several have this parameter, name one: {qualified}")
        fields = sorted({field for settings in settable.values() for field in settings.model_fields})
        raise UserError(f"--set {key}: {did_you_mean(key, fields)}")
    if setting.name in settable:
        return setting.name
    # A user's own class is named path.py:Class; Class alone is enough here.
    classes = [name for name in settable if name.rpartition(":")[2] == setting.name]
    if classes:
        return classes[0]
    raise UserError(
        f"--set {setting.name}.{key}: '{setting.name}' is not used here; {did_you_mean(setting.name, settable)}"
    )


def attack_entries(names: Iterable[str]) -> list[AttackEntry]:
    """The attacks of ``--attack``.

    Args:
        names: As the user wrote them; ``eot-pgd`` is ``pgd`` with ``--eot 10``.
    """
    from robustbench_cli.attacks import registry
    from robustbench_cli.attacks.base.gradients.draws import EOT_DRAWS
    from robustbench_cli.benchmarks.suites.config import AttackEntry

    return [
        AttackEntry(name=name)
        if name in registry.names() or not name.startswith(_EOT)
        else AttackEntry(name=name.removeprefix(_EOT), eot=EOT_DRAWS)
        for name in names
    ]
