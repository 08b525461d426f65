"""Resizing and normalization of images, with the same bits on every machine.

All sums are of whole numbers: pixels are grey levels as they come, and whole multiples of 1 / ONE
once they are resized. Such sums are exact in any order, so that an image's numbers are the same on
every machine, with every number of threads.

Axes: I images, P colour planes, V x W pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

ONE = 2**16  # full ink, or the value 1 of what isn't ink, in the whole numbers that are summed
_CHUNK = 1024  # images that are processed at a time


def resized(x_IxPxVxW: Tensor, white: int, channels: int, size: int) -> Tensor:
    """Images with the wanted colour planes and side, int32 multiples of 1 / ONE.

    Grey is the mean of the planes. Downwards pixels are averaged, upwards interpolated bilinearly.

    Args:
        x_IxPxVxW: square images in whole numbers, `white` standing for 1.
        channels: colour planes of the result.
        size: side of the result, pixels.
    """
    side = x_IxPxVxW.shape[-1]
    weight_VxW, total_V = _resizing(side, size)
    result_IxPxVxV = torch.empty(len(x_IxPxVxW), channels, size, size, dtype=torch.int32)
    for x, result in zip(x_IxPxVxW.split(_CHUNK), result_IxPxVxV.split(_CHUNK), strict=True):
        # Whole numbers below 2^53 all the way, so that float64 holds every sum exactly.
        total, parts = x.double(), white
        if channels == 1:
            total, parts = total.sum(dim=1, keepdim=True), white * x.shape[1]
        if size != side:
            total = weight_VxW @ total @ weight_VxW.T
        result.copy_((total * ONE / (total_V[:, None] * total_V * parts)).round())
    return result_IxPxVxV


def _resizing(side: int, size: int) -> tuple[Tensor, Tensor]:
    """How V = `size` pixels are made of W = `side` ones along an axis: whole-numbered weights
    weight_VxW (float64), and their sums total_V.

    Downwards a pixel is the mean of all those it overlaps (torch's adaptive_avg_pool2d). Upwards
    its centre, at (i + 1/2) side / size - 1/2 and not before the first one's, lies between two
    (torch's interpolate, bilinear, corners not aligned).
    """
    weight_VxW = torch.zeros(size, side, dtype=torch.float64)
    for i in range(size):
        if size <= side:
            weight_VxW[i, i * side // size : -(-(i + 1) * side // size)] = 1.0
        else:
            first, part = divmod(max((2 * i + 1) * side - size, 0), 2 * size)
            weight_VxW[i, first] = 2 * size - part
            weight_VxW[i, min(first + 1, side - 1)] += part
    return weight_VxW, weight_VxW.sum(dim=1)


def mean_and_deviation(x_IxPxVxW: Tensor) -> list[tuple[float, float]]:
    """Mean and sample deviation of each colour plane's whole numbers, exact to the last place.

    Sums are of int64 within a chunk and of Python's integers beyond; then there is one division.
    """
    count = x_IxPxVxW[:, 0].numel()
    totals, squares = [0] * x_IxPxVxW.shape[1], [0] * x_IxPxVxW.shape[1]
    for x in x_IxPxVxW.split(_CHUNK):
        x_PxIVW = x.long().transpose(0, 1).flatten(1)
        totals = [a + b for a, b in zip(totals, x_PxIVW.sum(dim=1).tolist(), strict=True)]
        squares = [a + b for a, b in zip(squares, (x_PxIVW**2).sum(dim=1).tolist(), strict=True)]
    return [
        (total / count, math.sqrt((count * square - total**2) / (count * max(count - 1, 1))))
        for total, square in zip(totals, squares, strict=True)
    ]


def normalized(x_IxPxVxW: Tensor, statistics: list[tuple[float, float]]) -> Tensor:
    """x_IxX float32: (x - mean) / deviation, with the (mean, deviation) of each colour plane."""
    mean_Px1x1, deviation_Px1x1 = (
        torch.tensor(statistics, dtype=torch.float64).view(-1, 2, 1, 1).unbind(1)
    )
    result_IxX = torch.empty(len(x_IxPxVxW), x_IxPxVxW[0].numel())
    for x, result in zip(x_IxPxVxW.split(_CHUNK), result_IxX.split(_CHUNK), strict=True):
        result.copy_(((x.double() - mean_Px1x1) / deviation_Px1x1).flatten(1))
    return result_IxX
