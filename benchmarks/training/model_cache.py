"""The cache of trained models: loads a defended model from its checkpoint, or trains it first."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.backends.cpu import get_cpu_capability as cpu_capability

from robustbench_cli.attacks.base.eps import parse_eps
from robustbench_cli.attacks.base.rng import seeded
from robustbench_cli.benchmarks.checkpoints.checkpoint import read_info, require_writable
from robustbench_cli.benchmarks.checkpoints.defended_model import (
    DefendedModel,
    change_decision_rule,
    for_classes,
    for_radius,
    measured_defended_model,
    open_defended_model,
    usual_values,
)
from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.datasets.base.dataset import Dataset, numbered_from_one
from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.benchmarks.datasets.base.options import split_name
from robustbench_cli.benchmarks.datasets.base.preprocessing import size_hint
from robustbench_cli.benchmarks.datasets.base.slice import first_examples
from robustbench_cli.benchmarks.datasets.base.split import Split
from robustbench_cli.benchmarks.devices import current, keep_freed_memory, limit_threads
from robustbench_cli.benchmarks.models import registry as models
from robustbench_cli.benchmarks.models.base.build import (
    build_untrained,
    default_model,
    is_trained,
    normalization_fields,
    require_fit,
    says_if_trained,
)
from robustbench_cli.benchmarks.models.base.source import config_for, model_source
from robustbench_cli.benchmarks.store.leases import Leases
from robustbench_cli.benchmarks.training.extra_data import hash_of
from robustbench_cli.benchmarks.training.train import Training, cached_checkpoint, train, untrained
from robustbench_cli.core.errors import Choice, UserError
from robustbench_cli.core.isolation import isolated
from robustbench_cli.defenses import registry as defense_registry
from robustbench_cli.defenses.base.decision_rules import DecisionRule
from robustbench_cli.defenses.base.training.augmentations import registry as augmentations
from robustbench_cli.defenses.base.training.processes import Processes
from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.trainer import TrainingProgress

__all__ = [
    "TRAINING_PAUSE",
    "ModelCache",
    "numbering_hint",
    "require_class_order",
    "require_classes",
    "require_labels_from_zero",
]

TRAINING_PAUSE = 1.0
"""Seconds between two looks at whether another process has finished a training."""

_buildable: set[str] = set()
"""The keys of the trainings whose models were built in this process: a user's network may take long to build."""


@dataclass(frozen=True, kw_only=True)
class ModelCache:
    """Defended models of one data set, recipe and seed, each trained once.

    Attributes:
        dataset: The data set, as the user named it.
        data_dir: The folder of downloaded data sets.
        device: Where to train.
        seed: Of trainings.
        recipe: The recipe parameters that the user set.
        named_recipe: Those of the recipe that the user named, which hold where the user set none.
        begin: Called with a label and a file before each training.
        wait: Called with a label before waiting for another process that is training it.
        progress: Called after each epoch.
        own_weights: The sha256 of the weights of the user's models that were built already, by name and number of classes.
    """

    dataset: str
    data_dir: Path | None
    device: torch.device
    seed: int
    recipe: dict[str, Any]
    named_recipe: Mapping[str, Any] = field(default_factory=dict)
    begin: Callable[[str, Path], None] = lambda *_: None
    wait: Callable[[str], None] = lambda _: None
    progress: Callable[[TrainingProgress], None] = lambda _: None
    own_weights: dict[tuple[str, int], str] = field(default_factory=dict, compare=False, repr=False)

    @property
    def data(self) -> Dataset:
        """The data set."""
        return load_dataset(self.dataset, data_dir=self.data_dir)

    def training(
        self,
        *,
        model: str | None = None,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        class_names: tuple[str, ...] | None = None,
        classes: int | None = None,
        base: DefendedModel | None = None,
        defenses: tuple[MethodSpec, ...] = (),
    ) -> Training:
        """The training of a defended model; parameters that follow the data set's usual radius or classes get their values.

        Args:
            model: As the user named it; the base's, or the data set's usual one, where not given.
            mean: Per-channel mean of the normalization inside the model.
            std: Per-channel standard deviation of that normalization.
            class_names: The names of the classes, for a model that depends on them; the data set's where not given.
            classes: K, where the data set only infers its number from the labels and there are more.
            base: The checkpoint to start from.
            defenses: In order; ``none`` is left out.

        Raises:
            UserError: The data set has no usual model, the base was trained on data of another shape, a base has no
                defense to add, or a recipe parameter is unknown or not allowed.
        """
        data = self.data
        radius = parse_eps(data.eps).value
        specs = tuple(
            for_classes(for_radius(spec, radius), defense_registry, data) for spec in defenses if spec.name != "none"
        )
        if base is not None and not specs:
            raise UserError(f"nothing to train: name a --defense to put around {base.path}")
        if base is not None and not (base.shape == data.shape and data.allows_classes(base.classes)):
            hint = size_hint(base.shape, data.shape) if data.allows_classes(base.classes) else ""
            raise UserError(
                f"{base.path} takes images {base.shape} of {base.classes} classes, {self.dataset} has {data.shape} of "
                f"{data.classes}: name the data set that it was trained on{hint}"
            )
        if base is None:
            name = model or default_model(data.shape)
            config = config_for(name, class_names=class_names, data_names=data.class_names)
            network = self._network(name, config, mean, std, classes=classes)
        else:
            network = _network_of(base, data)
        training = Training(
            dataset=self.dataset,
            data="",
            base=base,
            defenses=specs,
            recipe=self._recipe(specs).model_dump(mode="json"),
            seed=self.seed,
            **network,
        )
        # A data set that nothing is learned from need not have training examples.
        if not training.learns_after(None):
            return training
        training = training.model_copy(update={"data": hash_of(self._examples_for(training))})
        extra = training.open_extra(data, data_dir=self.data_dir)
        return training if extra is None else training.model_copy(update={"extra": extra.identity})

    @property
    def usual_recipe(self) -> dict[str, Any]:
        """The recipe parameters that hold where the user set none: those of the named recipe, or what is usual for the data."""
        return {"epochs": self.data.epochs, "augmentations": self.data.augmentations, **self.named_recipe}

    def _recipe(self, specs: Sequence[MethodSpec]) -> Recipe:
        """The recipe, with :attr:`usual_recipe` where the user set nothing.

        Args:
            specs: The defenses that train by it.

        Raises:
            UserError: A parameter is unknown, not allowed or without effect, or a defense cannot learn from the labels of an
                augmentation.
        """
        data = self.data
        recipe = Recipe.from_parameters({**self.usual_recipe, **self.recipe}, name="train")
        recipe.require_effect(self.recipe, name="train")
        if recipe.precision == "bf16" and self.device.type == "cpu" and cpu_capability() in {"DEFAULT", "AVX2"}:
            warnings.warn(
                "this CPU has no instructions for bf16, which takes ten times as long as float32 here: leave out train.precision",
                Choice,
                stacklevel=2,
            )
        for spec in specs:
            spec.build(defense_registry).require_labels(recipe, name=spec.name)
        for entry in recipe.augmentations or ():
            if data.mirror_changes_class and augmentations.load(entry["name"]).mirrors:
                warnings.warn(
                    f"{entry['name']} in train.augmentations mirrors images, and the mirror image of one of {data.name} may "
                    "be of another class: leave it out",
                    Choice,
                    stacklevel=2,
                )
        return recipe

    def _examples_for(self, training: Training) -> Split:
        """The training examples.

        Raises:
            UserError: The model cannot be built, or there are no training examples.
        """
        try:
            return self.data.split("train")
        except UserError as error:
            # An error of the user's own model is reported first: training images would not help.
            untrained(training, data_dir=self.data_dir)
            if training.base is not None or is_trained(training.model):
                raise
            hint = "" if says_if_trained(training.model) else ", or set trained = True on a model that loads its own"
            raise UserError(f"{error}; to attack weights that exist, give --checkpoint{hint}") from error

    def _network(
        self,
        model: str,
        config: dict[str, Any],
        mean: tuple[float, ...] | None,
        std: tuple[float, ...] | None,
        *,
        classes: int | None,
    ) -> dict[str, Any]:
        """The fields of a training that follow from the name of a model; published weights bring a normalization.

        Raises:
            UserError: The published weights are for other classes or channels than the data set has, or ``classes`` differs
                from theirs.
        """
        data = self.data
        fields: dict[str, Any] = {"model_source": models.source_of(model), "config": config}
        fields |= normalization_fields(mean, std, channels=data.shape[0])
        source = model_source(model, config=config or None)
        if classes is not None and not data.allows_classes(classes):
            raise UserError(f"--classes is {classes:,}, and {data.name} has {data.classes:,} classes: leave it out")
        if source is None or not source.trained:
            model = model if source is None else source.spec
            weights = (
                self._own_weights(model, classes or data.classes) if source is None and is_trained(model) else None
            )
            return fields | {
                "model": model,
                "weights": weights,
                "classes": None if classes == data.classes else classes,
            }
        metadata = source.metadata
        require_fit(metadata, source.spec, shape=data.shape, classes=None)
        if metadata.classes is not None:
            require_classes(metadata.classes, data, where=source.spec, declared=classes)
        require_class_order(metadata.class_names, data, where=source.spec)
        outputs = metadata.classes or classes or data.classes
        metadata.note_assumptions(
            source.spec,
            shape=data.shape,
            classes=outputs,
            normalization_is_given=mean is not None or std is not None,
            size_is_chosen=bool(split_name(self.dataset)[1].keys() & {"image_size", "resize"}),
        )
        mean, std = metadata.normalization(mean, std)
        classes = None if outputs == data.classes else outputs
        known = {"model": source.spec, "weights": source.fingerprint, "classes": classes}
        return fields | known | normalization_fields(mean, std, channels=data.shape[0])

    def _own_weights(self, model: str, classes: int) -> str:
        """The sha256 of the weights that a user's model brings: their file may change while the code stays the same.

        Args:
            model: As the user named it.
            classes: K.

        Raises:
            UserError: The model cannot be built.
        """
        key = model, classes
        if key not in self.own_weights:
            with seeded(0), isolated():
                network = build_untrained(model, shape=self.data.shape, classes=classes)
            digest = hashlib.sha256()
            for name, tensor in (*network.named_parameters(), *network.named_buffers()):
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
            self.own_weights[key] = digest.hexdigest()
        return self.own_weights[key]

    def trained(self, training: Training, path: Path | None = None) -> DefendedModel:
        """A defended model, trained now unless its checkpoint exists or another process is training it.

        Args:
            training: What to train.
            path: The checkpoint; a file in the cache where not given, which serves all decision rules.
        """
        if path is not None:
            if not Processes.connect(self.device).run_on_first(partial(_holds, path, training)):
                self._train(training, path)
            return open_defended_model(path, named=_user_code(training))
        if not self.train_if_free(training):
            self.wait(training.label)
            while not self.train_if_free(training):
                time.sleep(TRAINING_PAUSE)
        return open_defended_model(cached_checkpoint(training), named=_user_code(training), **training.rule)

    def is_trained(self, training: Training) -> bool:
        """Whether the cache has the checkpoint of a training."""
        try:
            return _holds(cached_checkpoint(training), training.by_usual_rule)
        except UserError:
            # A damaged file of the cache is replaced; a file that the user named is not.
            return False

    def missing(self, training: Training) -> list[Training]:
        """The trainings that a model still needs, in order: those that it starts from, then itself."""
        stages = [*training.stages, *([training.by_usual_rule] if training.learns_by_itself else [])]
        return [stage for stage in stages if not self.is_trained(stage)]

    def is_being_trained(self, training: Training) -> bool:
        """Whether a living process is training a model for the cache."""
        return _leases(training).holder(training.key) is not None

    def train_if_free(self, training: Training) -> bool:
        """Trains a defended model for the cache, unless another living process is training it.

        Its stages are trained first and cached too, so that a defense that trains nothing, such as ``jpeg``, uses
        the training of its base model.

        Returns:
            Whether the cache now has the checkpoint of this training.
        """
        if self.is_trained(training):
            return True
        stages = training.stages if Processes.from_environment().number == 1 else []
        if stages and not self.train_if_free(stages[-1]):
            return False
        path = cached_checkpoint(training)
        with _leases(training).hold(training.key) as has_lease:
            if not has_lease:
                return False
            # Another process may have finished it before this one got the lease.
            if not self.is_trained(training):
                self._train(training.by_usual_rule, path)
            return True

    def untrained(self, training: Training, decision: DecisionRule | None = None) -> DefendedModel:
        """A defended model as far as it is known before its training.

        Args:
            training: What will train it.
            decision: Its decision rule; the defense's own where not given.
        """
        model, info = untrained(training, data_dir=self.data_dir)
        _buildable.add(training.key)
        if decision is not None:
            model, info = change_decision_rule(decision, model, info)
        identity = f"training {training.key}: {'+'.join(defense.label for defense in info.defenses)}"
        return measured_defended_model(model, info, cached_checkpoint(training), {}, identity=identity)

    def _train(self, training: Training, path: Path) -> None:
        require_writable(path)
        # A later defense of the chain that cannot be built is an error before the first one is trained.
        if training.key not in _buildable:
            untrained(training, data_dir=self.data_dir)
        limit_threads(self.data.shape)
        keep_freed_memory()
        begun = self._begun(training)
        if training.learns_from(begun):
            self.begin(f"{training.label}{self._derived_values(training)}", path)
        with current(self.device):
            train(training, path, device=self.device, begun=begun, data_dir=self.data_dir, progress=self.progress)

    def _derived_values(self, training: Training) -> str:
        """The parameters of a training that follow the data set's usual radius, in words; empty for none."""
        radius = parse_eps(self.data.eps).value
        values = [
            f"{spec.name}.{key}={value:.4g}"
            for spec in training.defenses
            for key, value in usual_values(spec, radius).items()
            if spec.parameters[key] == value
        ]
        source = "the data set's usual radius"
        if not self.data.has_usual_eps:
            source = f"{self.data.eps}, the default for data of your own"
        return f" ({', '.join(values)}, from {source})" if values else ""

    def _begun(self, training: Training) -> DefendedModel | None:
        """The longest beginning of a training that the cache has."""
        if Processes.from_environment().number > 1:
            # They may run on several machines, each with a cache of its own.
            return None
        for beginning in training.beginnings:
            if self.is_trained(beginning):
                return open_defended_model(cached_checkpoint(beginning), named=_user_code(training))
        return None

    @torch.no_grad()
    def accuracy(self, defended: DefendedModel, images: int = 1000) -> tuple[float, int]:
        """The accuracy of one pass of a model on test images, and the number of images.

        Args:
            defended: The model.
            images: The number of test images, at most all.
        """
        examples = first_examples(self.data.split("test"), images)
        model = defended.load().to(self.device)
        batches = examples.images.split(256)
        with current(self.device), seeded(self.seed):
            correct = torch.cat([model(batch.to(self.device)).argmax(1).cpu() for batch in batches]) == examples.labels
        return correct.double().mean().item(), len(examples)


def require_classes(classes: int, data: Dataset, *, where: str, declared: int | None = None) -> None:
    """Checks that published weights have as many classes as a data set.

    Args:
        classes: Of the weights.
        data: The data set.
        where: The weights, for the message.
        declared: The number of classes that the user gave, where the data set only infers its number from the labels.

    Raises:
        UserError: The numbers differ, and the user has not declared that of the weights.
    """
    if declared not in {None, classes}:
        raise UserError(f"{where} has {classes:,} classes, not {declared:,}: give --classes {classes}, or leave it out")
    require_labels_from_zero(data, classes)
    if data.classes_inferred and classes > data.classes and declared is None:
        raise UserError(
            f"{where} has {classes:,} classes, and the labels of {data.name} reach only to {data.classes - 1:,}: if they are "
            f"numbers of its classes, give --classes {classes}; else number them as the weights do{numbering_hint(data)}"
        )
    if not data.allows_classes(classes):
        raise UserError(
            f"{where} has {classes:,} classes, {data.name} has {data.classes:,}: give weights that were trained on "
            f"{data.classes:,} classes, or the data set of theirs{numbering_hint(data)}"
        )


def require_labels_from_zero(data: Dataset, classes: int) -> None:
    """Checks that the labels are not those of a model from 1 to K.

    Args:
        data: The data set; its labels matter where they alone say how many classes there are.
        classes: K of the model.

    Raises:
        UserError: They are.
    """
    if data.classes_inferred and (message := numbered_from_one(data.split("test").labels, classes, where=data.name)):
        raise UserError(message)


def numbering_hint(data: Dataset) -> str:
    """How a data set numbers its classes, as the end of a message about a model with another number of them.

    Args:
        data: The data set; of one whose classes have fixed numbers, such as ``cifar10``, nothing is said.
    """
    if data.classes_inferred:
        lowest = int(data.split("test").labels.min())
        return (
            f"; its labels are {lowest} to {data.classes - 1}, and labels begin at 0: subtract 1 from each"
            if lowest == 1
            else ""
        )
    if not data.name.startswith("imagefolder") or not data.class_names:
        return ""
    numbers = ", ".join(f"{name} {number}" for number, name in enumerate(data.class_names[:3]))
    more = ", …" if len(data.class_names) > 3 else ""
    return (
        f"; {data.name} numbers its classes in alphabetical order ({numbers}{more}): if the model numbers them otherwise, "
        "give a labels.csv with its numbers"
    )


def require_class_order(names: Sequence[str], data: Dataset, *, where: str) -> None:
    """Checks that published weights number the same classes as a data set does.

    Args:
        names: The names of the classes of the weights, in order; empty if unknown.
        data: The data set; one with other names, such as synsets for words, is not compared.
        where: The weights, for the message.

    Raises:
        UserError: Both have the same names in another order.
    """
    theirs = data.class_names or ()
    if sorted(names) == sorted(theirs) and tuple(names) != tuple(theirs):
        number = next(number for number, name in enumerate(names) if name != theirs[number])
        raise UserError(
            f"{where} has the classes of {data.name} in another order (class {number} is '{names[number]}', and "
            f"'{theirs[number]}' in the data): number the classes of the data as the weights do"
        )


def _network_of(base: DefendedModel, data: Dataset) -> dict[str, Any]:
    """The fields of a training that follow from the checkpoint that it starts from."""
    return {
        "model": base.model,
        "model_source": models.source_of(base.model),
        "mean": base.mean,
        "std": base.std,
        "classes": None if base.classes == data.classes else base.classes,
    }


def _leases(training: Training) -> Leases:
    """The leases that keep two processes from training the same model for the cache."""
    return Leases(cached_checkpoint(training).parent.parent)


def _user_code(training: Training) -> set[str]:
    """The names in a training that may be the user's own code."""
    return {training.model, *(defense.name for defense in training.all_defenses)}


def _holds(path: Path, training: Training) -> bool:
    """Whether a file is the checkpoint of a training.

    Raises:
        UserError: The file exists and cannot be used.
    """
    if not path.is_file():
        return False
    info = read_info(path, named=_user_code(training))
    if info is None or info.training.get("key") != training.key:
        return False
    parameters = info.defenses[-1].parameters if info.defenses else {}
    if any(parameters.get(key) != value for key, value in training.rule.items()):
        return False
    open_defended_model(path, named=_user_code(training))
    return True
