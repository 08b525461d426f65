"""How many seeds a grid needs, by simulation of the model that its results are fitted with."""

from __future__ import annotations

import numpy as np
import pytest

from metaphase.core.cell import Cell
from metaphase.core.thresholds import fit
from metaphase.sweeps.planning.seeds_needed import MOST, line, median_width, needed

OCTAVES = tuple(float(x) for x in range(13))
COARSE = tuple(float(x) for x in range(0, 13, 2))


def test_more_seeds_are_narrower_and_so_many_are_enough():
    assert median_width(OCTAVES, 2) > median_width(OCTAVES, 8) > 1
    fine = tuple(x / 2 for x in range(17))
    found = needed(fine)
    assert found is not None
    assert median_width(fine, found) <= 1 < median_width(fine, found - 1)
    rng = np.random.default_rng(1)  # other truths than it was found by
    theta = rng.uniform(2, 6, 100)
    yes = rng.binomial(found, 1 / (1 + np.exp(-(np.array(fine) - theta[:, None]) / 0.5)))
    widths = [f.begin.high - f.begin.low for f in fit(np.array(fine), yes, found - yes, 0.95)]
    assert np.median(widths) == pytest.approx(1, abs=0.25)


def test_no_number_of_seeds_sees_into_a_gap_of_two_octaves():
    assert needed(COARSE) is None
    assert median_width(COARSE, MOST) >= 2


def test_what_a_dry_run_says():
    cells = [Cell(num_tasks=4**k, seed=s) for k in range(7) for s in (0, 1)]
    told = line(cells)
    assert told.startswith("a transition's 95% interval is about ")
    assert "with 2 seeds" in told
    assert told.endswith("one octave takes more numbers of tasks")
    assert line([Cell(num_tasks=1), Cell(num_tasks=4)]) is None
