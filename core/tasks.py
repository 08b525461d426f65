"""The task distribution of Kirsch et al. 2022, section 3: a task is a pair (A, rho).

Every image x becomes A x, with A of size Nx by Nx and entries N(0, 1/Nx); every label y becomes
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

from core import rng
from core.config import MAX_TASKS

FIRST_UNSEEN = MAX_TASKS


def _halves(task: Tensor) -> tuple[Tensor, Tensor]:
    return task & 0xFFFFFFFF, task >> 32


def projections(seed: Tensor, task: Tensor, size: int) -> Tensor:
    """A of each task: float32, shape (*batch, size, size), entries N(0, 1/size).

    Args:
        seed, task: int64, broadcasting to the shape `batch`; task numbers below 2^63.
    """
    low, high = _halves(task)
    return rng.normal_matrix(seed, rng.PROJECTION, size, size, low, high) / math.sqrt(size)


def permutations(seed: Tensor, task: Tensor, num_classes: int) -> Tensor:
    """rho of each task: int64, shape (*batch, num_classes); label y becomes rho[y].

    The order of num_classes random words, so uniform up to ties of probability below
    num_classes^2 / 2^33.
    """
    low, high = _halves(task)
    block = torch.arange(-(-num_classes // 4), device=task.device)
    words = rng.philox(seed[..., None], rng.PERMUTATION, (block, low[..., None], high[..., None]))
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


class SeenTasks:
    """Projections of the seen tasks of a pack, from a table where all of them fit in memory.

    Tasks are nested, so the replicas of one seed share a table as long as the largest number of
    tasks among them that fits. Numbers are the same with and without the table.

    Args:
        seed_R, num_tasks_R: int64, a replica each.
        size: Nx.
        table_bytes: memory the table may take.
    """

    def __init__(self, seed_R: Tensor, num_tasks_R: Tensor, size: int, table_bytes: int) -> None:
        self.seed_R, self.size = seed_R, size
        self.seeds_U, self.row_R = seed_R.unique(return_inverse=True)
        fit = table_bytes // (len(self.seeds_U) * size * size * 4)
        fitting = [n for n in num_tasks_R.tolist() if n <= fit]
        self.length = max(fitting, default=0)
        tabled_R = num_tasks_R <= self.length
        self.tabled, self.drawn = tabled_R.nonzero()[:, 0], (~tabled_R).nonzero()[:, 0]
        self.all_tabled, self.none_tabled = bool(tabled_R.all()), not bool(tabled_R.any())
        self.table_UxMxXxX = self._fill_table()

    def _fill_table(self, chunk: int = 2**24) -> Tensor:
        task_M = torch.arange(self.length, device=self.seed_R.device)
        parts = task_M.split(max(1, chunk // self.size**2))
        rows = [
            torch.cat([projections(seed, part, self.size) for part in parts])
            for seed in self.seeds_U
            if self.length
        ]
        return torch.stack(rows) if rows else torch.empty(0, device=self.seed_R.device)

    def projections(self, task_RxB: Tensor) -> Tensor:
        """A_RxBxXxX of the tasks of each replica."""
        if self.all_tabled:
            return self.table_UxMxXxX[self.row_R[:, None], task_RxB]
        if self.none_tabled:
            return projections(self.seed_R[:, None], task_RxB, self.size)
        shape = (*task_RxB.shape, self.size, self.size)
        a_RxBxXxX = torch.empty(shape, device=task_RxB.device)
        row = self.row_R[self.tabled, None]
        a_RxBxXxX[self.tabled] = self.table_UxMxXxX[row, task_RxB[self.tabled]]
        a_RxBxXxX[self.drawn] = projections(
            self.seed_R[self.drawn, None], task_RxB[self.drawn], self.size
        )
        return a_RxBxXxX
