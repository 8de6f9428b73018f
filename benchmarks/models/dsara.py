"""Networks of cells, as the defense dsara finds them."""

from __future__ import annotations

from torch import nn

from robustbench_cli.core.errors import UserError
from robustbench_cli.defenses.base.architectures.architecture import Architecture
from robustbench_cli.defenses.base.architectures.cell_network import CellNetwork

__all__ = ["dsara"]

_DIGITS = "4x8,sep3-skip-sep5-skip-none,sep5-sep5-sep5-sep5-none,max-max-avg-max-none"
"""The architecture that the defense finds on digits in 10 epochs from the seed 0, with 3 steps of the attack."""


def dsara(*, shape: tuple[int, int, int], classes: int, argument: str | None = None) -> nn.Module:
    """Cells for small images, with an operation for each edge, as the defense dsara finds them; by default those for digits.

    Ou et al.: Differentiable Search of Accurate and Robust Architectures (2022, arXiv 2212.14049). The whole name is
    ``dsara:CELLSxWIDTH,ACCURATE,REDUCTION,ROBUST``, and ``advdef train --defense dsara`` prints one:

    - CELLS: 4 to 20. Reduction cells are at a third and at two thirds of the network, accurate cells before the second one, and
      robust cells behind it.
    - WIDTH: the channels of a node in the first cells. They double in the first reduction cell.
    - ACCURATE, REDUCTION, ROBUST: the operations of five edges, as in ``sep3-skip-none-max-sep5``. The first node of a cell has
      edges from the cell before the last one and from the last one. The second node has edges from these two and from the first
      node. An operation is ``sep3`` or ``sep5`` (separable convolutions), ``skip`` (the identity), ``max`` or ``avg`` (3 x 3
      pools), or ``none``.

    Args:
        shape: ``(C, H, W)``.
        classes: K.
        argument: The architecture.

    Raises:
        UserError: The architecture cannot be read.
    """
    try:
        architecture = Architecture.parse(_DIGITS if argument is None else argument)
    except UserError as error:
        raise UserError(f"model dsara: {error}") from None
    return CellNetwork.of(architecture, channels=shape[0], classes=classes)
