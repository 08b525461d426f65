"""Transitions with known answers: where they are, how sure that is, and when there are none."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from metaphase.analysis import transition_text
from metaphase.analysis.load import load_cells
from metaphase.analysis.statistics.phases import classify
from metaphase.analysis.statistics.transitions import (
    along_model_size,
    by_delta,
    estimate_transitions,
    threshold,
)
from metaphase.core.phases import PHASES
from metaphase.core.thresholds import ABOVE, BELOW, INSIDE, UNCLEAR, fit
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
    assert found.estimate == pytest.approx(np.mean(gap), abs=1e-9)
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
    assert above.low > (1 if seeds == 1 else 6)  # a third of the seeds may get there yet
    below = threshold(*outcomes("1111111", seeds))
    assert (below.censored, below.low) == (BELOW, -np.inf)
    assert below.high < (11 if seeds == 1 else 4)
    single = threshold(np.array([3.0] * seeds), np.array([True] * seeds))
    assert single.censored == BELOW


@pytest.mark.parametrize("text", ["1010101", "0101010", "1001001"])
def test_where_a_constant_share_fits_better_all_is_unclear(text):
    found = threshold(*outcomes(text, 2))
    assert found.censored == UNCLEAR
    assert not found.clear
    assert found.bayes_factor < 1
    assert np.isnan(found.estimate)
    assert (found.low, found.high) == (-np.inf, np.inf)


def both_ends(text, seeds):
    x, y = outcomes(text, seeds)
    yes = y.reshape(-1, seeds).sum(axis=1)
    return fit(np.unique(x), yes, seeds - yes, 0.95)[0]


@pytest.mark.parametrize(
    ("text", "begin", "end"),
    [("0011100", 3, 9), ("0110000", 1, 5), ("0111110", 1, 11), ("1111000", None, 7)],
)
def test_a_phase_that_comes_and_goes_has_both_ends(text, begin, end):
    found = both_ends(text, 3)
    assert found.end.estimate == pytest.approx(end)
    assert found.end.low <= end - 1
    assert found.end.high >= end + 1
    assert found.end.bayes_factor > 10
    if begin is None:
        assert (found.begin.censored, found.begin.high) == (BELOW, 0)
    else:
        assert found.begin.estimate == pytest.approx(begin)
    assert both_ends("0000111", 3).end is None


@pytest.mark.parametrize(
    ("x", "y"),
    [
        ([0, 8], [0, 1]),
        ([0, 1, 2, 3], [0, 0, 1, 1]),
        ([0, 1, 2, 2, 3, 4], [0, 0, 0, 1, 1, 1]),  # seeds tie in the middle
        ([0, 1, 2, 3, 4, 5], [0, 0, 1, 0, 1, 1]),  # as does the order
        (np.log2([10, 100, 1000, 10000]), [0, 0, 1, 1]),
    ],
)
def test_where_nothing_favours_a_half_the_estimate_is_the_middle(x, y):
    found = threshold(np.array(x, dtype=float), np.array(y, dtype=bool))
    assert found.estimate == pytest.approx((x[0] + x[-1]) / 2, abs=1e-6)


@pytest.mark.parametrize(
    ("x", "y", "clear"),
    [
        ([0, 8], [0, 1], False),  # one of 2 arrangements
        ([0, 1, 2, 3], [0, 0, 1, 1], False),  # of 6
        ([0, 1, 2, 3, 4], [0, 0, 0, 1, 1], True),  # of 10, of which a tie counts half
        ([0, 1, 2, 3, 4, 5], [0, 0, 0, 0, 0, 1], False),  # of 6
        ([0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 1, 1], True),  # of 15
        ([0, 1, 2, 3, 4, 5], [0, 0, 1, 0, 1, 1], False),
        (np.repeat(np.arange(6), 3), [0, 0, 0, 0, 0, 1, 0, 1, 0, 1, 1, 1, 1, 0, 1, 1, 1, 1], True),
    ],
)
def test_a_rise_that_an_arrangement_in_20_has_is_unclear(x, y, clear):
    found = threshold(np.array(x, dtype=float), np.array(y, dtype=bool))
    assert found.censored == INSIDE
    assert found.clear == clear
    row = {"smallest": 0, "largest": x[-1], "log2_num_tasks": found.estimate, "low": found.low,
           "high": found.high, "censored": found.censored, "clear": found.clear}  # fmt: skip
    assert transition_text.place(row).startswith("unclear (perhaps 2^") == (not clear)


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("values", [5, 8])
def test_few_small_grids_of_a_constant_share_have_a_transition(values, seeds):
    """At Bayes factors of 1 alone a quarter of them do."""
    rng = np.random.default_rng(0)
    yes = rng.binomial(seeds, 0.3, (300, values))
    found = fit(np.arange(float(values)), yes, seeds - yes, 0.95)
    inside = [f.begin.censored == INSIDE for f in found]
    clear = [f.begin.censored == INSIDE and f.begin.clear for f in found]
    assert np.mean(inside) > 0.12
    assert np.mean(clear) < 0.08


def test_turning_the_axis_and_the_outcomes_around_turns_the_estimate():
    rng = np.random.default_rng(4)
    x = np.repeat(np.arange(9.0), 2)
    for _ in range(10):
        y = rng.random(len(x)) < np.linspace(0.05, 0.8, len(x))
        found, turned = threshold(x, y), threshold(8 - x, ~y)
        if INSIDE == found.censored == turned.censored:
            assert turned.estimate == pytest.approx(8 - found.estimate, abs=0.02)
            assert turned.bayes_factor == pytest.approx(found.bayes_factor)


def test_a_constant_share_of_seeds_is_no_transition():
    """A fifth of seeds: before, 86% of these were told as transitions inside the grid."""
    rng = np.random.default_rng(0)
    x_K = np.arange(26.0)
    yes = rng.binomial(3, 0.2, (200, 26))
    found = fit(x_K, yes, 3 - yes, 0.95)
    told = [(f.begin.censored == INSIDE and f.begin.clear) or f.end is not None for f in found]
    assert np.mean(told) < 0.08
    theta = rng.uniform(8, 17, 100)
    yes = rng.binomial(3, 1 / (1 + np.exp(-(x_K - theta[:, None]) / 0.5)))
    true = fit(x_K, yes, 3 - yes, 0.95)
    assert all(f.begin.censored == INSIDE and f.begin.clear for f in true)


@pytest.mark.parametrize("share", [0.5, 0.4, 0.3])
def test_where_few_seeds_get_there_intervals_cover_too(share):
    """Without asymptotes below 0.6: 84% at 0.5, 65% at 0.4."""
    rng = np.random.default_rng(1)
    x_K = np.arange(26.0)
    theta = rng.uniform(8, 17, 200)
    yes = rng.binomial(3, share / (1 + np.exp(-(x_K - theta[:, None]) / 0.5)))
    found = [f.begin for f in fit(x_K, yes, 3 - yes, 0.95)]
    held = [f.low <= t <= f.high for f, t in zip(found, theta, strict=True)]
    assert np.mean(held) > 0.89


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
    theta = rng.uniform(8, 17, 200)
    yes = rng.binomial(seeds, share / (1 + np.exp(-(x - theta[:, None]) / width)))
    found = [f.begin for f in fit(x, yes, seeds - yes, 0.95)]
    held = [f.low <= t <= f.high for f, t in zip(found, theta, strict=True)]
    assert np.mean(held) >= least
    assert abs(np.nanmedian([f.estimate for f in found] - theta)) < 0.35


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


def test_cells_on_their_plateau_or_without_a_phase_are_left_out():
    names = ["memorizing"] * 3 + ["generalizing"] * 3 + ["untrained"]
    rows = [(8, 4**k, s, name, "done") for k, name in enumerate(names) for s in (0, 1, 2)]
    frame = cells(rows)
    ends = estimate_transitions(frame)
    assert set(ends["boundary"]) == {"begin", "end"}
    frame["on_plateau"] = frame["phase"] == "untrained"
    found = estimate_transitions(frame)
    assert list(found["boundary"]) == ["begin", "begin"]
    assert list(found["cells"]) == [18, 18]
    assert (found["largest"] == 10).all()
    frame["phase"] = frame["phase"].where(frame["num_tasks"] > 1)
    assert (estimate_transitions(frame)["smallest"] == 2).all()


def test_the_width_4_of_the_quickstart_has_no_transition():
    """3 of 16 cells identify, at 2^2 to 2^6: told as 2^10.2 (below 2^0 to above 2^12) before."""
    tasks = [1, 4, 16, 64, 128, 256, 1024, 4096]
    identify = {(4, 0), (16, 0), (64, 1)}
    rows = [(4, n, s, "identifying" if (n, s) in identify else "untrained", "done")
            for n in tasks for s in (0, 1)]  # fmt: skip
    found = estimate_transitions(cells(rows))
    assert found.loc[found["begins"] == "identifying", "censored"].tolist() == [UNCLEAR]
    assert "identifying unclear" in transition_text.lines(found)[1]


def test_numbers_of_tasks_that_are_no_powers_of_two_are_written_as_numbers():
    rows = [(8, 10**k, s, "generalizing" if k > 3 else "memorizing", "done")
            for k in range(1, 6) for s in (0, 1, 2)]  # fmt: skip
    rows += [(16, 10**k, s, "memorizing", "done") for k in range(1, 6) for s in (0, 1, 2)]
    text = transition_text.lines(estimate_transitions(cells(rows)))
    assert "^" not in "".join(line.split(":")[1] for line in text[1:])
    assert "generalizing 3,160 (" in text[1]
    assert text[2].endswith("generalizing not up to 100,000")


def test_thresholds_along_model_size_and_by_delta(tmp_path):
    make_results(tmp_path / "s", (8, 16, 32, 64), [4**k for k in range(7)], (0, 1, 2))
    classified = classify(load_cells(tmp_path / "s"))
    along = along_model_size(classified)
    generalizing = along[(along["begins"] == "generalizing")].set_index("num_tasks")
    truth = 12 - np.log2(1024)  # the generator's: from width 2^2, but 2^4 at least
    assert generalizing.loc[1024, "low"] <= max(truth, 4) <= generalizing.loc[1024, "high"]
    moved = by_delta(classified, (0.02, 0.05, 0.9))
    assert list(moved["delta"].unique()) == [0.02, 0.05, 0.9]
    at = moved[moved["delta"] == 0.05].drop(columns="delta").reset_index(drop=True)
    pd.testing.assert_frame_equal(at, estimate_transitions(classified))
    assert (moved.loc[moved["delta"] == 0.9, "censored"] == ABOVE).all()
