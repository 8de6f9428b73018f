"""A defended model in a checkpoint, with everything that is known of it before a cell runs."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import OrderedDict
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.gradients.draws import Draws, EOTChoice, resolve_eot
from robustbench_cli.attacks.base.models.freezing import frozen
from robustbench_cli.attacks.base.models.measured_model import MeasuredModel
from robustbench_cli.attacks.base.models.operations import multiply_accumulates
from robustbench_cli.attacks.base.parameters.class_costs import ClassCosts
from robustbench_cli.attacks.base.parameters.surrogate import ensemble_parameters, surrogate_parameters
from robustbench_cli.benchmarks.checkpoints.checkpoint import (
    CheckpointInfo,
    load_checkpoint,
    read_advdef_info,
    read_info,
)
from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec, defense_label
from robustbench_cli.benchmarks.checkpoints.repeats import resolve_repeats
from robustbench_cli.benchmarks.checkpoints.size import ModelSize
from robustbench_cli.benchmarks.datasets.base.dataset import Dataset, numbered_from_one
from robustbench_cli.benchmarks.datasets.base.preprocessing import size_hint
from robustbench_cli.benchmarks.datasets.base.slice import Slice
from robustbench_cli.benchmarks.models import registry as models
from robustbench_cli.benchmarks.models.base.build import example_images
from robustbench_cli.benchmarks.weights.opened_file import file_state
from robustbench_cli.core.errors import Notice, UserError
from robustbench_cli.core.isolation import isolated
from robustbench_cli.core.registry import Registry
from robustbench_cli.core.settings import Settings
from robustbench_cli.defenses import registry as defenses
from robustbench_cli.defenses.base.decision_rules import Decision, DecisionRule, with_decision_rule
from robustbench_cli.defenses.base.defense import Defense
from robustbench_cli.defenses.base.randomized import RandomizedDefense

__all__ = [
    "CheckedMethod",
    "DefendedModel",
    "change_decision_rule",
    "for_classes",
    "for_radius",
    "load_defended_model",
    "load_surrogates",
    "measured_defended_model",
    "method_spec",
    "model_size",
    "open_defended_model",
    "specs_by_rule",
    "usual_values",
]

_MOST_DESCRIPTIONS = 128

_opened: OrderedDict[Hashable, DefendedModel] = OrderedDict()
"""The models that this process has opened, by the state of their files, their loading options and the user's code."""


@dataclass(frozen=True, kw_only=True)
class DefendedModel:
    """A defended model in a checkpoint, without its weights.

    Attributes:
        path: The file.
        loading: Keywords of :func:`open_defended_model`.
        identity: sha256 of the weights and of the specification of their model; it does not depend on the file.
        model: The model's name.
        mean: Mean of the normalization inside the model.
        std: Standard deviation of that normalization.
        dataset: The training data; ``None`` if the file does not name them.
        shape: ``(C, H, W)``.
        classes: K.
        defenses: In order; empty for an undefended model.
        randomized: Whether two passes over the same images differ, as measured.
        cost_of_all_draws: In forward passes of one draw; ``None`` if the draws cannot be enumerated.
        training: The record of its training.
        size: Its parameters and operations.
        config: What its model is built from besides the name.
    """

    path: Path
    loading: dict[str, Any]
    identity: str
    model: str
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    dataset: str | None
    shape: tuple[int, int, int]
    classes: int
    defenses: tuple[MethodSpec, ...]
    randomized: bool
    cost_of_all_draws: float | None
    training: dict[str, Any]
    size: ModelSize
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def defense(self) -> str:
        """The label of the defenses, in order."""
        return defense_label(self.defenses)

    @property
    def decision(self) -> DecisionRule | None:
        """The decision rule of its draws; ``None`` if it has no randomized defense."""
        last = _last_randomized(self.defenses)
        return None if last is None else self.defenses[last].parameters["decision"]

    def load(self) -> nn.Module:
        """The model, in ``eval()`` mode; see :func:`load_defended_model`."""
        return load_defended_model(self.path, self.loading, self.identity)

    def with_decision(self, rule: DecisionRule) -> DefendedModel:
        """The same weights with another decision rule; the same model if it has no randomized defense.

        Args:
            rule: Replaces the rule of the last randomized defense.

        Raises:
            UserError: The draws of this defense cannot decide by that rule.
        """
        return open_defended_model(self.path, **(self.loading | {"decision": rule}))

    def require_fit(self, examples: Slice, dataset: str) -> None:
        """Checks that the model fits the images and the labels of a data slice.

        Args:
            examples: The data slice.
            dataset: Its data set, as the user named it.

        Raises:
            UserError: The images have another shape, or a label is not one of the model's classes.
        """
        _, *sides = examples.images.shape
        shape = (sides[0], sides[1], sides[2])
        if shape != self.shape:
            raise UserError(
                f"{self.path} takes images of shape {self.shape}, those of {dataset} have {shape}: name the data set that it "
                f"was trained on{size_hint(self.shape, shape)}"
            )
        self.require_labels(examples.labels, dataset)

    def require_labels(self, labels: Tensor, dataset: str) -> None:
        """Checks that labels are classes of the model.

        Args:
            labels: ``(N,)``, any number of them.
            dataset: Their data set, as the user named it.

        Raises:
            UserError: A label is not one of the model's classes.
        """
        if message := numbered_from_one(labels, self.classes, where=dataset):
            raise UserError(message)
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= self.classes:
            raise UserError(
                f"the labels of {dataset} reach from {low} to {high}, and {self.path} gives {self.classes} logits an image: "
                f"labels are to be 0 to {self.classes - 1}"
            )

    def eot(self, choice: EOTChoice) -> Draws:
        """The draws behind a gradient of this model.

        Args:
            choice: The user's choice; see :func:`~robustbench_cli.attacks.base.gradients.draws.resolve_eot`.
        """
        return resolve_eot(choice, randomized=self.randomized, cost_of_all_draws=self.cost_of_all_draws)

    def repeats(self, number: int | None) -> int:
        """The draws that score an image of this model.

        Args:
            number: What the user set; see :func:`~.repeats.resolve_repeats`.
        """
        return resolve_repeats(number, randomized=self.randomized)


def open_defended_model(path: Path, *, named: Collection[str] = (), **loading: Any) -> DefendedModel:
    """Opens a checkpoint: loads it once, hashes its weights and measures its draws.

    The result is cached for the process: a second call for an unchanged file reads nothing.

    Args:
        path: The file.
        named: Code of the user's own that the user has named.
        **loading: Further keywords of ``load_checkpoint``, for a foreign file; or ``decision``, a decision rule that
            replaces the checkpoint's, and ``draws``, the draws of a mean or a vote.

    Raises:
        UserError: As for :func:`~.checkpoint.load_checkpoint`, or the draws cannot decide by that rule.
    """
    loading |= {"named": sorted(named)}
    key = _key(path, loading)
    if key is not None and key in _opened:
        _opened.move_to_end(key)
        return replace(_opened[key], path=path, loading=loading)
    model, info = _load(path, **loading)
    defended = measured_defended_model(model, info, path, loading)
    if key is not None and key == _key(path, loading):
        _opened[key] = defended
        while len(_opened) > _MOST_DESCRIPTIONS:
            _opened.popitem(last=False)
    return defended


def _key(path: Path, loading: dict[str, Any]) -> Hashable | None:
    """The key of a model in the cache: its file's state, how it is loaded, and the hashes of a user's code in it.

    ``None`` if the file cannot be cached, is no checkpoint, or names code that the user has not; then the loading tells why.
    """
    state = file_state(path)
    if state is None:
        return None
    try:
        info = read_info(path, named=(loading.get("model"), *loading["named"]))
        code = [models.source_of(loading.get("model") or (info.model if info else ""))]
        code += [defenses.source_of(spec.name) for spec in info.defenses] if info else []
    except UserError:
        return None
    return state, json.dumps(loading, sort_keys=True, default=str), tuple(code)


def measured_defended_model(
    model: nn.Module, info: CheckpointInfo, path: Path, loading: dict[str, Any], *, identity: str | None = None
) -> DefendedModel:
    """Measures a model that is loaded, and describes it.

    Args:
        model: In ``eval()`` mode.
        info: The description in its checkpoint.
        path: See :class:`DefendedModel`.
        loading: See :class:`DefendedModel`.
        identity: Replaces the hash of a model that is not trained yet.
    """
    protection = _protection(info)
    measured = MeasuredModel(model, example_images(info.shape))
    with isolated(), frozen(model):
        randomized, cost = measured.randomized, measured.cost_of_all_draws
    return DefendedModel(
        path=path,
        loading=loading,
        identity=identity or _identity(model, info, protection),
        model=info.model,
        mean=info.mean,
        std=info.std,
        dataset=info.dataset,
        shape=info.shape,
        classes=info.classes,
        defenses=protection,
        randomized=randomized,
        cost_of_all_draws=cost,
        training=info.training,
        size=model_size(model, example_images(info.shape)[:1]),
        config=info.config,
    )


def model_size(model: nn.Module, image: Tensor) -> ModelSize:
    """Measures the size of a model.

    Args:
        model: The model.
        image: ``(1, C, H, W)`` in [0, 1], on the device of the model.
    """
    with isolated():
        macs = multiply_accumulates(model, image)
    # torch.nn.utils.prune keeps a weight w as w_orig, and multiplies it by a mask, w_mask, in each pass.
    masks = {
        name.removesuffix("_mask") + "_orig": mask for name, mask in model.named_buffers() if name.endswith("_mask")
    }
    return ModelSize(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        nonzero=sum(
            int((parameter * masks[name] if name in masks else parameter).count_nonzero())
            for name, parameter in model.named_parameters()
        ),
        macs=macs,
    )


def load_defended_model(path: Path, loading: dict[str, Any], identity: str) -> nn.Module:
    """Loads the weights of a model that :func:`open_defended_model` has opened, into a new module.

    Args:
        path: See :class:`DefendedModel`.
        loading: See :class:`DefendedModel`.
        identity: See :class:`DefendedModel`.

    Raises:
        UserError: The file has another model now.
    """
    key = _key(path, loading)
    with warnings.catch_warnings():
        # The notices about a foreign file came when it was opened.
        warnings.simplefilter("ignore", Notice)
        model, info = _load(path, **loading)
    # The description holds for the loaded weights if the file was the same before and after they were read.
    opened = _opened.get(key) if key is not None and key == _key(path, loading) else None
    if (opened.identity if opened is not None else _identity(model, info, _protection(info))) != identity:
        raise UserError(f"{path} has changed since the command began: give the command again")
    return model


def _load(
    path: Path, *, decision: DecisionRule | None = None, draws: int | None = None, **loading: Any
) -> tuple[nn.Module, CheckpointInfo]:
    """The model and the description of a checkpoint, with another decision rule if one is given."""
    with isolated():
        model, info, _ = load_checkpoint(path, **loading)
        if decision is not None:
            model, info = change_decision_rule(decision, model, info, draws=draws)
    return model, info


def change_decision_rule(
    decision: DecisionRule, model: nn.Module, info: CheckpointInfo, *, draws: int | None = None
) -> tuple[nn.Module, CheckpointInfo]:
    """A model with another decision rule, and its description; both unchanged if it has no randomized defense.

    Args:
        decision: Replaces the rule of the last randomized defense.
        model: The defended model.
        info: Its description.
        draws: The draws of a mean or a vote; the defense's own number by default.

    Raises:
        UserError: The draws of this defense cannot decide by that rule.
    """
    last = _last_randomized(info.defenses)
    if last is None:
        return model, info
    defense = info.defenses[last].build(defenses)
    draws = draws or defense.draws
    example = example_images(info.shape)[:1]
    if defense.decision == "one-draw":
        model = with_decision_rule(model, decision, draws=draws, example=example)
    else:
        model = _replace_rule(model, decision, draws=draws, example=example)
    specs = specs_by_rule(decision, info.defenses, draws=draws)
    return model.eval(), info.model_copy(update={"defenses": specs})


def specs_by_rule(
    decision: DecisionRule, specs: tuple[MethodSpec, ...], *, draws: int | None = None
) -> tuple[MethodSpec, ...]:
    """A model's defenses with another decision rule; unchanged if none is randomized.

    Args:
        decision: Replaces the rule of the last randomized defense.
        specs: The defenses, in order.
        draws: The draws of a mean or a vote; the defense's own number by default.
    """
    last = _last_randomized(specs)
    if last is None:
        return specs
    former = specs[last]
    parameters = {**former.parameters, "decision": decision, "draws": draws or former.build(defenses).draws}
    spec = method_spec(defenses, former.name, parameters).spec
    # A parameter that follows from the data set's radius was not changed by the user, though it is no default either.
    changed = tuple(key for key in spec.changed if key in ("decision", "draws", *former.changed))
    return (*specs[:last], spec.model_copy(update={"changed": changed}), *specs[last + 1 :])


def _last_randomized(specs: Sequence[MethodSpec]) -> int | None:
    """The position of the last randomized defense, or ``None``."""
    positions = [
        position for position, spec in enumerate(specs) if issubclass(defenses.load(spec.name), RandomizedDefense)
    ]
    return positions[-1] if positions else None


def _replace_rule(model: nn.Module, rule: DecisionRule, *, draws: int, example: Tensor) -> nn.Module:
    """Replaces the outermost decision rule of a model, which may be inside deterministic layers."""
    modules = list(model.named_modules(remove_duplicate=False))
    outermost = next(module for _, module in modules if isinstance(module, Decision))
    replacement = with_decision_rule(outermost, rule, draws=draws, example=example)
    for path in [path for path, module in modules if module is outermost]:
        if not path:
            return replacement
        model.set_submodule(path, replacement)
    return model


def _protection(info: CheckpointInfo) -> tuple[MethodSpec, ...]:
    """The defenses of a checkpoint, with the current hashes of a user's own code."""
    return tuple(
        spec.model_copy(update={"source": defenses.source_of(spec.name)})
        for spec in info.defenses
        if spec.name != "none"
    )


def _identity(model: nn.Module, info: CheckpointInfo, protection: Sequence[MethodSpec]) -> str:
    """A hash of what the model computes, without the time, the duration and the versions of its training."""
    spec = MethodSpec(name=info.model, source=models.source_of(info.model))
    content = info.model_dump(mode="json", include={"mean", "std", "shape", "classes"})
    if info.config:
        content["config"] = info.config
    content |= {"model": spec.identity, "defenses": [defense.identity for defense in protection]}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"\0{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


class CheckedMethod(NamedTuple):
    """An attack or a defense with its parameters, all checked.

    Attributes:
        kind: Its class.
        spec: The method as data.
        surrogates: The models among its parameters, by parameter.
    """

    kind: type[Settings]
    spec: MethodSpec
    surrogates: dict[str, list[DefendedModel]]


def method_spec(
    registry: Registry, name: str, parameters: dict[str, Any], *, named: Collection[str] = ()
) -> CheckedMethod:
    """Checks an attack or a defense with its parameters, and turns it into data.

    Args:
        registry: The registry of attacks or of defenses.
        name: As the user typed it.
        parameters: The parameters that the user set.
        named: Code of the user's own that the user has named, which checkpoints among the parameters may need.

    Raises:
        UserError: The name or a parameter is unknown, or a value is not allowed.
    """
    kind: type[Settings] = registry.load(name)
    method = kind.from_parameters(parameters, name=name)
    given = {key: [getattr(method, key)] for key in surrogate_parameters(kind)}
    given |= {key: [*getattr(method, key)] for key in ensemble_parameters(kind)}
    opened = {
        key: [_open_surrogate(f"{name}.{key}", file, named) for file in files if isinstance(file, Path)]
        for key, files in given.items()
    }
    surrogates = {key: models for key, models in opened.items() if models}
    identities = {key: ",".join(model.identity for model in models) for key, models in surrogates.items()}
    spec = MethodSpec.of(method, name=name, source=registry.source_of(name), surrogates=identities)
    return CheckedMethod(kind, spec, surrogates)


def for_radius(spec: MethodSpec, radius: float) -> MethodSpec:
    """A defense whose radius-dependent parameters have numbers: from the data set's usual radius, if not set.

    A parameter that the user set to just that number does not count as changed, so that one defense has one label.

    Args:
        spec: The defense.
        radius: The usual radius in linf.

    Raises:
        UserError: A number that follows from the radius is not allowed.
    """
    usual = usual_values(spec, radius)
    # A parameter that its method excludes at its default may be missing.
    missing = {key: value for key, value in usual.items() if spec.parameters.get(key) is None}
    parameters = {**spec.parameters, **missing}
    defenses.load(spec.name).from_parameters(parameters, name=spec.name)
    changed = tuple(key for key in spec.changed if key not in usual or parameters[key] != usual[key])
    return spec.model_copy(update={"parameters": parameters, "changed": changed})


def for_classes(spec: MethodSpec, registry: Registry, data: Dataset) -> MethodSpec:
    """An attack or a defense whose protected classes have numbers, whether the user gave numbers or names.

    Args:
        spec: The method.
        registry: The registry of its kind.
        data: The data set whose classes they are.

    Raises:
        UserError: The data set has no such class.
    """
    kind = registry.load(spec.name)
    if not issubclass(kind, ClassCosts):
        return spec
    classes = None if data.classes_inferred else data.classes
    method = kind.from_parameters({**spec.parameters}, name=spec.name)
    numbered = method.for_classes(classes, data.class_names, name=spec.name)
    return spec.model_copy(update={"parameters": {**spec.parameters, "protected": [*numbered.protected]}})


def usual_values(spec: MethodSpec, radius: float) -> dict[str, float]:
    """The radius-dependent parameters of a defense at a data set's usual radius, by name.

    Args:
        spec: The defense.
        radius: The usual radius in linf.
    """
    defense: Defense = spec.build(defenses)
    return defense.radius_defaults(radius)


def _open_surrogate(parameter: str, path: Path, named: Collection[str]) -> DefendedModel:
    try:
        missing = "what it holds: give a checkpoint that 'advdef train' has made"
        read_advdef_info(path, missing=missing, named=named)
        return open_defended_model(path, named=named)
    except UserError as error:
        raise UserError(f"{parameter}: {error}") from None


def load_surrogates(spec: MethodSpec, named: Collection[str]) -> dict[str, nn.Module | list[nn.Module]]:
    """The models among a method's parameters, in ``eval()`` mode, by parameter; a list for an ensemble.

    Args:
        spec: As :func:`method_spec` made it.
        named: Code of the user's own that the user has named.

    Raises:
        UserError: A file has another model now.
    """
    loaded: dict[str, nn.Module | list[nn.Module]] = {}
    for key, identities in spec.surrogates.items():
        files = spec.parameters[key]
        models = [
            load_defended_model(Path(file), {"named": sorted(named)}, identity)
            for file, identity in zip([files] if isinstance(files, str) else files, identities.split(","), strict=True)
        ]
        loaded[key] = models[0] if isinstance(files, str) else models
    return loaded
