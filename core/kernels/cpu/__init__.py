"""The CPU's own kernels (the .c files here), as PyTorch functions.

Their bits are fixed (vectors.h): the same alone and in a pack, and on every CPU that has fused
multiply-adds. Each has a plain twin in PyTorch, named in its docstring, which runs on other
devices, in other precisions, and where there is no compiler. METAPHASE_NATIVE=0 switches them off.

Axes beside the usual ones: I, J and O as in `core.kernels.operations`, M hidden units, P columns of
a stack's flat buffers, Q tokens whose outputs are computed.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any

import torch
from torch import Tensor

from metaphase.core.kernels.cpu.calls import (
    available,
    call,
    empty,
    kept,
    padded,
    replica_strides,
    serves,
    struct,
)

__all__ = [
    "LSTM",
    "MLP",
    "Attention",
    "CrossEntropy",
    "LayerNorm",
    "Memory",
    "Product",
    "RowMeans",
    "adam",
    "available",
    "clip",
    "multiply",
    "normals",
    "serves",
    "weighted_sums",
]

Gradients = tuple[Tensor | None, ...]


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
    result = empty(len(seed_M), rows, columns)
    words = [t.contiguous() for t in (seed_M, low_M, high_M)]
    sizes = (len(seed_M), rows, columns, ctypes.c_uint32(purpose))
    call("normals", *sizes, *words, ctypes.c_float(scale), result)
    return result


_ProductShape = struct(
    "_ProductShape",
    **dict.fromkeys(("batch", "m", "n", "depth"), ctypes.c_int64),
    **dict.fromkeys(("a_batch", "a_row", "a_column"), ctypes.c_int64),
    **dict.fromkeys(("b_batch", "b_row", "b_column", "c_batch", "c_row"), ctypes.c_int64),
)


def multiply(a_GxIxJ: Tensor, b_GxJxO: Tensor, out_GxIxO: Tensor | None = None) -> Tensor:
    """torch.bmm of any strides, not differentiable; `out`, if any, is contiguous."""
    batch, m, depth = a_GxIxJ.shape
    n = b_GxJxO.shape[2]
    assert b_GxJxO.shape[:2] == (batch, depth)
    c_GxIxO = empty(batch, m, n) if out_GxIxO is None else out_GxIxO
    assert c_GxIxO.shape == (batch, m, n)
    assert c_GxIxO.is_contiguous()
    shape = _ProductShape(batch, m, n, depth, *a_GxIxJ.stride(), *b_GxJxO.stride(), m * n, n)
    call("products", shape, a_GxIxJ, b_GxJxO, c_GxIxO)
    return c_GxIxO


class Product(torch.autograd.Function):
    """torch.bmm: a_GxIxJ, b_GxJxO -> G x I x O."""

    @staticmethod
    def forward(ctx: Any, a_GxIxJ: Tensor, b_GxJxO: Tensor) -> Tensor:
        ctx.save_for_backward(a_GxIxJ, b_GxJxO)
        return multiply(a_GxIxJ, b_GxJxO)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Gradients:
        [grad_GxIxO] = grads
        a_GxIxJ, b_GxJxO = ctx.saved_tensors
        of_a, of_b = ctx.needs_input_grad
        return (
            multiply(grad_GxIxO, b_GxJxO.mT) if of_a else None,
            multiply(a_GxIxJ.mT, grad_GxIxO) if of_b else None,
        )


class LayerNorm(torch.autograd.Function):
    """`core.kernels.operations.plain_layer_norm`, over the last axis."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        rows, D = x.numel() // x.shape[-1], x.shape[-1]
        y, rstd_I = torch.empty_like(x), empty(rows)
        call("norm_forward", rows, D, x, y, rstd_I)
        ctx.save_for_backward(y, rstd_I)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Gradients:
        y, rstd_I = ctx.saved_tensors
        grad, grad_x = grads[0].contiguous(), torch.empty_like(y)
        call("norm_gradient", len(rstd_I), y.shape[-1], y, rstd_I, grad, grad_x)
        return (grad_x,)


class CrossEntropy(torch.autograd.Function):
    """`core.kernels.operations.plain_cross_entropy`: logits_IxC, y_I -> loss_I, nats."""

    @staticmethod
    def forward(ctx: Any, logits_IxC: Tensor, y_I: Tensor) -> Tensor:
        logits_IxC, y_I = logits_IxC.contiguous(), y_I.contiguous()
        p_IxC, loss_I = torch.empty_like(logits_IxC), empty(len(logits_IxC))
        call("cross_entropy", *logits_IxC.shape, logits_IxC, y_I, p_IxC, loss_I)
        ctx.save_for_backward(p_IxC, y_I)
        return loss_I

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Gradients:
        p_IxC, y_I = ctx.saved_tensors
        grad_I, grad_logits_IxC = grads[0].contiguous(), torch.empty_like(p_IxC)
        call("cross_entropy_gradient", *p_IxC.shape, p_IxC, y_I, grad_I, grad_logits_IxC)
        return grad_logits_IxC, None


class RowMeans(torch.autograd.Function):
    """x_RxI -> mean_R in float64, the terms added in their order."""

    @staticmethod
    def forward(ctx: Any, x_RxI: Tensor) -> Tensor:
        x_RxI = x_RxI.contiguous()
        ctx.shape, mean_R = x_RxI.shape, empty(len(x_RxI), dtype=torch.float64)
        call("row_means", *x_RxI.shape, x_RxI, mean_R)
        return mean_R

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Gradients:
        [grad_R] = grads
        return ((grad_R / ctx.shape[1]).float()[:, None].expand(ctx.shape),)


_AttentionShape = struct(
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
    def forward(
        ctx: Any,
        h_RxBLxD: Tensor,
        q_RxDxHK: Tensor,
        kv_RxDx2HK: Tensor,
        out_RxHKxD: Tensor,
        L: int,
        heads: int,
        K: int,
        stride: int,
        rotation_LxKx2: Tensor | None,
    ) -> Tensor:
        h_RxBLxD = h_RxBLxD.contiguous()
        weights = (q_RxDxHK, kv_RxDx2HK, out_RxHKxD)
        R, BL, D = h_RxBLxD.shape
        B, Q = BL // L, -(-L // stride)
        rotation = None if rotation_LxKx2 is None else rotation_LxKx2.data_ptr()
        shape = _AttentionShape(R, B, L, D, heads, K, stride, rotation)
        keep = empty(B * R * kept("attention_kept", shape))
        result_RxBQxD = empty(R, B * Q, D)
        strides = replica_strides(*weights)
        call("attention_forward", shape, h_RxBLxD, *weights, strides, keep, result_RxBQxD)
        ctx.save_for_backward(h_RxBLxD, *weights, keep, rotation_LxKx2)
        ctx.shape, ctx.strides = shape, strides
        return result_RxBQxD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Gradients:
        *operands, keep, _ = ctx.saved_tensors  # the rotation is kept alive for the shape
        results = [empty(*t.shape) for t in operands]
        grad_RxBQxD = grads[0].contiguous()
        call(
            "attention_backward", ctx.shape, *operands, ctx.strides, keep, grad_RxBQxD, *results
        )  # fmt: skip
        return (*results, None, None, None, None, None)


class MLP(torch.autograd.Function):
    """`core.architectures.blocks.plain_mlp`."""

    @staticmethod
    def forward(
        ctx: Any, h_RxBLxD: Tensor, up_RxDxM: Tensor, bias_Rx1xM: Tensor, down_RxMxD: Tensor
    ) -> Tensor:
        h_RxBLxD = h_RxBLxD.contiguous()
        weights = (up_RxDxM, bias_Rx1xM, down_RxMxD)
        sizes = (*h_RxBLxD.shape, up_RxDxM.shape[2])
        hidden = empty(math.prod(h_RxBLxD.shape[:2]) * padded(up_RxDxM.shape[2]))
        result_RxBLxD = torch.empty_like(h_RxBLxD)
        strides = replica_strides(*weights)
        call("mlp_forward", *sizes, h_RxBLxD, *weights, strides, hidden, result_RxBLxD)
        ctx.save_for_backward(h_RxBLxD, up_RxDxM, down_RxMxD, hidden)
        ctx.sizes, ctx.strides, ctx.bias_shape = sizes, strides, bias_Rx1xM.shape
        return result_RxBLxD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Gradients:
        h_RxBLxD, up_RxDxM, down_RxMxD, hidden = ctx.saved_tensors
        shapes = (h_RxBLxD.shape, up_RxDxM.shape, ctx.bias_shape, down_RxMxD.shape)
        results = [empty(*shape) for shape in shapes]
        operands = (h_RxBLxD, up_RxDxM, down_RxMxD, ctx.strides, hidden, grads[0].contiguous())
        call("mlp_backward", *ctx.sizes, *operands, *results)
        return tuple(results)


_LSTMShape = struct(
    "_LSTMShape",
    **dict.fromkeys(("replicas", "sequences", "L", "D", "weights"), ctypes.c_int64),
)


class LSTM(torch.autograd.Function):
    """`core.architectures.lstm.plain_scan`: a_RxBxLx4D, w_RxDx4D -> h_RxBxLxD."""

    @staticmethod
    def forward(ctx: Any, a_RxBxLx4D: Tensor, w_RxDx4D: Tensor) -> Tensor:
        a_RxBxLx4D, w_RxDx4D = a_RxBxLx4D.contiguous(), w_RxDx4D.contiguous()
        (R, B, L, _), D = a_RxBxLx4D.shape, w_RxDx4D.shape[1]
        shape = _LSTMShape(R, B, L, D, w_RxDx4D.stride(0))
        keep = empty(R * kept("lstm_kept", shape))
        h_RxBxLxD = empty(R, B, L, D)
        call("lstm_forward", shape, a_RxBxLx4D, w_RxDx4D, keep, h_RxBxLxD)
        ctx.save_for_backward(w_RxDx4D, h_RxBxLxD, keep)
        ctx.shape = shape
        return h_RxBxLxD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Gradients:
        w_RxDx4D, h_RxBxLxD, keep = ctx.saved_tensors
        grad_RxBxLxD = grads[0].contiguous()
        grad_a_RxBxLx4D = empty(*h_RxBxLxD.shape[:3], 4 * h_RxBxLxD.shape[3])
        grad_w_RxDx4D = torch.empty_like(w_RxDx4D)
        operands = (w_RxDx4D, h_RxBxLxD, keep, grad_RxBxLxD)
        call("lstm_backward", ctx.shape, *operands, grad_a_RxBxLx4D, grad_w_RxDx4D)
        return grad_a_RxBxLx4D, grad_w_RxDx4D


_MemoryShape = struct(
    "_MemoryShape",
    **dict.fromkeys(("sequences", "L", "heads", "K", "stride"), ctypes.c_int64),
    forget_bias=ctypes.c_float,
)


class Memory(torch.autograd.Function):
    """`core.architectures.outer_product_memory.plain_answers`, with the same arguments and the bias
    of the forget gates."""

    @staticmethod
    def forward(
        ctx: Any,
        q_RBxQxHK: Tensor,
        kv_RBxLx2HK: Tensor,
        gates_RBxLx2H: Tensor,
        heads: int,
        stride: int,
        forget_bias: float,
    ) -> Tensor:
        operands = [t.contiguous() for t in (q_RBxQxHK, kv_RBxLx2HK, gates_RBxLx2H)]
        sequences, L, columns = kv_RBxLx2HK.shape
        shape = _MemoryShape(sequences, L, heads, columns // (2 * heads), stride, forget_bias)
        keep = empty(sequences * kept("memory_kept", shape))
        answers_RBxQxHK = torch.empty_like(operands[0])
        call("memory_forward", shape, *operands, keep, answers_RBxQxHK)
        ctx.save_for_backward(*operands, keep)
        ctx.shape = shape
        return answers_RBxQxHK

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Gradients:
        *operands, keep = ctx.saved_tensors
        results = [torch.empty_like(t) for t in operands]
        call("memory_backward", ctx.shape, *operands, keep, grads[0].contiguous(), *results)
        return (*results, None, None, None)


def weighted_sums(
    sums_GxI: Tensor, log_IxN: Tensor, moments_GxN: Tensor, above_I: Tensor, limit_I: Tensor,
    least: float,
) -> None:  # fmt: skip
    """`core.evaluation.posterior.plain_weighted_sums`, of float64 on the CPU. `sums_GxI` may be
    columns of a larger matrix; `log_IxN` is overwritten."""
    (rows, tasks), moments = log_IxN.shape, len(moments_GxN)
    assert sums_GxI.stride(1) == 1
    assert all(t.is_contiguous() for t in (log_IxN, moments_GxN, above_I, limit_I))
    sizes = rows, tasks, moments, sums_GxI.stride(0), ctypes.c_double(least)
    call("weighted_sums", *sizes, above_I, limit_I, log_IxN, moments_GxN, sums_GxI)


def clip(grad_RxP: Tensor, limit_R: Tensor) -> None:
    """`core.training.optimizer.plain_clip`; P is a multiple of 16."""
    assert grad_RxP.shape[1] == padded(grad_RxP.shape[1])
    call("clip", *grad_RxP.shape, limit_R, grad_RxP)


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
    decay_R: Tensor | None = None,
) -> Tensor:
    """`core.training.optimizer.plain_adam`."""
    finite_R = torch.empty_like(alive_R)
    call(
        "adam", *theta_RxP.shape, int(step), *map(ctypes.c_double, betas), rate_R, rate_P,
        decay_R, epsilon_R, alive_R, grad_RxP, moment1_RxP, moment2_RxP, theta_RxP, finite_R,
    )  # fmt: skip
    return finite_R
