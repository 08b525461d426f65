"""The phase map's tiles, letters and boundaries."""

from __future__ import annotations

import numpy as np
import pytest

from metaphase.analysis.figures import phase_map
from metaphase.analysis.statistics.transitions import estimate_transitions


def test_phase_map_table_has_a_tile_for_every_seed_finished_or_not(sweep):
    table = phase_map.tile_table(sweep[0])
    assert len(table) == 2 * 3 * 2
    at = table.set_index(["model_size", "num_tasks", "seed"])
    assert at.loc[(8, 1, 0), "phase"] == "memorizing"
    assert at.loc[(16, 256), "phase"].isna().all()
    assert at.loc[(8, 256, 1), "status"] == "diverged"
    assert list(at.loc[(16, 16), "phase"]) == ["identifying", "generalizing"]
    unanimous = at["unanimous"].groupby(["model_size", "num_tasks"]).first()
    assert not unanimous[16, 16]  # seeds disagree
    assert not unanimous[8, 256]  # one did not finish
    assert not unanimous[16, 256]  # no result
    assert unanimous[[(8, 1), (8, 16), (16, 1)]].all()


def test_tiles_stand_at_log2_and_cover_the_map_without_overlap(sweep):
    table = phase_map.tile_table(sweep[0])
    tile = table[(table["num_tasks"] == 16) & (table["model_size"] == 8)]
    assert list(tile["left"]) == [2.0, 4.0]  # half-way from 2^0 and to 2^8, a strip a seed
    assert list(tile["right"]) == [4.0, 6.0]
    assert list(tile["bottom"]) == [2.5, 2.5]
    area = (table["right"] - table["left"]) * (table["top"] - table["bottom"])
    assert area.sum() == pytest.approx(
        (table["right"].max() - table["left"].min()) * (table["top"].max() - table["bottom"].min())
    )


def test_phase_map_draws_letters_and_boundaries(sweep, ax):
    transitions = estimate_transitions(sweep[0])
    table = phase_map.tile_table(sweep[0])
    assert phase_map.draw(table, ax, transitions) is ax
    letters = sorted(t.get_text() for t in ax.texts)
    # 8: M I, G and a diverged one; 16: M, I and G side by side
    assert letters == sorted(["M", "I", "G", "×", "M", "I", "G"])
    begins = transitions.set_index(["begins", "model_size"])["log2_num_tasks"]
    for line, phase in zip(ax.lines, ("identifying", "generalizing"), strict=True):
        for size, x in zip((8, 16), line.get_xdata()[::2], strict=True):
            np.testing.assert_equal(x, begins[phase, size])
    assert ax.get_xlabel() == "number of tasks"
    assert ax.get_ylabel() == "model size"
