"""The attention block in one kernel each way. A whole sequence stays on the chip, from the layer
norm to the residual sum.

The queries, keys and values of L = 100 tokens and 8 heads of 32 are 76,800 numbers a sequence,
whatever the model's width D. At widths up to 64, writing and reading them is most of what the block
costs when its parts are separate kernels. Here one program has a sequence and computes them head
after head from the normed tokens; only h, y and the weights are in device memory. The backward pass
starts from h again, and nothing else is kept.

This is what B = 512, L = 100 (a tile of 128), 8 heads of K = 32 and 4 layers cost, a replica and
step:

- Products. The forward pass has 4 projections of 2 L D K and 2 products of 2 L L K a sequence and
  head; the backward pass has 11 and 6. L is padded to 128, and D to at least 16. The forward pass
  takes two blocks of queries, which look at 64 and 128 keys (3/4 of the products, 5/4 of the
  projections). That is 2.2 + 7.7 MFLOP at D = 16, and 4.2 + 12.1 at D = 64. Times 512 x 8 x 4 it is
  0.16 TFLOP at D = 16 and 0.27 at D = 64: 0.21 and 0.34 ms at 790 TFLOP/s, half the rate in tf32.
- Everything else. Compiled for sm_90 in bf16 at D = 16, a head of the backward pass is some 1,900
  instructions of 8 warps. These take 3,800 clocks of a multiprocessor's four schedulers, besides
  1,800 of products, which wait for some of them. A head of the forward pass takes 1,500 and 500,
  with several programs side by side. A multiprocessor has 31 sequences' heads a layer, which makes
  0.4 to 0.6 ms backward and 0.1 to 0.15 forward. The 4.7e8 exponentials are among these; on units
  that do 16 a clock and multiprocessor they take 0.12 ms.
- Bytes of device memory. The forward pass moves h and y, the backward pass h, dy and dh:
  5 x 512 x 100 x D x 4 bytes, 66 MB a layer at D = 64, take 0.06 ms for 4 layers. A program keeps
  the sum of its sequences' gradients of the weights in a buffer of 16 D H K bytes, which is read
  and written once a sequence through L2: 0.27 GB a layer at D = 64 take 0.2 ms for 4 layers, and
  D = 16 takes a quarter of that.

So instructions are the limit at D <= 32: 0.5 to 0.75 ms. At D = 64 the instructions, the products
and the buffers cost about the same: 0.8 to 1.1 ms. The backward pass takes all 255 registers that
a thread may have, so a multiprocessor has one program of 8 warps.

The weights' gradients are summed in a fixed order: a program adds those of its own sequences one
after another, and one `torch.sum` adds the programs' buffers. There are no atomics. Results repeat
bit by bit and don't depend on how many replicas there are.

The twin is `core.architectures.blocks.plain_attention`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from metaphase.core.devices import current
from metaphase.core.fast_paths import Twin
from metaphase.core.kernels import operations
from metaphase.core.kernels.attention_shape import AttentionShape, rotation_table
from metaphase.core.kernels.cuda.common import (
    DOTS,
    FIRST_CAPABILITY,
    Precision,
    check_on_device,
    dot,
    limits,
    normalized,
    normalized_backward,
    operand,
    padded,
    replica_rows,
)

MAX_SEQUENCE, MAX_WIDTH = 128, 64  # tokens; width of the model, and of a key

_MUCH_SHARED = 209 * 1024  # bytes that the backward pass takes at L = 100 in tf32, compiled
_EPSILON = tl.constexpr(operations.EPSILON)
LN_2 = tl.constexpr(math.log(2.0))


@dataclass(frozen=True)
class Tiles:
    """Constants of the kernels that change their speed and nothing else.

    Attributes:
        queries: how many a block of the forward pass has; a block only looks at the keys up to its
            end.
        warps_forward, warps_backward: how many a program has.
        stages: 2 loads a head's weights while the head before computes.
        sequences: how many a program of the backward pass has; None means the batch over 128, so
            that one replica has programs for every multiprocessor.
    """

    queries: int = 64
    warps_forward: int = 4
    warps_backward: int = 8
    stages: int = 1
    sequences: int | None = None


@triton.jit
def rotated(
    t, rotation, s, k, L, K, SIGN: tl.constexpr, PRECISION: tl.constexpr
):  # fmt: skip
    """Compute `core.architectures.blocks._rotate` of rows at the positions s; SIGN -1 rotates back.

    The pairs change places (2 j gets minus what 2 j + 1 has) in a product with a matrix of 0 and
    +-1: moving them between registers takes layouts that the compiler fails at in tf32.
    """
    inside = (s < L)[:, None] & (k < K)[None, :]
    at = rotation + s[:, None] * K + (k // 2 * 2)[None, :]
    cos, sin = tl.load(at, mask=inside, other=0.0), tl.load(at + 1, mask=inside, other=0.0)
    partner = k[:, None] == (k ^ 1)[None, :]
    swap = tl.where(partner, (k % 2 * 2 - 1)[None, :].to(tl.float32), 0.0)
    return t * cos + dot(t, swap, PRECISION) * (sin * SIGN)


@triton.jit
def _columns(weight, row_length, first, d, k, inside):
    """Load a head's columns of a weight D x row_length, as BLOCK_D x BLOCK_K."""
    return tl.load(weight + d[:, None] * row_length + first + k[None, :], mask=inside, other=0.0)


@triton.jit
def _weights(r, head, q, kv, out, q_row, kv_row, out_row, d, k, D, K, HK):
    """Load a head's four weights of replica r: those of queries, keys and values are D x K, that of
    its output is K x D."""
    inside = (d < D)[:, None] & (k < K)[None, :]
    w_q = _columns(q + r * q_row, HK, head * K, d, k, inside)
    w_k = _columns(kv + r * kv_row, 2 * HK, head * K, d, k, inside)
    w_v = _columns(kv + r * kv_row, 2 * HK, HK + head * K, d, k, inside)
    at = out + r * out_row + (head * K + k[:, None]) * D + d[None, :]
    w_o = tl.load(at, mask=(k < K)[:, None] & (d < D)[None, :], other=0.0)
    return w_q, w_k, w_v, w_o


@triton.jit
def _tokens(h, first, s, d, L, D):
    """Load the rows `first` + s of h; they are 0 where there are none."""
    inside = (s < L)[:, None] & (d < D)[None, :]
    return tl.load(h + (first + s[:, None]) * D + d[None, :], mask=inside, other=0.0)


@triton.jit
def _forward_block(
    y, h, q, kv, out, rotation, r, sequence, M0: tl.constexpr,
    L, D, K, HEADS, q_row, kv_row, out_row, scale,
    STRIDE: tl.constexpr, ROTARY: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Compute the outputs at the tokens M0 ... M0 + BLOCK_M, which see the first BLOCK_N."""
    m, n = M0 + tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N)
    d, k = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_K)
    first = sequence * L
    in_width = (d < D)[None, :]
    tokens = _tokens(h, first, m, d, L, D)
    normed_m = operand(normalized(tokens, D, in_width, _EPSILON)[0], PRECISION)
    normed_n = operand(
        normalized(_tokens(h, first, n, d, L, D), D, in_width, _EPSILON)[0], PRECISION
    )
    seen = n[None, :] <= m[:, None]
    sums = tokens
    for head in range(HEADS):
        w_q, w_k, w_v, w_o = _weights(
            r, head, q, kv, out, q_row, kv_row, out_row, d, k, D, K, HEADS * K
        )
        query, key = dot(normed_m, w_q, PRECISION), dot(normed_n, w_k, PRECISION)
        if ROTARY:
            query = rotated(query, rotation, m, k, L, K, 1.0, PRECISION)
            key = rotated(key, rotation, n, k, L, K, 1.0, PRECISION)
        value = operand(dot(normed_n, w_v, PRECISION), PRECISION)
        scores = dot(query * scale, tl.trans(operand(key, PRECISION)), PRECISION)
        scores = tl.where(seen, scores, float("-inf"))
        share = tl.exp2(scores - tl.max(scores, 1)[:, None])
        mixed = dot(share, value, PRECISION) * (1.0 / tl.sum(share, 1))[:, None]
        sums += dot(mixed, w_o, PRECISION)
    outputs = (L + STRIDE - 1) // STRIDE
    read = (m < L) & (m % STRIDE == 0)
    at = y + (sequence * outputs + m[:, None] // STRIDE) * D + d[None, :]
    tl.store(at, sums, mask=read[:, None] & in_width)


@triton.jit
def _forward(
    y, h, q, kv, out, rotation,
    L, D, K, HEADS, B, q_row, kv_row, out_row, scale,
    STRIDE: tl.constexpr, ROTARY: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_L: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    sequence = tl.program_id(0).to(tl.int64)
    r = sequence // B
    for block in tl.static_range(BLOCK_L // BLOCK_M):
        # As many keys as the block sees, rounded up to a power of 2.
        _forward_block(
            y, h, q, kv, out, rotation, r, sequence, block * BLOCK_M,
            L, D, K, HEADS, q_row, kv_row, out_row, scale,
            STRIDE, ROTARY, PRECISION, BLOCK_M,
            BLOCK_M if block == 0 else (2 * BLOCK_M if block == 1 else BLOCK_L),
            BLOCK_D, BLOCK_K,
        )  # fmt: skip


@triton.jit
def _add(at, value, inside, fresh):
    """Add to a program's own buffer. If the buffer is fresh, nothing has been written to it."""
    before = tl.load(at, mask=inside & (fresh == 0), other=0.0)
    tl.store(at, before + value, mask=inside)


@triton.jit
def _backward(
    d_h, d_weights, d_y, h, q, kv, out, rotation,
    L, D, K, HEADS, B, SEQUENCES, q_row, kv_row, out_row, scale,
    STRIDE: tl.constexpr, ROTARY: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_L: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    programs = tl.cdiv(B, SEQUENCES)  # of a replica
    r = program // programs
    begin = (program % programs) * SEQUENCES
    HK = HEADS * K
    s, d, k = tl.arange(0, BLOCK_L), tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_K)
    in_width = (d < D)[None, :]
    in_weight = (d < D)[:, None] & (k < K)[None, :]
    seen = s[None, :] <= s[:, None]
    read = (s < L) & (s % STRIDE == 0)
    outputs = (L + STRIDE - 1) // STRIDE
    # A program's buffer: gradients of q, kv and out, each as the weight is.
    d_q = d_weights + program * (4 * D * HK)
    d_kv, d_out = d_q + D * HK, d_q + 3 * D * HK

    for b in range(begin, tl.minimum(begin + SEQUENCES, B)):
        sequence = r * B + b
        fresh = (b == begin).to(tl.int32)
        normed, _ = normalized(_tokens(h, sequence * L, s, d, L, D), D, in_width, _EPSILON)
        normed = operand(normed, PRECISION)
        at_y = d_y + (sequence * outputs + s[:, None] // STRIDE) * D + d[None, :]
        grad = operand(tl.load(at_y, mask=read[:, None] & in_width, other=0.0), PRECISION)
        d_normed = tl.zeros((BLOCK_L, BLOCK_D), tl.float32)
        for head in range(HEADS):
            w_q, w_k, w_v, w_o = _weights(
                r, head, q, kv, out, q_row, kv_row, out_row, d, k, D, K, HK
            )
            query, key = dot(normed, w_q, PRECISION), dot(normed, w_k, PRECISION)
            if ROTARY:
                query = rotated(query, rotation, s, k, L, K, 1.0, PRECISION)
                key = rotated(key, rotation, s, k, L, K, 1.0, PRECISION)
            query, key = operand(query * scale, PRECISION), operand(key, PRECISION)
            value = operand(dot(normed, w_v, PRECISION), PRECISION)
            scores = tl.where(seen, dot(query, tl.trans(key), PRECISION), float("-inf"))
            share = tl.exp2(scores - tl.max(scores, 1)[:, None])
            share = operand(share * (1.0 / tl.sum(share, 1))[:, None], PRECISION)

            mixed = dot(share, value, PRECISION)
            at = d_out + (head * K + k[:, None]) * D + d[None, :]
            d_w = dot(tl.trans(operand(mixed, PRECISION)), grad, PRECISION)
            _add(at, d_w, (k < K)[:, None] & in_width, fresh)
            d_mixed = operand(dot(grad, tl.trans(w_o), PRECISION), PRECISION)
            # The product of share with its gradient, row by row, from the same rounded numbers.
            along = tl.sum(d_mixed.to(tl.float32) * mixed, 1)

            d_value = dot(tl.trans(share), d_mixed, PRECISION)
            d_value = operand(d_value, PRECISION)
            d_normed += dot(d_value, tl.trans(w_v), PRECISION)
            at = d_kv + d[:, None] * (2 * HK) + head * K + k[None, :]
            _add(at + HK, dot(tl.trans(normed), d_value, PRECISION), in_weight, fresh)

            d_share = dot(d_mixed, tl.trans(value), PRECISION)
            d_scores = operand(share.to(tl.float32) * (d_share - along[:, None]), PRECISION)
            # scores = (query scale) key / ln 2: exponentials are of base 2
            d_query = dot(d_scores, key, PRECISION) * (scale * LN_2)
            d_key = dot(tl.trans(d_scores), query, PRECISION) * LN_2
            if ROTARY:
                d_query = rotated(d_query, rotation, s, k, L, K, -1.0, PRECISION)
                d_key = rotated(d_key, rotation, s, k, L, K, -1.0, PRECISION)
            d_query, d_key = operand(d_query, PRECISION), operand(d_key, PRECISION)
            d_normed += dot(d_query, tl.trans(w_q), PRECISION)
            d_normed += dot(d_key, tl.trans(w_k), PRECISION)
            _add(at, dot(tl.trans(normed), d_key, PRECISION), in_weight, fresh)
            at = d_q + d[:, None] * HK + head * K + k[None, :]
            _add(at, dot(tl.trans(normed), d_query, PRECISION), in_weight, fresh)
        # Both are loaded again, in float32, rather than kept.
        normed, inverse = normalized(_tokens(h, sequence * L, s, d, L, D), D, in_width, _EPSILON)
        d_tokens = normalized_backward(d_normed, normed, inverse, D)
        d_tokens += tl.load(at_y, mask=read[:, None] & in_width, other=0.0)
        at = d_h + (sequence * L + s[:, None]) * D + d[None, :]
        tl.store(at, d_tokens, mask=(s < L)[:, None] & in_width)
        tl.debug_barrier()  # the next sequence's threads may add where other threads did


def supports(h: Tensor, shape: AttentionShape, precision: Precision) -> bool:
    """Return whether `fused_attention` fits on the chip and is worth it. In float32 without matrix
    units it would run, but from spilled registers."""
    L, width, has = shape.tokens, max(h.shape[2], shape.key_size), limits(h.device)
    possible = L <= MAX_SEQUENCE and width <= MAX_WIDTH and has.capability >= FIRST_CAPABILITY
    short, much = L <= 64, has.shared >= _MUCH_SHARED
    fits = {"bf16": short or much or shape.key_size <= 32, "tf32": much and (short or width <= 32)}
    return possible and fits.get(precision, False)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        h: Tensor,
        q: Tensor,
        kv: Tensor,
        out: Tensor,
        shape: AttentionShape,
        precision: Precision,
        tiles: Tiles,
        twin: Twin | None = None,
    ) -> Tensor:
        h, q, kv, out = h.contiguous(), *map(replica_rows, (q, kv, out))
        rotation = rotation_table(shape, h.device).contiguous() if shape.rotary else None
        check_on_device(h, q, kv, out)
        R, N, D = h.shape
        B = N // shape.tokens
        y = torch.empty(R, B * -(-shape.tokens // shape.stride), D, device=h.device)
        ctx.save_for_backward(h, q, kv, out, rotation)
        ctx.shape, ctx.precision, ctx.tiles, ctx.twin = shape, precision, tiles, twin
        block_l = padded(shape.tokens)
        with current(h.device):
            _forward[(R * B,)](
                y, h, q, kv, out, rotation,
                *_sizes(shape, D, B), q.stride(0), kv.stride(0), out.stride(0), score_scale(shape),
                **_constants(shape, D, precision),
                BLOCK_M=min(block_l, tiles.queries), num_warps=tiles.warps_forward,
                num_stages=tiles.stages,
            )  # fmt: skip
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        [d_y] = grads
        try:
            results = _Attention._gradients(ctx, d_y)
        except Exception as error:
            if ctx.twin is None:
                raise
            bf16 = ctx.precision == "bf16"
            results = ctx.twin.gradients(ctx.saved_tensors[:4], d_y, bf16, error)
        return *results, None, None, None, None

    @staticmethod
    def _gradients(ctx: Any, d_y: Tensor) -> tuple[Tensor, ...]:
        h, q, kv, out, rotation = ctx.saved_tensors
        shape, tiles = ctx.shape, ctx.tiles
        R, N, D = h.shape
        B, HK = N // shape.tokens, shape.heads * shape.key_size
        sequences = tiles.sequences or max(1, B // 128)
        programs = -(-B // sequences)
        d_h = torch.empty_like(h)
        d_weights = torch.empty(R, programs, 4 * D * HK, device=h.device)
        with current(h.device):
            _backward[(R * programs,)](
                d_h, d_weights, d_y.contiguous(), h, q, kv, out, rotation,
                *_sizes(shape, D, B), sequences,
                q.stride(0), kv.stride(0), out.stride(0), score_scale(shape),
                **_constants(shape, D, ctx.precision),
                num_warps=tiles.warps_backward, num_stages=tiles.stages,
            )  # fmt: skip
        d_q, d_kv, d_out = d_weights.sum(dim=1).split([D * HK, 2 * D * HK, D * HK], dim=1)
        return d_h, d_q.view(q.shape), d_kv.view(kv.shape), d_out.view(out.shape)


def _sizes(shape: AttentionShape, D: int, B: int) -> tuple[int, ...]:
    return shape.tokens, D, shape.key_size, shape.heads, B


def score_scale(shape: AttentionShape) -> float:
    """Return what products of queries and keys are times: 1 / (sqrt(K) ln 2)."""
    return shape.key_size**-0.5 * math.log2(math.e)


def _constants(shape: AttentionShape, D: int, precision: Precision) -> dict[str, Any]:
    return {
        "STRIDE": shape.stride,
        "ROTARY": shape.rotary,
        "PRECISION": DOTS[precision],
        "BLOCK_L": padded(shape.tokens),
        "BLOCK_D": padded(D),
        "BLOCK_K": padded(shape.key_size),
    }


def fused_attention(
    h: Tensor,
    q: Tensor,
    kv: Tensor,
    out: Tensor,
    shape: AttentionShape,
    precision: Precision = "bf16",
    tiles: Tiles = Tiles(),
    twin: Twin | None = None,
) -> Tensor:
    """Compute `core.architectures.blocks.plain_attention`, of shapes that `supports` takes.

    Args:
        precision: that of the operands of all products; all else is always float32.
        twin: what computes the gradients if the kernel can't; None: its error is raised.
    """
    return _Attention.apply(h.float(), q, kv, out, shape, precision, tiles, twin)
