"""The outer-product memory, a matrix a head that associations are added to, as a residual block.

By time, M_s = f_s M_(s-1) + w_s k_s v_s^T and o_s = q_s M_s, with a gate f and a write strength w a
head (fast weights: Schmidhuber 1992; decaying ones: Ba et al. 2016). Unrolled, o_s is the sum over
u <= s of (f_(u+1) ... f_s) (q_s . k_u) w_u v_u: attention without softmax whose scores decay
(Katharopoulos et al. 2020; Dao and Gu 2024, section 4.2), computed here for all times at once.
"""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from metaphase.core.architectures.parameters import Spec
from metaphase.core.cell import Cell
from metaphase.core.kernels import cpu
from metaphase.core.kernels.operations import (
    add_rows,
    layer_norm,
    plain_layer_norm,
    product,
    products,
)

# Added to the biases of the gates: sigmoid(4) = 0.982, a half-life of 38 tokens to start with.
FORGET_BIAS = 4.0


def parameters(i: int, cell: Cell, depth: float) -> dict[str, Spec]:
    """Of layer i; what it adds to the residual stream starts divided by `depth`."""
    D, H, HK = cell.model_size, cell.num_heads, cell.num_heads * cell.key_size
    return {
        f"{i}.q": Spec((D, HK), D**-0.5, D),
        f"{i}.kv": Spec((D, 2 * HK), D**-0.5, D),
        f"{i}.kv_before": Spec((D, 2 * HK), D**-0.5, D),
        f"{i}.gates": Spec((D, 2 * H), D**-0.5, D),  # forgetting, then writing
        f"{i}.gates_bias": Spec((1, 2 * H), 0.0),
        f"{i}.out": Spec((HK, D), HK**-0.5 / depth, HK),
    }


def block(p: dict[str, Tensor], i: int, h_RxBxSxD: Tensor, cell: Cell, stride: int) -> Tensor:
    """h + norm(o) out at the positions 0, stride, 2 stride ...

    Queries, keys, values and gates are made from norm(h) of the token, keys and values also from
    that of the token before, as in every recurrent model of this kind (token shift: Peng et al.
    2023; short convolutions: Mamba). Without it no layer could store x_j with a label that arrives
    with the next token.
    """
    R, B, S, D = h_RxBxSxD.shape
    H, K = cell.num_heads, cell.key_size
    normed = layer_norm(h_RxBxSxD)
    read = normed[:, :, ::stride]
    Q = read.shape[2]
    q = product(read.reshape(R, B * Q, D), p[f"{i}.q"])
    normed_RxNxD = normed.view(R, B * S, D)
    before_RxNxD = F.pad(normed[:, :, :-1], (0, 0, 1, 0)).view(R, B * S, D)
    kv = product(normed_RxNxD, p[f"{i}.kv"]) + product(before_RxNxD, p[f"{i}.kv_before"])
    gates = add_rows(product(normed_RxNxD, p[f"{i}.gates"]), p[f"{i}.gates_bias"])
    o = answers(
        q.view(R * B, Q, H * K),
        kv.view(R * B, S, 2 * H * K),
        gates.view(R * B, S, 2 * H),
        H,
        stride,
    )
    o = product(o.reshape(R, B * Q, H * K), p[f"{i}.out"]).view(R, B, Q, D)
    return h_RxBxSxD[:, :, ::stride] + o


def answers(
    q_NxQxHK: Tensor, kv_NxSx2HK: Tensor, gates_NxSx2H: Tensor, heads: int, stride: int
) -> Tensor:
    """What the memories of N sequences answer, each head's normed: N x Q x HK.

    Args:
        q: queries at the times 0, stride, 2 stride ... only.
        kv: keys, then values, at all times.
        gates: before their sigmoids and without FORGET_BIAS: of forgetting, then of writing.
    """
    if cpu.serves(kv_NxSx2HK):
        return cpu.Memory.apply(q_NxQxHK, kv_NxSx2HK, gates_NxSx2H, heads, stride, FORGET_BIAS)
    return plain_answers(q_NxQxHK, kv_NxSx2HK, gates_NxSx2H, heads, stride)


def plain_answers(
    q_NxQxHK: Tensor, kv_NxSx2HK: Tensor, gates_NxSx2H: Tensor, heads: int, stride: int
) -> Tensor:
    """The definition of `answers`."""
    q = q_NxQxHK.unflatten(2, (heads, -1)).transpose(1, 2)
    k, v = kv_NxSx2HK.unflatten(2, (2, heads, -1)).permute(2, 0, 3, 1, 4)
    gates = gates_NxSx2H.to(torch.promote_types(gates_NxSx2H.dtype, torch.float32))
    forget, write = gates.unflatten(2, (2, heads)).permute(2, 0, 3, 1)
    log_f, log_w = F.logsigmoid(forget + FORGET_BIAS), F.logsigmoid(write)
    o = read_out(q, _unit(k), v, log_f, log_w, stride)  # a query's length would cancel in the norm
    return plain_layer_norm(o).transpose(1, 2).flatten(2)


def read_out(
    q: Tensor, k: Tensor, v: Tensor, log_f_NxHxS: Tensor, log_w_NxHxS: Tensor, stride: int
) -> Tensor:
    """What the memory answers at times 0, stride, 2 stride ...: N x H x Q x K, float32 or wider.

    A score's factor is the exponential of a sum of logarithms, none above 0, so nothing overflows
    however fast a head forgets.

    Args:
        q: N x H x Q x K, at these times only; k, v: N x H x S x K, at all times.
        log_f, log_w: logarithms of the gates and the write strengths.
    """
    wide = torch.promote_types(q.dtype, torch.float32)  # a memory is a sum: not in bf16
    with torch.autocast(q.device.type, enabled=False):
        flat = (t.to(wide).flatten(0, 1) for t in (q, k, v, log_f_NxHxS, log_w_NxHxS))
        return _ReadOut.apply(*flat, stride).view(*q.shape[:3], v.shape[3])


class _ReadOut(torch.autograd.Function):
    """`read_out` with heads in the batch axis (M); forward and backward of our own, in place."""

    @staticmethod
    def forward(
        ctx, q: Tensor, k: Tensor, v: Tensor, log_f_MxS: Tensor, log_w_MxS: Tensor, stride: int
    ) -> Tensor:
        # In two parts: differences of large sums are small, and as exact as the terms.
        total_MxS = log_f_MxS.double().cumsum(dim=1)
        high_MxS = total_MxS.to(q.dtype)
        rest_MxS = (total_MxS - high_MxS).to(q.dtype)
        factor_MxQxS = high_MxS[:, ::stride, None] - high_MxS[:, None]
        factor_MxQxS.add_(rest_MxS[:, ::stride, None]).sub_(rest_MxS[:, None])
        factor_MxQxS.add_(log_w_MxS[:, None])
        factor_MxQxS.add_(_mask_QxS(q.shape[1], k.shape[1], stride, q.device)).exp_()
        scores_MxQxS = products(q, k.transpose(1, 2)).mul_(factor_MxQxS)
        ctx.stride = stride
        ctx.save_for_backward(q, k, v, factor_MxQxS, scores_MxQxS)
        return products(scores_MxQxS, v)

    @staticmethod
    def backward(ctx, grad: Tensor):
        q, k, v, factor_MxQxS, scores_MxQxS = ctx.saved_tensors
        grad_v = products(scores_MxQxS.transpose(1, 2), grad)
        grad_scores = products(grad, v.transpose(1, 2))
        grad_log = grad_scores * scores_MxQxS  # of the factors' logarithms
        grad_products = grad_scores.mul_(factor_MxQxS)
        grad_q = products(grad_products, k)
        grad_k = products(grad_products.transpose(1, 2), q)
        grad_w_MxS = grad_log.sum(dim=1)
        grad_total_MxS = -grad_w_MxS
        grad_total_MxS[:, :: ctx.stride].add_(grad_log.sum(dim=2))
        grad_f_MxS = grad_total_MxS.flip(1).cumsum(dim=1).flip(1)
        return grad_q, grad_k, grad_v, grad_f_MxS, grad_w_MxS, None


@cache  # not lru_cache: a graph may read what it has let go
def _mask_QxS(queries: int, S: int, stride: int, device: torch.device) -> Tensor:
    """0 where time s is not after that of query q, else -inf."""
    s_S = torch.arange(S, device=device)
    q_Q = torch.arange(queries, device=device)[:, None] * stride
    return torch.where(s_S <= q_Q, 0.0, -math.inf)


def _unit(t: Tensor) -> Tensor:
    """Keys of length 1 (Schlag, Irie and Schmidhuber 2021, section 4.2)."""
    return t * (t.square().sum(dim=-1, keepdim=True) + 1e-6).rsqrt()


def state_size(cell: Cell) -> int:
    """Of one layer: heads x key size x value size, and the token before."""
    return cell.num_heads * cell.key_size**2 + cell.model_size


def forward_flops(cell: Cell, queries: int) -> int:
    """Operations of one layer for one sequence."""
    D, H, K, S = cell.model_size, cell.num_heads, cell.key_size, cell.num_tokens
    return 2 * D * (2 * S * H * (2 * K + 1) + 2 * queries * H * K) + 4 * queries * S * H * K


def activations(cell: Cell) -> int:
    """Numbers kept of a sequence in one layer: three of width D, queries, keys, values and answers
    before and after their norms, and by head and two times three scores."""
    D, H, K, S = cell.model_size, cell.num_heads, cell.key_size, cell.num_tokens
    return S * (3 * D + H * (8 * K + 3 * S))
