"""Transitions with known answers: where they are, how sure that is, and when there are none."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from metaphase.analysis.load import load_cells
from metaphase.analysis.statistics.phases import classify
from metaphase.analysis.statistics.transitions import (
    ABOVE,
    BELOW,
    INSIDE,
    UNCLEAR,
    estimate_transitions,
    threshold,
)
from metaphase.core.phases import PHASES
from tests.tools.synthetic import make_results

X = np.arange(0, 14, 2)  # log2 numbers of tasks


def outcomes(text: str, seeds: int):
    """ "0011" -> x and y of so many seeds that all agree."""
    y = np.array([c == "1" for c in text])
    return np.repeat(X[: len(y)], seeds).astype(float), np.repeat(y, seeds)


@pytest.mark.parametrize("text", ["0001111", "0000111", "0011111"])
@pytest.mark.parametrize("seeds", [1, 2, 3, 10])
def test_a_clean_step_is_placed_in_the_middle_of_its_gap(text, seeds):
    gap = X[text.index("1") - 1], X[text.index("1")]
    found = threshold(*outcomes(text, seeds))
    assert found.censored == INSIDE
    assert found.estimate == pytest.approx(np.mean(gap), abs=0.51)
    assert found.low <= gap[0]  # nothing in the data tells places within a gap apart
    assert found.high >= gap[1]


def test_more_seeds_narrow_the_interval_to_the_gap():
    widths = []
    for seeds in (1, 2, 4, 16):
        found = threshold(*outcomes("0001111", seeds))
        widths.append(found.high - found.low)
    assert widths == sorted(widths, reverse=True)
    assert np.isinf(widths[0])  # one run a side proves little
    assert widths[-1] == 2  # the gap


@pytest.mark.parametrize("seeds", [1, 3])
def test_no_transition_is_censored(seeds):
    above = threshold(*outcomes("0000000", seeds))
    assert (above.censored, above.high) == (ABOVE, np.inf)
    assert np.isnan(above.estimate)
    assert above.low > 6
    below = threshold(*outcomes("1111111", seeds))
    assert (below.censored, below.low) == (BELOW, -np.inf)
    assert below.high < 4
    single = threshold(np.array([3.0] * seeds), np.array([True] * seeds))
    assert single.censored == BELOW


@pytest.mark.parametrize("text", ["1010101", "1111000", "1001001"])
def test_what_comes_and_goes_is_unclear(text):
    found = threshold(*outcomes(text, 2))
    assert found.censored == UNCLEAR
    assert (found.low, found.high) == (-np.inf, np.inf)


def test_stray_runs_dont_move_the_estimate():
    """A false call far below and a run that never trained far above the transition."""
    x = np.repeat(np.arange(26.0), 3)
    y = x > 12.5
    clean = threshold(x, y)
    y[[5, 70]] ^= True
    stray = threshold(x, y)
    assert stray.estimate == pytest.approx(clean.estimate, abs=0.3)
    assert stray.high - stray.low < 2.5
    never = np.zeros_like(y)
    never[40] = True
    assert threshold(x, never).censored == ABOVE
    assert threshold(x, ~never).censored == BELOW


@pytest.mark.parametrize(
    ("x", "seeds", "width", "share", "least"),
    [
        (np.arange(26.0), 3, 0.1, 1.0, 0.97),  # a step: the gap is inside
        (np.arange(26.0), 3, 0.5, 1.0, 0.89),
        (np.arange(26.0), 3, 1.0, 1.0, 0.89),
        (np.arange(26.0), 3, 0.5, 0.6, 0.87),  # only 6 of 10 seeds ever get there
        (np.arange(0.0, 26.0, 2), 2, 0.5, 1.0, 0.93),
        (np.arange(0.0, 26.0, 2), 2, 1.0, 1.0, 0.93),
    ],
)
def test_intervals_cover_the_true_threshold(x, seeds, width, share, least):
    """Bimodal seeds: each reaches the phase with probability share / (1 + exp(-(x - theta)/s))."""
    rng = np.random.default_rng(0)
    runs = np.repeat(x, seeds)
    covered, errors = [], []
    for _ in range(200):
        theta = rng.uniform(8, 17)
        y = rng.random(len(runs)) < share / (1 + np.exp(-(runs - theta) / width))
        found = threshold(runs, y, 0.95)
        covered.append(found.low <= theta <= found.high)
        errors.append(found.estimate - theta)
    assert np.mean(covered) >= least
    assert abs(np.nanmedian(errors)) < 0.35


def test_confidence_sets_the_width():
    x, y = outcomes("0001111", 4)
    y[[10, 13]] ^= True  # a rise that is not a step
    width = [f.high - f.low for f in (threshold(x, y, c) for c in (0.5, 0.8, 0.95))]
    assert width[0] < width[1] < width[2]


def cells(rows) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["model_size", "num_tasks", "seed", "phase", "status"])
    frame["phase"] = pd.Categorical(frame["phase"], list(PHASES), ordered=True)
    return frame.assign(architecture="transformer")


def test_identifying_begins_where_memorizing_is_left_and_unfinished_cells_say_nothing():
    names = ["memorizing", "memorizing", "identifying", "identifying", "generalizing"]
    rows = [(8, 4**k, s, name, "done") for k, name in enumerate(names) for s in (0, 1, 2)]
    rows += [(8, 4**k, 9, "untrained", "diverged") for k in range(5)]
    rows += [(16, 4**k, 0, "memorizing", "done") for k in range(5)]
    found = estimate_transitions(cells(rows)).set_index(["model_size", "begins"])
    assert found.loc[(8, "identifying"), "log2_num_tasks"] == pytest.approx(3, abs=0.4)
    assert found.loc[(8, "generalizing"), "log2_num_tasks"] == pytest.approx(7, abs=0.4)
    assert list(found.loc[8, "cells"]) == [15, 15]
    assert list(found.loc[16, "censored"]) == [ABOVE, ABOVE]
    assert (found["smallest"] == 0).all()
    assert (found["largest"] == 8).all()


def test_straight_from_memorizing_to_generalizing_both_begin_together():
    names = ["memorizing"] * 3 + ["generalizing"] * 3
    rows = [(8, 4**k, s, name, "done") for k, name in enumerate(names) for s in (0, 1)]
    found = estimate_transitions(cells(rows))
    assert found["log2_num_tasks"].nunique() == 1


def test_synthetic_transitions_are_found(tmp_path):
    """Truth of the generator: 2 + 0.3 width and 12 - width in log2, seeds scattered by 0.6."""
    make_results(tmp_path / "s", (16, 32, 64), [2**k for k in range(15)], (0, 1, 2))
    found = estimate_transitions(classify(load_cells(tmp_path / "s")))
    width = np.log2(found["model_size"])
    truth = np.where(found["begins"] == "generalizing", 12 - width, 2 + 0.3 * width)
    assert len(found) == 6
    assert (found["log2_num_tasks"] - truth).abs().max() < 1
    assert ((found["low"] <= truth) & (truth <= found["high"])).all()
