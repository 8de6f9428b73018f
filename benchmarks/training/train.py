"""Trains a defended model once, and keeps it as a checkpoint under a name that says all that it came from."""

from __future__ import annotations

import glob
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import platformdirs
import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from robustbench_cli.attacks.base.rng import seed_from, seeded
from robustbench_cli.benchmarks.checkpoints.checkpoint import CheckpointInfo, save_checkpoint, versions
from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel, load_surrogates
from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.datasets.base.dataset import Dataset
from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.benchmarks.models.base.build import build_model, example_images, is_trained
from robustbench_cli.core.isolation import isolated
from robustbench_cli.defenses import registry as defenses
from robustbench_cli.defenses.base.defense import Defense
from robustbench_cli.defenses.base.randomized import RandomizedDefense
from robustbench_cli.defenses.base.training.processes import Processes
from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.trainer import Trainer, TrainingProgress
from robustbench_cli.defenses.none import Undefended

__all__ = ["Training", "cached_checkpoint", "train", "untrained"]


class Training(BaseModel):
    """Everything that the weights of a defended model come from. Plain data.

    Attributes:
        dataset: As the user named it.
        data: sha256 of the training examples' labels and of the first images; empty where nothing is learned from them.
        model: As the user named it.
        model_source: sha256 of a user's own source file of the model.
        mean: Of the normalisation inside the model.
        std: Of that normalisation.
        base: The checkpoint to start from; ``None`` to train from the beginning.
        defenses: In the order in which they are put around the model, or around the base with its own.
        recipe: All fields of the training recipe.
        seed: Every draw follows from it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    data: str
    model: str
    model_source: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    base: DefendedModel | None = None
    defenses: tuple[MethodSpec, ...] = ()
    recipe: dict[str, Any]
    seed: int

    @property
    def key(self) -> str:
        """A hash of what determines the weights: the base's identity counts, not where its file lies; no rule does."""
        content = self.model_dump(mode="json", exclude={"base", "defenses", "recipe"})
        content["recipe"] = Recipe.by_former_names(Recipe.model_validate(self.recipe).in_effect)
        content["base"] = self.base.identity if self.base is not None else None
        content["defenses"] = [defense.identity for defense in self.by_usual_rule.defenses]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def rule(self) -> dict[str, Any]:
        """What the last defense says of how its draws decide, without another training; empty where it draws none.

        In front of other defenses the rule is part of the model that these are trained with.
        """
        last = self.defenses[-1] if self.defenses else None
        if last is None or not issubclass(defenses.load(last.name), RandomizedDefense):
            return {}
        return {key: last.parameters[key] for key in ("decision", "draws")}

    @property
    def by_usual_rule(self) -> Training:
        """The training of the same weights where the :attr:`rule` is the defense's usual one: one for all rules."""
        if not self.rule:
            return self
        last = self.defenses[-1]
        own = {key: value for key, value in last.parameters.items() if key not in self.rule}
        method = defenses.load(last.name).from_parameters(own, name=last.name)
        spec = MethodSpec.of(method, name=last.name, source=last.source, surrogates=last.surrogates)
        # What followed from the data set's radius was not changed, though it is no default either.
        changed = tuple(key for key in last.changed if key not in self.rule)
        spec = spec.model_copy(update={"changed": changed})
        return self.model_copy(update={"defenses": (*self.defenses[:-1], spec)})

    @property
    def beginnings(self) -> list[Training]:
        """The trainings of the same weights that this one begins with: with fewer defenses, the longest first."""
        shorter = [
            self.model_copy(update={"defenses": self.defenses[:count]}) for count in reversed(range(len(self.defenses)))
        ]
        if shorter and (self.base is not None or defenses.load(self.defenses[0].name).trains):
            # Then nothing is trained before the first defense.
            shorter.pop()
        # What stands in the cache has the usual rule, and so the names of its weights.
        return [each for each in shorter if each == each.by_usual_rule]

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

    @property
    def all_defenses(self) -> tuple[MethodSpec, ...]:
        """Of what is trained, in order: the base's own, and those that are put around it."""
        return (*(self.base.defenses if self.base is not None else ()), *self.defenses)

    @property
    def label(self) -> str:
        """What is trained, for messages."""
        protection = "+".join(each.label for each in self.defenses) or "no defense"
        model = self.model if self.base is None else str(self.base.path)
        return f"{model} with {protection} on {self.dataset}"


def cached_checkpoint(training: Training) -> Path:
    """Where the checkpoint of a training is kept in the user's cache folder."""
    defense = "+".join(each.name for each in training.defenses) or "none"
    words = re.sub(r"[^A-Za-z0-9+.-]+", "_", f"{training.dataset}-{training.model}-{defense}")
    return platformdirs.user_cache_path("advdef") / "checkpoints" / f"{words[:80]}-{training.key}.safetensors"


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

    After every epoch the state is kept beside ``path`` (``.partial``); a training that was killed goes on from there
    and ends, on a CPU, with the very same weights. Of several processes that a launcher has started, the first writes.

    Args:
        training: What to train.
        path: The checkpoint to write.
        device: Where.
        begun: What one of its :attr:`~Training.beginnings` has trained, which is not trained again.
        data_dir: The folder of downloaded data sets.
        progress: Called after each epoch.

    Raises:
        UserError: The data, the model or a defense's parameters are not what they must be, or the loss diverges.
    """
    dataset = load_dataset(training.dataset, data_dir=data_dir)
    record: dict[str, Any] = {"key": training.key}
    if training.base is not None:
        record["base"] = {"identity": training.base.identity, **training.base.training}
    with seeded(seed_from(training.seed, "weights")):
        model, chain = _begin(training, dataset)
        model = model.to(device)
        example = example_images(dataset.shape)[:1].to(device)
        done = 0
        if begun is not None:
            # Counted from the end, since the chain may begin with a training that is of no defense.
            done = len(chain) - (len(training.all_defenses) - len(begun.defenses))
        for place, defense in enumerate(chain):
            model = defense.protect(model, example)
            if begun is not None and place + 1 == done:
                model.load_state_dict(begun.load().state_dict())
                model.eval()
                record["stages"] = list(begun.training.get("stages", []))
            elif place >= done and defense.needs_fit:
                trainer = Trainer(
                    dataset.split("train"),
                    Recipe.model_validate(training.recipe),
                    seed=seed_from(training.seed, "training", place),
                    device=device,
                    progress=progress,
                    resume=path.with_name(f"{path.name}.{training.key}.{place}.partial"),
                )
                defense.fit(model, trainer)
                record.setdefault("stages", []).append(trainer.record)

    def keep() -> None:
        save_checkpoint(path, model, _info(training, dataset, record))
        # Also those of trainings to this file that were killed and then begun otherwise.
        for partial in path.parent.glob(f"{glob.escape(path.name)}.*.partial"):
            partial.unlink(missing_ok=True)

    Processes.connect(device).run_on_first(keep)


def untrained(training: Training, *, data_dir: Path | None = None) -> tuple[nn.Module, CheckpointInfo]:
    """The defended model before its training, which tells how it draws; and what its checkpoint will say.

    Args:
        training: What is to be trained.
        data_dir: The folder of downloaded data sets.

    Raises:
        UserError: The data, the model or a defense's parameters are not what they must be.
    """
    dataset = load_dataset(training.dataset, data_dir=data_dir)
    with seeded(0):
        model, chain = _begin(training, dataset)
        for defense in chain:
            model = defense.protect(model, example_images(dataset.shape)[:1])
    return model.eval(), _info(training, dataset, {})


def _begin(training: Training, dataset: Dataset) -> tuple[nn.Module, list[Defense]]:
    """The model that a training starts from, and the defenses that come around it."""
    # What the user has named themselves: a teacher's checkpoint may need it too.
    named = {training.model, *(each.name for each in training.defenses)}
    chain: list[Defense] = [each.build(defenses, **load_surrogates(each, named)) for each in training.defenses]
    if training.base is not None:
        return training.base.load(), chain
    with isolated():
        model = build_model(
            training.model, shape=dataset.shape, classes=dataset.classes, mean=training.mean, std=training.std
        )
    if not is_trained(training.model) and not (chain and chain[0].trains):
        chain.insert(0, Undefended())
    return model, chain


def _info(training: Training, dataset: Dataset, record: dict[str, Any]) -> CheckpointInfo:
    return CheckpointInfo(
        model=training.model,
        mean=training.mean,
        std=training.std,
        dataset=training.dataset,
        shape=dataset.shape,
        classes=dataset.classes,
        defenses=training.all_defenses,
        training=record,
        versions=versions(),
    )
