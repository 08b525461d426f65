"""The CPU's own kernels (the .c files here), as PyTorch functions.

Their bits are fixed (vectors.h): the same alone and in a pack, and on every CPU that has fused
multiply-adds. Each has a plain twin in PyTorch, named in its docstring, which runs on other
devices, in other precisions, and where there is no compiler. METAPHASE_NATIVE=0 switches them off.
"""

from __future__ import annotations

import ctypes
import math

import torch
from torch import Tensor

from metaphase.core.kernels.cpu.build import library


def serves(t: Tensor) -> bool:
    """Whether the kernels compute on this tensor: float32 on the CPU, and there is a compiler."""
    return (
        t.device.type == "cpu"
        and t.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and library() is not None
    )


def _call(name: str, *arguments: object) -> None:
    """Runs a kernel on tensors (their data), whole numbers, and what ctypes takes."""
    kernels = library()
    assert kernels is not None
    status = getattr(kernels, name)(*map(_argument, arguments))
    if status:
        raise MemoryError("no memory for a CPU kernel's buffers")


def _argument(value: object) -> object:
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, int):
        return ctypes.c_int64(value)
    return ctypes.byref(value) if isinstance(value, ctypes.Structure) else value


def _kept(name: str, shape: ctypes.Structure) -> int:
    """Floats that a kernel keeps of a sequence or replica for its backward pass."""
    kernels = library()
    assert kernels is not None
    function = getattr(kernels, name)
    function.restype = ctypes.c_int64
    return function(ctypes.byref(shape))


def _pad(n: int) -> int:
    return -(-n // 16) * 16


def _rows(*weights: Tensor) -> ctypes.Array:
    """Where each weight's next replica starts, floats; its own entries are contiguous."""
    for weight in weights:
        assert weight[0].is_contiguous()
    return (ctypes.c_int64 * len(weights))(*(weight.stride(0) for weight in weights))


def _struct(name: str, **kinds: type) -> type[ctypes.Structure]:
    return type(name, (ctypes.Structure,), {"_fields_": list(kinds.items())})


def normals(
    seed_M: Tensor,
    low_M: Tensor,
    high_M: Tensor,
    purpose: int,
    rows: int,
    columns: int,
    scale: float,
) -> Tensor:
    """`core.rng.plain_normal_matrix` times `scale`, M x rows x columns, of int64 words."""
    result = torch.empty(len(seed_M), rows, columns)
    words = [t.contiguous() for t in (seed_M, low_M, high_M)]
    sizes = (len(seed_M), rows, columns, ctypes.c_uint32(purpose))
    _call("normals", *sizes, *words, ctypes.c_float(scale), result)
    return result


_ProductShape = _struct(
    "_ProductShape",
    **dict.fromkeys(("batch", "m", "n", "depth"), ctypes.c_int64),
    **dict.fromkeys(("a_batch", "a_row", "a_column"), ctypes.c_int64),
    **dict.fromkeys(("b_batch", "b_row", "b_column", "c_batch", "c_row"), ctypes.c_int64),
)


def multiply(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """torch.bmm(a, b) of any strides, not differentiable; `out`, if any, is contiguous."""
    batch, m, depth = a.shape
    n = b.shape[2]
    assert b.shape[:2] == (batch, depth)
    c = torch.empty(batch, m, n) if out is None else out
    assert c.shape == (batch, m, n)
    assert c.is_contiguous()
    shape = _ProductShape(batch, m, n, depth, *a.stride(), *b.stride(), m * n, n)
    _call("products", shape, a, b, c)
    return c


class Product(torch.autograd.Function):
    """torch.bmm."""

    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return multiply(a, b)

    @staticmethod
    def backward(ctx, grad):
        a, b = ctx.saved_tensors
        of_a, of_b = ctx.needs_input_grad
        return multiply(grad, b.mT) if of_a else None, multiply(a.mT, grad) if of_b else None


class LayerNorm(torch.autograd.Function):
    """`core.kernels.operations.plain_layer_norm`, over the last axis."""

    @staticmethod
    def forward(ctx, x):
        x = x.contiguous()
        rows, D = x.numel() // x.shape[-1], x.shape[-1]
        y, rstd = torch.empty_like(x), torch.empty(rows)
        _call("norm_forward", rows, D, x, y, rstd)
        ctx.save_for_backward(y, rstd)
        return y

    @staticmethod
    def backward(ctx, grad):
        y, rstd = ctx.saved_tensors
        grad, grad_x = grad.contiguous(), torch.empty_like(y)
        _call("norm_gradient", len(rstd), y.shape[-1], y, rstd, grad, grad_x)
        return grad_x


class CrossEntropy(torch.autograd.Function):
    """`core.kernels.operations.plain_cross_entropy`: nats of each row of logits, shape (rows,
    classes)."""

    @staticmethod
    def forward(ctx, logits, y):
        logits, y = logits.contiguous(), y.contiguous()
        p, loss = torch.empty_like(logits), torch.empty(len(logits))
        _call("cross_entropy", *logits.shape, logits, y, p, loss)
        ctx.save_for_backward(p, y)
        return loss

    @staticmethod
    def backward(ctx, grad):
        p, y = ctx.saved_tensors
        grad, grad_logits = grad.contiguous(), torch.empty_like(p)
        _call("cross_entropy_gradient", *p.shape, p, y, grad, grad_logits)
        return grad_logits, None


class RowMeans(torch.autograd.Function):
    """Of a matrix, in float64, the terms added in their order."""

    @staticmethod
    def forward(ctx, x):
        x = x.contiguous()
        ctx.shape, mean = x.shape, torch.empty(len(x), dtype=torch.float64)
        _call("row_means", *x.shape, x, mean)
        return mean

    @staticmethod
    def backward(ctx, grad):
        return (grad / ctx.shape[1]).float()[:, None].expand(ctx.shape)


_AttentionShape = _struct(
    "_AttentionShape",
    **dict.fromkeys(("replicas", "sequences", "L", "D", "heads", "K", "stride"), ctypes.c_int64),
    rotation=ctypes.c_void_p,
)


class Attention(torch.autograd.Function):
    """`core.architectures.blocks.plain_attention`.

    Arguments are those of plain_attention, its shape spelled out: tokens of a sequence, heads, key
    size, stride, and the L x K/2 x 2 rotation or None.
    """

    @staticmethod
    def forward(ctx, h, q, kv, out, L, heads, K, stride, rotation):
        h = h.contiguous()
        R, N, D = h.shape
        Q = -(-L // stride)
        shape = _AttentionShape(
            R, N // L, L, D, heads, K, stride, None if rotation is None else rotation.data_ptr()
        )
        keep = torch.empty(N // L * R * _kept("attention_kept", shape))
        result = torch.empty(R, N // L * Q, D)
        rows = _rows(q, kv, out)
        _call("attention_forward", shape, h, q, kv, out, rows, keep, result)
        ctx.save_for_backward(h, q, kv, out, keep, rotation)
        ctx.shape, ctx.rows = shape, rows
        return result

    @staticmethod
    def backward(ctx, grad):
        h, q, kv, out, keep, _ = ctx.saved_tensors
        grads = [torch.empty(t.shape) for t in (h, q, kv, out)]
        operands = (h, q, kv, out, ctx.rows, keep, grad.contiguous())
        _call("attention_backward", ctx.shape, *operands, *grads)
        return (*grads, None, None, None, None, None)


class MLP(torch.autograd.Function):
    """`core.architectures.blocks.plain_mlp`."""

    @staticmethod
    def forward(ctx, h, up, bias, down):
        h = h.contiguous()
        sizes = (*h.shape, up.shape[2])
        hidden = torch.empty(math.prod(h.shape[:2]) * _pad(up.shape[2]))
        result = torch.empty_like(h)
        rows = _rows(up, bias, down)
        _call("mlp_forward", *sizes, h, up, bias, down, rows, hidden, result)
        ctx.save_for_backward(h, up, down, hidden)
        ctx.sizes, ctx.rows, ctx.bias_shape = sizes, rows, bias.shape
        return result

    @staticmethod
    def backward(ctx, grad):
        h, up, down, hidden = ctx.saved_tensors
        grads = [torch.empty(shape) for shape in (h.shape, up.shape, ctx.bias_shape, down.shape)]
        operands = (h, up, down, ctx.rows, hidden, grad.contiguous())
        _call("mlp_backward", *ctx.sizes, *operands, *grads)
        return tuple(grads)


_LSTMShape = _struct(
    "_LSTMShape",
    **dict.fromkeys(("replicas", "sequences", "L", "D", "weights"), ctypes.c_int64),
)


class LSTM(torch.autograd.Function):
    """`core.architectures.lstm.plain_scan`: a_RxBxLx4D, w_RxDx4D -> h_RxBxLxD."""

    @staticmethod
    def forward(ctx, a, w):
        a, w = a.contiguous(), w.contiguous()
        (R, B, L, _), D = a.shape, w.shape[1]
        shape = _LSTMShape(R, B, L, D, w.stride(0))
        keep = torch.empty(R * _kept("lstm_kept", shape))
        h = torch.empty(R, B, L, D)
        _call("lstm_forward", shape, a, w, keep, h)
        ctx.save_for_backward(w, h, keep)
        ctx.shape = shape
        return h

    @staticmethod
    def backward(ctx, grad):
        w, h, keep = ctx.saved_tensors
        grad_a, grad_w = torch.empty(*h.shape[:3], 4 * h.shape[3]), torch.empty_like(w)
        _call("lstm_backward", ctx.shape, w, h, keep, grad.contiguous(), grad_a, grad_w)
        return grad_a, grad_w


_MemoryShape = _struct(
    "_MemoryShape",
    **dict.fromkeys(("sequences", "L", "heads", "K", "stride"), ctypes.c_int64),
    forget_bias=ctypes.c_float,
)


class Memory(torch.autograd.Function):
    """`core.architectures.outer_product_memory.plain_answers`, with the same arguments and the bias of the forget
    gates."""

    @staticmethod
    def forward(ctx, q, kv, gates, heads, stride, forget_bias):
        q, kv, gates = q.contiguous(), kv.contiguous(), gates.contiguous()
        N, L, K = len(kv), kv.shape[1], kv.shape[2] // (2 * heads)
        shape = _MemoryShape(N, L, heads, K, stride, forget_bias)
        keep, answers = torch.empty(N * _kept("memory_kept", shape)), torch.empty_like(q)
        _call("memory_forward", shape, q, kv, gates, keep, answers)
        ctx.save_for_backward(q, kv, gates, keep)
        ctx.shape = shape
        return answers

    @staticmethod
    def backward(ctx, grad):
        q, kv, gates, keep = ctx.saved_tensors
        grads = [torch.empty_like(t) for t in (q, kv, gates)]
        _call("memory_backward", ctx.shape, q, kv, gates, keep, grad.contiguous(), *grads)
        return (*grads, None, None, None)


def adam(
    theta_RxP: Tensor,
    moment1_RxP: Tensor,
    moment2_RxP: Tensor,
    grad_RxP: Tensor,
    *,
    step: Tensor,
    betas: tuple[float, float],
    rate_R: Tensor,
    rate_P: Tensor,
    epsilon_R: Tensor,
    alive_R: Tensor,
) -> Tensor:
    """`core.training.optimizer.plain_adam`."""
    finite_R = torch.empty_like(alive_R)
    _call(
        "adam", *theta_RxP.shape, int(step), *map(ctypes.c_double, betas), rate_R, rate_P,
        epsilon_R, alive_R, grad_RxP, moment1_RxP, moment2_RxP, theta_RxP, finite_R,
    )  # fmt: skip
    return finite_R
