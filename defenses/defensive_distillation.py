"""Defensive distillation."""

from __future__ import annotations

import copy
from functools import partial
from typing import ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.attacks.base.parameters.surrogate import Surrogate
from robustbench_cli.core.errors import UserError, one_line
from robustbench_cli.defenses.base.defense import Defense
from robustbench_cli.defenses.base.training.gradients import cross_entropy, gradients_of
from robustbench_cli.defenses.base.training.trainer import Trainer

__all__ = ["DefensiveDistillation"]


class DefensiveDistillation(Defense):
    """Defensive distillation: a student learns a teacher's soft labels at a high temperature T.

    The network is first trained for one epoch at a temperature of 1, as in the code of Carlini and Wagner: teacher and student
    both start from these weights. The teacher is trained with ``softmax(Z / T)``. The student has the same architecture. Its loss is
    the cross-entropy between the teacher's ``softmax(Z / T)`` and its own. At test time T is 1, so its logits are about T
    times as large as usual, and the gradient of the cross-entropy underflows to 0. This masks the gradient but gives no
    robustness: attacks on the logits succeed (Carlini, Wagner: Towards Evaluating the Robustness of Neural Networks. S&P
    2017). The student's checkpoint contains the teacher, unless the user gave one.
    """

    paper: ClassVar[str] = (
        "Papernot, McDaniel, Wu, Jha, Swami: Distillation as a Defense to Adversarial Perturbations against Deep Neural "
        "Networks. IEEE S&P 2016, arXiv 1511.04508"
    )
    family: ClassVar[str] = "other-training"
    attacked_by: ClassVar[str] = (
        "losses on the logits, such as the margin of cw-pgd: the cross-entropy's gradient underflows to 0"
    )

    temperature: float = Field(100, gt=0, description="temperature T of the softmax in training; 1 to 100 in the paper")
    teacher: Surrogate | None = Field(
        None,
        repr=False,
        description="checkpoint of a teacher that was trained at this temperature on the same data set, such as an earlier "
        "student; default: a teacher is trained",
    )

    def protect(self, model: nn.Module, example: Tensor) -> nn.Module:
        if isinstance(self.teacher, nn.Module):
            _require_same_classes(self.teacher, model, example)
        return Distilled(copy.deepcopy(model), copy.deepcopy(model) if self.teacher is None else None)

    def fit(self, model: nn.Module, trainer: Trainer) -> None:
        assert isinstance(model, Distilled)
        given = self._given_teacher(trainer) if model.teacher is None else None
        trainer.fit_with_gradients(
            model.student,
            gradients_of(cross_entropy),
            name="first epoch",
            whole=model,
            epochs=1,
            on_finish=partial(_start_from, model.teacher, model.student),
        )
        teacher = given or self._trained_teacher(model, trainer)

        def loss(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
            with torch.no_grad():
                soft_labels = (teacher(images).float() / self.temperature).softmax(1)
            return functional.cross_entropy(network(images).float() / self.temperature, soft_labels)

        trainer.fit(model.student, name="student", whole=model, loss=loss)

    def _given_teacher(self, trainer: Trainer) -> nn.Module:
        """The user's teacher in ``eval()`` mode."""
        if not isinstance(self.teacher, nn.Module):
            raise UserError(f"the teacher is the file {self.teacher}: give its model, load_checkpoint(path).model")
        return copy.deepcopy(self.teacher).to(trainer.device).eval()

    def _trained_teacher(self, model: Distilled, trainer: Trainer) -> nn.Module:
        """A newly trained teacher in ``eval()`` mode."""
        assert model.teacher is not None

        def loss(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
            return functional.cross_entropy(network(images).float() / self.temperature, labels)

        model.teacher.requires_grad_(True)
        trainer.fit(model.teacher, name="teacher", whole=model, loss=loss)
        return model.teacher.requires_grad_(False)


class Distilled(nn.Module):
    """A student, together with its teacher.

    Args:
        student: Computes the logits.
        teacher: Is only stored; ``None`` if the user gave the teacher.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module | None) -> None:
        super().__init__()
        self.student = student
        self.teacher = None if teacher is None else teacher.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """The student's logits ``(N, K)`` of images ``(N, C, H, W)``."""
        return cast("Tensor", self.student(images))


def _start_from(teacher: nn.Module | None, student: nn.Module) -> None:
    """Copies the student's weights into the teacher, if there is one to be trained."""
    if teacher is not None:
        teacher.load_state_dict(student.state_dict())


@torch.no_grad()
def _require_same_classes(teacher: nn.Module, model: nn.Module, example: Tensor) -> None:
    """Checks that the teacher accepts the model's images and has as many classes."""
    copies = [copy.deepcopy(network).to(example.device).eval() for network in (teacher, model)]
    try:
        teacher_classes, classes = (network(example).shape[1] for network in copies)
    except (RuntimeError, ValueError) as error:
        shape = "x".join(str(size) for size in example.shape[1:])
        raise UserError(
            f"defensive-distillation.teacher does not take the model's images, {shape} ({one_line(error)}): give a teacher "
            f"of the same data set"
        ) from None
    if teacher_classes != classes:
        raise UserError(
            f"defensive-distillation.teacher has {teacher_classes} classes, the model has {classes}: give a teacher of the same data "
            "set"
        )
