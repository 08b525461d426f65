"""What stands between the matrix products of a block: residual sum with layer norm, and bias with
ReLU, each in one kernel that reads its operands once and writes the next product's operand in the
precision of that product.

As PyTorch's operations, a residual sum, its norm and the cast to bf16 read and write a token's D
numbers 8 times, of 4 and 2 bytes, 23 D bytes in all; here it is 4 times and 12 D. The backward pass
reads the normed tokens, which are kept as the product's operand, instead of what was normed. A
program has many rows of the norm: PyTorch's has one, of which a step has a million a replica.

Sums over rows, of the bias's gradient, have a fixed order: a program adds its own rows one tile
after another, and one `torch.sum` adds the programs' sums. There are no atomics, and nothing
depends on how many replicas there are.

Axes: N tokens, of a replica where there are replicas; M hidden units. The plain twins are
`core.architectures.blocks.plain_mlp` and `plain_attention`, whose parts these are.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from metaphase.core.devices import current
from metaphase.core.kernels import operations
from metaphase.core.kernels.cuda.common import (
    check_on_device,
    normalized,
    normalized_backward,
    relu,
    store,
)

MAX_WIDTH = 4096  # a row is in one program's registers

_EPSILON = tl.constexpr(operations.EPSILON)
_TILE = 4096  # numbers of a tile: 32 a thread
_UNITS, _TOKENS = 128, 32  # of a tile of hidden units
_PROGRAMS = 64  # about how many a replica and 128 units have, which sum the bias's gradient


@triton.jit
def _norm(
    sums, normed, inverse, h, delta, N, D, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr
):  # fmt: skip
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    d = tl.arange(0, BLOCK_D)
    inside = (n < N)[:, None] & (d < D)[None, :]
    at = n[:, None] * D + d[None, :]
    tokens = tl.load(h + at, mask=inside, other=0.0)
    if delta is not None:
        tokens += tl.load(delta + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(sums + at, tokens, mask=inside)
    result, over = normalized(tokens, D, (d < D)[None, :], _EPSILON)
    store(normed + at, result, inside)
    tl.store(inverse + n, over, mask=n < N)


@triton.jit
def _norm_backward(
    d_h, d_operand, d_normed, normed, inverse, d_sums, N, D,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    d = tl.arange(0, BLOCK_D)
    inside = (n < N)[:, None] & (d < D)[None, :]
    at = n[:, None] * D + d[None, :]
    grad = tl.load(d_normed + at, mask=inside, other=0.0).to(tl.float32)
    result = tl.load(normed + at, mask=inside, other=0.0).to(tl.float32)
    over = tl.load(inverse + n, mask=n < N, other=0.0)
    d_tokens = normalized_backward(grad, result, over, D)
    if d_sums is not None:
        d_tokens += tl.load(d_sums + at, mask=inside, other=0.0)
    tl.store(d_h + at, d_tokens, mask=inside)
    if d_operand is not None:
        store(d_operand + at, d_tokens, inside)


@triton.jit
def _activate(
    hidden, units, bias, N, M, bias_row, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr
):  # fmt: skip
    tiles = tl.cdiv(N, BLOCK_N)  # of a replica
    r = (tl.program_id(0) // tiles).to(tl.int64)
    n = (tl.program_id(0) % tiles) * BLOCK_N + tl.arange(0, BLOCK_N)
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = (n < N)[:, None] & (m < M)[None, :]
    at = (r * N + n[:, None]) * M + m[None, :]
    sums = tl.load(units + at, mask=inside, other=0.0).to(tl.float32)
    sums += tl.load(bias + r * bias_row + m, mask=m < M, other=0.0)[None, :]
    store(hidden + at, relu(sums), inside)


@triton.jit
def _activate_backward(
    d_units, d_bias, d_hidden, hidden, N, M, PROGRAMS, TILES,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    r = program // PROGRAMS
    begin = (program % PROGRAMS) * TILES * BLOCK_N
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    total = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    for n0 in range(begin, tl.minimum(begin + TILES * BLOCK_N, N), BLOCK_N):
        n = n0 + tl.arange(0, BLOCK_N)
        inside = (n < N)[:, None] & (m < M)[None, :]
        at = (r * N + n[:, None]) * M + m[None, :]
        idle = tl.load(hidden + at, mask=inside, other=0.0).to(tl.float32) <= 0.0
        grad = tl.load(d_hidden + at, mask=inside, other=0.0).to(tl.float32)
        grad = tl.where(idle, 0.0, grad)
        store(d_units + at, grad, inside)
        total += grad
    tl.store(d_bias + program * M + m, tl.sum(total, 0), mask=m < M)


def norm(h: Tensor, delta: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return h + delta, its layer norm in this type, and 1 over its rows' standard deviations.

    Args:
        h: R x N x D, float32.
        delta: of the same shape, in any type; None: it is 0, and h itself is returned.
    """
    check_on_device(h, *([] if delta is None else [delta]))
    sums = h if delta is None else torch.empty_like(h)
    normed = torch.empty(h.shape, dtype=dtype, device=h.device)
    inverse = torch.empty(h.shape[:-1], device=h.device)
    grid, sizes = _tiles(h)
    with current(h.device):
        _norm[grid](None if delta is None else sums, normed, inverse, h, delta, **sizes)
    return sums, normed, inverse


def norm_backward(
    d_normed: Tensor, normed: Tensor, inverse: Tensor, d_sums: Tensor | None, operand: bool
) -> tuple[Tensor, Tensor]:
    """Return the gradient by what `norm` summed, float32, and the same as a product's operand.

    Args:
        d_sums: the gradient by the sums themselves, float32; None: it is 0.
        operand: whether the operand is wanted, in the type of `normed`; else it is the gradient.
    """
    check_on_device(d_normed, normed, inverse, *([] if d_sums is None else [d_sums]))
    d_h = torch.empty(normed.shape, device=normed.device)
    rounded = operand and normed.dtype != d_h.dtype
    d_operand = torch.empty_like(normed) if rounded else None
    grid, sizes = _tiles(normed)
    with current(normed.device):
        _norm_backward[grid](d_h, d_operand, d_normed, normed, inverse, d_sums, **sizes)
    return d_h, d_h if d_operand is None else d_operand


def activate(units: Tensor, bias: Tensor) -> Tensor:
    """Return relu(units + bias) in the type of the units, R x N x M; the bias is R x 1 x M in
    float32, wherever a replica's row starts."""
    check_on_device(units, bias)
    R, N, M = units.shape
    hidden = torch.empty_like(units)
    with current(units.device):
        _activate[(R * triton.cdiv(N, _TOKENS), triton.cdiv(M, _UNITS))](
            hidden, units, bias, N, M, bias.stride(0), BLOCK_N=_TOKENS, BLOCK_M=_UNITS, num_warps=4
        )
    return hidden


def activate_backward(d_hidden: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients by the units, in the type of `hidden`, and by the bias, float32."""
    check_on_device(d_hidden, hidden)
    R, N, M = hidden.shape
    tiles = triton.cdiv(N, _TOKENS)
    each = triton.cdiv(tiles, _PROGRAMS)
    programs = triton.cdiv(tiles, each)
    d_units = torch.empty_like(hidden)
    d_bias = torch.empty(R, programs, M, device=hidden.device)
    with current(hidden.device):
        _activate_backward[(R * programs, triton.cdiv(M, _UNITS))](
            d_units, d_bias, d_hidden, hidden, N, M, programs, each,
            BLOCK_N=_TOKENS, BLOCK_M=_UNITS, num_warps=4,
        )  # fmt: skip
    return d_units, d_bias.sum(dim=1, keepdim=True)


def _tiles(x: Tensor) -> tuple[tuple[int], dict[str, int]]:
    """The grid of a norm of R x N x D numbers, and the sizes that it is launched with."""
    rows, D = x.shape[:-1].numel(), x.shape[-1]
    block_d = triton.next_power_of_2(D)
    block_n = max(1, _TILE // block_d)
    sizes = {"N": rows, "D": D, "BLOCK_N": block_n, "BLOCK_D": block_d, "num_warps": 4}
    return (triton.cdiv(rows, block_n),), sizes
