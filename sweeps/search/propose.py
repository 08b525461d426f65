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

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from metaphase.core import joint_thresholds
from metaphase.core.joint_thresholds import LEAPS, Outcomes, Smoothed
from metaphase.core.thresholds import cut, quantiles
from metaphase.sweeps.search.futures import Futures
from metaphase.sweeps.search.space import Known, Space

CONFIDENCE = 0.95
# Cells of one row in a batch, with pending ones: more are better chosen by what these tell.
MOST_OF_A_ROW = 4
HOPELESS = 6  # points of a row with finished cells, none with a phase: it is left alone
LEAST_BITS = 0.003  # a cell that tells less tells nothing
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
    """

    phase: int
    row: int
    low: float
    middle: float
    high: float
    width: float
    done: bool


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


@dataclass
class _Family:
    """Rows of which cells may be chosen, for one phase, and what they would tell.

    Attributes:
        futures: of all rows of the family.
        place: {row: its place among these}.
        worth: {row: the chance that a cell at each of its points has a phase at all}.
        enough: {row: octaves that are narrow enough}, of rows whose intervals are to be narrower.
        octaves_C: what each cell of these is to take off its row's interval, 0 of all others.
    """

    space: Space
    theta_T: np.ndarray
    futures: Futures
    place: dict[int, int]
    worth: dict[int, np.ndarray]
    enough: dict[int, float]
    octaves_C: np.ndarray = field(init=False)

    def choose(self, cell: int) -> None:
        """Takes what a cell will tell into account."""
        row, k = int(self.space.row_C[cell]), int(self.space.k_C[cell])
        if row in self.place:
            self.futures.choose(cell, self.place[row], k, float(self.worth[row][k]))

    def look(self) -> None:
        """Computes the octaves anew."""
        weights = self.futures.weights()
        self.octaves_C = np.zeros(len(self.space.row_C))
        for row, enough in self.enough.items():
            weight_TxFxM = weights[self.place[row]]
            bits_FxK = self._bits(row, weight_TxFxM) * self.worth[row]
            width_F = self._widths(row, weight_TxFxM.sum(axis=2))
            if self.futures.differ:
                width_F = np.where(width_F > enough, width_F, 0.0)
            octaves_K = ((1 - 2**-bits_FxK) * width_F[:, None]).mean(axis=0)
            octaves_K = np.where(bits_FxK.mean(axis=0) < LEAST_BITS, 0.0, octaves_K)
            of_row = self.space.row_C == row
            self.octaves_C[of_row] = octaves_K[self.space.k_C[of_row]]

    def _bits(self, row: int, weight_TxFxM: np.ndarray) -> np.ndarray:
        """The information of a cell at each of the row's points, in each future."""
        x_K, _ = self.space.points[row]
        inside = np.flatnonzero((self.theta_T >= x_K[0]) & (self.theta_T <= x_K[-1]))
        lumps = np.unique([0, *inside, min(inside[-1] + 1, len(self.theta_T) - 1)])
        yes_TxFxK = weight_TxFxM @ self.futures.share_WxTxMxK[self.place[row]]
        yes_BxFxK = np.add.reduceat(yes_TxFxK, lumps)
        all_BxFx1 = np.add.reduceat(weight_TxFxM.sum(axis=2), lumps)[..., None]
        of_theta = (_bits(yes_BxFxK) + _bits(all_BxFx1 - yes_BxFxK) - _bits(all_BxFx1)).sum(axis=0)
        yes_FxK = yes_BxFxK.sum(axis=0)
        return np.maximum(0.0, _bits(yes_FxK) + _bits(1 - yes_FxK) - of_theta)

    def _widths(self, row: int, weight_TxF: np.ndarray) -> np.ndarray:
        """Octaves of the row's interval inside the grid, in each future (as `quantiles` has it)."""
        x_K, _ = self.space.points[row]
        spacing = self.theta_T[1] - self.theta_T[0]
        until_TxF = np.cumsum(weight_TxF, axis=0)
        ends = []
        for wanted in ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2):
            t_F = (until_TxF < wanted * until_TxF[-1]).sum(axis=0)
            here_F = np.take_along_axis(weight_TxF, t_F[None], axis=0)[0]
            left_F = np.take_along_axis(until_TxF, t_F[None], axis=0)[0] - wanted * until_TxF[-1]
            end_F = self.theta_T[t_F] + spacing * (0.5 - left_F / here_F)
            ends.append(np.clip(end_F, x_K[0], x_K[-1]))
        width_F: np.ndarray = ends[1] - ends[0]
        return width_F


def _bits(p: np.ndarray) -> np.ndarray:
    """-p log2 p, and 0 of 0."""
    p = np.maximum(p, 1e-30)
    bits: np.ndarray = -p * np.log2(p)
    return bits


def _within(ends: tuple[float, float, float], x_K: np.ndarray) -> float:
    """The octaves of an interval that are inside the grid."""
    low, _, high = ends
    return max(0.0, min(high, float(x_K[-1])) - max(low, float(x_K[0])))


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
    families: list[_Family] = []
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


def family_posterior(
    space: Space, known: Known, phase: int, family: int
) -> tuple[np.ndarray, np.ndarray, Smoothed]:
    """The family's rows by size, the thetas, and the posterior (`joint_thresholds.posterior`)."""
    rows_W = np.flatnonzero(space.family_R == family)
    rows_W = rows_W[np.argsort(space.size_R[rows_W], kind="stable")]
    x = np.concatenate([space.points[row][0] for row in rows_W])
    theta_T = joint_thresholds.thetas(x.min(), x.max())
    outcomes = [_outcomes(space, known, phase, row) for row in rows_W.tolist()]
    v_W = np.log2(space.size_R[rows_W].astype(float))
    return rows_W, theta_T, joint_thresholds.posterior(theta_T, v_W, outcomes, LEAPS)


def _outcomes(space: Space, known: Known, phase: int, row: int) -> Outcomes:
    """What is known of a row, at all of its points."""
    x_K, cells_K = space.points[row]
    reached_K = [known.reached_PxC[phase, cells] for cells in cells_K]
    yes_K = np.array([(reached == 1).sum() for reached in reached_K], dtype=float)
    no_K = np.array([(reached == 0).sum() for reached in reached_K], dtype=float)
    return Outcomes(x_K, yes_K, no_K)


def _look_at(
    space: Space, known: Known, phase: int, number: int, target: float
) -> tuple[list[Standing], _Family | None]:
    """Where each of a family's rows stands, and unless all are done, what can be chosen of them."""
    rows_W, theta_T, posterior = family_posterior(space, known, phase, number)
    standings, worth, enough = [], {}, {}
    for row, weight_TxM in zip(rows_W.tolist(), posterior.weight_WxTxM, strict=True):
        x_K, cells_K = space.points[row]
        ends = quantiles(theta_T, weight_TxM.sum(axis=1), CONFIDENCE)
        narrow = max(target, _gap(x_K, ends[1]) + float(theta_T[1] - theta_T[0]))
        standings.append(_standing(phase, row, x_K, ends, narrow))
        known_K = [(known.finished_C[c], known.reached_PxC[phase, c]) for c in cells_K]
        worth[row] = _worth(x_K, known_K)
        if not (standings[-1].done or _hopeless(known_K)):
            enough[row] = narrow
    if not enough:
        return standings, None
    futures = Futures(
        theta_T,
        np.log2(space.size_R[rows_W].astype(float)),
        [_outcomes(space, known, phase, row) for row in rows_W.tolist()],
        [_shares(tuple(theta_T.tolist()), tuple(space.points[row][0])) for row in rows_W],
        posterior,
    )
    place = {row: w for w, row in enumerate(rows_W.tolist())}
    return standings, _Family(space, theta_T, futures, place, worth, enough)


def _gap(x_K: np.ndarray, place: float) -> float:
    """The length of the gap between values of x that a place is in, or is next to."""
    at = int(np.clip(np.searchsorted(x_K, place), 1, len(x_K) - 1))
    return float(x_K[at] - x_K[at - 1])


def _standing(
    phase: int, row: int, x_K: np.ndarray, ends: tuple[float, float, float], enough: float
) -> Standing:
    """Where a row stands. `ends`: quantiles of theta; `enough`: octaves."""
    first, last = float(x_K[0]), float(x_K[-1])
    width = _within(ends, x_K)
    return Standing(phase, row, *cut(*ends, first, last), width, width <= enough)


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


@functools.lru_cache(maxsize=64)
def _shares(theta_T: tuple[float, ...], x_K: tuple[float, ...]) -> np.ndarray:
    """P(y = 1), shape (T, M, K)."""
    return np.exp(joint_thresholds.rises_at(theta_T, x_K).log_yes_TxMxK)


def _choose(
    space: Space, known: Known, families: list[_Family], free_C: np.ndarray, most: int
) -> list[Choice]:
    """Free cells of these families, the best ratio of octaves to cost again and again."""
    of_row_R = np.bincount(space.row_C[known.pending_C], minlength=len(space.family_R))
    for family in families:
        for cell in np.flatnonzero(known.pending_C).tolist():
            family.choose(cell)
        family.look()
    cost_C = 1 / len(space.row_C) + space.cost_C / space.total
    in_order = np.lexsort((space.k_C, space.row_C))  # equals are taken in this one
    chosen: list[Choice] = []
    while families and len(chosen) < most:
        octaves_C = np.sum([family.octaves_C for family in families], axis=0)
        octaves_C[~free_C | (of_row_R[space.row_C] >= MOST_OF_A_ROW)] = 0.0
        ratio_C = (octaves_C / cost_C)[in_order]
        if not ratio_C.any():
            break
        cell = int(in_order[np.flatnonzero(ratio_C * (1 + 1e-9) >= ratio_C.max())[0]])
        chosen.append(Choice(cell, float(octaves_C[cell])))
        free_C[cell] = False
        of_row_R[space.row_C[cell]] += 1
        of_stream = space.stream_C == space.stream_C[cell]
        shared_C = np.where(of_stream, space.shared_C, 0.0)
        cost_C = np.minimum(cost_C, 1 / len(space.row_C) + (space.cost_C - shared_C) / space.total)
        for family in families if len(chosen) < most else ():
            if int(space.row_C[cell]) in family.place:
                family.choose(cell)
                family.look()
    return chosen
