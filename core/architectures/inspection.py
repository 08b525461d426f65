"""What a Transformer computes on its way, by name, from the plain blocks.

Axes beside the usual ones: Q tokens whose outputs are computed (all L of them, and in the last
block those that predictions are read at), M hidden units.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from metaphase.core.architectures.blocks import _heads, _read, _rotate, plain_attention
from metaphase.core.cell import Cell
from metaphase.core.kernels.attention_shape import AttentionShape, rotation_table
from metaphase.core.kernels.operations import add_rows, plain_layer_norm, product


def activations(
    p: dict[str, Tensor], h_RxBxLxD: Tensor, cell: Cell, stride: int
) -> dict[str, Tensor]:
    """What `core.architectures.transformer.apply` computes of these tokens, to rounding.

    Returns:
        For block i, from 0:

        - `<i>.attention`, R x B x H x Q x L: what each head's query gives to each token; rows sum
          to 1, and are 0 after the query.
        - `<i>.attended`, R x B x Q x D: the residual stream after attention.
        - `<i>.hidden`, R x B x Q x M: the MLP's hidden units, after the nonlinearity.
        - `<i>.out`, R x B x Q x D: the residual stream after the block.
    """
    R, B, L, D = h_RxBxLxD.shape
    if cell.position_encoding == "learned":
        h_RxBxLxD = h_RxBxLxD + p["positions"][:, None, :L]
    h_RxBLxD = h_RxBxLxD.reshape(R, B * L, D)
    rotary = cell.position_encoding == "rotary"
    found: dict[str, Tensor] = {}
    for i in range(cell.num_layers):
        read = stride if i == cell.num_layers - 1 else 1
        shape = AttentionShape(L, cell.num_heads, cell.key_size, read, rotary)
        q, kv, out = p[f"{i}.q"], p[f"{i}.kv"], p[f"{i}.out"]
        weights = _attention_weights(h_RxBLxD, q, kv, shape)
        found[f"{i}.attention"] = weights.unflatten(0, (R, B))
        h_RxBLxD = plain_attention(h_RxBLxD, q, kv, out, shape)
        found[f"{i}.attended"] = h_RxBLxD.view(R, B, -1, D)
        up = product(plain_layer_norm(h_RxBLxD), p[f"{i}.up"])
        hidden = F.relu(add_rows(up, p[f"{i}.up_bias"]))
        found[f"{i}.hidden"] = hidden.view(R, B, -1, hidden.shape[-1])
        h_RxBLxD = h_RxBLxD + product(hidden, p[f"{i}.down"])
        found[f"{i}.out"] = h_RxBLxD.view(R, B, -1, D)
    return found


def _attention_weights(
    h_RxBLxD: Tensor, q_RxDxHK: Tensor, kv_RxDx2HK: Tensor, shape: AttentionShape
) -> Tensor:
    """The softmax in `core.architectures.blocks.plain_attention`: RB x H x Q x L."""
    normed_RxBLxD = plain_layer_norm(h_RxBLxD)
    [query] = _heads(product(_read(normed_RxBLxD, shape), q_RxDxHK), 1, shape)
    key = _heads(product(normed_RxBLxD, kv_RxDx2HK), 2, shape)[0]
    if shape.rotary:
        rotation_LxKx2 = rotation_table(shape, h_RxBLxD.device)
        query = _rotate(query, rotation_LxKx2[:: shape.stride])
        key = _rotate(key, rotation_LxKx2)
    scores_RBxHxQxL = query @ key.mT / math.sqrt(shape.key_size)
    position_L = torch.arange(shape.tokens, device=h_RxBLxD.device)
    later_QxL = position_L > position_L[:: shape.stride, None]
    return scores_RBxHxQxL.masked_fill(later_QxL, -math.inf).softmax(dim=-1)
