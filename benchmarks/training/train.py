"""Trains a defended model and writes its checkpoint."""

from __future__ import annotations

import glob
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import platformdirs
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from robustbench_cli.attacks.base.rng import seed_from, seeded
from robustbench_cli.benchmarks.checkpoints.checkpoint import CheckpointInfo, save_checkpoint, versions
from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel, load_surrogates
from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec, defense_label
from robustbench_cli.benchmarks.datasets.base.dataset import Dataset
from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.benchmarks.datasets.base.split import Split
from robustbench_cli.benchmarks.models.base.build import (
    build_model,
    build_untrained,
    example_images,
    is_trained,
    says_if_trained,
)
from robustbench_cli.benchmarks.models.base.source import model_source
from robustbench_cli.benchmarks.training.extra_data import ExtraData, open_extra_data
from robustbench_cli.core.errors import UserError
from robustbench_cli.core.isolation import isolated
from robustbench_cli.defenses import registry as defenses
from robustbench_cli.defenses.base.defense import Defense, protected_by
from robustbench_cli.defenses.base.randomized import RandomizedDefense
from robustbench_cli.defenses.base.training.loading import Examples
from robustbench_cli.defenses.base.training.processes import Processes
from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.trainer import Trainer, TrainingProgress
from robustbench_cli.defenses.none import Undefended

__all__ = ["Training", "beside", "cached_checkpoint", "measure_epoch", "train", "untrained"]


class Training(BaseModel):
    """Everything that determines the weights of a defended model. Plain data.

    Attributes:
        dataset: As the user named it.
        data: sha256 of the training examples' labels and of the first images; empty where nothing is learned from them.
        extra: The same hash of the extra training images; with the labeling checkpoint's identity instead of the labels if there
            is one.
        model: As the user named it.
        model_source: sha256 of a user's own source file of the model.
        weights: The fingerprint of the published weights that the model's name comes with.
        classes: K of these weights; the data set's where ``None``.
        config: What the model is built from besides its name.
        mean: Per-channel mean of the normalization inside the model.
        std: Per-channel standard deviation of the normalization.
        base: The checkpoint to start from; ``None`` to train from the beginning.
        defenses: In the order in which they are put around the model or the base.
        recipe: All fields of the training recipe.
        seed: Determines every random draw.
        budget: What was chosen for a budget, for the record; see :class:`~.budget.BudgetChoice`. Empty without a budget.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    data: str
    extra: str | None = None
    model: str
    model_source: str | None = None
    weights: str | None = None
    classes: int | None = None
    config: dict[str, Any] = {}
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    base: DefendedModel | None = None
    defenses: tuple[MethodSpec, ...] = ()
    recipe: dict[str, Any]
    seed: int
    budget: dict[str, Any] = {}

    @property
    def key(self) -> str:
        """A hash of what determines the weights: the base's identity, not its path, and no decision rule."""
        unused = {name for name in ("extra", "weights", "classes", "config") if not getattr(self, name)}
        content = self.model_dump(mode="json", exclude={"base", "budget", "defenses", "recipe", *unused})
        content["recipe"] = Recipe.by_former_names(Recipe.model_validate(self.recipe).in_effect)
        content["base"] = self.base.identity if self.base is not None else None
        content["defenses"] = [defense.identity for defense in self.by_usual_rule.defenses]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def rule(self) -> dict[str, Any]:
        """The decision rule of the last defense, which can change without a new training; empty for a deterministic one.

        The rule of an earlier defense is part of the model that the later ones are trained with.
        """
        last = self.defenses[-1] if self.defenses else None
        if last is None or not issubclass(defenses.load(last.name), RandomizedDefense):
            return {}
        return {key: last.parameters[key] for key in ("decision", "draws")}

    @property
    def by_usual_rule(self) -> Training:
        """The training of the same weights with the defense's default :attr:`rule`: one checkpoint serves all rules."""
        if not self.rule:
            return self
        last = self.defenses[-1]
        parameters = {key: value for key, value in last.parameters.items() if key not in self.rule}
        defense = defenses.load(last.name).from_parameters(parameters, name=last.name)
        spec = MethodSpec.of(defense, name=last.name, source=last.source, surrogates=last.surrogates)
        # A parameter that follows from the data set's radius was not changed by the user, though it is no default either.
        changed = tuple(key for key in last.changed if key not in self.rule)
        spec = spec.model_copy(update={"changed": changed})
        return self.model_copy(update={"defenses": (*self.defenses[:-1], spec)})

    @property
    def beginnings(self) -> list[Training]:
        """The trainings of the same model with fewer defenses, from which this one can start; the longest first."""
        shorter = [
            self.model_copy(update={"defenses": self.defenses[:count]}) for count in reversed(range(len(self.defenses)))
        ]
        if shorter and (self.base is not None or defenses.load(self.defenses[0].name).trains):
            # Nothing is trained before the first defense.
            shorter.pop()
        # A checkpoint in the cache has the default rule, on which the names of its tensors depend.
        return [training for training in shorter if training == training.by_usual_rule]

    @property
    def stages(self) -> list[Training]:
        """The shorter trainings of this one that learn something, each of which starts from the one before it."""
        return [
            beginning
            for beginning in reversed(self.beginnings)
            if beginning.learns_after(beginning.defenses[:-1] if beginning.defenses else None)
        ]

    @property
    def learns_by_itself(self) -> bool:
        """Whether it learns anything that its :attr:`stages` have not learned."""
        return self.learns_after(self.stages[-1].defenses if self.stages else None)

    def learns_after(self, trained: tuple[MethodSpec, ...] | None) -> bool:
        """Whether anything is learned from the training examples beyond the first defenses.

        Args:
            trained: The defenses that are trained already; ``None`` where the network itself is not.
        """
        if trained is None and self.base is None and not is_trained(self.model):
            return True
        return any(spec.build(defenses).needs_fit for spec in self.defenses[len(trained or ()) :])

    def learns_from(self, begun: DefendedModel | None) -> bool:
        """Whether anything is learned from the training examples beyond a model of one of the :attr:`beginnings`.

        Args:
            begun: The model; ``None`` if there is none.
        """
        of_base = len(self.base.defenses) if self.base is not None else 0
        return self.learns_after(None if begun is None else begun.defenses[of_base:])

    @property
    def all_defenses(self) -> tuple[MethodSpec, ...]:
        """The defenses of the trained model, in order: the base's own, and those put around it."""
        return (*(self.base.defenses if self.base is not None else ()), *self.defenses)

    def open_extra(self, data: Dataset, *, data_dir: Path | None) -> ExtraData | None:
        """The extra training images of the recipe; ``None`` if it has none.

        Args:
            data: The data set.
            data_dir: The folder of downloaded data sets.

        Raises:
            UserError: See :func:`~.extra_data.open_extra_data`.
        """
        recipe = Recipe.model_validate(self.recipe)
        if recipe.extra is None:
            return None
        named = {self.model, *(spec.name for spec in self.all_defenses)}
        return open_extra_data(recipe.extra, recipe.pseudo_labels, data, data_dir=data_dir, named=named)

    @property
    def label(self) -> str:
        """The training in a few words, for messages."""
        protection = "+".join(spec.label for spec in self.defenses) or "no defense"
        model = self.model if self.base is None else str(self.base.path)
        return f"{model} with {protection} on {self.dataset}"


def cached_checkpoint(training: Training) -> Path:
    """The file of a training's checkpoint in the user's cache.

    Args:
        training: The training.
    """
    defense = defense_label(training.defenses, with_parameters=False)
    name = re.sub(r"[^A-Za-z0-9+.-]+", "_", f"{training.dataset}-{training.model}-{defense}")
    return platformdirs.user_cache_path("advdef") / "checkpoints" / f"{name[:80]}-{training.key}.safetensors"


def beside(path: Path, weights: str) -> Path:
    """The file of other weights of the same training, beside its checkpoint: ``x.latest.safetensors``.

    Args:
        path: The checkpoint.
        weights: ``latest``, ``averaged`` or ``best``.
    """
    return path.with_suffix(f".{weights}.safetensors")


def train(
    training: Training,
    path: Path,
    *,
    device: torch.device,
    begun: DefendedModel | None = None,
    data_dir: Path | None = None,
    progress: Callable[[TrainingProgress], None] = lambda _: None,
) -> None:
    """Trains a defended model and writes its checkpoint.

    If the training ends with several weights, the latest, averaged and best ones, the selected ones are in the checkpoint, and
    the others are written :func:`beside` it, unless a later defense has changed the model.

    After every epoch the state is saved beside ``path`` (``.partial``). A training that was killed resumes from there, and
    ends on a CPU with exactly the same weights. With several processes of a launcher, the first one writes.

    Args:
        training: The training.
        path: The checkpoint to write.
        device: Where to train.
        begun: The model of one of its :attr:`~Training.beginnings`, which is not trained again.
        data_dir: The folder of downloaded data sets.
        progress: Called after each epoch.

    Raises:
        UserError: The data set or the model cannot be loaded, a defense cannot be built, or the loss diverges.
    """
    dataset = load_dataset(training.dataset, data_dir=data_dir)
    record = _record(training, begun)
    extra = _extra_examples(training, dataset, device, data_dir, record) if training.learns_from(begun) else None
    with seeded(seed_from(training.seed, "weights")):
        model, chain = _begin(training, dataset, build_model)
        model = model.to(device)
        example = example_images(dataset.shape)[:1].to(device)
        # Counted from the end, because the chain may start with the training of the undefended network.
        finals: dict[str, dict[str, Tensor]] = {}
        done = 0 if begun is None else len(chain) - (len(training.all_defenses) - len(begun.defenses))
        for index, defense in enumerate(chain):
            model = protected_by(defense, model, example)
            if begun is not None and index + 1 == done:
                model.load_state_dict(begun.load().state_dict())
                model.eval()
            elif index >= done and defense.needs_fit:
                trainer = Trainer(
                    dataset.split("train"),
                    Recipe.model_validate(training.recipe),
                    seed=seed_from(training.seed, "training", index),
                    device=device,
                    extra=extra,
                    progress=progress,
                    resume=path.with_name(f"{path.name}.{training.key}.{index}.partial"),
                )
                defense.fit(model, trainer)
                record["stages"] = [*record.get("stages", []), trainer.record]
                finals = trainer.finals if index + 1 == len(chain) else {}
    Processes.connect(device).run_on_first(partial(_write, path, model, _info(training, dataset, record), finals))


def measure_epoch(
    training: Training, *, images: int, device: torch.device, data_dir: Path | None = None
) -> tuple[float, int]:
    """Trains for one epoch on the first images, and returns the seconds and the images that passed forward.

    Args:
        training: The training. All that it learns is learned.
        images: The number of images.
        device: Where to train.
        data_dir: The folder of downloaded data sets.
    """
    dataset = load_dataset(training.dataset, data_dir=data_dir)
    # An epoch is as long with extra images.
    without_extra = dict.fromkeys(("extra", "extra_fraction", "pseudo_labels"))
    recipe = {**training.recipe, "epochs": 1, "epoch_fraction": 1, "held_out": 0, "held_out_eps": None, **without_extra}
    seconds, passes = 0.0, 0

    def count(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        nonlocal passes
        passes += len(inputs[0])

    with seeded(seed_from(training.seed, "weights")):
        model, chain = _begin(training, dataset, build_model)
        model = model.to(device)
        example = example_images(dataset.shape)[:1].to(device)
        for defense in chain:
            model = protected_by(defense, model, example)
            if defense.needs_fit:
                layers = [module for module in model.modules() if [*module.parameters()] and not [*module.children()]]
                hook = layers[0].register_forward_pre_hook(count)
                examples = _First(dataset.split("train"), images)
                trainer = Trainer(examples, Recipe.model_validate(recipe), seed=training.seed, device=device)
                defense.fit(model, trainer)
                hook.remove()
                # Where each batch is used several times in a row, one epoch is several.
                repeats = getattr(defense, "replays", 1)
                seconds, passes = seconds + trainer.record["seconds"] / repeats, passes // repeats
    return seconds, max(passes, images)


@dataclass(frozen=True)
class _First:
    """The first ``count`` of other examples."""

    examples: Examples
    count: int

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return self.examples.batch(indices)


def _record(training: Training, begun: DefendedModel | None) -> dict[str, Any]:
    """The record of a training as far as it is known at its begin."""
    record: dict[str, Any] = {"key": training.key, **({"budget": training.budget} if training.budget else {})}
    if training.base is not None:
        record["base"] = {"identity": training.base.identity, **training.base.training}
    if begun is not None:
        record |= {key: begun.training[key] for key in ("extra", "stages") if key in begun.training}
    return record


def _extra_examples(
    training: Training, dataset: Dataset, device: torch.device, data_dir: Path | None, record: dict[str, Any]
) -> Split | None:
    """The extra training images with their labels, if there are any; they are described in the record of the training."""
    extra = training.open_extra(dataset, data_dir=data_dir)
    if extra is None:
        return None
    fraction = Recipe.model_validate(training.recipe).share_of_extra
    record["extra"] = {"images": len(extra.split), "fraction": fraction, "identity": extra.identity}
    return extra.examples(device, seed_from(training.seed, "pseudo-labels"))


def _write(path: Path, model: nn.Module, info: CheckpointInfo, finals: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Writes a checkpoint, and removes the states of all trainings to this file, also of those with other options.

    Args:
        path: The checkpoint.
        model: The trained model.
        info: Its description.
        finals: Its states with other weights, by their names; the last one is that of ``model``.
    """
    selected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name in list(finals)[:-1]:
        model.load_state_dict(finals[name])
        # Another key: it is not the result of this training.
        record = {**info.training, "key": f"{info.training['key']}-{name}", "weights": name}
        save_checkpoint(beside(path, name), model, info.model_copy(update={"training": record}))
    model.load_state_dict(selected)
    save_checkpoint(path, model, info)
    for state in path.parent.glob(f"{glob.escape(path.name)}.*.partial"):
        state.unlink(missing_ok=True)


def untrained(training: Training, *, data_dir: Path | None = None) -> tuple[nn.Module, CheckpointInfo]:
    """The defended model before its training, whose random draws can be measured; and its description.

    Args:
        training: The training.
        data_dir: The folder of downloaded data sets.

    Raises:
        UserError: The data set or the model cannot be loaded, a defense cannot be built, or the training would replace
            weights that the constructor of the user's model has loaded.
    """
    dataset = load_dataset(training.dataset, data_dir=data_dir)
    with seeded(0):
        # Published weights are not downloaded for a plan.
        model, chain = _begin(training, dataset, build_untrained)
        if len(chain) > len(training.defenses) and not says_if_trained(training.model):
            _require_random_weights(training, dataset, model)
        for defense in chain:
            model = protected_by(defense, model, example_images(dataset.shape)[:1])
    return model.eval(), _info(training, dataset, {})


def _require_random_weights(training: Training, dataset: Dataset, model: nn.Module) -> None:
    """Checks that another seed gives a user's network other weights.

    Args:
        training: The training, which begins with that of the network itself.
        dataset: Its data set.
        model: The network, built from another seed than 1.

    Raises:
        UserError: All weights are the same, and some are not constant, as the initial ones of normalizations are.
    """
    weights = [
        weight for weight in model.parameters() if weight.numel() and not bool((weight == weight.flatten()[0]).all())
    ]
    if not weights:
        return
    with seeded(1):
        other, _ = _begin(training, dataset, build_untrained)
    if all(map(torch.equal, model.parameters(), other.parameters())):
        raise UserError(
            f"{training.model} has the same weights from every seed, as if it loaded them itself: set trained = True on it to "
            "use them as they are, or trained = False to train it further"
        )


def _begin(training: Training, dataset: Dataset, build: Callable[..., nn.Module]) -> tuple[nn.Module, list[Defense]]:
    """The model that a training starts from, and the defenses put around it."""
    # A teacher's checkpoint may need the code that the user named.
    named = {training.model, *(spec.name for spec in training.defenses)}
    chain: list[Defense] = [spec.build(defenses, **load_surrogates(spec, named)) for spec in training.defenses]
    if training.base is not None:
        return training.base.load(), chain
    with isolated():
        model = build(
            training.model,
            shape=dataset.shape,
            classes=training.classes or dataset.classes,
            mean=training.mean,
            std=training.std,
            config=training.config or None,
        )
    if not is_trained(training.model) and not (chain and chain[0].trains):
        chain.insert(0, Undefended())
    return model, chain


def _info(training: Training, dataset: Dataset, record: dict[str, Any]) -> CheckpointInfo:
    source = model_source(training.model, config=training.config or None) if training.base is None else None
    return CheckpointInfo(
        model=training.model,
        config=source.config if source is not None else training.base.config if training.base is not None else {},
        mean=training.mean,
        std=training.std,
        dataset=training.dataset,
        shape=dataset.shape,
        classes=training.classes or dataset.classes,
        defenses=training.all_defenses,
        training=record,
        versions=versions(),
    )
