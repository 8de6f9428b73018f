"""From a suite's words to what there is to train and to run."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, get_args

from robustbench_cli.attacks.base.eps import Eps
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.benchmarks.checkpoints.checkpoint import read_info
from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel, method_spec, open_defended_model
from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.datasets import DEFAULT_DATASET
from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.benchmarks.datasets.base.slice import first_examples
from robustbench_cli.benchmarks.execution.job import Job
from robustbench_cli.benchmarks.suites.config import AttackEntry, AttackGroup, DefenseConfig, ModelConfig, SuiteConfig
from robustbench_cli.benchmarks.suites.grid import attack_choices, error_location, variants
from robustbench_cli.benchmarks.suites.suite import (
    AttackChoice,
    Condition,
    Selection,
    Suite,
    does_not_know,
    expand,
    usual_norm,
)
from robustbench_cli.benchmarks.training.model_cache import ModelCache
from robustbench_cli.benchmarks.training.train import Training
from robustbench_cli.core.errors import UserError, did_you_mean
from robustbench_cli.defenses import registry as defenses
from robustbench_cli.defenses.base.decision_rules import DecisionRule
from robustbench_cli.defenses.base.training.recipe import Recipe

__all__ = ["DEFAULT_ATTACKS", "Part", "PlannedModel", "Sweep", "jobs_of", "plan"]

DEFAULT_ATTACKS = ("pgd", "cw-pgd", "cw")
"""What attacks where nothing else is asked for, each adapted to the defense."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A suite and the models that it attacks.

    Attributes:
        suite: The words.
        defended_models: Gives the defended models, which it may have to train.
    """

    suite: Suite
    defended_models: Callable[[], Sequence[DefendedModel]]


def jobs_of(
    parts: Sequence[Part],
    *,
    store: Path,
    images: Path | None = None,
    data_dir: Path | None,
    device: str,
    batch_size: int | None,
) -> list[Job]:
    """The jobs of several suites, one for each different cell.

    All that can be wrong with the words is looked at before any model is asked for.

    Args:
        parts: In their order.
        store: See :class:`~robustbench_cli.benchmarks.execution.job.Job`.
        images: As there.
        data_dir: As there.
        device: As there.
        batch_size: As there.

    Raises:
        UserError: See :func:`~robustbench_cli.benchmarks.suites.suite.expand`.
    """
    looked_at = []
    for part in parts:
        data = load_dataset(part.suite.dataset, data_dir=data_dir)
        examples = first_examples(data.split("test"), part.suite.n)
        part.suite.threats(usual_eps=data.eps)
        part.suite.require_fit(examples)
        looked_at.append((part, data.eps, examples))
    jobs: dict[str, Job] = {}
    for part, usual_eps, examples in looked_at:
        for job in expand(
            part.suite,
            part.defended_models(),
            examples=examples,
            usual_eps=usual_eps,
            store=store,
            images=images,
            data_dir=data_dir,
            device=device,
            batch_size=batch_size,
        ):
            jobs.setdefault(job.cell.id, job)
    return list(jobs.values())


@dataclass(frozen=True, kw_only=True)
class PlannedModel:
    """A defended model as a suite names it.

    Attributes:
        cache: Trains it.
        base: The checkpoint that it starts from.
        training: What makes it; ``None`` where the checkpoint is taken as it is.
        decision: The rule by which its draws decide; its own where not given.
        place: Where the suite speaks of it.
    """

    cache: ModelCache
    base: DefendedModel | None
    training: Training | None
    decision: DecisionRule | None
    place: str

    @property
    def key(self) -> str:
        """What tells it from the others."""
        made = (
            f"{self.training.key} {self.training.rule}"
            if self.training is not None
            else self.base and self.base.identity
        )
        return f"{made} {self.decision}"

    @property
    def to_be_trained(self) -> bool:
        """Whether there is no checkpoint of it yet."""
        return self.training is not None and not self.cache.is_trained(self.training)

    @cached_property
    def expected(self) -> DefendedModel:
        """It; or what it will be, where it is to be trained."""
        with error_location(self.place):
            if self.training is not None and self.to_be_trained:
                return self.cache.untrained(self.training, self.decision)
            return self._defended

    @cached_property
    def _defended(self) -> DefendedModel:
        defended = self.base if self.training is None else self.cache.trained(self.training)
        assert defended is not None
        return defended if self.decision is None else defended.with_decision(self.decision)

    def defended(self) -> DefendedModel:
        """It, trained now unless its checkpoint is there already."""
        with error_location(self.place):
            return self._defended


@dataclass(frozen=True)
class Sweep:
    """A suite whose words have been looked at: what attacks what.

    Attributes:
        grid: Suites, each with the models that it attacks.
        selection: Which cells are wanted, in all of them.
    """

    grid: Sequence[tuple[Suite, Sequence[PlannedModel]]]
    selection: Selection

    @property
    def models(self) -> list[PlannedModel]:
        """All models, each once."""
        return list({model.key: model for _, models in self.grid for model in models}.values())

    def expected(self) -> list[Part]:
        """What is to be run, on models that are not trained for it: their cells have identities that no result has."""
        return [
            Part(suite=suite, defended_models=partial(_distinct, [model.expected for model in models]))
            for suite, models in self.grid
        ]

    def parts(self) -> list[Part]:
        """What is to be run; whoever asks for a model of it lets all models be trained that are not yet."""
        train_once = cache(self._train)

        def defended_models(models: Sequence[PlannedModel]) -> list[DefendedModel]:
            train_once()
            return _distinct([model.defended() for model in models])

        return [Part(suite=suite, defended_models=partial(defended_models, models)) for suite, models in self.grid]

    def _train(self) -> None:
        """Trains whatever is to be trained and no other process is at, so that several share the work."""
        for model in self.models:
            if model.training is not None:
                model.cache.train_if_free(model.training)


def _distinct(defended_models: Sequence[DefendedModel]) -> list[DefendedModel]:
    # What has no draws is the same model by every rule of decision.
    return list({defended.identity: defended for defended in defended_models}.values())


def plan(words: SuiteConfig, *, cache: Callable[[str, dict[str, Any], int], ModelCache], seed: int) -> Sweep:
    """Looks at the words of a suite: what attacks what.

    Args:
        words: As they were read.
        cache: Gives, for a data set, what the user set of a training recipe and a seed, how models are come by.
        seed: Of trainings and attacks of which the suite does not say another.

    Raises:
        UserError: A word is unknown, or something that it names is not what it must be.
    """
    selection = Selection(
        include=[Condition(each, words.place("include", number)) for number, each in enumerate(words.include)],
        exclude=[Condition(each, words.place("exclude", number)) for number, each in enumerate(words.exclude)],
    )
    named = _named(words)
    choices = [
        (group, [choice for member in group.attacks for choice in attack_choices(member, named=named)])
        for group in words.groups or (AttackGroup(attacks=tuple(AttackEntry(name=name) for name in DEFAULT_ATTACKS)),)
    ]
    norms = words.norm or (usual_norm([choice for _, members in choices for choice in members]),)
    grid: list[tuple[Suite, Sequence[PlannedModel]]] = []
    for dataset in words.dataset or (DEFAULT_DATASET,):
        with error_location(words.place("dataset")):
            usual_eps = load_dataset(dataset, data_dir=cache(dataset, {}, seed).data_dir).eps
        models = _models(words, dataset, named, cache, seed)
        for n, norm, targeted, repeats, precision in itertools.product(
            words.n or (1000,), norms, words.targeted, words.repeats or (None,), words.precision
        ):
            for group, members in choices:
                attacking = _knowing(words, group, members, norm)
                if not attacking:
                    continue
                suite = Suite(
                    dataset=dataset,
                    n=n,
                    attacks=attacking,
                    norm=norm,
                    eps=words.eps or (),
                    targeted=targeted,
                    repeats=repeats,
                    seeds=words.seeds or (seed,),
                    precision=precision,
                    cascade=group.cascade,
                    accounting=group.accounting,
                    selection=selection,
                )
                threats = suite.threats(usual_eps=usual_eps)
                wanted = [model for model in models if _is_wanted(suite, model.expected, threats)]
                if wanted:
                    grid.append((suite, wanted))
    selection.require_met()
    return Sweep(grid, selection)


def _is_wanted(suite: Suite, defended: DefendedModel, threats: Sequence[tuple[AttackChoice, Norm, Eps | None]]) -> bool:
    """Whether any cell of a model is wanted; all are asked for, since each condition of the suite is to fit one."""
    asked = [suite.wants(defended, *threat, seed) for threat, seed in itertools.product(threats, suite.seeds)]
    return any(asked)


def _knowing(words: SuiteConfig, group: AttackGroup, choices: Sequence[AttackChoice], norm: Norm) -> list[AttackChoice]:
    """The attacks of a group that are to run in a norm; see :attr:`~.suites.read.AttackGroup.any_norm`.

    Of several norms, each attack runs in those that it knows. Beside attacks that know the one norm, those that look for
    the smallest perturbation run in their own; see :meth:`~.suite.Suite.threats`.
    """
    named = words.norm or ()
    if group.any_norm or not words.beside_attacks:
        knowing = [choice for choice in choices if norm in choice.norms]
        if not knowing and len(named) < 2:
            raise UserError(f"{words.place('norm')}: no attack of a suite that is named here knows the norm {norm}")
        return knowing
    strangers = [choice for choice in choices if not {*named} & {*choice.norms}]
    if named and strangers and (len(named) > 1 or len(strangers) == len(choices)):
        with error_location(words.place("norm")):
            raise does_not_know(strangers[0], norm)
    if len(named) < 2:
        return list(choices)
    return [choice for choice in choices if norm in choice.norms]


def _models(
    words: SuiteConfig,
    dataset: str,
    named: Collection[str],
    cache: Callable[[str, dict[str, Any], int], ModelCache],
    seed: int,
) -> list[PlannedModel]:
    """The models of a suite on a data set, each once."""
    found: dict[str, PlannedModel] = {}
    recipes = [(place, *recipe) for place, recipe in _recipes(words, seed)]
    names: tuple[ModelConfig | None, ...] = words.model or (None,)
    for chain, name, (recipe_place, recipe, its_seed), decision in itertools.product(
        words.defenses, names, recipes, words.decision or (None,)
    ):
        cache_of_seed = cache(dataset, recipe, its_seed)
        for specs in _specs(chain):
            place = chain[0].place or words.place("defenses")
            base = _base(chain[0], name, cache_of_seed, named)
            training = None
            if base is None or specs:
                with error_location(place if base is not None else words.place("model") if name else recipe_place):
                    training = cache_of_seed.training(
                        model=name.name if name is not None and base is None else None,
                        mean=name.mean if name is not None and base is None else None,
                        std=name.std if name is not None and base is None else None,
                        base=base,
                        defenses=specs,
                    )
            with error_location(words.place("decision")):
                rule = None if decision is None else _rule(decision)
            model = PlannedModel(cache=cache_of_seed, base=base, training=training, decision=rule, place=place)
            found.setdefault(model.key, model)
    return list(found.values())


def _recipes(words: SuiteConfig, seed: int) -> Iterator[tuple[str, tuple[dict[str, Any], int]]]:
    """What a suite sets of the training recipe, and the seed of the training; with where it stands."""
    for number, said in enumerate(words.train):
        place = words.place("train", number)
        parameters = dict(said)
        seeds = parameters.pop("seed", seed)
        for its_seed in seeds if isinstance(seeds, list) else [seeds]:
            if isinstance(its_seed, bool) or not isinstance(its_seed, int) or not 0 <= its_seed < 2**32:
                raise UserError(f"{place}: train.seed is {its_seed!r:.80}: give a whole number from 0 on")
            with error_location(place):
                for recipe in variants(Recipe, parameters):
                    Recipe.from_parameters(recipe, name="train")
                    yield place, (recipe, its_seed)


def _specs(chain: Sequence[DefenseConfig]) -> Iterator[tuple[MethodSpec, ...]]:
    """The defenses of a chain, for each combination of their parameters."""
    choices: list[list[MethodSpec]] = []
    for words in chain:
        if words.name is not None and words.name != "none":
            with error_location(words.place):
                kind = defenses.load(words.name)
                choices.append(
                    [method_spec(defenses, words.name, each).spec for each in variants(kind, words.parameters)]
                )
    yield from itertools.product(*choices)


def _base(
    words: DefenseConfig, model: ModelConfig | None, cache: ModelCache, named: Collection[str]
) -> DefendedModel | None:
    """The checkpoint that a chain begins with."""
    if words.checkpoint is None:
        return None
    with error_location(words.place):
        if read_info(words.checkpoint) is not None:
            said = {"model": words.model, "classes": words.classes, "mean": words.mean, "std": words.std}
            return open_defended_model(words.checkpoint, named=named, **said)
        data = cache.data
        return open_defended_model(
            words.checkpoint,
            named=named,
            model=words.model or (model.name if model is not None else None),
            classes=words.classes or data.classes,
            mean=words.mean or (model.mean if model is not None else None),
            std=words.std or (model.std if model is not None else None),
            shape=data.shape,
        )


def _rule(word: str) -> DecisionRule:
    rules: tuple[DecisionRule, ...] = get_args(DecisionRule)
    for rule in rules:
        if rule == word:
            return rule
    raise UserError(f"unknown rule of decision '{word}': {did_you_mean(word, rules)}")


def _named(words: SuiteConfig) -> list[str]:
    """The models and defenses that a suite names, some of which may be code of the user's own."""
    defended = [name for chain in words.defenses for each in chain for name in (each.name, each.model)]
    return sorted({name for name in (*defended, *(each.name for each in words.model or ())) if name is not None})
