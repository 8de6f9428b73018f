"""Defensive distillation."""

from __future__ import annotations

import copy
from typing import ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.attacks.base.parameters.surrogate import Surrogate
from robustbench_cli.core.errors import UserError, one_line
from robustbench_cli.defenses.base.defense import Defense
from robustbench_cli.defenses.base.training.trainer import Trainer

__all__ = ["DefensiveDistillation"]


class DefensiveDistillation(Defense):
    """Defensive distillation: a network learns another's soft answers at a high temperature, to give hard ones.

    The teacher is trained with ``softmax(Z / T)``, and the student, of the same architecture and initial weights, with
    the cross-entropy of its ``softmax(Z / T)`` from the teacher's. Used without the temperature, its logits are some T
    times as large as usual, and the gradient of the cross-entropy is 0 in floating-point numbers. That hides the way
    and does not block it: attacks on the logits themselves find it (Carlini, Wagner, S&P 2017). The teacher is kept in
    the student's checkpoint, unless it was given.
    """

    paper: ClassVar[str] = (
        "Papernot, McDaniel, Wu, Jha, Swami: Distillation as a Defense to Adversarial Perturbations against Deep Neural "
        "Networks. IEEE S&P 2016, arXiv 1511.04508"
    )
    attacked_by: ClassVar[str] = (
        "losses on the logits, such as the margin of cw-pgd: the cross-entropy's gradient is 0 in floating-point numbers"
    )

    temperature: float = Field(
        100, gt=0, description="what logits are divided by in training, T; the paper has 1 to 100"
    )
    teacher: Surrogate | None = Field(
        None,
        repr=False,
        description="checkpoint of a teacher that was trained at this temperature, such as an earlier student, of the same images "
        "and classes; one is trained where not given",
    )

    def protect(self, model: nn.Module, example: Tensor) -> nn.Module:
        if isinstance(self.teacher, nn.Module):
            _require_same_classes(self.teacher, model, example)
        return Distilled(copy.deepcopy(model), copy.deepcopy(model) if self.teacher is None else None)

    def fit(self, model: nn.Module, trainer: Trainer) -> None:
        assert isinstance(model, Distilled)
        teacher = self._taught(model, trainer)

        def loss(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
            with torch.no_grad():
                answers = (teacher(images).float() / self.temperature).softmax(1)
            return functional.cross_entropy(network(images).float() / self.temperature, answers)

        trainer.fit(model.student, name="student", whole=model, loss=loss)

    def _taught(self, model: Distilled, trainer: Trainer) -> nn.Module:
        """The teacher, in ``eval()`` mode: the given one, or the model's own after its training."""
        if model.teacher is None:
            if not isinstance(self.teacher, nn.Module):
                raise UserError(f"the teacher is the file {self.teacher}: give its model, load_checkpoint(path).model")
            return copy.deepcopy(self.teacher).to(trainer.device).eval()

        def loss(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
            return functional.cross_entropy(network(images).float() / self.temperature, labels)

        model.teacher.requires_grad_(True)
        trainer.fit(model.teacher, name="teacher", whole=model, loss=loss)
        return model.teacher.requires_grad_(False)


class Distilled(nn.Module):
    """A student, with the teacher that it has learnt from.

    Args:
        student: Answers.
        teacher: Is only kept; ``None`` where it is kept elsewhere.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module | None) -> None:
        super().__init__()
        self.student = student
        self.teacher = None if teacher is None else teacher.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(N, K)`` of images ``(N, C, H, W)``."""
        return cast("Tensor", self.student(images))


@torch.no_grad()
def _require_same_classes(teacher: nn.Module, model: nn.Module, example: Tensor) -> None:
    copies = [copy.deepcopy(each).to(example.device).eval() for each in (teacher, model)]
    try:
        known, needed = (each(example).shape[1] for each in copies)
    except (RuntimeError, ValueError) as error:
        shape = "x".join(str(size) for size in example.shape[1:])
        raise UserError(
            f"defensive-distillation.teacher does not take the model's images, {shape} ({one_line(error)}): give a teacher "
            f"of the same data set"
        ) from None
    if known != needed:
        raise UserError(
            f"defensive-distillation.teacher knows {known} classes, the model has {needed}: give a teacher of the same data set"
        )
