"""Sums over what comes before each position of a sequence, of which predictors are made."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def sums_before(term_BxT: Tensor) -> Tensor:
    """Sums of the terms before each position, of the second axis; any axes may follow."""
    sums = term_BxT.new_zeros(term_BxT.shape)
    sums[:, 1:] = term_BxT[:, :-1].cumsum(dim=1)
    return sums


def one_hot(y_BxT: Tensor, count: int) -> Tensor:
    """1 at each class and 0 elsewhere, float64, BxTxC."""
    hot_BxTxC = y_BxT.new_zeros(*y_BxT.shape, count).double()
    return hot_BxTxC.scatter_(-1, y_BxT[..., None], 1.0)


def logarithm(p: Tensor) -> Tensor:
    """log p, of a p that float32 can't tell from 0 that of 2^-24: finite, so that a count of 0
    times it is 0."""
    return p.clamp(min=2.0**-24).log()
