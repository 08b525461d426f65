"""The strategy model of Wurgaft et al. 2025, "In-Context Learning Strategies Emerge Rationally"
(arXiv 2506.17859): training as an update of beliefs about two strategies, M and G.

After n training steps on N tasks a strategy Q with the average loss L_Q on the tasks trained on and
the complexity K_Q, bits, has the log posterior (as their code has it, `HierarchicalBayesianModel`,
github.com/DanielWurgaft/rational-icl)

    -gamma n^(1 - alpha) L_Q - ln 2 K_Q^beta

and the model's predictions are the posterior's mixture, so that the relative distance from M is G's
posterior probability w = 1 / (1 + exp(eta)) with

    eta = gamma n^(1 - alpha) (L_G - L_M) - ln 2 (K_M^beta - K_G^beta)

Three numbers a setting (model, family, lengths), within `BOUNDS`: n^(1 - alpha) is the evidence of
n steps, so alpha is 0 to 1. L are the columns `loss_memorizing` and `loss_generalizing` on seen
tasks. K_M is `CODE_BITS` for the algorithm and `NUMBER_BITS` for each number that the N tasks
consist of, K_G the former; the paper compresses source and arrays, of which float32 numbers that
are random keep nearly all bits. The paper fits outputs; this fits the relative distances of the
tables, by least squares. Cells that never left their plateau are left out: w says of them in which
direction they are off the line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from metaphase.core import schema

CODE_BITS = 4000.0  # of either algorithm: 500 bytes of compressed source; assumed
NUMBER_BITS = 32.0  # of a float32
_ASSUMED = 8  # numbers of a task of a family that isn't known here
FEWEST = 3  # numbers of tasks, and steps
FOLDS = 4  # parts that numbers of tasks, and steps, are left out in

# Numbers that a task consists of.
NUMBERS: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "balls_and_urns": lambda row: row["symbols"],
    "linear_regression": lambda row: row["dimension"],
    "markov_chains": lambda row: row["states"] ** 2,
    "noisy_items": lambda row: row["dimension"] + 1,
}
# Of alpha, beta and gamma. A number that ends at a bound isn't known.
BOUNDS = {"alpha": (0.0, 1.0), "beta": (1e-3, 2.0), "gamma": (1e-8, 1e8)}
_LOW, _HIGH = (
    np.array([a, np.log(b), np.log(c)]) for a, b, c in zip(*BOUNDS.values(), strict=True)
)
_NEAR = 1e-3  # of a bound: at it
# Where the search begins: the best of all of these combinations, a few of which are refined.
_REFINED = 8
_STARTS = [
    np.linspace(0.05, 0.95, 7),  # alpha
    np.linspace(0.05, 0.75, 8),  # beta
    np.geomspace(1e-3, 1e4, 12),  # gamma
]


@dataclass(frozen=True)
class Strategy:
    """The three parameters of a setting."""

    alpha: float
    beta: float
    gamma: float

    def relative_distance(self, points: pd.DataFrame) -> np.ndarray:
        """Of each of `points`, a table from `points_table`."""
        parameters = np.array([self.alpha, self.beta, self.gamma])
        return _predict(parameters, *_arrays(points))


def points_table(cells: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """What the model is fitted to: evaluations at which the relative distance is known.

    Args:
        cells: of one condition, from `analysis.statistics.phases.classify`; those that finished and
            left their plateau are looked at.
        history: from `analysis.load.load_history`.

    Returns:
        A row a cell and step above 0: model_size, num_tasks, seed, `step`, `relative_distance` (on
        new tasks), `gain` (loss of G less that of M on seen tasks) and `bits` (of N tasks).
    """
    done = cells[(cells["status"] == schema.DONE) & ~cells["on_plateau"].astype(bool)]
    numbers = [_numbers(row) for row in done.to_dict("records")]
    own = done[["cell_id", "model_size", "num_tasks", "seed"]].assign(
        bits=np.array(numbers) * NUMBER_BITS * done["num_tasks"].to_numpy(dtype=float)
    )
    rows = history[history["step"] > 0]
    seen = rows[rows["split"] == schema.SEEN].set_index(["cell_id", "step"])
    gain = seen["loss_generalizing"].astype(float) - seen["loss_memorizing"].astype(float)
    new = rows.loc[rows["split"] == schema.UNSEEN, ["cell_id", "step", "relative_distance"]]
    found = new.merge(gain.rename("gain").reset_index(), on=["cell_id", "step"])
    found = found.merge(own, on="cell_id").astype({"relative_distance": float})
    found = found.dropna(subset=["relative_distance", "gain"])
    keys = ["model_size", "num_tasks", "seed", "step"]
    return found[[*keys, "relative_distance", "gain", "bits"]].sort_values(keys, ignore_index=True)


def _numbers(row: Mapping[Any, Any]) -> float:
    try:
        return float(NUMBERS[row["task_family"]](row))
    except (KeyError, TypeError):
        return float(_ASSUMED)


def can_be_fitted(points: pd.DataFrame) -> bool:
    """Whether there are `FEWEST` numbers of tasks and steps, and values that differ."""
    several = (points[name].nunique() >= FEWEST for name in ("num_tasks", "step"))
    return all(several) and float(np.ptp(points["relative_distance"])) > 0


def fit(points: pd.DataFrame) -> Strategy:
    """Least squares within `BOUNDS`: the best of a grid of starts are refined a little, as the sum
    of squares has local minima, and the best of these to the end."""
    from scipy import optimize

    data, measured = _arrays(points), points["relative_distance"].to_numpy(dtype=float)
    starts = np.stack(np.meshgrid(*_STARTS, indexing="ij"), axis=-1).reshape(-1, 3)
    wrong = np.square(_predict(starts.T[:, :, None], *data) - measured).sum(axis=1)

    def refined(start: np.ndarray, evaluations: int = 12) -> Any:
        return optimize.least_squares(
            lambda x: _predict(_parameters(x), *data) - measured, start,
            lambda x: _slopes(_parameters(x), *data), bounds=(_LOW, _HIGH),
            max_nfev=evaluations,
        )  # fmt: skip

    few = starts[np.argsort(wrong, kind="stable")[:_REFINED]]
    few[:, 1:] = np.log(few[:, 1:])
    best = refined(min(map(refined, few), key=lambda found: found.cost).x, 100)
    return Strategy(*(float(value) for value in _parameters(best.x)))


def _parameters(x: np.ndarray) -> np.ndarray:
    """alpha, beta and gamma of what is searched for: alpha and the others' logarithms."""
    return np.array([x[0], np.exp(x[1]), np.exp(x[2])])


def at_bounds(found: Strategy) -> list[str]:
    """Which parameters ended at a bound, and so aren't known."""
    x = np.array([found.alpha, np.log(found.beta), np.log(found.gamma)])
    return [n for n, at in zip(BOUNDS, (x < _LOW + _NEAR) | (x > _HIGH - _NEAR), strict=True) if at]


def held_out(points: pd.DataFrame) -> np.ndarray:
    """Each point's relative distance by a fit that saw neither its number of tasks nor its steps.

    Both are cut into `FOLDS` parts, numbers of tasks in turn (so that no fit is only of small or of
    large ones), steps into stretches. NaN where too little is left to fit.
    """
    tasks = {n: i % FOLDS for i, n in enumerate(np.unique(points["num_tasks"]))}
    parts = np.array_split(np.unique(points["step"]), min(FOLDS, points["step"].nunique()))
    steps = {int(step): i for i, part in enumerate(parts) for step in part}
    task_fold = points["num_tasks"].map(tasks).to_numpy()
    step_fold = points["step"].map(steps).to_numpy()
    found = np.full(len(points), np.nan)
    for i in np.unique(task_fold):
        for j in np.unique(step_fold):
            left = points[(task_fold != i) & (step_fold != j)]
            out = (task_fold == i) & (step_fold == j)
            enough = left["num_tasks"].nunique() > 1 and left["step"].nunique() > 1
            if out.any() and enough and len(left) > 3:
                found[out] = fit(left).relative_distance(points[out])
    return found


def correlation(measured: np.ndarray, predicted: np.ndarray) -> float:
    """Pearson's, of the pairs that are there; NaN where one side doesn't vary."""
    there = np.isfinite(measured) & np.isfinite(predicted)
    a, b = measured[there], predicted[there]
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def summary(points: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The fits, one a model size, and the points with what they predict.

    Returns:
        (a row a model size: alpha, beta, gamma, `at_bounds` (their names, separated by commas),
        `points`, `r_squared`, `correlation`, `held_out_correlation`; `points` with `predicted` and
        `held_out`).
    """
    rows, parts = [], []
    for size, own in points.groupby("model_size"):
        if not can_be_fitted(own):
            continue
        found, measured = fit(own), own["relative_distance"].to_numpy(dtype=float)
        predicted, out = found.relative_distance(own), held_out(own)
        spread = np.square(measured - measured.mean()).sum()
        rows.append(
            {
                "model_size": size, "alpha": found.alpha, "beta": found.beta, "gamma": found.gamma,
                "at_bounds": ",".join(at_bounds(found)), "points": len(own),
                "r_squared": 1 - np.square(measured - predicted).sum() / spread,
                "correlation": correlation(measured, predicted),
                "held_out_correlation": correlation(measured, out),
            }
        )  # fmt: skip
        parts.append(own.assign(predicted=predicted, held_out=out))
    return pd.DataFrame(rows), pd.concat(parts, ignore_index=True) if parts else points.iloc[:0]


def _arrays(points: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    step, gain, bits = (points[c].to_numpy(dtype=float) for c in ("step", "gain", "bits"))
    return step, gain, bits


def _predict(
    parameters: np.ndarray, step: np.ndarray, gain: np.ndarray, bits: np.ndarray
) -> np.ndarray:
    alpha, beta, gamma = parameters
    with np.errstate(over="ignore", invalid="ignore"):
        complexity = np.log(2) * ((CODE_BITS + bits) ** beta - CODE_BITS**beta)
        eta = gamma * step ** (1 - alpha) * gain - complexity
    return 1 / (1 + np.exp(np.clip(np.nan_to_num(eta), -50, 50)))


def _slopes(
    parameters: np.ndarray, step: np.ndarray, gain: np.ndarray, bits: np.ndarray
) -> np.ndarray:
    """Derivatives of `_predict` by alpha and by the logarithms of beta and gamma, (points, 3)."""
    alpha, beta, gamma = parameters
    evidence = gamma * step ** (1 - alpha) * gain
    total = CODE_BITS + bits
    grows = np.log(total) * total**beta - np.log(CODE_BITS) * CODE_BITS**beta
    eta = np.stack([-evidence * np.log(step), -np.log(2) * beta * grows, evidence], axis=-1)
    w = _predict(parameters, step, gain, bits)
    return -(w * (1 - w))[:, None] * eta
