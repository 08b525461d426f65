"""The task distribution of Kirsch et al. 2022, section 3: a task is a pair (A, rho).

Every image x becomes A x, with A of size X by X and entries N(0, 1/X); every label y becomes
rho(y), rho a permutation of the classes. Both are computed from (seed, task number) wherever they
are used, so the number of tasks costs no memory. Seen tasks are numbers 0 ... N-1 of the seed;
unseen ones start at 2^32, which no N reaches.

The distribution can be biased, as in the paper by the same label permutation for a share of the
tasks: a share p of the seen tasks keeps the identity permutation. Which ones is drawn a task, not a
sequence, so that a task still is one thing, and they are nested: a task that keeps it at p does so
at every larger p. Unseen tasks never do.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metaphase.core import rng
from metaphase.core.cell import MAX_TASKS

FIRST_UNSEEN = MAX_TASKS


def _halves(task: Tensor) -> tuple[Tensor, Tensor]:
    """The lower and the upper 32 bits of task numbers."""
    return task & 0xFFFFFFFF, task >> 32


def projections(seed: Tensor, task: Tensor, size: int) -> Tensor:
    """A of each task: float32, shape (*batch, size, size), entries N(0, 1/size).

    Args:
        seed, task: int64, broadcasting to the shape `batch`; task numbers below 2^63.
    """
    low, high = _halves(task)
    return rng.normal_matrix(seed, rng.PROJECTION, size, size, low, high, scale=size**-0.5)


_NOISE_SEED = 0  # one table serves all seeds


def noise_table(size: int, bits: int = 24, device: torch.device | str = "cpu") -> Tensor:
    """The noise that `noise_projections` cuts matrices of this size from: 2^bits normals in bf16,
    and as many more as a row that starts at the last place needs."""
    columns = 64
    rows = 2**bits // columns + -(-size // columns)
    seed = torch.full((1,), _NOISE_SEED, device=device)
    return rng.normal_matrix(seed, rng.NOISE, rows, columns).flatten().bfloat16()


def noise_projections(seed: Tensor, task: Tensor, size: int, noise: Tensor) -> Tensor:
    """Another, cheaper A of each task: every row is a piece of one fixed table of noise, from a
    place hashed of (seed, task, row), as in evolution strategies (Salimans et al. 2017, section 2).

    Entries are N(0, 1/size) each, and independent within a row. What is lost: two rows, of one task
    or of two, overlap with probability `noise_overlap`, and are then the same numbers shifted by a
    multiple of 8 places, so that A[i, j] = A'[k, j + shift] for all j that both have. And there are
    only 2^place_bits different rows: any two are equal with probability 2^-place_bits.

    Args:
        seed, task: as for `projections`.
        noise: `noise_table(size)`.
    """
    low, high = _halves(task)
    row = torch.arange(size, device=task.device)
    counters = (row, low[..., None], high[..., None])
    word = rng.philox(seed[..., None], rng.NOISE_OFFSET, counters)[0]
    start = (word >> (32 - rng.noise_place_bits(noise))) * rng.NOISE_ALIGNMENT
    entries = noise[start[..., None] + torch.arange(size, device=task.device)]
    return entries.float() / math.sqrt(size)


def noise_overlap(size: int, noise: Tensor) -> float:
    """Probability that two rows of `noise_projections` share entries: their places, uniform and
    independent, are less than `size` entries apart."""
    places = 2 ** rng.noise_place_bits(noise)
    near = -(-size // rng.NOISE_ALIGNMENT) - 1  # to either side
    # Of places^2 pairs: those at distance d are 2 (places - d), and d = 0 counts once.
    return (places + sum(2 * (places - d) for d in range(1, near + 1))) / places**2


def permutations(
    seed: Tensor, task: Tensor, num_classes: int, purpose: int = rng.PERMUTATION
) -> Tensor:
    """rho of each task: int64, shape (*batch, num_classes); label y becomes rho[y].

    The order of num_classes random words, so uniform up to ties of probability below
    num_classes^2 / 2^33.

    Args:
        purpose: of the random numbers: what else is numbered and has permutations.
    """
    low, high = _halves(task)
    block = torch.arange(-(-num_classes // 4), device=task.device)
    words = rng.philox(seed[..., None], purpose, (block, low[..., None], high[..., None]))
    keys = torch.stack(words, dim=-1).flatten(-2)[..., :num_classes]
    return keys.argsort(dim=-1, stable=True)


def biased_permutations(
    seed: Tensor, task: Tensor, num_classes: int, identity_share: Tensor
) -> Tensor:
    """`permutations`, but the identity for a share of the tasks, in [0, 1].

    Args:
        identity_share: broadcasts with seed and task.
    """
    keeps = rng.uniform(rng.philox(seed, rng.IDENTITY, _halves(task))[0]) < identity_share
    rho = permutations(seed, task, num_classes)
    return torch.where(keeps[..., None], torch.arange(num_classes, device=task.device), rho)
