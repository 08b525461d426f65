"""Operations on stacked tensors that models are built of.

On a CPU, in float32, they run kernels of our own, whose bits are fixed (`core.kernels.cpu`);
elsewhere PyTorch's. Nothing here mixes replicas."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from metaphase.core.kernels import cpu

EPSILON = 1e-5  # of layer norm, PyTorch's default


def product(a_RxMxK: Tensor, b_RxKxN: Tensor) -> Tensor:
    """Each replica's matrix product, R x M x N, of any strides."""
    if cpu.serves(a_RxMxK):
        return cpu.Product.apply(a_RxMxK, b_RxKxN)
    if a_RxMxK.device.type != "cpu":
        return torch.bmm(a_RxMxK, b_RxKxN)
    # A replica at a time, from memory of its own: libraries sum a batch of one in another order.
    pairs = zip(a_RxMxK.unbind(), b_RxKxN.unbind(), strict=True)
    return torch.stack([torch.mm(a.clone(), b.clone()) for a, b in pairs])


def products(a_MxQxK: Tensor, b_MxKxS: Tensor) -> Tensor:
    """torch.bmm for what has no kernel of ours; no batch of one on a CPU, as `product` says why."""
    if len(a_MxQxK) > 1 or a_MxQxK.device.type != "cpu":
        return torch.bmm(a_MxQxK, b_MxKxS)
    return torch.bmm(a_MxQxK.expand(2, -1, -1), b_MxKxS.expand(2, -1, -1))[:1]


def add_rows(x_RxNxD: Tensor, row_Rx1xD: Tensor) -> Tensor:
    """x plus the same row everywhere."""
    return _AddRows.apply(x_RxNxD, row_Rx1xD)


class _AddRows(torch.autograd.Function):
    """On a CPU the sum of rows, which the row's gradient is, is a product as all others."""

    @staticmethod
    def forward(ctx, x, row):
        return x + row

    @staticmethod
    def backward(ctx, grad):
        if grad.device.type != "cpu":
            return grad, grad.sum(dim=1, keepdim=True)
        return grad, product(grad.new_ones(1, 1, 1).expand(len(grad), 1, grad.shape[1]), grad)


def layer_norm(x: Tensor) -> Tensor:
    """Over the last axis, without parameters (Ba, Kiros and Hinton 2016)."""
    return cpu.LayerNorm.apply(x) if cpu.serves(x) else plain_layer_norm(x)


def plain_layer_norm(x: Tensor) -> Tensor:
    """The definition of `layer_norm`."""
    return F.layer_norm(x, x.shape[-1:], eps=EPSILON)


def cross_entropy(logits_RxBxTxC: Tensor, y_RxBxT: Tensor) -> Tensor:
    """Of each prediction, nats: R x B x T, float32."""
    logits, y = logits_RxBxTxC.flatten(0, 2), y_RxBxT.flatten()
    function = cpu.CrossEntropy.apply if cpu.serves(logits) else plain_cross_entropy
    return function(logits, y).view(y_RxBxT.shape)


def plain_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """The definition of `cross_entropy`, of rows of logits."""
    return F.cross_entropy(logits, y, reduction="none")


def row_means(x_RxN: Tensor) -> Tensor:
    """The mean of each row, float64."""
    if cpu.serves(x_RxN):
        return cpu.RowMeans.apply(x_RxN)
    return x_RxN.mean(dim=1, dtype=torch.float64)
