"""What a trained cell does: its phase, by tests of its accuracy against what is known.

Early stopping, progress, maps and reports use it, but for cells whose family has the best
algorithms as predictors (`core.predictor_phases`); `core.phase_rules` chooses. With `first` the
accuracy where no example has been seen, `last` that of the last tenth of the positions and
`improvement = last - first` within the same sequences, a cell is

- generalizing if `last` on unseen tasks is above their level: what naming the commonest label so
  far reaches there, without looking at inputs (`core.label_counts`);
- else identifying if, on seen tasks, its improvement is above 0, it is better at last than on
  unseen tasks, and better than labels alone allow, which is `chance`, the commonest class's share;
- else memorizing if `first` on seen tasks is above chance;
- else untrained.

*Above* means by more than delta in the estimate, and significantly: the interval of the effect
excludes 0. (Of what labels alone allow it means significantly.) A phase is decided if every value
that the intervals hold gives the same one: where an interval on which it depends holds both less
and more than delta, the data can't tell.

On an unseen task `first` is 1 / num_classes for any model, as its permutation is uniform, so `last`
is compared with a number that is known instead of with an estimate. Seen tasks are not
exchangeable: what a model knows of them at the first position is only to be measured.

`first` and `last` are means of proportions within n sequences; their interval is the score interval
with the sample's effective size (`score_interval`; of `first` it is Wilson's). `improvement` is a
paired difference, so its interval is Bonett & Price's (2012, JEBS 37:479). Seen and unseen tasks
are different sequences, so the interval of their difference is made of both (`lead_interval`).

Importing this module imports NumPy alone; SciPy's quantiles are imported where they are needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from metaphase.core import label_counts
from metaphase.core.settings import ConfigError

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
# A cell that nothing was learned in is on its plateau while its training loss is less than this
# share below a guess'. As much as a right answer in 20 brings: naming the right one of 5 or 10
# labels 5 points more often at all positions lowers the loss by 0.45% and 0.50%. A cell on its
# plateau is 0.0 to 0.15% below (digits, 1,024 sequences).
PLATEAU_MARGIN = 0.005

ON_PLATEAU = "not trained long enough"  # to have a phase; see `on_plateau`

# The loss of a family's predictor without context on the sequences that `train_loss` is of.
NO_CONTEXT_LOSS = "train_loss_no_context"

# The columns of the cells table that decide the phase of a cell that finished ...
DECIDING_COLUMNS = (
    "n",
    "chance",
    "seen_first",
    "seen_last",
    "seen_last_se",
    "seen_improvement",
    "seen_improvement_se",
    "unseen_last",
    "unseen_last_se",
)
# ... those that say the level of its unseen tasks and the loss of a guess, and its own loss.
GUESSING_COLUMNS = (
    "dataset",
    "num_classes",
    "sequence_length",
    "unseen_level",
    "guess_loss",
    NO_CONTEXT_LOSS,
    "train_loss",
)
ROW_COLUMNS = (*DECIDING_COLUMNS, *GUESSING_COLUMNS)  # what is read of a cell's row

Numbers = np.ndarray | float
Interval = tuple[Any, Any]  # low and high, of the shape of the numbers


@dataclass(frozen=True)
class Decision:
    """What the rule says of cells that finished; all of one shape.

    Attributes:
        phase: one of `PHASES`; untrained where a number is NaN.
        decided: whether every value that the intervals hold gives this phase.
        intervals: (low, high) of `seen_first`, `seen_last`, `unseen_last`, `seen_improvement` and
            `seen_lead`, the lead of seen_last over unseen_last.
    """

    phase: np.ndarray
    decided: np.ndarray
    intervals: dict[str, Interval]


def wilson_interval(proportion: Numbers, n: Numbers, confidence: float = CONFIDENCE) -> Interval:
    """Score interval of a binomial proportion; any shape, elementwise.

    (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n): the values q that the score test
    |p - q| <= z sqrt(q(1-q)/n) does not reject (Wilson 1927, JASA 22:209; recommended by Brown, Cai
    & DasGupta 2001, Statistical Science 16:101).
    """
    from scipy import special

    return _score(proportion, n, special.ndtri((1 + confidence) / 2))


def score_interval(
    mean: Numbers, standard_error: Numbers, n: Numbers, confidence: float = CONFIDENCE
) -> Interval:
    """Interval of a mean of n shares of right answers, a share a sequence; any shape, elementwise.

    Wilson's with the sample's effective size p (1 - p) / se^2 (Korn & Graubard 1998, Survey
    Methodology 24:193) and, as the error is estimated, Student's t quantile with n - 1 degrees of
    freedom. The size is n at least: answers of one sequence agree at most wholly.

    Args:
        mean, standard_error: of the n shares; the error is deviation / sqrt(n).
    """
    from scipy import special

    mean, variance = np.asarray(mean, dtype=float), np.asarray(standard_error, dtype=float) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        size = np.where(variance > 0, mean * (1 - mean) / variance, n)
    size = np.where(np.isnan(variance), np.nan, np.maximum(size, n))
    quantile = special.stdtrit(np.asarray(n, dtype=float) - 1, (1 + confidence) / 2)
    return _score(mean, size, quantile)


def _score(p: Numbers, n: Numbers, z: Numbers) -> Interval:
    z2n = z**2 / n
    center = (p + z2n / 2) / (1 + z2n)
    half = np.sqrt(z2n * (p * (1 - p) + z2n / 4)) / (1 + z2n)
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


def lead_interval(mean: Numbers, interval: Interval, other: Numbers, others: Interval) -> Interval:
    """Interval of mean - other from those of both (Newcombe 1998, Statistics in Medicine 17:873,
    method 10), as if they were independent.

    Sequences of seen and unseen tasks have the same images, so accuracies on them vary together, if
    at all, and the interval is rather too wide.
    """
    (low, high), (other_low, other_high) = interval, others
    down = np.sqrt((mean - low) ** 2 + (other_high - other) ** 2)
    up = np.sqrt((high - mean) ** 2 + (other - other_low) ** 2)
    return mean - other - down, mean - other + up


def check_thresholds(delta: float, confidence: float) -> None:
    """Raises ConfigError unless delta is in [0, 1) and confidence in (0, 1)."""
    for name, value in (("delta", delta), ("confidence", confidence)):
        if not isinstance(value, (int, float, np.number)):
            raise ConfigError(f"{name}: {value!r} is not a number")
    if not 0 <= delta < 1:
        raise ConfigError(f"delta: {delta} is out of range; allowed: 0 to below 1")
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence: {confidence} is out of range; allowed: between 0 and 1")


def decide(
    numbers: Mapping[str, Numbers],
    level: Numbers,
    delta: float = DELTA,
    confidence: float = CONFIDENCE,
    headroom: bool = False,
) -> Decision:
    """The phases of cells that finished, and the intervals that decide them.

    Args:
        numbers: `DECIDING_COLUMNS` by name, all of one shape.
        level: of their unseen tasks, see `level_of`.
        delta: least effect that counts, an accuracy difference.
        confidence: of the two-sided intervals.
        headroom: delta is a share of 1 - level instead, of what there is to be learned.

    Raises:
        ValueError: delta is not in [0, 1) or confidence not in (0, 1).
    """
    check_thresholds(delta, confidence)
    n, chance = numbers["n"], numbers["chance"]
    value = {name: numbers[name] for name in ("seen_first", "seen_last", "unseen_last")}
    between = {"seen_first": wilson_interval(numbers["seen_first"], n, confidence)}
    for name in ("seen_last", "unseen_last"):
        between[name] = score_interval(numbers[name], numbers[f"{name}_se"], n, confidence)
    value["seen_improvement"] = numbers["seen_improvement"]
    between["seen_improvement"] = paired_interval(
        numbers["seen_improvement"], numbers["seen_improvement_se"], n, confidence
    )
    seen, unseen = value["seen_last"], value["unseen_last"]
    value["seen_lead"] = seen - unseen
    between["seen_lead"] = lead_interval(seen, between["seen_last"], unseen, between["unseen_last"])
    least = delta * (1 - np.asarray(level, dtype=float)) if headroom else delta

    def shows(name: str, null: Numbers, least: Numbers = least) -> tuple[Any, Any, Any]:
        """Whether an effect is there, surely there, and surely not; False where it is NaN."""
        low, high = between[name]
        there = (value[name] - null > least) & (low > null)
        return np.asarray(there), np.asarray(low - null > least), np.asarray(high - null <= least)

    generalizes = shows("unseen_last", level)
    effects = shows("seen_improvement", 0.0), shows("seen_lead", 0.0), shows("seen_last", chance, 0)
    there, surely, ruled_out = zip(*effects, strict=True)
    identifies = (
        np.logical_and.reduce(there),
        np.logical_and.reduce(surely),
        np.logical_or.reduce(ruled_out),
    )
    memorizes = shows("seen_first", chance)
    in_order = generalizes, identifies, memorizes
    phase = np.select([s[0] for s in in_order], [GENERALIZING, IDENTIFYING, MEMORIZING], UNTRAINED)
    decided = memorizes[1] | memorizes[2]  # the last question; and so on, to the first
    for _, is_sure, is_not in (identifies, generalizes):
        decided = is_sure | (is_not & decided)
    return Decision(phase, decided, between)


def level_of(row: Mapping[str, Any]) -> float:
    """The level of the cell's unseen tasks: what naming the commonest label so far reaches over the
    last tenth of the positions. For rows of earlier programs, which don't say it,
    `core.label_counts.known_level`.

    Args:
        row: of the cells table, or of a table with its `GUESSING_COLUMNS` and `chance`.
    """
    level = row.get("unseen_level")
    if level is not None and level == level:
        return float(level)
    classes, length = row.get("num_classes"), row.get("sequence_length")
    if not classes or not length:
        return float(row["chance"])
    chance = float(row["chance"])
    return label_counts.known_level(str(row.get("dataset")), int(classes), int(length), chance)


def on_plateau(phase: Any, train_loss: Numbers, plateau_loss: Numbers) -> np.ndarray:
    """Whether cells never left their plateau: nothing was learned (untrained), and the loss on the
    tasks they were trained on is a guess', to `PLATEAU_MARGIN`. Any shape, elementwise.

    Args:
        plateau_loss: see `plateau_loss_of`.
    """
    near = np.asarray(train_loss, dtype=float) > (1 - PLATEAU_MARGIN) * np.asarray(plateau_loss)
    return np.asarray(np.asarray(phase) == UNTRAINED) & near


def plateau_loss_of(row: Mapping[str, Any]) -> float:
    """The loss that the cell's plateau is at: what knowing no context loses on the same sequences,
    whose N tasks may have another than all that are drawn, else a guess'. NaN if unknown.

    Args:
        row: as of `level_of`.
    """
    loss = row.get(NO_CONTEXT_LOSS)
    return guess_loss_of(row) if loss is None or loss != loss else float(loss)


def guess_loss_of(row: Mapping[str, Any]) -> float:
    """The loss of a guess (`core.label_counts.guess_loss`); as `level_of`. NaN if unknown."""
    loss, classes = row.get("guess_loss"), row.get("num_classes")
    if loss is not None and loss == loss:
        return float(loss)
    if not classes or row.get("chance") is None or not math.isfinite(row["chance"]):
        return math.nan
    return label_counts.known_guess_loss(str(row.get("dataset")), int(classes), row["chance"])
