"""What all figures of a condition have in common."""

from __future__ import annotations

import functools

import pandas as pd
import pytest
from matplotlib import rc_context, rcParams

from metaphase.analysis.commands import output
from metaphase.analysis.figures import accuracy, improvement, learning_curves, phase_map, style
from metaphase.analysis.load import ResultsError
from metaphase.analysis.statistics.transitions import estimate_transitions


def test_tables_refuse_mixed_settings(sweep):
    cells, curves = sweep
    mixed = pd.concat([cells, cells.assign(learning_rate=1.0)])
    for table in (
        lambda: phase_map.tile_table(mixed),
        lambda: accuracy.tile_table(mixed, "seen"),
        lambda: improvement.seed_table(mixed, improvement.AHEAD),
        lambda: learning_curves.curve_table(curves, mixed, "seen"),
    ):
        with pytest.raises(ResultsError, match="seed; in learning_rate: take one"):
            table()


def shown_texts(figure):
    """Titles, labels, legends, and what stands in panels; ticks beyond an axis aren't drawn."""
    yield from (text for text in figure.texts if text.get_text())
    for legend in [*figure.legends, *(ax.get_legend() for ax in figure.axes)]:
        yield from legend.get_texts() if legend else ()
    for ax in figure.axes:
        yield from (t for t in (ax.title, *ax.texts) if t.get_text())
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [t for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
            labels = [axis.label, *(t.label1 for t in ticks), *(t.label2 for t in ticks)]
            yield from (t for t in labels if t.get_visible() and t.get_text())


@pytest.mark.parametrize("width", style.WIDTHS)
def test_figures_are_as_wide_as_asked_and_all_text_is_inside_and_readable(sweep, width):
    cells, curves = sweep
    title = "s, fast_weights, dataset=digits, unseen_datasets=('glyphs', 'random'), steps=60"
    found = estimate_transitions(cells)
    with style.context(width):
        for make in (
            lambda: learning_curves.figure(curves, cells, title),
            lambda: phase_map.figure(cells, found, title),
            lambda: accuracy.figure(cells, title),
            lambda: improvement.figure(cells, title),
        ):
            figure = make()
            figure.draw_without_rendering()
            assert figure.get_figwidth() == style.WIDTHS[width][0]
            [text] = [text for text in figure.texts if text.get_text().startswith("s,")]
            assert " ".join(text.get_text().split()).startswith(title)
            drawn = list(shown_texts(figure))
            assert len(drawn) > 10
            for text in drawn:
                box = text.get_window_extent()
                assert text.get_size() >= 7
                assert box.x0 >= -1, text.get_text()
                assert box.x1 <= figure.bbox.x1 + 1, text.get_text()
                assert box.y0 >= -1, text.get_text()
                assert box.y1 <= figure.bbox.y1 + 1, text.get_text()


def test_a_callers_settings_have_no_influence_and_stay(sweep, tmp_path):
    make = functools.partial(phase_map.figure, sweep[0], None, "s")
    expected = output.figure_bytes(make, "png")
    wild = {"text.usetex": True, "font.size": 30, "axes.facecolor": "red", "svg.fonttype": "none",
            "figure.dpi": 30, "lines.linewidth": 9}  # fmt: skip
    with rc_context(wild):
        before = dict(rcParams)
        assert output.figure_bytes(make, "png") == expected
        assert dict(rcParams) == before


def test_fonts_are_in_the_files(sweep):
    make = functools.partial(phase_map.figure, sweep[0], None, "s")
    assert b"/FontFile2" in output.figure_bytes(make, "pdf")  # TrueType
    assert b"<text" not in output.figure_bytes(make, "svg")  # glyphs as shapes
