"""Reads suites: those that come with the project, a YAML file each in this folder, and a user's own files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError
from pydantic_core import ErrorDetails

from robustbench_cli.attacks.base.errors import UserError, did_you_mean
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.plain_yaml import YamlFile, open_yaml_file
from robustbench_cli.benchmarks.cell import Accounting, Eps, OnlyIf, Targeted, parse_eps

__all__ = [
    "CONDITIONS",
    "DefenseWords",
    "Member",
    "ModelName",
    "SuiteOfAttacks",
    "SuiteWords",
    "read_suite",
    "suite_names",
]

_FOLDER = Path(__file__).parent

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


class Member(_Named):
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


class ModelName(BaseModel):
    """A model that is to be trained, with the normalisation inside it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    mean: Many[float] | None = None
    std: Many[float] | None = None


class DefenseWords(_Named):
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


class SuiteOfAttacks(BaseModel):
    """Attacks that are run together.

    Attributes:
        attacks: In this order.
        cascade: Whether each attack is run only on what those before it have not broken; see
            :class:`~robustbench_cli.benchmarks.suite.Suite`.
        accounting: What of a randomized defense counts; see :data:`~robustbench_cli.benchmarks.cell.Accounting`.
        any_norm: Whether it is meant for any norm, of which only the attacks run that know it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    attacks: tuple[Member, ...] = Field(min_length=1)
    cascade: bool = False
    accounting: Accounting = "expected"
    any_norm: bool = False

    def knowing(self, norm: Norm, norms: Mapping[str, Sequence[Norm]]) -> SuiteOfAttacks:
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


class SuiteWords(BaseModel):
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
        cascade: See :class:`SuiteOfAttacks`.
        accounting: See :class:`SuiteOfAttacks`.
        include: Where there are any, a cell has to fit one of these; what each may speak of is in :data:`CONDITIONS`.
        exclude: A cell that fits one of these is left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str = ""
    extends: str | None = None
    dataset: Many[str] | None = None
    model: Annotated[Many[ModelName], BeforeValidator(_as_entries)] | None = None
    n: Many[Annotated[int, Field(strict=True, ge=1)]] | None = None
    defenses: Annotated[
        tuple[Annotated[tuple[DefenseWords, ...], Field(min_length=1)], ...],
        BeforeValidator(_as_chains),
        Field(min_length=1),
    ] = ((DefenseWords(name="none"),),)
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

    _groups: tuple[SuiteOfAttacks, ...] = PrivateAttr(())
    _files: dict[str, YamlFile] = PrivateAttr(default_factory=dict)

    def read_from(self, file: YamlFile, base: SuiteWords | None, groups: tuple[SuiteOfAttacks, ...]) -> Self:
        """These words, which know where they stand: in a file, or in that of the suite that they extend."""
        self._files = (base._files if base is not None else {}) | dict.fromkeys(file.value, file)  # noqa: SLF001 - one of this class
        self._groups = groups
        return self

    @property
    def groups(self) -> tuple[SuiteOfAttacks, ...]:
        """The attacks: those of this suite, and those of each suite that it names, which is run as it says itself.

        In a cascade, the attacks of a suite that counts in the same way take their places in it.
        """
        return self._groups

    @property
    def members(self) -> tuple[Member, ...]:
        """All attacks of all groups."""
        return tuple(member for group in self._groups for member in group.attacks)

    def place(self, *keys: object) -> str:
        """The file and the line of a value; where nothing is said of it, the name of its key."""
        file = self._files.get(str(keys[0]))
        return file.place(*keys) if file is not None else str(keys[0])

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


def suite_names() -> list[str]:
    """The names of the suites that come with the project."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def read_suite(name: str) -> SuiteWords:
    """Reads a suite, with what it takes from others in its place.

    Args:
        name: One of :func:`suite_names`, or the path of a ``.yaml`` file. A file's own ``extends`` and ``suite`` start
            from its folder.

    Raises:
        UserError: There is no such suite, or it is not what it must be.
    """
    return _read(name, Path(), ())


def _read(name: str, folder: Path, within: tuple[Path, ...]) -> SuiteWords:
    path = folder / name if name.endswith((".yaml", ".yml")) else _FOLDER / f"{name}.yaml"
    if path.parent == _FOLDER and path.stem not in suite_names():
        raise UserError(
            f"unknown suite '{name}': {did_you_mean(name, suite_names(), kind='suite')} (or give the path of a .yaml file)"
        )
    file = open_yaml_file(path)
    # One file has many paths.
    if any(path.samefile(each) for each in within):
        raise UserError(f"the suite {path} contains itself: {' > '.join(map(str, (*within, path)))}")
    words = _words_of(file)
    base = None
    if words.extends is not None:
        base = _inner(words.extends, file.place("extends"), (*within, path))
        own = {key: getattr(words, key) for key in words.model_fields_set - {"extends"}}
        words = base.model_copy(update=own)
    return words.read_from(file, base, _groups(words, base, file, (*within, path)))


def _inner(name: str, place: str, within: tuple[Path, ...]) -> SuiteWords:
    try:
        return _read(name, within[-1].parent, within)
    except UserError as error:
        # What is wrong inside another file says so itself.
        raise error if ", line " in str(error) else UserError(f"{place}: {error}") from None


def _words_of(file: YamlFile) -> SuiteWords:
    """A file's own words."""
    if not isinstance(file.value, dict):
        raise UserError(f"{file.path} holds no suite: give 'attacks: [pgd, cw]'")
    for key in file.value:
        if key not in SuiteWords.model_fields:
            raise UserError(
                f"{file.place(key)}: unknown key '{key}': {did_you_mean(str(key), SuiteWords.model_fields)}"
            )
    try:
        words = SuiteWords.model_validate(file.value)
    except ValidationError as error:
        raise _refused(file, error.errors()) from None
    for key in ("include", "exclude"):
        for number, condition in enumerate(getattr(words, key)):
            for word, values in condition.items():
                place = file.place(key, number, word)
                if word not in CONDITIONS:
                    raise UserError(f"{place}: {key} knows no '{word}': {did_you_mean(word, CONDITIONS)}")
                try:
                    for radius in values if word == "eps" else ():
                        if radius is not None:
                            parse_eps(radius)
                except UserError as error:
                    raise UserError(f"{place}: {key}: {error}") from None
    defenses = [
        tuple(_placed(each, file, len(chain), ("defenses", number, place)) for place, each in enumerate(chain))
        for number, chain in enumerate(words.defenses)
    ]
    return words.model_copy(update={"defenses": tuple(defenses)} if "defenses" in words.model_fields_set else {})


def _placed(words: DefenseWords, file: YamlFile, length: int, keys: tuple[str, int, int]) -> DefenseWords:
    placed = words.at(file.place(*(keys if length > 1 else keys[:2])))
    if (words.name is None) == (words.checkpoint is None):
        raise UserError(
            f"{placed.place}: a defense needs a name or a checkpoint, and not both: {{name: hrs, channels: [5, 5]}}"
        )
    if words.checkpoint is not None and words.model_extra:
        key = next(iter(words.model_extra))
        known = [each for each in DefenseWords.model_fields if each != "name"]
        raise UserError(f"{placed.place}: a checkpoint has no '{key}': {did_you_mean(key, known)}")
    if words.checkpoint is not None and keys[2] > 0:
        raise UserError(f"{placed.place}: a checkpoint goes first: defenses are put around it in order")
    return placed


def _groups(
    words: SuiteWords, base: SuiteWords | None, file: YamlFile, within: tuple[Path, ...]
) -> tuple[SuiteOfAttacks, ...]:
    """The groups of a suite; see :attr:`SuiteWords.groups`."""
    changed = {key: file.value[key] for key in ("cascade", "accounting") if key in file.value}
    if "attacks" not in file.value:
        return tuple(group.model_copy(update=changed) for group in base.groups) if base is not None else ()
    own = SuiteOfAttacks.model_construct(attacks=(), cascade=words.cascade, accounting=words.accounting)
    groups = [own]
    for number, entry in enumerate(words.attacks):
        place = file.place("attacks", number)
        if (entry.name is None) == (entry.suite is None) or (
            entry.suite is not None and len(entry.model_dump(exclude_unset=True)) > 1
        ):
            raise UserError(
                f"{place}: an entry of attacks needs a name or a suite, and not both: {{name: pgd, steps: 20}} or {{suite: quick}}"
            )
        if entry.suite is None:
            if entry.only_if is not None and (not words.cascade or not groups[0].attacks):
                raise UserError(
                    f"{place}: only_if: the condition is one on the attacks before it in a cascade: "
                    + ("put some before it" if words.cascade else "add 'cascade: true', or leave it out")
                )
            members = tuple(_members(entry, place))
            groups[0] = groups[0].model_copy(update={"attacks": (*groups[0].attacks, *members)})
            continue
        inner = _inner(entry.suite, place, within)
        inner.require_attacks_only(entry.suite)
        for group in inner.groups:
            if words.cascade and group.accounting == words.accounting:
                groups[0] = groups[0].model_copy(update={"attacks": (*groups[0].attacks, *group.attacks)})
            else:
                groups.append(group.model_copy(update={"any_norm": True}))
    return tuple(group for group in groups if group.attacks)


def _members(entry: _Entry, place: str) -> Iterator[Member]:
    for eot in entry.eot:
        yield Member(name=entry.name or "", eot=eot, norm=entry.norm, only_if=entry.only_if, **entry.parameters).at(
            place
        )


def _refused(file: YamlFile, errors: Sequence[ErrorDetails]) -> UserError:
    """What pydantic says first, in one line that names the file, the line and the nearest right word."""
    error, where = errors[0], _keys(errors[0])
    message = error["msg"].removeprefix("Value error, ")
    message = f"{message[:1].lower()}{message[1:]}"
    if error["type"] == "literal_error":
        message = f"unknown word '{error['input']!s:.80}': {did_you_mean(str(error['input']), _words_in(error))}"
    elif error["type"] in {"model_type", "model_attributes_type"}:
        message = f"is {error['input']!r:.80}: give a name, or a mapping such as {{name: pgd, steps: 20}}"
    elif error["type"] == "dict_type":
        meant = "{epochs: 5, lr: 0.01}" if where[0] == "train" else "{defense: hrs, eps: 8/255}"
        message = f"is {error['input']!r:.80}: give a mapping such as {meant}"
    elif error["type"] == "path_type":
        message = f"is {error['input']!r:.80}: give the path of a file"
    elif error["type"] == "extra_forbidden":
        message = f"unknown key: {did_you_mean(str(where[-1]), ModelName.model_fields)}"
    elif error["type"] == "too_short":
        message = "is empty: give at least one value"
    # Where there are words beside numbers, they are another error at the same place.
    for other in errors[1:]:
        if other["type"] == "literal_error" and _keys(other) == where:
            message += f", or one of the words {', '.join(_words_in(other))}"
    return UserError(f"{file.place(*where)}: {'.'.join(map(str, where))}: {' '.join(message.split())}")


def _keys(error: ErrorDetails) -> list[int | str]:
    """Where an error is: keys and places in lists, without the names of types that pydantic puts between them."""
    return [each for each in error["loc"] if not (isinstance(each, str) and re.search(r"[\[\](){}-]", each))]


def _words_in(error: ErrorDetails) -> list[str]:
    """The words that would have been understood."""
    return re.findall(r"'([^']*)'", str(error.get("ctx", {}).get("expected", "")))
