"""A defended model on the disk, with what has to be known of it before any cell is run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from robustbench_cli.attacks.base.errors import UserError
from robustbench_cli.attacks.base.method import Method
from robustbench_cli.attacks.base.model import cost_of_all_draws, frozen, is_randomized
from robustbench_cli.attacks.base.registry import Registry
from robustbench_cli.benchmarks.cell import MethodSpec
from robustbench_cli.benchmarks.checkpoint import load_checkpoint, read_info
from robustbench_cli.benchmarks.evaluation import resolve_eot, resolve_repeats
from robustbench_cli.benchmarks.models import registry as models
from robustbench_cli.benchmarks.models.base import example_images

__all__ = ["Subject", "method_spec", "open_subject"]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A checkpoint that cells attack.

    Attributes:
        path: Its file.
        loading: Keywords of ``load_checkpoint``.
        identity: sha256 of the content, of how it is loaded, and of a user's own source files in it.
        model: The model's name.
        dataset: The data set that it was trained on, where the file says so.
        shape: ``(C, H, W)``.
        classes: K.
        defenses: In order; empty for an undefended model.
        randomized: Whether two passes over the same images differ, as measured.
        cost_of_all_draws: In forward passes of one draw; ``None`` where the draws cannot be counted.
        training: The record of its training.
    """

    path: Path
    loading: dict[str, Any]
    identity: str
    model: str
    dataset: str | None
    shape: tuple[int, int, int]
    classes: int
    defenses: tuple[MethodSpec, ...]
    randomized: bool
    cost_of_all_draws: float | None
    training: dict[str, Any]

    def load(self) -> nn.Module:
        """The model, in ``eval()`` mode."""
        return load_checkpoint(self.path, **self.loading).model

    def eot(self, asked: int | Literal["exact", "auto"]) -> int | Literal["exact"]:
        """What ``--eot`` means for this model; see :func:`~.evaluation.resolve_eot`."""
        return resolve_eot(asked, randomized=self.randomized, cost_of_all_draws=self.cost_of_all_draws)

    def repeats(self, asked: int | None) -> int:
        """How many draws score an image of this model; see :func:`~.evaluation.resolve_repeats`."""
        return resolve_repeats(asked, randomized=self.randomized)


def open_subject(path: Path, *, named: Collection[str] = (), **loading: Any) -> Subject:
    """Loads a checkpoint once, to learn what it is.

    Args:
        path: The file.
        named: Code of the user's own that the user has named.
        **loading: Further keywords of ``load_checkpoint``, for a foreign file.

    Raises:
        UserError: The file is not what it must be.
    """
    loading |= {"named": sorted(named)}
    model, info, sha256 = load_checkpoint(path, **loading)
    with frozen(model):
        randomized = is_randomized(model, example_images(info.shape))
    # What one of our own files says of itself is in its bytes already.
    foreign = {} if read_info(path) else {key: loading[key] for key in ("model", "classes", "mean", "std", "shape") if key in loading}
    sources = [models.source_of(info.model), *(each.source for each in info.defenses)]
    identity = hashlib.sha256(json.dumps([sha256, foreign, sources], sort_keys=True).encode()).hexdigest()
    return Subject(
        path=path,
        loading=loading,
        identity=identity,
        model=info.model,
        dataset=info.dataset,
        shape=info.shape,
        classes=info.classes,
        defenses=tuple(each for each in info.defenses if each.name != "none"),
        randomized=randomized,
        cost_of_all_draws=cost_of_all_draws(model),
        training=info.training,
    )


def method_spec(registry: Registry, name: str, parameters: dict[str, Any]) -> tuple[type[Method], MethodSpec]:
    """An attack or a defense as plain data, with all its parameters checked.

    Args:
        registry: Where the name is looked up.
        name: As the user typed it.
        parameters: What the user set; strings are read as YAML.

    Raises:
        UserError: The name or a parameter is unknown, or a value not allowed.
    """
    kind = registry.load(name)
    if not (isinstance(kind, type) and issubclass(kind, Method)):
        raise UserError(f"{name} is no {registry.kind}: give a class that is one, such as those of 'advdef list {registry.kind}s'")
    method = kind.from_parameters(parameters, name=name)
    values = method.model_dump(mode="json")
    defaults = {key: field.get_default(call_default_factory=True) for key, field in kind.model_fields.items()}
    changed = tuple(key for key in values if getattr(method, key) != defaults[key])
    return kind, MethodSpec(name=name, parameters=values, changed=changed, source=registry.source_of(name))
