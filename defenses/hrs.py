"""Hierarchical Random Switching (HRS): each block switches at random between several trained channels."""

from __future__ import annotations

import copy
import itertools
import math
import re
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Annotated, ClassVar, Literal, Self, cast

import torch
from pydantic import Field, ValidationInfo, field_validator, model_validator
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from robustbench_cli.attacks.base.inputs import (
    Images,
    checked_count,
    checked_images,
    checked_keywords,
    checked_model,
    match_model,
)
from robustbench_cli.attacks.base.models.freezing import frozen
from robustbench_cli.attacks.base.models.operations import multiply_accumulates
from robustbench_cli.core.errors import Notice, UserError, one_line
from robustbench_cli.defenses.base.decision_rules import log_mean_softmax
from robustbench_cli.defenses.base.randomized import RandomizedDefense
from robustbench_cli.defenses.base.stochastic import StochasticLayer
from robustbench_cli.defenses.base.surgery.batched_ensemble import (
    BatchedEnsemble,
    OwnImages,
    ensemble_cross_entropy,
    summed_over_networks,
)
from robustbench_cli.defenses.base.surgery.packed_network import PackedNetwork, joined_tensors
from robustbench_cli.defenses.base.surgery.split import split
from robustbench_cli.defenses.base.training.adversarial import InnerPGD, ascend
from robustbench_cli.defenses.base.training.gradients import label_loss
from robustbench_cli.defenses.base.training.trainer import Trainer

__all__ = ["HRS", "HRSModel", "SwitchingBlock", "hrs"]

_FEW_NUMBERS = 2**22
"""The most numbers in the rows of a block for which its channels run as one network on a GPU."""


class HRS(RandomizedDefense):
    """Hierarchical Random Switching: the model is cut into blocks, and each row takes a random channel of each block.

    The channels of a block have one architecture and separately trained weights. Any model that ``torch.fx`` can trace can
    be cut. The automatic cut of the paper's networks into two blocks equals that of the authors' code.

    Training proceeds block by block (the paper's Algorithm 1). A channel is trained together with new single channels of
    all later blocks, which are discarded afterwards. The earlier blocks are frozen and switch at random, so the channel
    learns to accept the output of every path before it. This needs one training per channel, not per path. The channels
    of a block are trained together on the same batches: each learns what it would learn alone, in less time, with the
    memory of all of them.

    With ``objective=pgd-at`` each channel is trained adversarially: PGD attacks the channel with its later blocks, behind
    the frozen earlier blocks, which make new draws in each step, and the channel learns from these images alone. So a block costs
    as much as an adversarial training of each of its channels. ``[hrs, pgd-at]`` is something else: there the whole model
    is trained further, on images that attack random paths.

    Here each row of a batch switches independently, and dropout is off in the frozen blocks. The authors' code draws one
    path for a whole batch and leaves dropout on.
    """

    paper: ClassVar[str] = (
        "Xiao Wang, Siyue Wang, Pin-Yu Chen, Yanzhi Wang, Brian Kulis, Xue Lin, Peter Chin, Protecting Neural Networks with "
        "Hierarchical Random Switching, IJCAI 2019, arXiv 1908.07116"
    )
    family: ClassVar[str] = "random-layers"

    channels: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (5, 5),
        min_length=1,
        description="number of channels of each block, in order; the paper's notation [10][10] is accepted too",
    )
    split: Literal["auto"] | tuple[str, ...] = Field(
        "auto",
        description="names of the modules after which to cut, one fewer than blocks; auto: at the narrowest tensors, with at "
        "least two layers with weights in each block",
    )

    objective: Literal["cross-entropy", "pgd-at"] = Field(
        "cross-entropy",
        description="loss of each channel's training: on clean images, or on PGD images made for that channel",
        exclude_if=lambda objective: objective == "cross-entropy",
    )
    eps: float | None = Field(
        None,
        gt=0,
        le=1,
        description="for objective=pgd-at: radius in linf of that PGD; default: the data set's usual radius, 8/255 for CIFAR-10",
        exclude_if=lambda eps: eps is None,
    )
    steps: int = Field(
        10,
        ge=1,
        description="for objective=pgd-at: number of steps, of 2.5 eps / steps each",
        exclude_if=lambda steps: steps == 10,
    )

    @model_validator(mode="after")
    def _attack_belongs(self) -> Self:
        if self.objective != "pgd-at" and (self.eps is not None or self.steps != 10):
            raise ValueError("eps and steps are those of PGD: give objective=pgd-at, or leave them out")
        return self

    def radius_defaults(self, radius: float) -> dict[str, float]:
        return {"eps": radius} if self.objective == "pgd-at" else {}

    @field_validator("channels", mode="before")
    @classmethod
    def _read_paper_notation(cls, value: object) -> object:
        if isinstance(value, str) and re.fullmatch(r"(\[[0-9]{1,6}\])+", value):
            return tuple(map(int, value[1:-1].split("][")))
        return value

    @field_validator("split", mode="before")
    @classmethod
    def _check_names(cls, value: object, info: ValidationInfo) -> object:
        if value == "auto":
            return value
        names = list(value) if isinstance(value, list | tuple) else [value]
        # Modules of a Sequential are called 0, 1, 2, so YAML gives integers. Floats are refused: 1.10 would become 1.1.
        if not all(isinstance(name, str | int) for name in names):
            raise ValueError("give auto, or names of modules in quotes")
        cuts = len(info.data.get("channels", ())) - 1
        if "channels" in info.data and len(names) != cuts:
            raise ValueError(f"{cuts + 1} blocks need {cuts} names, not {len(names)}")
        return tuple(map(str, names))

    def randomize(self, model: nn.Module, example: Tensor) -> HRSModel:
        blocks = split(model, example, at=len(self.channels) if self.split == "auto" else self.split)
        return HRSModel(blocks, self.channels, example)

    def train_draws(self, model: nn.Module, trainer: Trainer) -> None:
        assert isinstance(model, HRSModel)
        blocks = model.switching_blocks
        for index, block in enumerate(blocks):
            name = f"block {index + 1}"
            _require_different_channels(block, name)
            with trainer.seeded(name, "later blocks"):
                networks = [
                    nn.Sequential(channel, *(_reinitialized(later.channels[0]) for later in blocks[index + 1 :]))
                    for channel in block.channels
                ]
            ensemble = BatchedEnsemble(networks, vectorized=trainer.device.type == "cuda")
            is_attacked = self.objective == "pgd-at"
            trainer.fit(
                nn.Sequential(*blocks[:index], ensemble),
                name=name,
                whole=model,
                loss=self.adversarial_loss if is_attacked else ensemble_cross_entropy,
                eps=self.resolved("eps") if is_attacked else 0,
                # The attack needs the images, not what the frozen blocks make of them.
                frozen_layers=0 if is_attacked else index,
                on_finish=partial(ensemble.copy_to, networks),
            )
            block.requires_grad_(False)
        model.requires_grad_(True).eval()

    def adversarial_loss(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """The mean loss over M networks, each on PGD images of its own, with the gradient of the sum.

        Args:
            network: A sequence that ends in a :class:`~.batched_ensemble.BatchedEnsemble` of M networks.
            images: ``(B, C, H, W)`` in [0, 1].
            labels: ``(B,)``, or probabilities ``(B, K)``.
        """
        assert isinstance(network, nn.Sequential)
        channels, eps = OwnImages(network), self.resolved("eps")
        count = channels.ensemble.count
        labels = torch.cat([labels] * count)
        perturbed = ascend(
            channels,
            images.repeat(count, 1, 1, 1),
            lambda logits: functional.cross_entropy(logits, labels, reduction="sum"),
            InnerPGD(eps=eps, steps=self.steps, step_size=2.5 * eps / self.steps),
        )
        return summed_over_networks(label_loss(channels(perturbed), labels), count)


class SwitchingBlock(nn.Module):
    """A block that draws one of its channels for every row, uniformly and independently, in each forward pass.

    Rows with the same channel run through it together. So a pass costs as much as one channel. On a GPU, where a small
    network costs what its launches cost, all channels run in one call.

    Args:
        channels: Modules of one architecture.
    """

    def __init__(self, channels: Sequence[nn.Module]) -> None:
        super().__init__()
        self.channels = nn.ModuleList(channels)
        self._packed: PackedNetwork | None = None
        self._packed_layers: list[nn.Module] = []

    def forward(self, rows: Tensor) -> Tensor:
        """The output for rows ``(N, ...)``, each from a channel drawn for it."""
        # Drawn on the CPU, so the group sizes are known without waiting for the GPU.
        drawn = torch.randint(len(self.channels), (len(rows),))
        order = drawn.argsort(stable=True)
        counts = drawn.bincount(minlength=len(self.channels))
        if self._launches_dominate(rows):
            output = self._in_one_call(rows, order, counts)
            if output is not None:
                return output
        sizes = counts.tolist()
        groups = torch.split(rows[order.to(rows.device, non_blocking=True)], sizes)
        parts = [channel(group) for channel, group in zip(self.channels, groups, strict=True) if len(group)]
        if len(parts) == 1:
            # All rows have the same channel, and a stable sort keeps their order.
            return cast("Tensor", parts[0])
        return torch.cat(parts or [self.channels[0](rows)])[order.argsort().to(rows.device, non_blocking=True)]

    def _launches_dominate(self, rows: Tensor) -> bool:
        """Whether the channels are faster in one call: on a GPU, if so few numbers are computed that launches take the time."""
        return rows.is_cuda and 0 < rows.numel() <= _FEW_NUMBERS

    def _in_one_call(self, rows: Tensor, order: Tensor, counts: Tensor) -> Tensor | None:
        """The output ``(N, ...)`` of the packed channels; ``None`` if they cannot be packed.

        All groups are as large as the largest. The first row fills them up, and its additional outputs are not used.

        Args:
            rows: ``(N, ...)``.
            order: ``(N,)``: the rows of the first channel, then those of the second, and so on.
            counts: ``(M,)``: the number of rows of each channel.
        """
        number, layers = len(counts), [layer for channel in self.channels for layer in channel.modules()]
        if rows.dim() not in (2, 4) or any(map(_needs_its_own_call, layers)):
            return None
        # A later defense may have replaced layers, in a copy of this block.
        if self._packed is None or layers != self._packed_layers:
            self._packed, self._packed_layers = PackedNetwork(self.channels[0], number, same_rows=False), layers
        channels = torch.arange(number).repeat_interleave(counts)
        # Position p is row p // M of channel p % M.
        positions = (torch.arange(len(order)) - (counts.cumsum(0) - counts)[channels]) * number + channels
        sources = torch.zeros(int(counts.max()) * number, dtype=torch.int64).index_put((positions,), order)
        results = torch.empty_like(order).index_put((order,), positions)
        both = torch.cat([sources, results]).to(rows.device, non_blocking=True)
        groups = rows.index_select(0, both[: len(sources)]).unflatten(0, (-1, number))
        inputs = groups.flatten(1, 2) if rows.dim() == 4 else groups
        output = self._packed.run(joined_tensors(list(self.channels)), inputs, training=self.channels[0].training)
        if output is None:
            return None
        output = output.unflatten(1, (number, -1)) if output.dim() == 4 else output
        return output.flatten(0, 1).index_select(0, both[len(sources) :])


class HRSModel(StochasticLayer):
    """A sequence of switching blocks. Its deterministic counterpart is the mean softmax of all paths.

    Args:
        blocks: Modules to run one after the other. Each becomes a block of reinitialized copies. They stay unchanged.
        channels: The number N_i of copies of each block.
        example: One image ``(1, C, H, W)`` in [0, 1], to measure the cost of the blocks.

    Attributes:
        number_of_draws: The number of paths, prod N_i. All are equally likely.
        cost_of_all_draws: The cost of :meth:`all_draws` per image, in forward passes of one path, measured in
            floating-point operations.
    """

    def __init__(self, blocks: Sequence[nn.Module], channels: Sequence[int], example: Tensor) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            SwitchingBlock([_reinitialized(block) for _ in range(count)])
            for block, count in zip(blocks, channels, strict=True)
        )
        self.number_of_draws = math.prod(channels)
        operations = _operations(self.path(0), example)
        runs = itertools.accumulate(channels, lambda product, count: product * count)
        self.cost_of_all_draws = sum(map(math.prod, zip(operations, runs, strict=True))) / sum(operations)

    @property
    def switching_blocks(self) -> list[SwitchingBlock]:
        """The blocks, as :class:`SwitchingBlock`."""
        return [cast("SwitchingBlock", block) for block in self.blocks]

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(N, K)`` of images ``(N, C, H, W)``, each from a path drawn for it.

        Without draws: the logarithm of the mean softmax of all paths.
        """
        if not self.drawing:
            return log_mean_softmax(self.all_draws(images))
        for block in self.blocks:
            images = block(images)
        return images

    def path(self, index: int) -> nn.Sequential:
        """A single path: a deterministic model that shares this model's parameters.

        Args:
            index: The path in [0, number_of_draws), in the order of :meth:`all_draws`.
        """
        chosen = []
        for block in reversed(self.switching_blocks):
            index, channel = divmod(index, len(block.channels))
            chosen.append(block.channels[channel])
        return nn.Sequential(*reversed(chosen))

    def all_draws(self, images: Tensor) -> Tensor:
        """Logits ``(D, N, K)`` of all D paths on images ``(N, C, H, W)``. The last block's channel varies fastest.

        Paths share the computation of their common blocks.
        """
        paths, count = 1, len(images)
        rows = images
        for block in self.switching_blocks:
            parts = [channel(rows) for channel in block.channels]
            # (paths so far, channels, N, ...): the continuations of a path are adjacent.
            rows = torch.stack([part.reshape(paths, count, *part.shape[1:]) for part in parts], dim=1).flatten(0, 2)
            paths *= len(parts)
        return rows.reshape(paths, count, *rows.shape[1:])


@checked_keywords
def hrs(
    model: nn.Module,
    example: Images | tuple[int, int, int],
    *,
    channels: Sequence[int] = (5, 5),
    split: str | Sequence[str] = "auto",
) -> HRSModel:
    """Protects an existing model with Hierarchical Random Switching. The channels are untrained.

    To protect and train in one call, use :func:`~robustbench_cli.defenses.base.defense.defend` with :class:`HRS`.

    Args:
        model: Images ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``. It stays unchanged.
        example: Images ``(N, C, H, W)``, or the shape ``(C, H, W)`` of an image.
        channels: The number of channels of each block; see :class:`HRS`.
        split: Where to cut the model; see :class:`HRS`.

    Raises:
        UserError: A parameter is out of range, or the model cannot be cut there.

    Examples:
        >>> import torch
        >>> from robustbench_cli.defenses.hrs import hrs
        >>> network = torch.nn.Sequential(
        ...     torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 10)
        ... )
        >>> model = hrs(network, (1, 8, 8), channels=(5, 3))
        >>> images = torch.rand(4, 1, 8, 8)
        >>> model(images).shape  # each image takes a random path
        torch.Size([4, 10])
        >>> model.number_of_draws
        15
        >>> model.all_draws(images).shape  # every path
        torch.Size([15, 4, 10])
    """
    defense = HRS.from_parameters({"channels": tuple(channels), "split": split}, name="hrs")
    checked_model(model)
    if isinstance(example, tuple | list) and len(example) == 3 and all(isinstance(size, int) for size in example):
        shape = [checked_count(size, "a side of the example") for size in example]
        return defense.randomize(model, match_model(torch.zeros(1, *shape), model))
    return defense.randomize(model, match_model(checked_images(example, what="the example's images")[:1], model))


def _needs_its_own_call(layer: nn.Module) -> bool:
    """Whether the rows that fill up the groups would change a layer's batch statistics, or a hook waits for its call."""
    uses_batch = isinstance(layer, nn.BatchNorm2d) and (layer.training or layer.running_mean is None)
    return uses_batch or bool(layer._forward_hooks or layer._forward_pre_hooks)  # noqa: SLF001


def _reinitialized(module: nn.Module) -> nn.Module:
    """A copy with newly initialized weights. Layers without a ``reset_parameters`` method keep their weights."""
    module = copy.deepcopy(module)
    for layer in module.modules():
        # MultiheadAttention's method has an underscore.
        reset = getattr(layer, "reset_parameters", None) or getattr(layer, "_reset_parameters", None)
        if reset is not None:
            # A parametrized layer initializes its weights; setting them sets the parameters behind them.
            with parametrize.cached():
                reset()
                for name in getattr(layer, "parametrizations", {}):
                    try:
                        setattr(layer, name, getattr(layer, name).detach().clone())
                    except (NotImplementedError, RuntimeError, ValueError) as error:
                        warnings.warn(
                            f"the {name} of a {type(layer).__name__} starts with the same value in all channels: its "
                            f"parametrization cannot be set ({one_line(error)})",
                            Notice,
                            stacklevel=2,
                        )
    return module.requires_grad_(True)


def _require_different_channels(block: SwitchingBlock, name: str) -> None:
    """Checks that no channel equals the first: equal channels stay equal, because all see the same batches."""
    first, *others = (list(channel.parameters()) for channel in block.channels)
    if any(all(map(torch.equal, first, other)) for other in others):
        raise UserError(
            f"the channels of {name} would all be the same: none of its layers has a reset_parameters() method that draws new "
            "weights; add one to the model's own layers, as torch's layers have"
        )


def _operations(blocks: nn.Sequential, example: Tensor) -> list[int]:
    """The multiply-accumulates of each block on one image; 1 for each if those of one cannot be counted."""
    counts: list[int] = []
    with frozen(blocks), torch.no_grad():
        for block in blocks:
            count = multiply_accumulates(block, example)
            if count is None:
                return [1] * len(blocks)
            counts.append(count)
            example = block(example)
    return counts
