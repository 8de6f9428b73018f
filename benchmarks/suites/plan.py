"""The plan of a suite: which models it attacks, what has to be trained for them, and the jobs that follow."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, get_args

from robustbench_cli.attacks import registry as attacks
from robustbench_cli.attacks.base.eps import Eps, parse_eps
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.benchmarks.checkpoints.checkpoint import metadata_of, read_info
from robustbench_cli.benchmarks.checkpoints.defended_model import (
    DefendedModel,
    for_classes,
    method_spec,
    open_defended_model,
    specs_by_rule,
)
from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.corruptions.base.examples import source_examples
from robustbench_cli.benchmarks.datasets import DEFAULT_N
from robustbench_cli.benchmarks.datasets.base.dataset import Dataset
from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.benchmarks.datasets.base.options import takes_model_size, with_model_size
from robustbench_cli.benchmarks.execution.job import Job, JobOptions
from robustbench_cli.benchmarks.models.base.metadata import ModelMetadata
from robustbench_cli.benchmarks.models.base.source import config_for
from robustbench_cli.benchmarks.store.records import Origin
from robustbench_cli.benchmarks.suites.config import (
    AttackEntry,
    AttackGroup,
    DefenseConfig,
    ModelConfig,
    SuiteConfig,
)
from robustbench_cli.benchmarks.suites.grid import (
    attack_choices,
    corruption_choices,
    error_location,
    variants,
)
from robustbench_cli.benchmarks.suites.size import require_reasonable_size
from robustbench_cli.benchmarks.suites.suite import (
    AttackChoice,
    Condition,
    Selection,
    Suite,
    expand,
    unsupported_norm,
    usual_norm,
)
from robustbench_cli.benchmarks.training.model_cache import (
    ModelCache,
    numbering_hint,
    require_class_order,
    require_classes,
    require_labels_from_zero,
)
from robustbench_cli.benchmarks.training.train import Training
from robustbench_cli.benchmarks.weights.fill import OtherClassesError
from robustbench_cli.core.atomic_write import display_path
from robustbench_cli.core.errors import Choice, Notice, UserError, did_you_mean
from robustbench_cli.defenses import registry as defenses
from robustbench_cli.defenses.base.decision_rules import DecisionRule
from robustbench_cli.defenses.base.training.named_recipe import NamedRecipe
from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.recipes import registry as recipes

__all__ = [
    "DEFAULT_ATTACKS",
    "CacheFor",
    "Plan",
    "PlannedModel",
    "plan",
    "plan_models",
    "train_models",
]

DEFAULT_ATTACKS = ("pgd", "cw-pgd", "cw")
"""The attacks where the user names none, each adapted to the defense."""

CacheFor = Callable[[str, dict[str, Any], int], ModelCache]
"""Gives the model cache of a data set, the recipe parameters that the user set, and a training seed."""


@dataclass(frozen=True, kw_only=True)
class PlannedModel:
    """A defended model of a suite, trained or not.

    Attributes:
        cache: Trains it.
        base: The checkpoint that it starts from.
        training: Its training; ``None`` where the checkpoint is used as it is.
        decision: Its decision rule; the defense's own where ``None``.
        location: Its file and line in the suite, for messages.
    """

    cache: ModelCache
    base: DefendedModel | None
    training: Training | None
    decision: DecisionRule | None
    location: str

    @property
    def key(self) -> str:
        """A key that two models share only if they are the same."""
        weights_key = (
            f"{self.training.key} {self.training.rule}"
            if self.training is not None
            else self.base and self.base.identity
        )
        return f"{weights_key} {self.decision}"

    @property
    def needs_training(self) -> bool:
        """Whether anything has to be trained for it."""
        return self.training is not None and bool(self.cache.missing(self.training))

    def may_be_in(self, suite: Suite) -> bool:
        """Whether a suite may want it; what the suite leaves out need not be possible, as a defense that does not fit a model.

        Args:
            suite: The suite.
        """
        if self.training is None or self.base is not None:
            return True
        specs = self.training.defenses
        if self.decision is not None:
            # It is part of the label of a defense.
            specs = specs_by_rule(self.decision, specs)
        return suite.may_want(self.training.model, specs)

    @cached_property
    def expected(self) -> DefendedModel:
        """The defended model; before its training, the same with untrained weights."""
        with error_location(self.location):
            if self.training is not None and not self.cache.is_trained(self.training):
                return self.cache.untrained(self.training, self.decision)
            return self._defended

    @cached_property
    def _defended(self) -> DefendedModel:
        defended = self.base if self.training is None else self.cache.trained(self.training)
        assert defended is not None
        return defended if self.decision is None else defended.with_decision(self.decision)

    @property
    def origin(self) -> Origin:
        """How it is trained, for a command that trains it again."""
        if self.training is None:
            return Origin()
        usual = Recipe.from_parameters(self.cache.usual_recipe, name="train").model_dump(mode="json")
        changed = {name: value for name, value in self.training.recipe.items() if value != usual[name]}
        return Origin(
            # Without data nothing is learned.
            recipe={**changed, "seed": self.training.seed} if self.training.data else {},
            base="" if self.base is None else display_path(self.base.path),
            base_defenses=0 if self.base is None else len(self.base.defenses),
        )

    def defended(self) -> DefendedModel:
        """The defended model, trained now unless the cache has its checkpoint."""
        with error_location(self.location):
            return self._defended


@dataclass(frozen=True)
class Plan:
    """The suites of a config and the models that each attacks.

    Attributes:
        suites: One for each combination of what all cells of a suite share, with its models.
        config: What the user wrote.
    """

    suites: Sequence[tuple[Suite, Sequence[PlannedModel]]]
    config: SuiteConfig

    @property
    def models(self) -> list[PlannedModel]:
        """All models, each once."""
        return list({model.key: model for _, models in self.suites for model in models}.values())

    @property
    def norms(self) -> list[Norm]:
        """The norms in which attacks run, each once."""
        return list(dict.fromkeys(suite.norm for suite, _ in self.suites))

    @property
    def trainings(self) -> list[tuple[ModelCache, Training]]:
        """What has to be trained, each once and in an order in which nothing is trained before what it starts from."""
        missing = [
            (model.cache, training)
            for model in self.models
            if model.training is not None
            for training in model.cache.missing(model.training)
        ]
        return list({training.key: (cache, training) for cache, training in missing}.values())

    def train(self) -> None:
        """Trains each model that the cache does not have, after those that another process is training."""
        train_models(self.models)

    def jobs(self, options: JobOptions) -> list[Job]:
        """The jobs of all suites on trained models, one for each different cell.

        Args:
            options: Where and how the jobs run.

        Raises:
            UserError: See :func:`~robustbench_cli.benchmarks.suites.suite.expand`.
        """
        return self._expanded(options, PlannedModel.defended)

    def expected_jobs(self, options: JobOptions) -> list[Job]:
        """The same jobs before any training: a cell of an untrained model has an identity that no result has."""
        return self._expanded(options, lambda model: model.expected)

    def _expanded(self, options: JobOptions, defended: Callable[[PlannedModel], DefendedModel]) -> list[Job]:
        jobs: dict[str, Job] = {}
        for suite, models in self.suites:
            data = load_dataset(suite.dataset, data_dir=options.data_dir)
            examples = source_examples(data, suite.n, suite.corruption)
            # A model without random draws is the same model under every decision rule.
            distinct = {defended(model).identity: model for model in models}
            origins = {identity: model.origin for identity, model in distinct.items()}
            chosen = [defended(model) for model in distinct.values()]
            for job in expand(suite, chosen, examples=examples, usual_eps=data.eps, options=options, origins=origins):
                jobs.setdefault(job.cell.id, job)
        return list(jobs.values())


def train_models(models: Sequence[PlannedModel]) -> None:
    """Trains each model that the cache does not have.

    Args:
        models: Those that another process is training are left for the end, so that several processes share the work.
    """
    for model in models:
        if model.training is not None:
            with error_location(model.location):
                model.cache.train_if_free(model.training)
    for model in models:
        model.defended()


def plan(config: SuiteConfig, *, cache_for: CacheFor, seed: int) -> Plan:
    """Checks a suite and finds what attacks what. Nothing is trained.

    Args:
        config: The suite, from a file or from the command line.
        cache_for: Gives the model cache of each training.
        seed: Of trainings and attacks for which the suite sets none.

    Raises:
        UserError: A name is unknown, or a value is not allowed; or the suite is too large to be expanded.
    """
    require_reasonable_size(config)
    selection = Selection(
        include=[Condition(values, config.location("include", number)) for number, values in enumerate(config.include)],
        exclude=[Condition(values, config.location("exclude", number)) for number, values in enumerate(config.exclude)],
    )
    groups = _attacks(config)
    norms = config.norm or (usual_norm([choice.norms for _, choices in groups for choice in choices]),)
    config.require_radii(norms)
    suites: list[tuple[Suite, Sequence[PlannedModel]]] = []
    for dataset, models in _models(config, cache_for, seed).items():
        data = models[0].cache.data
        for suite in _suites(config, (dataset, data), groups, norms, selection, seed):
            with error_location(config.location("norm")):
                threats = suite.threats(usual_eps=data.eps)
            suite.require_fit(source_examples(data, suite.n, suite.corruption))
            wanted = [
                model for model in models if model.may_be_in(suite) and _is_wanted(suite, model.expected, threats)
            ]
            if wanted:
                suites.append((suite, wanted))
    selection.require_met()
    return Plan(suites, config)


def plan_models(config: SuiteConfig, *, cache_for: CacheFor, seed: int) -> list[PlannedModel]:
    """The models of a suite alone, for commands that run no attack of it.

    Args:
        config: See :func:`plan`.
        cache_for: See :func:`plan`.
        seed: Of the trainings for which the suite sets none.

    Raises:
        UserError: A name is unknown, or a value is not allowed.
    """
    return [model for models in _models(config, cache_for, seed).values() for model in models]


def _attacks(config: SuiteConfig) -> list[tuple[AttackGroup, list[AttackChoice]]]:
    """The attacks of each group, with every combination of their parameters.

    Raises:
        UserError: An attack is not allowed, or a norm or a radius is set where none of the attacks has any.
    """
    default = AttackGroup(attacks=tuple(AttackEntry(name=name) for name in DEFAULT_ATTACKS))
    named = _user_code(config)
    groups = [
        (group, [choice for entry in group.attacks for choice in attack_choices(entry, named=named)])
        for group in config.groups or (default,)
    ]
    for key in ("eps", "norm", "targeted"):
        if getattr(config, key) and not any(choice.perturbs for _, choices in groups for choice in choices):
            option = config.prefix(key) + key if config.location(key) else f"--{key}"
            raise UserError(f"{option} changes nothing: the attack none leaves the images as they are: leave it out")
    _require_stoppable(config, groups)
    return groups


def _require_stoppable(config: SuiteConfig, groups: Sequence[tuple[AttackGroup, Sequence[AttackChoice]]]) -> None:
    """Checks that each cell may stop as soon as its own accuracy is decided, where the user wants that.

    Raises:
        UserError: A cascade or a per-image worst case needs all outcomes of each attack, or an attack has no radius.
    """
    if all(options.stop_when_decided is None for options in config.grid_options()):
        return
    if any(group.cascade for group, _ in groups):
        raise UserError(
            "stop_when_decided judges each attack alone, and in this suite each attack needs the outcomes of those before it: "
            "leave it out, or name one attack"
        )
    choices = [choice for _, choices in groups for choice in choices if choice.perturbs]
    for choice in choices:
        if choice.minimal_norm:
            raise UserError(
                f"stop_when_decided is for attacks within a radius, and {choice.spec.name} searches once for all radii: leave it "
                "out, or name a fixed-radius attack"
            )
    if len(choices) > 1:
        names = ", ".join(dict.fromkeys(choice.spec.label for choice in choices))
        raise UserError(
            f"stop_when_decided judges each attack alone, not what {len(choices)} attacks ({names}) leave together: give one attack"
        )


def _suites(
    config: SuiteConfig,
    named_data: tuple[str, Dataset],
    groups: Sequence[tuple[AttackGroup, Sequence[AttackChoice]]],
    norms: Sequence[Norm],
    selection: Selection,
    seed: int,
) -> Iterator[Suite]:
    """A suite for each combination of the dimensions that all cells of a suite share."""
    dataset, data = named_data
    for n, norm, options in itertools.product(config.n or (DEFAULT_N,), norms, config.grid_options()):
        for group, choices in groups:
            supported = [_for_classes(choice, data) for choice in _supporting(config, group, choices, norm)]
            for corruption in _corruptions(group, data) if supported else ():
                yield Suite(
                    dataset=dataset,
                    n=n,
                    attacks=supported,
                    corruption=corruption,
                    norm=norm,
                    eps=config.eps or (),
                    options=options,
                    seeds=config.seeds or (seed,),
                    cascade=group.cascade,
                    accounting=group.accounting,
                    selection=selection,
                )


def _for_classes(choice: AttackChoice, data: Dataset) -> AttackChoice:
    return replace(choice, spec=for_classes(choice.spec, attacks, data))


def _corruptions(group: AttackGroup, data: Dataset) -> list[MethodSpec | None]:
    """The corruptions of a group; without the images as they are where a data set has only corrupted ones.

    Where nothing else is left, the data set says that it has no such images.
    """
    corruptions = corruption_choices(group.corruptions)
    if data.only_corrupted and len(corruptions) > 1:
        return [corruption for corruption in corruptions if corruption is not None]
    return corruptions


def _is_wanted(suite: Suite, defended: DefendedModel, threats: Sequence[tuple[AttackChoice, Norm, Eps | None]]) -> bool:
    """Whether any cell of a model is selected; every cell is looked at, since each condition must match one.

    Raises:
        UserError: An attack needs all draws of the model, and they cannot be counted: known before the model is trained.
    """
    selected = [
        attack
        for (attack, norm, eps), seed in itertools.product(threats, suite.seeds)
        if suite.wants(defended, attack, norm, eps, seed)
    ]
    for attack in selected:
        attack.draws(defended)
    return bool(selected)


def _supporting(
    config: SuiteConfig, group: AttackGroup, choices: Sequence[AttackChoice], norm: Norm
) -> list[AttackChoice]:
    """The attacks of a group that run in a norm; see :attr:`~.suites.config.AttackGroup.any_norm`.

    With several norms, each attack runs in those that it supports. With one norm, a minimal-norm attack that does not
    support it runs in its own norm; see :meth:`~.suite.Suite.threats`.
    """
    norms = config.norm or ()
    supporting = [choice for choice in choices if norm in choice.norms]
    if group.any_norm or not config.beside_attacks:
        if not supporting and len(norms) < 2:
            raise UserError(f"{config.prefix('norm')}no attack of the suites named here supports the norm {norm}")
        return supporting
    unsupported = [choice for choice in choices if not {*norms} & {*choice.norms}]
    if norms and unsupported and (len(norms) > 1 or len(unsupported) == len(choices)):
        with error_location(config.location("norm")):
            raise unsupported_norm(unsupported[0].spec.name, unsupported[0].norms, norm)
    return list(choices) if len(norms) < 2 else supporting


def _models(config: SuiteConfig, cache_for: CacheFor, seed: int) -> dict[str, list[PlannedModel]]:
    """The models of a suite by data set, each once; see :func:`_sized`."""
    models: dict[str, dict[str, PlannedModel]] = {}
    names: tuple[ModelConfig | None, ...] = config.model or (None,)
    for named, chain, name, (recipe_location, recipe, recipe_seed), rule in itertools.product(
        config.datasets(), config.defenses, names, list(_recipes(config, seed)), _decision_rules(config)
    ):
        with error_location(config.location("dataset")):
            dataset = _sized(named, chain[0], name)
            cache = cache_for(dataset, recipe, recipe_seed)
            load_dataset(dataset, data_dir=cache.data_dir)
        base = _base(chain[0], name, cache, _user_code(config))
        if base is not None and not cache.data.only_corrupted:
            with error_location(chain[0].location):
                # All of them: the first images may lack the label that does not fit.
                base.require_labels(cache.data.split("test").labels, cache.data.name)
        cache, entries, network = _with_recipe(cache, chain)
        model_location = chain[0].location or config.location("defenses")
        locations = (config.location("model") if name else recipe_location, model_location)
        for specs in _specs(entries):
            training = None
            if base is None or specs:
                chosen = name if name is not None and base is None else ModelConfig()
                with error_location(locations[base is not None]):
                    training = cache.training(
                        model=chosen.name or (network if base is None else None),
                        mean=chosen.mean,
                        std=chosen.std,
                        class_names=chosen.class_names,
                        classes=chosen.classes,
                        base=base,
                        defenses=specs,
                    )
            model = PlannedModel(cache=cache, base=base, training=training, decision=rule, location=model_location)
            models.setdefault(dataset, {}).setdefault(model.key, model)
    return {dataset: list(of_dataset.values()) for dataset, of_dataset in models.items()}


def _with_recipe(
    cache: ModelCache, chain: tuple[DefenseConfig, ...]
) -> tuple[ModelCache, tuple[DefenseConfig, ...], str | None]:
    """The model cache and the defenses with the values of the named recipe where the user gives none, and its network."""
    fields = {
        entry.name: [*defenses.load(entry.name).model_fields] for entry in chain if entry.name not in {None, "none"}
    }
    name = cache.recipe.get("recipe", Recipe.model_fields["recipe"].default)
    named: type[NamedRecipe] = recipes.load(name)
    data = cache.data
    applied = named.apply(name, fields, dataset=data.name, shape=data.shape, radius=parse_eps(data.eps).value)
    # A checkpoint that is used as it is gets nothing from a recipe; a notice says so.
    for misfit in applied.misfits if chain[0].checkpoint is None or fields else ():
        warnings.warn(misfit, Choice, stacklevel=2)
    cache = replace(cache, named_recipe=applied.training)
    return cache, tuple(entry.filled(applied.defenses.get(entry.name or "", {})) for entry in chain), applied.model


def _sized(dataset: str, entry: DefenseConfig, model: ModelConfig | None) -> str:
    """A data set with the model's own preprocessing in its name, where the images have no size of their own."""
    if not takes_model_size(dataset):
        return dataset
    metadata = metadata_of(entry.checkpoint, entry.model or (model.name if model is not None else None))
    if metadata.image_size is None:
        return dataset
    interpolation = metadata.interpolation or "bilinear"
    return with_model_size(dataset, image_size=metadata.image_size, resize=metadata.resize, interpolation=interpolation)


def _recipes(config: SuiteConfig, seed: int) -> Iterator[tuple[str, dict[str, Any], int]]:
    """The parameters of each training recipe and the seed of the training, with their location in the suite."""
    for number, recipe in enumerate(config.train):
        location = config.location("train", number)
        parameters = dict(recipe)
        seeds = parameters.pop("seed", seed)
        for recipe_seed in seeds if isinstance(seeds, list) else [seeds]:
            if isinstance(recipe_seed, bool) or not isinstance(recipe_seed, int) or not 0 <= recipe_seed < 2**32:
                raise UserError(f"{location}: train.seed is {recipe_seed!r:.80}: give a whole number, at least 0")
            with error_location(location):
                for variant in variants(Recipe, parameters):
                    recipes.load(Recipe.from_parameters(variant, name="train").recipe)
                    yield location, variant, recipe_seed


def _specs(chain: Sequence[DefenseConfig]) -> Iterator[tuple[MethodSpec, ...]]:
    """The defenses of a chain, for each combination of their parameters."""
    choices: list[list[MethodSpec]] = []
    for entry in chain:
        if entry.name is not None and entry.name != "none":
            with error_location(entry.location):
                kind = defenses.load(entry.name)
                choices.append(
                    [
                        method_spec(defenses, entry.name, parameters).spec
                        for parameters in variants(kind, entry.parameters)
                    ]
                )
    yield from itertools.product(*choices)


def _base(
    entry: DefenseConfig, model: ModelConfig | None, cache: ModelCache, named: Collection[str]
) -> DefendedModel | None:
    """The checkpoint that a chain begins with; ``None`` where it begins with a defense."""
    if entry.checkpoint is None:
        return None
    with error_location(entry.location):
        if read_info(entry.checkpoint, named=(entry.model, *named)) is not None:
            if entry.class_names is not None:
                raise UserError(f"{entry.checkpoint} has the names of its classes in it: leave out --class-names")
            loading = {"model": entry.model, "classes": entry.classes, "mean": entry.mean, "std": entry.std}
            return open_defended_model(entry.checkpoint, named=named, **loading)
        data = cache.data
        name = entry.model or (model.name if model is not None else None)
        metadata = ModelMetadata() if name is not None else metadata_of(entry.checkpoint, None)
        published = metadata.classes
        classes = entry.classes or (model.classes if model is not None else None)
        if published is not None and classes is None:
            require_classes(published, data, where=str(entry.checkpoint))
        require_class_order(metadata.class_names, data, where=str(entry.checkpoint))
        names = entry.class_names or (model.class_names if model is not None else None)
        config = config_for(name, class_names=names, data_names=data.class_names)
        arguments: dict[str, Any] = {
            "model": name,
            "classes": classes or published or data.classes,
            "mean": entry.mean or (model.mean if model is not None else None),
            "std": entry.std or (model.std if model is not None else None),
            "shape": data.shape,
            **({"config": config} if config else {}),
        }
        if classes is not None and classes > data.classes and (hint := numbering_hint(data)):
            message = f"{entry.checkpoint} has {classes:,} classes, {data.name} has {data.classes:,}{hint}"
            warnings.warn(message, Notice, stacklevel=2)
        try:
            return open_defended_model(entry.checkpoint, named=named, **arguments)
        except OtherClassesError as error:
            require_labels_from_zero(data, error.classes)
            # --classes alone would let the weights meet labels that are numbered otherwise.
            raise UserError(f"{error}{numbering_hint(data)}") from None


def _decision_rules(config: SuiteConfig) -> list[DecisionRule | None]:
    """The decision rules of a suite; ``None`` is each defense's own."""
    with error_location(config.location("decision")):
        return [None] if config.decision is None else [_decision_rule(name) for name in config.decision]


def _decision_rule(name: str) -> DecisionRule:
    rules: tuple[DecisionRule, ...] = get_args(DecisionRule)
    for rule in rules:
        if rule == name:
            return rule
    raise UserError(f"unknown decision rule '{name}': {did_you_mean(name, rules)}")


def _user_code(config: SuiteConfig) -> list[str]:
    """The models and defenses that a suite names, some of which may be the user's own code."""
    entries = [entry for chain in config.defenses for entry in chain]
    of_defenses = [name for entry in entries for name in (entry.name, entry.model, *entry.own_code)]
    of_models = [model.name for model in config.model or ()]
    return sorted({name for name in (*of_defenses, *of_models) if name is not None})
