"""Axes that can be read, colours everyone can tell apart."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from matplotlib import rcParams
from matplotlib.figure import Figure

from metaphase.analysis.figures import axes, style
from metaphase.core.phases import PHASES
from tests.analysis.figures.colour_vision import VISION, seen_lab


def boxes_of(ax, axis):
    """The labels of an axis that are seen, and where."""
    ax.figure.draw_without_rendering()
    low, high = sorted(axis.get_view_interval())
    ticks = [t for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
    shown = [tick.label1 for tick in ticks if tick.label1.get_text()]
    return [text.get_text() for text in shown], [text.get_window_extent() for text in shown]


@pytest.mark.parametrize("inches", [1.2, 2, 3, 8])
@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [(128, 4096, {"200", "1k", "300"}), (2e3, 5e7, {"10k", "1M"}), (17472, 30024, {"20k", "30k"}),
     (200, 2000, {"300", "500", "1k"}), (1, 1000, {"1", "10", "100", "1k"}), (3, 3.1, set())],
)  # fmt: skip
def test_labels_of_a_log_axis_never_run_together(inches, low, high, labels):
    ax = Figure(figsize=(inches, 2)).subplots()
    ax.plot([low, high], [0, 1])
    axes.log_ticks(ax, "x")
    texts, boxes = boxes_of(ax, ax.xaxis)
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))
    assert len(set(texts)) == len(texts)
    if inches > 1.5:
        assert not labels or labels & set(texts)


@pytest.mark.parametrize("inches", [1.2, 2, 3, 8])
@pytest.mark.parametrize(
    ("values", "first"),
    [([2**k for k in range(26)], "0"), ([1, 3, 10, 30, 100, 300, 1000, 3000, 10000], "1"),
     ([7, 100000], "7"), ([1, 64, 100, 5000, 123456], "1"), ([1, 1000, 1001, 1002, 2**20], "1"),
     ([2**6, 2**7], "6"), ([100000], "100k"), ([2**5, 2**7, 2**9], "5")],
)  # fmt: skip
def test_labels_of_a_grid_never_run_together(inches, values, first):
    ax = Figure(figsize=(inches, 2)).subplots()
    ax.set_xlim(np.log2(values[0]) - 0.5, np.log2(values[-1]) + 0.5)
    axes.tasks_axis(ax, "x", values)
    texts, boxes = boxes_of(ax, ax.xaxis)
    assert texts[0] == first
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))
    assert ("log2" in ax.get_xlabel()) == (len(values) not in (9, 5, 1) and values[0] != 7)


def test_a_context_has_its_width_and_leaves_nothing_behind():
    before = dict(rcParams)
    for width, (inches, points) in style.WIDTHS.items():
        with style.context(width):
            assert style.figure(1).get_figwidth() == inches
            assert style.scale() == points / 8
            assert style.small() >= 7
    assert dict(rcParams) == before


@pytest.mark.parametrize("vision", VISION)
def test_phases_can_be_told_apart(vision):
    seen = np.array([seen_lab(style.COLORS[p], vision) for p in PHASES])
    for a, b in itertools.combinations(range(len(PHASES)), 2):
        assert np.linalg.norm(seen[a] - seen[b]) > 14, (PHASES[a], PHASES[b])  # 2.3 is just seen
    assert (np.diff(seen[:, 0]) < 0).all()  # darker with capability


@pytest.mark.parametrize("vision", VISION)
def test_generalizing_gets_darker_the_better_it_is_and_stays_apart_from_identifying(vision):
    shades = np.array([seen_lab(style.GENERALIZING_MAP(s), vision) for s in np.linspace(0, 1, 9)])
    assert (np.diff(shades[:, 0]) < -1).all()
    assert shades[0, 0] - shades[-1, 0] > 30  # of 100: the jump is seen
    identifying = seen_lab(style.COLORS["identifying"], vision)
    assert identifying[0] - shades[0, 0] > 10
    signs = [seen_lab(style.DIFFERENCE_MAP(x), vision)[0] for x in np.linspace(0, 1, 9)]
    assert (np.diff(signs) > 2).all()  # in grey too, positive isn't negative
