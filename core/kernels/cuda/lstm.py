"""An LSTM layer's scan over time, in one kernel each way where the layer is narrow enough. A block
of sequences then stays on one multiprocessor, its cell states in registers.

Step by step, in PyTorch, a layer of 100 tokens takes some 3,000 launches a training step, most of
which compute less than a launch costs. Here a program has 16 sequences of a replica, the fewest
that matrix units take, and goes through time. The next time's numbers are loaded while a time is
computed. The recurrent weights, 4 D x D, are read anew each time: at D = 64 they are 64 KB and stay
in the L1 cache, wider ones come from L2. Up to D = 64 the hidden states are in registers, too.
Beyond, they are operands of too many products at once, so parts of them are read back from what the
program has just written.

The forward pass keeps the gates and cell states, 5 D numbers a token beside the hidden states. The
backward pass walks back and writes the gradient of what the input adds. The gradient of the weights
is then one product over all sequences and times, so that nothing is summed in an order that varies:
results repeat bit by bit and don't depend on how many replicas there are.

A token moves 4 D numbers in and 6 D out forward, 6 D in and 4 D out backward, and the product 7 D,
with the copy of the hidden states that it takes: 27 D. In float32, at D = 32, B = 512 and L = 100,
these are 0.18 GB a layer, 0.04 ms at 4.3 TB/s. Longer is the chain of 2 L products, each of which
waits for the one before. Beyond D = 64 reading the weights is longer still: at 64 bytes a clock and
multiprocessor, 256 KB at D = 128 take 2.3 microseconds each time, 1 MB at D = 256 takes 9. One
replica of 512 sequences has 32 programs, several fill the multiprocessors. None of these times has
been measured. At widths above 256, each time's product is large by itself, and reading the weights
for 16 sequences at a time would cost more than it saves: there, and in exact float32, the kernels
of `lstm_cell` stand between the products.

The twin is `core.architectures.lstm.plain_scan`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from metaphase.core.devices import current
from metaphase.core.kernels.cuda.common import (
    DOTS,
    FIRST_CAPABILITY,
    Precision,
    check_on_device,
    dot,
    limits,
    padded,
    replica_rows,
)
from metaphase.core.kernels.cuda.lstm_cell import (
    advanced,
    advanced_backward,
    load_gates,
    scan,
    scan_backward,
    store_gates,
)
from metaphase.core.kernels.operations import product

MAX_WIDTH = 256  # of layers through whose times one kernel goes

# The twin's products are float32 where the cell's are bf16, so these are made of three of tf32.
_PRODUCTS: dict[str, Precision] = {"tf32": "tf32", "bf16": "tf32x3"}

Rescue = Callable[..., tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Tiles:
    """Constants of the kernels that change their speed and nothing else.

    Attributes:
        sequences: how many a program has.
        units: how many at most a product takes at a time. Where a layer has more, its hidden
            states, and the gradients of its gates, are read back a part at a time: as operands of
            one product they would fill the registers.
        warps: how many a program has.
    """

    sequences: int = 16
    units: int = 64
    warps: int = 4


def tiles_for(D: int) -> Tiles:
    """Return constants with which a program's numbers fit into its registers: compiled for sm_80 to
    sm_120, at most 40 of a thread's go through memory at D = 256, and 6 below."""
    if D <= 64:
        return Tiles(warps=4 if D <= 32 else 8)
    return Tiles(units=32, warps=8) if D <= 128 else Tiles(units=16, warps=16)


@triton.jit
def _block(B, L, D, BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr):
    """Return a program's replica, the numbers of its sequences' first tokens, and where these and
    its tile of B x D aren't padding."""
    blocks = tl.cdiv(B, BLOCK_B)  # of a replica
    r = (tl.program_id(0) // blocks).to(tl.int64)
    b = (tl.program_id(0) % blocks) * BLOCK_B + tl.arange(0, BLOCK_B)
    d = tl.arange(0, BLOCK_D)
    rows = (b < B)[:, None]
    return r, (r * B + b[:, None]) * L, rows, rows & (d < D)[None, :]


@triton.jit
def _add_products(o, i, f, g, hidden, w, D, k, d, PRECISION: tl.constexpr):
    """Add the products of the hidden units k with the weights, to the units d of each gate."""
    at, inside = w + k[:, None] * 4 * D + d[None, :], (k < D)[:, None] & (d < D)[None, :]
    o += dot(hidden, tl.load(at, mask=inside, other=0.0), PRECISION)
    i += dot(hidden, tl.load(at + D, mask=inside, other=0.0), PRECISION)
    f += dot(hidden, tl.load(at + 2 * D, mask=inside, other=0.0), PRECISION)
    g += dot(hidden, tl.load(at + 3 * D, mask=inside, other=0.0), PRECISION)
    return o, i, f, g


@triton.jit
def _add_transposed(d_hidden, part, w, D, d, k, LAST, PRECISION: tl.constexpr):
    """Add the product of gradients with the columns k, which end at LAST, of the weights."""
    inside = (d < D)[:, None] & (k < LAST)[None, :]
    columns = tl.load(w + d[:, None] * 4 * D + k[None, :], mask=inside, other=0.0)
    return d_hidden + dot(part, tl.trans(columns), PRECISION)


@triton.jit
def _forward(
    h, c, gates, a, w, B, L, D, w_row,
    PRECISION: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    r, token, rows, inside = _block(B, L, D, BLOCK_B, BLOCK_D)
    d = tl.arange(0, BLOCK_D)
    at, at_gates = token * D + d[None, :], token * 4 * D + d[None, :]
    w_at = w + r * w_row
    hidden = tl.zeros((BLOCK_B, BLOCK_D), tl.float32)
    cell = tl.zeros((BLOCK_B, BLOCK_D), tl.float32)
    o, i, f, g = load_gates(a + at_gates, D, inside)
    for s in range(L):
        # Of the next time; what comes after the last isn't read.
        o_next, i_next, f_next, g_next = load_gates(
            a + at_gates + (s + 1) * 4 * D, D, inside & (s + 1 < L)
        )
        if BLOCK_K < BLOCK_D:
            for k0 in range(0, D, BLOCK_K):
                k = k0 + tl.arange(0, BLOCK_K)
                earlier = rows & (k < D)[None, :] & (s > 0)
                part = tl.load(h + token * D + (s - 1) * D + k[None, :], mask=earlier, other=0.0)
                o, i, f, g = _add_products(o, i, f, g, part, w_at, D, k, d, PRECISION)
        else:
            o, i, f, g = _add_products(o, i, f, g, hidden, w_at, D, d, d, PRECISION)
        o, i, f, g, hidden, cell = advanced(o, i, f, g, cell)
        tl.store(h + at + s * D, hidden, mask=inside)
        tl.store(c + at + s * D, cell, mask=inside)
        store_gates(gates + at_gates + s * 4 * D, D, inside, o, i, f, g)
        if BLOCK_K < BLOCK_D:
            tl.debug_barrier()  # what threads stored is read by others
        o, i, f, g = o_next, i_next, f_next, g_next


@triton.jit
def _backward(
    d_a, d_h, c, gates, w, B, L, D, w_row,
    PRECISION: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    r, token, rows, inside = _block(B, L, D, BLOCK_B, BLOCK_D)
    d = tl.arange(0, BLOCK_D)
    at, at_gates = token * D + d[None, :], token * 4 * D + d[None, :]
    w_at = w + r * w_row
    d_hidden = tl.zeros((BLOCK_B, BLOCK_D), tl.float32)
    d_cell = tl.zeros((BLOCK_B, BLOCK_D), tl.float32)
    cell = tl.load(c + at + (L - 1) * D, mask=inside, other=0.0)
    o, i, f, g = load_gates(gates + at_gates + (L - 1) * 4 * D, D, inside)
    d_output = tl.load(d_h + at + (L - 1) * D, mask=inside, other=0.0)
    for step in range(L):
        s = L - 1 - step
        earlier = inside & (s > 0)
        cell_before = tl.load(c + at + (s - 1) * D, mask=earlier, other=0.0)
        o_before, i_before, f_before, g_before = load_gates(
            gates + at_gates + (s - 1) * 4 * D, D, earlier
        )
        d_before = tl.load(d_h + at + (s - 1) * D, mask=earlier, other=0.0)
        d_o, d_i, d_f, d_g, d_cell = advanced_backward(
            d_hidden + d_output, d_cell, o, i, f, g, cell, cell_before
        )
        store_gates(d_a + at_gates + s * 4 * D, D, inside, d_o, d_i, d_f, d_g)
        if BLOCK_K < BLOCK_D:
            tl.debug_barrier()  # what threads stored is read by others
            d_hidden = tl.zeros((BLOCK_B, BLOCK_D), tl.float32)
            for k0 in range(0, 4 * D, BLOCK_K):
                k = k0 + tl.arange(0, BLOCK_K)
                at_part = d_a + (token + s) * 4 * D + k[None, :]
                part = tl.load(at_part, mask=rows & (k < 4 * D)[None, :], other=0.0)
                d_hidden = _add_transposed(d_hidden, part, w_at, D, d, k, 4 * D, PRECISION)
        else:
            d_hidden = tl.zeros((BLOCK_B, BLOCK_D), tl.float32)
            d_hidden = _add_transposed(d_hidden, d_o, w_at, D, d, d, D, PRECISION)
            d_hidden = _add_transposed(d_hidden, d_i, w_at + D, D, d, d, D, PRECISION)
            d_hidden = _add_transposed(d_hidden, d_f, w_at + 2 * D, D, d, d, D, PRECISION)
            d_hidden = _add_transposed(d_hidden, d_g, w_at + 3 * D, D, d, d, D, PRECISION)
        cell, d_output = cell_before, d_before
        o, i, f, g = o_before, i_before, f_before, g_before


def supports(a: Tensor) -> bool:
    """Return whether `fused_scan` serves layers on the device."""
    narrow = a.dtype in (torch.float32, torch.bfloat16)
    return narrow and limits(a.device).capability >= FIRST_CAPABILITY


def is_whole(D: int, precision: str) -> bool:
    """Return whether one kernel goes through all times: not where layers are wide, nor where
    products are exact, for which there are no matrix units."""
    return D <= MAX_WIDTH and precision in _PRODUCTS


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, a: Tensor, w: Tensor, precision: str, tiles: Tiles, rescue: Rescue | None
    ) -> Tensor:
        a, w = a.contiguous(), replica_rows(w)
        check_on_device(a, w)
        R, B, L, columns = a.shape
        D = columns // 4
        h = torch.empty(R, B, L, D, device=a.device)
        c, gates = torch.empty_like(h), torch.empty_like(a)
        ctx.save_for_backward(w, h, c, gates)
        ctx.precision, ctx.tiles, ctx.rescue = precision, tiles, rescue
        with current(a.device), torch.autocast(a.device.type, enabled=False):
            if is_whole(D, precision):
                _forward[(R * triton.cdiv(B, tiles.sequences),)](
                    h, c, gates, a, w, B, L, D, w.stride(0), **_constants(D, precision, tiles)
                )
            else:
                scan(h, c, gates, a, w)
        return h

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        [d_h] = grads
        w, h, c, gates = ctx.saved_tensors
        with current(d_h.device), torch.autocast(d_h.device.type, enabled=False):
            try:
                d_h = d_h.contiguous()
                results = _gradients(d_h, w, h, c, gates, ctx.precision, ctx.tiles)
            except Exception as error:
                if ctx.rescue is None:
                    raise
                results = ctx.rescue(error, d_h, w, h, c, gates)
        return *results, None, None, None


def _gradients(
    d_h: Tensor, w: Tensor, h: Tensor, c: Tensor, gates: Tensor, precision: str, tiles: Tiles
) -> tuple[Tensor, Tensor]:
    R, B, L, D = h.shape
    d_a = torch.empty_like(gates)
    if is_whole(D, precision):
        _backward[(R * triton.cdiv(B, tiles.sequences),)](
            d_a, d_h, c, gates, w, B, L, D, w.stride(0), **_constants(D, precision, tiles)
        )
    else:
        scan_backward(d_a, d_h, c, gates, w)
    before = F.pad(h[:, :, :-1], (0, 0, 1, 0)).view(R, B * L, D)
    return d_a, product(before.mT, d_a.view(R, B * L, 4 * D))


def _constants(D: int, precision: str, tiles: Tiles) -> dict[str, Any]:
    return {
        "PRECISION": DOTS[_PRODUCTS[precision]],
        "BLOCK_B": tiles.sequences,
        "BLOCK_D": padded(D),
        "BLOCK_K": min(padded(D), tiles.units),
        "num_warps": tiles.warps,
        "num_stages": 1,
    }


def fused_scan(
    a: Tensor,
    w: Tensor,
    precision: str,
    tiles: Tiles | None = None,
    rescue: Rescue | None = None,
) -> Tensor:
    """Compute what `core.architectures.lstm.plain_scan` does, for tensors that `supports` takes.

    Args:
        precision: the cell's. Products are of tf32 operands where it is tf32, else float32, as the
            twin's; all else is always float32.
        tiles: None chooses them by the width.
        rescue: what computes the gradients if a kernel can't, from its error, the gradient by h, w,
            h, the cell states and the gates; None: the error is raised.
    """
    tiles = tiles_for(w.shape[1]) if tiles is None else tiles
    result: Tensor = _Scan.apply(a.float(), w.float(), precision, tiles, rescue)
    return result
