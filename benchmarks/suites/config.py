"""The schema of a suite file."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, create_model, model_validator
from pydantic.fields import FieldInfo

from robustbench_cli.attacks import registry as attacks
from robustbench_cli.attacks.base.eps import Eps, parse_eps
from robustbench_cli.attacks.base.gradients.draws import EOTChoice
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.benchmarks.corruptions import SEVERITIES
from robustbench_cli.benchmarks.datasets import DEFAULT_DATASET
from robustbench_cli.benchmarks.datasets.base.choices import Crop, Interpolation, OnBadImage
from robustbench_cli.benchmarks.datasets.base.options import DatasetOptions, with_options
from robustbench_cli.benchmarks.evaluation.options import Accounting, GridOptions
from robustbench_cli.benchmarks.models.base.names import read_class_names, with_weights
from robustbench_cli.benchmarks.store.cell import OnlyIf
from robustbench_cli.core.errors import UserError
from robustbench_cli.core.strict_yaml import Position, YamlFile
from robustbench_cli.defenses import registry as defenses

__all__ = [
    "CONDITIONS",
    "AttackEntry",
    "AttackGroup",
    "Conditions",
    "CorruptionEntry",
    "DefenseConfig",
    "FileEntry",
    "Many",
    "ModelConfig",
    "SuiteConfig",
    "T",
]


CONDITIONS = (
    *("dataset", "model", "checkpoint", "defense", "decision", "corruption", "severity"),
    *("attack", "norm", "eps", "eot", "n", "seed"),
    *GridOptions.model_fields,
)
"""The columns that ``include`` and ``exclude`` can name; ``decision`` is ``none`` for a model without random draws."""


_Eot = Annotated[int, Field(strict=True, ge=1)] | Literal["exact", "frozen", "auto"]


T = TypeVar("T")


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


def _as_eps(value: Any) -> Any:
    return value if isinstance(value, Eps) else parse_eps(value)


Many = Annotated[tuple[T, ...], BeforeValidator(_as_list), Field(min_length=1)]
"""A dimension of the grid: a list, or one value."""


ClassNames = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda value: read_class_names(Path(value)) if isinstance(value, str) else value),
    Field(min_length=2),
]
"""A list of names, or a file with one name per line."""


class _Located(BaseModel):
    """An entry of a list that may know its file and line."""

    model_config = ConfigDict(frozen=True, extra="allow")

    _location: str = PrivateAttr("")

    @property
    def location(self) -> str:
        """Its file and line; empty for an entry from the command line."""
        return self._location

    @property
    def parameters(self) -> dict[str, Any]:
        """The keys that are not fields: the parameters of the method."""
        return dict(self.model_extra or {})

    def at(self, location: str) -> Self:
        """The same entry with a location."""
        copy = self.model_copy()
        copy._location = location  # noqa: SLF001 - of the same class
        return copy


class AttackEntry(_Located):
    """An attack of a suite. Keys other than the fields are its parameters."""

    name: str
    eot: _Eot | None = Field(None, description="draws per gradient; chosen from the model's cost where not given")
    norm: Many[Norm] | None = Field(None, description="norms in which it runs; all that it supports where not given")
    only_if: OnlyIf | None = Field(
        None,
        description="'blinded': in a cascade, run only where an attack before it could not follow the gradients and no "
        "other one broke through",
    )

    def with_options(self, parameters: Mapping[str, Any], eot: EOTChoice | None = None) -> AttackEntry:
        """The same attack with the options of a command line, which override the suite's.

        Args:
            parameters: Parameters of the attack; one may be called by its former name.
            eot: Draws per gradient, where the suite sets none.
        """
        attack: type[Attack] = attacks.load(self.name)
        merged = {
            **attack.current_names(self.parameters, name=self.name),
            **attack.current_names(parameters, name=self.name),
        }
        entry = AttackEntry(name=self.name, eot=self.eot or eot, norm=self.norm, only_if=self.only_if, **merged)
        return entry.at(self.location)

    def norms_among(self, norms: Sequence[Norm]) -> tuple[Norm, ...]:
        """The norms in which it runs, among those that the attack supports."""
        return tuple(norm for norm in norms if self.norm is None or norm in self.norm)


class CorruptionEntry(_Located):
    """A corruption of a suite. Keys other than the fields are its parameters.

    Attributes:
        name: The corruption; ``none`` for the images as they are, ``all`` for the 15 of the benchmark.
        severity: The severities, each for cells of its own.
    """

    name: str
    severity: Many[Annotated[int, Field(strict=True, ge=1, le=5)]] = SEVERITIES

    def at_severities(self, severities: Sequence[int]) -> Self:
        """The same corruption at other severities; the images without a corruption have none.

        Args:
            severities: Each of 1 to 5.
        """
        return self if self.name == "none" else self.model_copy(update={"severity": tuple(severities)})


class FileEntry(_Located):
    """An entry of ``attacks`` in a file: an attack, or all attacks of another suite."""

    name: str | None = None
    suite: str | None = None
    eot: Many[_Eot | None] = (None,)
    norm: Many[Norm] | None = None
    only_if: OnlyIf | None = None


class ModelConfig(BaseModel):
    """A model, with the normalization inside it; the data set's usual model where it has no name.

    ``weights`` becomes a part of ``name``. ``class_names`` are a list, or a file with one name per line. ``classes`` is K,
    where the data set only infers its number from the labels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str | None = None
    weights: str | None = None
    mean: Many[float] | None = None
    std: Many[float] | None = None
    classes: Annotated[int, Field(strict=True, ge=2)] | None = None
    class_names: ClassNames | None = None

    @model_validator(mode="before")
    @classmethod
    def _named_with_weights(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("weights"), str):
            return values
        if not isinstance(values.get("name"), str):
            raise UserError(f"weights {values['weights']} are of no model: give its name, such as torchvision:resnet18")
        rest = {key: value for key, value in values.items() if key != "weights"}
        return {**rest, "name": with_weights(values["name"], values["weights"])}


class DefenseConfig(_Located):
    """A defense, or a checkpoint that defenses may be put around. Keys other than the fields are parameters.

    Attributes:
        name: The defense.
        checkpoint: The file.
        model: The model in a foreign checkpoint; the suite's where not given.
        classes: The number of classes of a foreign checkpoint.
        mean: Per-channel mean of the normalization of a foreign checkpoint.
        std: Per-channel standard deviation of that normalization.
        class_names: The names of the classes, for a model that depends on them.
    """

    name: str | None = None
    checkpoint: Path | None = None
    model: str | None = None
    classes: Annotated[int, Field(strict=True, ge=2)] | None = None
    mean: Many[float] | None = None
    std: Many[float] | None = None
    class_names: ClassNames | None = None
    _own_code: tuple[str, ...] = PrivateAttr(())

    @property
    def own_code(self) -> tuple[str, ...]:
        """The names by which the user allows the code that the checkpoint needs."""
        return self._own_code

    def allowing(self, names: Sequence[str]) -> Self:
        """The same entry, whose checkpoint may need code of these names.

        Args:
            names: As the user wrote them.
        """
        allowing = self.model_copy()
        allowing._own_code = tuple(names)  # noqa: SLF001 - of the same class
        return allowing

    def filled(self, parameters: Mapping[str, Any]) -> Self:
        """The same entry with more parameters; those that it has stay.

        Args:
            parameters: By name.
        """
        if self.name is None or not parameters:
            return self
        kind: type[Defense] = defenses.load(self.name)
        own = kind.current_names(self.parameters, name=self.name, warn=False)
        added = {key: value for key, value in parameters.items() if key not in own}
        filled = type(self)(name=self.name, **self.parameters, **added)
        filled._own_code = self._own_code  # noqa: SLF001 - of the same class
        return filled.at(self.location)

    @property
    def parameters(self) -> dict[str, Any]:
        fields = {key: getattr(self, key) for key in self.model_fields_set - {"name", "checkpoint"}}
        return {**(fields if self.name is not None else {}), **(self.model_extra or {})}


class AttackGroup(BaseModel):
    """Attacks that run together.

    Attributes:
        attacks: In the order in which they run.
        cascade: Whether each attack runs only on the images that those before it have not broken; see
            :class:`~robustbench_cli.benchmarks.suites.suite.Suite`.
        accounting: How the accuracy of a randomized defense is counted; see
            :data:`~robustbench_cli.benchmarks.evaluation.options.Accounting`.
        any_norm: Whether the group runs in any norm with those of its attacks that support it.
        corruptions: Of the images that are attacked, each for cells of its own; none attacks the images as they are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    attacks: tuple[AttackEntry, ...] = Field(min_length=1)
    cascade: bool = False
    accounting: Accounting = "expected"
    any_norm: bool = False
    corruptions: tuple[CorruptionEntry, ...] = ()


def _as_entries(value: Any) -> Any:
    return [{"name": entry} if isinstance(entry, str) else entry for entry in _as_list(value)]


def _as_chains(value: Any) -> Any:
    return [_as_entries(chain) for chain in _as_list(value)]


def _as_conditions(value: Any) -> Any:
    return [
        {key: _as_list(values) for key, values in condition.items()} if isinstance(condition, dict) else condition
        for condition in _as_list(value)
    ]


Conditions = Annotated[tuple[dict[str, tuple[Any, ...]], ...], BeforeValidator(_as_conditions)]


def _dimension(field: FieldInfo) -> tuple[Any, None]:
    """The field of a suite that holds several values of an evaluation option."""
    value: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    return Many[value] | None, None


if TYPE_CHECKING:
    from robustbench_cli.attacks.base.attack import Attack
    from robustbench_cli.defenses.base.defense import Defense

    _Grid = BaseModel
else:
    _Grid = create_model("_Grid", **{name: _dimension(field) for name, field in GridOptions.model_fields.items()})


class SuiteConfig(_Grid):
    """A suite, from a file or from the command line. Every list is a dimension of the grid; one value is a list of one.

    Each field of :class:`~robustbench_cli.benchmarks.evaluation.options.GridOptions` is a key as well.

    Attributes:
        description: Its purpose and its source.
        extends: A suite whose values hold where this one sets none.
        dataset: Data sets by name.
        image_size: Like the next five, an option of every data set; see
            :class:`~robustbench_cli.benchmarks.datasets.base.options.DatasetOptions`.
        resize: See ``image_size``.
        crop: See ``image_size``.
        interpolation: See ``image_size``.
        channels: See ``image_size``.
        on_bad_image: See ``image_size``.
        model: The models to train.
        n: Numbers of test images.
        defenses: Each a chain, put around a model in order; a chain may begin with a checkpoint.
        decision: Decision rules, each for a row of its own with the same weights; each defense's own where not given.
        corruptions: Of the images that the suite's own attacks run on; see :class:`AttackGroup`.
        attacks: As written in the file; :attr:`groups` are the attacks that run.
        norm: Norms of the radii.
        eps: The radii.
        seeds: Seeds of the attacks.
        train: Recipes of the trainings: the parameters that differ from the defaults, and ``seed``.
        cascade: See :class:`AttackGroup`.
        accounting: See :class:`AttackGroup`.
        include: Conditions, at least one of which a cell must match; :data:`CONDITIONS` are their keys.
        exclude: Conditions that a cell must not match.
        gates: What the rows must fulfill, as written in the file; see
            :func:`~robustbench_cli.benchmarks.reports.requirements.parse_entry`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str = ""
    extends: str | None = None
    dataset: Many[str] | None = None
    image_size: int | str | None = None
    resize: int | None = None
    crop: Crop | None = None
    interpolation: Interpolation | None = None
    channels: int | None = None
    on_bad_image: OnBadImage | None = None
    model: Annotated[Many[ModelConfig], BeforeValidator(_as_entries)] | None = None
    n: Many[Annotated[int, Field(strict=True, ge=1)]] | None = None
    defenses: Annotated[
        tuple[Annotated[tuple[DefenseConfig, ...], Field(min_length=1)], ...],
        BeforeValidator(_as_chains),
        Field(min_length=1),
    ] = ((DefenseConfig(name="none"),),)
    decision: Many[str] | None = None
    corruptions: Annotated[tuple[CorruptionEntry, ...], BeforeValidator(_as_entries), Field(min_length=1)] = ()
    attacks: Annotated[tuple[FileEntry, ...], BeforeValidator(_as_entries), Field(min_length=1)] = ()
    norm: Many[Norm] | None = None
    eps: Many[Annotated[Eps, BeforeValidator(_as_eps)]] | None = None
    seeds: Many[Annotated[int, Field(strict=True, ge=0, lt=2**32)]] | None = None
    train: Many[dict[str, Any]] = ({},)
    cascade: Annotated[bool, Field(strict=True)] = False
    accounting: Accounting = "expected"
    include: Conditions = ()
    exclude: Conditions = ()
    gates: Annotated[tuple[str | dict[str, Any], ...], BeforeValidator(_as_list)] = ()

    _groups: tuple[AttackGroup, ...] = PrivateAttr(())
    _files: dict[str, YamlFile] | None = PrivateAttr(None)

    @classmethod
    def from_options(cls, *, groups: Sequence[AttackGroup] = (), **options: Any) -> Self:
        """A suite from the command line.

        Args:
            groups: The attacks.
            **options: Values of the fields; those that are ``None`` or empty are left at their defaults.
        """
        suite = cls(**{key: value for key, value in options.items() if value not in (None, ())})
        suite._groups = tuple(groups)
        return suite

    def read_from(self, file: YamlFile, base: SuiteConfig | None, groups: tuple[AttackGroup, ...]) -> Self:
        """The same suite, which knows the file and line of each value: its own, or those of the suite that it extends.

        Args:
            file: Its file.
            base: The suite that it extends.
            groups: Its attacks.
        """
        inherited = (base._files or {}) if base is not None else {}  # noqa: SLF001 - of the same class
        self._files = inherited | dict.fromkeys(file.value, file)
        self._groups = groups
        return self

    def datasets(self) -> list[str]:
        """The data sets by name, each with the options of the suite.

        Raises:
            UserError: An option is not allowed.
        """
        options = {key: getattr(self, key) for key in DatasetOptions.__annotations__}
        key = next((key for key, value in options.items() if value is not None), "dataset")
        try:
            return [with_options(name, options) for name in self.dataset or (DEFAULT_DATASET,)]
        except UserError as error:
            raise UserError(f"{self.prefix(key)}{error}") from None

    def require_radii(self, norms: Sequence[Norm]) -> None:
        """Checks that the radii are small enough for norms.

        Args:
            norms: Those of the suite, or the usual one of its attacks.

        Raises:
            UserError: A radius is above 1 in linf.
        """
        for number, eps in enumerate(self.eps or ()):
            if "linf" in norms and eps.value > 1:
                meant = f"{eps.text}/255" if eps.text.isdecimal() and eps.value <= 255 else "8/255"
                raise UserError(
                    f"{self.prefix('eps', number)}eps is {eps.text}: in linf it is at most 1, on the [0, 1] pixel scale, as "
                    f"in {meant}"
                )

    def grid_options(self) -> list[GridOptions]:
        """Each combination of the evaluation options."""
        dimensions = [
            [(name, value) for value in getattr(self, name) or (field.default,)]
            for name, field in GridOptions.model_fields.items()
        ]
        return [GridOptions(**dict(values)) for values in itertools.product(*dimensions)]

    @property
    def groups(self) -> tuple[AttackGroup, ...]:
        """The attacks: those of this suite, and those of each suite that it names, which runs by its own settings.

        In a cascade, the attacks of a named suite with the same accounting join the cascade at their position.
        """
        return self._groups

    @property
    def entries(self) -> tuple[AttackEntry, ...]:
        """All attacks of all groups."""
        return tuple(entry for group in self._groups for entry in group.attacks)

    def location(self, *keys: object) -> str:
        """The file and line of a value, or its key where the file does not set it; empty for the command line."""
        if self._files is None:
            return ""
        file = self._files.get(str(keys[0]))
        return file.location(*keys) if file is not None else str(keys[0])

    def position(self, *keys: object) -> Position | None:
        """The file and the line of a value; ``None`` where no file sets it."""
        file = (self._files or {}).get(str(keys[0]))
        return None if file is None else file.position(*keys)

    def prefix(self, *keys: object) -> str:
        """The beginning of a message on a value: its location and a colon; empty for the command line."""
        location = self.location(*keys)
        return f"{location}: " if location else ""

    @property
    def beside_attacks(self) -> list[str]:
        """The keys that are set and are not about attacks: only a sweep can use them."""
        of_attacks = {"description", "extends", "corruptions", "attacks", "cascade", "accounting"}
        return sorted(self.model_fields_set - of_attacks)

    def require_attacks_only(self, name: str) -> None:
        """Makes sure that the suite sets attacks and nothing else.

        Args:
            name: The suite, as the user wrote it.

        Raises:
            UserError: It has no attacks, or sets another key.
        """
        if not self._groups:
            raise UserError(f"{name} has no attacks: give 'attacks: [pgd, cw]'")
        for key in self.beside_attacks:
            raise UserError(
                f"{self.prefix(key)}'{key}' is not for --suite: leave it out, or run the file with 'advdef sweep'"
            )
