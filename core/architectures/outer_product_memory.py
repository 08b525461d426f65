"""The outer-product memory as a residual block: a matrix for each head, to which associations are
added.

At time s, M_s = f_s M_(s-1) + w_s k_s v_s^T and o_s = q_s M_s, where each head has a gate f and a
write strength w (fast weights: Schmidhuber 1992; decaying ones: Ba et al. 2016). Unrolled, o_s is
the sum over u <= s of (f_(u+1) ... f_s) (q_s . k_u) w_u v_u: attention without softmax whose scores
decay (Katharopoulos et al. 2020; Dao and Gu 2024, section 4.2), computed for all times at once.

Axes beside the usual ones: Q times at which the memory is asked; RB, RBH: all sequences, all heads.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from metaphase.core.architectures.parameters import Spec
from metaphase.core.cell import Cell
from metaphase.core.kernels import cpu
from metaphase.core.kernels.operations import (
    add_rows,
    batched_product,
    layer_norm,
    plain_layer_norm,
    product,
)

# Added to the biases of the gates: sigmoid(4) = 0.982, a half-life of 38 tokens to start with.
FORGET_BIAS = 4.0


def parameters(i: int, cell: Cell, depth: float) -> dict[str, Spec]:
    """The parameters of layer i; what it adds to the residual stream starts divided by `depth`."""
    D, H, HK = cell.model_size, cell.num_heads, cell.num_heads * cell.key_size
    return {
        f"{i}.q": Spec((D, HK), D**-0.5, D),
        f"{i}.kv": Spec((D, 2 * HK), D**-0.5, D),
        f"{i}.kv_before": Spec((D, 2 * HK), D**-0.5, D),
        f"{i}.gates": Spec((D, 2 * H), D**-0.5, D),  # forgetting, then writing
        f"{i}.gates_bias": Spec((1, 2 * H), 0.0),
        f"{i}.out": Spec((HK, D), HK**-0.5 / depth, HK),
    }


def block(p: dict[str, Tensor], i: int, h_RxBxLxD: Tensor, cell: Cell, stride: int) -> Tensor:
    """h + norm(o) out at the positions 0, stride, 2 stride ...: R x B x Q x D.

    Queries, keys, values and gates are made from norm(h) of the token, keys and values also from
    that of the token before, as in every recurrent model of this kind (token shift: Peng et al.
    2023; short convolutions: Mamba). Without it no layer could store x_j with a label that arrives
    with the next token.
    """
    R, B, L, D = h_RxBxLxD.shape
    H, K = cell.num_heads, cell.key_size
    normed_RxBxLxD = layer_norm(h_RxBxLxD)
    read_RxBxQxD = normed_RxBxLxD[:, :, ::stride]
    Q = read_RxBxQxD.shape[2]
    q_RxBQxHK = product(read_RxBxQxD.reshape(R, B * Q, D), p[f"{i}.q"])
    normed_RxBLxD = normed_RxBxLxD.view(R, B * L, D)
    before_RxBLxD = F.pad(normed_RxBxLxD[:, :, :-1], (0, 0, 1, 0)).view(R, B * L, D)
    kv_RxBLx2HK = product(normed_RxBLxD, p[f"{i}.kv"]) + product(before_RxBLxD, p[f"{i}.kv_before"])
    gates_RxBLx2H = add_rows(product(normed_RxBLxD, p[f"{i}.gates"]), p[f"{i}.gates_bias"])
    o_RBxQxHK = answers(
        q_RxBQxHK.view(R * B, Q, H * K),
        kv_RxBLx2HK.view(R * B, L, 2 * H * K),
        gates_RxBLx2H.view(R * B, L, 2 * H),
        H,
        stride,
    )
    added_RxBQxD = product(o_RBxQxHK.reshape(R, B * Q, H * K), p[f"{i}.out"])
    return h_RxBxLxD[:, :, ::stride] + added_RxBQxD.view(R, B, Q, D)


def answers(
    q_RBxQxHK: Tensor, kv_RBxLx2HK: Tensor, gates_RBxLx2H: Tensor, heads: int, stride: int
) -> Tensor:
    """What the memories of all sequences answer, each head's normed: RB x Q x HK.

    Args:
        q_RBxQxHK: queries at the times 0, stride, 2 stride ... only.
        kv_RBxLx2HK: keys, then values, at all times.
        gates_RBxLx2H: of forgetting, then of writing, before their sigmoids and without
            FORGET_BIAS.
    """
    if not cpu.serves(kv_RBxLx2HK):
        return plain_answers(q_RBxQxHK, kv_RBxLx2HK, gates_RBxLx2H, heads, stride)
    o_RBxQxHK: Tensor = cpu.Memory.apply(
        q_RBxQxHK, kv_RBxLx2HK, gates_RBxLx2H, heads, stride, FORGET_BIAS
    )
    return o_RBxQxHK


def plain_answers(
    q_RBxQxHK: Tensor, kv_RBxLx2HK: Tensor, gates_RBxLx2H: Tensor, heads: int, stride: int
) -> Tensor:
    """The definition of `answers`."""
    q_RBxHxQxK = q_RBxQxHK.unflatten(2, (heads, -1)).transpose(1, 2)
    k_RBxHxLxK, v_RBxHxLxK = kv_RBxLx2HK.unflatten(2, (2, heads, -1)).permute(2, 0, 3, 1, 4)
    gates_RBxLx2H = gates_RBxLx2H.to(torch.promote_types(gates_RBxLx2H.dtype, torch.float32))
    forget_RBxHxL, write_RBxHxL = gates_RBxLx2H.unflatten(2, (2, heads)).permute(2, 0, 3, 1)
    o_RBxHxQxK = read_out(
        q_RBxHxQxK,  # its length would cancel in the norm
        _unit(k_RBxHxLxK),
        v_RBxHxLxK,
        F.logsigmoid(forget_RBxHxL + FORGET_BIAS),
        F.logsigmoid(write_RBxHxL),
        stride,
    )
    return plain_layer_norm(o_RBxHxQxK).transpose(1, 2).flatten(2)


def read_out(
    q_RBxHxQxK: Tensor,
    k_RBxHxLxK: Tensor,
    v_RBxHxLxK: Tensor,
    log_f_RBxHxL: Tensor,
    log_w_RBxHxL: Tensor,
    stride: int,
) -> Tensor:
    """o_RBxHxQxK: what the memory answers at times 0, stride, 2 stride ..., float32 or wider.

    A score's factor is the exponential of a sum of logarithms, none above 0, so nothing overflows
    however fast a head forgets.

    Args:
        q_RBxHxQxK: at these times only.
        log_f_RBxHxL, log_w_RBxHxL: logarithms of the gates and the write strengths.
    """
    wide = torch.promote_types(q_RBxHxQxK.dtype, torch.float32)  # a memory is a sum: not in bf16
    tensors = (q_RBxHxQxK, k_RBxHxLxK, v_RBxHxLxK, log_f_RBxHxL, log_w_RBxHxL)
    with torch.autocast(q_RBxHxQxK.device.type, enabled=False):
        o_RBHxQxK = _ReadOut.apply(*(t.to(wide).flatten(0, 1) for t in tensors), stride)
    return o_RBHxQxK.view(q_RBxHxQxK.shape)


class _ReadOut(torch.autograd.Function):
    """`read_out` with heads in the batch axis; forward and backward of our own, in place."""

    @staticmethod
    def forward(
        ctx: Any,
        q_RBHxQxK: Tensor,
        k_RBHxLxK: Tensor,
        v_RBHxLxK: Tensor,
        log_f_RBHxL: Tensor,
        log_w_RBHxL: Tensor,
        stride: int,
    ) -> Tensor:
        # In two parts: differences of large sums are small, and as exact as the terms.
        total_RBHxL = log_f_RBHxL.double().cumsum(dim=1)
        high_RBHxL = total_RBHxL.to(q_RBHxQxK.dtype)
        rest_RBHxL = (total_RBHxL - high_RBHxL).to(q_RBHxQxK.dtype)
        factor_RBHxQxL = high_RBHxL[:, ::stride, None] - high_RBHxL[:, None]
        factor_RBHxQxL.add_(rest_RBHxL[:, ::stride, None]).sub_(rest_RBHxL[:, None])
        factor_RBHxQxL.add_(log_w_RBHxL[:, None])
        Q, L = factor_RBHxQxL.shape[1:]
        factor_RBHxQxL.add_(_mask_QxL(Q, L, stride, q_RBHxQxK.device)).exp_()
        scores_RBHxQxL = batched_product(q_RBHxQxK, k_RBHxLxK.transpose(1, 2)).mul_(factor_RBHxQxL)
        ctx.stride = stride
        ctx.save_for_backward(q_RBHxQxK, k_RBHxLxK, v_RBHxLxK, factor_RBHxQxL, scores_RBHxQxL)
        return batched_product(scores_RBHxQxL, v_RBHxLxK)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        [grad_RBHxQxK] = grads
        q_RBHxQxK, k_RBHxLxK, v_RBHxLxK, factor_RBHxQxL, scores_RBHxQxL = ctx.saved_tensors
        grad_v_RBHxLxK = batched_product(scores_RBHxQxL.transpose(1, 2), grad_RBHxQxK)
        grad_scores_RBHxQxL = batched_product(grad_RBHxQxK, v_RBHxLxK.transpose(1, 2))
        grad_log_RBHxQxL = grad_scores_RBHxQxL * scores_RBHxQxL  # of the factors' logarithms
        grad_products_RBHxQxL = grad_scores_RBHxQxL.mul_(factor_RBHxQxL)
        grad_q_RBHxQxK = batched_product(grad_products_RBHxQxL, k_RBHxLxK)
        grad_k_RBHxLxK = batched_product(grad_products_RBHxQxL.transpose(1, 2), q_RBHxQxK)
        grad_w_RBHxL = grad_log_RBHxQxL.sum(dim=1)
        grad_total_RBHxL = -grad_w_RBHxL
        grad_total_RBHxL[:, :: ctx.stride].add_(grad_log_RBHxQxL.sum(dim=2))
        grad_f_RBHxL = grad_total_RBHxL.flip(1).cumsum(dim=1).flip(1)
        return grad_q_RBHxQxK, grad_k_RBHxLxK, grad_v_RBHxLxK, grad_f_RBHxL, grad_w_RBHxL, None


@cache  # not lru_cache: a graph may read what it has let go
def _mask_QxL(queries: int, L: int, stride: int, device: torch.device) -> Tensor:
    """0 where a time is not after that of the query, else -inf."""
    time_L = torch.arange(L, device=device)
    time_Qx1 = torch.arange(queries, device=device)[:, None] * stride
    return torch.where(time_L <= time_Qx1, 0.0, -math.inf)


def _unit(t: Tensor) -> Tensor:
    """Makes keys of length 1 (Schlag, Irie and Schmidhuber 2021, section 4.2)."""
    return t * (t.square().sum(dim=-1, keepdim=True) + 1e-6).rsqrt()


def state_size(cell: Cell) -> int:
    """State size of one layer: heads x key size x value size, and the token before."""
    return cell.num_heads * cell.key_size**2 + cell.model_size


def forward_flops(cell: Cell, queries: int) -> int:
    """Operations of one layer for one sequence."""
    D, H, K, L = cell.model_size, cell.num_heads, cell.key_size, cell.num_tokens
    return 2 * D * (2 * L * H * (2 * K + 1) + 2 * queries * H * K) + 4 * queries * L * H * K


def activations(cell: Cell) -> int:
    """Numbers kept of a sequence in one layer: three of width D, queries, keys, values and answers
    before and after their norms, and by head and two times three scores."""
    D, H, K, L = cell.model_size, cell.num_heads, cell.key_size, cell.num_tokens
    return L * (3 * D + H * (8 * K + 3 * L))
