"""Linear support vector machines with attention, one for each pair of classes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["AttentionSVMs", "fit_svms", "svm_parameters"]

_STEPS, _LR = 100, 0.05
"""The number of steps of Adam, and its learning rate."""


@dataclass(frozen=True)
class AttentionSVMs:
    """Machines ``h(z) = w . (a(z) * z) + b`` with the attention ``a(z) = exp(softmax(tanh(A z + c)))``.

    The softmax of d features between -1 and 1 is at most ``1 / (1 + (d - 1) / e^2)``, so the attention is close to 1 if d is
    large: between 1.002 and 1.111 for d = 64. Machine p separates the classes of the p-th pair (i, j), i < j, in the order
    of ``torch.triu_indices``; h is positive for class i.

    Attributes:
        classes: K.
        weight: w, ``(P, d)`` with P = K (K - 1) / 2.
        bias: b, ``(P,)``.
        attention_weight: A, ``(P, d, d)``.
        attention_bias: c, ``(P, d)``.
    """

    classes: int
    weight: Tensor
    bias: Tensor
    attention_weight: Tensor
    attention_bias: Tensor

    def attention(self, latents: Tensor, machines: Tensor | slice = slice(None)) -> Tensor:
        """The attention ``(N, M, d)`` of N machines on M latents each.

        Args:
            latents: ``(N, M, d)``.
            machines: The numbers ``(N,)`` of the machines; all of them by default.
        """
        scores = torch.baddbmm(
            self.attention_bias[machines].unsqueeze(1), latents, self.attention_weight[machines].transpose(1, 2)
        )
        return scores.tanh().softmax(-1).exp()

    def machine_of(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """The machines of pairs of classes, and the sign of h for the first class of each.

        Args:
            first: Classes ``(N,)``.
            second: Other classes ``(N,)``.

        Returns:
            Numbers ``(N,)`` and signs ``(N,)``, -1 or 1.
        """
        low, high = torch.minimum(first, second), torch.maximum(first, second)
        before = low * (2 * self.classes - low - 1) // 2
        return before + high - low - 1, torch.where(first < second, 1.0, -1.0)

    def towards(self, latents: Tensor, labels: Tensor, targets: Tensor, step: float) -> Tensor:
        """Latents moved along the normals of the boundaries between their classes and other ones.

        The normal at z is ``a(z) * w``. The attention stays that at z along the step.

        Args:
            latents: ``(N, d)``.
            labels: Their classes ``(N,)``.
            targets: The classes ``(N,)`` to move towards.
            step: The length of the step, as a multiple of the distance to the boundary: 1 ends on it. A latent beyond it stays.

        Returns:
            ``(N, d)``.
        """
        machines, signs = self.machine_of(labels, targets)
        normals = self.attention(latents.unsqueeze(1), machines).squeeze(1) * self.weight[machines]
        values = signs * ((normals * latents).sum(1) + self.bias[machines])
        # A machine without examples has the normal 0.
        factors = step * values.clamp(min=0) / normals.square().sum(1).clamp(min=torch.finfo(normals.dtype).tiny)
        return latents - (signs * factors).unsqueeze(1) * normals


def svm_parameters(classes: int, features: int) -> int:
    """The number of parameters of the machines of all pairs of classes.

    Args:
        classes: K.
        features: d.

    >>> svm_parameters(10, 64)
    190125
    """
    return classes * (classes - 1) // 2 * (features + 1) ** 2


def fit_svms(latents: Tensor, labels: Tensor, classes: int) -> AttentionSVMs:
    """Fits all machines at once: minimizes ``mean(w^2) + mean(max(0, 1 - s h(z)))`` by Adam on all examples of a pair.

    The latents are divided by their root mean square, so their unit does not matter. The initial attention is drawn from
    torch's global generator, as the weights of a linear layer are. The machine of a class without examples keeps w = 0.

    Args:
        latents: ``(n, d)``.
        labels: ``(n,)``.
        classes: K.
    """
    unit = latents.square().mean().sqrt().clamp(min=torch.finfo(latents.dtype).tiny)
    examples, shares = _by_class(latents / unit, labels, classes)
    first, second = torch.triu_indices(classes, classes, 1, device=latents.device)
    # Both classes of a pair count the same. Without one of them there is nothing to separate.
    weights = torch.cat([shares[first], shares[second]], 1) / 2
    weights *= (shares[first].sum(1, keepdim=True) * shares[second].sum(1, keepdim=True)).round()
    pairs, signs = torch.cat([examples[first], examples[second]], 1), torch.ones_like(weights)
    signs[:, examples.shape[1] :] = -1
    machines = _initial(len(first), latents.shape[1], classes, latents)
    tensors = [machines.weight, machines.bias, machines.attention_weight, machines.attention_bias]
    optimizer = torch.optim.Adam([tensor.requires_grad_() for tensor in tensors], lr=_LR)
    with torch.enable_grad():
        for _ in range(_STEPS):
            scored = machines.attention(pairs) * machines.weight.unsqueeze(1)
            values = (scored * pairs).sum(2) + machines.bias.unsqueeze(1)
            hinge = (weights * (1 - signs * values).clamp(min=0)).sum()
            loss = hinge + machines.weight.square().mean(1).sum()
            for tensor, gradient in zip(tensors, torch.autograd.grad(loss, tensors), strict=True):
                tensor.grad = gradient
            optimizer.step()
    weight, bias, attention_weight, attention_bias = (tensor.detach() for tensor in tensors)
    return AttentionSVMs(classes, weight / unit, bias, attention_weight / unit, attention_bias)


def _by_class(latents: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """The latents of each class ``(K, m, d)``, padded with zeros, and their shares of it ``(K, m)``, 0 for the padding."""
    groups = [latents[labels == label] for label in range(classes)]
    longest = max(len(group) for group in groups)
    examples, shares = latents.new_zeros(classes, longest, latents.shape[1]), latents.new_zeros(classes, longest)
    for label, group in enumerate(groups):
        examples[label, : len(group)] = group
        shares[label, : len(group)] = 1 / max(1, len(group))
    return examples, shares


def _initial(machines: int, features: int, classes: int, like: Tensor) -> AttentionSVMs:
    """Machines with the weight 0 and a random attention."""
    bound = features**-0.5
    return AttentionSVMs(
        classes,
        like.new_zeros(machines, features),
        like.new_zeros(machines),
        like.new_empty(machines, features, features).uniform_(-bound, bound),
        like.new_empty(machines, features).uniform_(-bound, bound),
    )
