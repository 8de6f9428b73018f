"""The schema of a suite file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr

from robustbench_cli.attacks.base.eps import Eps, parse_eps
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.benchmarks.evaluation.options import Accounting, Targeted
from robustbench_cli.benchmarks.store.cell import OnlyIf
from robustbench_cli.core.errors import UserError
from robustbench_cli.core.strict_yaml import YamlFile

__all__ = [
    "CONDITIONS",
    "AttackEntry",
    "AttackGroup",
    "Conditions",
    "DefenseConfig",
    "Many",
    "ModelConfig",
    "SuiteConfig",
    "T",
]


CONDITIONS = (
    *("dataset", "model", "checkpoint", "defense", "decision", "attack", "norm", "eps", "targeted"),
    *("eot", "n", "repeats", "seed", "precision"),
)
"""What ``include`` and ``exclude`` can say of a cell, in the words of the table; and the rule of ``decision``, ``none``
where there are no draws.
"""


_Eot = Annotated[int, Field(strict=True, ge=1)] | Literal["exact", "frozen", "auto"]


T = TypeVar("T")


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


def _as_targeted(value: Any) -> Any:
    # YAML reads the word no as false.
    return "no" if value is False else value


def _as_eps(value: Any) -> Any:
    return value if isinstance(value, Eps) else parse_eps(value)


Many = Annotated[tuple[T, ...], BeforeValidator(_as_list), Field(min_length=1)]
"""A dimension of the grid: a list, or the one value that there is."""


class _Named(BaseModel):
    """An entry of a list, which knows where it stands."""

    model_config = ConfigDict(frozen=True, extra="allow")

    _place: str = PrivateAttr("")

    @property
    def place(self) -> str:
        """Its file and line; empty where it stands in none."""
        return self._place

    @property
    def parameters(self) -> dict[str, Any]:
        """What stands beside its own keys."""
        return dict(self.model_extra or {})

    def at(self, place: str) -> Self:
        """The same entry, which stands there."""
        copy = self.model_copy()
        copy._place = place  # noqa: SLF001 - it is one of this class
        return copy


class AttackEntry(_Named):
    """An attack of a suite. What stands beside ``name``, ``eot``, ``norm`` and ``only_if`` are its parameters."""

    name: str
    eot: _Eot | None = Field(None, description="draws a gradient; as the command says otherwise")
    norm: Many[Norm] | None = Field(None, description="norms in which it runs; all that it knows where not given")
    only_if: OnlyIf | None = Field(
        None,
        description="'blinded': in a cascade, run only where an attack before it could not follow the gradients and no "
        "other one broke through",
    )

    def among(self, norms: Sequence[Norm]) -> tuple[Norm, ...]:
        """Those of the norms that the attack knows in which it runs."""
        return tuple(norm for norm in norms if self.norm is None or norm in self.norm)


class _Entry(_Named):
    """An attack as a file has it, or the attacks of another suite."""

    name: str | None = None
    suite: str | None = None
    eot: Many[_Eot | None] = (None,)
    norm: Many[Norm] | None = None
    only_if: OnlyIf | None = None


class ModelConfig(BaseModel):
    """A model that is to be trained, with the normalisation inside it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    mean: Many[float] | None = None
    std: Many[float] | None = None


class DefenseConfig(_Named):
    """A defense, or a checkpoint that others may be put around. Beside ``name`` stand the defense's parameters.

    Attributes:
        name: Of the defense.
        checkpoint: The file.
        model: The model in a foreign checkpoint; as the suite says where not given.
        classes: Of a foreign checkpoint.
        mean: Of the normalisation that belongs to a foreign checkpoint.
        std: Of that normalisation.
    """

    name: str | None = None
    checkpoint: Path | None = None
    model: str | None = None
    classes: Annotated[int, Field(strict=True, ge=2)] | None = None
    mean: Many[float] | None = None
    std: Many[float] | None = None

    @property
    def parameters(self) -> dict[str, Any]:
        own = {key: getattr(self, key) for key in self.model_fields_set - {"name", "checkpoint"}}
        return {**(own if self.name is not None else {}), **(self.model_extra or {})}


class AttackGroup(BaseModel):
    """Attacks that are run together.

    Attributes:
        attacks: In this order.
        cascade: Whether each attack is run only on what those before it have not broken; see
            :class:`~robustbench_cli.benchmarks.suites.suite.Suite`.
        accounting: What of a randomized defense counts; see :data:`~robustbench_cli.benchmarks.evaluation.options.Accounting`.
        any_norm: Whether it is meant for any norm, of which only the attacks run that know it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    attacks: tuple[AttackEntry, ...] = Field(min_length=1)
    cascade: bool = False
    accounting: Accounting = "expected"
    any_norm: bool = False

    def knowing(self, norm: Norm, norms: Mapping[str, Sequence[Norm]]) -> AttackGroup:
        """The suite without the attacks that do not know a norm.

        Args:
            norm: In which the suite is to be run.
            norms: Those that each attack knows, by its name.

        Raises:
            UserError: None knows it.
        """
        attacks = tuple(each for each in self.attacks if norm in each.among(norms[each.name]))
        if not attacks:
            known = sorted({each for name in norms.values() for each in name})
            raise UserError(f"no attack of this suite knows the norm {norm}: they know {', '.join(known)}")
        return self.model_copy(update={"attacks": attacks})


def _as_entries(value: Any) -> Any:
    return [{"name": each} if isinstance(each, str) else each for each in _as_list(value)]


def _as_chains(value: Any) -> Any:
    return [_as_entries(each) for each in _as_list(value)]


def _as_conditions(value: Any) -> Any:
    return [
        {key: _as_list(wanted) for key, wanted in each.items()} if isinstance(each, dict) else each
        for each in _as_list(value)
    ]


Conditions = Annotated[tuple[dict[str, tuple[Any, ...]], ...], BeforeValidator(_as_conditions)]


class SuiteConfig(BaseModel):
    """What a suite's file says. Every list is a dimension of the grid; a single value stands for a list of one.

    Attributes:
        description: What it is for, and where it stems from.
        extends: A suite whose words hold where this one has none.
        dataset: As a user names it.
        model: What is trained.
        n: Images.
        defenses: Each a chain of what is put around a model in order, which may begin with a checkpoint.
        decision: Rules by which draws decide, each for a row of its own by the same weights; a defense's own where there
            are none.
        attacks: As they are written; see :attr:`groups`.
        norm: Of the radii.
        eps: The radii.
        targeted: How target classes are chosen.
        seeds: Of the attacks.
        repeats: Draws that score an image.
        precision: Of gradients.
        train: Recipes of the trainings: what differs from the usual one, and their ``seed``.
        cascade: See :class:`AttackGroup`.
        accounting: See :class:`AttackGroup`.
        include: Where there are any, a cell has to fit one of these; what each may speak of is in :data:`CONDITIONS`.
        exclude: A cell that fits one of these is left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str = ""
    extends: str | None = None
    dataset: Many[str] | None = None
    model: Annotated[Many[ModelConfig], BeforeValidator(_as_entries)] | None = None
    n: Many[Annotated[int, Field(strict=True, ge=1)]] | None = None
    defenses: Annotated[
        tuple[Annotated[tuple[DefenseConfig, ...], Field(min_length=1)], ...],
        BeforeValidator(_as_chains),
        Field(min_length=1),
    ] = ((DefenseConfig(name="none"),),)
    decision: Many[str] | None = None
    attacks: Annotated[tuple[_Entry, ...], BeforeValidator(_as_entries), Field(min_length=1)] = ()
    norm: Many[Norm] | None = None
    eps: Many[Annotated[Eps, BeforeValidator(_as_eps)]] | None = None
    targeted: Many[Annotated[Targeted, BeforeValidator(_as_targeted)]] = ("no",)
    seeds: Many[Annotated[int, Field(strict=True, ge=0, lt=2**32)]] | None = None
    repeats: Many[Annotated[int, Field(strict=True, ge=1)]] | None = None
    precision: Many[Literal["float32", "bf16"]] = ("float32",)
    train: Many[dict[str, Any]] = ({},)
    cascade: Annotated[bool, Field(strict=True)] = False
    accounting: Accounting = "expected"
    include: Conditions = ()
    exclude: Conditions = ()

    _groups: tuple[AttackGroup, ...] = PrivateAttr(())
    _files: dict[str, YamlFile] = PrivateAttr(default_factory=dict)

    def read_from(self, file: YamlFile, base: SuiteConfig | None, groups: tuple[AttackGroup, ...]) -> Self:
        """These words, which know where they stand: in a file, or in that of the suite that they extend."""
        self._files = (base._files if base is not None else {}) | dict.fromkeys(file.value, file)  # noqa: SLF001 - one of this class
        self._groups = groups
        return self

    @property
    def groups(self) -> tuple[AttackGroup, ...]:
        """The attacks: those of this suite, and those of each suite that it names, which is run as it says itself.

        In a cascade, the attacks of a suite that counts in the same way take their places in it.
        """
        return self._groups

    @property
    def members(self) -> tuple[AttackEntry, ...]:
        """All attacks of all groups."""
        return tuple(member for group in self._groups for member in group.attacks)

    def place(self, *keys: object) -> str:
        """The file and the line of a value; where nothing is said of it, the name of its key."""
        file = self._files.get(str(keys[0]))
        return file.location(*keys) if file is not None else str(keys[0])

    @property
    def beside_attacks(self) -> list[str]:
        """What else it speaks of, which only a sweep can do."""
        return sorted(self.model_fields_set - {"description", "extends", "attacks", "cascade", "accounting"})

    def require_attacks_only(self, name: str) -> None:
        """Makes sure that the suite speaks of attacks and of nothing else.

        Args:
            name: As the user named it.

        Raises:
            UserError: It does not.
        """
        if not self._groups:
            raise UserError(f"{name} holds no attacks: give 'attacks: [pgd, cw]'")
        for key in self.beside_attacks:
            raise UserError(
                f"{self.place(key)}: '{key}' is not for a suite to attack with: leave it out, or 'advdef sweep' the file"
            )
