"""Operations on stacked tensors that models are built of.

On a CPU, in float32, they run kernels of our own, whose bits are fixed (`core.kernels.cpu`);
elsewhere PyTorch's. Nothing here mixes replicas.

Axes beside the usual ones: I, J and O are rows, inner size and columns of a matrix product,
whatever they stand for; G is a batch.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from metaphase.core.kernels import cpu

EPSILON = 1e-5  # of layer norm, PyTorch's default


def product(a_RxIxJ: Tensor, b_RxJxO: Tensor) -> Tensor:
    """Each replica's matrix product, R x I x O, of any strides."""
    if cpu.serves(a_RxIxJ):
        product_RxIxO: Tensor = cpu.Product.apply(a_RxIxJ, b_RxJxO)
        return product_RxIxO
    if a_RxIxJ.device.type != "cpu":
        return torch.bmm(a_RxIxJ, b_RxJxO)
    # A replica at a time, from memory of its own: libraries sum a batch of one in another order.
    pairs = zip(a_RxIxJ.unbind(), b_RxJxO.unbind(), strict=True)
    return torch.stack([torch.mm(a.clone(), b.clone()) for a, b in pairs])


def batched_product(a_GxIxJ: Tensor, b_GxJxO: Tensor) -> Tensor:
    """torch.bmm where there is no kernel of ours. On a CPU it never gets a batch of one, which
    libraries sum in another order."""
    if len(a_GxIxJ) > 1 or a_GxIxJ.device.type != "cpu":
        return torch.bmm(a_GxIxJ, b_GxJxO)
    return torch.bmm(a_GxIxJ.expand(2, -1, -1), b_GxJxO.expand(2, -1, -1))[:1]


def add_rows(x_RxIxD: Tensor, row_Rx1xD: Tensor) -> Tensor:
    """Adds a replica's row to each of its rows."""
    sum_RxIxD: Tensor = _AddRows.apply(x_RxIxD, row_Rx1xD)
    return sum_RxIxD


class _AddRows(torch.autograd.Function):
    """On a CPU the gradient of the row, which is a sum of rows, is a product like all others."""

    @staticmethod
    def forward(ctx: Any, x_RxIxD: Tensor, row_Rx1xD: Tensor) -> Tensor:
        return x_RxIxD + row_Rx1xD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        [grad_RxIxD] = grads
        if grad_RxIxD.device.type != "cpu":
            return grad_RxIxD, grad_RxIxD.sum(dim=1, keepdim=True)
        R, rows, _ = grad_RxIxD.shape
        one_Rx1xI = grad_RxIxD.new_ones(1, 1, 1).expand(R, 1, rows)
        return grad_RxIxD, product(one_Rx1xI, grad_RxIxD)


def layer_norm(x: Tensor) -> Tensor:
    """Layer norm over the last axis, without parameters (Ba, Kiros and Hinton 2016)."""
    normed: Tensor = cpu.LayerNorm.apply(x) if cpu.serves(x) else plain_layer_norm(x)
    return normed


def plain_layer_norm(x: Tensor) -> Tensor:
    """The definition of `layer_norm`."""
    return F.layer_norm(x, x.shape[-1:], eps=EPSILON)


def cross_entropy(logits_RxBxTxC: Tensor, y_RxBxT: Tensor) -> Tensor:
    """loss_RxBxT: the cross-entropy of each prediction, nats, float32; NaN where y is no class."""
    logits_IxC, y_I = logits_RxBxTxC.flatten(0, 2), y_RxBxT.flatten()
    function = cpu.CrossEntropy.apply if cpu.serves(logits_IxC) else plain_cross_entropy
    loss_I: Tensor = function(logits_IxC, y_I)
    return loss_I.view(y_RxBxT.shape)


def plain_cross_entropy(logits_IxC: Tensor, y_I: Tensor) -> Tensor:
    """The definition of `cross_entropy`, of rows of logits: a label that is no class loses NaN and
    has no gradient."""
    class_I = y_I.clamp(0, logits_IxC.shape[1] - 1)
    loss_I = F.cross_entropy(logits_IxC, class_I, reduction="none")
    return loss_I.masked_fill(class_I != y_I, torch.nan)


def row_means(x_RxI: Tensor) -> Tensor:
    """mean_R: the mean of each row, float64."""
    if cpu.serves(x_RxI):
        mean_R: Tensor = cpu.RowMeans.apply(x_RxI)
        return mean_R
    return x_RxI.mean(dim=1, dtype=torch.float64)
