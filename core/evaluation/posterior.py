"""Posterior means over the tasks trained on, whose prior is uniform, without a tensor that has a
place for each task.

Tasks are gone through in chunks: what is kept of them is, for each position, a sum of weights and
of weighted moments, relative to a running maximum of the log-likelihoods (the log-sum-exp of
Milakov and Gimelshein 2018, "Online normalizer calculation for softmax", algorithm 3), in float64.

Axes: I positions of all sequences, n tasks of a chunk, K statistics, G moments.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from metaphase.core.kernels import cpu

TASKS_AT_ONCE = 2**9  # a chunk of tasks
_ROWS_AT_ONCE = 2**9  # positions that meet a chunk: their weights take 2 MB
_ROOM = 500.0  # a weight may be exp of this before all are scaled down; float64 holds exp(709)
# Weights are at least exp of this of the largest: numbers that are nearly 0 take ten times as long.
_NOTHING = -600.0
# What is at most exp of this of the largest weight so far is left out where a chunk has nothing
# larger: 2^32 tasks together are then 1e-13 of the sum.
_NEGLIGIBLE = -52.0


def posterior_means(statistics_IxK: Tensor, tasks: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """mean_IxG: sum_n w_n g_n / sum_n w_n with w_n = exp(s . k_n), float64.

    Args:
        statistics_IxK: s of each position, float64.
        tasks: (k_nxK, g_nxG) of a chunk of tasks, again and again; float64.
    """
    count = len(statistics_IxK)
    one_Ix1 = statistics_IxK.new_ones(count, 1)
    # One more statistic subtracts the running maximum, one more moment adds up the weights.
    shifted_IxK1 = torch.cat([statistics_IxK, 0.0 * one_Ix1], dim=1)
    # The largest log-likelihood so far, above the maximum subtracted.
    best_I = statistics_IxK.new_full((count,), -torch.inf)
    sums_G1xI: Tensor | None = None
    buffer = statistics_IxK.new_empty(_ROWS_AT_ONCE * TASKS_AT_ONCE)
    for natural_nxK, moments_nxG in tasks:
        one_nx1 = natural_nxK.new_ones(len(natural_nxK), 1)
        natural_K1xn = torch.cat([natural_nxK, one_nx1], dim=1).mT.contiguous()
        moments_G1xn = torch.cat([moments_nxG, one_nx1], dim=1).mT.contiguous()
        begins = sums_G1xI is None
        if sums_G1xI is None:
            sums_G1xI = statistics_IxK.new_zeros(len(moments_G1xn), count)
        for first in range(0, count, _ROWS_AT_ONCE):
            rows = slice(first, first + _ROWS_AT_ONCE)
            block_IxK1 = shifted_IxK1[rows]
            room = buffer[: len(block_IxK1) * natural_K1xn.shape[1]]  # new memory takes time
            log_IxN = torch.mm(block_IxK1, natural_K1xn, out=room.view(len(block_IxK1), -1))
            above_I = log_IxN.amax(dim=1)
            if begins or bool((above_I > _ROOM).any()):
                raised_I = above_I if begins else above_I.clamp(min=0.0)
                log_IxN -= raised_I[:, None]
                if not begins:
                    sums_G1xI[:, rows] *= torch.exp(-raised_I)
                shifted_IxK1[rows, -1] -= raised_I
                above_I, best_I[rows] = above_I - raised_I, best_I[rows] - raised_I
            best_I[rows] = torch.maximum(best_I[rows], above_I)
            # Late in sequences few tasks are left: most chunks add nothing to most positions.
            limit_I = best_I[rows] + _NEGLIGIBLE
            _add_weighted_sums(sums_G1xI[:, rows], log_IxN, moments_G1xn, above_I, limit_I)
    assert sums_G1xI is not None, "there are no tasks"
    return (sums_G1xI[:-1] / sums_G1xI[-1]).mT


def _add_weighted_sums(
    sums_GxI: Tensor, log_IxN: Tensor, moments_GxN: Tensor, above_I: Tensor, limit_I: Tensor
) -> None:
    own = log_IxN.device.type == "cpu" and cpu.available()
    add = cpu.weighted_sums if own else plain_weighted_sums
    add(sums_GxI, log_IxN, moments_GxN, above_I, limit_I, _NOTHING)


def plain_weighted_sums(
    sums_GxI: Tensor, log_IxN: Tensor, moments_GxN: Tensor, above_I: Tensor, limit_I: Tensor,
    least: float,
) -> None:  # fmt: skip
    """Adds the sums over tasks of moments, weighted by exponentials, to those positions whose
    largest logarithm is above their limit; the definition.

    Args:
        log_IxN: overwritten.
        above_I: the largest of each position.
        least: logarithms count as at least this.
    """
    left_I = (~(above_I <= limit_I)).nonzero()[:, 0]
    weight_IxN = log_IxN[left_I].clamp_(min=least).exp_()
    sums_GxI.index_add_(1, left_I, moments_GxN @ weight_IxN.mT)
