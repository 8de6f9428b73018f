"""Hierarchical Random Switching: blocks of which each forward pass draws one of several trained channels."""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Annotated, ClassVar, Literal, cast

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode

from robustbench_cli.attacks.base.inputs import (
    Images,
    checked_count,
    checked_images,
    checked_keywords,
    checked_model,
    on_model,
)
from robustbench_cli.attacks.base.models.freezing import frozen
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.decision_rules import log_mean_softmax
from robustbench_cli.defenses.base.randomized import RandomizedDefense
from robustbench_cli.defenses.base.stochastic import StochasticLayer
from robustbench_cli.defenses.base.surgery.batched_ensemble import BatchedEnsemble, ensemble_cross_entropy
from robustbench_cli.defenses.base.surgery.split import split
from robustbench_cli.defenses.base.training.trainer import Trainer

__all__ = ["HRS", "HRSModel", "SwitchingBlock", "hrs"]


class HRS(RandomizedDefense):
    """Hierarchical Random Switching: the model is cut into blocks, and each row runs through a random channel of each.

    Channels of a block have one architecture and separately trained weights. Any model that ``torch.fx`` can trace is
    cut as it is; the automatic cut of the paper's networks into two blocks is that of the authors' code. Training goes
    block by block (the paper's Algorithm 1): a channel is trained together with fresh single channels of all later
    blocks, which are then thrown away, behind the finished earlier blocks, which stay frozen and switch; so it learns
    to take what any path before it gives. That makes one training for each channel, not for each path. The channels of
    a block are trained together, on the same batches: each learns what it would alone, in less time and in the memory
    of all of them. Here each row of a batch switches by itself and dropout is off in the finished blocks; the authors'
    code draws one path for a whole batch and leaves dropout on.
    """

    paper: ClassVar[str] = (
        "Xiao Wang, Siyue Wang, Pin-Yu Chen, Yanzhi Wang, Brian Kulis, Xue Lin, Peter Chin, Protecting Neural Networks with "
        "Hierarchical Random Switching, IJCAI 2019, arXiv 1908.07116"
    )

    channels: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (5, 5),
        min_length=1,
        description="channels of each block, from the first to the last; also in the paper's form, whose networks are "
        "[10][10], [20][20] and [30][30]",
    )
    split: Literal["auto"] | tuple[str, ...] = Field(
        "auto",
        description="the modules after which to cut, one fewer than blocks; auto: at the narrowest tensors, with two layers "
        "with weights or more in each block",
    )

    @field_validator("channels", mode="before")
    @classmethod
    def _counts(cls, value: object) -> object:
        if isinstance(value, str) and re.fullmatch(r"(\[[0-9]{1,6}\])+", value):
            return tuple(map(int, value[1:-1].split("][")))
        return value

    @field_validator("split", mode="before")
    @classmethod
    def _names(cls, value: object, info: ValidationInfo) -> object:
        if value == "auto":
            return value
        names = list(value) if isinstance(value, list | tuple) else [value]
        # The parts of a Sequential are called 0, 1, 2, which a file gives as numbers; 1.10 would come as 1.1.
        if not all(isinstance(name, str | int) for name in names):
            raise ValueError("give auto, or names of modules, in quotes")
        cuts = len(info.data.get("channels", ())) - 1
        if "channels" in info.data and len(names) != cuts:
            raise ValueError(f"{cuts + 1} blocks need {cuts} names, and here are {len(names)}")
        return tuple(map(str, names))

    def randomize(self, model: nn.Module, example: Tensor) -> HRSModel:
        blocks = split(model, example, at=len(self.channels) if self.split == "auto" else self.split)
        return HRSModel(blocks, self.channels, example)

    def train_draws(self, model: nn.Module, trainer: Trainer) -> None:
        assert isinstance(model, HRSModel)
        blocks = model.switching_blocks
        for number, block in enumerate(blocks):
            name = f"block {number + 1}"
            _require_difference(block, name)
            with trainer.seeded(name, "later blocks"):
                networks = [
                    nn.Sequential(channel, *(_fresh(follows.channels[0]) for follows in blocks[number + 1 :]))
                    for channel in block.channels
                ]
            together = BatchedEnsemble(networks, vectorized=trainer.device.type == "cuda")
            trainer.fit(
                nn.Sequential(*blocks[:number], together),
                name=name,
                whole=model,
                loss=ensemble_cross_entropy,
                on_finish=partial(together.copy_to, networks),
            )
            block.requires_grad_(False)
        model.requires_grad_(True).eval()


class SwitchingBlock(nn.Module):
    """Draws one of its channels for every row, uniformly and independently, at each forward pass.

    Rows that drew the same channel run through it together, so a pass costs one channel, not all.

    Args:
        channels: Modules of one architecture, from rows to rows.
    """

    def __init__(self, channels: Sequence[nn.Module]) -> None:
        super().__init__()
        self.channels = nn.ModuleList(channels)

    def forward(self, rows: Tensor) -> Tensor:
        # Drawn on the CPU: the groups' sizes are then known without waiting for a device.
        drawn = torch.randint(len(self.channels), (len(rows),))
        order = drawn.argsort(stable=True)
        sizes = drawn.bincount(minlength=len(self.channels)).tolist()
        groups = torch.split(rows[order.to(rows.device, non_blocking=True)], sizes)
        parts = [channel(group) for channel, group in zip(self.channels, groups, strict=True) if len(group)]
        if len(parts) == 1:
            # A stable order of equal draws is the order that they had.
            return cast("Tensor", parts[0])
        return torch.cat(parts or [self.channels[0](rows)])[order.argsort().to(rows.device, non_blocking=True)]


class HRSModel(StochasticLayer):
    """Switching blocks in a row; without draws, the mean of all paths.

    Args:
        blocks: Modules that follow one another; each becomes a block of fresh copies of itself. They are left as they
            are.
        channels: N_i, how many copies of each.
        example: One image ``(1, C, H, W)`` in [0, 1], to measure what the blocks cost.

    Attributes:
        number_of_draws: The paths, prod N_i, all equally likely.
        cost_of_all_draws: What :meth:`all_draws` costs an image, in forward passes of one path, by floating-point
            operations.
    """

    def __init__(self, blocks: Sequence[nn.Module], channels: Sequence[int], example: Tensor) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            SwitchingBlock([_fresh(block) for _ in range(count)]) for block, count in zip(blocks, channels, strict=True)
        )
        self.number_of_draws = math.prod(channels)
        operations = _operations(self.path(0), example)
        runs = itertools.accumulate(channels, lambda product, count: product * count)
        self.cost_of_all_draws = sum(map(math.prod, zip(operations, runs, strict=True))) / sum(operations)

    @property
    def switching_blocks(self) -> list[SwitchingBlock]:
        """The blocks, with their type."""
        return [cast("SwitchingBlock", block) for block in self.blocks]

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(N, K)`` of images ``(N, C, H, W)``, each by a path drawn for it, or the log of the mean softmax."""
        if not self.drawing:
            return log_mean_softmax(self.all_draws(images))
        for block in self.blocks:
            images = block(images)
        return images

    def path(self, index: int) -> nn.Sequential:
        """One path alone, a deterministic model that shares this one's parameters.

        Args:
            index: In [0, number_of_draws), in the order of :meth:`all_draws`.
        """
        chosen = []
        for block in reversed(self.switching_blocks):
            index, channel = divmod(index, len(block.channels))
            chosen.append(block.channels[channel])
        return nn.Sequential(*reversed(chosen))

    def all_draws(self, images: Tensor) -> Tensor:
        """Logits ``(D, N, K)`` of every path on images ``(N, C, H, W)``, the last block's channel changing fastest.

        Paths share the work of the blocks that they have in common.
        """
        paths, count = 1, len(images)
        rows = images
        for block in self.switching_blocks:
            parts = [channel(rows) for channel in block.channels]
            # (paths so far, channels, N, ...): the channels that follow a path stand beside each other.
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
    """Protects an existing model with Hierarchical Random Switching; its channels are fresh and wait for ``HRS.fit``.

    Args:
        model: Images ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``; it is left as it is.
        example: Images, or the shape ``(C, H, W)`` of one.
        channels: See :class:`HRS`.
        split: See :class:`HRS`.

    Raises:
        UserError: The parameters are not allowed, or the model cannot be cut there.
    """
    defense = HRS.from_parameters({"channels": tuple(channels), "split": split}, name="hrs")
    checked_model(model)
    if isinstance(example, tuple | list) and len(example) == 3 and all(isinstance(size, int) for size in example):
        channels_and_sides = [checked_count(size, "a side of the example") for size in example]
        return defense.randomize(model, on_model(torch.zeros(1, *channels_and_sides), model))
    return defense.randomize(model, on_model(checked_images(example, what="the example's images")[:1], model))


def _fresh(module: nn.Module) -> nn.Module:
    """A copy whose layers have drawn their weights anew; a parameter of a module that cannot do so keeps its value."""
    module = copy.deepcopy(module)
    for layer in module.modules():
        # MultiheadAttention's has an underscore.
        reset = getattr(layer, "reset_parameters", None) or getattr(layer, "_reset_parameters", None)
        if reset is not None:
            # What a parametrized layer draws is its weights; the parameters behind them follow from these.
            with parametrize.cached():
                reset()
                for name in getattr(layer, "parametrizations", {}):
                    # Some cannot be given any weights.
                    with suppress(NotImplementedError, RuntimeError, ValueError):
                        setattr(layer, name, getattr(layer, name).detach().clone())
    return module.requires_grad_(True)


def _require_difference(block: SwitchingBlock, name: str) -> None:
    """Channels that start from the same weights would stay the same, since they are trained on the same batches."""
    first, *others = (list(channel.parameters()) for channel in block.channels)
    if any(all(map(torch.equal, first, other)) for other in others):
        raise UserError(
            f"the channels of {name} would all be the same: none of its layers has a reset_parameters() that draws weights "
            "anew; give the model's own layers one, as torch's have"
        )


def _operations(blocks: nn.Sequential, example: Tensor) -> list[int]:
    """Floating-point operations of each block on one image."""
    counts = []
    with frozen(blocks), torch.no_grad():
        for block in blocks:
            with FlopCounterMode(display=False) as counter:
                example = block(example)
            counts.append(counter.get_total_flops())
    return counts
