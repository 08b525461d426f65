"""Gated linear attention, replica-stacked: a Transformer whose attention is an outer-product memory
of fixed size (Katharopoulos et al. 2020), forgetting by a gate a head that depends on the token
(the scalar gates of Dao and Gu 2024, Mamba-2; Yang et al. 2024 have one a key), with keys
of length 1 (Schlag, Irie and Schmidhuber 2021) and a norm on what is read (Sun et al. 2023).
"""

from __future__ import annotations

import math

from torch import Tensor

from metaphase.core.architectures import outer_product_memory as memory
from metaphase.core.architectures.blocks import mlp
from metaphase.core.architectures.parameters import Spec
from metaphase.core.cell import Cell


def parameters(cell: Cell) -> dict[str, Spec]:
    """Weights start as those of `core.architectures.transformer`, biases at 0."""
    D, M = cell.model_size, cell.mlp_units
    depth = math.sqrt(2 * cell.num_layers)
    specs: dict[str, Spec] = {}
    for i in range(cell.num_layers):
        specs |= memory.parameters(i, cell, depth)
        specs[f"{i}.up"] = Spec((D, M), D**-0.5, D)
        specs[f"{i}.up_bias"] = Spec((1, M), 0.0)
        specs[f"{i}.down"] = Spec((M, D), M**-0.5 / depth, D)
    return specs


def apply(p: dict[str, Tensor], h_RxBxLxD: Tensor, cell: Cell, stride: int) -> Tensor:
    """Outputs at positions 0, stride, 2 stride ...; see `core.architectures.Architecture`."""
    for i in range(cell.num_layers):
        step = stride if i == cell.num_layers - 1 else 1
        h_RxBxLxD = memory.block(p, i, h_RxBxLxD, cell, step)
        h_RxBLxD = h_RxBxLxD.flatten(1, 2)
        h_RxBLxD = mlp(h_RxBLxD, p[f"{i}.up"], p[f"{i}.up_bias"], p[f"{i}.down"])
        h_RxBxLxD = h_RxBLxD.view(h_RxBxLxD.shape)
    return h_RxBxLxD


def state_size(cell: Cell) -> int:
    """layers x (heads x key size x value size + the token before): num_layers (num_heads
    key_size^2 + model_size), however long the sequence."""
    return cell.num_layers * memory.state_size(cell)


def forward_flops(cell: Cell) -> int:
    """Operations of all layers for a batch; the last one's queries and MLP see T tokens only."""
    D = cell.model_size
    total = 0
    for i in range(cell.num_layers):
        Q = cell.sequence_length if i == cell.num_layers - 1 else cell.num_tokens
        total += memory.forward_flops(cell, Q) + 2 * 2 * Q * D * cell.mlp_units
    return cell.batch_size * total


def activations(cell: Cell) -> int:
    """Numbers kept of a sequence: the memory's, two of width D, and two of the MLP's width."""
    D, L = cell.model_size, cell.num_tokens
    mlp_numbers = L * (2 * D + 2 * cell.mlp_units)
    return cell.num_layers * (memory.activations(cell) + mlp_numbers)
