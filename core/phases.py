"""The one rule that says what a trained cell does: its phase, decided by tests against chance.

Early stopping, progress, maps and reports use it. With `first` the accuracy where no example has
been seen, `last` that of the last tenth of the positions and `improvement = last - first` within
the same sequences, a cell is

- generalizing if its improvement on unseen tasks is above delta and its interval excludes 0,
- else identifying if the same holds on seen tasks,
- else memorizing if `first` on seen tasks is above chance by more than delta and its interval
  excludes chance,
- else untrained.

`first` is a proportion over n sequences, so its interval is Wilson's score interval (Wilson 1927;
recommended by Brown, Cai & DasGupta 2001, Statistical Science 16:101). `improvement` is a paired
difference of proportions, so its interval is Bonett & Price's (2012, JEBS 37:479).

Importing this module imports NumPy alone; SciPy's quantiles are imported where they are needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from metaphase.core import schema

UNTRAINED, MEMORIZING, IDENTIFYING, GENERALIZING = PHASES = (
    "untrained",
    "memorizing",
    "identifying",
    "generalizing",
)  # from least to most capable

# An effect that matters: 5 percentage points, a tenth or less of what trained cells show, and more
# than a chance fluctuation (2 to 4 standard errors with 10 to 5 classes and 512 sequences).
DELTA = 0.05
# A map is many tests at once. At 99% a cell whose true effect is 0 is called wrongly at most once
# in 200 (one side of the interval), so a grid of 100 cells shows less than one false phase.
CONFIDENCE = 0.99

# The columns of the cells table that decide the phase of a cell that finished.
DECIDING_COLUMNS = (
    "n",
    "chance",
    "seen_first",
    "seen_improvement",
    "seen_improvement_se",
    "unseen_improvement",
    "unseen_improvement_se",
)

Numbers = np.ndarray | float
Interval = tuple[Any, Any]  # low and high, of the shape of the numbers


def wilson_interval(proportion: Numbers, n: Numbers, confidence: float = CONFIDENCE) -> Interval:
    """Score interval of a binomial proportion; any shape, elementwise.

    (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n): the values q that the score test
    |p - q| <= z sqrt(q(1-q)/n) does not reject (Wilson 1927, JASA 22:209).
    """
    from scipy import special

    z2n = special.ndtri((1 + confidence) / 2) ** 2 / n
    center = (proportion + z2n / 2) / (1 + z2n)
    half = np.sqrt(z2n * (proportion * (1 - proportion) + z2n / 4)) / (1 + z2n)
    return center - half, center + half


def paired_interval(
    mean: Numbers, standard_error: Numbers, n: Numbers, confidence: float = CONFIDENCE
) -> Interval:
    """Interval of a mean of n differences in [-1, 1], each between two accuracies of one sequence;
    any shape, elementwise.

    Student's t interval after two more sequences, one that gains all and one that loses all: for
    right or wrong answers the adjusted interval of Bonett & Price (2012, JEBS 37:479), with t's
    quantile for the normal one. Unadjusted it is far too short where sequences hardly differ.

    Args:
        mean, standard_error: of the n differences; the error is deviation / sqrt(n).
    """
    from scipy import special

    squares = standard_error**2 * n * (n - 1) + n * mean**2 + 2
    middle = mean * n / (n + 2)
    error = np.sqrt((squares / (n + 2) - middle**2) / (n + 1))
    half = special.stdtrit(n + 1, (1 + confidence) / 2) * error
    return middle - half, middle + half


def decide(
    numbers: Mapping[str, Numbers], delta: float = DELTA, confidence: float = CONFIDENCE
) -> tuple[np.ndarray, dict[str, Interval]]:
    """The phases of cells that finished, and the intervals that decide them.

    Args:
        numbers: `DECIDING_COLUMNS` by name, all of one shape.
        delta: least effect that counts, an accuracy difference.
        confidence: of the two-sided intervals.

    Returns:
        Each cell's phase (untrained where a number is NaN), and (low, high) of `seen_first`,
        `seen_improvement` and `unseen_improvement`.

    Raises:
        ValueError: delta is not in [0, 1) or confidence not in (0, 1).
    """
    if not 0 <= delta < 1:
        raise ValueError(f"delta: {delta} is out of range; allowed: 0 to below 1")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: {confidence} is out of range; allowed: between 0 and 1")
    n = numbers["n"]
    intervals = {"seen_first": wilson_interval(numbers["seen_first"], n, confidence)}
    for name in ("seen_improvement", "unseen_improvement"):
        intervals[name] = paired_interval(numbers[name], numbers[f"{name}_se"], n, confidence)

    def shows(name: str, null: Numbers) -> np.ndarray:
        """Whether an effect is there; False where a number is NaN."""
        return np.asarray((numbers[name] - null > delta) & (intervals[name][0] > null))

    phase = np.select(
        [
            shows("unseen_improvement", 0.0),
            shows("seen_improvement", 0.0),
            shows("seen_first", numbers["chance"]),
        ],
        [GENERALIZING, IDENTIFYING, MEMORIZING],
        UNTRAINED,
    )
    return phase, intervals


def phase_of(row: Mapping[str, Any]) -> str | None:
    """The phase of the cell with this row of the cells table, at `DELTA` and `CONFIDENCE`.

    Args:
        row: as `core.training.trainer.PackTrainer.results` makes it and as it is read back.

    Returns:
        One of `PHASES`; None where the cell diverged, failed or isn't finished.
    """
    if row["status"] != schema.DONE:
        return None
    phase, _ = decide({name: np.float64(row[name]) for name in DECIDING_COLUMNS})
    return str(phase)
