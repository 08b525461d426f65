"""How the number of tasks at which a phase begins moves with the model's size: all sizes at once.

Seeds of all sizes reach the phase as in `core.thresholds`, with one sharpness s that sizes share,
asymptotes of each size's own, and thresholds theta(size) that are

- smooth: the random walk of `core.joint_thresholds`; or
- a power law: N* = N0 (size / middle size)^exponent, a straight line in log2.

Both posteriors are summed over grids of parameters, so that they can be compared by their Bayes
factor. Priors are flat: on the first theta, from half the grid's length below it to as much above;
on the line's height at the middle of the sizes, over the same range; on the exponent, within
`_STEEPEST`.
"""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd

from metaphase.analysis.statistics.intervals import CONFIDENCE
from metaphase.analysis.statistics.phases import require_one_condition
from metaphase.analysis.statistics.transitions import BEGINS, counts, usable_cells
from metaphase.core import joint_thresholds, thresholds
from metaphase.core.joint_thresholds import Outcomes, over_asymptotes
from metaphase.core.thresholds import quantiles

FEWEST = 3  # model sizes
EVIDENCE = thresholds.BAND_EVIDENCE  # that a phase rises along the power law at all
WIDEST = 2.0  # interval of an exponent that says where a boundary goes
BETTER = 20.0  # strong evidence (Kass & Raftery 1995) that a smooth boundary fits better
_STEEPEST = 6.0  # exponents are from minus this to this
_SLOPES = np.linspace(-_STEEPEST, _STEEPEST, 145)


def boundaries(
    classified: pd.DataFrame, confidence: float = CONFIDENCE
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Where phases begin by the joint models.

    Args:
        classified: cells with `phase`, of one condition, as from
            `analysis.statistics.phases.classify`.

    Returns:
        (a row for each (architecture, model_size) and phase of `transitions.BEGINS`: `begins`,
        `log2_num_tasks`, `low`, `high` of the smooth model, and the power law's under the same
        names with `law_` before; a row for each architecture and phase: `exponent`, its `low`
        and `high`, `middle_size`, `log2_num_tasks` (N0's), `sizes`, `bayes_factor` (of the power
        law against the smooth model), `moves` (the power law's Bayes factor against one number of
        tasks for all sizes), `rises` (that against a constant share of seeds at each size) and
        `clear`: the phase begins by a power law, see `_is_clear`). Ends of intervals beyond the
        grid are -inf and inf, an estimate beyond it is NaN. Nothing for architectures with fewer
        than `FEWEST` sizes, and none for a phase that all cells reach or none does.

    Raises:
        ResultsError: cells differ in more than the grid's axes.
    """
    require_one_condition(classified)
    sizes_found, laws_found = [], []
    for architecture, cells in usable_cells(classified).groupby("architecture"):
        sizes = np.sort(cells["model_size"].unique())
        if len(sizes) < FEWEST or cells["num_tasks"].nunique() < FEWEST:
            continue
        for phase in BEGINS:
            reached = cells["phase"] >= phase
            if reached.all() or not reached.any():
                continue
            x = np.log2(cells["num_tasks"].to_numpy(dtype=float))
            outcomes = tuple(
                tuple(tuple(n.tolist()) for n in counts(x[at], reached.to_numpy()[at]))
                for at in (cells["model_size"].to_numpy() == size for size in sizes)
            )
            rows, law = _of_phase(tuple(sizes.tolist()), outcomes, confidence)
            for size, row in zip(sizes, rows, strict=True):
                sizes_found.append((architecture, size, phase, *row))
            laws_found.append((architecture, phase, *law))
    columns = ["log2_num_tasks", "low", "high"]
    columns += [f"law_{name}" for name in columns]
    by_size = pd.DataFrame(sizes_found, columns=["architecture", "model_size", "begins", *columns])
    by_phase = pd.DataFrame(
        laws_found,
        columns=[
            "architecture", "begins", "exponent", "low", "high", "middle_size", "log2_num_tasks",
            "sizes", "bayes_factor", "moves", "rises", "clear",
        ],
    )  # fmt: skip
    return by_size, by_phase


@functools.lru_cache(maxsize=8)
def _of_phase(
    sizes: tuple[int, ...], outcomes_W: tuple[tuple[tuple[float, ...], ...], ...], confidence: float
) -> tuple[list[tuple[float, ...]], tuple[float, ...]]:
    """The rows of one phase for both tables of `boundaries`, once for a map and for the tables.

    Args:
        sizes: ascending.
        outcomes_W: what `transitions.counts` gives of each size.
    """
    outcomes = [Outcomes(*map(np.array, at)) for at in outcomes_W]
    first, last = min(at.x_K[0] for at in outcomes), max(at.x_K[-1] for at in outcomes)
    theta_T = joint_thresholds.thetas(first, last)
    log_WxTxS = np.stack(
        [over_asymptotes(joint_thresholds.log_likelihood(theta_T, at)) for at in outcomes]
    )
    log_constant = sum(thresholds.log_constant(yes_K, no_K) for _, yes_K, no_K in outcomes)
    v_W = np.log2(np.array(sizes, dtype=float))
    v_W = v_W - (v_W[0] + v_W[-1]) / 2
    weight_WxTxS, smooth, _ = joint_thresholds.smooth(theta_T, v_W, log_WxTxS)
    weight_TxB, log_law, log_flat = _power_law(theta_T, v_W, log_WxTxS)

    rows = []
    for w, v in enumerate(v_W):
        line = (theta_T[:, None] + _SLOPES * v).ravel()
        ends = [quantiles(theta_T, weight_WxTxS[w].sum(axis=1), confidence),
                quantiles(line, weight_TxB.ravel(), confidence)]  # fmt: skip
        rows.append(tuple(value for each in ends for value in _estimate(each, first, last)))
    low, exponent, high = quantiles(_SLOPES, weight_TxB.sum(axis=0), confidence)
    height = quantiles(theta_T, weight_TxB.sum(axis=1), confidence)
    middle = _estimate(height, first, last)[0]
    size = float(np.sqrt(float(sizes[0]) * float(sizes[-1])))
    factors = [thresholds.factor(log_law - other) for other in (smooth, log_flat, log_constant)]
    clear = _is_clear(rows, high - low, factors[0], factors[2])
    return rows, (exponent, low, high, size, middle, len(sizes), *factors, clear)


def _is_clear(
    rows: list[tuple[float, ...]], width: float, against_smooth: float, rises: float
) -> bool:
    """Whether the power law says where the phase begins: the phase rises with it (a Bayes factor of
    `EVIDENCE`), no smooth boundary fits clearly better (`BETTER`), the exponent's interval is at
    most `WIDEST` wide, and the law lies within the grid at `FEWEST` sizes."""
    inside = sum(bool(np.isfinite(row[3])) for row in rows)
    return (
        width <= WIDEST and rises >= EVIDENCE and against_smooth * BETTER >= 1 and inside >= FEWEST
    )


def _power_law(
    theta_T: np.ndarray, v_W: np.ndarray, log_WxTxS: np.ndarray
) -> tuple[np.ndarray, float, float]:
    """Posterior weights of (height, exponent), shape (T, B), and log evidence of the power law
    and of exponent 0. Beyond the range of theta the likelihood is that at its end."""
    position_TxB = np.arange(len(theta_T), dtype=float)[:, None]
    log_TxBxS = np.zeros((len(theta_T), len(_SLOPES), log_WxTxS.shape[2]))
    for v, log_TxS in zip(v_W, log_WxTxS, strict=True):
        at = np.clip(position_TxB + _SLOPES * v / (theta_T[1] - theta_T[0]), 0, len(theta_T) - 1)
        left = np.minimum(at.astype(int), len(theta_T) - 2)
        part = (at - left)[:, :, None]
        log_TxBxS += (1 - part) * log_TxS[left] + part * log_TxS[left + 1]
    most = log_TxBxS.max()
    weight_TxB = np.exp(log_TxBxS - most).mean(axis=2)
    flat = weight_TxB[:, len(_SLOPES) // 2].mean()
    return weight_TxB, float(np.log(weight_TxB.mean()) + most), float(np.log(flat) + most)


def _estimate(
    ends: tuple[float, float, float], first: float, last: float
) -> tuple[float, float, float]:
    """(estimate, low, high) of (low, median, high), as far as the grid can say them."""
    low, median, high = thresholds.cut(*ends, first, last)
    return median, low, high
