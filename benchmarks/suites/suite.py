"""A suite: the words of a comparison, and how they expand into cells."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from robustbench_cli.attacks import registry as attacks
from robustbench_cli.attacks.base.eps import Eps, parse_eps
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.evaluation.options import Accounting, Targeted
from robustbench_cli.benchmarks.execution.job import Job
from robustbench_cli.benchmarks.store.cell import Cell, OnlyIf
from robustbench_cli.core.errors import UserError

if TYPE_CHECKING:
    from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel
    from robustbench_cli.benchmarks.datasets.base.slice import Slice

__all__ = ["AttackChoice", "Condition", "Selection", "Suite", "does_not_know", "expand", "usual_norm"]


@dataclass(frozen=True)
class AttackChoice:
    """An attack of a suite.

    Attributes:
        spec: The attack and its parameters.
        norms: The norms that it knows, its own first.
        minimal_norm: Whether it looks for the smallest perturbation.
        eot: Draws a gradient, ``"exact"``, or ``"auto"``.
        in_bf16: Whether it may follow gradients in bf16: not where its own decisions say how small a perturbation may
            be.
        surrogate: The model that it asks in the place of the attacked one.
        limited: Whether its suite says in which norms it runs, so that in another norm it does not.
        only_if: Whether it runs only where those before it in a cascade were blinded.
    """

    spec: MethodSpec
    norms: tuple[Norm, ...]
    minimal_norm: bool
    eot: int | Literal["exact", "frozen", "auto"] = "auto"
    in_bf16: bool = False
    surrogate: DefendedModel | None = None
    limited: bool = False
    only_if: OnlyIf | None = None

    def draws(self, defended: DefendedModel) -> int | Literal["exact", "frozen"]:
        """The draws behind a gradient where this attacks a subject: of the model that it asks."""
        return (self.surrogate or defended).eot(self.eot)


@dataclass(frozen=True)
class Condition:
    """Some words of a cell, as the table has them, each with the values that fit.

    Attributes:
        values: By word; all of them have to fit.
        place: Where it stands, for messages.
    """

    values: Mapping[str, Sequence[Any]]
    place: str

    def fits(self, words: Mapping[str, Sequence[Any]]) -> bool:
        """Whether a cell fits, of which each word may be said in several ways."""
        return all(set(_as_words(key, values)) & set(_as_words(key, words[key])) for key, values in self.values.items())


@dataclass(frozen=True)
class Selection:
    """Which cells of a grid are wanted: those that fit one of ``include``, if there is any, and none of ``exclude``."""

    include: Sequence[Condition] = ()
    exclude: Sequence[Condition] = ()
    _met: set[int] = field(default_factory=set)

    def wants(self, words: Mapping[str, Sequence[Any]]) -> bool:
        """Whether a cell is wanted; see :meth:`Condition.fits`."""
        included = [condition for condition in self.include if condition.fits(words)]
        excluded = [condition for condition in self.exclude if condition.fits(words)]
        self._met.update(map(id, (*included, *excluded)))
        return (not self.include or bool(included)) and not excluded

    def require_met(self) -> None:
        """Makes sure that each condition has fitted a cell.

        Raises:
            UserError: One has not, so that it is a slip of the pen.
        """
        for condition in (*self.include, *self.exclude):
            if id(condition) not in self._met:
                said = ", ".join(f"{key}: {' or '.join(map(str, values))}" for key, values in condition.values.items())
                raise UserError(f"{condition.place}: no cell has {said}: leave it out, or give words of the table")


def _as_words(key: str, values: Sequence[Any]) -> Iterator[str]:
    for value in values:
        if key == "eps" and value is not None:
            yield str(parse_eps(str(value)).value)
        else:
            # YAML reads the word no as false.
            yield "no" if value is False else str(value)


def usual_norm(choices: Sequence[AttackChoice]) -> Norm:
    """The norm of the radii where nobody names one: linf, or the first attack's own where none of them knows linf."""
    return "linf" if any("linf" in choice.norms for choice in choices) else choices[0].norms[0]


def does_not_know(attack: AttackChoice, norm: Norm) -> UserError:
    """The error of an attack in a norm that it does not know, with the attacks that do the same in that norm."""
    name = attack.spec.name
    like_it = []
    for each in attacks.names():
        # What is installed beside this project may be broken, which is not to be told of here.
        with suppress(UserError):
            kind = attacks.load(each)
            if norm in kind.norms and kind.minimal_norm == attack.minimal_norm:
                like_it.append(each)
    # cw and cw-linf are one method.
    of_its_name = [each for each in like_it if f"{each}-".startswith(f"{name}-") or f"{name}-".startswith(f"{each}-")]
    others = of_its_name or like_it
    way_out = f"; in {norm} give {', '.join(others[:-1])}{' or ' if others[1:] else ''}{others[-1]}" if others else ""
    return UserError(f"{name} does not know the norm {norm}: it knows {', '.join(attack.norms)}{way_out}")


@dataclass(frozen=True, kw_only=True)
class Suite:
    """What is attacked with what. Every sequence is a dimension of the grid.

    Attributes:
        dataset: As the user named it.
        n: Images.
        attacks: At least one.
        norm: The norm of the radii; ``None`` is linf, or the first attack's own where none of them knows linf.
        eps: The radii; where there are none, the data set's usual one in linf.
        targeted: How target classes are chosen.
        repeats: Draws that score an image; ``None`` for 10 of a randomized model and 1 of another.
        seeds: Of the attacks.
        precision: Of the gradients of the attacks that may follow them in bf16; every image is judged in float32.
        cascade: Whether an attack goes on where those before it have failed, and is not run on what they have broken.
        accounting: What of a randomized model counts; one draw is what ``"single-draw"`` scores by, so it takes no
            ``repeats``.
        selection: Which cells of the grid are wanted.
    """

    dataset: str
    n: int
    attacks: Sequence[AttackChoice]
    norm: Norm | None = None
    eps: Sequence[Eps] = ()
    targeted: Targeted = "no"
    repeats: int | None = None
    seeds: Sequence[int] = (0,)
    precision: Literal["float32", "bf16"] = "float32"
    cascade: bool = False
    accounting: Accounting = "expected"
    selection: Selection = field(default_factory=Selection)

    def threats(self, *, usual_eps: str) -> list[tuple[AttackChoice, Norm, Eps | None]]:
        """The attacks, each with every norm and radius that it runs at, from the smallest radius to the largest.

        A minimal-norm attack that does not know the suite's norm runs in its own; the radii are none of that norm, so
        all its successes count.

        Args:
            usual_eps: The data set's usual radius in linf.

        Raises:
            UserError: A radius is missing, an attack does not know the norm, or there are repeats of a single draw.
        """
        if self.accounting == "single-draw" and self.repeats is not None:
            raise UserError("this suite counts single draws, as AutoAttack does: leave --repeats out")
        norm = self.norm or usual_norm(self.attacks)
        radii: list[Eps | None] = [*sorted(self.eps, key=lambda eps: eps.value)]
        if not radii and any(not attack.minimal_norm for attack in self.attacks):
            if norm != "linf":
                raise UserError(f"no radius is usual in {norm}: give --eps")
            radii = [parse_eps(usual_eps)]
        if norm == "linf":
            for eps in radii:
                if eps is not None and eps.value > 1:
                    raise UserError(
                        f"eps is {eps.text}: in linf it is at most 1, on the [0, 1] pixel scale, as in 8/255"
                    )
        threats: list[tuple[AttackChoice, Norm, Eps | None]] = []
        for attack in self.attacks:
            if norm in attack.norms:
                threats += [(attack, norm, eps) for eps in radii or [None]]
            elif attack.limited:
                continue
            elif attack.minimal_norm:
                threats.append((attack, attack.norms[0], None))
            else:
                raise does_not_know(attack, norm)
        if self.cascade:
            threats.sort(key=lambda threat: 0.0 if threat[2] is None else threat[2].value)
        return threats

    def require_fit(self, examples: Slice) -> None:
        """Makes sure that the surrogates of the attacks take the examples and know their classes.

        Raises:
            UserError: One does not.
        """
        for attack in self.attacks:
            if attack.surrogate is not None:
                attack.surrogate.require_fit(examples, self.dataset)

    def wants(self, defended: DefendedModel, attack: AttackChoice, norm: Norm, eps: Eps | None, seed: int) -> bool:
        """Whether a cell of the grid is wanted."""
        return self.selection.wants(
            {
                "dataset": [self.dataset],
                "model": [defended.model],
                "checkpoint": [str(defended.path), defended.path.name],
                "defense": [defended.defense, "+".join(each.name for each in defended.defenses) or "none"],
                "decision": [defended.decision or "none"],
                "attack": [attack.spec.label, attack.spec.name],
                "norm": [norm],
                "eps": [None if eps is None else eps.value],
                "targeted": [self.targeted],
                "eot": [attack.draws(defended)],
                "n": [self.n],
                "repeats": [self.repeats],
                "seed": [seed],
                "precision": [self.precision],
            }
        )

    def chain(self, attack: AttackChoice, eps: Eps | None, defended: DefendedModel) -> str | None:
        """Names the cells of a subject of which each leaves the next what it has broken, or ``None`` where none does.

        What an untargeted attack has broken in every draw there is stays broken at a larger radius, and in a cascade
        for all later attacks. A minimal-norm attack searches once for all radii.
        """
        eot = attack.draws(defended)
        if self.targeted != "no" or eps is None:
            return None
        if defended.randomized and self.accounting == "single-draw":
            # One draw has made it fall at this radius; at another one, draws are drawn again.
            return f"cascade {eps.value}" if self.cascade else None
        # What is found on all draws of a surrogate has been tried on none of the attacked model.
        if defended.randomized and (eot != "exact" or attack.surrogate is not None):
            return None
        if self.cascade:
            return "cascade"
        return None if attack.minimal_norm else f"{attack.spec.model_dump_json()} {eot}"


def expand(
    suite: Suite,
    defended_models: Sequence[DefendedModel],
    *,
    examples: Slice,
    usual_eps: str,
    store: Path,
    images: Path | None = None,
    data_dir: Path | None,
    device: str,
    batch_size: int | None,
) -> list[Job]:
    """The jobs of a suite, one for each different cell, in the order of its dimensions.

    Args:
        suite: The words.
        defended_models: The defended models.
        examples: The evaluated slice.
        usual_eps: The data set's usual radius in linf.
        store: See :class:`Job`.
        images: See :class:`Job`.
        data_dir: See :class:`Job`.
        device: See :class:`Job`.
        batch_size: See :class:`Job`.

    Raises:
        UserError: A radius is missing, an attack does not know the norm, a defense not the gradient source, or a model
            does not take the images.
    """
    threats = suite.threats(usual_eps=usual_eps)
    jobs: dict[str, Job] = {}
    for defended in defended_models:
        defended.require_fit(examples, suite.dataset)
        for attack in suite.attacks:
            if attack.surrogate is not None and attack.surrogate.classes != defended.classes:
                raise UserError(
                    f"{attack.surrogate.path} knows {attack.surrogate.classes} classes, {defended.path} {defended.classes}: "
                    "give a surrogate of the same classes"
                )
        latest: dict[tuple[str, int], Job] = {}
        known: set[str] = set()
        for (attack, norm, eps), seed in itertools.product(threats, suite.seeds):
            if not suite.wants(defended, attack, norm, eps, seed):
                continue
            chain = suite.chain(attack, eps, defended)
            before = None if chain is None else latest.get((chain, seed))
            if attack.only_if is not None and (before is None or not suite.cascade):
                # Where no attack goes on from another, there is none whose result the condition could be about.
                continue
            cell = Cell(
                dataset=suite.dataset,
                data=examples.sha256,
                n=len(examples),
                model=defended.model,
                checkpoint=defended.identity,
                defenses=defended.defenses,
                attack=attack.spec,
                norm=norm,
                eps=None if eps is None else eps.value,
                targeted=suite.targeted,
                eot=attack.draws(defended),
                repeats=defended.repeats(1 if suite.accounting == "single-draw" else suite.repeats),
                seed=seed,
                precision=suite.precision if attack.in_bf16 else "float32",
                accounting=suite.accounting if defended.randomized else "expected",
                only_if=attack.only_if,
            )
            # The same attack twice, in other words or with a gradient source that comes to the same, is one cell.
            if cell.id in known:
                continue
            known.add(cell.id)
            if before is not None:
                passed_on = before.cell.attack != attack.spec
                cell = cell.model_copy(update={"after": before.cell.id, "cascade": passed_on})
            job = Job(
                cell=cell,
                eps="" if eps is None else eps.text,
                before=before,
                checkpoint=defended.path,
                loading=defended.loading,
                mean=defended.mean,
                std=defended.std,
                store=store,
                images=images,
                data_dir=data_dir,
                device=device,
                batch_size=batch_size,
            )
            jobs.setdefault(cell.id, job)
            if chain is not None:
                latest[chain, seed] = job
    return list(jobs.values())
