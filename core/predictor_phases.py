"""The rule of phases where the best algorithms are known: which predictor a trained cell is
nearest to. Beside `core.phases`, whose words and intervals it has.

A task family may bring M, the Bayesian predictor whose prior is the N tasks trained on (papers call
it the memorizing solution), G, whose prior is the distribution that tasks are drawn from, and 0,
which says what is known without context (`memorizing`, `generalizing`, `no_context`). With d_p the
model's distance from predictor p and B that of M from G, all on the same sequences, a cell is

- generalizing if, on new tasks, it is nearer to G than to M, and than to 0;
- else, if on seen tasks it is nearer to M than to 0: identifying if M gains from the examples
  there, which tell the N tasks apart, and so does a model that is like M; memorizing if M gains
  nothing, as where N is 1, or tasks are known at the first position;
- else untrained.

*Nearer* means by more than delta in the estimate, and significantly. Delta is a share of what lies
between:

    nearness   (d_M - d_G) / B             on new tasks; -1 is M, 1 is G, 0 is half-way between
    departure  (d_0 - d_p) / (d_0 + d_p)   of G on new tasks and of M on seen ones; -1 is 0, 1 is p

For squared distances the nearness is exactly 2 w - 1, with w the relative distance, wherever off
the line the model is. What M gains is known where the family has the predictor that knows the task
(o, `oracle`): on seen tasks M spends the examples

    T (L_M - L_o) / (L_0 - L_o)

on telling them apart, L being losses and T the length; it gains where that is more than `SPENT`.
Where there is no oracle or no 0, the model's improvement within sequences of seen tasks is asked,
an accuracy difference, as in `core.phases`.

Nearness is a mean of differences within sequences, whose interval is made as an improvement's
(`core.phases.paired_interval`): with two more sequences, one at M and one at G. The two distances
of a departure aren't paired in the tables; the error of their difference is at most the sum of
theirs, and that is taken.

Where nearness has an interval that is wider than from M to G, the question has no answer, and a
cell that left 0 has no phase: M and G coincide where M itself would have such an interval, else the
model is too far from both for what lies between them (as models are for large N). A phase
is decided if every value that the intervals hold gives the same one, and nearness surely exceeds
delta in size where the phase depends on it: half-way between is never decided. Nor is it where the
model is farther from both than they are from each other: then the direction in which it is off the
line, half-way from 0 say, tells which is nearer, rather than what it does.

M of more than `core.predictors.MOST_TASKS` tasks isn't computed. No model here knows so many by
heart, so what is asked of such cells is whether they are nearer to G than to 0: they are
generalizing or untrained.

Where a family has no predictor 0, a cell left it that loses less than a guess, by the margin of
`core.phases.on_plateau`. This module imports NumPy alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np

from metaphase.core.phases import (
    CONFIDENCE,
    DELTA,
    GENERALIZING,
    IDENTIFYING,
    MEMORIZING,
    PHASES,
    PLATEAU_MARGIN,
    UNTRAINED,
    Decision,
    Interval,
    Numbers,
    check_thresholds,
    paired_interval,
)
from metaphase.core.predictors import MOST_TASKS

NONE = np.array(None, dtype=object)  # no phase
# Why a cell that finished has no phase, by column.
REASONS = {"coincide": "M and G coincide", "too_far": "too far from M and G"}

# Columns of the cells table without which the rule doesn't apply ...
DECIDING_COLUMNS = (
    "n",
    "num_tasks",
    "unseen_distance_difference",
    "unseen_distance_difference_se",
    "unseen_distance_between",
    "unseen_distance_generalizing",
    "unseen_distance_generalizing_se",
    "seen_distance_memorizing",
    "seen_distance_memorizing_se",
    "seen_improvement",
    "seen_improvement_se",
)
# ... and those that say how far it is from knowing no context, or else how much it loses, and what
# M gains from examples.
NO_CONTEXT_COLUMNS = (
    "unseen_distance_no_context",
    "unseen_distance_no_context_se",
    "seen_distance_no_context",
    "seen_distance_no_context_se",
    "seen_loss_no_context",
    "seen_loss_oracle",
    "seen_loss_memorizing",
    "sequence_length",
    "unseen_loss",
    "seen_loss",
    "guess_loss",
)
ROW_COLUMNS = (*DECIDING_COLUMNS, *NO_CONTEXT_COLUMNS, "unseen_distance_between_se")
# Examples that M spends at least on telling tasks apart, where it gains from them. Two urns take it
# 1.8: ln 2 nats, of which an example is worth 0.36; one task takes 0.
SPENT = 0.5
NAMES = ("unseen_nearness", "unseen_departure", "seen_departure", "seen_improvement")


def applies(numbers: Mapping[str, Numbers]) -> np.ndarray:
    """Which cells were compared with both M and G, or with G alone as they have too many tasks for
    M; elementwise.

    Args:
        numbers: by column; those that aren't there are None or missing.
    """
    of_both = ("unseen_distance_difference", "unseen_distance_between")
    known = [np.isfinite(_number(numbers, name)) for name in of_both]
    return np.logical_and(*known) | without_m(numbers)


def without_m(numbers: Mapping[str, Numbers]) -> np.ndarray:
    """Which cells were compared with G, but have too many tasks for M; as `applies`."""
    from_g, apart = (
        np.isfinite(_number(numbers, f"unseen_distance_{name}"))
        for name in ("generalizing", "between")
    )
    return np.asarray(from_g & ~apart & (_number(numbers, "num_tasks") > MOST_TASKS))


def effects(numbers: Mapping[str, Numbers]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """(estimate, standard error) of each of `NAMES`; any shape, elementwise. NaN where unknown."""
    value = {name: _number(numbers, name) for name in ROW_COLUMNS}
    between = value["unseen_distance_between"]
    with np.errstate(divide="ignore", invalid="ignore"):
        found = {
            "unseen_nearness": (
                np.where(between == 0, 0.0, value["unseen_distance_difference"] / between),
                np.where(between == 0, np.inf, value["unseen_distance_difference_se"] / between),
            )
        }
        for split, predictor in (("unseen", "generalizing"), ("seen", "memorizing")):
            own, zero = f"{split}_distance_{predictor}", f"{split}_distance_no_context"
            total = value[zero] + value[own]
            share = np.where(total == 0, 0.0, (value[zero] - value[own]) / total)
            error = np.where(total == 0, 0.0, (value[f"{zero}_se"] + value[f"{own}_se"]) / total)
            left = value[f"{split}_loss"] < (1 - PLATEAU_MARGIN) * value["guess_loss"]
            no_zero = np.isnan(value[zero]) & ~np.isnan(value[own])
            found[f"{split}_departure"] = (
                np.where(no_zero, np.where(left, 1.0, -1.0), share),
                np.where(no_zero, np.nan, error),
            )
    spent = _spent(value)
    told = np.isfinite(spent)
    found["seen_improvement"] = (
        np.where(told, np.where(spent > SPENT, 1.0, -1.0), value["seen_improvement"]),
        np.where(told, np.nan, value["seen_improvement_se"]),
    )
    return found


def _spent(value: Mapping[str, np.ndarray]) -> np.ndarray:
    """Examples that M spends on telling seen tasks apart; NaN where it can't be told."""
    zero, oracle, own = (
        value[f"seen_loss_{name}"] for name in ("no_context", "oracle", "memorizing")
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        spent = value["sequence_length"] * (own - oracle) / (zero - oracle)
    return np.where(zero > oracle, spent, np.nan)


def decide(
    numbers: Mapping[str, Numbers], delta: float = DELTA, confidence: float = CONFIDENCE
) -> Decision:
    """The phases of cells that finished and to which the rule `applies`, and the intervals that
    decide them.

    Args:
        numbers: `ROW_COLUMNS` by name, all of one shape; of `NO_CONTEXT_COLUMNS` any may lack.
        delta: least effect that counts, see above.
        confidence: of the two-sided intervals.

    Returns:
        `phase` is None where nearness can't be told, for cells that left the predictor without
        context.
        `intervals` are those of `NAMES`.

    Raises:
        ValueError: delta is not in [0, 1) or confidence not in (0, 1).
    """
    check_thresholds(delta, confidence)
    n = np.asarray(numbers["n"], dtype=float)
    found, between, there, may, may_not = effects(numbers), {}, {}, {}, {}
    for name, (mean, error) in found.items():
        between[name] = low, high = _interval(mean, error, n, confidence)
        there[name] = np.asarray((mean > delta) & (low > 0))
        may[name], may_not[name] = ~np.asarray(high <= delta), ~np.asarray(low > delta)
    near = "unseen_nearness"
    far = _far_from_both(numbers)
    may[near], may_not[near] = far | ~np.asarray(between[near][1] < -delta), far | may_not[near]
    alone, seen = without_m(numbers), "seen_departure"
    there[near], may_not[near] = there[near] | alone, may_not[near] & ~alone
    there[seen], may[seen] = there[seen] & ~alone, may[seen] & ~alone
    phase = _phase(*(there[name] for name in NAMES))
    possible = {name: np.zeros(phase.shape, dtype=bool) for name in PHASES}
    for answers in itertools.product((True, False), repeat=len(NAMES)):
        chances = [(may if yes else may_not)[n] for yes, n in zip(answers, NAMES, strict=True)]
        possible[str(_phase(*map(np.asarray, answers)))] |= np.logical_and.reduce(chances)
    decided = sum(possible.values(), np.zeros(phase.shape, dtype=int)) == 1
    low, high = between[near]
    untold = ~alone & ~np.asarray((high - low) / 2 < 1)
    left = there["unseen_departure"] | there["seen_departure"]
    phase = np.where(untold & left, NONE, phase)
    return Decision(phase, decided & ~is_none(phase), between)


def reasons(
    numbers: Mapping[str, Numbers], none: np.ndarray, confidence: float = CONFIDENCE
) -> dict[str, np.ndarray]:
    """Of cells without a phase, which has which of `REASONS`: M and G coincide where M itself would
    have an interval that is as wide, or where the table has no error of B.

    Args:
        numbers, confidence: as for `decide`.
        none: which cells have no phase.
    """
    n = np.asarray(numbers["n"], dtype=float)
    apart = _number(numbers, "unseen_distance_between")
    with np.errstate(divide="ignore", invalid="ignore"):
        error = _number(numbers, "unseen_distance_between_se") / apart
        low, high = paired_interval(-1.0, error, n, confidence)
    alike = ~np.asarray((high - low) / 2 < 1)
    return dict(zip(REASONS, (none & alike, none & ~alike), strict=True))


def _far_from_both(numbers: Mapping[str, Numbers]) -> np.ndarray:
    """Whether, on new tasks, the nearer of M and G is farther than they are from each other."""
    from_g, apart = (
        _number(numbers, f"unseen_distance_{name}") for name in ("generalizing", "between")
    )
    from_m = from_g + _number(numbers, "unseen_distance_difference")
    return np.asarray(np.minimum(from_g, from_m) > apart)


def is_none(phase: np.ndarray) -> np.ndarray:
    """Which elements are None; bool."""
    return np.array([one is None for one in phase.ravel()], dtype=bool).reshape(phase.shape)


def _phase(
    towards: np.ndarray, left_unseen: np.ndarray, left_seen: np.ndarray, improves: np.ndarray
) -> np.ndarray:
    """The phase by the answers to the four questions of `NAMES`, elementwise, in their shape."""
    cases = [towards & left_unseen, left_seen & improves, left_seen]
    return np.select(cases, [GENERALIZING, IDENTIFYING, MEMORIZING], UNTRAINED).astype(object)


def _interval(mean: Numbers, error: Numbers, n: Numbers, confidence: float) -> Interval:
    """That of shares in [-1, 1]; a point where there is no error."""
    low, high = paired_interval(mean, error, n, confidence)
    known = np.isnan(np.asarray(error, dtype=float)) & np.isfinite(np.asarray(mean, dtype=float))
    return np.where(known, mean, low), np.where(known, mean, high)


def _number(numbers: Mapping[str, Numbers], name: str) -> np.ndarray:
    """A column's numbers, NaN where it isn't there."""
    values = numbers.get(name)
    if values is None:
        return np.full(np.shape(np.asarray(numbers["n"])), np.nan)
    return np.asarray(values, dtype=float)
