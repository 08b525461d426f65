"""Intervals that cover as promised, and one phase for a row and for a table of rows."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from metaphase.analysis.statistics.phases import classify
from metaphase.core import phase_rules, phases
from tests.tools import synthetic


@pytest.mark.parametrize("confidence", [0.95, 0.99])
@pytest.mark.parametrize("p", [0.1, 0.2, 0.9])
def test_wilson_interval_covers(p, confidence):
    n = 512
    k = np.random.default_rng(0).binomial(n, p, 20_000)
    low, high = phases.wilson_interval(k / n, n, confidence)
    covered = ((low <= p) & (p <= high)).mean()
    assert covered == pytest.approx(confidence, abs=0.012)  # discreteness of a proportion


def test_wilson_interval_known_value():
    """Brown, Cai & DasGupta's formula, evaluated by scipy."""
    from scipy.stats import binomtest

    expected = binomtest(37, 50).proportion_ci(0.95, method="wilson")
    assert phases.wilson_interval(37 / 50, 50, 0.95) == pytest.approx(tuple(expected))


@pytest.mark.parametrize("confidence", [0.95, 0.99])
@pytest.mark.parametrize("phase", ["untrained", "identifying"])
def test_interval_of_simulated_improvement_covers(phase, confidence):
    """True improvement in the expected curve against intervals from simulated sequences."""
    mean_T = synthetic.mean_curve(phase, "seen", 16, 0.2)
    assert improvement_covers(mean_T, 256, confidence) == pytest.approx(confidence, abs=0.012)


@pytest.mark.parametrize("n", [16, 32, 64])
@pytest.mark.parametrize("accuracies", [(0.1, 0.1, 0.1), (0.95, 0.95, 0.95), (0.99, 0.99, 0.99)])
def test_intervals_of_improvement_are_not_short_where_sequences_are_few(n, accuracies):
    assert improvement_covers(np.array(accuracies), n, 0.95) >= 0.95


def improvement_covers(mean_T, n, confidence):
    """Share of 4,000 simulated evaluations; `last` is of the last two positions."""
    truth = mean_T[-2:].mean() - mean_T[0]
    rng, repeats = np.random.default_rng(1), 4000
    first = rng.random((repeats, n)) < mean_T[0]
    last = (rng.random((repeats, n, 2)) < mean_T[-2:]).mean(axis=2)
    difference = last - first
    low, high = phases.paired_interval(
        difference.mean(axis=1), difference.std(axis=1, ddof=1) / np.sqrt(n), n, confidence
    )
    return ((low <= truth) & (truth <= high)).mean()


def test_paired_interval_is_the_adjusted_wald_interval_with_ts_quantile():
    """Bonett & Price 2012, equation 5: p12 and p21 with 1 added to each count, n + 2."""
    from scipy.stats import t

    f12, f21, n = 9, 4, 40
    p12, p21 = (f12 + 1) / (n + 2), (f21 + 1) / (n + 2)
    half = t.ppf(0.975, n + 1) * np.sqrt((p12 + p21 - (p12 - p21) ** 2) / (n + 1))
    d = np.repeat([1.0, -1.0, 0.0], [f12, f21, n - f12 - f21])
    found = phases.paired_interval(d.mean(), d.std(ddof=1) / np.sqrt(n), n, 0.95)
    assert found == pytest.approx((p12 - p21 - half, p12 - p21 + half))


@pytest.mark.parametrize("width", [1, 2, 10])
@pytest.mark.parametrize("p", [0.1, 0.2, 0.9])
def test_score_interval_covers_whatever_positions_share(width, p):
    """Of means of `width` positions that are right together in part (a beta-binomial)."""
    rng, n, repeats = np.random.default_rng(2), 256, 8000
    p_SxN = rng.beta(p * 4, (1 - p) * 4, (repeats, n))
    last_SxN = rng.binomial(width, p_SxN) / width
    error_S = last_SxN.std(axis=1, ddof=1) / np.sqrt(n)
    low, high = phases.score_interval(last_SxN.mean(axis=1), error_S, n)
    assert ((low <= p) & (p <= high)).mean() == pytest.approx(0.99, abs=0.005)


def test_score_interval_of_one_position_is_wilsons_and_all_alike_is_not_without_error():
    n, right = 4000, np.arange(4000) < 900
    found = phases.score_interval(right.mean(), right.std(ddof=1) / np.sqrt(n), n)
    assert found == pytest.approx(phases.wilson_interval(900 / n, n), abs=2e-5)
    low, high = phases.score_interval(1.0, 0.0, 512)
    assert low == pytest.approx(phases.wilson_interval(1.0, 512)[0], abs=2e-4)
    assert high == pytest.approx(1.0)


def test_interval_of_a_lead_is_newcombes():
    """Method 10 of Newcombe 1998, table II: 56 of 70 against 48 of 80, 0.0524 to 0.3339."""
    ours, theirs = phases.wilson_interval(56 / 70, 70, 0.95), phases.wilson_interval(0.6, 80, 0.95)
    found = phases.lead_interval(56 / 70, ours, 48 / 80, theirs)
    assert found == pytest.approx((0.0524, 0.3339), abs=1e-4)


def cell_row(**columns):
    """A cell of which nothing was learned, 5 equal classes; what is given goes before."""
    return {
        "status": "done", "n": 1024, "chance": 0.2, "num_classes": 5, "sequence_length": 16,
        "seen_first": 0.2, "seen_last": 0.2, "seen_last_se": 0.009, "seen_improvement": 0.0,
        "seen_improvement_se": 0.015, "unseen_last": 0.2, "unseen_last_se": 0.009,
    } | columns  # fmt: skip


def phase_of(row, rule=None):
    """A cell's phase, None where what became of it is none."""
    outcome = phase_rules.outcome_of(row, rule)
    return outcome if outcome in phases.PHASES else None


def test_a_row_has_the_phase_that_its_table_says():
    """Cells on both sides of every threshold."""
    rows = [
        cell_row(
            n=128, seen_first=first, seen_last=last, seen_last_se=error, unseen_last=unseen,
            unseen_last_se=error, seen_improvement=last - 0.2, seen_improvement_se=error,
        )
        for first in (0.2, 0.249, 0.29, 0.31, np.nan)
        for last in (0.2, 0.26, 0.5)
        for unseen in (0.1, 0.26, 0.32)
        for error in (0.0, 0.02, 0.04)
    ]  # fmt: skip
    expected = list(classify(pd.DataFrame(rows))["phase"].astype(str))
    assert set(expected) == set(phases.PHASES)
    assert [phase_of(row) for row in rows] == expected


@pytest.mark.parametrize("status", ["diverged", "failed"])
def test_a_cell_that_did_not_finish_has_no_phase(status):
    row = dict.fromkeys(phases.DECIDING_COLUMNS) | {"status": status}
    assert phase_of(row) is None


def phase(**columns):
    return phase_of(cell_row(**columns))


def test_first_on_unseen_tasks_is_known_and_its_error_decides_nothing():
    """There any model is right once in 5: a sample below that says nothing."""
    unlucky = {"unseen_first": 0.15, "unseen_improvement": 0.06, "unseen_improvement_se": 0.015}
    assert phase(unseen_last=0.21, **unlucky) == "untrained"
    lucky = {"unseen_first": 0.25, "unseen_improvement": 0.03, "unseen_improvement_se": 0.015}
    assert phase(unseen_last=0.28, **lucky) == "generalizing"


def test_counting_labels_is_not_generalizing():
    """SVHN's classes: naming the commonest label so far is right 0.145 of the time at last."""
    svhn = {"dataset": "SVHN", "num_classes": 10, "chance": 5099 / 26032}
    counting = {"seen_first": 0.1, "seen_last": 0.157, "seen_improvement": 0.057}
    assert phase(**svhn, **counting, unseen_last=0.157) == "untrained"
    assert phase(**svhn, seen_first=0.1, unseen_last=0.21) == "generalizing"
    assert (
        phase(**svhn, unseen_last=0.21, unseen_level=0.17) == "untrained"
    )  # what is said goes first


def test_where_classes_are_not_known_chance_is_the_level():
    """The level never exceeds it, so no cell is called generalizing too easily."""
    assert phase(dataset="mine", chance=0.3, unseen_last=0.34) == "untrained"
    assert phase(dataset="MNIST", chance=0.3, unseen_last=0.34) == "untrained"  # other images
    assert phase(dataset="mine", chance=0.3, unseen_last=0.38) == "generalizing"


def test_identifying_is_to_be_better_on_known_tasks_than_on_new_ones():
    better = {"seen_last": 0.3, "seen_improvement": 0.1}
    assert phase(**better, unseen_last=0.2) == "identifying"
    assert phase(**better, unseen_last=0.249) == "identifying"
    assert phase(seen_last=0.26, seen_improvement=0.06, unseen_last=0.249) == "untrained"
    # labels alone tell few tasks apart, where classes are unequal: at most as often as chance
    labels_alone = {"chance": 0.32, "seen_first": 0.2, "seen_last": 0.32, "seen_improvement": 0.12}
    assert phase(dataset="mine", **labels_alone, unseen_last=0.22) == "untrained"


def decided(**columns):
    row = cell_row(**columns)
    numbers = {name: np.float64(row[name]) for name in phases.DECIDING_COLUMNS}
    return bool(phases.decide(numbers, phases.level_of(row)).decided)


def test_a_phase_is_decided_where_no_deciding_interval_straddles_a_threshold():
    assert decided()
    assert not decided(unseen_last=0.24)  # may be generalizing
    assert not decided(unseen_last=0.26)
    assert decided(unseen_last=0.4)
    assert decided(unseen_last=0.4, seen_first=0.25)  # asked for nothing else
    known = {"seen_first": 0.9, "seen_last": 0.93, "unseen_last": 0.2}
    assert decided(**known, seen_improvement=0.0)
    assert not decided(**known, seen_improvement=0.03)  # memorizing or identifying
    assert decided(**known | {"unseen_last": 0.93}, seen_improvement=0.03)  # generalizing
    assert not decided(seen_first=0.25)
    assert not decided(seen_first=np.nan)


def test_a_share_of_the_headroom_can_be_asked_for():
    row = cell_row(unseen_last=0.245)
    numbers = {name: np.float64(row[name]) for name in phases.DECIDING_COLUMNS}
    assert phases.decide(numbers, 0.2).phase == "untrained"
    assert phases.decide(numbers, 0.2, headroom=True).phase == "generalizing"  # 0.045 / 0.8 > 0.05


NOTHING_OF_10 = {"num_classes": 10, "train_loss": 2.2227, "chance": 0.1, "seen_first": 0.1} | {
    "seen_last": 0.1, "unseen_last": 0.1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"train_loss": 1.6094}, "not trained long enough"),
        ({"train_loss": 1.603}, "not trained long enough"),
        ({"train_loss": 1.59}, "untrained"),  # learned something, and shows no effect
        ({"train_loss": 1.6094, "unseen_last": 0.4}, "generalizing"),
        ({"train_loss": 0.1, "seen_first": 0.9}, "memorizing"),
        ({"train_loss": None}, "untrained"),  # not said
        ({**NOTHING_OF_10, "dataset": "SVHN", "chance": 5099 / 26032}, "not trained long enough"),
        (NOTHING_OF_10, "untrained"),  # of equal classes a guess' loss is higher
        ({"train_loss": 1.5, "guess_loss": 1.5}, "not trained long enough"),
        ({"train_loss": 1.45, "train_loss_no_context": 1.45}, "not trained long enough"),
        ({"train_loss": 1.7, "guess_loss": 1.5, "train_loss_no_context": 2.0}, "untrained"),
        ({"train_loss": 1.6094, "train_loss_no_context": np.nan}, "not trained long enough"),
        ({"train_loss": 1.6094, "status": "diverged"}, "diverged"),
    ],
)  # fmt: skip
def test_what_became_of_a_cell(columns, expected):
    assert phase_rules.outcome_of(cell_row(**columns)) == expected


def test_the_rule_is_imported_without_scipy_and_torch():
    code = "import sys, metaphase.core.phases; print({'scipy', 'torch', 'pandas'} & {*sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"
