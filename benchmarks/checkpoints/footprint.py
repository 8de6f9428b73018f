"""The cost of a defended model: parameters, operations and training time, beside the network without defenses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from robustbench_cli.attacks.base.models.freezing import frozen
from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel
from robustbench_cli.benchmarks.models.base.build import build_untrained, example_images

__all__ = ["Footprint", "footprint"]


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """The cost of a defended model and of its network without defenses.

    Attributes:
        parameters: The number of trained parameters.
        network_parameters: The same for the network.
        operations: Floating-point operations of the deployed rule for one image, as torch counts them.
        network_operations: The same for the network.
        cost_of_all_draws: The cost of all draws, in units of a pass with one draw; ``None`` if the draws cannot be enumerated.
        seconds: The stages of its training in order, each with its duration.
    """

    parameters: int
    network_parameters: int
    operations: int
    network_operations: int
    cost_of_all_draws: float | None
    seconds: tuple[tuple[str, float], ...]

    def __str__(self) -> str:
        parts = [f"{self.parameters:,} parameters"]
        if self.network_parameters:
            parts[0] += f", {self.parameters / self.network_parameters:.1f} times the network's"
        if self.seconds:
            total = f"trained in {sum(seconds for _, seconds in self.seconds):.1f} s"
            stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.seconds)
            parts.append(f"{total} ({stages})" if len(self.seconds) > 1 else total)
        if self.network_operations:
            cost = self.operations / self.network_operations
            all_draws = "" if self.cost_of_all_draws is None else f", all draws {cost * self.cost_of_all_draws:.1f}"
            parts.append(f"a pass costs {cost:.1f} of the network's{all_draws}")
        return "; ".join(parts)


def footprint(defended: DefendedModel) -> Footprint:
    """Measures the cost of a defended model.

    Args:
        defended: The model.
    """
    model = defended.load()
    network = build_untrained(
        defended.model,
        shape=defended.shape,
        classes=defended.classes,
        mean=defended.mean,
        std=defended.std,
        config=defended.config,
    )
    image = example_images(defended.shape)[:1]
    stages = defended.training.get("stages", [])
    return Footprint(
        parameters=_parameters(model),
        network_parameters=_parameters(network),
        operations=_operations(model, image),
        network_operations=_operations(network, image),
        cost_of_all_draws=defended.cost_of_all_draws,
        seconds=tuple((name, record["seconds"]) for stage in stages for name, record in stage["trained"].items()),
    )


def _parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def _operations(model: nn.Module, image: Tensor) -> int:
    with frozen(model), FlopCounterMode(display=False) as counter:
        model(image)
    return int(counter.get_total_flops())
