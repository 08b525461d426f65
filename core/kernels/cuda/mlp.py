"""The MLP block in one kernel each way. Its hidden units are never in device memory.

A program has a tile of tokens, for which it computes the layer norm, the product with `up`, bias,
relu, the product with `down` and the residual sum. The backward pass starts from h again: a program
goes through several tiles of one replica, 64 hidden units at a time, keeps the sums of their
weights' gradients in registers, and writes each sum once. There are no atomics, and the order of
the sums is fixed: it doesn't depend on how many replicas there are.

This is what 51,200 tokens (512 x 100), M = 4 D hidden units and 4 layers cost, a replica and step.
2 products forward and 5 backward of 2 D M a token are 47 GFLOP at D = 64, 0.06 ms at 790 TFLOP/s in
bf16. The forward pass moves h and y, the backward pass h, dy and dh, in float32: 5 x 51,200 x D x 4
bytes a layer, 0.26 GB at D = 64, 0.06 ms at 4.3 TB/s. The backward pass moves them once more for
each 64 units after the first, mostly through L2. Written and read as usual, the hidden units would
be ten times 51,200 x M x 4 bytes a layer, 0.5 GB. Tiles this small reach a third of those rates at
best, which makes 0.2 to 0.3 ms at D = 64.

The twin is `core.architectures.blocks.plain_mlp`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from metaphase.core.devices import current
from metaphase.core.fast_paths import Twin
from metaphase.core.kernels import operations
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
    relu,
    replica_rows,
)

MAX_WIDTH = 64

_TF32_SHARED = 132 * 1024  # bytes that the backward pass takes at D = 64 in tf32, compiled
_EPSILON = tl.constexpr(operations.EPSILON)


@dataclass(frozen=True)
class Tiles:
    """Constants of the kernels that change their speed and nothing else.

    Attributes:
        tokens_forward, tokens_backward: how many a tile has.
        hidden_forward, hidden_backward: how many hidden units are computed at a time.
        warps_forward, warps_backward: how many a program has.
        programs: about how many a replica has in the backward pass.
    """

    tokens_forward: int = 64
    tokens_backward: int = 64
    hidden_forward: int = 64
    hidden_backward: int = 64
    warps_forward: int = 4
    warps_backward: int = 8
    programs: int = 128


@triton.jit
def _weights(up, bias, down, r, up_row, bias_row, down_row, d, m, D, M):
    """Load the weights of the hidden units m of replica r: D x M, M and M x D; 0 where padded."""
    in_width, in_hidden = d < D, m < M
    at = up + r * up_row + d[:, None] * M + m[None, :]
    w_up = tl.load(at, mask=in_width[:, None] & in_hidden[None, :], other=0.0)
    w_bias = tl.load(bias + r * bias_row + m, mask=in_hidden, other=0.0)
    at = down + r * down_row + m[:, None] * D + d[None, :]
    w_down = tl.load(at, mask=in_hidden[:, None] & in_width[None, :], other=0.0)
    return w_up, w_bias, w_down


@triton.jit
def _forward(
    y, h, up, bias, down, N, D, M, up_row, bias_row, down_row,
    PRECISION: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(N, BLOCK_N)  # of a replica
    r = (tl.program_id(0) // tiles).to(tl.int64)
    n = (tl.program_id(0) % tiles) * BLOCK_N + tl.arange(0, BLOCK_N)
    d = tl.arange(0, BLOCK_D)
    inside = (n < N)[:, None] & (d < D)[None, :]
    at = (r * N + n[:, None]) * D + d[None, :]
    tokens = tl.load(h + at, mask=inside, other=0.0)
    normed = operand(normalized(tokens, D, (d < D)[None, :], _EPSILON)[0], PRECISION)
    sums = tokens
    for m0 in range(0, M, BLOCK_M):
        m = m0 + tl.arange(0, BLOCK_M)
        w_up, w_bias, w_down = _weights(up, bias, down, r, up_row, bias_row, down_row, d, m, D, M)
        hidden = relu(dot(normed, w_up, PRECISION) + w_bias[None, :])
        sums += dot(hidden, w_down, PRECISION)
    tl.store(y + at, sums, mask=inside)


@triton.jit
def _backward(
    d_h, d_weights, d_y, h, up, bias, down, N, D, M, PROGRAMS, TILES, up_row, bias_row, down_row,
    PRECISION: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    r = program // PROGRAMS
    begin = (program % PROGRAMS) * TILES * BLOCK_N
    d = tl.arange(0, BLOCK_D)
    in_width = (d < D)[None, :]
    own = d_weights + program * (2 * D * M + M)  # a program's sums: of up, down, bias
    for m0 in range(0, M, BLOCK_M):
        m = m0 + tl.arange(0, BLOCK_M)
        in_hidden = m < M
        w_up, w_bias, w_down = _weights(up, bias, down, r, up_row, bias_row, down_row, d, m, D, M)
        w_up, w_down = operand(w_up, PRECISION), operand(w_down, PRECISION)
        d_up = tl.zeros((BLOCK_D, BLOCK_M), tl.float32)
        d_bias = tl.zeros((BLOCK_M,), tl.float32)
        d_down = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
        for n0 in range(begin, tl.minimum(begin + TILES * BLOCK_N, N), BLOCK_N):
            n = n0 + tl.arange(0, BLOCK_N)
            inside = (n < N)[:, None] & in_width
            at = (r * N + n[:, None]) * D + d[None, :]
            tokens = tl.load(h + at, mask=inside, other=0.0)
            grad = tl.load(d_y + at, mask=inside, other=0.0)
            normed, inverse = normalized(tokens, D, in_width, _EPSILON)
            normed_o, grad_o = operand(normed, PRECISION), operand(grad, PRECISION)
            hidden = dot(normed_o, w_up, PRECISION) + w_bias[None, :]
            active = operand(relu(hidden), PRECISION)
            d_down += dot(tl.trans(active), grad_o, PRECISION)
            d_hidden = tl.where(hidden <= 0.0, 0.0, dot(grad_o, tl.trans(w_down), PRECISION))
            d_bias += tl.sum(d_hidden, 0)
            d_hidden = operand(d_hidden, PRECISION)
            d_up += dot(tl.trans(normed_o), d_hidden, PRECISION)
            # Of these units; those before them left theirs in d_h.
            d_normed = tl.load(d_h + at, mask=inside & (m0 > 0), other=0.0)
            d_normed += dot(d_hidden, tl.trans(w_up), PRECISION)
            d_tokens = grad + normalized_backward(d_normed, normed, inverse, D)
            last = m0 + BLOCK_M >= M
            tl.store(d_h + at, tl.where(last, d_tokens, d_normed), mask=inside)
        at = own + d[:, None] * M + m[None, :]
        tl.store(at, d_up, mask=(d < D)[:, None] & in_hidden[None, :])
        at = own + D * M + m[:, None] * D + d[None, :]
        tl.store(at, d_down, mask=in_hidden[:, None] & in_width)
        tl.store(own + 2 * D * M + m, d_bias, mask=in_hidden)
        tl.debug_barrier()  # the next units' threads may read what other threads left in d_h


def supports(h: Tensor, precision: Precision) -> bool:
    """Return whether `fused_mlp` fits on the chip and is worth it."""
    D, has = h.shape[2], limits(h.device)
    if D > MAX_WIDTH or has.capability < FIRST_CAPABILITY:
        return False
    if precision == "tf32":
        return D <= MAX_WIDTH // 2 or has.shared >= _TF32_SHARED
    return precision == "bf16"


class _MLP(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        h: Tensor,
        up: Tensor,
        bias: Tensor,
        down: Tensor,
        precision: Precision,
        tiles: Tiles,
        twin: Twin | None = None,
    ) -> Tensor:
        h, up, bias, down = h.contiguous(), *map(replica_rows, (up, bias, down))
        check_on_device(h, up, bias, down)
        R, N, D = h.shape
        M = up.shape[2]
        y = torch.empty_like(h)
        ctx.save_for_backward(h, up, bias, down)
        ctx.precision, ctx.tiles, ctx.twin = precision, tiles, twin
        block_n = min(tiles.tokens_forward, padded(N))
        with current(h.device):
            _forward[(R * triton.cdiv(N, block_n),)](
                y, h, up, bias, down, N, D, M, up.stride(0), bias.stride(0), down.stride(0),
                PRECISION=DOTS[precision], BLOCK_N=block_n, BLOCK_D=padded(D),
                BLOCK_M=min(tiles.hidden_forward, padded(M)), num_warps=tiles.warps_forward,
            )  # fmt: skip
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        [d_y] = grads
        try:
            results = _MLP._gradients(ctx, d_y)
        except Exception as error:
            if ctx.twin is None:
                raise
            results = ctx.twin.gradients(ctx.saved_tensors, d_y, ctx.precision == "bf16", error)
        return (*results, *(None, None, None))

    @staticmethod
    def _gradients(ctx: Any, d_y: Tensor) -> tuple[Tensor, ...]:
        h, up, bias, down = ctx.saved_tensors
        R, N, D = h.shape
        M, tiles = up.shape[2], ctx.tiles
        block_n = min(tiles.tokens_backward, padded(N))
        blocks_of_replica = triton.cdiv(N, block_n)
        each = triton.cdiv(blocks_of_replica, tiles.programs)
        programs = triton.cdiv(blocks_of_replica, each)
        d_h = torch.empty_like(h)
        d_weights = torch.empty(R, programs, 2 * D * M + M, device=h.device)
        with current(h.device):
            _backward[(R * programs,)](
                d_h, d_weights, d_y.contiguous(), h, up, bias, down, N, D, M, programs, each,
                up.stride(0), bias.stride(0), down.stride(0),
                PRECISION=DOTS[ctx.precision], BLOCK_N=block_n, BLOCK_D=padded(D),
                BLOCK_M=min(tiles.hidden_backward, padded(M)),
                num_warps=tiles.warps_backward, num_stages=1,
            )  # fmt: skip
        d_up, d_down, d_bias = d_weights.sum(dim=1).split([D * M, D * M, M], dim=1)
        return d_h, d_up.view(up.shape), d_bias.view(bias.shape), d_down.view(down.shape)


def fused_mlp(
    h: Tensor,
    up: Tensor,
    bias: Tensor,
    down: Tensor,
    precision: Precision = "bf16",
    tiles: Tiles = Tiles(),
    twin: Twin | None = None,
) -> Tensor:
    """Compute what `core.architectures.blocks.plain_mlp` does, for float32 tensors that `supports`
    takes.

    Args:
        precision: that of the operands of all products; all else is always float32.
        twin: what computes the gradients if the kernel can't; None: its error is raised.
    """
    result: Tensor = _MLP.apply(h.float(), up, bias, down, precision, tiles, twin)
    return result
