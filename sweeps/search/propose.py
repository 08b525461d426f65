"""Which cells tell most about where phases begin, for what they cost.

What is known of a phase's boundary is the posterior of `core.joint_thresholds` for each family of
rows, with steps that lead anywhere now and then: boundaries break off where models are too small. A
cell's expected information about its row's theta is I(theta; y) (Houlsby et al. 2011, arXiv
1112.5745), where thetas beyond an end of the grid are one, given that the row's pending cells and
the batch's other ones are trained too (all their outcomes are summed over, as in Kirsch, van
Amersfoort & Gal 2019, arXiv 1906.08158). A bit halves an interval, so the cell is worth the octaves
that it is expected to take off the row's. It costs its share of the grid's cells plus its share of
the grid's operations, of which a stream that the batch has anyway is none. The batch takes the best
ratio, again and again.

All of it is a function of its arguments, without randomness.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from metaphase.core import joint_thresholds
from metaphase.core.joint_thresholds import Outcomes
from metaphase.core.thresholds import cut, quantiles
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
class _Row:
    """A row of which cells may be chosen, for one phase.

    Attributes:
        share_TxMxK: P(y = 1) at each theta, at the M other parameters, and at the row's points.
        weight_ZxTxM: the posterior, divided by the outcomes of the cells chosen so far.
        bits_K: the information of a cell at each point.
        lumps: where thetas that are told apart begin.
        worth_K: the chance that a cell there has a phase at all.
        width: octaves of the interval, less what the cells chosen so far are to take off it.
        octaves_K: what a cell at each point is to take off it.
    """

    share_TxMxK: np.ndarray
    weight_ZxTxM: np.ndarray
    lumps: np.ndarray
    worth_K: np.ndarray
    width: float
    bits_K: np.ndarray = field(init=False)
    octaves_K: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.look()

    def look(self) -> None:
        """Computes the information anew."""
        yes_ZxTxK = np.stack([(w[:, None, :] @ self.share_TxMxK)[:, 0] for w in self.weight_ZxTxM])
        all_ZxT = self.weight_ZxTxM.sum(axis=2)
        yes_ZxBxK = np.add.reduceat(yes_ZxTxK, self.lumps, axis=1)
        all_ZxBx1 = np.add.reduceat(all_ZxT, self.lumps, axis=1)[..., None]
        of_theta = (_bits(yes_ZxBxK) + _bits(all_ZxBx1 - yes_ZxBxK) - _bits(all_ZxBx1)).sum(axis=1)
        yes_ZxK, all_Zx1 = yes_ZxBxK.sum(axis=1), all_ZxBx1.sum(axis=1)
        alone = _bits(yes_ZxK) + _bits(all_Zx1 - yes_ZxK) - _bits(all_Zx1)
        self.bits_K = np.maximum(0.0, (alone - of_theta).sum(axis=0)) * self.worth_K
        self.octaves_K = np.where(self.bits_K < LEAST_BITS, 0.0, 1 - 2**-self.bits_K) * self.width

    def choose(self, k: int) -> None:
        """Takes a cell at point k into account, whatever its outcome will be."""
        yes_ZxTxM = self.weight_ZxTxM * self.share_TxMxK[:, :, k]
        self.weight_ZxTxM = np.concatenate([yes_ZxTxM, self.weight_ZxTxM - yes_ZxTxM])
        self.width -= float(self.octaves_K[k])
        self.look()


def _bits(p: np.ndarray) -> np.ndarray:
    """-p log2 p, and 0 of 0."""
    p = np.maximum(p, 1e-300)
    bits: np.ndarray = -p * np.log2(p)
    return bits


def propose(space: Space, known: Known, most: int, target: float = 1.0) -> Proposal:
    """The next cells to train, at most `most` of them.

    Args:
        target: octaves; rows whose intervals are that narrow are left alone. Where a gap of the
            grid is as wide, the gap counts, to the distance of thetas.
    """
    standings: list[Standing] = []
    rows: dict[int, list[_Row]] = {}
    for phase in range(len(known.reached_PxC)):
        for family in np.unique(space.family_R):
            for standing, row in _look_at(space, known, phase, family, target):
                standings.append(standing)
                if row is not None:
                    rows.setdefault(standing.row, []).append(row)
    choices = _choose(space, known, rows, most)
    if choices:
        reason = ""
    elif all(standing.done for standing in standings):
        reason = TARGET
    else:
        reason = ALL if known.finished_C.all() else NOTHING
    return Proposal(choices, sorted(standings, key=lambda s: (s.phase, s.row)), reason)


def family_posterior(
    space: Space, known: Known, phase: int, family: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The family's rows by size, the thetas, and the posterior (`joint_thresholds.posterior`)."""
    rows_W = np.flatnonzero(space.family_R == family)
    rows_W = rows_W[np.argsort(space.size_R[rows_W], kind="stable")]
    x = np.concatenate([space.points[row][0] for row in rows_W])
    theta_T = joint_thresholds.thetas(x.min(), x.max())
    outcomes = [_outcomes(space, known, phase, row) for row in rows_W.tolist()]
    v_W = np.log2(space.size_R[rows_W].astype(float))
    weight = joint_thresholds.posterior(theta_T, v_W, outcomes, joint_thresholds.LEAPS)
    return rows_W, theta_T, weight


def _outcomes(space: Space, known: Known, phase: int, row: int) -> Outcomes:
    """What is known of a row, at all of its points."""
    x_K, cells_K = space.points[row]
    reached_K = [known.reached_PxC[phase, cells] for cells in cells_K]
    yes_K = np.array([(reached == 1).sum() for reached in reached_K], dtype=float)
    no_K = np.array([(reached == 0).sum() for reached in reached_K], dtype=float)
    return Outcomes(x_K, yes_K, no_K)


def _look_at(
    space: Space, known: Known, phase: int, family: int, target: float
) -> list[tuple[Standing, _Row | None]]:
    """Each of a family's rows: where it stands, and if it isn't done, what can be chosen of it."""
    rows_W, theta_T, weight_WxTxM = family_posterior(space, known, phase, family)
    found: list[tuple[Standing, _Row | None]] = []
    for row, weight_TxM in zip(rows_W.tolist(), weight_WxTxM, strict=True):
        x_K, cells_K = space.points[row]
        ends = quantiles(theta_T, weight_TxM.sum(axis=1), CONFIDENCE)
        enough = max(target, _gap(x_K, ends[1]) + float(theta_T[1] - theta_T[0]))
        standing = _standing(phase, row, x_K, ends, enough)
        known_K = [(known.finished_C[c], known.reached_PxC[phase, c]) for c in cells_K]
        if standing.done or _hopeless(known_K):
            found.append((standing, None))
            continue
        share = _shares(tuple(theta_T.tolist()), tuple(x_K.tolist()))
        inside = np.flatnonzero((theta_T >= x_K[0]) & (theta_T <= x_K[-1]))
        lumps = np.unique([0, *inside, min(inside[-1] + 1, len(theta_T) - 1)])
        worth_K = _worth(x_K, known_K)
        found.append((standing, _Row(share, weight_TxM[None], lumps, worth_K, standing.width)))
    return found


def _gap(x_K: np.ndarray, place: float) -> float:
    """The length of the gap between values of x that a place is in, or is next to."""
    at = int(np.clip(np.searchsorted(x_K, place), 1, len(x_K) - 1))
    return float(x_K[at] - x_K[at - 1])


def _standing(
    phase: int, row: int, x_K: np.ndarray, ends: tuple[float, float, float], enough: float
) -> Standing:
    """Where a row stands. `ends`: quantiles of theta; `enough`: octaves."""
    first, last = float(x_K[0]), float(x_K[-1])
    low, middle, high = ends
    width = max(0.0, min(high, last) - max(low, first))
    return Standing(phase, row, *cut(low, middle, high, first, last), width, width <= enough)


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


def _choose(space: Space, known: Known, rows: dict[int, list[_Row]], most: int) -> list[Choice]:
    """Cells of these rows, the best ratio of information to cost again and again."""
    taken_C = known.finished_C | known.pending_C
    left = {row: [c[~taken_C[c]].tolist() for c in space.points[row][1]] for row in rows}
    of_row = {row: int(known.pending_C[space.row_C == row].sum()) for row in rows}
    rows = {row: of_phases for row, of_phases in rows.items() if of_row[row] < MOST_OF_A_ROW}
    for row, of_phases in rows.items():
        for k, cells in enumerate(space.points[row][1]):
            for _ in range(int(known.pending_C[cells].sum())):
                for one in of_phases:
                    one.choose(k)
    chosen: list[Choice] = []
    streams: set[int] = set()

    def cost(cell: int) -> float:
        shared = space.shared_C[cell] if int(space.stream_C[cell]) in streams else 0.0
        return float(1 / len(space.row_C) + (space.cost_C[cell] - shared) / space.total)

    while len(chosen) < most:
        best: tuple[float, int, int, int, float] | None = None
        for row, of_phases in rows.items():
            octaves_K = np.sum([one.octaves_K for one in of_phases], axis=0)
            for k, cells in enumerate(left[row]):
                if not cells or octaves_K[k] == 0 or of_row[row] == MOST_OF_A_ROW:
                    continue
                cell = min(cells, key=lambda c: (cost(c), c))
                ratio = float(octaves_K[k]) / cost(cell)
                if best is None or ratio > best[0] * (1 + 1e-9):
                    best = ratio, row, k, cell, float(octaves_K[k])
        if best is None:
            break
        _, row, k, cell, octaves = best
        chosen.append(Choice(cell, octaves))
        streams.add(int(space.stream_C[cell]))
        left[row][k].remove(cell)
        of_row[row] += 1
        for one in rows[row]:
            one.choose(k)
    return chosen
