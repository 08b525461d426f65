"""The tables behind the figures, and that drawing shows them; colours everyone can tell apart."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib import rc_context
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from metaphase.analysis.figures import plots, style
from metaphase.analysis.load import ResultsError, load_cells, load_curves
from metaphase.analysis.statistics.phases import PHASES, classify
from metaphase.analysis.statistics.transitions import estimate_transitions
from tests.tools.synthetic import make_results


def truth(cell):
    """A corner is missing, one cell diverged, and at 16 tasks seeds disagree at width 16."""
    if cell.model_size == 16 and cell.num_tasks == 256:
        return "missing"
    if (cell.model_size, cell.num_tasks, cell.seed) == (8, 256, 1):
        return "diverged"
    if (cell.model_size, cell.num_tasks) == (16, 16):
        return ("identifying", "generalizing")[cell.seed]
    return {1: "memorizing", 16: "identifying", 256: "generalizing"}[cell.num_tasks]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    path = tmp_path_factory.mktemp("results") / "s"
    make_results(path, (8, 16), (1, 16, 256), (0, 1), truth)
    return classify(load_cells(path)), load_curves(path)


@pytest.fixture
def ax():
    return Figure().subplots()


def test_phase_map_table_has_a_tile_for_every_seed_finished_or_not(sweep):
    table = plots.phase_map_table(sweep[0])
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
    table = plots.phase_map_table(sweep[0])
    tile = table[(table["num_tasks"] == 16) & (table["model_size"] == 8)]
    assert list(tile["left"]) == [2.0, 4.0]  # half-way from 2^0 and to 2^8, a strip a seed
    assert list(tile["right"]) == [4.0, 6.0]
    assert list(tile["bottom"]) == [2.5, 2.5]
    area = (table["right"] - table["left"]) * (table["top"] - table["bottom"])
    assert area.sum() == pytest.approx(
        (table["right"].max() - table["left"].min()) * (table["top"].max() - table["bottom"].min())
    )


def test_tile_edges_leave_gaps_in_the_grid_open():
    edges = style.tile_edges([1, 2, 4, 64])
    assert list(style.tile_edges([10, 100, 1000, 3])) == [3, 10, 100, 1000]  # keys not rounded
    assert edges[2.0] == (0.5, 1.5)
    assert edges[4.0] == (1.5, 2.5)
    assert edges[64.0] == (5.5, 6.5)
    assert style.tile_edges([7.0])[7.0] == pytest.approx((np.log2(7) - 0.5, np.log2(7) + 0.5))


def test_phase_map_draws_letters_and_boundaries(sweep, ax):
    transitions = estimate_transitions(sweep[0])
    table = plots.phase_map_table(sweep[0])
    assert plots.draw_phase_map(table, ax, transitions) is ax
    letters = sorted(t.get_text() for t in ax.texts)
    # 8: M I, G and a diverged one; 16: M, I and G side by side
    assert letters == sorted(["M", "I", "G", "×", "M", "I", "G"])
    begins = transitions.set_index(["begins", "model_size"])["log2_num_tasks"]
    for line, phase in zip(ax.lines, ("identifying", "generalizing"), strict=True):
        for size, x in zip((8, 16), line.get_xdata()[::2], strict=True):
            np.testing.assert_equal(x, begins[phase, size])
    assert ax.get_xlabel() == "number of tasks"
    assert ax.get_ylabel() == "model size"


def test_accuracy_table_is_the_mean_of_finished_seeds(sweep):
    cells = sweep[0]
    table = plots.accuracy_table(cells, "unseen").set_index(["model_size", "num_tasks"])
    two = cells[(cells["model_size"] == 16) & (cells["num_tasks"] == 16)]
    assert table.loc[(16, 16), "accuracy"] == pytest.approx(two["unseen_last"].mean())
    assert 0.3 < table.loc[(16, 16), "accuracy"] < 0.7
    assert table.loc[(8, 256), "seeds"] == 1
    assert table.loc[(8, 256), "accuracy"] == pytest.approx(0.8, abs=0.06)
    assert np.isnan(table.loc[(16, 256), "accuracy"])
    assert table.loc[(16, 256), "seeds"] == 0


def test_accuracy_is_drawn_on_the_shared_scale_and_missing_cells_are_blank(sweep, ax):
    table = plots.accuracy_table(sweep[0], "seen")
    plots.draw_accuracy(table, ax)
    (tiles,) = [c for c in ax.collections if isinstance(c, PolyCollection)]
    expected = style.ACCURACY_MAP(table["accuracy"].dropna().to_numpy())
    assert tiles.get_facecolor() == pytest.approx(expected)
    assert len(expected) == len(table) - 1
    assert (plots.accuracy_scale().norm.vmin, plots.accuracy_scale().norm.vmax) == (0, 1)


def test_improvement_table_and_lines(sweep, ax):
    cells = sweep[0]
    table = plots.improvement_table(cells, "unseen")
    assert len(table) == (cells["status"] == "done").sum() == 9
    row = cells[(cells["model_size"] == 8) & (cells["num_tasks"] == 256) & (cells["seed"] == 0)]
    mine = table[(table["model_size"] == 8) & (table["num_tasks"] == 256)]
    assert mine["improvement"].item() == row["unseen_improvement"].item()
    assert mine["low"].item() == row["unseen_improvement_low"].item() < mine["improvement"].item()
    plots.draw_improvement(table, ax, plots.shade_table(cells))
    lines = {line.get_label(): line for line in ax.lines if line.get_label()[0] != "_"}
    means = table[table["model_size"] == 16].groupby("num_tasks")["improvement"].mean()
    assert list(lines["$2^{4}$"].get_ydata()) == list(means)
    assert [t.get_text() for t in ax.texts] == ["M", "I"]


def test_shades_join_equal_neighbours_of_the_largest_model_size(tmp_path):
    make_results(
        tmp_path / "s", (8, 16), [2**k for k in range(8)], (0,),
        lambda c: "untrained" if c.model_size == 8
        else ("memorizing" if c.num_tasks < 4 else "identifying" if c.num_tasks < 32
              else "generalizing"),
    )  # fmt: skip
    shades = plots.shade_table(classify(load_cells(tmp_path / "s")))
    expected = [("memorizing", -0.5, 1.5), ("identifying", 1.5, 4.5), ("generalizing", 4.5, 7.5)]
    found = zip(shades["phase"], shades["left"], shades["right"], strict=True)
    assert list(found) == expected
    assert (shades["model_size"] == 16).all()


def test_curves_table_counts_examples_seen_and_keeps_seeds_apart(sweep, ax):
    cells, curves = sweep
    table = plots.curves_table(curves, cells, "unseen")
    assert len(table) == 9 * 16
    assert set(table["examples_seen"]) == set(range(16))
    last = table[(table["num_tasks"] == 16) & (table["model_size"] == 16)].groupby("seed").last()
    assert last["accuracy"][0] == pytest.approx(0.2, abs=0.06)
    assert last["accuracy"][1] == pytest.approx(0.8, abs=0.06)
    assert ((table["low"] < table["accuracy"]) & (table["accuracy"] < table["high"])).all()
    plots.draw_curves(table[table["model_size"] == 16], ax, [1, 16], chance=0.2)
    assert [line.get_label() for line in ax.lines if line.get_label()[0] != "_"] == [
        "$2^{0}$", "$2^{4}$", "chance",
    ]  # fmt: skip
    bands = [c.get_paths() for c in ax.collections]
    assert [len(paths) for paths in bands] == [2, 2]  # a band a seed
    lines = [line for line in ax.lines if np.isnan(line.get_xdata()).any()]
    assert [list(np.flatnonzero(np.isnan(line.get_ydata()))) for line in lines] == [[16], [16]]
    drawn = np.delete(lines[1].get_ydata(), 16)
    assert list(drawn) == list(table.query("model_size == 16 and num_tasks == 16")["accuracy"])


def test_curves_of_a_number_of_tasks_that_has_no_results_leave_the_panel_as_it_is(sweep, ax):
    cells, curves = sweep
    table = plots.curves_table(curves, cells, "unseen")
    plots.draw_curves(table[table["model_size"] == 16], ax, [1, 16, 256])
    assert "$2^{8}$" in ax.get_legend_handles_labels()[1]
    assert ax.get_xlim() == pytest.approx((-0.75, 15.75))
    assert ax.get_ylim() == (0, 1)


def test_figures_have_a_row_a_split_and_take_unseen_datasets(sweep):
    cells, curves = sweep
    more = curves[curves["split"] == "unseen"].assign(split="unseen/MNIST")
    others = more.assign(split="unseen/KMNIST", cell_id="of another condition")
    figure = plots.curves_figure(pd.concat([curves, more, others]), cells)
    labels = [ax.get_ylabel() for ax in figure.axes if ax.get_ylabel()]
    assert labels == [f"accuracy,\n{s} tasks" for s in ("seen", "unseen", "unseen/MNIST")]
    assert [ax.get_xlabel() for ax in figure.axes] == [""] * 4 + ["examples seen"] * 2
    assert figure.legends[0].get_title().get_text() == "number of tasks"
    bar = plots.accuracy_figure(cells).axes[-1]
    assert bar.get_ylabel() == "accuracy at the last positions"


def test_tables_refuse_mixed_settings(sweep):
    cells, curves = sweep
    mixed = pd.concat([cells, cells.assign(learning_rate=1.0)])
    for table in (
        lambda: plots.phase_map_table(mixed),
        lambda: plots.accuracy_table(mixed, "seen"),
        lambda: plots.improvement_table(mixed, "seen"),
        lambda: plots.curves_table(curves, mixed, "seen"),
    ):
        with pytest.raises(ResultsError, match="differ in more than"):
            table()


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
    style.log_ticks(ax, low, high)
    figure.draw_without_rendering()
    left, right = ax.get_xlim()
    ticks = [t for t in ax.xaxis.get_major_ticks() if left <= t.get_loc() <= right]
    shown = [tick.label1 for tick in ticks]
    assert set(labels) <= {text.get_text() for text in shown}
    boxes = [text.get_window_extent() for text in shown]
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))
    assert not any(label.get_text() for label in ax.xaxis.get_minorticklabels())


def test_long_titles_are_wrapped_into_the_figure(sweep):
    cells, curves = sweep
    cells = cells[cells["model_size"] == 8]
    title = "s, fast_weights, dataset=digits, unseen_datasets=('glyphs', 'random'), steps=60"
    for make in (
        lambda: plots.curves_figure(curves, cells, title),
        lambda: plots.phase_map_figure(cells, None, title),
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


def test_numbers_that_are_no_powers_of_two_are_labelled_as_they_are():
    assert style.power_of_two(1024) == "$2^{10}$"
    assert style.power_of_two(100) == "100"


# Vienot, Brettel & Mollon 1999 (deuteranopia, protanopia) and Machado et al. 2009 (tritanopia,
# severity 1), on linear RGB
VISION = {
    "usual": np.eye(3),
    "deuteranopia": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
    "protanopia": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
    "tritanopia": [[1.25553, -0.07675, -0.17878], [-0.07841, 0.93081, 0.1476],
                   [0.00473, 0.6913, 0.30397]],
    "grey print": [[0.2126, 0.7152, 0.0722]] * 3,
}  # fmt: skip


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB (D65) of linear RGB, last axis 3."""
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    t = np.clip(rgb, 0, 1) @ to_xyz.T / [0.9505, 1.0, 1.089]
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack(
        [116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1
    )


def seen_lab(color, vision: str) -> np.ndarray:
    """CIELAB of one of matplotlib's colours as this vision sees it, shape (3,)."""
    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return lab(linear @ np.array(VISION[vision]).T)


@pytest.mark.parametrize("vision", VISION)
def test_phases_can_be_told_apart(vision):
    seen = np.array([seen_lab(style.COLORS[p], vision) for p in PHASES])
    for a, b in itertools.combinations(range(len(PHASES)), 2):
        assert np.linalg.norm(seen[a] - seen[b]) > 14, (PHASES[a], PHASES[b])  # 2.3 is just seen
    assert (np.diff(seen[:, 0]) < 0).all()  # darker with capability


def test_phases_letters_differ():
    assert len({*style.LETTERS.values(), style.UNFINISHED_LETTER}) == len(PHASES) + 1
