"""Reads suites of attacks: those that come with the project, a YAML file each in this folder, and a user's own files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from robustbench_cli.attacks.base.errors import UserError, did_you_mean
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.plain_yaml import read_yaml_file
from robustbench_cli.benchmarks.cell import Accounting

__all__ = ["Member", "SuiteOfAttacks", "read_suite", "suite_names"]

_FOLDER = Path(__file__).parent


class Member(BaseModel):
    """An attack of a suite, or the attacks of another suite.

    What stands beside ``name`` and ``eot`` are the attack's parameters. A name alone is short for ``{name: NAME}``.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str | None = None
    suite: str | None = None
    eot: int | Literal["exact", "frozen", "auto"] | None = Field(
        None, description="draws a gradient; as the command says otherwise"
    )

    @property
    def parameters(self) -> dict[str, Any]:
        """The attack's parameters that differ from its defaults."""
        return dict(self.model_extra or {})


class SuiteOfAttacks(BaseModel):
    """Attacks that are run together.

    Attributes:
        description: What it is for, and where it stems from.
        attacks: In this order.
        cascade: Whether each attack is run only on what those before it have not broken; see
            :class:`~robustbench_cli.benchmarks.suite.Suite`.
        accounting: What of a randomized defense counts; see :data:`~robustbench_cli.benchmarks.cell.Accounting`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str = ""
    attacks: tuple[Member, ...] = Field(min_length=1)
    cascade: bool = False
    accounting: Accounting = "expected"

    def knowing(self, norm: Norm, norms: Mapping[str, Sequence[Norm]]) -> SuiteOfAttacks:
        """The suite without the attacks that do not know a norm.

        Args:
            norm: In which the suite is to be run.
            norms: Those that each attack knows, by its name.

        Raises:
            UserError: None knows it.
        """
        attacks = tuple(each for each in self.attacks if norm in norms[each.name or ""])
        if not attacks:
            known = sorted({each for name in norms.values() for each in name})
            raise UserError(f"no attack of this suite knows the norm {norm}: they know {', '.join(known)}")
        return self.model_copy(update={"attacks": attacks})


def suite_names() -> list[str]:
    """The names of the suites that come with the project."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def read_suite(name: str) -> SuiteOfAttacks:
    """Reads a suite, with the attacks of the suites that it names in their places.

    Args:
        name: One of :func:`suite_names`, or the path of a ``.yaml`` file.

    Raises:
        UserError: There is no such suite, or it is not what it must be.
    """
    return _read(name, ())


def _read(name: str, within: tuple[str, ...]) -> SuiteOfAttacks:
    if name in within:
        raise UserError(f"the suite {name} contains itself: {' > '.join((*within, name))}")
    path = Path(name) if name.endswith((".yaml", ".yml")) else _FOLDER / f"{name}.yaml"
    if path.parent == _FOLDER and path.stem not in suite_names():
        raise UserError(f"unknown suite '{name}': {did_you_mean(name, suite_names())} Or the path of a .yaml file")
    content = read_yaml_file(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no suite: give 'attacks: [pgd, cw]'")
    for key in content:
        if key not in SuiteOfAttacks.model_fields:
            raise UserError(f"{path}: unknown key '{key}': {did_you_mean(str(key), SuiteOfAttacks.model_fields)}")
    attacks = content.get("attacks")
    if isinstance(attacks, list):
        content["attacks"] = [{"name": each} if isinstance(each, str) else each for each in attacks]
    try:
        suite = SuiteOfAttacks.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: {where}: {first['msg'][:1].lower()}{first['msg'][1:]}") from None
    members: list[Member] = []
    for member in suite.attacks:
        if (member.name is None) == (member.suite is None):
            raise UserError(
                f"{path}: an entry of attacks needs a name or a suite, and not both: {{name: pgd, steps: 20}}"
            )
        members += _read(member.suite, (*within, name)).attacks if member.suite is not None else (member,)
    return suite.model_copy(update={"attacks": tuple(members)})
