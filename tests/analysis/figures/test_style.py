"""Axes that can be read, colours everyone can tell apart."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from matplotlib.figure import Figure

from metaphase.analysis import labels
from metaphase.analysis.figures import style
from metaphase.core.phases import PHASES
from tests.analysis.figures.colour_vision import VISION, seen_lab


def test_spread_keeps_the_ends():
    assert style.spread([4, 8, 16, 8]) == [4, 8, 16]
    assert style.spread([2**k for k in range(26)], 6) == [1, 32, 1024, 2**15, 2**20, 2**25]


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [(128, 4096, ["200", "500", "1k", "2k"]), (2e3, 5e7, ["10k", "100k", "1M", "10M"]),
     (17472, 30024, ["20k", "30k"]), (200, 2000, ["200", "500", "1k", "2k"])],
)  # fmt: skip
def test_labels_of_a_log_axis_are_few_and_do_not_overlap(low, high, labels):
    figure = Figure(figsize=(3, 2))
    ax = figure.subplots()
    ax.plot([low, high], [0, 1])
    style.log_ticks(ax, "x", low, high)
    figure.draw_without_rendering()
    left, right = ax.get_xlim()
    ticks = [t for t in ax.xaxis.get_major_ticks() if left <= t.get_loc() <= right]
    shown = [tick.label1 for tick in ticks]
    assert set(labels) <= {text.get_text() for text in shown}
    boxes = [text.get_window_extent() for text in shown]
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))
    assert not any(label.get_text() for label in ax.xaxis.get_minorticklabels())


def test_numbers_that_are_no_powers_of_two_are_labelled_as_they_are():
    assert style.power_of_two(1024) == "$2^{10}$"
    assert style.power_of_two(100) == "100"


@pytest.mark.parametrize("vision", VISION)
def test_phases_can_be_told_apart(vision):
    seen = np.array([seen_lab(style.COLORS[p], vision) for p in PHASES])
    for a, b in itertools.combinations(range(len(PHASES)), 2):
        assert np.linalg.norm(seen[a] - seen[b]) > 14, (PHASES[a], PHASES[b])  # 2.3 is just seen
    assert (np.diff(seen[:, 0]) < 0).all()  # darker with capability


def test_phases_letters_differ():
    assert len({*labels.LETTERS.values(), style.UNFINISHED_LETTER}) == len(PHASES) + 1
