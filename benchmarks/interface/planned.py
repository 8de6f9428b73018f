"""From the attacks that a Python user named, and a model in memory, to the cells that the command line would run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from robustbench_cli.attacks import registry as attacks
from robustbench_cli.attacks.base.attack import Attack
from robustbench_cli.attacks.base.eps import Eps
from robustbench_cli.attacks.base.inputs import checked_norm
from robustbench_cli.attacks.base.models.measured_model import MeasuredModel
from robustbench_cli.attacks.base.norm import NORMS, Norm
from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel, load_surrogates, model_size
from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.datasets.base.slice import Slice
from robustbench_cli.benchmarks.evaluation.options import EvaluationOptions, GridOptions
from robustbench_cli.benchmarks.execution.job import Job, JobOptions
from robustbench_cli.benchmarks.suites.config import AttackEntry, AttackGroup
from robustbench_cli.benchmarks.suites.grid import attack_choices
from robustbench_cli.benchmarks.suites.load import read_suite
from robustbench_cli.benchmarks.suites.names import is_file_name, suite_names
from robustbench_cli.benchmarks.suites.plan import DEFAULT_ATTACKS
from robustbench_cli.benchmarks.suites.suite import AttackChoice, Suite, expand, unsupported_norm, usual_norm
from robustbench_cli.core.errors import UserError, did_you_mean

__all__ = ["Named", "PlannedAttacks", "described"]

Named = str | Attack | Sequence[str | Attack] | None
"""Attacks by name or with their parameters, or the name or the file of a suite; ``None`` for the command line's default."""

_IN_MEMORY = "in memory"
"""Where a cell names a checkpoint or a data set."""


class PlannedAttacks:
    """The attacks of an evaluation, as groups of a suite.

    Args:
        named: What the user gave.

    Raises:
        UserError: A name or a parameter is unknown, or it is neither a name nor an attack.
    """

    def __init__(self, named: Named) -> None:
        self._objects: dict[str, Attack] = {}
        self._is_default = named is None
        self._is_suite = isinstance(named, str) and (is_file_name(named) or named in suite_names())
        self._groups = [
            (group, [choice for entry in entries for choice in self._choices(entry)])
            for group, entries in self._entries(named)
        ]

    def _entries(self, named: Named) -> Iterator[tuple[AttackGroup | None, Sequence[AttackEntry | str | Attack]]]:
        """Each group of a suite with its attacks; ``None`` for the attacks that the user named."""
        if isinstance(named, str) and self._is_suite:
            suite = read_suite(named)
            suite.require_attacks_only(named)
            for group in suite.groups:
                if any(entry.name != "none" for entry in group.corruptions):
                    raise UserError(f"the suite {named} corrupts the images: do so yourself, as in advdef.corrupt")
                yield group, group.attacks
        elif named is None or isinstance(named, str | Attack):
            yield None, DEFAULT_ATTACKS if named is None else [named]
        elif isinstance(named, list | tuple) and named:
            yield None, named
        else:
            raise UserError(f"attack is {named!r:.80}: {_FORMS}")

    def _choices(self, entry: AttackEntry | str | Attack) -> list[AttackChoice]:
        """An attack as a choice of a suite."""
        if isinstance(entry, Attack):
            return [self._choice_of(entry)]
        if isinstance(entry, str):
            if entry not in attacks.names() and (":" not in entry):
                known = did_you_mean(entry, [*attacks.names(), *suite_names()], kind="attack")
                raise UserError(f"unknown attack '{entry}': {known}")
            entry = AttackEntry(name=entry)
        if not isinstance(entry, AttackEntry):
            raise UserError(f"attack is {entry!r:.80}: {_FORMS}")
        return attack_choices(entry)

    def _choice_of(self, attack: Attack) -> AttackChoice:
        """An attack with its parameters as a choice of a suite."""
        kind, name = type(attack), attacks.name_of(type(attack))
        try:
            spec = MethodSpec.of(attack, name=name)
        except UserError:
            # A model in memory, and what a user's own attack holds, have no form as data.
            spec = MethodSpec(name=name, source=f"{_IN_MEMORY}, {id(attack)}")
        self._objects[spec.canonical_identity] = attack
        return AttackChoice(
            spec=spec,
            norms=kind.norms,
            minimal_norm=kind.minimal_norm,
            perturbs=kind.perturbs,
            any_precision=kind.access == "gradients" and not kind.minimal_norm,
            needs_gradients=kind.access == "gradients",
        )

    def attack(self, spec: MethodSpec) -> Any:
        """The attack of a cell.

        Args:
            spec: The attack as data.
        """
        known = self._objects.get(spec.canonical_identity)
        return known or spec.build(attacks, **load_surrogates(spec, ()))

    def norm(self, norm: Any) -> Norm:
        """The norm of the radius.

        Args:
            norm: As the user gave it; ``None`` for linf, or the first attack's own norm if no attack supports linf.

        Raises:
            UserError: There is no such norm.
        """
        if norm is None:
            return usual_norm([choice.norms for _, choices in self._groups for choice in choices])
        return checked_norm(norm, NORMS, name="evaluate")

    def jobs(
        self, model: DefendedModel, examples: Slice, options: EvaluationOptions, *, eps: str, has_norm: bool
    ) -> list[Job]:
        """The cells of the evaluation with what each continues, in the order in which they run.

        Args:
            model: The model; see :func:`described`.
            examples: The images and the labels.
            options: What is measured, with a norm.
            eps: The radius as the user wrote it.
            has_norm: Whether the user chose the norm.

        Raises:
            UserError: A radius is missing, an attack does not support the norm, or an evaluation of several attacks is to
                stop early.
        """
        jobs = []
        for group, choices in self._groups:
            supported = self._supported(group, choices, options, has_norm=has_norm)
            accounting = options.accounting if group is None else group.accounting
            suite = Suite(
                dataset=_IN_MEMORY,
                n=len(examples),
                attacks=[_with_draws(choice, options) for choice in supported],
                norm=_norm_of(options),
                eps=() if options.eps is None else [Eps(eps, options.eps)],
                options=GridOptions(**{name: getattr(options, name) for name in GridOptions.model_fields}),
                seeds=(options.seed,),
                cascade=group is not None and group.cascade,
                accounting=accounting,
            )
            in_memory = JobOptions(store=Path(_IN_MEMORY), data_dir=None, device="cpu", batch_size=None)
            jobs += expand(suite, [model], examples=examples, usual_eps="", options=in_memory)
        if options.stop_when_decided is not None and len(jobs) > 1:
            raise UserError("stop_when_decided judges one attack alone: give one attack, or leave it out")
        return jobs

    def _supported(
        self,
        group: AttackGroup | None,
        choices: Sequence[AttackChoice],
        options: EvaluationOptions,
        *,
        has_norm: bool,
    ) -> Sequence[AttackChoice]:
        """The attacks of a group that run; those that the user named must support the norm of a radius.

        A suite runs those of its attacks that support the norm, and so do the default attacks in a norm that the user chose.
        """
        norm = _norm_of(options)
        unsupported = [choice for choice in choices if choice.perturbs and norm not in choice.norms]
        is_choosable = group is not None or (self._is_default and has_norm)
        if unsupported and (len(unsupported) == len(choices) if is_choosable else self._needs(options, has_norm)):
            spec = unsupported[0].spec
            if spec.canonical_identity in self._objects:
                checked_norm(norm, unsupported[0].norms, name=type(self.attack(spec)).__name__)
            raise unsupported_norm(spec.name, unsupported[0].norms, norm)
        running = [choice for choice in choices if choice not in unsupported] if is_choosable else choices
        fixed = [choice.spec.name for choice in running if choice.perturbs and not choice.minimal_norm]
        if fixed and options.eps is None:
            raise UserError(f"{fixed[0]} needs a radius: give eps, as in eps='8/255'")
        return running

    def _needs(self, options: EvaluationOptions, has_norm: bool) -> bool:
        """Whether every attack that the user named must support the norm."""
        return not self._is_default and (has_norm or options.eps is not None)


_FORMS = "give an attack such as advdef.PGD(steps=40), its name 'pgd', the name of a suite, or a list of attacks"


def _norm_of(options: EvaluationOptions) -> Norm:
    assert options.norm is not None
    return options.norm


def _with_draws(choice: AttackChoice, options: EvaluationOptions) -> AttackChoice:
    """A choice with the user's draws per gradient, where the suite sets none."""
    return replace(choice, eot=options.eot) if choice.eot == "auto" else choice


def described(measured: MeasuredModel, classes: int) -> DefendedModel:
    """A model in memory, as the command line describes a model in a checkpoint.

    Args:
        measured: The model, frozen.
        classes: K.
    """
    channels, height, width = measured.images.shape[1:]
    return DefendedModel(
        path=Path(_IN_MEMORY),
        loading={},
        identity=_IN_MEMORY,
        model=type(measured.model).__name__,
        mean=None,
        std=None,
        dataset=None,
        shape=(channels, height, width),
        classes=classes,
        defenses=(),
        randomized=measured.randomized,
        cost_of_all_draws=measured.cost_of_all_draws,
        training={},
        size=model_size(measured.model, measured.images[:1]),
    )
