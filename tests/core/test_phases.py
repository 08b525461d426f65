"""Intervals that cover as promised, and one phase for a row and for a table of rows."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from metaphase.analysis.statistics.phases import classify
from metaphase.core import phases
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


def test_a_row_has_the_phase_that_its_table_says():
    """Cells on both sides of every threshold."""
    rows = [
        {
            "status": "done", "n": 128, "chance": 0.2, "seen_first": first,
            "seen_improvement": seen, "seen_improvement_se": error,
            "unseen_improvement": unseen, "unseen_improvement_se": error,
        }
        for first in (0.2, 0.249, 0.29, 0.31, np.nan)
        for seen in (0.0, 0.06, 0.3)
        for unseen in (-0.1, 0.06, 0.12)
        for error in (0.0, 0.02, 0.04)
    ]  # fmt: skip
    expected = list(classify(pd.DataFrame(rows))["phase"].astype(str))
    assert set(expected) == set(phases.PHASES)
    assert [phases.phase_of(row) for row in rows] == expected


@pytest.mark.parametrize("status", ["diverged", "failed"])
def test_a_cell_that_did_not_finish_has_no_phase(status):
    row = dict.fromkeys(phases.DECIDING_COLUMNS) | {"status": status}
    assert phases.phase_of(row) is None


def test_the_rule_is_imported_without_scipy_and_torch():
    code = "import sys, metaphase.core.phases; print({'scipy', 'torch', 'pandas'} & {*sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"
