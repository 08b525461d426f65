"""Where tiles begin and end."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from metaphase.analysis.figures import tiles


def test_tile_edges_leave_gaps_in_the_grid_open():
    edges = tiles.tile_edges([1, 2, 4, 64])
    assert list(tiles.tile_edges([10, 100, 1000, 3])) == [3, 10, 100, 1000]  # keys not rounded
    assert edges[2.0] == (0.5, 1.5)
    assert edges[4.0] == (1.5, 2.5)
    assert edges[64.0] == (5.5, 6.5)
    assert tiles.tile_edges([7.0])[7.0] == pytest.approx((np.log2(7) - 0.5, np.log2(7) + 0.5))


def test_equal_differences_have_no_gaps():
    edges = list(tiles.tile_edges([8 + 4 * k for k in range(20)]).values())
    assert all(low[1] == high[0] for low, high in itertools.pairwise(edges))
