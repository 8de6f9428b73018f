"""The latency of defended models, relative to their networks without defenses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from robustbench_cli.attacks.base.models.freezing import frozen
from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel, open_defended_model
from robustbench_cli.benchmarks.checkpoints.footprint import undefended_network
from robustbench_cli.benchmarks.comparison.tables import markdown
from robustbench_cli.benchmarks.comparison.timing import Ratio, in_turn, machine, ratio
from robustbench_cli.core.errors import UserError

__all__ = ["compare_latency", "latencies"]

_BATCHES = {1: 100, 128: 4}
"""The sizes of batches, and how many passes one timed run takes, so that it is long enough for a clock."""


def compare_latency(checkpoints: Sequence[Path], *, turns: int) -> None:
    """Prints the sizes of models, and the latency of a forward pass over that of the network without defenses.

    Args:
        checkpoints: The files of the models.
        turns: Timed runs of each.

    Raises:
        UserError: There is no file, or one is no checkpoint.
    """
    if not checkpoints:
        raise UserError("latency is that of defended models: give --checkpoints FILE ...")
    models = [open_defended_model(path) for path in checkpoints]
    columns = [latencies(models, rows=rows, passes=passes, turns=turns) for rows, passes in _BATCHES.items()]
    lines = [
        (
            path.name,
            *(
                "-" if size is None else f"{size:,}"
                for size in (model.size.parameters, model.size.nonzero, model.size.macs)
            ),
            *map(str, ratios),
        )
        for path, model, *ratios in zip(checkpoints, models, *columns, strict=True)
    ]
    sizes = ("parameters", "nonzero", "macs")
    print(f"{machine()}\nlatency of a forward pass over that of the network without defenses, by the batch size\n")
    print(markdown(("model", *sizes, *(f"batches of {rows}" for rows in _BATCHES)), lines))


def latencies(models: Sequence[DefendedModel], *, rows: int, passes: int, turns: int) -> list[Ratio]:
    """The latency of a forward pass of each model, over that of its network without defenses. All run in turn.

    Args:
        models: The models.
        rows: The batch size.
        passes: The number of passes in a timed run.
        turns: Timed runs of each.
    """
    runs: dict[str, Callable[[], None]] = {}
    for number, defended in enumerate(models):
        images = torch.rand(rows, *defended.shape).contiguous(memory_format=torch.channels_last)
        for side, network in (("model", defended.load()), ("network", undefended_network(defended))):
            runs[f"{side} {number}"] = partial(_run, network.to(memory_format=torch.channels_last), images, passes)
    seconds = in_turn(runs, turns=turns)
    return [ratio(seconds[f"model {number}"], seconds[f"network {number}"]) for number in range(len(models))]


@torch.no_grad()
def _run(network: nn.Module, images: Tensor, passes: int) -> None:
    with frozen(network):
        for _ in range(passes):
            network(images)
