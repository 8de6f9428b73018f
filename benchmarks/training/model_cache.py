"""From a user's words to defended models on the disk: loads what is there, trains what is not."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from robustbench_cli.attacks.base.eps import parse_eps
from robustbench_cli.attacks.base.rng import seeded
from robustbench_cli.benchmarks.checkpoints.checkpoint import read_info, require_writable
from robustbench_cli.benchmarks.checkpoints.defended_model import (
    DefendedModel,
    for_radius,
    measured_defended_model,
    open_defended_model,
    usual_values,
    with_decision_rule,
)
from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.datasets.base.dataset import Dataset
from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.benchmarks.datasets.base.slice import first_examples
from robustbench_cli.benchmarks.datasets.base.split import Split
from robustbench_cli.benchmarks.devices import current, keep_freed_memory, limit_threads
from robustbench_cli.benchmarks.models import registry as models
from robustbench_cli.benchmarks.models.base.build import default_model, is_trained
from robustbench_cli.benchmarks.store.leases import Leases
from robustbench_cli.benchmarks.training.train import Training, cached_checkpoint, train, untrained
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses import registry
from robustbench_cli.defenses.base.decision_rules import DecisionRule
from robustbench_cli.defenses.base.training.processes import Processes
from robustbench_cli.defenses.base.training.recipe import Recipe
from robustbench_cli.defenses.base.training.trainer import TrainingProgress

__all__ = ["ModelCache"]

HASHED_IMAGES = 1000
"""How many of the training images are hashed; reading all that there are in a folder could take minutes."""

PAUSE = 1.0
"""Seconds until it is looked again whether another process has trained a model."""


@dataclass(frozen=True, kw_only=True)
class ModelCache:
    """How defended models are come by.

    Attributes:
        dataset: As the user named it.
        data_dir: The folder of downloaded data sets.
        device: Where to train.
        seed: Of trainings.
        recipe: What the user set of the training recipe; the data set's usual number of epochs stands where they set
            none.
        begin: Called with a label and a file before each training.
        wait: Called with a label before waiting for another process that trains it.
        progress: Called after each epoch.
    """

    dataset: str
    data_dir: Path | None
    device: torch.device
    seed: int
    recipe: dict[str, Any]
    begin: Callable[[str, Path], None] = lambda *_: None
    wait: Callable[[str], None] = lambda _: None
    progress: Callable[[TrainingProgress], None] = lambda _: None

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
        base: DefendedModel | None = None,
        defenses: tuple[MethodSpec, ...] = (),
    ) -> Training:
        """The training of a defended model, with numbers for what follows from the data set's usual radius.

        Args:
            model: As the user named it; the base's or the data's usual one where not given.
            mean: Of the normalisation inside the model.
            std: Of that normalisation.
            base: The checkpoint to start from.
            defenses: In order; ``none`` among them is left out.

        Raises:
            UserError: No model is usual for the data, the base is of other data or there is nothing to make of it, or a
                part of the recipe is unknown or not allowed.
        """
        data = self.data
        radius = parse_eps(data.eps).value
        protection = tuple(for_radius(each, radius) for each in defenses if each.name != "none")
        if base is not None and not protection:
            raise UserError(f"there is nothing to make of {base.path}: give the --defense to put around it")
        if base is not None and (base.shape, base.classes) != (data.shape, data.classes):
            raise UserError(
                f"{base.path} takes images {base.shape} of {base.classes} classes, {self.dataset} has {data.shape} of "
                f"{data.classes}: name the data set that it was trained on"
            )
        model = base.model if base is not None else model or default_model(data.shape)
        recipe = Recipe.from_parameters({"epochs": data.epochs, **self.recipe}, name="train")
        learns = (base is None and not is_trained(model)) or any(each.build(registry).fitted for each in protection)
        return Training(
            dataset=self.dataset,
            # Where nothing is learned from them, there may be no training examples.
            data=_hash_of(data.split("train")) if learns else "",
            model=model,
            model_source=models.source_of(model),
            mean=mean if base is None else base.mean,
            std=std if base is None else base.std,
            base=base,
            defenses=protection,
            recipe=recipe.model_dump(mode="json"),
            seed=self.seed,
        )

    def trained(self, training: Training, path: Path | None = None) -> DefendedModel:
        """A defended model, trained now unless its checkpoint is there already, or another process is at it.

        Args:
            training: What to train.
            path: The checkpoint; a file in the user's cache folder where not given, which serves all rules of decision.
        """
        if path is not None:
            if not Processes.joined(self.device).from_first(partial(_holds, path, training)):
                self._train(training, path)
            return open_defended_model(path, named=_names(training))
        if not self.train_if_free(training):
            self.wait(training.label)
            while not self.train_if_free(training):
                time.sleep(PAUSE)
        return open_defended_model(cached_checkpoint(training), named=_names(training), **training.rule)

    def is_trained(self, training: Training) -> bool:
        """Whether the checkpoint of a training is in the user's cache folder."""
        try:
            return _holds(cached_checkpoint(training), training.by_usual_rule)
        except UserError:
            # A file of the cache is ours to replace, whatever has become of it; a file that the user named is not.
            return False

    def is_being_trained(self, training: Training) -> bool:
        """Whether a living process trains that at this moment for the user's cache folder."""
        return _leases(training).holder(training.key) is not None

    def train_if_free(self, training: Training) -> bool:
        """Trains a defended model for the user's cache folder, unless a living process that shares it is at it already.

        Returns:
            Whether its checkpoint is there now.
        """
        if self.is_trained(training):
            return True
        path = cached_checkpoint(training)
        with _leases(training).hold(training.key) as ours:
            if not ours:
                return False
            # It may have come while this process looked for it.
            if not self.is_trained(training):
                self._train(training.by_usual_rule, path)
            return True

    def untrained(self, training: Training, decision: DecisionRule | None = None) -> DefendedModel:
        """What a defended model will be, as far as that can be known before its training.

        Args:
            training: What will train it.
            decision: The rule by which its draws are to decide; its own where not given.
        """
        model, info = untrained(training, data_dir=self.data_dir)
        if decision is not None:
            model, info = with_decision_rule(decision, model, info)
        identity = f"training {training.key}: {'+'.join(each.label for each in info.defenses)}"
        return measured_defended_model(model, info, cached_checkpoint(training), {}, identity=identity)

    def _train(self, training: Training, path: Path) -> None:
        require_writable(path)
        # What cannot be built is refused before anything is trained, the last of several defenses too.
        untrained(training, data_dir=self.data_dir)
        limit_threads(self.data.shape)
        keep_freed_memory()
        self.begin(f"{training.label}{self._followed(training)}", path)
        begun = self._begun(training)
        with current(self.device):
            train(training, path, device=self.device, begun=begun, data_dir=self.data_dir, progress=self.progress)

    def _followed(self, training: Training) -> str:
        """What follows from the data set's usual radius in a training, in words; empty where nothing does."""
        radius = parse_eps(self.data.eps).value
        found = [
            f"{each.name}.{key}={value:.4g}"
            for each in training.defenses
            for key, value in usual_values(each, radius).items()
            if each.parameters[key] == value
        ]
        return f" ({', '.join(found)}, from the data set's usual radius)" if found else ""

    def _begun(self, training: Training) -> DefendedModel | None:
        """What the user's cache folder has of a training already: the longest of its beginnings."""
        if Processes.launched().number > 1:
            # They may be on several machines, which have a folder each.
            return None
        for beginning in training.beginnings:
            if self.is_trained(beginning):
                return open_defended_model(cached_checkpoint(beginning), named=_names(training))
        return None

    @torch.no_grad()
    def accuracy(self, defended: DefendedModel, images: int = 1000) -> tuple[float, int]:
        """The share of test images that one pass of a model gets right, and how many there were."""
        examples = first_examples(self.data.split("test"), images)
        model = defended.load().to(self.device)
        batches = examples.images.split(256)
        with current(self.device), seeded(self.seed):
            right = torch.cat([model(batch.to(self.device)).argmax(1).cpu() for batch in batches]) == examples.labels
        return right.double().mean().item(), len(examples)


def _hash_of(examples: Split) -> str:
    """A hash of training examples: of all labels, and of the first images."""
    labels = hashlib.sha256(examples.labels.numpy().data).hexdigest()
    return f"{labels}-{first_examples(examples, HASHED_IMAGES).sha256}"


def _leases(training: Training) -> Leases:
    """Who trains what for the user's cache folder."""
    return Leases(cached_checkpoint(training).parent.parent)


def _names(training: Training) -> set[str]:
    """What of a training may be code of the user's own, which the user has named."""
    return {training.model, *(each.name for each in training.all_defenses)}


def _holds(path: Path, training: Training) -> bool:
    """Whether a file is the checkpoint that a training gives.

    Raises:
        UserError: It is there and cannot be used.
    """
    if not path.is_file():
        return False
    info = read_info(path)
    if info is None or info.training.get("key") != training.key:
        return False
    said = info.defenses[-1].parameters if info.defenses else {}
    if any(said.get(key) != value for key, value in training.rule.items()):
        return False
    open_defended_model(path, named=_names(training))
    return True
