"""The Transformer's MLP blocks without its attention: a model without context.

The paper's control (Kirsch et al. 2022, figure 2): it sees x_j of the position it predicts, no
label and no other position, so all it can do about a task is to remember it.
"""

from __future__ import annotations

import math

from torch import Tensor

from metaphase.core.architectures.blocks import Block, layers
from metaphase.core.architectures.parameters import Spec
from metaphase.core.cell import Cell


def parameters(cell: Cell) -> dict[str, Spec]:
    """As those of `core.architectures.transformer`, less attention's."""
    D, M = cell.model_size, cell.mlp_units
    specs: dict[str, Spec] = {}
    for i in range(cell.num_layers):
        specs[f"{i}.up"] = Spec((D, M), D**-0.5, D)
        specs[f"{i}.up_bias"] = Spec((1, M), 0.0)
        specs[f"{i}.down"] = Spec((M, D), M**-0.5 / math.sqrt(cell.num_layers), D)
    return specs


def apply(p: dict[str, Tensor], h_RxBxLxD: Tensor, cell: Cell, stride: int) -> Tensor:
    """Outputs at positions 0, stride, 2 stride ...; see `core.architectures.Architecture`."""
    h_RxBxTxD = h_RxBxLxD[:, :, ::stride]
    h_RxBTxD = h_RxBxTxD.flatten(1, 2)
    blocks = [
        Block((p[f"{i}.up"], p[f"{i}.up_bias"], p[f"{i}.down"])) for i in range(cell.num_layers)
    ]
    return layers(h_RxBTxD, blocks).view(h_RxBxTxD.shape)


def state_size(cell: Cell) -> int:
    """0: no example influences another's prediction."""
    return 0


def forward_flops(cell: Cell) -> int:
    """Operations of all blocks for a batch."""
    D, T = cell.model_size, cell.sequence_length
    return cell.batch_size * cell.num_layers * T * 2 * 2 * D * cell.mlp_units


def activations(cell: Cell) -> int:
    """Numbers kept of a sequence: two of width D and two of the hidden width a block."""
    D = cell.model_size
    return cell.num_layers * cell.sequence_length * (2 * D + 2 * cell.mlp_units)
