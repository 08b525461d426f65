"""The cells that a sweep may train, and what is known of them, as arrays for the proposer."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metaphase.core.cell import Cell, follow, stream_key


@dataclass(frozen=True)
class Space:
    """C cells on R rows. Cells of a row differ in their number of tasks and their seed alone; rows
    of a family differ in their model size alone, so that a boundary runs through them.

    Attributes:
        row_C: the row of each cell.
        x_C: log2 of its number of tasks.
        cost_C: operations of training it alone.
        stream_C: the number of its stream.
        shared_C: the part of its cost that all cells of its stream have in common.
        family_R: the family of each row.
        size_R: its model size; all different within a family.
    """

    row_C: np.ndarray
    x_C: np.ndarray
    cost_C: np.ndarray
    stream_C: np.ndarray
    shared_C: np.ndarray
    family_R: np.ndarray
    size_R: np.ndarray

    @functools.cached_property
    def total(self) -> float:
        """Operations of training all cells, each stream's common part once."""
        _, at = np.unique(self.stream_C, return_index=True)
        return float((self.cost_C - self.shared_C).sum() + self.shared_C[at].sum())

    @functools.cached_property
    def cells(self) -> list[np.ndarray]:
        """The cells of each row."""
        return [np.flatnonzero(self.row_C == row) for row in range(len(self.family_R))]

    @functools.cached_property
    def k_C(self) -> np.ndarray:
        """The place of each cell's x among those of its row."""
        k_C = np.zeros(len(self.row_C), dtype=int)
        for x_K, cells_K in self.points:
            for k in range(len(x_K)):
                k_C[cells_K[k]] = k
        return k_C

    @functools.cached_property
    def points(self) -> list[tuple[np.ndarray, list[np.ndarray]]]:
        """Of each row, its distinct values of x, ascending, and the cells at each."""
        found = []
        for row in range(len(self.family_R)):
            cells = np.flatnonzero(self.row_C == row)
            x_K, at = np.unique(self.x_C[cells], return_inverse=True)
            found.append((x_K, [cells[at == k] for k in range(len(x_K))]))
        return found


@dataclass(frozen=True)
class Known:
    """What is known of a space's cells, for P phases.

    Attributes:
        finished_C: whether a cell needs no more training.
        reached_PxC: 1 where it is known to have reached the phase, 0 where it hasn't; NaN where
            nothing is known, and where it is finished without a phase: diverged, failed, or never
            left its plateau.
        pending_C: whether it is chosen, and what becomes of it counts as unknown.
    """

    finished_C: np.ndarray
    reached_PxC: np.ndarray
    pending_C: np.ndarray

    @classmethod
    def nothing(cls, cells: int, phases: int) -> Known:
        none_C = np.zeros(cells, dtype=bool)
        return cls(none_C, np.full((phases, cells), np.nan), none_C.copy())

    def with_pending(self, pending_C: np.ndarray) -> Known:
        """The same, but these cells are pending, finished or not."""
        reached_PxC = np.where(pending_C, np.nan, self.reached_PxC)
        return Known(self.finished_C & ~pending_C, reached_PxC, pending_C)


def space_of(cells: Sequence[Cell], axes: Sequence[str]) -> tuple[Space, list[str]]:
    """A grid as a space, and its rows in words: their values of the axes.

    A setting that follows from the number of tasks, or from the model size, belongs to that axis,
    as in the analysis: more steps where there are more tasks don't make other rows.
    """
    from metaphase.core.training.cost import flops_per_step, input_flops  # PyTorch takes seconds

    def follows(key: str, axis: str) -> bool:
        groups = ((cell.architecture, getattr(cell, axis)) for cell in cells)
        return follow(groups, (str(getattr(cell, key, None)) for cell in cells))

    others = [key for key in axes if key not in ("num_tasks", "seed", "model_size")]
    own = [
        key
        for key in others
        if key == "architecture" or not (follows(key, "num_tasks") or follows(key, "model_size"))
    ]
    named = [key for key in axes if key in own or key == "model_size"] or ["model_size"]
    row_of: dict[tuple, int] = {}
    names: list[str] = []
    family_of: dict[tuple, int] = {}
    streams: dict[tuple, int] = {}
    family_R, size_R, row_C, stream_C = [], [], [], []
    for cell in cells:
        family = tuple(str(getattr(cell, key, None)) for key in own)
        row = (*family, cell.model_size)
        if row not in row_of:
            row_of[row] = len(row_of)
            names.append(", ".join(f"{key} {getattr(cell, key, None)}" for key in named))
            family_R.append(family_of.setdefault(family, len(family_of)))
            size_R.append(cell.model_size)
        row_C.append(row_of[row])
        stream_C.append(streams.setdefault(stream_key(cell), len(streams)))
    x_C = np.log2([float(cell.num_tasks) for cell in cells])
    cost_C = np.array([cell.steps * flops_per_step(cell) for cell in cells])
    shared_C = np.array([cell.steps * input_flops(cell) for cell in cells])
    rows = np.array(row_C), x_C, cost_C, np.array(stream_C), shared_C
    return Space(*rows, np.array(family_R), np.array(size_R)), names
