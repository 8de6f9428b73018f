"""The cost of a defended model: parameters, operations and training time, beside the network without defenses."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from robustbench_cli.benchmarks.checkpoints.defended_model import DefendedModel, model_size
from robustbench_cli.benchmarks.checkpoints.size import ModelSize
from robustbench_cli.benchmarks.models.base.build import build_untrained, example_images

__all__ = ["Footprint", "footprint", "undefended_network"]


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """The cost of a defended model and of its network without defenses.

    Attributes:
        size: The size of the model.
        network: The size of the network.
        cost_of_all_draws: The cost of all draws, in units of a pass with one draw; ``None`` if the draws cannot be enumerated.
        seconds: The stages of its training in order, each with its duration.
    """

    size: ModelSize
    network: ModelSize
    cost_of_all_draws: float | None
    seconds: tuple[tuple[str, float], ...]

    def __str__(self) -> str:
        parts = [f"{self.size.parameters:,} parameters"]
        if self.network.parameters:
            parts[0] += f", {self.size.parameters / self.network.parameters:.1f} times the network's"
        if self.seconds:
            total = f"trained in {sum(seconds for _, seconds in self.seconds):.1f} s"
            stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.seconds)
            parts.append(f"{total} ({stages})" if len(self.seconds) > 1 else total)
        if self.network.macs and self.size.macs is not None:
            cost = self.size.macs / self.network.macs
            all_draws = "" if self.cost_of_all_draws is None else f", all draws {cost * self.cost_of_all_draws:.1f}"
            parts.append(f"a pass costs {cost:.1f} of the network's{all_draws}")
        return "; ".join(parts)


def footprint(defended: DefendedModel) -> Footprint:
    """Measures the cost of a defended model.

    Args:
        defended: The model.
    """
    stages = defended.training.get("stages", [])
    return Footprint(
        size=defended.size,
        network=model_size(undefended_network(defended), example_images(defended.shape)[:1]),
        cost_of_all_draws=defended.cost_of_all_draws,
        seconds=tuple((name, record["seconds"]) for stage in stages for name, record in stage["trained"].items()),
    )


def undefended_network(defended: DefendedModel) -> nn.Module:
    """The network of a defended model without its defenses, with any weights.

    Args:
        defended: The model.
    """
    return build_untrained(
        defended.model,
        shape=defended.shape,
        classes=defended.classes,
        mean=defended.mean,
        std=defended.std,
        config=defended.config,
    )
