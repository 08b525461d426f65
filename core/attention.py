"""Causal attention for stacked models, on any device.

`attention` is scaled dot-product attention; `reference_attention` says what it computes, in plain
PyTorch. On a CPU, PyTorch's fused kernel spends its time on bookkeeping at the shapes of small
cells (sequences of 16 to 200, keys of 2 to 64), so there the products are batched ones with a
backward of our own: attention probabilities are kept, and nothing is copied or recomputed.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def causal_mask(queries: int, keys: int, stride: int, device: torch.device) -> Tensor:
    """mask_QxS, added to the scores: 0 where query q, which stands at position q * stride, may
    look (positions up to its own), -inf elsewhere."""
    q_Q = torch.arange(queries, device=device)[:, None] * stride
    s_S = torch.arange(keys, device=device)
    return torch.where(s_S <= q_Q, 0.0, -math.inf)


def reference_attention(q: Tensor, k: Tensor, v: Tensor, mask_QxS: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(K) + mask) v, the definition (Vaswani et al. 2017, equation 1).

    Args:
        q: (..., Q, K); k, v: (..., S, K); mask_QxS: added to the scores.
    """
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]) + mask_QxS
    return torch.softmax(scores, dim=-1) @ v


def attention(q: Tensor, k: Tensor, v: Tensor, mask_QxS: Tensor) -> Tensor:
    """What `reference_attention` computes; q, k, v of shape (N, H, Q or S, K)."""
    if q.device.type == "cpu":
        N, H, Q, K = q.shape
        S = k.shape[2]
        flat = (q.reshape(N * H, Q, K), k.reshape(N * H, S, K), v.reshape(N * H, S, K))
        return _BatchedAttention.apply(*flat, mask_QxS).view(N, H, Q, K)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask_QxS.to(q.dtype))


class _BatchedAttention(torch.autograd.Function):
    """q_NxQxK, k_NxSxK, v_NxSxK, mask_QxS -> N x Q x K by batched products."""

    @staticmethod
    def forward(ctx, q_NxQxK: Tensor, k_NxSxK: Tensor, v_NxSxK: Tensor, mask_QxS: Tensor) -> Tensor:
        ctx.scale = 1.0 / math.sqrt(q_NxQxK.shape[-1])
        q_NxQxK = q_NxQxK * ctx.scale
        scores_NxQxS = torch.bmm(q_NxQxK, k_NxSxK.transpose(1, 2)).add_(mask_QxS)
        p_NxQxS = torch.softmax(scores_NxQxS, dim=-1)
        ctx.save_for_backward(q_NxQxK, k_NxSxK, v_NxSxK, p_NxQxS)
        return torch.bmm(p_NxQxS, v_NxSxK)

    @staticmethod
    def backward(ctx, grad_NxQxK: Tensor):
        q_NxQxK, k_NxSxK, v_NxSxK, p_NxQxS = ctx.saved_tensors
        grad_v = torch.bmm(p_NxQxS.transpose(1, 2), grad_NxQxK)
        grad_p = torch.bmm(grad_NxQxK, v_NxSxK.transpose(1, 2))
        grad_scores = torch._softmax_backward_data(grad_p, p_NxQxS, -1, p_NxQxS.dtype)
        grad_q = torch.bmm(grad_scores, k_NxSxK).mul_(ctx.scale)
        grad_k = torch.bmm(grad_scores.transpose(1, 2), q_NxQxK)
        return grad_q, grad_k, grad_v, None
