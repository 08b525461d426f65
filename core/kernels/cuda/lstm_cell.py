"""An LSTM's cell on a GPU: what one time computes, and a scan over time of one kernel a time beside
the matrix product.

The scan is for wide layers, whose products are large by themselves, and for exact float32 ones. In
PyTorch a time is a dozen operations forward and twenty backward, which move some 170 D numbers a
token; here it is a product and a kernel each way, which move 20 D and 19 D, and the weights'
gradient takes 7 D.

The twin is `core.architectures.lstm.plain_scan`.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from metaphase.core.kernels.operations import product

_BLOCK = 512  # units of all sequences that a program has


@triton.jit
def tanh(x):
    """Compute tanh to about 3e-7 of itself.

    Near 0, where a difference of exponentials would lose digits, it is Taylor's polynomial, whose
    next term is below 62/2835 0.2^8 = 6e-8 of x.
    """
    e = tl.exp(-2.0 * tl.abs(x))
    far = (1.0 - e) / (1.0 + e)
    far = tl.where(x < 0.0, -far, far)
    square = x * x
    near = x + x * square * (-1.0 / 3.0 + square * (2.0 / 15.0 - square * (17.0 / 315.0)))
    return tl.where(tl.abs(x) < 0.2, near, far)


@triton.jit
def load_gates(at, gate, inside):
    """Load what stands in four blocks of columns, `gate` numbers apart."""
    o = tl.load(at, mask=inside, other=0.0)
    i = tl.load(at + gate, mask=inside, other=0.0)
    f = tl.load(at + 2 * gate, mask=inside, other=0.0)
    g = tl.load(at + 3 * gate, mask=inside, other=0.0)
    return o, i, f, g


@triton.jit
def store_gates(at, gate, inside, o, i, f, g):
    """Store to where `load_gates` loads from."""
    tl.store(at, o, mask=inside)
    tl.store(at + gate, i, mask=inside)
    tl.store(at + 2 * gate, f, mask=inside)
    tl.store(at + 3 * gate, g, mask=inside)


@triton.jit
def advanced(o, i, f, g, cell):
    """Return the gates, the hidden and the cell state after a time, from what goes into the gates
    (halved but for the content g) and the cell state before."""
    # Sigmoids of twice the halved arguments.
    o, i, f, g = tl.sigmoid(2.0 * o), tl.sigmoid(2.0 * i), tl.sigmoid(2.0 * f), tanh(g)
    cell = i * g + f * cell
    return o, i, f, g, o * tanh(cell), cell


@triton.jit
def advanced_backward(d_hidden, d_cell, o, i, f, g, cell, cell_before):
    """Return the gradients of what goes into the gates, and of the cell state before, from those of
    the states after."""
    turned = tanh(cell)
    d_cell += d_hidden * o * (1.0 - turned * turned)
    # A sigmoid's derivative in its halved argument is 2 s (1 - s), the content's 1 - g^2.
    d_o = d_hidden * turned * (2.0 * o * (1.0 - o))
    d_i = d_cell * g * (2.0 * i * (1.0 - i))
    d_f = d_cell * cell_before * (2.0 * f * (1.0 - f))
    d_g = d_cell * i * (1.0 - g * g)
    return d_o, d_i, d_f, d_g, d_cell * f


@triton.jit
def _step(h, c, gates, a, added, c_before, TOTAL, D, ROW, BLOCK: tl.constexpr):
    """A time of all sequences, whose rows are ROW numbers apart; those of `added` 4 D."""
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside, row, d = n < TOTAL, (n // D).to(tl.int64), n % D
    o, i, f, g = load_gates(a + row * 4 * ROW + d, D, inside)
    cell = tl.zeros((BLOCK,), tl.float32)
    if added is not None:
        o_added, i_added, f_added, g_added = load_gates(added + row * 4 * D + d, D, inside)
        o, i, f, g = o + o_added, i + i_added, f + f_added, g + g_added
        cell = tl.load(c_before + row * ROW + d, mask=inside, other=0.0)
    o, i, f, g, hidden, cell = advanced(o, i, f, g, cell)
    tl.store(h + row * ROW + d, hidden, mask=inside)
    tl.store(c + row * ROW + d, cell, mask=inside)
    store_gates(gates + row * 4 * ROW + d, D, inside, o, i, f, g)


@triton.jit
def _step_backward(
    d_a, d_cell, d_h, d_hidden, c, c_before, gates, TOTAL, D, ROW, BLOCK: tl.constexpr
):
    """A time backwards; d_hidden, where there is one, and d_cell, which changes, have rows of D."""
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside, row, d = n < TOTAL, (n // D).to(tl.int64), n % D
    at = row * ROW + d
    d_output = tl.load(d_h + at, mask=inside, other=0.0)
    if d_hidden is not None:
        d_output += tl.load(d_hidden + n, mask=inside, other=0.0)
    cell_before = tl.zeros((BLOCK,), tl.float32)
    if c_before is not None:
        cell_before = tl.load(c_before + at, mask=inside, other=0.0)
    o, i, f, g = load_gates(gates + row * 4 * ROW + d, D, inside)
    cell = tl.load(c + at, mask=inside, other=0.0)
    d_next = tl.load(d_cell + n, mask=inside, other=0.0)
    d_o, d_i, d_f, d_g, d_next = advanced_backward(d_output, d_next, o, i, f, g, cell, cell_before)
    tl.store(d_cell + n, d_next, mask=inside)
    store_gates(d_a + row * 4 * ROW + d, D, inside, d_o, d_i, d_f, d_g)


def scan(h: Tensor, c: Tensor, gates: Tensor, a: Tensor, w: Tensor) -> None:
    """Fill in the hidden and cell states, R x B x L x D, and the gates, R x B x L x 4D, of a layer
    that gets `a` from its input; all but w are contiguous. R B D is below 2^31."""
    R, B, L, D = h.shape
    total = R * B * D
    for s in range(L):
        added = product(h[:, :, s - 1], w) if s else None
        _step[(triton.cdiv(total, _BLOCK),)](
            h[:, :, s], c[:, :, s], gates[:, :, s], a[:, :, s],
            added, c[:, :, s - 1] if s else None, total, D, L * D, BLOCK=_BLOCK,
        )  # fmt: skip


def scan_backward(d_a: Tensor, d_h: Tensor, c: Tensor, gates: Tensor, w: Tensor) -> None:
    """Fill in the gradient of `a`; all but w are contiguous."""
    R, B, L, D = c.shape
    total = R * B * D
    d_cell, d_hidden = c.new_zeros(R, B, D), None
    for s in reversed(range(L)):
        _step_backward[(triton.cdiv(total, _BLOCK),)](
            d_a[:, :, s], d_cell, d_h[:, :, s], d_hidden, c[:, :, s],
            c[:, :, s - 1] if s else None, gates[:, :, s], total, D, L * D, BLOCK=_BLOCK,
        )  # fmt: skip
        d_hidden = product(d_a[:, :, s], w.mT) if s else None
