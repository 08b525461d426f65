"""A step of an LSTM in one kernel each way, beside its product with the recurrent weights: four
launches a time and layer, where the plain scan's operations are thirty.

Time is a Python loop, which a captured step unrolls. What a time needs of the others it reads where
they wrote it: hidden states and gradients of activations are pieces of the matrices that the
products over all times take. Kept of a time are its gates and its cell state, 5 D numbers.

Axes as in `core.architectures.lstm`, the twin of which is `plain_scan`: sequences are the last one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from metaphase.core.devices import current
from metaphase.core.kernels.cuda.common import FIRST_CAPABILITY, check_on_device, limits
from metaphase.core.kernels.operations import product

Rescue = Callable[..., tuple[Tensor, Tensor]]
_TILE = 512  # numbers of a program


@triton.jit
def _tanh(x):
    """The hyperbolic tangent, by the exponential that every GPU has."""
    return 1.0 - 2.0 / (tl.exp(2.0 * x) + 1.0)


@triton.jit
def _cell(
    h, c, gates, a, recurrent, before, D, B, L, BLOCK: tl.constexpr
):  # fmt: skip
    """Compute a time of replica program_id(1), of which h and a are pieces of those of L times;
    `recurrent` and `before` are None at the first."""
    r, size = tl.program_id(1).to(tl.int64), D * B
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # d B + b
    inside = i < size
    at_a = a + r * (4 * size * L) + (i // B) * (L * B) + i % B
    at_gates = gates + r * (4 * size) + i
    o = tl.load(at_a, mask=inside, other=0.0)
    n = tl.load(at_a + size * L, mask=inside, other=0.0)
    f = tl.load(at_a + 2 * size * L, mask=inside, other=0.0)
    g = tl.load(at_a + 3 * size * L, mask=inside, other=0.0)
    if recurrent is not None:
        at = recurrent + r * (4 * size) + i
        o += tl.load(at, mask=inside, other=0.0)
        n += tl.load(at + size, mask=inside, other=0.0)
        f += tl.load(at + 2 * size, mask=inside, other=0.0)
        g += tl.load(at + 3 * size, mask=inside, other=0.0)
    o, n, f, g = 0.5 + 0.5 * _tanh(o), 0.5 + 0.5 * _tanh(n), 0.5 + 0.5 * _tanh(f), _tanh(g)
    content = n * g
    if before is not None:
        content += f * tl.load(before + r * size + i, mask=inside, other=0.0)
    tl.store(at_gates, o, mask=inside)
    tl.store(at_gates + size, n, mask=inside)
    tl.store(at_gates + 2 * size, f, mask=inside)
    tl.store(at_gates + 3 * size, g, mask=inside)
    tl.store(c + r * size + i, content, mask=inside)
    tl.store(h + r * (size * L) + i, o * _tanh(content), mask=inside)


@triton.jit
def _cell_backward(
    d_a, d_before, d_h, d_next, d_c, c, before, gates, D, B, L, BLOCK: tl.constexpr
):  # fmt: skip
    """Compute the gradients by a time's activations and the cell state before; `d_next`, of h
    through the time after it, and `d_c`, of c, are None at the last, `before` at the first."""
    r, size = tl.program_id(1).to(tl.int64), D * B
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < size
    at_gates = gates + r * (4 * size) + i
    o = tl.load(at_gates, mask=inside, other=0.0)
    n = tl.load(at_gates + size, mask=inside, other=0.0)
    f = tl.load(at_gates + 2 * size, mask=inside, other=0.0)
    g = tl.load(at_gates + 3 * size, mask=inside, other=0.0)
    tanh = _tanh(tl.load(c + r * size + i, mask=inside, other=0.0))
    grad_h = tl.load(d_h + r * (size * L) + i, mask=inside, other=0.0)
    if d_next is not None:
        grad_h += tl.load(d_next + r * size + i, mask=inside, other=0.0)
    grad_c = (1.0 - tanh * tanh) * o * grad_h
    if d_c is not None:
        grad_c += tl.load(d_c + r * size + i, mask=inside, other=0.0)
    grad_f = tl.zeros((BLOCK,), tl.float32)
    if before is not None:
        grad_f = grad_c * tl.load(before + r * size + i, mask=inside, other=0.0)
    # A gate's derivative in its halved argument is 2 s (1 - s), the content's 1 - g^2.
    at_a = d_a + r * (4 * size * L) + (i // B) * (L * B) + i % B
    tl.store(at_a, 2.0 * o * (1.0 - o) * tanh * grad_h, mask=inside)
    tl.store(at_a + size * L, 2.0 * n * (1.0 - n) * g * grad_c, mask=inside)
    tl.store(at_a + 2 * size * L, 2.0 * f * (1.0 - f) * grad_f, mask=inside)
    tl.store(at_a + 3 * size * L, (1.0 - g * g) * n * grad_c, mask=inside)
    tl.store(d_before + r * size + i, grad_c * f, mask=inside)


def supports(a: Tensor) -> bool:
    """Return whether `fused_scan` is for activations like these."""
    narrow = a.dtype in (torch.float32, torch.bfloat16)
    return narrow and limits(a.device).capability >= FIRST_CAPABILITY


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a_Rx4DxLxB: Tensor, w_Rx4DxD: Tensor, rescue: Rescue | None) -> Tensor:
        check_on_device(a_Rx4DxLxB, w_Rx4DxD)
        (R, _, L, B), D = a_Rx4DxLxB.shape, w_Rx4DxD.shape[2]
        device, grid = a_Rx4DxLxB.device, (triton.cdiv(D * B, _TILE), R)
        h_RxLxDxB = torch.empty(R, L, D, B, device=device)
        cells, gates = [], []
        recurrent = before = None
        with current(device):
            for s in range(L):
                if s:
                    recurrent = product(w_Rx4DxD, h_RxLxDxB[:, s - 1])
                cells.append(torch.empty(R, D, B, device=device))
                gates.append(torch.empty(R, 4, D, B, device=device))
                _cell[grid](
                    h_RxLxDxB[:, s], cells[s], gates[s], a_Rx4DxLxB[:, :, s], recurrent, before,
                    D, B, L, BLOCK=_TILE, num_warps=4,
                )  # fmt: skip
                before = cells[s]
        ctx.save_for_backward(w_Rx4DxD, h_RxLxDxB, *cells, *gates)
        ctx.rescue = rescue
        return h_RxLxDxB

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        [d_h_RxLxDxB] = grads
        w_Rx4DxD, h_RxLxDxB, *kept = ctx.saved_tensors
        L = h_RxLxDxB.shape[1]
        times = w_Rx4DxD, h_RxLxDxB, kept[:L], *kept[L:]
        try:
            results = _Scan._gradients(d_h_RxLxDxB.contiguous(), *times)
        except Exception as error:
            if ctx.rescue is None:
                raise
            results = ctx.rescue(error, d_h_RxLxDxB, *times)
        return *results, None

    @staticmethod
    def _gradients(
        d_h_RxLxDxB: Tensor, w_Rx4DxD: Tensor, h_RxLxDxB: Tensor, cells: list[Tensor],
        *gates: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        R, L, D, B = h_RxLxDxB.shape
        device, grid = h_RxLxDxB.device, (triton.cdiv(D * B, _TILE), R)
        d_a_Rx4DxLxB = torch.empty(R, 4 * D, L, B, device=device)
        d_next = d_c = None
        with current(device):
            for s in reversed(range(L)):
                d_before = torch.empty(R, D, B, device=device)
                _cell_backward[grid](
                    d_a_Rx4DxLxB[:, :, s], d_before, d_h_RxLxDxB[:, s], d_next, d_c, cells[s],
                    cells[s - 1] if s else None, gates[s], D, B, L, BLOCK=_TILE, num_warps=4,
                )  # fmt: skip
                d_c = d_before
                if s:
                    d_next = product(w_Rx4DxD.mT, d_a_Rx4DxLxB[:, :, s])
        before_RxDxLB = h_RxLxDxB[:, :-1].transpose(1, 2).reshape(R, D, -1)
        d_w_Rx4DxD = product(d_a_Rx4DxLxB[:, :, 1:].reshape(R, 4 * D, -1), before_RxDxLB.mT)
        return d_a_Rx4DxLxB, d_w_Rx4DxD


def fused_scan(a_Rx4DxLxB: Tensor, w_Rx4DxD: Tensor, rescue: Rescue | None = None) -> Tensor:
    """Compute h_RxLxDxB of contiguous float32 activations and weights: what the steps of
    `core.architectures.lstm.plain_scan` do.

    Args:
        rescue: what computes the gradients if a kernel can't, from its error, the gradient by h, w,
            h, the cell states of all times, and their gates; None: the error is raised.
    """
    result: Tensor = _Scan.apply(a_Rx4DxLxB, w_Rx4DxD, rescue)
    return result
