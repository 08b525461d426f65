"""Whether the kernels compute the bits here that they compute everywhere.

They are written so that neither compiler nor CPU shows in a number (vectors.h). A compiler that
takes liberties all the same would break two promises unseen: that a cell alone is the cell in its
pack, and that it is the same on every machine. So every process runs each kernel once, on small
inputs.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from metaphase.core.kernels import cpu

logger = logging.getLogger(__name__)

EXPECTED = 0x6502C356  # what `bits` gives on every machine


@lru_cache(maxsize=1)
def warn_once() -> None:
    """Logs one line if the numbers of this machine are its own."""
    if cpu.available() and bits() != EXPECTED:
        logger.warning(
            "the CPU kernels that this compiler has built compute other bits than elsewhere: "
            "numbers are this machine's own, and may depend on the pack"
        )


def bits() -> int:
    """A checksum of what all kernels make of small inputs, forward and backward, of three replicas
    together and of each alone."""
    checksum = 0
    with torch.device("cpu"):
        for result in _results():
            checksum = zlib.crc32(result.detach().contiguous().numpy().tobytes(), checksum)
    return checksum


def _results() -> Iterator[Tensor]:
    for some in (slice(0, 3), slice(0, 1), slice(1, 2), slice(2, 3)):
        draw = _Draw(torch.arange(3)[some])
        heads, D, L = 2, 19, 9  # awkward sizes: no multiples of a vector
        h, weights = draw(2 * L, D), (draw(D, 10), draw(D, 20), draw(10, D))
        rotation = torch.stack([draw(L, 2)[0], draw(L, 2)[0]], dim=-1)
        yield from _both(cpu.Attention, (h, *weights), L, heads, 5, 2, None)
        yield from _both(cpu.Attention, (draw(L, D), draw(D, 8), draw(D, 16), draw(8, D)),
                         L, heads, 4, 1, rotation)  # fmt: skip
        yield from _both(cpu.MLP, (h, draw(D, 37), draw(1, 37), draw(37, D)))
        yield from _both(cpu.Product, (draw(300, 7), draw(7, 21)))
        yield from _both(cpu.LayerNorm, (h,))
        yield from _both(cpu.LSTM, (draw(2 * L, 4 * D).view(-1, 2, L, 4 * D), draw(D, 4 * D)))
        memory = (draw(5, 10), draw(L, 20), draw(L, 4))
        yield from _both(cpu.Memory, memory, heads, 2, 4.0)
        for logits in draw(40, 7):
            yield from _both(cpu.CrossEntropy, (logits,), torch.arange(40) % 7)
        yield from _both(cpu.RowMeans, (draw(1, 50)[:, 0],))
        log, moments = 99.0 * draw(9, 41).double(), draw(5, 41).double()
        for log_IxN, moments_GxN in zip(log, moments, strict=True):
            sums_GxI = log_IxN.new_zeros(5, 9)
            above_I = log_IxN.amax(dim=1)
            cpu.weighted_sums(sums_GxI, log_IxN, moments_GxN, above_I, above_I - 1.0, -150.0)
            yield sums_GxI
        yield from _adam(draw)


class _Draw:
    """Normals, another matrix at each call, the same for a replica whatever stands beside it."""

    def __init__(self, seed_R: Tensor) -> None:
        self.seed_R, self._number = seed_R, 0

    def __call__(self, rows: int, columns: int) -> Tensor:
        self._number += 1
        number_R = torch.full_like(self.seed_R, self._number)
        return cpu.normals(self.seed_R, number_R, torch.zeros_like(number_R), 0, rows, columns, 1.0)


def _both(function: Any, tensors: tuple[Tensor, ...], *rest: object) -> Iterator[Tensor]:
    """A function's result, and its gradients where the result itself is the gradient above."""
    inputs = [t.clone().requires_grad_() for t in tensors]
    result = function.apply(*inputs, *rest)
    yield result
    yield from torch.autograd.grad(result, inputs, result.detach())


def _adam(draw: _Draw) -> Iterator[Tensor]:
    theta, moment1, moment2, gradient = (draw(1, 48)[:, 0] for _ in range(4))
    of_replica = torch.ones(len(theta))
    cpu.clip(gradient, 6.0 * of_replica)
    cpu.adam(
        *(theta, moment1, moment2.square_(), gradient),
        step=torch.tensor(6),
        betas=(0.9, 0.999),
        rate_R=0.01 * of_replica,
        rate_P=torch.arange(48) / 32,
        epsilon_R=1e-8 * of_replica,
        alive_R=of_replica > 0,
        decay_R=0.1 * of_replica,
    )
    yield from (theta, moment1, moment2)
