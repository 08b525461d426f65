"""What the two kinds of target mean for a model: how they become tokens, what a prediction costs,
and how good it is."""

from __future__ import annotations

import torch
from torch import Tensor

from metaphase.core.kernels.operations import cross_entropy
from metaphase.core.tasks import Classes, Reals

SCORE_UNIT = 2**15  # parts in which scores of real targets are counted, see `scores`


def embeddable(target: Classes | Reals, y_RxBxT: Tensor, dtype: torch.dtype) -> Tensor:
    """y_RxBxTxN: targets as numbers that a linear map takes; of classes one-hot vectors."""
    if isinstance(target, Classes):
        return (y_RxBxT[..., None] == torch.arange(target.count, device=y_RxBxT.device)).to(dtype)
    return y_RxBxT.to(dtype)


def loss(target: Classes | Reals, outputs_RxBxTxN: Tensor, y_RxBxT: Tensor) -> Tensor:
    """loss_RxBxT of each prediction: cross-entropy, nats; or the mean squared error of its
    numbers."""
    if isinstance(target, Classes):
        return cross_entropy(outputs_RxBxTxN, y_RxBxT)
    squared_RxBxTxN = (outputs_RxBxTxN - y_RxBxT).square()
    return squared_RxBxTxN.mean(dim=-1)


def score(target: Reals, outputs: Tensor, y: Tensor) -> Tensor:
    """How much of a guess' squared error each prediction does without, at least nothing: the mean
    over a target's numbers, the last axis of outputs and y, of max(0, 1 - (output - y)^2 /
    variance), in [0, 1]; float32, without that axis: RxBxT where they are RxBxTxN."""
    share = (1.0 - (outputs - y).square() / target.variance).clamp(min=0.0)
    return share.mean(dim=-1)


def scores(target: Classes | Reals, outputs_RxBxTxN: Tensor, y_RxBxT: Tensor) -> Tensor:
    """score_RxBxT of each prediction in whole parts, so that sums are exact in any order: whether a
    class is right (bool, one part); of real numbers `score`, in parts of SCORE_UNIT (int64)."""
    if isinstance(target, Classes):
        return outputs_RxBxTxN.argmax(dim=-1) == y_RxBxT
    return (score(target, outputs_RxBxTxN, y_RxBxT) * SCORE_UNIT).round().long()


def score_unit(target: Classes | Reals) -> int:
    """Parts that `scores` has of a perfect prediction."""
    return 1 if isinstance(target, Classes) else SCORE_UNIT
