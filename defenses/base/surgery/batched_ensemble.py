"""Trains networks of one architecture together, as one network with stacked weights."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from robustbench_cli.core.errors import Notice, is_out_of_memory, one_line
from robustbench_cli.defenses.base.decision_rules import log_mean_softmax
from robustbench_cli.defenses.base.surgery.packed_network import PackedNetwork, joined_tensors, parameters_and_buffers
from robustbench_cli.defenses.base.training.decayed import is_norm
from robustbench_cli.defenses.base.training.gradients import label_loss

__all__ = ["BatchedEnsemble", "OwnImages", "ensemble_cross_entropy", "summed_over_networks"]


class BatchedEnsemble(nn.Module):
    """Networks of one architecture that run on the same rows in one pass.

    Each parameter holds the networks' parameters one after the other along its first dimension. An elementwise optimizer
    therefore updates each network as it would update that network alone.

    In ``train()`` mode the output is the logits ``(M, B, K)`` of the M networks on B rows. In ``eval()`` mode it is the
    logarithm ``(B, K)`` of their mean softmax. Networks that draw make separate draws.

    Args:
        networks: M networks, each from rows ``(B, ...)`` to logits ``(B, K)``. They stay unchanged.
        vectorized: ``True``: each layer runs for all networks in one call, which is fast on a GPU. Convolutional networks
            are :func:`packed <.packed_network.pack>`, others run by ``torch.vmap``. If ``vmap`` does not support the
            network, a :class:`~robustbench_cli.core.errors.Notice` says so once, and the networks run one after the other.
            ``False``: the networks run one after the other, which is faster on a CPU, where grouped convolutions are slow.
            All need the memory of M networks.
    """

    def __init__(self, networks: Sequence[nn.Module], *, vectorized: bool) -> None:
        super().__init__()
        self._vectorized = vectorized
        self._count = len(networks)
        # A tuple hides it from torch: it is no submodule. Only its structure is used, not its weights.
        self._structure = (copy.deepcopy(networks[0]),)
        # By whether all networks get the same rows.
        self._packed = {
            same_rows: PackedNetwork(networks[0], len(networks), same_rows=same_rows)
            for same_rows in ((True, False) if vectorized else ())
        }
        tensors = parameters_and_buffers(networks[0])
        self._shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        # Concatenated, not stacked: a convolution's weights keep four dimensions, which channels-last needs.
        for index, (name, joined) in enumerate(joined_tensors(networks).items()):
            if isinstance(tensors[name], nn.Parameter):
                self.register_parameter(_tensor_name(index), nn.Parameter(joined.detach()))
            else:
                self.register_buffer(_tensor_name(index), joined.detach())

    def forward(self, rows: Tensor) -> Tensor:
        """Logits of rows ``(B, ...)``; see the class."""
        logits = self.logits(rows, same_rows=True)
        return logits if self.training else log_mean_softmax(logits)

    @property
    def count(self) -> int:
        """M, the number of networks."""
        return self._count

    def logits(self, rows: Tensor, *, same_rows: bool) -> Tensor:
        """The logits ``(M, B, K)`` of the M networks, in both modes.

        Args:
            rows: ``(B, ...)`` for all networks, or ``(M, B, ...)``, those of each.
            same_rows: Whether all networks get the same rows.
        """
        logits = self._packed_logits(rows, same_rows=same_rows)
        if logits is None:
            # Set here and not in train(): code that restores the modes of all submodules does not know this one.
            self._structure[0].train(self.training)
            stacked = self._stacked()
            logits = self._vmapped_logits(stacked, rows, same_rows=same_rows) if self._vectorized else None
            if logits is None:
                inputs = [rows] * self._count if same_rows else rows
                logits = torch.stack(
                    [self._logits(state, part) for state, part in zip(_unstack(stacked), inputs, strict=True)]
                )
        return logits

    @torch.no_grad()
    def copy_to(self, networks: Sequence[nn.Module]) -> None:
        """Copies the parameters and buffers into M networks of the same architecture, in place."""
        for network, state in zip(networks, _unstack(self._stacked()), strict=True):
            for name, tensor in parameters_and_buffers(network).items():
                tensor.copy_(state[name])

    def norm_parameters(self) -> list[nn.Parameter]:
        """The joined parameters of the networks' normalization layers."""
        (structure,) = self._structure
        norms = [f"{name}." for name, module in structure.named_modules() if is_norm(module)]
        return [
            cast("nn.Parameter", getattr(self, _tensor_name(index)))
            for index, name in enumerate(self._shapes)
            if name.startswith(tuple(norms)) and name in dict(structure.named_parameters())
        ]

    def _packed_logits(self, rows: Tensor, *, same_rows: bool) -> Tensor | None:
        """The logits ``(M, B, K)`` of the packed networks; ``None`` if they cannot be packed."""
        if not self._packed or rows.dim() not in ((2, 4) if same_rows else (3, 5)):
            return None
        if not same_rows:
            # Images lie side by side in their channels, vectors behind each other.
            rows = rows.transpose(0, 1)
            rows = rows.flatten(1, 2) if rows.dim() == 5 else rows
        tensors = {name: getattr(self, _tensor_name(index)) for index, name in enumerate(self._shapes)}
        logits = self._packed[same_rows].run(tensors, rows, training=self.training)
        return None if logits is None else logits.transpose(0, 1)

    def _vmapped_logits(self, stacked: dict[str, Tensor], rows: Tensor, *, same_rows: bool) -> Tensor | None:
        """The logits ``(M, B, K)`` by ``vmap``; ``None``, now and later, if it does not support the network."""
        try:
            return vmap(self._logits, in_dims=(0, None if same_rows else 0), randomness="different")(stacked, rows)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            # Stochastic depth, for example.
            self._vectorized = False
            warnings.warn(
                f"{self._count} networks are trained one after the other and not in one call, which is slower: torch.vmap "
                f"does not support this network ({one_line(error)})",
                Notice,
                stacklevel=2,
            )
            return None

    def _logits(self, state: Mapping[str, Tensor], rows: Tensor) -> Tensor:
        """The logits of one network ``(B, K)``, by its parameters and buffers."""
        after = dict(state)
        logits = cast("Tensor", functional_call(self._structure[0], after, (rows,)))
        # A layer may have replaced a buffer instead of changing it in place.
        for name, tensor in after.items():
            if tensor is not state[name]:
                state[name].copy_(tensor.detach())
        return logits

    def _stacked(self) -> dict[str, Tensor]:
        """Parameters and buffers ``(M, ...)``, by their names in a network."""
        return {
            name: cast("Tensor", getattr(self, _tensor_name(index))).unflatten(0, (self._count, *shape[:1]))
            for index, (name, shape) in enumerate(self._shapes.items())
        }


def ensemble_cross_entropy(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The mean cross-entropy over the M networks, with the gradient of the sum, so each learns as it would alone.

    Args:
        network: Ends in a :class:`BatchedEnsemble`, in ``train()`` mode.
        images: ``(B, C, H, W)`` in [0, 1].
        labels: ``(B,)``, or probabilities ``(B, K)``.
    """
    logits = network(images)
    return summed_over_networks(label_loss(logits.flatten(0, 1), torch.cat([labels] * len(logits))), len(logits))


def summed_over_networks(mean: Tensor, count: int) -> Tensor:
    """A mean loss over M networks, with the gradient of the sum, so that each learns as it would alone.

    Args:
        mean: The mean loss.
        count: M.
    """
    if mean.requires_grad:
        mean.register_hook(lambda slope: slope * count)
    return mean


class OwnImages(nn.Module):
    """A sequence that ends in a :class:`BatchedEnsemble`, whose M networks get images of their own.

    Its input ``(M * B, C, H, W)`` has the images of the first network, then those of the second, and so on; its output is the
    logits ``(M * B, K)``, each of its own network, in both modes.

    Args:
        network: The sequence. The layers before the ensemble treat each row by itself.
    """

    def __init__(self, network: nn.Sequential) -> None:
        super().__init__()
        self.network = network

    @property
    def ensemble(self) -> BatchedEnsemble:
        """The last layer."""
        return cast("BatchedEnsemble", self.network[-1])

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(M * B, K)`` of images ``(M * B, C, H, W)``; see the class."""
        for layer in self.network[:-1]:
            images = layer(images)
        rows = images.unflatten(0, (self.ensemble.count, -1))
        return self.ensemble.logits(rows, same_rows=False).flatten(0, 1)


def _tensor_name(index: int) -> str:
    """The name of a stacked tensor. It is part of the resume file's format."""
    return f"numbers_{index}"


def _unstack(stacked: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The parameters and buffers of each network, as views."""
    parts = zip(*(tensor.unbind() for tensor in stacked.values()), strict=True)
    return [dict(zip(stacked, part, strict=True)) for part in parts]
