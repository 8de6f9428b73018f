"""Trains a defended model once, and keeps it as a checkpoint under a name that says all that it came from."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import platformdirs
import torch
from pydantic import BaseModel, ConfigDict

from robustbench_cli.attacks.base.random import seed_from
from robustbench_cli.benchmarks.cell import MethodSpec
from robustbench_cli.benchmarks.checkpoint import CheckpointInfo, load_checkpoint, save_checkpoint, versions
from robustbench_cli.benchmarks.datasets.base.load import load_dataset
from robustbench_cli.benchmarks.models.base import build_model, example_images, is_trained
from robustbench_cli.defenses import registry as defenses
from robustbench_cli.defenses.base.defense import Defense
from robustbench_cli.defenses.base.training import Recipe, Trainer, TrainingProgress
from robustbench_cli.defenses.none import Undefended

__all__ = ["Training", "cached_checkpoint", "train"]


class Training(BaseModel):
    """Everything that the weights of a defended model come from. Plain data.

    Attributes:
        dataset: As the user named it.
        data: sha256 of the training examples.
        model: As the user named it.
        model_source: sha256 of a user's own source file of the model.
        mean: Of the normalisation inside the model.
        std: Of that normalisation.
        base: The checkpoint to start from, as its file and its identity; ``None`` to train from the beginning.
        defenses: In the order in which they are put around the model.
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
    base: tuple[Path, str] | None = None
    defenses: tuple[MethodSpec, ...] = ()
    recipe: dict[str, Any]
    seed: int

    @property
    def key(self) -> str:
        """A hash of what determines the weights: the base's identity counts, not where its file lies."""
        content = self.model_dump(mode="json")
        content["base"] = self.base[1] if self.base else None
        for defense in content["defenses"]:
            del defense["changed"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def label(self) -> str:
        """What is trained, for messages."""
        return f"{self.model} with {'+'.join(each.label for each in self.defenses) or 'no defense'} on {self.dataset}"


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
    data_dir: Path | None = None,
    progress: Callable[[TrainingProgress], None] = lambda _: None,
) -> None:
    """Trains a defended model and writes its checkpoint.

    After every epoch the state is kept beside ``path`` (``.partial``); a training that was killed goes on from there and
    ends, on a CPU, with the very same weights.

    Args:
        training: What to train.
        path: The checkpoint to write.
        device: Where.
        data_dir: The folder of downloaded data sets.
        progress: Called after each epoch.

    Raises:
        UserError: The data, the model or a defense's parameters are not what they must be, or the loss diverges.
    """
    dataset = load_dataset(training.dataset, data_dir=data_dir)
    chain = [build_defense(each) for each in training.defenses]
    path.parent.mkdir(parents=True, exist_ok=True)
    earlier: tuple[MethodSpec, ...] = ()
    record: dict[str, Any] = {"key": training.key}
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed_from(training.seed, "weights"))
        if training.base is None:
            model = build_model(
                training.model, shape=dataset.shape, classes=dataset.classes, mean=training.mean, std=training.std
            )
            if not is_trained(training.model) and not (chain and chain[0].trained):
                chain.insert(0, Undefended())
        else:
            model, info, _ = load_checkpoint(training.base[0])
            earlier = info.defenses
            record["base"] = {"key": training.base[1], **info.training}
        model = model.to(device)
        example = example_images(dataset.shape)[:1].to(device)
        partials = []
        for place, defense in enumerate(chain):
            model = defense.protect(model, example)
            if defense.trained:
                partials.append(path.with_name(f"{path.name}.{training.key}.{place}.partial"))
                trainer = Trainer(
                    dataset.split("train"),
                    Recipe.model_validate(training.recipe),
                    seed=seed_from(training.seed, "training", place),
                    device=device,
                    progress=progress,
                    resume=partials[-1],
                )
                defense.fit(model, trainer)
                record.setdefault("stages", []).append(trainer.record)
    save_checkpoint(
        path,
        model,
        CheckpointInfo(
            model=training.model,
            mean=training.mean,
            std=training.std,
            dataset=training.dataset,
            shape=dataset.shape,
            classes=dataset.classes,
            defenses=(*earlier, *training.defenses),
            training=record,
            versions=versions(),
        ),
    )
    for partial in partials:
        partial.unlink(missing_ok=True)


def build_defense(spec: MethodSpec) -> Defense:
    """The defense that a specification stands for."""
    kind: type[Defense] = defenses.load(spec.name)
    return kind.from_parameters(spec.parameters, name=spec.name)

