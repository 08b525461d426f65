"""The two blocks of a stacked Transformer: attention and MLP, each from residual stream to residual
stream, layer norm included.

`plain_attention` and `plain_mlp` say what they compute; autograd differentiates them. On a CPU, in
float32, `attention` and `mlp` run forward and backward of our own: few passes over memory, in place
where they can be, nothing recomputed. There PyTorch's fused attention spends its time on
bookkeeping at the shapes of small cells (sequences of 16 to 200, keys of 2 to 64), and autograd as
much as the arithmetic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

_ROTARY_BASE = 10_000.0  # Su et al. 2021 (RoFormer), section 3.2.2
_EPSILON = 1e-5  # of layer norm, PyTorch's default


@dataclass(frozen=True)
class Attention:
    """The shapes of an attention block.

    Attributes:
        sequence: S, tokens of a sequence.
        heads, key_size: H and K.
        stride: outputs are computed at the tokens 0, stride, 2 stride ... only.
        rotary: whether queries and keys are rotated by their positions.
    """

    sequence: int
    heads: int
    key_size: int
    stride: int = 1
    rotary: bool = False

    def read(self, t_RxNxD: Tensor) -> Tensor:
        """Of R x (B S) x D tokens those that outputs are computed at."""
        if self.stride == 1:
            return t_RxNxD
        return t_RxNxD.unflatten(1, (-1, self.sequence))[:, :, :: self.stride].flatten(1, 2)

    def split(self, t_RxNxPHK: Tensor, parts: int) -> Tensor:
        """R x (B S) x (parts H K) -> parts x (R B) x H x S x K; S as many as there are."""
        R = t_RxNxPHK.shape[0]
        S = self.sequence if parts == 2 else -(-self.sequence // self.stride)
        shape = (t_RxNxPHK.shape[1] * R // S, S, parts, self.heads, self.key_size)
        return t_RxNxPHK.reshape(shape).permute(2, 0, 3, 1, 4)

    def merge(self, t_PxNxHxSxK: Tensor, R: int) -> Tensor:
        """The inverse of `split`."""
        return t_PxNxHxSxK.permute(1, 3, 0, 2, 4).reshape(
            R, -1, t_PxNxHxSxK.shape[0] * self.heads * self.key_size
        )


@lru_cache(maxsize=64)
def _mask_QxS(shape: Attention, device: torch.device) -> Tensor:
    """Added to the scores: 0 where the query at position q * stride may look, up to itself."""
    s_S = torch.arange(shape.sequence, device=device)
    return torch.where(s_S <= s_S[:: shape.stride, None], 0.0, -math.inf)


@lru_cache(maxsize=64)
def _rotation_SxKx2(shape: Attention, device: torch.device) -> Tensor:
    """cos and sin of the angle by which pair j of position s is turned: S x K/2 x 2."""
    half = shape.key_size // 2
    frequency = _ROTARY_BASE ** (-torch.arange(half, device=device) / half)
    angle = torch.arange(shape.sequence, device=device)[:, None] * frequency
    return torch.stack([angle.cos(), angle.sin()], dim=-1)


def _rotate(t: Tensor, rotation_SxKx2: Tensor) -> Tensor:
    """Turns the pairs (2 j, 2 j + 1) of the last axis; t: (..., S, K)."""
    cos, sin = rotation_SxKx2.to(t.dtype).unbind(-1)
    a, b = t.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)


def plain_attention(h: Tensor, q: Tensor, kv: Tensor, out: Tensor, shape: Attention) -> Tensor:
    """h at the tokens read + causal self-attention of norm(h), Vaswani et al. 2017, equation 1.

    Args:
        h: R x (B S) x D; q: R x D x (H K); kv: R x D x (2 H K), keys first; out: R x (H K) x D.
    Returns:
        R x (B ceil(S / stride)) x D.
    """
    normed = F.layer_norm(h, h.shape[-1:], eps=_EPSILON)
    [query] = shape.split(torch.bmm(shape.read(normed), q), 1)
    key, value = shape.split(torch.bmm(normed, kv), 2)
    if shape.rotary:
        rotation_SxKx2 = _rotation_SxKx2(shape, h.device)
        query = _rotate(query, rotation_SxKx2[:: shape.stride])
        key = _rotate(key, rotation_SxKx2)
    if shape.stride == 1:
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    else:
        mask_QxS = _mask_QxS(shape, h.device).to(query.dtype)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask_QxS)
    return shape.read(h) + torch.bmm(shape.merge(mixed[None], h.shape[0]), out)


def plain_mlp(h: Tensor, up: Tensor, bias: Tensor, down: Tensor) -> Tensor:
    """h + relu(norm(h) up + bias) down.

    Args:
        h: R x N x D; up: R x D x M; bias: R x 1 x M; down: R x M x D.
    """
    normed = F.layer_norm(h, h.shape[-1:], eps=_EPSILON)
    # Not baddbmm: under autocast that would round the residual stream to bf16.
    return h + torch.bmm(F.relu(torch.bmm(normed, up) + bias), down)


def attention(h: Tensor, q: Tensor, kv: Tensor, out: Tensor, shape: Attention) -> Tensor:
    """What `plain_attention` computes."""
    if _by_hand(h):
        return _AttentionOnCPU.apply(h, q, kv, out, shape)
    return plain_attention(h, q, kv, out, shape)


def mlp(h: Tensor, up: Tensor, bias: Tensor, down: Tensor) -> Tensor:
    """What `plain_mlp` computes."""
    return _MLPOnCPU.apply(h, up, bias, down) if _by_hand(h) else plain_mlp(h, up, bias, down)


def _by_hand(h: Tensor) -> bool:
    on_cpu = h.device.type == "cpu" and h.dtype == torch.float32
    return on_cpu and not torch.is_autocast_enabled("cpu")


def _norm(h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.native_layer_norm(h, h.shape[-1:], None, None, _EPSILON)


def _norm_backward(grad: Tensor, h: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    return torch.ops.aten.native_layer_norm_backward(
        grad, h, h.shape[-1:], mean, rstd, None, None, [True, False, False]
    )[0]


class _MLPOnCPU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, h: Tensor, up: Tensor, bias: Tensor, down: Tensor) -> Tensor:
        normed, mean, rstd = _norm(h)
        hidden = torch.bmm(normed, up).add_(bias).relu_()
        ctx.save_for_backward(h, mean, rstd, normed, hidden, up, down)
        return torch.baddbmm(h, hidden, down)

    @staticmethod
    def backward(ctx, grad: Tensor):
        h, mean, rstd, normed, hidden, up, down = ctx.saved_tensors
        grad_down = torch.bmm(hidden.transpose(1, 2), grad)
        grad_hidden = torch.bmm(grad, down.transpose(1, 2))
        torch.ops.aten.threshold_backward.grad_input(grad_hidden, hidden, 0, grad_input=grad_hidden)
        grad_bias = grad_hidden.sum(dim=1, keepdim=True)
        grad_up = torch.bmm(normed.transpose(1, 2), grad_hidden)
        grad_normed = torch.bmm(grad_hidden, up.transpose(1, 2))
        grad_h = _norm_backward(grad_normed, h, mean, rstd).add_(grad)
        return grad_h, grad_up, grad_bias, grad_down


class _AttentionOnCPU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, h: Tensor, q: Tensor, kv: Tensor, out: Tensor, shape: Attention) -> Tensor:
        R, S, K = h.shape[0], shape.sequence, shape.key_size
        normed, mean, rstd = _norm(h)
        read = shape.read(normed)
        query = shape.split(torch.bmm(read, q), 1).contiguous()
        key_value = shape.split(torch.bmm(normed, kv), 2).contiguous()
        _turn(query, shape, conjugate=False, scale=1.0 / math.sqrt(K))
        _turn(key_value[:1], shape, conjugate=False)
        query = query.view(-1, query.shape[3], K)
        key, value = key_value.view(2, -1, S, K)
        p = torch.bmm(query, key.transpose(1, 2)).add_(_mask_QxS(shape, h.device))
        torch.softmax(p, dim=-1, out=p)
        mixed = torch.bmm(p, value).view(1, -1, shape.heads, query.shape[1], K)
        merged = shape.merge(mixed, R)
        ctx.shape = shape
        ctx.save_for_backward(h, mean, rstd, normed, query, key_value, p, merged, q, kv, out)
        return torch.baddbmm(shape.read(h), merged, out)

    @staticmethod
    def backward(ctx, grad: Tensor):
        shape = ctx.shape
        h, mean, rstd, normed, query, key_value, p, merged, q, kv, out = ctx.saved_tensors
        R, K = h.shape[0], shape.key_size
        key, value = key_value.view(2, -1, shape.sequence, K)
        grad_out = torch.bmm(merged.transpose(1, 2), grad)
        grad_mixed = shape.split(torch.bmm(grad, out.transpose(1, 2)), 1).contiguous()
        grad_mixed = grad_mixed.view(query.shape)

        grad_p = torch.bmm(grad_mixed, value.transpose(1, 2))
        grad_scores = torch._softmax_backward_data(grad_p, p, -1, p.dtype, grad_input=grad_p)
        grad_query = torch.bmm(grad_scores, key).view(1, -1, shape.heads, *query.shape[1:])
        grad_key_value = torch.empty_like(key_value)
        grad_key, grad_value = grad_key_value.view(2, -1, shape.sequence, K)
        torch.bmm(grad_scores.transpose(1, 2), query, out=grad_key)
        torch.bmm(p.transpose(1, 2), grad_mixed, out=grad_value)
        _turn(grad_query, shape, conjugate=True, scale=1.0 / math.sqrt(K))
        _turn(grad_key_value[:1], shape, conjugate=True)

        merged_query, merged_kv = shape.merge(grad_query, R), shape.merge(grad_key_value, R)
        grad_q = torch.bmm(shape.read(normed).transpose(1, 2), merged_query)
        grad_kv = torch.bmm(normed.transpose(1, 2), merged_kv)
        grad_normed = torch.bmm(merged_kv, kv.transpose(1, 2))
        _add_at(grad_normed, torch.bmm(merged_query, q.transpose(1, 2)), shape)
        grad_h = _norm_backward(grad_normed, h, mean, rstd)
        _add_at(grad_h, grad, shape)
        return grad_h, grad_q, grad_kv, grad_out, None


def _turn(t: Tensor, shape: Attention, conjugate: bool, scale: float = 1.0) -> None:
    """In place: rotates t (..., Q or S, K) by its positions, or back, if `shape` has rotary
    positions, and multiplies by `scale`."""
    if not shape.rotary:
        if scale != 1.0:
            t.mul_(scale)
        return
    factor = torch.view_as_complex(_rotation_SxKx2(shape, t.device))
    if t.shape[-2] != shape.sequence:
        factor = factor[:: shape.stride]
    factor = factor.conj() if conjugate else factor
    pairs = torch.view_as_complex(t.unflatten(-1, (-1, 2)))
    pairs.mul_((factor * scale).resolve_conj())


def _add_at(total_RxNxD: Tensor, part: Tensor, shape: Attention) -> None:
    """total += part at the tokens read."""
    if shape.stride == 1:
        total_RxNxD.add_(part)
    else:
        target = total_RxNxD.unflatten(1, (-1, shape.sequence))[:, :, :: shape.stride]
        target.add_(part.view(target.shape))
