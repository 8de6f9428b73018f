"""Networks of cells, as the defense dsara finds them."""

from __future__ import annotations

from torch import nn

from robustbench_cli.defenses.base.architectures.architecture import Architecture
from robustbench_cli.defenses.base.architectures.cell_network import CellNetwork

__all__ = ["dsara"]

_DIGITS = "4x8,sep3-skip-none-max-sep5,skip-skip-none-max-avg,sep3-skip-sep3-none-max"


def dsara(*, shape: tuple[int, int, int], classes: int, argument: str | None = None) -> nn.Module:
    """Cells for small images, with an operation for each edge, as the defense dsara finds them; by default those for digits.

    Ou et al.: Differentiable Search of Accurate and Robust Architectures (2022, arXiv 2212.14049). The name is
    ``dsara:CELLSxWIDTH,ACCURATE,REDUCTION,ROBUST``, as in ``dsara:4x8,sep3-skip-none-max-sep5,skip-skip-none-max-avg,
    sep3-skip-sep3-none-max`` without the space:

    - CELLS: 4 to 20. Reduction cells are at a third and at two thirds of the network, accurate cells before the second one, and
      robust cells behind it.
    - WIDTH: the channels of a node in the first cells. They double in the first reduction cell.
    - The operations of five edges for each kind of cell. The first node has edges from the cell before the last and from the
      last cell; the second node from these two and from the first node. An operation is ``max`` or ``avg`` (3 x 3 pools),
      ``skip`` (the identity), ``sep3`` or ``sep5`` (separable convolutions), or ``none``.

    Args:
        shape: ``(C, H, W)``.
        classes: K.
        argument: The architecture.

    Raises:
        UserError: The architecture cannot be read.
    """
    architecture = Architecture.parse(_DIGITS if argument is None else argument)
    return CellNetwork.of(architecture, channels=shape[0], classes=classes)
