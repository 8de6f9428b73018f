"""Projected gradient descent."""

from __future__ import annotations

import math
from functools import partial
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from robustbench_cli.attacks.base.attack import FixedRadiusAttack
from robustbench_cli.attacks.base.gradients.graphed_steps import GraphedSteps, State
from robustbench_cli.attacks.base.gradients.source import GradientSource
from robustbench_cli.attacks.base.iterates import BestIterates
from robustbench_cli.attacks.base.losses import closed_form, cross_entropy, slope_and_value
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.attacks.base.rng import Random
from robustbench_cli.attacks.base.threat import (
    FeasibleSet,
    Threat,
    per_image,
    random_in_ball,
    sparse_ascent,
    steepest_ascent,
)

__all__ = ["PGD"]


class PGD(FixedRadiusAttack):
    """Projected gradient descent on the cross-entropy, from random starts.

    ``x <- project(x + step_size * direction(grad))`` (section 2.1 of the paper). The direction is the sign of the gradient
    in linf and the normalized gradient in l2. In l1 the step is spread evenly over the pixels with the largest gradient
    (Tramer, Boneh, NeurIPS 2019, section 2.2). The result is the iterate with the smallest expected margin, over all steps
    and restarts. Images that are broken under every draw stop early.

    On a linear model the distance to the decision boundary is known. Here the logits are ``3 x`` and ``3 (1 - x)`` for one
    pixel x, so that an image of 0.7 is misclassified from a radius of 0.2 on::

        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2))
        >>> _ = model[1].weight.data.copy_(torch.tensor([[3.0], [-3.0]]))
        >>> _ = model[1].bias.data.copy_(torch.tensor([0.0, 3.0]))
        >>> image, label = torch.full((1, 1, 1, 1), 0.7), torch.tensor([0])
        >>> [model(PGD(steps=10)(model, image, label, eps=eps)).argmax().item() for eps in (0.19, 0.21)]
        [0, 1]
    """

    paper: ClassVar[str] = (
        "Madry, Makelov, Schmidt, Tsipras, Vladu: Towards Deep Learning Models Resistant to Adversarial Attacks. "
        "ICLR 2018, arXiv 1706.06083"
    )
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2", "l1")

    steps: int = Field(40, ge=1, description="steps of each restart")
    step_size: float | None = Field(
        None,
        gt=0,
        description="step size on the [0, 1] pixel scale; by default it falls linearly from 2 eps to 0",
    )
    restarts: int = Field(1, ge=1, description="number of random starts; only unbroken images are restarted")
    random_start: bool = Field(True, description="start at a uniform random point of the ball instead of at the image")
    l1_sparsity: float = Field(
        0.03,
        gt=0,
        le=1,
        description="for l1 only: share of the pixels that one step changes",
        json_schema_extra={"formerly": "moved"},
    )

    @staticmethod
    @closed_form(partial(slope_and_value, cross_entropy))
    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        """The loss ``(M,)`` that the attack maximizes, or minimizes if targeted, for logits ``(M, K)`` and labels ``(M,)``."""
        return cross_entropy(logits, labels)

    def run(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random) -> Tensor:
        best = self.best_iterates(source, images, labels, threat)
        for rows, stream in best.restarts(self.restarts, random):
            self._restart(source, images[rows], labels[rows], threat.select(rows), stream, best)
        return best.images

    def best_iterates(self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat) -> BestIterates:
        """What chooses among the iterates: here the smallest expected margin; the arguments are those of :meth:`run`."""
        return BestIterates(source, images, labels, threat)

    def _restart(
        self, source: GradientSource, images: Tensor, labels: Tensor, threat: Threat, random: Random, best: BestIterates
    ) -> None:
        feasible = FeasibleSet(images, threat)
        iterates = feasible.project(images + random_in_ball(images, threat, random)) if self.random_start else images
        step = GraphedSteps(source, partial(self._step, source, feasible))
        factors = self._step_factors(images)
        state = {**feasible.tensors(), "labels": labels, "sizes": self._step_sizes(feasible), "iterates": iterates}
        state |= self._query(source, iterates, labels)
        for number in range(self.steps):
            if number:
                state = step(state, factors[number - 1])
            unbroken = best.offer(step.kept(state["iterates"]), step.kept(state["logits"]).movedim(1, 0))
            if unbroken is not None:
                if not len(unbroken):
                    return
                state = {name: values[unbroken] for name, values in state.items()}
        iterates = self._moved(feasible, state, factors[-1])
        best.offer(iterates, source.logits(iterates))

    def _step(self, source: GradientSource, feasible: FeasibleSet, state: State, factor: Tensor) -> State:
        """What changes in a step of size ``factor`` ``()`` times that of the state."""
        iterates = self._moved(feasible, state, factor)
        return {"iterates": iterates, **self._query(source, iterates, state["labels"])}

    def _query(self, source: GradientSource, iterates: Tensor, labels: Tensor) -> State:
        """The gradient of the loss at the iterates, and their logits ``(N, D, K)``."""
        logits, gradient = source.gradient(iterates, labels, self.loss)
        return {"logits": logits.movedim(0, 1), "gradient": gradient}

    def _moved(self, feasible: FeasibleSet, state: State, factor: Tensor) -> Tensor:
        """The next iterates."""
        iterates, gradient, feasible = state["iterates"], state["gradient"], feasible.of_tensors(state)
        direction = self._direction(-gradient if feasible.threat.targeted else gradient, iterates, feasible.threat.norm)
        return feasible.project(torch.addcmul(iterates, direction, factor * state["sizes"]))

    def _direction(self, gradient: Tensor, iterates: Tensor, norm: Norm) -> Tensor:
        if norm == "l1":
            return sparse_ascent(gradient, iterates, math.ceil(self.l1_sparsity * gradient[0].numel()))
        return steepest_ascent(gradient, norm)

    def _step_factors(self, images: Tensor) -> Tensor:
        """``(steps,)``, the factors of :meth:`_step_sizes`: they fall linearly from 2 towards 0, or are 1 for a constant size."""
        share = torch.arange(self.steps, dtype=torch.float64, device=images.device) / self.steps
        return (2 * (1 - share) if self.step_size is None else torch.ones_like(share)).to(images.dtype)

    def reach(self) -> float | None:
        return None if self.step_size is None else self.steps * self.step_size

    def _step_sizes(self, feasible: FeasibleSet) -> Tensor:
        """``(N, 1, 1, 1)``: the constant step size, or the radii."""
        radii = feasible.threat.eps
        sizes = radii if self.step_size is None else torch.full_like(radii, self.step_size)
        return per_image(sizes, feasible.images).to(feasible.images.dtype)
