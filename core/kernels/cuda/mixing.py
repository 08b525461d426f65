"""Attention's mixing of a short sequence's values, all heads' queries, keys and values beside one
another in one matrix, and their gradients too.

A program has a head of a sequence, whose tokens are all on the chip. Flash attention as PyTorch has
it writes three matrices of gradients, which are copied into one before the products that follow:
half of what its backward pass moves, 3 HK numbers a token read and written once more. Of 100 tokens
a head's scores fit into the registers of 8 warps, so that nothing is kept from the forward pass.

B = 512 sequences of L = 100 tokens (a tile of 128) and 8 heads of K = 32 are 4,096 programs a layer
and replica. The forward pass takes two blocks of queries, which look at 64 and 128 keys: 2 products
of 2 x 3/4 x 128 x 128 x 32 a program, 1.6 MFLOP; the backward pass 5 whole ones, 5.2 MFLOP. In bf16
forward and backward passes move 8 and 14 HK bytes a token, 0.1 and 0.18 GB.

The plain twin is `core.architectures.blocks.plain_attention`, of which this is the middle.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from metaphase.core.devices import current
from metaphase.core.kernels.attention_shape import AttentionShape, rotation_table
from metaphase.core.kernels.cuda.attention import LN_2, rotated, score_scale
from metaphase.core.kernels.cuda.common import (
    DOTS,
    FIRST_CAPABILITY,
    Precision,
    check_on_device,
    dot,
    limits,
    operand,
    padded,
    store,
)

MAX_SEQUENCE, MAX_KEY = 128, 64

# Bytes that the backward pass takes, compiled, the most on any GPU: of keys of up to 32 and of up
# to 64 numbers. Of up to 64 tokens it is at most half of that.
_SHARED = {"bf16": (64 * 1024, 96 * 1024), "tf32": (184_320, 249_856)}
_QUERIES = 64  # of a block of the forward pass


@triton.jit
def _load(qkv, rotation, first, part, s, k, L, K, HEADS, head, ROTARY: tl.constexpr,
          PRECISION: tl.constexpr):  # fmt: skip
    """Load a head's rows `first` + s of part 0 (queries), 1 (keys) or 2 (values); 0 where there are
    none."""
    inside = (s < L)[:, None] & (k < K)[None, :]
    at = (first + s[:, None]) * (3 * HEADS * K) + (part * HEADS + head) * K + k[None, :]
    t = tl.load(qkv + at, mask=inside, other=0.0)
    if ROTARY:
        t = rotated(t.to(tl.float32), rotation, s, k, L, K, 1.0, PRECISION)
    return t


@triton.jit
def _mix_block(
    mixed, qkv, rotation, sequence, head, M0: tl.constexpr, L, K, HEADS, scale,
    ROTARY: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Compute a head's outputs at the tokens M0 ... M0 + BLOCK_M, which see the first BLOCK_N."""
    m, n, k = M0 + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    first = sequence * L
    query = _load(qkv, rotation, first, 0, m, k, L, K, HEADS, head, ROTARY, PRECISION)
    key = _load(qkv, rotation, first, 1, n, k, L, K, HEADS, head, ROTARY, PRECISION)
    value = _load(qkv, rotation, first, 2, n, k, L, K, HEADS, head, False, PRECISION)
    scores = dot(query, tl.trans(operand(key, PRECISION)), PRECISION) * scale
    scores = tl.where(n[None, :] <= m[:, None], scores, float("-inf"))
    share = tl.exp2(scores - tl.max(scores, 1)[:, None])
    result = dot(share, value, PRECISION) * (1.0 / tl.sum(share, 1))[:, None]
    at = (first + m[:, None]) * (HEADS * K) + head * K + k[None, :]
    store(mixed + at, result, (m < L)[:, None] & (k < K)[None, :])


@triton.jit
def _mix(
    mixed, qkv, rotation, L, K, HEADS, scale, ROTARY: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_L: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    for block in tl.static_range(BLOCK_L // BLOCK_M):
        # As many keys as the block sees, rounded up to a power of 2.
        _mix_block(
            mixed, qkv, rotation, program // HEADS, program % HEADS, block * BLOCK_M,
            L, K, HEADS, scale, ROTARY, PRECISION, BLOCK_M,
            BLOCK_M if block == 0 else BLOCK_L, BLOCK_K,
        )  # fmt: skip


@triton.jit
def _mix_backward(
    d_qkv, d_mixed, qkv, rotation, L, K, HEADS, scale,
    ROTARY: tl.constexpr, PRECISION: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    first, head = program // HEADS * L, program % HEADS
    s, k = tl.arange(0, BLOCK_L), tl.arange(0, BLOCK_K)
    inside = (s < L)[:, None] & (k < K)[None, :]
    query = _load(qkv, rotation, first, 0, s, k, L, K, HEADS, head, ROTARY, PRECISION)
    key = _load(qkv, rotation, first, 1, s, k, L, K, HEADS, head, ROTARY, PRECISION)
    value = _load(qkv, rotation, first, 2, s, k, L, K, HEADS, head, False, PRECISION)
    query, key = operand(query, PRECISION), operand(key, PRECISION)
    at = (first + s[:, None]) * (HEADS * K) + head * K + k[None, :]
    grad = tl.load(d_mixed + at, mask=inside, other=0.0)
    scores = dot(query, tl.trans(key), PRECISION) * scale
    scores = tl.where(s[None, :] <= s[:, None], scores, float("-inf"))
    share = tl.exp2(scores - tl.max(scores, 1)[:, None])
    share = share * (1.0 / tl.sum(share, 1))[:, None]
    d_share = dot(grad, tl.trans(value), PRECISION)
    d_scores = share * (d_share - tl.sum(share * d_share, 1)[:, None])
    d_value = dot(tl.trans(operand(share, PRECISION)), grad, PRECISION)
    # scores = query key scale, scale = 1 / (sqrt(K) ln 2): exponentials are of base 2.
    d_scores = operand(d_scores, PRECISION)
    d_query = dot(d_scores, key, PRECISION) * (scale * LN_2)
    d_key = dot(tl.trans(d_scores), query, PRECISION) * (scale * LN_2)
    if ROTARY:
        d_query = rotated(d_query, rotation, s, k, L, K, -1.0, PRECISION)
        d_key = rotated(d_key, rotation, s, k, L, K, -1.0, PRECISION)
    at = (first + s[:, None]) * (3 * HEADS * K) + head * K + k[None, :]
    store(d_qkv + at, d_query, inside)
    store(d_qkv + at + HEADS * K, d_key, inside)
    store(d_qkv + at + 2 * HEADS * K, d_value, inside)


def supports(device: torch.device, shape: AttentionShape, precision: Precision) -> bool:
    """Return whether `mix` fits on the chip, of outputs at all tokens."""
    has = limits(device)
    short = shape.tokens <= MAX_SEQUENCE and shape.key_size <= MAX_KEY and shape.stride == 1
    if not short or has.capability < FIRST_CAPABILITY:
        return False
    if precision not in _SHARED:
        return False
    needed = _SHARED[precision][shape.key_size > 32]
    return has.shared >= (needed if shape.tokens > 64 else needed // 2)


def mix(qkv: Tensor, shape: AttentionShape, precision: Precision) -> Tensor:
    """Return softmax(q k^T / sqrt(K)) v, causal, of all heads: R x BL x HK from R x BL x 3HK, in
    the same type."""
    check_on_device(qkv)
    R, N, _ = qkv.shape
    mixed = torch.empty(R, N, shape.heads * shape.key_size, dtype=qkv.dtype, device=qkv.device)
    with current(qkv.device):
        _mix[(R * N // shape.tokens * shape.heads,)](
            mixed, qkv, *_arguments(shape, qkv.device), **_constants(shape, precision),
            BLOCK_M=min(padded(shape.tokens), _QUERIES),
            num_warps=4 if shape.key_size <= 32 else 8,
        )  # fmt: skip
    return mixed


def mix_backward(
    d_mixed: Tensor, qkv: Tensor, shape: AttentionShape, precision: Precision
) -> Tensor:
    """Return the gradient by queries, keys and values, R x BL x 3HK."""
    check_on_device(d_mixed, qkv)
    R, N, _ = qkv.shape
    d_qkv = torch.empty_like(qkv)
    with current(qkv.device):
        _mix_backward[(R * N // shape.tokens * shape.heads,)](
            d_qkv, d_mixed, qkv, *_arguments(shape, qkv.device), **_constants(shape, precision),
            num_warps=8,
        )  # fmt: skip
    return d_qkv


def _arguments(shape: AttentionShape, device: torch.device) -> tuple[Any, ...]:
    rotation = rotation_table(shape, device).contiguous() if shape.rotary else None
    return rotation, shape.tokens, shape.key_size, shape.heads, score_scale(shape)


def _constants(shape: AttentionShape, precision: Precision) -> dict[str, Any]:
    return {
        "ROTARY": shape.rotary,
        "PRECISION": DOTS[precision],
        "BLOCK_L": padded(shape.tokens),
        "BLOCK_K": padded(shape.key_size),
    }
