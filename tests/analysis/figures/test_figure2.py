"""The paper's Figure 2 in our map: its transition is seen at column width, in grey and without
colour vision."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from metaphase.analysis import phase_plot
from metaphase.analysis.figures import phase_map, style
from metaphase.analysis.load import load_cells
from metaphase.analysis.statistics.phases import classify
from tests.analysis.figures.colour_vision import VISION, seen_lab
from tests.tools import figure2_tree


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """The rows of the map that show the transition, of the paper's 9."""
    path = figure2_tree.make(tmp_path_factory.mktemp("f") / "figure2", (32, 64, 128, 512), n=256)
    return classify(load_cells(path))


@pytest.mark.parametrize("vision", VISION)
def test_the_transition_is_seen(cells, vision):
    with style.context("column"):
        figure = phase_map.figure(cells, None, "figure2")
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[::-1]  # from the bottom
    ax = figure.axes[0]

    def lightness(width, log2_num_tasks):
        """The mean of a tile as it is seen: of its three seeds' bands."""
        heights = np.log2(width) + np.array([-0.3, 0.0, 0.3])
        xy = ax.transData.transform([(log2_num_tasks, height) for height in heights])
        colors = [pixels[int(y), int(x), :3] / 255 for x, y in xy]
        return np.mean([seen_lab(color, vision)[0] for color in colors])

    for width in (64, 128, 512):
        row = np.array([lightness(width, k) for k in range(26)])
        half_way = (row[10] + row[16:].mean()) / 2
        assert 12 <= np.flatnonzero(row < half_way)[0] <= 14, width
        assert row[8:12].min() - row[15:].max() > 25, width
        assert np.ptp(row[15:]) < 8, width  # and then the same
    weak = [lightness(32, k) for k in range(15, 26)]  # generalizes, but worse: 0.4
    strong = [lightness(512, k) for k in range(15, 26)]
    assert min(weak) - max(strong) > 8


@pytest.mark.slow
def test_the_whole_figure_is_plotted_in_seconds(tmp_path):
    path = figure2_tree.make(tmp_path / "figure2")
    assert phase_plot.main([str(path)]) == 0
    for name in ("phase_map", "accuracy", "improvement", "learning_curves", "seeds", "training"):
        assert (path / "figures" / f"{name}.png").stat().st_size > 10_000
