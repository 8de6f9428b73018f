"""Latent boundary-guided adversarial training."""

from __future__ import annotations

import copy
from functools import partial
from typing import ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from robustbench_cli.attacks.base.models.freezing import frozen
from robustbench_cli.attacks.base.models.hidden_layer import HiddenLayer, last_linear
from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.defense import Defense
from robustbench_cli.defenses.base.surgery.latents import Decoder, Encoder, decoder_parameters
from robustbench_cli.defenses.base.training.attention_svm import AttentionSVMs, fit_svms, svm_parameters
from robustbench_cli.defenses.base.training.gradients import label_loss
from robustbench_cli.defenses.base.training.trainer import Trainer

__all__ = ["Ladder", "LadderModel"]

_EXAMPLES = 100
"""The number of training images of each class that the support vector machines learn from."""

_MAX_PARAMETERS = 2**28
"""The largest number of parameters of a layer of the decoder, and of all support vector machines: 1 GiB in float32."""


class Ladder(Defense):
    """LADDER: adversarial training on images decoded from latents that were moved to the boundary between two classes.

    The training has four parts, as in the authors' code (github.com/zhouxiaowei1120/LADDER). First, the network is
    trained as usual. Its latents z are what ``layer`` computes. Second, a decoder G learns to minimize the mean of
    ``(G(z) - x)^2``. Third, a linear support vector machine with attention separates each pair of classes in the latents:
    ``h(z) = w . (a(z) * z) + b`` with ``a(z) = exp(softmax(tanh(A z + c)))``. Fourth, the network starts from its weights
    and minimizes ``(CE(f(x), y) + CE(f(x'), y)) / 2``. Here ``x' = G(z - t a(z) * w)`` keeps the label y, and the machine
    is that of y and another class, drawn for each image. The encoder, G and the machines stay as they are.

    It differs from the code in three points. The authors choose t by hand for each data set, from 0.5 to 25; here t is
    ``step`` times the latent's distance to the boundary. They make one x' per image before the training; here each epoch
    draws new classes. Their machines have a hinge loss of weight 0.01 and stop after a few steps from a random w; here the
    weight is 1 on latents of root mean square 1, and w starts at 0 and converges.

    The method gives no robustness to perturbations of pixels: see the page "Published systems, measured". A decoded image
    is far from x, and a is close to 1 for every feature, so the attention hardly changes the normal. The checkpoint
    contains the first network and G, which the attack ``latent`` uses.
    """

    paper: ClassVar[str] = (
        "Zhou, Tsang, Yin: LADDER: Latent Boundary-guided Adversarial Training. Machine Learning 2022, arXiv 2206.03717"
    )
    family: ClassVar[str] = "other-training"

    layer: str | None = Field(
        None,
        description="layer whose output is the latent, by its name in the network, such as relu4; default: the input of the "
        "last linear layer",
    )
    step: float = Field(
        0.5,
        ge=0,
        description="step of a latent along the normal, as a multiple of its distance to the boundary: 1 ends on the boundary, "
        "2 as far behind it",
    )
    width: int = Field(32, ge=1, description="number of channels of the decoder's last hidden layer")

    @property
    def takes_mixed_labels(self) -> bool:
        return False

    def protect(self, model: nn.Module, example: Tensor) -> nn.Module:
        network = copy.deepcopy(model)
        encoder = self._encoder(network, example)
        features = encoder.width(example, name="ladder.layer")
        with frozen(network), torch.no_grad():
            classes = network(example.clone()).shape[1]
        shape = cast("tuple[int, int, int]", tuple(example.shape[1:]))
        parameters = max(decoder_parameters(features, shape, self.width), svm_parameters(classes, features))
        if parameters > _MAX_PARAMETERS:
            raise UserError(
                f"ladder.layer gives latents of {features} features, for which the decoder of width {self.width} or the support "
                f"vector machines of {classes} classes have {parameters:.1e} parameters: give a later layer with fewer features, or a "
                "smaller ladder.width"
            )
        decoder = Decoder(features, shape, width=self.width)
        return LadderModel(copy.deepcopy(network), encoder, decoder.to(example.device))

    def _encoder(self, network: nn.Module, example: Tensor) -> Encoder:
        """The encoder at the chosen layer."""
        if self.layer is not None:
            return Encoder(network, HiddenLayer(self.layer))
        layer = last_linear(network, example)
        if layer is None:
            raise UserError("ladder finds no linear layer in the network: give ladder.layer, the name of a layer")
        return Encoder(network, HiddenLayer(layer, before=True))

    def fit(self, model: nn.Module, trainer: Trainer) -> None:
        assert isinstance(model, LadderModel)
        trainer.fit(model.network, name="vanilla training", whole=model, on_finish=model.copy_to_encoder)
        trainer.fit(
            _Reconstruction(model.encoder, model.decoder), name="decoder", whole=model, loss=_reconstruction_error
        )
        loss = partial(self.loss, model=model, machines=_machines(model.encoder, trainer))
        trainer.fit(model.network, name="adversarial training", whole=model, loss=loss)

    def loss(
        self, network: nn.Module, images: Tensor, labels: Tensor, *, model: LadderModel, machines: AttentionSVMs
    ) -> Tensor:
        """The mean loss of a step on the images and on those decoded from moved latents.

        Args:
            network: The network in training.
            images: ``(B, C, H, W)`` in [0, 1].
            labels: ``(B,)``.
            model: Its encoder and its decoder make the other images.
            machines: The machines of all pairs of classes.
        """
        perturbed = self.perturb(model, machines, images, labels)
        return (label_loss(network(images), labels) + label_loss(network(perturbed), labels)) / 2

    @torch.no_grad()
    def perturb(self, model: LadderModel, machines: AttentionSVMs, images: Tensor, labels: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` decoded from latents that were moved towards other classes, drawn uniformly.

        Args:
            model: Its encoder and its decoder are used.
            machines: The machines of all pairs of classes.
            images: ``(B, C, H, W)`` in [0, 1].
            labels: ``(B,)``.
        """
        ahead = torch.randint(1, machines.classes, labels.shape, device=labels.device)
        targets = (labels + ahead) % machines.classes
        with frozen(model.encoder), frozen(model.decoder):
            latents = model.latents_of(images).float()
            return model.images_of(machines.towards(latents, labels, targets, self.step))


class LadderModel(nn.Module):
    """A network, with the encoder and the decoder that made images for its training.

    It has a :class:`~robustbench_cli.attacks.base.models.latent_space.LatentSpace`.

    Args:
        network: Computes the logits.
        encoder: Of another network, which gets the weights of ``network`` after the first part of the training.
        decoder: From the encoder's latents to images.
    """

    def __init__(self, network: nn.Module, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.network = network
        self.encoder = encoder.requires_grad_(False)
        self.decoder = decoder

    def forward(self, images: Tensor) -> Tensor:
        """The network's logits ``(N, K)`` of images ``(N, C, H, W)``."""
        return cast("Tensor", self.network(images))

    def latents_of(self, images: Tensor) -> Tensor:
        """The latents ``(N, d)`` of images ``(N, C, H, W)``."""
        return cast("Tensor", self.encoder(images))

    def images_of(self, latents: Tensor) -> Tensor:
        """The decoded images ``(N, C, H, W)`` in [0, 1] of latents ``(N, d)``."""
        return cast("Tensor", self.decoder(latents))

    def copy_to_encoder(self) -> None:
        """Gives the encoder's network the weights of the network."""
        self.encoder.network.load_state_dict(self.network.state_dict())


class _Reconstruction(nn.Module):
    """The first network's logits on its decoded latents: what a decoder is worth on held-out images."""

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def decoded(self, images: Tensor) -> Tensor:
        """The reconstructions ``(N, C, H, W)`` of images ``(N, C, H, W)``."""
        with torch.no_grad():
            latents = self.encoder(images)
        return cast("Tensor", self.decoder(latents))

    def forward(self, images: Tensor) -> Tensor:
        return cast("Tensor", self.encoder.network(self.decoded(images)))


def _reconstruction_error(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The mean squared error of the reconstructions. The labels have no part in it."""
    assert isinstance(network, _Reconstruction)
    return functional.mse_loss(network.decoded(images).float(), images.float())


@torch.no_grad()
def _machines(encoder: Encoder, trainer: Trainer) -> AttentionSVMs:
    """Support vector machines on the latents of up to 100 training images of each class, in an order from the seed."""
    latents, labels = [], []
    with frozen(encoder), trainer.seeded("support vector machines"):
        order = trainer.train_indices[torch.randperm(len(trainer.train_indices))]
        classes = encoder.network(trainer.batch(order[:1])[0]).shape[1]
        for part in order.split(trainer.recipe.batch_size):
            images, targets = trainer.batch(part)
            latents.append(encoder(images).float())
            labels.append(targets)
            if torch.cat(labels).bincount(minlength=classes).amin() >= _EXAMPLES:
                break
        every = torch.cat(labels)
        first = torch.cat([(every == label).nonzero()[:_EXAMPLES, 0] for label in range(classes)])
        return fit_svms(torch.cat(latents)[first], every[first], classes)
