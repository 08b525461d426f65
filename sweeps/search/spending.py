"""What the cells of a search take of its budget: a share of the grid's cells or operations, or
hours of workers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from metaphase.sweeps.search.space import Space
from metaphase.sweeps.search_settings import Search


@dataclass(frozen=True)
class Took:
    """What the training of C cells took.

    Attributes:
        hours_C: of a worker; NaN where nothing is known.
        part_C: the share of its steps that a cell was trained, 1 where nothing is known.
    """

    hours_C: np.ndarray
    part_C: np.ndarray

    @classmethod
    def nothing(cls, cells: int) -> Took:
        return cls(np.full(cells, np.nan), np.ones(cells))

    def without(self, unknown_C: np.ndarray) -> Took:
        """The same, but nothing is known of these cells."""
        hours_C = np.where(unknown_C, np.nan, self.hours_C)
        return Took(hours_C, np.where(unknown_C, 1.0, self.part_C))


@dataclass(frozen=True)
class Purse:
    """The budget of a search, given what cells took.

    Attributes:
        estimate_C: hours of training each cell, by which is gone as long as none is known.
    """

    search: Search
    space: Space
    took: Took
    estimate_C: np.ndarray

    def spent(self, taken_C: np.ndarray) -> float:
        """How much of the budget's kind these cells take together."""
        if self.search.kind == "cells":
            return float(taken_C.mean())
        if self.search.kind == "operations":
            return operations(self.space, self.took, taken_C) / self.space.total
        return float(self._hours_C()[taken_C].sum())

    def beyond(self, taken_C: np.ndarray) -> np.ndarray:
        """Which cells would take more than is left; none as long as nothing is known of hours."""
        space = self.space
        if self.search.kind == "cells":
            each_C = np.full(len(taken_C), 1 / len(taken_C))
        elif self.search.kind == "operations":
            has_stream_C = np.isin(space.stream_C, space.stream_C[taken_C])
            each_C = (space.cost_C - np.where(has_stream_C, space.shared_C, 0.0)) / space.total
        elif not taken_C.any():  # estimates may be far off: one cell tells
            each_C = np.zeros(len(taken_C))
        else:
            each_C = self._hours_C()
        beyond_C: np.ndarray = self.spent(taken_C) + each_C > self.search.budget + 1e-9
        return beyond_C

    def _hours_C(self) -> np.ndarray:
        """Of each cell, by operations from those that are known where it isn't."""
        hours_C, cost_C = self.took.hours_C, self.space.cost_C * self.took.part_C
        told_C = np.isfinite(hours_C)
        estimate_C = self.estimate_C
        if cost_C[told_C].sum() > 0:
            estimate_C = cost_C * hours_C[told_C].sum() / cost_C[told_C].sum()
        return np.where(told_C, hours_C, estimate_C)


def operations(space: Space, took: Took, taken_C: np.ndarray) -> float:
    """Of training these cells, each stream's common part once."""
    shared_C = space.shared_C * took.part_C
    common = np.zeros(int(space.stream_C.max()) + 1)
    np.maximum.at(common, space.stream_C[taken_C], shared_C[taken_C])
    own_C = (space.cost_C - space.shared_C) * took.part_C
    return float(own_C[taken_C].sum() + common.sum())
