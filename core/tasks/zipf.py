"""Numbers of tasks whose frequencies follow Zipf's law, without memory that grows with N.

Task n of N has probability (n + 1)^-a / sum over r = 1 ... N of r^-a: the r-th most frequent task,
r = n + 1, is number r - 1, so that tasks stay nested. Sampling is by rejection from a staircase
above r^-a (the idea of Hoermann and Derflinger 1996, "Rejection-inversion to generate variates from
monotone discrete distributions", with a table in place of their inversion): each octave of ranks
has PIECES stairs of equal width, ranks below 2 PIECES a stair each. The table has 1,728 stairs for
any N up to 2^32, and no power function is inverted, so a last digit that differs between machines
moves a task with probability 1e-16 a draw whatever N is.

Of a sample's ROUNDS proposals the first that is accepted is taken. One is rejected with a
probability of at most 0.03, all of them with 1e-12: by this, and by the rounding of the table's
sums, probabilities are off by less than 1e-12 in total variation; within a stair by 2^-32 of each.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from metaphase.core import rng
from metaphase.core.cell import MAX_TASKS

ROUNDS = 8
_PIECE_BITS = 6
PIECES = 2**_PIECE_BITS  # stairs of an octave


def stairs() -> tuple[list[int], list[int]]:
    """(low, bits): the stairs' lowest ranks, ascending, and the logarithms to base 2 of how many
    ranks they have. They cover 1 ... MAX_TASKS."""
    low, bits = list(range(1, 2 * PIECES)), [0] * (2 * PIECES - 1)
    for octave in range(_PIECE_BITS + 1, MAX_TASKS.bit_length() - 1):
        low += range(2**octave, 2 ** (octave + 1), 2 ** (octave - _PIECE_BITS))
        bits += [octave - _PIECE_BITS] * PIECES
    return [*low, MAX_TASKS], [*bits, 0]


class ZipfTasks:
    """Draws the tasks of streams.

    Axes: M stairs, K proposals.

    Args:
        exponents: a of each stream, 0 or more; 0 is uniform.
        num_tasks: N of each stream.
        device: where tasks are drawn.
    """

    def __init__(
        self, exponents: Sequence[float], num_tasks: Sequence[int], device: torch.device
    ) -> None:
        low, bits = stairs()
        self.low_M = torch.tensor(low, device=device)
        self.bits_M = torch.tensor(bits, device=device)
        self.exponent_S = torch.tensor(exponents, dtype=torch.float64, device=device)
        self.num_tasks_S = torch.tensor(num_tasks, device=device)
        rows = [_cumulative(low, bits, a, n) for a, n in zip(exponents, num_tasks, strict=True)]
        self.cumulative_SxM = torch.tensor(rows, dtype=torch.float64, device=device)

    def draw(self, seed_S: Tensor, purpose: int, counters: tuple[Tensor, Tensor]) -> Tensor:
        """task_SxJxB: int64 task numbers.

        Args:
            counters: of the sequences, broadcasting to JxB.
        """
        round_K = torch.arange(ROUNDS, device=seed_S.device)
        first, second = (counter[..., None] for counter in counters)
        seed_Sx1x1x1 = seed_S[:, None, None, None]
        chosen, fine, place, height = rng.philox(seed_Sx1x1x1, purpose, (first, second, round_K))
        u_SxJxBxK = ((chosen << 21) | (fine >> 11)).double() * 2.0**-53
        stair = torch.searchsorted(
            self.cumulative_SxM, u_SxJxBxK.flatten(1).contiguous(), right=True
        ).view(u_SxJxBxK.shape)
        low = self.low_M[stair]
        rank_SxJxBxK = low + (place >> (32 - self.bits_M[stair]))
        power = self.exponent_S[:, None, None, None]
        below = (height.double() + 0.5) * 2.0**-32 < (low.double() / rank_SxJxBxK) ** power
        last_Sx1x1x1 = self.num_tasks_S[:, None, None, None]
        accepted = below & (rank_SxJxBxK <= last_Sx1x1x1)
        taken = accepted.to(torch.int8).argmax(dim=-1, keepdim=True)  # the first
        rank_SxJxB = rank_SxJxBxK.gather(-1, taken)[..., 0]
        return torch.minimum(rank_SxJxB, last_Sx1x1x1[..., 0]) - 1


def _cumulative(low: list[int], bits: list[int], exponent: float, num_tasks: int) -> list[float]:
    """Probability that a proposal is in a stair or in one before it; 1 from the last that has
    ranks up to N on."""
    areas = (
        2.0**b * float(r) ** -exponent if r <= num_tasks else 0.0
        for r, b in zip(low, bits, strict=True)
    )
    sums = list(itertools.accumulate(areas))
    return [s / sums[-1] for s in sums]
