"""``advdef attack``: accuracy under attack of one or more defended models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from robustbench_cli.attacks.base.norm import NORMS
from robustbench_cli.benchmarks.reports import formats
from robustbench_cli.cli import console
from robustbench_cli.cli.completion import complete_names
from robustbench_cli.cli.gate_args import GateArgs, gate_options
from robustbench_cli.cli.grid_args import grid_options
from robustbench_cli.cli.model_args import ModelArgs, model_options
from robustbench_cli.cli.options import (
    Common,
    ProcessArgs,
    command,
    computing,
    eot_option,
    first_images,
    is_given,
    option,
    output_files,
    output_format,
    process_options,
)
from robustbench_cli.cli.param_types import EPS, SETTING, NameOf, OneOf, Setting
from robustbench_cli.cli.reporting import Reporting
from robustbench_cli.core.errors import UserError

if TYPE_CHECKING:
    from robustbench_cli.attacks.base.eps import Eps
    from robustbench_cli.attacks.base.gradients.draws import Draws
    from robustbench_cli.attacks.base.norm import Norm
    from robustbench_cli.benchmarks.suites.config import AttackGroup

__all__ = ["attack"]


@command("attack")
@model_options(checkpoints=True)
@option(
    "--attack",
    "attacks",
    multiple=True,
    metavar="NAME",
    group="Attack",
    type=NameOf("attack", prefix="eot-"),
    help="Attack: a name of 'advdef list attacks'; 'eot-NAME' is NAME with --eot 10.  [default: pgd, cw-pgd and cw]",
)
@option(
    "--suite",
    "suite_name",
    metavar="NAME",
    group="Attack",
    type=NameOf("suite"),
    help="Attacks of a suite: a name of 'advdef list suites', or a .yaml file.",
)
@option(
    "--set",
    "settings",
    type=SETTING,
    multiple=True,
    group="Attack",
    help="Parameter of an attack, a defense or the training, such as pgd.steps=100.",
)
@option(
    "--corruption",
    "corruption_names",
    multiple=True,
    metavar="NAME",
    group="Data",
    shell_complete=complete_names("corruption"),
    help="Corrupt the images before the attack: a name of 'advdef list corruptions', 'all' for the 15 of the benchmark, or "
    "'none'.",
)
@option(
    "--severity",
    "severities",
    type=click.IntRange(1, 5),
    multiple=True,
    group="Data",
    help="Severity of the corruption, 1 to 5.  [default: each]",
)
@option("--norm", type=OneOf(NORMS), group="Attack", help="Norm of the perturbation.  [default: linf]")
@option(
    "--eps",
    type=EPS,
    multiple=True,
    group="Attack",
    help="Radius of the perturbation, such as 0.1 or 8/255.  [default in linf: the data set's usual radius]",
)
@eot_option
@grid_options
@first_images("Number of test images, from the first on.")
@output_format("table", *formats.format_names())
@output_files()
@option(
    "--save-images",
    type=click.Path(file_okay=False, path_type=Path),
    group="Output",
    help="Save the adversarial images to this folder (8 bits, .npz and .png), and score them again as saved.",
)
@gate_options
@process_options(split=True)
@computing
def attack(
    common: Common,
    processes: ProcessArgs,
    gates: GateArgs,
    args: ModelArgs,
    attacks: tuple[str, ...],
    suite_name: str | None,
    settings: tuple[Setting, ...],
    corruption_names: tuple[str, ...],
    severities: tuple[int, ...],
    norm: Norm | None,
    eps: tuple[Eps, ...],
    eot: Draws | None,
    n: int,
    output_format: str,
    outputs: tuple[Path, ...],
    save_images: Path | None,
    **grid: Any,
) -> None:
    """Attack a defended model and print its accuracy.

    Without a checkpoint the model is trained first, once, and kept in the cache folder. Without --attack: pgd, cw-pgd
    and cw, each adapted to the defense. Cells in the store are not computed again. Gates judge every row of the
    table, but accuracies under attack only where there is a radius.
    """
    from robustbench_cli.benchmarks.suites.config import SuiteConfig
    from robustbench_cli.benchmarks.suites.grid import attack_class
    from robustbench_cli.cli.parameters import distribute
    from robustbench_cli.cli.session import in_processes, run_suite

    _check_early_decision(grid["stop_when_decided"], gates, save_images)
    devices = processes.devices(common)
    if attacks and suite_name:
        raise UserError("--attack and --suite both choose the attacks: give one of them")
    groups = _suite_groups(suite_name) if suite_name else [_group(attacks, norm, eps)]
    if eot is not None and all(entry.eot is not None for group in groups for entry in group.attacks):
        named = f"--suite {suite_name}" if suite_name else f"--attack {attacks[0]}"
        raise UserError(f"--eot {eot} changes nothing: {named} sets the draws of every attack: leave it out")
    settable = {entry.name: attack_class(entry) for group in groups for entry in group.attacks}
    parameters = distribute(settings, {**settable, **args.settable()})
    config = SuiteConfig.from_options(
        **args.suite_options(parameters),
        groups=[_with_options(group, parameters, eot) for group in _corrupted(groups, corruption_names, severities)],
        n=n if is_given("n") else None,
        norm=norm,
        eps=eps,
        **grid,
    )
    run_suite(
        common,
        config,
        devices=devices,
        engine=in_processes(devices),
        split=processes.split and bool(devices),
        save_images=save_images,
        reporting=Reporting(output_format, outputs, gates),
    )


def _check_early_decision(limit: float | None, gates: GateArgs, save_images: Path | None) -> None:
    """Warns of gates that ``--stop-when-decided`` does not decide.

    Raises:
        UserError: All images are to be saved.
    """
    if limit is None:
        return
    if save_images is not None:
        raise UserError("--save-images saves all images, and --stop-when-decided leaves some out: give one of them")
    from robustbench_cli.benchmarks.reports.gates import Limit

    for requirement in gates.requirements:
        if requirement.gate.kind == "limit" and requirement.limit != Limit("robust_accuracy", limit):
            console.warn(
                f"{requirement.label} is judged on the images that --stop-when-decided {limit:g} needs, which may be few: it decides "
                f"only --fail-under robust_accuracy={limit:g}"
            )


def _suite_groups(name: str) -> list[AttackGroup]:
    """The attacks of a suite, each of which runs if it supports the norm."""
    from robustbench_cli.benchmarks.suites.load import read_suite

    suite = read_suite(name)
    suite.require_attacks_only(name)
    return [group.model_copy(update={"any_norm": True}) for group in suite.groups]


def _corrupted(groups: Sequence[AttackGroup], names: Sequence[str], severities: Sequence[int]) -> list[AttackGroup]:
    """Groups with the corruptions that the user named, or else their own, at the severities that the user gave.

    Raises:
        UserError: A severity is given, and there is no corruption.
    """
    from robustbench_cli.benchmarks.suites.config import CorruptionEntry

    named = tuple(CorruptionEntry(name=name) for name in names)
    groups = [group.model_copy(update={"corruptions": named or group.corruptions}) for group in groups]
    if not severities:
        return groups
    if all(entry.name == "none" for group in groups for entry in group.corruptions):
        raise UserError("--severity is for a corruption: give --corruption fog too, or --corruption all")
    return [
        group.model_copy(update={"corruptions": tuple(entry.at_severities(severities) for entry in group.corruptions)})
        for group in groups
    ]


def _group(attacks: Sequence[str], norm: Norm | None, eps: Sequence[Eps]) -> AttackGroup:
    """The attacks that the user named, or the default ones that support the norm.

    Raises:
        UserError: An attack that the user named, or every default one, does not support the norm.
    """
    from robustbench_cli.benchmarks.suites.config import AttackGroup
    from robustbench_cli.benchmarks.suites.grid import attack_class
    from robustbench_cli.benchmarks.suites.plan import DEFAULT_ATTACKS
    from robustbench_cli.benchmarks.suites.suite import unsupported_norm, usual_norm
    from robustbench_cli.cli.parameters import attack_entries

    entries = attack_entries(attacks or DEFAULT_ATTACKS)
    norms = {entry.name: attack_class(entry).norms for entry in entries}
    if attacks and norm is None and eps:
        usual = usual_norm(list(norms.values()))
        for name in [name for name in norms if usual not in norms[name]]:
            raise UserError(
                f"--eps {eps[0].text} is a radius in {usual}, the usual norm of these attacks: "
                f"{unsupported_norm(name, norms[name], usual)}; or give --norm"
            )
    if norm is not None:
        unsupported = [name for name in norms if norm not in norms[name]]
        if unsupported and (attacks or len(unsupported) == len(norms)):
            raise unsupported_norm(unsupported[0], norms[unsupported[0]], norm)
        for name in unsupported:
            console.note(f"{name} is left out: {unsupported_norm(name, norms[name], norm)}")
        entries = [entry for entry in entries if entry.name not in unsupported]
    return AttackGroup(attacks=tuple(entries))


def _with_options(group: AttackGroup, parameters: Mapping[str, Mapping[str, Any]], eot: Draws | None) -> AttackGroup:
    """A group whose attacks have the user's parameters, and the user's draws where the suite sets none."""
    return group.model_copy(
        update={"attacks": tuple(entry.with_options(parameters[entry.name], eot) for entry in group.attacks)}
    )
