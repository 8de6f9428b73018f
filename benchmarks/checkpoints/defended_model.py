"""A defended model on the disk, with what has to be known of it before any cell is run."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.gradients.draws import Draws, EOTChoice, resolve_eot
from robustbench_cli.attacks.base.models.freezing import frozen
from robustbench_cli.attacks.base.models.measured_model import MeasuredModel
from robustbench_cli.attacks.base.parameters.surrogate import surrogate_parameters
from robustbench_cli.benchmarks.checkpoints.checkpoint import CheckpointInfo, load_checkpoint, read_own_info
from robustbench_cli.benchmarks.checkpoints.method_spec import MethodSpec
from robustbench_cli.benchmarks.datasets.base.slice import Slice
from robustbench_cli.benchmarks.evaluation.options import resolve_repeats
from robustbench_cli.benchmarks.models import registry as models
from robustbench_cli.benchmarks.models.base.build import example_images
from robustbench_cli.core.errors import Notice, UserError
from robustbench_cli.core.isolation import isolated
from robustbench_cli.core.registry import Registry
from robustbench_cli.core.settings import Settings
from robustbench_cli.defenses import registry as defenses
from robustbench_cli.defenses.base.decision_rules import Decision, DecisionRule, decided
from robustbench_cli.defenses.base.defense import Defense
from robustbench_cli.defenses.base.randomized import RandomizedDefense

__all__ = [
    "CheckedMethod",
    "DefendedModel",
    "for_radius",
    "load_defended_model",
    "load_surrogates",
    "measured_defended_model",
    "method_spec",
    "open_defended_model",
    "usual_values",
    "with_decision_rule",
]


@dataclass(frozen=True, kw_only=True)
class DefendedModel:
    """A checkpoint that cells attack.

    Attributes:
        path: Its file.
        loading: Keywords of ``load_checkpoint``.
        identity: sha256 of the weights and of what model they are the weights of: the same whatever file they came in.
        model: The model's name.
        mean: Of the normalisation inside the model.
        std: Of that normalisation.
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
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    dataset: str | None
    shape: tuple[int, int, int]
    classes: int
    defenses: tuple[MethodSpec, ...]
    randomized: bool
    cost_of_all_draws: float | None
    training: dict[str, Any]

    @property
    def defense(self) -> str:
        """The label of the defenses, in order."""
        return "+".join(each.label for each in self.defenses) or "none"

    @property
    def decision(self) -> DecisionRule | None:
        """The rule by which its draws decide; ``None`` where no defense of it draws."""
        drawing = [each for each in self.defenses if issubclass(defenses.load(each.name), RandomizedDefense)]
        return drawing[-1].parameters["decision"] if drawing else None

    def load(self) -> nn.Module:
        """The model, in ``eval()`` mode; see :func:`load_defended_model`."""
        return load_defended_model(self.path, self.loading, self.identity)

    def with_decision(self, rule: DecisionRule) -> DefendedModel:
        """The same weights with another rule by which the draws decide; the same model where it has no draws.

        Args:
            rule: Takes the place of the last randomized defense's own.

        Raises:
            UserError: The defense's draws cannot decide so.
        """
        return open_defended_model(self.path, **(self.loading | {"decision": rule}))

    def require_fit(self, examples: Slice, dataset: str) -> None:
        """Makes sure that the model takes the examples and knows their classes.

        Args:
            examples: What is to be evaluated.
            dataset: As the user named it.

        Raises:
            UserError: It does not.
        """
        shape = tuple(examples.images.shape[1:])
        if shape != self.shape:
            raise UserError(
                f"{self.path} takes images of shape {self.shape}, those of {dataset} have {shape}: name the data set that it "
                "was trained on"
            )
        low, high = int(examples.labels.min()), int(examples.labels.max())
        if low < 0 or high >= self.classes:
            raise UserError(
                f"the labels of {dataset} reach from {low} to {high}, and {self.path} gives {self.classes} logits an image: "
                f"labels are to be 0 to {self.classes - 1}"
            )

    def eot(self, asked: EOTChoice) -> Draws:
        """The draws behind a gradient of this model; see :func:`~robustbench_cli.attacks.base.gradients.draws.resolve_eot`."""
        return resolve_eot(asked, randomized=self.randomized, cost_of_all_draws=self.cost_of_all_draws)

    def repeats(self, asked: int | None) -> int:
        """How many draws score an image of this model; see :func:`~.evaluation.resolve_repeats`."""
        return resolve_repeats(asked, randomized=self.randomized)


def open_defended_model(path: Path, *, named: Collection[str] = (), **loading: Any) -> DefendedModel:
    """Loads a checkpoint once, to learn what it is.

    Args:
        path: The file.
        named: Code of the user's own that the user has named.
        **loading: Further keywords of ``load_checkpoint``, for a foreign file; or ``decision``, the rule by which the
            draws are to decide, and ``draws``, how many of a mean or a vote.

    Raises:
        UserError: The file is not what it must be.
    """
    loading |= {"named": sorted(named)}
    model, info = _load(path, **loading)
    return measured_defended_model(model, info, path, loading)


def measured_defended_model(
    model: nn.Module, info: CheckpointInfo, path: Path, loading: dict[str, Any], *, identity: str | None = None
) -> DefendedModel:
    """What is to be known of a model, as a subject.

    Args:
        model: In ``eval()`` mode.
        info: What its checkpoint says of it.
        path: See :class:`DefendedModel`.
        loading: See :class:`DefendedModel`.
        identity: Stands for the hash of the model; computed where not given.
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
    )


def load_defended_model(path: Path, loading: dict[str, Any], identity: str) -> nn.Module:
    """Loads the model of a subject again, and no other.

    Args:
        path: See :class:`DefendedModel`.
        loading: See :class:`DefendedModel`.
        identity: See :class:`DefendedModel`.

    Raises:
        UserError: The file holds another model by now.
    """
    with warnings.catch_warnings():
        # What was taken of a foreign file was told when the subject was opened.
        warnings.simplefilter("ignore", Notice)
        model, info = _load(path, **loading)
    if _identity(model, info, _protection(info)) != identity:
        raise UserError(f"{path} has changed since the command began: give the command again")
    return model


def _load(
    path: Path, *, decision: DecisionRule | None = None, draws: int | None = None, **loading: Any
) -> tuple[nn.Module, CheckpointInfo]:
    """A checkpoint's model and what is said of it, with another rule of decision where one is given."""
    with isolated():
        model, info, _ = load_checkpoint(path, **loading)
        if decision is not None:
            model, info = with_decision_rule(decision, model, info, draws=draws)
    return model, info


def with_decision_rule(
    decision: DecisionRule, model: nn.Module, info: CheckpointInfo, *, draws: int | None = None
) -> tuple[nn.Module, CheckpointInfo]:
    """A model whose draws decide by another rule, and what is to be said of it; the same where it has no draws.

    Args:
        decision: Takes the place of the last randomized defense's own rule.
        model: The defended model.
        info: What is said of it.
        draws: Of a mean or a vote; as many as the defense says where not given.

    Raises:
        UserError: The defense's draws cannot decide so.
    """
    built = [each.build(defenses) for each in info.defenses]
    places = [place for place, defense in enumerate(built) if isinstance(defense, RandomizedDefense)]
    if not places:
        return model, info
    last, chain = places[-1], list(info.defenses)
    draws = draws or built[last].draws
    said = {**chain[last].parameters, "decision": decision, "draws": draws}
    spec = method_spec(defenses, chain[last].name, said).spec
    # What followed from the data set's radius was not changed, though it is no default either.
    changed = tuple(key for key in spec.changed if key in ("decision", "draws", *chain[last].changed))
    chain[last] = spec.model_copy(update={"changed": changed})
    example = example_images(info.shape)[:1]
    if built[last].decision == "one-draw":
        model = decided(model, decision, draws=draws, example=example)
    else:
        model = _with_another_rule(model, decision, draws=draws, example=example)
    return model.eval(), info.model_copy(update={"defenses": tuple(chain)})


def _with_another_rule(model: nn.Module, rule: DecisionRule, *, draws: int, example: Tensor) -> nn.Module:
    """A model with another rule in the place of its outermost, which may stand inside of what does not draw."""
    modules = list(model.named_modules(remove_duplicate=False))
    outermost = next(module for _, module in modules if isinstance(module, Decision))
    other = decided(outermost, rule, draws=draws, example=example)
    for path in [path for path, module in modules if module is outermost]:
        if not path:
            return other
        model.set_submodule(path, other)
    return model


def _protection(info: CheckpointInfo) -> tuple[MethodSpec, ...]:
    """The defenses of a checkpoint, with the source files of a user's own as they are now."""
    return tuple(
        each.model_copy(update={"source": defenses.source_of(each.name)})
        for each in info.defenses
        if each.name != "none"
    )


def _identity(model: nn.Module, info: CheckpointInfo, protection: Sequence[MethodSpec]) -> str:
    """A hash of what the model computes; not of when, how long and by what versions it was trained."""
    spec = MethodSpec(name=info.model, source=models.source_of(info.model))
    said = info.model_dump(mode="json", include={"mean", "std", "shape", "classes"})
    said |= {"model": spec.identity, "defenses": [each.identity for each in protection]}
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"\0{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


class CheckedMethod(NamedTuple):
    """An attack or a defense as plain data, with what had to be looked at to make it.

    Attributes:
        kind: Its class.
        spec: Itself.
        surrogates: The models that are among its parameters, by name.
    """

    kind: type[Settings]
    spec: MethodSpec
    surrogates: dict[str, DefendedModel]


def method_spec(
    registry: Registry, name: str, parameters: dict[str, Any], *, named: Collection[str] = ()
) -> CheckedMethod:
    """An attack or a defense as plain data, with all its parameters checked.

    Args:
        registry: Where the name is looked up.
        name: As the user typed it.
        parameters: What the user set.
        named: Code of the user's own that the user has named, which the checkpoints among the parameters may need.

    Raises:
        UserError: The name or a parameter is unknown, or a value not allowed.
    """
    kind: type[Settings] = registry.load(name)
    method = kind.from_parameters(parameters, name=name)
    files = {key: getattr(method, key) for key in surrogate_parameters(kind)}
    surrogates = {
        key: _open_surrogate(f"{name}.{key}", file, named) for key, file in files.items() if isinstance(file, Path)
    }
    identities = {key: surrogate.identity for key, surrogate in surrogates.items()}
    spec = MethodSpec.of(method, name=name, source=registry.source_of(name), surrogates=identities)
    return CheckedMethod(kind, spec, surrogates)


def for_radius(spec: MethodSpec, radius: float) -> MethodSpec:
    """A defense with numbers for those of its parameters that follow from the data set's usual radius and were not given.

    What was given and is what would follow does not count as changed: the same defense has one label.

    Args:
        spec: The defense.
        radius: In linf.

    Raises:
        UserError: What follows is not allowed.
    """
    usual = usual_values(spec, radius)
    parameters = {
        key: usual[key] if value is None and key in usual else value for key, value in spec.parameters.items()
    }
    defenses.load(spec.name).from_parameters(parameters, name=spec.name)
    changed = tuple(key for key in spec.changed if key not in usual or parameters[key] != usual[key])
    return spec.model_copy(update={"parameters": parameters, "changed": changed})


def usual_values(spec: MethodSpec, radius: float) -> dict[str, float]:
    """What the parameters of a defense are that follow from the data set's usual radius, where they are not given.

    Args:
        spec: The defense.
        radius: In linf.
    """
    defense: Defense = spec.build(defenses)
    return defense.usual(radius)


def _open_surrogate(parameter: str, path: Path, named: Collection[str]) -> DefendedModel:
    try:
        read_own_info(path, missing="what it holds: give a checkpoint that 'advdef train' has made")
        return open_defended_model(path, named=named)
    except UserError as error:
        raise UserError(f"{parameter}: {error}") from None


def load_surrogates(spec: MethodSpec, named: Collection[str]) -> dict[str, nn.Module]:
    """The models that are among a method's parameters, in ``eval()`` mode, by name.

    Args:
        spec: As :func:`method_spec` made it.
        named: Code of the user's own that the user has named.

    Raises:
        UserError: A file holds another model by now.
    """
    return {
        key: load_defended_model(Path(spec.parameters[key]), {"named": sorted(named)}, identity)
        for key, identity in spec.surrogates.items()
    }
