"""Copies the weights in a file into a model, whatever key, prefix or wrapper a training script put before their names."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustbench_cli.benchmarks.weights.weights_file import (
    MOST_CHANNELS,
    StateDict,
    key_rank,
    require_finite,
    shortened,
)
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.surgery.resized import resize_layers

__all__ = ["LoadedWeights", "OtherClassesError", "fill", "fits"]

# Parts that wrappers add to names, in any position: DataParallel, torch.compile, FSDP, activation checkpointing.
_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
_MEAN = re.compile(r"_?((?:\w+_)?)(?:mean|means|mu)")
_STD = re.compile(r"_?((?:\w+_)?)(?:std|stds|stddev|sd|sds|sigma)")
_MEASURES = re.compile(r"(?:^|_)(?:acc|accuracy|auroc|confmat|criterion|f1|loss|metrics?)(?:_|\d|$)")
"""Modules that only a training or its protocol uses: Lightning saves them beside the network."""
_POSITIONS = re.compile(r"pos_embed|position_embed|relative_position")
"""Parameters of vision transformers whose shapes depend on the size of the images."""
_MOST_CANDIDATES = 100
"""The most copies of the network in one state dict that are compared: the time grows with the square of their number."""


class OtherClassesError(UserError):
    """Weights fit a model but for its number of classes, and perhaps its channels.

    Args:
        message: What is wrong, and what would be right.
        classes: K of the weights.
    """

    def __init__(self, message: str, *, classes: int) -> None:
        super().__init__(message)
        self.classes = classes


class LoadedWeights(NamedTuple):
    """What :func:`fill` has loaded from a file.

    Attributes:
        message: What was loaded and what was left out, in one line; empty if the file leaves no choice.
        has_alternatives: Whether other weights in the file fit too.
        mean: Mean of the normalization that the file has beside the network.
        std: Standard deviation of that normalization.
    """

    message: str = ""
    has_alternatives: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def normalization(
        self, mean: tuple[float, ...] | None, std: tuple[float, ...] | None, path: Path
    ) -> dict[str, tuple[float, ...] | None]:
        """The mean and the std to use: the caller's if given, else the file's.

        Args:
            mean: The caller's.
            std: The caller's.
            path: The file, for the message.

        Raises:
            UserError: The caller's mean or standard deviation differs from the one in the file.
        """
        for name, given, in_file in (("mean", mean, self.mean), ("std", std, self.std)):
            if given is not None and in_file is not None and not _same(given, in_file):
                values, other = (",".join(f"{value:g}" for value in numbers) for numbers in (in_file, given))
                raise UserError(f"{path} has the {name} {values} in it, not {other}: leave --mean and --std out")
        if self.mean is None or mean is not None or std is not None:
            return {"mean": mean, "std": std}
        return {"mean": self.mean, "std": self.std}


def _same(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether two means or stds agree; a single number stands for all channels."""
    size = max(len(one), len(other))
    pairs = zip(one * (size // len(one)), other * (size // len(other)), strict=False)
    return all(math.isclose(left, right, rel_tol=1e-3, abs_tol=1e-4) for left, right in pairs)


def fill(model: nn.Module, tensors: Mapping[str, Tensor], path: Path, *, spec: str) -> LoadedWeights:
    """Copies the tensors of a file into a model: every tensor of the model, and every tensor of the file.

    A common prefix of the names in the file is removed (``module.``, ``model.``, ``1.`` of a ``Sequential`` with a
    normalization before the network), and so are parts that wrappers add. Besides the network the file may have the mean
    and the std of its normalization, the counter of an average, and weights of the same network under another key or prefix.

    Args:
        model: Is changed in place. Names that begin with one of its ``unused_in_files`` are left out, if it has this attribute;
            parts of names that its ``other_names`` has are replaced, where the file does not fit otherwise.
        tensors: As :func:`read_tensors` returns them.
        path: The file, for messages.
        spec: The model's name, for messages.

    Returns:
        What was loaded, and whether other weights fit too.

    Raises:
        OtherClassesError: The file is of a model with another number of classes.
        UserError: A name is missing or left over, a shape differs, a layer cannot have its size, or a weight is NaN or infinite.
    """
    try:
        resize_layers(model, tensors)
    except UserError as error:
        raise UserError(f"{path} does not fit {spec}: {error}") from None
    expected = model.state_dict()
    state = tensors if isinstance(tensors, StateDict) else StateDict(tensors)
    candidates = _all_candidates(model, state, {})
    fitting = [candidate for candidate in candidates if not candidate.faults]
    if not fitting and (other_names := getattr(model, "other_names", {})):
        renamed = _all_candidates(model, state, other_names)
        fitting = [candidate for candidate in renamed if not candidate.faults]
    if not fitting:
        nearest = max(candidates, key=lambda candidate: candidate.matches)
        raise _misfit(nearest, expected, f"{path} does not fit {spec}")
    best, *others = sorted(fitting, key=lambda candidate: candidate.rank)
    # Some files have the same network twice, as those of MadryLab's robustness.
    others = [other for other in others if not _same_tensors(other.tensors, best.tensors)]
    require_finite(best.tensors, path)
    model.load_state_dict(best.tensors, strict=True)
    return _with_normalization(best, state.beside, path).loaded(path, others)


def fits(model: nn.Module, tensors: Mapping[str, Tensor]) -> bool:
    """Whether :func:`fill` would copy the tensors of a file into a model.

    Args:
        model: May be on the device ``meta``.
        tensors: As :func:`read_tensors` returns them.
    """
    state = tensors if isinstance(tensors, StateDict) else StateDict(tensors)
    return any(
        not candidate.faults
        for names in ({}, getattr(model, "other_names", {}))
        for candidate in _all_candidates(model, state, names)
    )


def _all_candidates(model: nn.Module, state: StateDict, other_names: Mapping[str, str]) -> list[_Candidate]:
    """The candidates in all state dicts of a file.

    Args:
        model: See :func:`fill`.
        state: The first state dict.
        other_names: Parts of names in the file, and those that replace them.
    """
    return [
        candidate
        for key, tensors in {state.key: state, **state.alternatives}.items()
        for candidate in _candidates(
            key, _renamed(tensors, other_names), model.state_dict(), getattr(model, "unused_in_files", ())
        )
    ]


def _renamed(tensors: Mapping[str, Tensor], other_names: Mapping[str, str]) -> Mapping[str, Tensor]:
    """The tensors with other names; as they are, where two would have the same."""
    renamed = {".".join(other_names.get(part, part) for part in name.split(".")): name for name in tensors}
    return {new: tensors[old] for new, old in renamed.items()} if len(renamed) == len(tensors) else tensors


def _misfit(candidate: _Candidate, expected: Mapping[str, Tensor], problem: str) -> UserError:
    """The error of a file that does not fit; it names the option for the classes or the channels, if only these differ.

    Args:
        candidate: The nearest one.
        expected: The state dict of the model.
        problem: The beginning of the message.
    """
    problem = f"{problem}: {'; '.join(candidate.faults)}"
    shapes = {name: (tensor.shape, expected[name].shape) for name, tensor in candidate.tensors.items()}
    differing = {name: pair for name, pair in shapes.items() if pair[0] != pair[1]}
    complete = not (candidate.missing or candidate.unexpected)
    if complete and differing and all(_POSITIONS.search(name) for name in differing):
        return UserError(
            f"{problem}: its position embeddings are for images of another size: give --image-size, the one of its training"
        )
    classes = {in_file[0] for in_file, in_model in differing.values() if in_file[1:] == in_model[1:]}
    first = [
        in_file[1]
        for in_file, in_model in differing.values()
        if len(in_file) == 4 and in_file[1] in {1, 3} and (in_file[0], *in_file[2:]) == (in_model[0], *in_model[2:])
    ]
    only_these = complete and len(differing) <= 3
    options = [f"--channels {channels} for its images" for channels in first]
    options += [f"--classes {number}" for number in classes]
    if options and only_these and len(first) <= 1 and len(classes) <= 1:
        message = f"{problem}: give {' and '.join(options)}"
        return OtherClassesError(message, classes=classes.pop()) if classes else UserError(message)
    return UserError(
        f"{problem}: check the model, the classes and the images' shape, or name your own network, as in --model net.py:build"
    )


def _with_normalization(candidate: _Candidate, beside: Mapping[str, Tensor], path: Path) -> _Candidate:
    """A candidate with the normalization that the file has outside of its state dicts.

    Args:
        candidate: The tensors that are loaded.
        beside: The numbers outside of the state dicts, by key.
        path: The file, for the message.

    Raises:
        UserError: The file has two normalizations that differ.
    """
    pairs = _pairs(beside)
    found = {pair: (_numbers(beside[pair[0]]), _numbers(beside[pair[1]])) for pair in pairs}
    if candidate.values is not None and candidate.normalization is not None:
        found = {candidate.normalization: candidate.values, **found}
    if len(set(found.values())) > 1:
        names = shortened([" and ".join(pair) for pair in found])
        raise UserError(
            f"{path} has more than one normalization ({names}): save only model.state_dict(), and give --mean and --std"
        )
    if not found or candidate.normalization is not None:
        return candidate
    pair, values = next(iter(found.items()))
    return replace(candidate, normalization=pair, values=values)


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """Tensors in a file that may be the weights of a model.

    Attributes:
        key: Their key in the file.
        prefix: The prefix of their names in the file.
        tensors: The tensors, by the model's names.
        unexpected: Names in the file that belong neither to these tensors nor to another network.
        missing: Names of the model that the file lacks.
        shapes: Names with another shape than in the model, with both shapes.
        normalization: The names of a mean and a std beside the network.
        values: The values of these two.
        unused: Names in the file for layers that no image passes through.
    """

    key: str
    prefix: str
    tensors: dict[str, Tensor]
    unexpected: list[str]
    missing: list[str]
    shapes: list[str]
    normalization: tuple[str, str] | None
    values: tuple[tuple[float, ...], tuple[float, ...]] | None
    unused: list[str]

    @property
    def matches(self) -> int:
        """The number of the model's tensors that the file has, in the right shape."""
        return len(self.tensors) - len(self.shapes)

    @property
    def faults(self) -> list[str]:
        """Why the tensors do not fit the model; empty if they fit."""
        kinds = (("missing", self.missing), ("unexpected", self.unexpected), ("of another shape", self.shapes))
        return [f"{kind} {shortened(names)}" for kind, names in kinds if names]

    @property
    def rank(self) -> int:
        """The rank in the order of preference; equal ranks stay in the order of the file."""
        return _rank(self.key, self.prefix)

    @property
    def location(self) -> str:
        """The key and the prefix, for a message."""
        key = f"'{self.key}'" if self.key else ""
        prefix = f"the names that begin with '{self.prefix}'" if self.prefix else ""
        return " and ".join(part for part in (key, prefix) if part)

    def loaded(self, path: Path, others: Sequence[_Candidate]) -> LoadedWeights:
        """The report for loading these tensors.

        Args:
            path: The file, for the message.
            others: The other candidates that fit.
        """
        notes = [f"took {self.location}"] if self.location else []
        if others:
            alternatives = shortened([other.location or "the rest" for other in others])
            location = self.location or "the names without a prefix"
            notes = [f"took {location} (and not {alternatives}, which would fit too)"]
        prefix = self.prefix.strip(".")
        if self.normalization is not None:
            notes.append(f"the normalization of {' and '.join(self.normalization)}")
        elif prefix.rpartition(".")[2].isdecimal() and not prefix.endswith("0"):
            notes.append(
                "the layers before it are not in the file: give --mean and --std if they normalized the images"
            )
        if self.unused:
            notes.append(f"left out {shortened(self.unused)}, which the network does not use")
        mean, std = self.values or (None, None)
        return LoadedWeights(f"{path}: {'; '.join(notes)}" if notes else "", bool(others), mean, std)


def _candidates(
    key: str, state: Mapping[str, Tensor], expected: Mapping[str, Tensor], unused: tuple[str, ...]
) -> list[_Candidate]:
    """The networks in a state dict: one per prefix before the model's names, and at least one.

    Args:
        key: The key of the state dict in the file.
        state: The state dict.
        expected: The state dict of the model.
        unused: The beginnings of names for layers that no image passes through.
    """
    model_parts = {part for name in expected for part in name.split(".")}
    unwrapped = {_unwrapped(name, model_parts): name for name in state}
    if len(unwrapped) < len(state):
        # A name exists with and without a wrapper's part, so that part is no wrapper's.
        unwrapped = {name: name for name in state}
    # BatchNorm sets its counter itself if an old file has none.
    required = [name for name in expected if not name.endswith("num_batches_tracked")]
    prefixes = _prefix_counts(unwrapped, expected)
    complete = [prefix for prefix in prefixes if all(f"{prefix}{name}" in unwrapped for name in required)]
    most_common = max(prefixes, key=lambda prefix: (prefixes[prefix], -len(prefix)), default="")
    networks = {f"{prefix}{name}" for prefix in complete for name in expected}
    preferred = sorted(complete, key=lambda prefix: _rank(key, prefix))[:_MOST_CANDIDATES]
    return [
        _candidate(key, prefix, state, expected, unwrapped, networks=networks, required=required, unused=unused)
        for prefix in preferred or [most_common]
    ]


def _rank(key: str, prefix: str) -> int:
    """The rank of a key and a prefix in the order of preference."""
    return key_rank([*reversed(key.split(".")), *reversed(prefix.strip(".").split("."))])


def _prefix_counts(names: Iterable[str], expected: Collection[str]) -> dict[str, int]:
    """How many of the model's names follow each prefix."""
    counts: dict[str, int] = {}
    most_dots = max((name.count(".") for name in expected), default=0)
    for name in names:
        start = len(name) + 1
        # No end with more dots is a name of the model.
        for _ in range(most_dots + 1):
            start = name.rfind(".", 0, max(start - 1, 0)) + 1
            if name[start:] in expected:
                counts[name[:start]] = counts.get(name[:start], 0) + 1
            if start == 0:
                break
    return counts


def _candidate(
    key: str,
    prefix: str,
    state: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    unwrapped: Mapping[str, str],
    *,
    networks: Collection[str],
    required: Iterable[str],
    unused: tuple[str, ...],
) -> _Candidate:
    """The candidate of one prefix.

    Args:
        key: See :func:`_candidates`.
        prefix: The prefix.
        state: See :func:`_candidates`.
        expected: See :func:`_candidates`.
        unwrapped: The names in the file, by the same names without the parts of wrappers.
        networks: The names of all complete networks in the state dict.
        required: The model's names that the file must have.
        unused: See :func:`_candidates`.
    """
    tensors = {name: state[unwrapped[f"{prefix}{name}"]] for name in expected if f"{prefix}{name}" in unwrapped}
    used = {*networks, *(f"{prefix}{name}" for name in expected)}
    others = [name for name in unwrapped if name not in used and name.rpartition(".")[2] != "n_averaged"]
    rest = [
        name
        for name in others
        if not (name.removeprefix(prefix).startswith(unused) or _is_measure(name, prefix=prefix))
    ]
    # A network may have no tensors at all.
    copies = len(networks) // max(len(expected), 1)
    pairs = _normalizations({name: state[unwrapped[name]] for name in rest}, most=max(copies, 1))
    pair = pairs[0] if pairs else None
    of_pairs = {name for names in pairs for name in names}
    return _Candidate(
        key=key,
        prefix=prefix,
        tensors=tensors,
        unexpected=[unwrapped[name] for name in rest if name not in of_pairs],
        missing=[name for name in required if name not in tensors],
        shapes=[
            f"{name} {tuple(tensor.shape)} for {tuple(expected[name].shape)}"
            for name, tensor in tensors.items()
            if tensor.shape != expected[name].shape
        ],
        normalization=None if pair is None else (unwrapped[pair[0]], unwrapped[pair[1]]),
        values=None if pair is None else (_numbers(state[unwrapped[pair[0]]]), _numbers(state[unwrapped[pair[1]]])),
        unused=[unwrapped[name] for name in others if name not in rest],
    )


def _unwrapped(name: str, model_parts: Collection[str]) -> str:
    """A name without the parts of wrappers, except those that the model's own names have."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS or part in model_parts)


def _is_measure(name: str, *, prefix: str) -> bool:
    """Whether a name is of a loss or a metric beside the network, whose names all begin with a prefix."""
    return bool(prefix) and not name.startswith(prefix) and _MEASURES.search(name.partition(".")[0]) is not None


def _normalizations(tensors: Mapping[str, Tensor], *, most: int) -> list[tuple[str, str]]:
    """The names of the mean and the std of a normalization, once for each copy of the network.

    Args:
        tensors: Those that belong to no network.
        most: The number of copies. With more pairs, or with pairs that differ, none is the normalization.
    """
    pairs = _pairs(tensors)
    if len(pairs) > most:
        return []
    values = {tuple(_numbers(tensors[name]) for name in pair) for pair in pairs}
    return pairs if len(values) == 1 else []


def _pairs(tensors: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """The names of all that may be a mean and its std."""
    small = [name for name, tensor in tensors.items() if tensor.is_floating_point() and tensor.numel() <= MOST_CHANNELS]
    stds = _by_prefix(small, _STD)
    return [
        (mean, std)
        for prefix, means in _by_prefix(small, _MEAN).items()
        for mean in means
        for std in stds.get(prefix, ())
    ]


def _by_prefix(names: Iterable[str], pattern: re.Pattern[str]) -> dict[tuple[str, str], list[str]]:
    """The names whose last part matches, by their parent and the first group of the pattern."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name in names:
        parent, _, last = name.rpartition(".")
        if match := pattern.fullmatch(last):
            groups.setdefault((parent, match[1]), []).append(name)
    return groups


def _same_tensors(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def _numbers(tensor: Tensor) -> tuple[float, ...]:
    """The values as they were written: 0.4914, not the nearest float32 of it."""
    return tuple(float(str(value)) for value in tensor.flatten().to(torch.float32).numpy())
