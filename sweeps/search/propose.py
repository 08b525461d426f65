"""Which cells tell most about where phases begin, for what they cost.

What is known of a phase's boundary is the posterior of `core.joint_thresholds` for each family of
rows, with steps that lead anywhere now and then: boundaries break off where models are too small. A
cell's expected information about its row's theta is I(theta; y) (Houlsby et al. 2011, arXiv
1112.5745), where thetas beyond an end of the grid are one, given what pending cells and the batch's
other ones will tell (`search.futures`). A bit halves an interval, so the cell is worth the octaves
that it is expected to take off the row's. It costs its share of the grid's cells plus its share of
the grid's operations, of which a stream that the batch has anyway is none. The batch takes the best
ratio, again and again.

All of it is a function of its arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metaphase.core.thresholds import cut
from metaphase.sweeps.search.family import Family, Rows, ends
from metaphase.sweeps.search.space import Known, Space

# Cells of one row in a batch, with pending ones: more are better chosen by what these tell.
MOST_OF_A_ROW = 4
TIE = 1e-4  # ratios that differ by less are equal, whatever the rounding of a CPU
HOPELESS = 6  # points of a row with finished cells, none with a phase: it is left alone
TARGET, NOTHING = "every interval is narrow enough", "no cell left tells more"
ALL = "all cells are trained"


@dataclass(frozen=True)
class Standing:
    """What is known of where a phase begins in a row.

    Attributes:
        phase, row: which of the phases, and which row.
        low, middle, high: posterior quantiles of theta on log2 of the number of tasks, at
            `CONFIDENCE`; as the grid can say them (`core.thresholds.cut`).
        width: octaves of the interval inside the grid.
        done: whether that is narrow enough.
        median: of theta, also where it is beyond the grid.
    """

    phase: int
    row: int
    low: float
    middle: float
    high: float
    width: float
    done: bool
    median: float


@dataclass(frozen=True)
class Choice:
    """A cell to train, and the octaves that it is expected to take off its row's intervals."""

    cell: int
    octaves: float


@dataclass(frozen=True)
class Proposal:
    """Cells to train next, best first, and where things stand. Where there are none, `reason`
    says why."""

    choices: list[Choice]
    standings: list[Standing]
    reason: str = ""


def propose(
    space: Space,
    known: Known,
    most: int,
    target: float = 1.0,
    beyond_C: np.ndarray | None = None,
) -> Proposal:
    """The next cells to train, at most `most` of them.

    Args:
        target: octaves; rows whose intervals are that narrow are left alone. Where a gap of the
            grid is as wide, the gap counts, to the distance of thetas.
        beyond_C: which cells may not be chosen.
    """
    standings: list[Standing] = []
    families: list[_Open] = []
    for phase in range(len(known.reached_PxC)):
        for number in np.unique(space.family_R):
            of_rows, family = _look_at(space, known, phase, number, target)
            standings += of_rows
            families += [family] if family is not None else []
    free_C = ~(known.finished_C | known.pending_C)
    free_C = free_C if beyond_C is None else free_C & ~beyond_C
    choices = _choose(space, known, families, free_C, most)
    if choices:
        reason = ""
    elif all(standing.done for standing in standings):
        reason = TARGET
    else:
        reason = ALL if known.finished_C.all() else NOTHING
    return Proposal(choices, sorted(standings, key=lambda s: (s.phase, s.row)), reason)


def rows_of(space: Space, known: Known, phase: int, family: int) -> tuple[list[int], Rows]:
    """The rows of a family by size, and what is known of the phase in them."""
    rows_W = np.flatnonzero(space.family_R == family)
    rows_W = rows_W[np.argsort(space.size_R[rows_W], kind="stable")]
    points = [space.points[row] for row in rows_W.tolist()]
    reached = [[known.reached_PxC[phase, cells] for cells in cells_K] for _, cells_K in points]
    return rows_W.tolist(), Rows(
        tuple(space.size_R[rows_W].astype(float).tolist()),
        tuple(tuple(x_K.tolist()) for x_K, _ in points),
        tuple(tuple(float((at == 1).sum()) for at in reached_K) for reached_K in reached),
        tuple(tuple(float((at == 0).sum()) for at in reached_K) for reached_K in reached),
    )


@dataclass(frozen=True)
class _Open:
    """A family of which cells may be chosen, and {row: its place in it}."""

    family: Family
    place: dict[int, int]

    def choose(self, space: Space, cell: int) -> None:
        """Takes what a cell will tell into account, if it is one of the family's."""
        w = self.place.get(int(space.row_C[cell]))
        if w is not None:
            self.family.choose(cell, w, int(space.k_C[cell]))

    def octaves_C(self, space: Space) -> np.ndarray:
        """What each cell is to take off its row's interval; 0 in other rows."""
        octaves_C = np.zeros(len(space.row_C))
        for row, w in self.place.items():
            octaves_C[space.cells[row]] = self.family.octaves[w][space.k_C[space.cells[row]]]
        return octaves_C


def _look_at(
    space: Space, known: Known, phase: int, number: int, target: float
) -> tuple[list[Standing], _Open | None]:
    """Where each of a family's rows stands, and unless all are done, what can be chosen of them."""
    numbers, rows = rows_of(space, known, phase, number)
    standings, worth, enough = [], [], []
    for row, of_row in zip(numbers, ends(rows), strict=True):
        x_K, cells_K = space.points[row]
        narrow = max(target, _gap(x_K, of_row[1]) + float(rows.theta_T[1] - rows.theta_T[0]))
        standings.append(_standing(phase, row, x_K, of_row, narrow))
        known_K = [(known.finished_C[c], known.reached_PxC[phase, c]) for c in cells_K]
        worth.append(tuple(_worth(x_K, known_K).tolist()))
        enough.append(np.inf if standings[-1].done or _hopeless(known_K) else narrow)
    if min(enough) == np.inf:
        return standings, None
    family = Family(rows, tuple(worth), tuple(enough))
    return standings, _Open(family, {row: w for w, row in enumerate(numbers)})


def _gap(x_K: np.ndarray, place: float) -> float:
    """The length of the gap between values of x that a place is in, or is next to."""
    at = int(np.clip(np.searchsorted(x_K, place), 1, len(x_K) - 1))
    return float(x_K[at] - x_K[at - 1])


def _standing(
    phase: int, row: int, x_K: np.ndarray, ends: tuple[float, float, float], enough: float
) -> Standing:
    """Where a row stands. `ends`: quantiles of theta; `enough`: octaves."""
    first, last = float(x_K[0]), float(x_K[-1])
    low, _, high = ends
    width = max(0.0, min(high, last) - max(low, first))
    done = width <= enough
    return Standing(phase, row, *cut(*ends, first, last), width, done, ends[1])


def _hopeless(known_K: Sequence[tuple[np.ndarray, np.ndarray]]) -> bool:
    """Whether cells are finished at many of a row's points and none has a phase: nor would more."""
    points = sum(bool(finished.any()) for finished, _ in known_K)
    told = any(np.isfinite(reached).any() for _, reached in known_K)
    return not told and points >= min(HOPELESS, len(known_K))


def _worth(x_K: np.ndarray, known_K: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The chance that a cell at each point has a phase, by those that are finished, nearby ones
    counting less with each octave, and one more that has."""
    told_K = np.array([np.isfinite(reached).sum() for _, reached in known_K], dtype=float)
    untold_K = np.array([(done & np.isnan(reached)).sum() for done, reached in known_K])
    near_KxK = np.exp(-np.abs(x_K[:, None] - x_K))
    told_K = 1 + near_KxK @ told_K
    worth: np.ndarray = told_K / (told_K + near_KxK @ untold_K)
    return worth


def _choose(
    space: Space, known: Known, families: list[_Open], free_C: np.ndarray, most: int
) -> list[Choice]:
    """Free cells of these families, the best ratio of octaves to cost again and again."""
    of_row_R = np.bincount(space.row_C[known.pending_C], minlength=len(space.family_R))
    for family in families:
        for cell in np.flatnonzero(known.pending_C).tolist():
            family.choose(space, cell)
        family.family.look()
    cost_C = 1 / len(space.row_C) + space.cost_C / space.total
    in_order = np.lexsort((space.k_C, space.row_C))  # equals are taken in this one
    chosen: list[Choice] = []
    while families and len(chosen) < most:
        octaves_C = np.sum([family.octaves_C(space) for family in families], axis=0)
        octaves_C[~free_C | (of_row_R[space.row_C] >= MOST_OF_A_ROW)] = 0.0
        ratio_C = (octaves_C / cost_C)[in_order]
        if not ratio_C.any():
            break
        cell = int(in_order[np.flatnonzero(ratio_C * (1 + TIE) >= ratio_C.max())[0]])
        chosen.append(Choice(cell, float(octaves_C[cell])))
        free_C[cell] = False
        of_row_R[space.row_C[cell]] += 1
        of_stream = space.stream_C == space.stream_C[cell]
        shared_C = np.where(of_stream, space.shared_C, 0.0)
        cost_C = np.minimum(cost_C, 1 / len(space.row_C) + (space.cost_C - shared_C) / space.total)
        for family in families if len(chosen) < most else ():
            family.choose(space, cell)
            family.family.look()
    return chosen
