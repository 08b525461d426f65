"""A causal Transformer (Vaswani et al. 2017; pre-norm: Xiong et al. 2020), replica-stacked.

Layer norm has no parameters (Groeneveld et al. 2024, OLMo, section 2.1: the linear maps that follow
it can learn its scale), and linear maps no biases but the MLP's hidden units, where they move the
kinks. The last block computes only the positions that are read.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from core.attention import attention, causal_mask
from core.config import Cell
from core.parameters import Spec

_ROTARY_BASE = 10_000.0  # Su et al. 2021 (RoFormer), section 3.2.2


def parameters(cell: Cell) -> dict[str, Spec]:
    """Weights start N(0, 1/fan-in); those that write to the residual stream are divided by
    sqrt(2 num_layers) more (Radford et al. 2019, GPT-2, section 2.3)."""
    D, HK, M = cell.model_size, cell.num_heads * cell.key_size, cell.mlp_ratio * cell.model_size
    depth = math.sqrt(2 * cell.num_layers)
    specs: dict[str, Spec] = {}
    if cell.position_encoding == "learned":
        specs["positions"] = Spec((_num_tokens(cell), D), 0.02)  # GPT-2's
    for i in range(cell.num_layers):
        specs[f"{i}.q"] = Spec((D, HK), D**-0.5)
        specs[f"{i}.kv"] = Spec((D, 2 * HK), D**-0.5)
        specs[f"{i}.out"] = Spec((HK, D), HK**-0.5 / depth)
        specs[f"{i}.up"] = Spec((D, M), D**-0.5)
        specs[f"{i}.up_bias"] = Spec((1, M), 0.0)
        specs[f"{i}.down"] = Spec((M, D), M**-0.5 / depth)
    return specs


def apply(p: dict[str, Tensor], h_RxBxSxD: Tensor, cell: Cell, stride: int) -> Tensor:
    """Outputs at positions 0, stride, 2 stride ...; see `core.architectures.Architecture`."""
    R, B, S, D = h_RxBxSxD.shape
    if cell.position_encoding == "learned":
        h_RxBxSxD = h_RxBxSxD + p["positions"][:, None, :S]
    rotation_SxK = _rotation(cell, S, h_RxBxSxD.device)
    h_RxNxD = h_RxBxSxD.reshape(R, B * S, D)
    for i in range(cell.num_layers):
        step = stride if i == cell.num_layers - 1 else 1
        normed_RxNxD = F.layer_norm(h_RxNxD, (D,))
        read_RxNxD, h_RxNxD = (_every(t, S, step) for t in (normed_RxNxD, h_RxNxD))
        q = _heads(torch.bmm(read_RxNxD, p[f"{i}.q"]), B, cell.num_heads)
        k, v = _heads(torch.bmm(normed_RxNxD, p[f"{i}.kv"]), B, 2 * cell.num_heads).split(
            cell.num_heads, dim=1
        )
        if rotation_SxK is not None:
            q, k = _rotate(q, rotation_SxK[:, ::step]), _rotate(k, rotation_SxK)
        mask_QxS = causal_mask(q.shape[2], S, step, h_RxNxD.device)
        mixed = attention(q, k, v, mask_QxS)
        h_RxNxD = h_RxNxD + torch.bmm(_merge(mixed, R), p[f"{i}.out"])
        hidden = torch.baddbmm(p[f"{i}.up_bias"], F.layer_norm(h_RxNxD, (D,)), p[f"{i}.up"])
        h_RxNxD = torch.baddbmm(h_RxNxD, F.relu(hidden), p[f"{i}.down"])
    return h_RxNxD.view(R, B, -1, D)


def state_size(cell: Cell) -> int:
    """layers x positions x (keys + values): what attention can look back at after T examples."""
    return cell.num_layers * _num_tokens(cell) * 2 * cell.num_heads * cell.key_size


def forward_flops(cell: Cell) -> int:
    """Operations of all blocks for a batch; the last block's queries and MLP see T tokens only."""
    D, HK, S, T = (
        cell.model_size,
        cell.num_heads * cell.key_size,
        _num_tokens(cell),
        cell.sequence_length,
    )
    total = 0
    for i in range(cell.num_layers):
        Q = T if i == cell.num_layers - 1 else S
        total += 2 * S * D * 2 * HK + 2 * Q * D * (2 * HK + 2 * cell.mlp_ratio * D) + 4 * Q * S * HK
    return cell.batch_size * total


def activations(cell: Cell) -> int:
    """Numbers kept of a sequence: four of width D, queries, keys, values and their mix, two of the
    MLP's width, and scores where attention keeps them."""
    D, HK, S = cell.model_size, cell.num_heads * cell.key_size, _num_tokens(cell)
    return cell.num_layers * S * (4 * D + 5 * HK + 2 * cell.mlp_ratio * D + cell.num_heads * S)


def _num_tokens(cell: Cell) -> int:
    return cell.sequence_length * (2 if cell.token_format == "interleaved" else 1)


def _every(t_RxNxD: Tensor, S: int, step: int) -> Tensor:
    """The tokens 0, step, 2 step ... of each sequence of S."""
    if step == 1:
        return t_RxNxD
    return t_RxNxD.unflatten(1, (-1, S))[:, :, ::step].flatten(1, 2)


def _heads(t_RxNxHK: Tensor, B: int, num_heads: int) -> Tensor:
    """R x (B S) x (H K) -> (R B) x H x S x K."""
    R = t_RxNxHK.shape[0]
    return t_RxNxHK.view(R * B, -1, num_heads, t_RxNxHK.shape[2] // num_heads).transpose(1, 2)


def _merge(t: Tensor, R: int) -> Tensor:
    """(R B) x H x S x K -> R x (B S) x (H K)."""
    return t.transpose(1, 2).reshape(R, -1, t.shape[1] * t.shape[3])


def _rotation(cell: Cell, S: int, device: torch.device) -> Tensor | None:
    """cos and sin of the rotary angles: 2 x S x K/2, or None where positions are learned."""
    if cell.position_encoding != "rotary":
        return None
    half = cell.key_size // 2
    frequency = _ROTARY_BASE ** (-torch.arange(half, device=device) / half)
    angle_SxK = torch.arange(S, device=device)[:, None] * frequency
    return torch.stack([angle_SxK.cos(), angle_SxK.sin()])


def _rotate(t: Tensor, rotation: Tensor) -> Tensor:
    """Rotates the pairs (j, j + K/2) of the last axis by the angles of the position."""
    cos, sin = rotation.to(t.dtype)
    a, b = t.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
