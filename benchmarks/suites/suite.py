"""A suite: which attacks run on a data set in which threat models, and how they expand into the jobs of each model."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from robustbench_cli.attacks import registry as attacks
from robustbench_cli.attacks.base.eps import Eps, parse_eps
from robustbench_cli.attacks.base.gradients.draws import resolve_eot
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec, defense_label
from robustbench_cli.benchmarks.checkpoints.repeats import resolve_repeats
from robustbench_cli.benchmarks.datasets.base.options import split_name
from robustbench_cli.benchmarks.evaluation.options import Accounting, GridOptions, yaml_no
from robustbench_cli.benchmarks.execution.job import Job, JobOptions
from robustbench_cli.benchmarks.store.cell import Cell, OnlyIf, corruption_label
from robustbench_cli.benchmarks.store.records import Origin
from robustbench_cli.core.errors import UserError

if TYPE_CHECKING:
    from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel
    from robustbench_cli.benchmarks.datasets.base.slice import Slice

__all__ = ["AttackChoice", "Condition", "Selection", "Suite", "expand", "unsupported_norm", "usual_norm"]


@dataclass(frozen=True)
class AttackChoice:
    """An attack of a suite, with one combination of its parameters.

    Attributes:
        spec: The attack and its parameters.
        norms: The norms that it supports, the preferred one first.
        minimal_norm: Whether it searches for the smallest perturbation.
        eot: Draws per gradient, ``"exact"``, ``"frozen"`` or ``"auto"``.
        any_precision: Whether the user chooses the precision of its gradients: not for a minimal-norm attack, whose
            distances depend on its own decisions.
        perturbs: Whether it changes the images; otherwise it runs once, at the radius 0.
        surrogates: The models whose gradients it follows in place of the attacked model's; of several, the mean of their logits.
        limited: Whether the suite restricts its norms, so that it does not run in another one.
        only_if: The condition under which it runs in a cascade.
        needs_gradients: Whether it follows gradients.
    """

    spec: MethodSpec
    norms: tuple[Norm, ...]
    minimal_norm: bool
    eot: int | Literal["exact", "frozen", "auto"] = "auto"
    any_precision: bool = False
    perturbs: bool = True
    surrogates: tuple[DefendedModel, ...] = ()
    limited: bool = False
    only_if: OnlyIf | None = None
    needs_gradients: bool = True

    def draws(self, defended: DefendedModel) -> int | Literal["exact", "frozen"]:
        """The draws per gradient when it attacks a model: of its surrogates, where it has some."""
        first, *others = self.surrogates or (defended,)
        if not others:
            return first.eot(self.eot)
        randomized = first.randomized or any(surrogate.randomized for surrogate in others)
        return resolve_eot(self.eot, randomized=randomized, cost_of_all_draws=None)


@dataclass(frozen=True)
class Condition:
    """A condition on a cell: allowed values by column.

    Attributes:
        values: By column; a cell matches if it has one of the values in every column.
        location: The file and line, for messages.
    """

    values: Mapping[str, Sequence[Any]]
    location: str

    def matches(self, cell: Mapping[str, Sequence[Any]]) -> bool:
        """Whether a cell matches, or may match where some of its columns are not known yet.

        Args:
            cell: By column, the forms in which the cell's value may be written.
        """
        return all(
            set(_canonical(key, values)) & set(_canonical(key, cell[key]))
            for key, values in self.values.items()
            if key in cell
        )

    def knows(self, cell: Mapping[str, Sequence[Any]]) -> bool:
        """Whether all columns of the condition are known."""
        return self.values.keys() <= cell.keys()


@dataclass(frozen=True)
class Selection:
    """The cells of a grid that are wanted: those that match any of ``include`` (all if empty) and none of ``exclude``."""

    include: Sequence[Condition] = ()
    exclude: Sequence[Condition] = ()
    _met: set[int] = field(default_factory=set)

    @property
    def is_everything(self) -> bool:
        """Whether every cell is wanted."""
        return not self.include and not self.exclude

    def wants(self, cell: Mapping[str, Sequence[Any]]) -> bool:
        """Whether a cell is wanted, or may be where some of its columns are not known yet; see :meth:`Condition.matches`."""
        included = [condition for condition in self.include if condition.matches(cell)]
        excluded = [condition for condition in self.exclude if condition.knows(cell) and condition.matches(cell)]
        self._met.update(id(condition) for condition in (*included, *excluded) if condition.knows(cell))
        return (not self.include or bool(included)) and not excluded

    def require_met(self) -> None:
        """Makes sure that every condition has matched a cell.

        Raises:
            UserError: A condition matched no cell, so it is probably misspelled.
        """
        for condition in (*self.include, *self.exclude):
            if id(condition) not in self._met:
                text = ", ".join(f"{key}: {' or '.join(map(str, values))}" for key, values in condition.values.items())
                raise UserError(f"{condition.location}: no cell has {text}: remove it, or use values from the table")


def _canonical(key: str, values: Sequence[Any]) -> Iterator[str]:
    """Values in one form each, so that equal ones compare equal."""
    for value in values:
        if key == "eps" and value is not None:
            yield str(parse_eps(str(value)).value)
        else:
            yield str(yaml_no(value))


def usual_norm(norms: Sequence[Sequence[Norm]]) -> Norm:
    """The norm of the radii where the user names none: linf, or the first attack's own if no attack supports linf.

    Args:
        norms: The norms that each attack supports.
    """
    return "linf" if any("linf" in supported for supported in norms) else norms[0][0]


def unsupported_norm(name: str, supported: Sequence[Norm], norm: Norm) -> UserError:
    """The error of an attack in a norm that it does not support, with attacks of its kind that do.

    Args:
        name: The attack.
        supported: The norms that it supports.
        norm: The other norm.
    """
    minimal_norm = attacks.load(name).minimal_norm
    alternatives = []
    for other in [other for other in attacks.names() if other != name]:
        # An installed attack of another distribution may be broken; that is not this error.
        with suppress(UserError):
            candidate = attacks.load(other)
            if norm in candidate.norms and candidate.minimal_norm == minimal_norm and candidate.perturbs:
                alternatives.append(other)
    # cw and cw-linf are variants of one method.
    variants = [
        other for other in alternatives if f"{other}-".startswith(f"{name}-") or f"{name}-".startswith(f"{other}-")
    ]
    names = variants or alternatives
    hint = f"; for {norm} use {', '.join(names[:-1])}{' or ' if names[1:] else ''}{names[-1]}" if names else ""
    return UserError(f"{name} does not support the norm {norm} (it supports {', '.join(supported)}){hint}")


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Attacks on one data set. Every sequence is a dimension of the grid.

    Attributes:
        dataset: The data set, as the user named it.
        n: The number of test images.
        attacks: At least one.
        corruption: What changes the images before the attacks.
        norm: The norm of the radii; see :func:`usual_norm`.
        eps: The radii; the data set's usual one in linf where empty.
        options: What else all cells share.
        seeds: Of the attacks.
        cascade: Whether each attack runs only on the images that those before it have not broken.
        accounting: How the accuracy of a randomized model is counted; ``"single-draw"`` scores one draw and takes no
            ``repeats``.
        selection: Which cells of the grid are wanted.
    """

    dataset: str
    n: int
    attacks: Sequence[AttackChoice]
    corruption: MethodSpec | None = None
    norm: Norm
    eps: Sequence[Eps] = ()
    options: GridOptions = field(default_factory=GridOptions)
    seeds: Sequence[int] = (0,)
    cascade: bool = False
    accounting: Accounting = "expected"
    selection: Selection = field(default_factory=Selection)

    def threats(self, *, usual_eps: str) -> list[tuple[AttackChoice, Norm, Eps | None]]:
        """The attacks, each with every norm and radius that it runs at, from the smallest radius to the largest.

        A minimal-norm attack that does not support the suite's norm runs in its own norm, where the radii mean
        nothing: all its successes count.

        Args:
            usual_eps: The data set's usual radius in linf.

        Raises:
            UserError: A radius is missing, an attack does not support the norm, or ``repeats`` is set for
                ``"single-draw"``.
        """
        if self.accounting == "single-draw" and self.options.repeats is not None:
            raise UserError("this suite scores single draws, as AutoAttack does: leave out --repeats")
        norm = self.norm
        radii = self._radii(usual_eps)
        threats: list[tuple[AttackChoice, Norm, Eps | None]] = []
        for attack in self.attacks:
            if not attack.perturbs:
                threats.append((attack, attack.norms[0], Eps("0", 0.0)))
            elif norm in attack.norms:
                threats += [(attack, norm, eps) for eps in radii] or [(attack, norm, None)]
            elif attack.limited:
                continue
            elif attack.minimal_norm:
                threats.append((attack, attack.norms[0], None))
            else:
                raise unsupported_norm(attack.spec.name, attack.norms, norm)
        if self.cascade:
            threats.sort(key=lambda threat: 0.0 if threat[2] is None else threat[2].value)
        return threats

    def _radii(self, usual_eps: str) -> list[Eps]:
        """The radii in ascending order; empty if only minimal-norm attacks run and the user gave none."""
        radii = sorted(self.eps, key=lambda eps: eps.value)
        if not radii and any(attack.perturbs and not attack.minimal_norm for attack in self.attacks):
            if self.norm != "linf":
                raise UserError(f"no default eps for {self.norm}: pass --eps, or set eps in the suite file")
            radii = [parse_eps(usual_eps)]
        return radii

    def require_fit(self, examples: Slice) -> None:
        """Makes sure that the surrogates of the attacks fit the examples.

        Args:
            examples: The evaluated images.

        Raises:
            UserError: A surrogate takes images of another shape, or has too few classes.
        """
        for attack in self.attacks:
            for surrogate in attack.surrogates:
                surrogate.require_fit(examples, self.dataset)

    def wants(self, defended: DefendedModel, attack: AttackChoice, norm: Norm, eps: Eps | None, seed: int) -> bool:
        """Whether a cell of the grid is wanted.

        Args:
            defended: Its model.
            attack: Its attack.
            norm: Its norm.
            eps: Its radius; ``None`` for any distance.
            seed: Its seed.
        """
        if self.selection.is_everything:
            return True
        return self.selection.wants(
            {
                **self._known(defended.model, defended.defenses),
                "checkpoint": [str(defended.path), defended.path.name],
                "decision": [defended.decision or "none"],
                "corruption": (
                    ["none"] if self.corruption is None else [corruption_label(self.corruption), self.corruption.name]
                ),
                "severity": [None if self.corruption is None else self.corruption.parameters["severity"]],
                "attack": [attack.spec.label, attack.spec.former_label, attack.spec.name],
                "norm": [norm],
                "eps": [None if eps is None else eps.value],
                "eot": [attack.draws(defended)],
                "n": [self.n],
                "seed": [seed],
                **{name: [value] for name, value in self.options},
            }
        )

    def may_want(self, model: str, defenses: Sequence[MethodSpec]) -> bool:
        """Whether any cell of a model may be wanted; the model need not be built for it.

        Args:
            model: Its name.
            defenses: In order.
        """
        return self.selection.wants(self._known(model, defenses))

    def _known(self, model: str, defenses: Sequence[MethodSpec]) -> dict[str, Sequence[Any]]:
        """The columns of a cell that are known before its model is built."""
        return {
            "dataset": [self.dataset, split_name(self.dataset)[0]],
            "model": [model],
            "defense": [
                defense_label(defenses),
                "+".join(spec.former_label for spec in defenses) or "none",
                defense_label(defenses, with_parameters=False),
            ],
        }

    def chain(self, attack: AttackChoice, eps: Eps | None, defended: DefendedModel) -> str | None:
        """The key of a chain of cells, each of which leaves its broken images to the next; ``None`` for a cell alone.

        An image that an untargeted attack breaks under every draw stays broken at a larger radius, and in a cascade
        for every later attack. A minimal-norm attack searches once for all radii.

        Args:
            attack: The cell's attack.
            eps: Its radius.
            defended: Its model.
        """
        eot = attack.draws(defended)
        if self.options.targeted != "no" or eps is None or not attack.perturbs:
            return None
        if self.options.stop_when_decided is not None:
            return None
        if defended.randomized and self.accounting == "single-draw":
            # One draw broke the image at this radius; another radius draws again.
            return f"cascade {eps.value}" if self.cascade else None
        # Sampled draws, and a surrogate's draws, do not cover every draw of the attacked model.
        if defended.randomized and (eot != "exact" or attack.surrogates):
            return None
        if self.cascade:
            return "cascade"
        return None if attack.minimal_norm else f"{attack.spec.canonical_identity} {eot}"

    def cell(
        self,
        defended: DefendedModel,
        examples: Slice,
        threat: tuple[AttackChoice, Norm, Eps | None],
        seed: int,
    ) -> Cell:
        """A cell of the grid.

        Args:
            defended: The attacked model.
            examples: The evaluated images.
            threat: The attack, its norm and its radius.
            seed: The attack's seed.
        """
        attack, norm, eps = threat
        shared = dict(self.options)
        repeats = 1 if self.accounting == "single-draw" else self.options.repeats
        shared["repeats"] = resolve_repeats(repeats, randomized=defended.randomized)
        if not attack.any_precision:
            del shared["precision"]
        return Cell(
            dataset=self.dataset,
            data=examples.sha256,
            n=len(examples),
            model=defended.model,
            checkpoint=defended.identity,
            defenses=defended.defenses,
            attack=attack.spec,
            corruption=self.corruption,
            norm=norm,
            eps=None if eps is None else eps.value,
            eot=attack.draws(defended),
            seed=seed,
            accounting=self.accounting if defended.randomized else "expected",
            only_if=attack.only_if,
            **shared,
        )


def expand(
    suite: Suite,
    models: Sequence[DefendedModel],
    *,
    examples: Slice,
    usual_eps: str,
    options: JobOptions,
    origins: Mapping[str, Origin] = MappingProxyType({}),
) -> list[Job]:
    """The jobs of a suite, one for each different cell, in the order of its dimensions.

    Args:
        suite: The suite.
        models: The models that it attacks.
        examples: The evaluated images.
        usual_eps: The data set's usual radius in linf.
        options: Where and how the jobs run.
        origins: How the command trains models, by their identities.

    Raises:
        UserError: A radius is missing, an attack does not support the norm, a model does not support the gradient source
            or does not fit the images.
    """
    threats = suite.threats(usual_eps=usual_eps)
    jobs: dict[str, Job] = {}
    for defended in models:
        defended.require_fit(examples, suite.dataset)
        _require_same_classes(suite, defended)
        fields = {**dict(options), "origin": origins.get(defended.identity, Origin())}
        for job in _jobs_of_model(suite, defended, examples, threats, fields):
            jobs.setdefault(job.cell.id, job)
    return list(jobs.values())


def _require_same_classes(suite: Suite, defended: DefendedModel) -> None:
    """Makes sure that every surrogate has the classes of the attacked model."""
    for attack in suite.attacks:
        for surrogate in attack.surrogates:
            if surrogate.classes != defended.classes:
                raise UserError(
                    f"{surrogate.path} has {surrogate.classes} classes and {defended.path} has {defended.classes}: "
                    "give a surrogate with the same classes"
                )


def _cells_of_model(
    suite: Suite,
    defended: DefendedModel,
    examples: Slice,
    threats: Sequence[tuple[AttackChoice, Norm, Eps | None]],
) -> Iterator[tuple[AttackChoice, Eps | None, Cell]]:
    """The wanted cells of one model, each as if it were alone; only the first one of an attack is validated."""
    first: dict[tuple[int, Norm], Cell] = {}
    for (attack, norm, eps), seed in itertools.product(threats, suite.seeds):
        if suite.wants(defended, attack, norm, eps, seed):
            key = id(attack), norm
            if key not in first:
                first[key] = suite.cell(defended, examples, (attack, norm, eps), seed)
            changes = {"eps": None if eps is None else eps.value, "seed": seed}
            yield attack, eps, first[key].model_copy(update=changes)


def _jobs_of_model(
    suite: Suite,
    defended: DefendedModel,
    examples: Slice,
    threats: Sequence[tuple[AttackChoice, Norm, Eps | None]],
    fields: Mapping[str, Any],
) -> Iterator[Job]:
    """The jobs of one model, each of which may continue an earlier one of its chain."""
    latest: dict[tuple[str, int], Job] = {}
    yielded: set[str] = set()
    first: Job | None = None
    for attack, eps, alone in _cells_of_model(suite, defended, examples, threats):
        chain = suite.chain(attack, eps, defended)
        previous = None if chain is None else latest.get((chain, alone.seed))
        if attack.only_if is not None and (previous is None or not suite.cascade):
            # The condition is about an earlier attack of the chain, and there is none.
            continue
        # The same attack twice, written differently or with an equivalent gradient source, is one cell.
        if alone.id in yielded:
            continue
        yielded.add(alone.id)
        cell = alone
        if previous is not None:
            is_cascade = previous.cell.attack != attack.spec
            cell = alone.model_copy(update={"after": previous.cell.id, "cascade": is_cascade})
        own = {"cell": cell, "eps": "" if eps is None else eps.text, "previous": previous}
        first = first or _first_job(suite, defended, {**fields, **own})
        job = first.model_copy(update=own)
        yield job
        if chain is not None:
            latest[chain, cell.seed] = job


def _first_job(suite: Suite, defended: DefendedModel, fields: Mapping[str, Any]) -> Job:
    """A job of a model.

    Args:
        suite: The suite.
        defended: The model.
        fields: The fields that do not follow from the two.
    """
    return Job(
        allow_no_gradients=suite.cascade and not all(choice.needs_gradients for choice in suite.attacks),
        checkpoint=defended.path,
        loading=defended.loading,
        mean=defended.mean,
        std=defended.std,
        size=defended.size,
        **fields,
    )
