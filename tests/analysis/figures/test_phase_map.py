"""The phase map's bands, letters and transitions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection

from metaphase.analysis.figures import outcomes, phase_map, style, transition_marks
from metaphase.analysis.load import load_cells
from metaphase.analysis.statistics.phases import classify
from metaphase.analysis.statistics.transitions import estimate_transitions
from metaphase.core.phases import GENERALIZING
from tests.tools.synthetic import make_results


def test_phase_map_table_has_a_band_for_every_seed_finished_or_not(sweep):
    table = phase_map.tile_table(sweep[0])
    assert len(table) == 2 * 3 * 2
    at = table.set_index(["model_size", "num_tasks", "seed"]).sort_index()
    assert at.loc[(8, 1, 0), "outcome"] == "memorizing"
    assert list(at.loc[(16, 256), "outcome"]) == [outcomes.MISSING] * 2
    assert at.loc[(8, 256, 1), "outcome"] == "diverged"
    assert list(at.loc[(16, 16), "outcome"]) == ["identifying", "generalizing"]
    unanimous = at["unanimous"].groupby(["model_size", "num_tasks"]).first()
    assert not unanimous[16, 16]  # seeds disagree
    assert not unanimous[8, 256]  # one did not finish
    assert unanimous[[(8, 1), (8, 16), (16, 1)]].all()


def test_bands_cover_the_map_and_stand_in_the_order_of_phases(sweep):
    table = phase_map.tile_table(sweep[0])
    tile = table[(table["num_tasks"] == 16) & (table["model_size"] == 16)]
    assert list(tile["outcome"]) == ["generalizing", "identifying"]  # from the bottom
    assert list(tile["bottom"]) == [3.5, 4.0]  # half-way from 2^3
    assert list(tile["top"]) == [4.0, 4.5]
    assert list(tile["left"]) == [2.0, 2.0]
    area = (table["right"] - table["left"]) * (table["top"] - table["bottom"])
    assert area.sum() == pytest.approx(
        (table["right"].max() - table["left"].min()) * (table["top"].max() - table["bottom"].min())
    )


def test_generalizing_is_shaded_by_how_well(tmp_path, ax):
    make_results(tmp_path / "s", (8,), (1, 16), (0,), lambda cell: "generalizing")
    cells = classify(load_cells(tmp_path / "s"))
    cells["unseen_last"] = [0.3, 0.9]  # of a chance of 0.2
    table = phase_map.tile_table(cells)
    assert list(table["strength"]) == pytest.approx([0.125, 0.875])
    weak, strong = outcomes.colors(table)
    assert weak == pytest.approx(style.GENERALIZING_MAP(0.125), abs=0.01)
    assert weak[:3].sum() > 2 * strong[:3].sum()  # darker where better


def test_undecided_and_plateau_are_drawn_where_columns_say_so(sweep, ax):
    cells = sweep[0].assign(decided=True, on_plateau=False)
    cells.loc[(cells["num_tasks"] == 1) & (cells["model_size"] == 8), "decided"] = False
    cells.loc[(cells["num_tasks"] == 16) & (cells["model_size"] == 8), "on_plateau"] = True
    table = phase_map.tile_table(cells)
    assert (table["outcome"] == outcomes.PLATEAU).sum() == 2
    phase_map.draw(table, ax)
    hatches = [line.get_xydata() for line in ax.lines if line.get_gid() == outcomes.UNDECIDED]
    lines = [points[~np.isnan(points[:, 0])].reshape(-1, 2, 2) for points in hatches]
    tile = table[(table["num_tasks"] == 1) & (table["model_size"] == 8)]
    ends = np.concatenate(lines)
    assert len(ends) > 5
    assert ends[..., 0].min() >= tile["left"].min() - 1e-9
    assert ends[..., 0].max() <= tile["right"].max() + 1e-9
    assert ends[..., 1].min() >= tile["bottom"].min() - 1e-9
    assert ends[..., 1].max() <= tile["top"].max() + 1e-9
    names = outcomes.legend_handles(table, letters=False)[1]
    assert "undecided" in names
    assert outcomes.PLATEAU in names
    symbols = [c for c in ax.collections if isinstance(c, PathCollection)]
    assert sorted(len(c.get_offsets()) for c in symbols) == [1, 2]  # diverged, plateau


def test_legend_has_only_what_is_drawn(sweep, tmp_path):
    with style.context():
        figure = phase_map.figure(sweep[0], estimate_transitions(sweep[0]))
    texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert "diverged" in texts
    assert outcomes.MISSING in texts
    assert not [text for text in texts if "untrained" in text]
    done = sweep[0][sweep[0]["status"] == "done"]
    assert ("undecided" in texts) == (~done["decided"]).any()
    make_results(tmp_path / "s", (8,), (1,), (0,), lambda cell: "memorizing")
    alone = classify(load_cells(tmp_path / "s"))
    with style.context():
        figure = phase_map.figure(alone, estimate_transitions(alone))
    texts = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert texts == ["M  memorizing"]
    assert alone["decided"].all()


def test_transitions_are_marks_in_their_row_with_their_interval(sweep, ax):
    transitions = estimate_transitions(sweep[0])
    marks = transition_marks.table(transitions)
    inside = transitions["log2_num_tasks"].notna() & transitions.get("clear", True)
    assert len(marks) == inside.sum() > 0
    table = phase_map.tile_table(sweep[0])
    phase_map.draw(table, ax, marks)
    symbols = [line for line in ax.lines if line.get_marker() not in ("None", "", None)]
    drawn = [x for line in symbols for x in line.get_xdata() if np.isfinite(x)]
    assert sorted(drawn) == sorted(marks["log2_num_tasks"])
    for line in symbols:  # within the rows of model sizes 8 and 16
        assert (np.abs(line.get_ydata() - [3, 4]) < 0.25).all()


def test_dense_maps_have_no_letters_and_few_tiles_have(sweep, tmp_path):
    with style.context("column"):
        figure = phase_map.figure(sweep[0])
    letters = sorted(text.get_text() for text in figure.axes[0].texts)
    assert letters == ["I", "M", "M"]  # of unanimous tiles
    make_results(tmp_path / "s", (4, 8, 16, 32), [2**k for k in range(26)], (0,), n=64)
    with style.context("slide"):
        figure = phase_map.figure(classify(load_cells(tmp_path / "s")))
    assert not figure.axes[0].texts


def test_clear_power_laws_are_drawn_and_in_the_legend(sweep, ax):
    by_size = pd.DataFrame(
        {"model_size": [8, 16, 32], "begins": GENERALIZING,
         "law_log2_num_tasks": [3.0, 4.5, np.nan], "law_low": [-np.inf, 4.0, 5.0],
         "law_high": [4.0, 5.0, np.inf]}
    )  # fmt: skip
    law = {"begins": [GENERALIZING], "exponent": 1.5, "low": 1.2, "high": 1.9}
    table = phase_map.tile_table(sweep[0])
    for clear in (True, False):
        drawn = transition_marks.law_table(by_size, pd.DataFrame(law | {"clear": clear}))
        assert len(drawn) == 2 * clear  # where the law is within the grid
        before = len(ax.lines)
        transition_marks.draw_laws(ax, table, drawn)
        if clear:
            lines = ax.lines[before + 1 :]  # behind it a white one
            assert [list(line.get_xdata()) for line in lines[:1]] == [[3.0, 4.5]]
            assert np.nanmax(lines[1].get_xdata()) == 4.0
            assert np.isnan(lines[1].get_xdata()[0])  # open: not drawn
        else:
            assert len(ax.lines) == before
        own = pd.DataFrame({"model_size": [8, 16], "begins": GENERALIZING, "boundary": "begin",
                            "low": [1.0, 6.0], "high": [3.5, np.inf]})  # fmt: skip
        agreeing = transition_marks.law_table(by_size, pd.DataFrame(law | {"clear": clear}), own)
        assert list(agreeing["model_size"]) == [8] * clear  # 16 begins later than the law says
        names = transition_marks.law_handles(drawn)[1]
        assert names == ["N ~ size^1.5 (1.2, 1.9)"] * clear
