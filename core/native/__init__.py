"""The CPU's own kernels (the .c files here), as PyTorch functions.

Where there is no compiler, `library()` is None and plain PyTorch runs: slower, the same to
rounding. PHASESWEEP_NATIVE=0 switches it off.
"""

from __future__ import annotations

import ctypes
import math

import torch
from torch import Tensor

from core.native.build import library


def _pad(n: int) -> int:
    return -(-n // 16) * 16


def _data(t: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(t.data_ptr())


def _rows(*weights: Tensor) -> ctypes.Array:
    """Where each weight's next replica starts, floats; its own entries are contiguous."""
    for weight in weights:
        assert weight[0].is_contiguous()
    return (ctypes.c_int64 * len(weights))(*(weight.stride(0) for weight in weights))


def _check(status: int) -> None:
    if status:
        raise MemoryError("no memory for a CPU kernel's buffers")


def projections(seed_M: Tensor, low_M: Tensor, high_M: Tensor, size: int, stream: int) -> Tensor:
    """`core.tasks.plain_projections`, A_MxXxX, of the words of the task numbers; `stream` is
    `core.rng.PROJECTION`."""
    a_MxXxX = torch.empty(len(seed_M), size, size)
    kernels = library()
    assert kernels is not None
    words = [t.contiguous() for t in (seed_M, low_M, high_M)]
    kernels.projections(
        ctypes.c_int64(len(seed_M)),
        ctypes.c_int64(size),
        ctypes.c_uint32(stream),
        *map(_data, words),
        ctypes.c_float(size**-0.5),
        _data(a_MxXxX),
    )
    return a_MxXxX


class _Shape(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("replicas", "sequences", "S", "D", "heads", "K")),
        ("stride", ctypes.c_int64),
        ("rotation", ctypes.c_void_p),
    ]


class Attention(torch.autograd.Function):
    """`core.blocks.plain_attention` for float32 on the CPU.

    Arguments are those of plain_attention, its shape spelled out: tokens of a sequence, heads, key
    size, stride, and the S x K/2 x 2 rotation or None.
    """

    @staticmethod
    def forward(ctx, h, q, kv, out, S, heads, K, stride, rotation):
        h = h.contiguous()
        R, N, D = h.shape
        Q = -(-S // stride)
        shape = _Shape(
            R, N // S, S, D, heads, K, stride, None if rotation is None else rotation.data_ptr()
        )
        kernels = library()
        assert kernels is not None
        keep = torch.empty(N // S * R * kernels.attention_kept(ctypes.byref(shape)))
        result = torch.empty(R, N // S * Q, D)
        rows = _rows(q, kv, out)
        status = kernels.attention_forward(
            ctypes.byref(shape),
            *map(_data, (h, q, kv, out)),
            rows,
            _data(keep),
            _data(result),
        )
        _check(status)
        ctx.save_for_backward(h, q, kv, out, keep, rotation)
        ctx.shape, ctx.rows = shape, rows
        return result

    @staticmethod
    def backward(ctx, grad):
        h, q, kv, out, keep, _ = ctx.saved_tensors
        grad = grad.contiguous()
        grads = [torch.empty(t.shape) for t in (h, q, kv, out)]
        kernels = library()
        assert kernels is not None
        status = kernels.attention_backward(
            ctypes.byref(ctx.shape),
            *map(_data, (h, q, kv, out)),
            ctx.rows,
            *map(_data, (keep, grad, *grads)),
        )
        _check(status)
        return (*grads, None, None, None, None, None)


class MLP(torch.autograd.Function):
    """`core.blocks.plain_mlp` for float32 on the CPU."""

    @staticmethod
    def forward(ctx, h, up, bias, down):
        h = h.contiguous()
        sizes = [ctypes.c_int64(n) for n in (*h.shape, up.shape[2])]
        hidden = torch.empty(math.prod(h.shape[:2]) * _pad(up.shape[2]))
        result = torch.empty_like(h)
        kernels = library()
        assert kernels is not None
        rows = _rows(up, bias, down)
        status = kernels.mlp_forward(
            *sizes, *map(_data, (h, up, bias, down)), rows, _data(hidden), _data(result)
        )
        _check(status)
        ctx.save_for_backward(h, up, down, hidden)
        ctx.sizes, ctx.rows, ctx.bias_shape = sizes, rows, bias.shape
        return result

    @staticmethod
    def backward(ctx, grad):
        h, up, down, hidden = ctx.saved_tensors
        grad = grad.contiguous()
        grads = [torch.empty(shape) for shape in (h.shape, up.shape, ctx.bias_shape, down.shape)]
        kernels = library()
        assert kernels is not None
        status = kernels.mlp_backward(
            *ctx.sizes,
            *map(_data, (h, up, down)),
            ctx.rows,
            *map(_data, (hidden, grad, *grads)),
        )
        _check(status)
        return tuple(grads)
