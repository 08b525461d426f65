"""Intervals cover at their nominal rates and phases are called right, by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from metaphase.core.phases import PHASES
from tests import ROOT
from tests.benchmarks import statistics, transitions

DOCS = (ROOT / "docs" / "statistics.md").read_text()


def shares(table, nominal):
    return table[f"nominal {nominal:.0%}"].to_numpy(dtype=float)


def test_wilson_covers_and_is_what_the_docs_say():
    table = statistics.wilson_coverage()
    assert np.abs(shares(table, 0.95) - 0.95).max() < 0.015
    assert np.abs(shares(table, 0.99) - 0.99).max() < 0.005
    assert statistics.markdown(table) in DOCS


def test_improvements_are_covered():
    table = statistics.improvement_coverage(1500, [32, 512])  # an error of 0.6 points
    assert shares(table, 0.95).min() > 0.95 - 0.022
    assert shares(table, 0.99).min() > 0.99 - 0.01
    assert shares(table[table["sequences"] == 512], 0.95).max() < 0.95 + 0.022


def test_transitions_are_covered():
    table = transitions.coverage(100)
    assert shares(table, 0.95).min() > 0.85  # 95% less 4 standard errors
    assert shares(table, 0.95).mean() > 0.93


def test_rank_correlations_and_paired_differences_are_covered():
    table = statistics.spearman_coverage(1000, [15]).drop(columns="models")
    assert table.to_numpy(dtype=float) == pytest.approx(0.95, abs=0.025)
    table = statistics.plateau_coverage(3000, [3]).drop(columns="seeds")
    assert table.to_numpy(dtype=float) == pytest.approx(0.95, abs=0.03)


def test_phases_are_called_right_and_never_too_capable_by_more_than_chance():
    table = statistics.confusion(400, 512)
    for row in table.to_dict("records"):
        own = row[row["true phase"]]
        assert own > (0.8 if row["effect"] == "0.07" else 0.97)
        above = PHASES[PHASES.index(row["true phase"]) + 1 :]
        assert sum(row[phase] for phase in above) < 0.03


def test_delta_is_the_border():
    table = statistics.power(400).set_index("sequences")
    assert table.loc[512, "+0.05"] == pytest.approx(0.5, abs=0.1)
    assert table.loc[4096, "+0.04"] < 0.2
    assert table.loc[4096, "+0.06"] > 0.9
    assert (table["+0"] < 0.05).all()
