"""What all figures of a condition have in common."""

from __future__ import annotations

import pandas as pd
import pytest
from matplotlib import rc_context

from metaphase.analysis.figures import accuracy, improvement, learning_curves, phase_map, style
from metaphase.analysis.load import ResultsError


def test_tables_refuse_mixed_settings(sweep):
    cells, curves = sweep
    mixed = pd.concat([cells, cells.assign(learning_rate=1.0)])
    for table in (
        lambda: phase_map.tile_table(mixed),
        lambda: accuracy.tile_table(mixed, "seen"),
        lambda: improvement.seed_table(mixed, "seen"),
        lambda: learning_curves.curve_table(curves, mixed, "seen"),
    ):
        with pytest.raises(ResultsError, match="differ in more than"):
            table()


def test_long_titles_are_wrapped_into_the_figure(sweep):
    cells, curves = sweep
    cells = cells[cells["model_size"] == 8]
    title = "s, fast_weights, dataset=digits, unseen_datasets=('glyphs', 'random'), steps=60"
    for make in (
        lambda: learning_curves.figure(curves, cells, title),
        lambda: phase_map.figure(cells, None, title),
    ):
        with rc_context(style.RC):
            figure = make()
            figure.draw_without_rendering()
        texts = [*figure.texts, figure.axes[0]._left_title]
        [text] = [text for text in texts if text.get_text().startswith("s,")]
        box = text.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1
        assert " ".join(text.get_text().split()) == title
