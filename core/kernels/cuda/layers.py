"""Blocks of a residual stream, one after the other: matrix products of PyTorch's, and between them
kernels that read and write each number once.

Wider models than those whose blocks fit on the chip (`core.kernels.cuda.attention`, `mlp`) spend
their time on moving what stands between products. As one function with a backward pass of its own,
the blocks need no casts, no copies of gradients from three matrices into one, and no sums of the
residual stream apart from the norms that read them. In units of a token's D numbers in bf16, with
HK = D and M = 4 D, a layer moves 40 forward and 65 backward:

    forward   norms 6 + 6, queries to values 4, mixing 4, output 2, units 5, ReLU 8, output 5
    backward  norms 7 + 7, of the MLP 10 + 12 + 10, of attention 4 + 7 + 8, weights not counted

Kept for the backward pass are operands of products, 10 of those numbers a token and layer: normed
tokens twice, queries, keys, values and their mix, and hidden units. Weights are cast once.

The plain twins are `core.architectures.blocks.plain_layers` and `plain_read_out`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from metaphase.core.fast_paths import Twin
from metaphase.core.kernels.attention_shape import AttentionShape
from metaphase.core.kernels.cuda import mixing, rows
from metaphase.core.kernels.cuda.common import FIRST_CAPABILITY, Precision, limits
from metaphase.core.kernels.operations import product

_OPERANDS = {"bf16": torch.bfloat16, "tf32": torch.float32, "fp32": torch.float32}


def supports(h: Tensor, shapes: Sequence[AttentionShape | None], precision: Precision) -> bool:
    """Return whether `fused_layers` fits on the chip and is worth it."""
    if limits(h.device).capability < FIRST_CAPABILITY or h.shape[2] > rows.MAX_WIDTH:
        return False
    attentions = [shape for shape in shapes if shape is not None]
    return precision in ("bf16", "tf32") and all(
        mixing.supports(h.device, shape, precision) for shape in attentions
    )


class _Layers(torch.autograd.Function):
    """Of each block the operands of its products are kept, in the order in which it makes them, if
    there will be a backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        h: Tensor,
        shapes: Sequence[AttentionShape | None],
        precision: Precision,
        twin: Twin | None,
        keeps: bool,
        *weights: Tensor,
    ) -> Tensor:
        ctx.shapes, ctx.precision, ctx.twin = shapes, precision, twin
        dtype = _OPERANDS[precision]
        kept = [h, *weights]
        sums, delta = h.contiguous(), None
        for shape, first, second, third in zip(
            shapes, weights[::3], weights[1::3], weights[2::3], strict=True
        ):
            sums, normed, inverse = rows.norm(sums, delta, dtype)
            last = third.to(dtype)
            if shape is None:
                into = first.to(dtype)
                middle = [rows.activate(product(normed, into), second)]
            else:
                into = _packed(first, second, dtype)
                qkv = product(normed, into)
                middle = [mixing.mix(qkv, shape, precision), qkv]
            delta = product(middle[0], last)
            if keeps:
                kept += [normed, inverse, into, last, *middle]
        ctx.save_for_backward(*kept)
        return sums if delta is None else sums + delta

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        [d_y] = grads
        count = 1 + 3 * len(ctx.shapes)
        tensors = ctx.saved_tensors[:count]
        try:
            d_h, *d_weights = _Layers._gradients(ctx, d_y, ctx.saved_tensors[count:])
        except Exception as error:
            if ctx.twin is None:
                raise
            bf16 = ctx.precision == "bf16"
            d_h, *d_weights = ctx.twin.gradients(tensors, d_y, bf16, error)
        return d_h, None, None, None, None, *d_weights

    @staticmethod
    def _gradients(ctx: Any, d_y: Tensor, kept: Sequence[Tensor]) -> list[Tensor]:
        left = list(kept)
        d_h = d_y.float().contiguous()
        grad = d_h.to(_OPERANDS[ctx.precision])  # the operand
        d_weights: list[Tensor] = []
        for number, shape in reversed(list(enumerate(ctx.shapes))):
            size = 5 if shape is None else 6
            [normed, inverse, into, last, mixed, *rest], left = left[-size:], left[:-size]
            d_mixed = product(grad, last.mT)
            d_last = product(mixed.mT, grad)
            if shape is None:
                d_inner, d_bias = rows.activate_backward(d_mixed, mixed)
            else:
                d_inner = mixing.mix_backward(d_mixed, rest[0], shape, ctx.precision)
            d_into = product(normed.mT, d_inner).float()
            if shape is None:
                own = [d_into, d_bias]
            else:
                HK = mixed.shape[2]
                own = list(d_into.split([HK, 2 * HK], dim=2))
            d_weights = [*own, d_last.float(), *d_weights]
            d_normed = product(d_inner, into.mT)
            d_h, grad = rows.norm_backward(d_normed, normed, inverse, d_h, operand=number > 0)
        return [d_h, *d_weights]


def _packed(q: Tensor, kv: Tensor, dtype: torch.dtype) -> Tensor:
    """The weights of queries, keys and values beside one another: R x D x 3HK."""
    R, D, HK = q.shape
    packed = torch.empty(R, D, 3 * HK, dtype=dtype, device=q.device)
    packed[:, :, :HK].copy_(q)
    packed[:, :, HK:].copy_(kv)
    return packed


def fused_layers(
    h: Tensor,
    shapes: Sequence[AttentionShape | None],
    weights: Sequence[Tensor],
    precision: Precision = "bf16",
    twin: Twin | None = None,
) -> Tensor:
    """Compute `core.architectures.blocks.plain_layers`, of blocks that `supports` takes.

    Args:
        precision: that of the operands of all products, and of what is kept for the backward pass;
            sums are float32.
        twin: what computes the gradients if a kernel can't; None: its error is raised.
    """
    keeps = torch.is_grad_enabled() and any(t.requires_grad for t in (h, *weights))
    result: Tensor = _Layers.apply(h.float(), tuple(shapes), precision, twin, keeps, *weights)
    return result


class _ReadOut(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, h: Tensor, weight: Tensor, precision: Precision, twin: Twin | None
    ) -> Tensor:
        dtype = _OPERANDS[precision]
        _, normed, inverse = rows.norm(h.contiguous(), None, dtype)
        operand = weight.to(dtype)
        ctx.save_for_backward(h, weight, normed, inverse, operand)
        ctx.precision, ctx.twin = precision, twin
        return product(normed, operand)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        [d_y] = grads
        h, weight, normed, inverse, operand = ctx.saved_tensors
        try:
            grad = d_y.to(normed.dtype)
            d_normed = product(grad, operand.mT)
            d_h, _ = rows.norm_backward(d_normed, normed, inverse, None, operand=False)
            results: tuple[Tensor, ...] = (d_h, product(normed.mT, grad).float())
        except Exception as error:
            if ctx.twin is None:
                raise
            bf16 = ctx.precision == "bf16"
            results = ctx.twin.gradients((h, weight), d_y, bf16, error)
        return *results, None, None


def fused_read_out(
    h: Tensor, weight: Tensor, precision: Precision = "bf16", twin: Twin | None = None
) -> Tensor:
    """Compute `core.architectures.blocks.plain_read_out`, in the type of the product's operands;
    arguments as in `fused_layers`."""
    result: Tensor = _ReadOut.apply(h.float(), weight, precision, twin)
    return result
