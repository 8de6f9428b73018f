"""Differentiable search of an accurate and robust architecture, which is then trained adversarially."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from robustbench_cli.attacks.base.models.freezing import frozen, override_layers
from robustbench_cli.attacks.base.norm import Norm
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.architectures.architecture import MAX_CELLS, MAX_WIDTH, MIN_CELLS
from robustbench_cli.defenses.base.architectures.searched_network import SearchedNetwork
from robustbench_cli.defenses.base.training.gradients import gradients_of, label_loss
from robustbench_cli.defenses.base.training.trainer import Trainer
from robustbench_cli.defenses.pgd_at import PGDAT

__all__ = ["DSARA", "min_norm_weight"]

Batch = tuple[Tensor, Tensor]
"""Images ``(B, C, H, W)`` in [0, 1] and their labels."""


class DSARA(PGDAT):
    """DSARA: searches the operations of a network of cells, accurate and robust ones, and trains the network on PGD images.

    In the search each edge of a cell is the mean of five operations, weighted by a softmax. The network's weights descend the
    loss on PGD images of one half of the training data. The logits of the softmax descend a loss on the other half. In the
    first stage this is the loss on PGD images. In the second it is the min-norm combination of the losses on clean and on PGD
    images, which decreases both. Then the strongest operation of each edge stays, on two edges of each node. This network gets
    new weights, and ``pgd-at`` trains it on all images. It replaces the model's network, of which only the number of classes
    is used.

    ``advdef train`` prints the architecture. It is a model for any other training::

        advdef train --defense dsara -o dsara.safetensors
        advdef train --model dsara:4x8,... --defense trades -o trades.safetensors

    The paper's text was not at hand, only its abstract. The search follows the authors' code for its later version ARNAS (CVPR
    2024, arXiv 2405.05502), where the first stage is switched off, and 0.4 is its share. Here all is smaller: 4 cells instead
    of 8, two nodes in each instead of four, five operations instead of seven (without dilated convolutions), and separable
    convolutions once instead of twice. Without ``virtual_step`` the gradient of the architecture is that of first order.
    """

    paper: ClassVar[str] = (
        "Ou, Xie, Gao, Sun, Tan, Lv: Differentiable Search of Accurate and Robust Architectures. 2022, arXiv 2212.14049"
    )
    family: ClassVar[str] = "adversarial-training"

    cells: int = Field(MIN_CELLS, ge=MIN_CELLS, le=MAX_CELLS, description="number of cells of the network")
    width: int = Field(8, ge=1, le=MAX_WIDTH, description="channels of a node in the first cells")
    search: float = Field(
        0.5, gt=0, lt=1, description="fraction of the epochs in which the architecture is searched; at least one epoch"
    )
    first_stage: float = Field(
        0.4, ge=0, le=1, description="fraction of the search in which only the adversarial loss counts"
    )
    adversarial: float = Field(
        0.1, gt=0, description="factor of the adversarial loss in the combination of the second stage"
    )
    rate: float = Field(0.02, gt=0, description="learning rate of the architecture; 3e-4 in the authors' code")
    virtual_step: float = Field(
        0,
        ge=0,
        description="size of the weights' virtual step, 0.025 in the authors' code; 0: none, in a third of the time",
    )

    def protect(self, model: nn.Module, example: Tensor) -> nn.Module:
        with frozen(model), torch.no_grad():
            classes = model(example.clone()).shape[1]
        return SearchedNetwork(self.cells, self.width, channels=example.shape[1], classes=classes).to(example.device)

    def fit(self, model: nn.Module, trainer: Trainer) -> None:
        assert isinstance(model, SearchedNetwork)
        eps: dict[Norm, float] = {self.norm: self.radius}
        epochs = max(1, round(self.search * trainer.recipe.epochs))
        with trainer.seeded("halves"):
            order = torch.randperm(len(trainer.train_indices))
        for_weights, for_architecture = trainer.train_indices[order].tensor_split(2)
        if not len(for_architecture):
            raise UserError("dsara divides the training images into halves: give at least two")
        with trainer.seeded("all operations"):
            model.begin_search()
        with trainer.training_on(for_weights):
            gradients = partial(self._search_step, trainer, for_architecture)
            trainer.fit_with_gradients(model, gradients, name="search", eps=eps, epochs=epochs)
        # A resumed training may have done this.
        if model.is_searching:
            with trainer.seeded("architecture"):
                model.end_search()
        trainer.fit_with_gradients(
            model,
            gradients_of(self.loss),
            name="training of the architecture",
            eps=eps,
            epochs=max(1, trainer.recipe.epochs - epochs),
        )

    def _search_step(
        self,
        trainer: Trainer,
        for_architecture: Tensor,
        network: nn.Module,
        images: Tensor,
        labels: Tensor,
        parameters: Sequence[nn.Parameter],
    ) -> tuple[Tensor, Sequence[Tensor | None]]:
        """A step of the architecture, and then the gradients of the weights; see :data:`~.gradients.Gradients`."""
        assert isinstance(network, SearchedNetwork)
        perturbed = self.perturb(network, images, labels)
        others, classes = trainer.batch(for_architecture[torch.randint(len(for_architecture), (len(images),))])
        batches = [(self.perturb(network, others, classes), classes)]
        if trainer.fraction_done >= self.first_stage:
            batches.append((others, classes))
        gradients = self.architecture_gradients(network, (perturbed, labels), batches)
        averaged = trainer.average_gradients(gradients, [network.alphas] * len(gradients), len(images))
        network.descend(self.combined([gradient for gradient in averaged if gradient is not None]), self.rate)
        loss = label_loss(network(perturbed), labels)
        return loss, torch.autograd.grad(loss, parameters, allow_unused=True)

    def architecture_gradients(
        self, network: SearchedNetwork, training: Batch, batches: Sequence[Batch]
    ) -> list[Tensor]:
        """The gradients of losses after the virtual step of the weights, with respect to the logits of the architecture.

        Args:
            network: In ``train()`` mode; its running statistics stay.
            training: The batch of the virtual step.
            batches: A batch of each loss.

        Returns:
            A gradient ``(3, 5, 5)`` of each loss.
        """
        alphas = network.alphas.detach().requires_grad_()
        state: dict[str, Tensor] = dict(network.named_parameters())
        with override_layers(network, _BatchNorm, track_running_stats=False):

            def loss(batch: Batch) -> Tensor:
                return functional.cross_entropy(
                    functional_call(network, state | {"alphas": alphas}, batch[0]), batch[1]
                )

            if self.virtual_step:
                slopes = torch.autograd.grad(loss(training), list(state.values()), create_graph=True)
                state = {
                    name: weight - self.virtual_step * slope
                    for (name, weight), slope in zip(state.items(), slopes, strict=True)
                }
            losses = [loss(batch) for batch in batches]
            return [torch.autograd.grad(value, alphas, retain_graph=True)[0] for value in losses]

    def combined(self, gradients: Sequence[Tensor]) -> Tensor:
        """The direction of the architecture's step.

        Args:
            gradients: That of the adversarial loss, and in the second stage that of the natural loss too.
        """
        if len(gradients) == 1:
            return gradients[0]
        adversarial, natural = self.adversarial * gradients[0], gradients[1]
        weight = min_norm_weight(natural, adversarial)
        return weight * natural + (1 - weight) * adversarial


def min_norm_weight(first: Tensor, second: Tensor) -> Tensor:
    """The weight w in [0, 1] for which ``||w first + (1 - w) second||`` is smallest.

    The combination descends both losses whose gradients these are, or is 0 (multiple gradient descent). Source: Désidéri:
    Multiple-gradient descent algorithm (MGDA) for multiobjective optimization. Comptes Rendus Mathématique 2012.

    Args:
        first: A gradient of any shape.
        second: Another of the same shape.

    Returns:
        A scalar; 0 where the gradients are equal.

    >>> min_norm_weight(torch.tensor([3.0, 0.0]), torch.tensor([0.0, 1.0]))
    tensor(0.1000)
    """
    difference = second - first
    square = difference.square().sum()
    return ((difference * second).sum() / square.clamp_min(torch.finfo(square.dtype).tiny)).clamp(0, 1)
