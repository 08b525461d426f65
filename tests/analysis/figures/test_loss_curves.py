"""Losses by position beside the predictors' whose names stand at the ends of their lines."""

import itertools

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg

from metaphase.analysis.figures import loss_curves, style
from metaphase.analysis.statistics.relative_distance import POSITION, SIZE, TASKS

NAMES = ("memorizing", "generalizing", "no_context", "unigram_memorizing", "unigram_generalizing")


def table():
    points = itertools.product((2, 8, 32), ("seen", "unseen"), range(1, 33))
    rows = []
    for tasks, split, t in points:
        row = {SIZE: 32, TASKS: tasks, "seed": 0, "split": split, POSITION: t, "loss": 1 / t}
        rows.append(row | {f"loss_{name}": (2 + i) / (1 + t) for i, name in enumerate(NAMES)})
    return pd.DataFrame(rows)


def test_names_are_short():
    assert [loss_curves.short_name(name) for name in NAMES] == [
        "M", "G", "none", "unigram M", "unigram G"
    ]  # fmt: skip


def test_names_stand_inside_their_panels_and_ticks_within_the_sequence():
    for width in style.WIDTHS:
        with style.context(width):
            figure = loss_curves.figure(table(), "s")
            FigureCanvasAgg(figure).draw()
            for ax in figure.axes:
                assert len(ax.texts) == len(NAMES)
                ends = [text.get_window_extent() for text in ax.texts]
                assert max(end.x1 for end in ends) <= ax.bbox.x1 + 1
                assert max(ax.get_xticks()) <= 31
                assert ax.transData.transform((31, 1))[0] < min(end.x0 for end in ends)
