"""``advdef check``: are suite files valid? Runs nothing, so that it fits into a pre-commit hook."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from robustbench_cli.cli import console
from robustbench_cli.cli.notices import warn_of_radii
from robustbench_cli.cli.options import command
from robustbench_cli.core.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from robustbench_cli.attacks.base.norm import Norm
    from robustbench_cli.benchmarks.reports.requirements import Requirement
    from robustbench_cli.benchmarks.suites.config import SuiteConfig

__all__ = ["check"]


@command("check")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE.yaml ...")
def check(files: tuple[Path, ...]) -> None:
    """Check suite files without running them: keys, values, names, gates, and whether the files that they name exist.

    It takes less than a second, since no model, data set or attack is loaded. 'advdef sweep FILE.yaml --dry-run' also checks
    the parameters of attacks and defenses.
    """
    errors = []
    for path in files:
        try:
            console.report(f"{path}: {_described(path)}")
        except UserError as error:
            errors.append(error)
    for earlier in errors[:-1]:
        console.error(str(earlier))
    if errors:
        raise errors[-1]


def _described(path: Path) -> str:
    """What a suite file holds, in a few words.

    Raises:
        UserError: It is not a valid suite.
    """
    from robustbench_cli.benchmarks.suites.load import read_suite
    from robustbench_cli.benchmarks.suites.names import is_file_name
    from robustbench_cli.cli.gate_args import suite_requirements
    from robustbench_cli.cli.missing_files import missing_files

    if not is_file_name(str(path)):
        raise UserError(f"{path} is no suite file: give a file that ends in .yaml")
    config = read_suite(str(path))
    _require_known_names(config)
    norms = _norms(config)
    config.require_radii(norms)
    warn_of_radii(config, norms)
    # They may be on the machine that runs the suite, so that this is no error.
    for line in missing_files(config):
        console.warn(line)
    requirements = suite_requirements(config)
    _require_named_attacks(config, requirements)
    counts = {
        "defense": len(config.defenses),
        "attack": len(config.entries),
        "gate": len(requirements),
    }
    return ", ".join(f"{number} {noun}{'' if number == 1 else 's'}" for noun, number in counts.items())


def _norms(config: SuiteConfig) -> Sequence[Norm]:
    """The norms of a suite; without any, the usual one of its attacks, if a radius needs it and no own code has to run."""
    from robustbench_cli.benchmarks.suites.radii import USUAL

    if config.norm or all(eps.value <= USUAL["linf"].largest for eps in config.eps or ()):
        return config.norm or ()
    if any(":" in entry.name for entry in config.entries):
        return ()
    from robustbench_cli.attacks import registry as attacks
    from robustbench_cli.benchmarks.suites.suite import usual_norm

    return (usual_norm([attacks.load(entry.name).norms for entry in config.entries] or [("linf",)]),)


def _require_named_attacks(config: SuiteConfig, requirements: Sequence[Requirement]) -> None:
    """Checks the attacks in conditions of gates against those of the suite; other columns need the data and the models.

    Raises:
        UserError: The suite has no such attack.
    """
    named = [entry.name for entry in config.entries]
    # A suite without attacks has those that the user named elsewhere, and own code has other names in the table.
    if not named or any(":" in name for name in named):
        return
    known = [*dict.fromkeys(named), *(["worst-case"] if len(named) > 1 else [])]
    for requirement in requirements:
        for value in requirement.where.get("attack", ()):
            name = value.partition("(")[0].removeprefix("+")
            if name not in known and requirement.position is not None:
                place = requirement.position
                raise UserError(
                    f"{place.path}, line {place.line}: where 'attack={value}' fits no row: {did_you_mean(name, known)}"
                )


def _require_known_names(config: SuiteConfig) -> None:
    """Checks the names of attacks, defenses, corruptions, models and data sets against what is installed.

    Raises:
        UserError: One is unknown.
    """
    from robustbench_cli.cli.catalog import require_known

    named = [("attack", entry.name, entry.location) for entry in config.entries]
    named += [
        ("defense", entry.name, entry.location)
        for chain in config.defenses
        for entry in chain
        if entry.name is not None
    ]
    named += [
        ("corruption", entry.name, entry.location)
        for group in config.groups
        for entry in group.corruptions
        if entry.name not in {"all", "none"}
    ]
    named += [("model", model.name, config.location("model")) for model in config.model or () if model.name is not None]
    named += [("dataset", name, config.location("dataset")) for name in config.dataset or ()]
    for kind, name, location in named:
        try:
            require_known(kind, name.partition("?")[0])
        except UserError as error:
            raise UserError(f"{location}: {error}") from None
