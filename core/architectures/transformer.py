"""A causal Transformer (Vaswani et al. 2017; pre-norm: Xiong et al. 2020), replica-stacked.

Layer norm has no parameters (Groeneveld et al. 2024, OLMo, section 2.1: the linear maps that follow
it can learn its scale), and linear maps no biases but the MLP's hidden units, where they move the
kinks. The last block computes only the positions that are read.
"""

from __future__ import annotations

import math

from torch import Tensor

from metaphase.core.architectures.blocks import Block, layers
from metaphase.core.architectures.parameters import Spec
from metaphase.core.cell import Cell
from metaphase.core.kernels.attention_shape import AttentionShape
from metaphase.core.kernels.operations import add_rows


def parameters(cell: Cell) -> dict[str, Spec]:
    """Weights start N(0, 1/fan-in); those that write to the residual stream are divided by
    sqrt(2 num_layers) more (Radford et al. 2019, GPT-2, section 2.3)."""
    D, HK, M = cell.model_size, cell.num_heads * cell.key_size, cell.mlp_units
    depth = math.sqrt(2 * cell.num_layers)
    specs: dict[str, Spec] = {}
    if cell.position_encoding == "learned":
        specs["positions"] = Spec((cell.num_tokens, D), 0.02)  # GPT-2's
    for i in range(cell.num_layers):
        specs[f"{i}.q"] = Spec((D, HK), D**-0.5, D)
        specs[f"{i}.kv"] = Spec((D, 2 * HK), D**-0.5, D)
        specs[f"{i}.out"] = Spec((HK, D), HK**-0.5 / depth, HK)
        specs[f"{i}.up"] = Spec((D, M), D**-0.5, D)
        specs[f"{i}.up_bias"] = Spec((1, M), 0.0)
        specs[f"{i}.down"] = Spec((M, D), M**-0.5 / depth, D)
    return specs


def apply(p: dict[str, Tensor], h_RxBxLxD: Tensor, cell: Cell, stride: int) -> Tensor:
    """Outputs at positions 0, stride, 2 stride ...; see `core.architectures.Architecture`."""
    R, B, L, D = h_RxBxLxD.shape
    if cell.position_encoding == "learned":
        positions = p["positions"][:, :L].reshape(R, 1, L * D)
        h_RxBxLxD = add_rows(h_RxBxLxD.reshape(R, B, L * D), positions)
    h_RxBLxD = h_RxBxLxD.reshape(R, B * L, D)
    rotary = cell.position_encoding == "rotary"
    blocks = []
    for i in range(cell.num_layers):
        read = stride if i == cell.num_layers - 1 else 1
        shape = AttentionShape(L, cell.num_heads, cell.key_size, read, rotary)
        blocks.append(Block((p[f"{i}.q"], p[f"{i}.kv"], p[f"{i}.out"]), shape))
        blocks.append(Block((p[f"{i}.up"], p[f"{i}.up_bias"], p[f"{i}.down"])))
    return layers(h_RxBLxD, blocks).view(R, B, -1, D)


def state_size(cell: Cell) -> int:
    """layers x positions x (keys + values): what attention can look back at after T examples."""
    return cell.num_layers * cell.num_tokens * 2 * cell.num_heads * cell.key_size


def forward_flops(cell: Cell) -> int:
    """Operations of all blocks for a batch; the last block's queries and MLP see T tokens only."""
    D, HK, L = cell.model_size, cell.num_heads * cell.key_size, cell.num_tokens
    total = 0
    for i in range(cell.num_layers):
        Q = cell.sequence_length if i == cell.num_layers - 1 else L
        total += 2 * L * D * 2 * HK + 2 * Q * D * (2 * HK + 2 * cell.mlp_units) + 4 * Q * L * HK
    return cell.batch_size * total


def activations(cell: Cell) -> int:
    """Numbers kept of a sequence: four of width D, queries, keys, values and their mix, two of the
    MLP's width. Scores aren't among them: fused attention computes them again."""
    D, HK, L = cell.model_size, cell.num_heads * cell.key_size, cell.num_tokens
    return cell.num_layers * L * (4 * D + 5 * HK + 2 * cell.mlp_units)
