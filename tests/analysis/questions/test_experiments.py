"""Experiments across a sweep: what they compute, to whom they apply, and that they are drawn."""

from __future__ import annotations

import base64

import matplotlib as mpl
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from metaphase.analysis import phase_plot
from metaphase.analysis.commands import report
from metaphase.analysis.figures import style
from metaphase.analysis.load import load_cells, load_history
from metaphase.analysis.questions import experiments, generalization
from metaphase.analysis.statistics.phases import classify
from tests.tools.synthetic import make_results


def of(path):
    found = experiments.find(classify(load_cells(path)), load_history(path))
    return {experiment.name: experiment for experiment in found}


def draw(experiment):
    with mpl.rc_context(style.RC):
        figure = experiment.figure()
        figure.draw_without_rendering()
    return figure


def change(path, table, function):
    """Rewrite each file of a table by function(frame) -> frame."""
    for file in sorted((path / table).iterdir()):
        frame = function(pq.read_table(file).to_pandas())
        pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), file)


# ---------------------------------------------------------------------------------- state size


def test_rank_correlation_is_spearman_s():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, 20), rng.integers(0, 6, 20)  # with ties
    r, low, high = experiments.rank_correlation(x, y)
    assert r == pytest.approx(stats.spearmanr(x, y).statistic)
    assert low < r < high
    perfect = experiments.rank_correlation(np.arange(5), np.arange(5) ** 3)
    assert perfect == pytest.approx((1, np.nan, np.nan), nan_ok=True)  # no claim of certainty
    assert np.isnan(experiments.rank_correlation(np.arange(5), np.ones(5))[0])
    r, low, _ = experiments.rank_correlation(np.arange(3), np.array([1, 0, 2]))
    assert r == pytest.approx(0.5)
    assert np.isnan(low)


@pytest.mark.parametrize("n", [10, 14, 30])
@pytest.mark.parametrize("rho", [0.0, 0.5, 0.85])
def test_intervals_of_rank_correlations_cover(n, rho):
    """Of normal pairs Spearman's correlation is 6/pi asin(rho/2)."""
    rng = np.random.default_rng([n, int(100 * rho)])
    true, times = 6 / np.pi * np.arcsin(rho / 2), 600
    hits = 0
    for _ in range(times):
        x = rng.normal(size=n)
        y = rho * x + np.sqrt(1 - rho**2) * rng.normal(size=n)
        _, low, high = experiments.rank_correlation(x, y)
        hits += low <= true <= high
    assert 0.925 <= hits / times <= 0.99


@pytest.mark.parametrize("n", [10, 14, 30])
@pytest.mark.parametrize(("between", "strength"), [(0.0, 0.3), (0.4, 0.6), (0.8, 0.9)])
def test_intervals_of_differences_between_correlations_cover(n, between, strength):
    """Both variables correlate equally with y, so the true difference is 0."""
    rng = np.random.default_rng([n, int(10 * between)])
    times = 500
    hits = 0
    for _ in range(times):
        x = rng.normal(size=n)
        z = between * x + np.sqrt(1 - between**2) * rng.normal(size=n)
        y = strength * (x + z) / np.sqrt(2 + 2 * between)
        y += np.sqrt(1 - strength**2) * rng.normal(size=n)
        _, low, high = experiments.correlation_difference(x, z, y)
        hits += low <= 0 <= high
    assert 0.92 <= hits / times <= 0.995


def test_a_difference_between_correlations_has_a_sign():
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(2, 40))
    difference, low, _ = experiments.correlation_difference(x, z, x + 0.3 * rng.normal(size=40))
    assert difference > low > 0
    assert np.isnan(experiments.correlation_difference(x, z, x)).all()


def test_partial_rank_correlation_is_that_of_residuals():
    rng = np.random.default_rng(0)
    x, y, given = (stats.rankdata(v) for v in rng.normal(size=(3, 25)))
    y = stats.rankdata(y + given)
    residuals = [v - np.polyval(np.polyfit(given, v, 1), given) for v in (x, y)]
    r, low, high = experiments.partial_rank_correlation(x, y, given)
    assert r == pytest.approx(np.corrcoef(*residuals)[0, 1])
    assert low < r < high
    assert np.isnan(experiments.partial_rank_correlation(x, y, x)[0])


@pytest.mark.parametrize("n", [12, 30])
def test_intervals_of_partial_correlations_cover(n):
    """x and y depend on each other through what is held equal alone."""
    rng, hits = np.random.default_rng(n), 0
    for _ in range(500):
        given, a, b = rng.normal(size=(3, n))
        _, low, high = experiments.partial_rank_correlation(given + a, given + b, given)
        hits += low <= 0 <= high
    # Ranks don't take out all of a linear influence, so a bit less than 95% for large n.
    assert 0.90 <= hits / 500 <= 0.99


@pytest.fixture
def architectures(tmp_path):
    path = tmp_path / "s"
    kinds = [{"architecture": a} for a in ("transformer", "lstm")]
    truth = {"transformer": "generalizing", "lstm": "untrained"}
    make_results(
        path, (8, 16, 32), (1, 65536), (0, 1), lambda c: truth[c.architecture], settings=kinds,
        random_seed=1,
    )  # fmt: skip

    def sizes(frame):
        small = frame["architecture"].iloc[0] == "lstm"
        size = frame["model_size"].iloc[0]
        return frame.assign(state_size=2 * size if small else 64 * size, num_parameters=size**2)

    change(path, "cells", sizes)
    return path


def test_state_size_uses_the_most_tasks_and_averages_seeds(architectures):
    experiment = of(architectures)["state_size-num_tasks=65536"]
    assert len(experiment.table) == 2 * 3 * 2
    found = experiments.correlations(experiment.table)
    means = experiment.table.groupby(["architecture", "model_size"]).mean(numeric_only=True)
    expected = stats.spearmanr(means["state_size"], means["accuracy"]).statistic
    assert found["state_size"][0] == pytest.approx(expected)
    assert found["state_size"][0] > 0.7 > abs(found["num_parameters"][0])
    assert "over 6 models" in experiment.text
    axes = draw(experiment).axes
    assert [ax.get_xlabel() for ax in axes] == ["state size (numbers carried)", "parameters"]
    assert f"{found['state_size'][0]:+.2f}" in axes[0].get_title()


# ------------------------------------------------------------------------------- interventions


def plateau_cells(steps_of, **columns):
    """Cells of a batch size and seed each, with the given plateau_steps (None: never left)."""
    rows = [
        {"batch_size": size, "identity_share": 0.0, "identity_steps": 0, "adam_epsilon": 1e-8,
         "learning_rate": 1e-3, "seed": seed, "plateau_steps": value, "steps": 1000,
         "status": "done", **columns}
        for size, values in steps_of.items() for seed, value in enumerate(values)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_paired_differences_over_seeds():
    cells = plateau_cells({8: [300, 500, 420], 16: [200, 450, 300]})
    extra = plateau_cells({16: [210, 460, 310]}, learning_rate=1e-2)  # makes 16 the commonest
    table = experiments.plateau_table(pd.concat([cells, extra], ignore_index=True))
    assert set(table["factor"]) == {"batch_size", "learning_rate"}
    summary = experiments.plateau_summary(table).set_index(["factor", "value"])
    row = summary.loc[("batch_size", "8")]
    d = np.array([100, 50, 120])
    low, high = stats.t.interval(0.95, 2, d.mean(), stats.sem(d))
    assert (row["difference"], row["low"], row["high"]) == pytest.approx((90, low, high))
    assert (row["later"], row["earlier"], row["pairs"], row["median"]) == (3, 0, 3, 420)
    assert summary.loc[("batch_size", "16"), "base"]
    assert summary.loc[("learning_rate", "0.01"), "difference"] == pytest.approx(10)


def test_censored_cells_are_later_than_all():
    base = plateau_cells({16: [200, 450, 300, 310]}, learning_rate=1e-2)
    cells = plateau_cells({8: [300, None, None, 250], 16: [200, 450, 300, 310], 4: [None] * 4})
    table = experiments.plateau_table(pd.concat([cells, base], ignore_index=True))
    summary = experiments.plateau_summary(table).set_index(["factor", "value"])
    row = summary.loc[("batch_size", "8")]
    assert row["median"] == np.inf  # between 300 and never
    assert (row["not_left"], row["later"], row["earlier"]) == (2, 3, 1)
    assert np.isnan(row["difference"])
    text = experiments.describe_interventions(summary.reset_index(), "s")
    assert "> 1000" in text
    assert "later in 3, earlier in 1 of 4 seeds" in text
    odd = experiments.plateau_summary(table[table["seed"] < 3]).set_index(["factor", "value"])
    assert odd.loc[("batch_size", "16"), "median"] == 300


def test_diverged_cells_are_left_out_and_bias_is_one_factor():
    cells = plateau_cells({16: [100, 200]})
    bias = plateau_cells({16: [50, 60]}, identity_share=1.0, identity_steps=500)
    failed = plateau_cells({8: [None, None]}, status="diverged")
    table = experiments.plateau_table(pd.concat([cells, cells, bias, failed], ignore_index=True))
    assert set(table["factor"]) == {"identity_share"}
    assert list(dict.fromkeys(table["value"])) == ["0", "1 to 0 in 500"]


def test_interventions_are_drawn(tmp_path):
    path = tmp_path / "s"
    kinds = [{"batch_size": b} for b in (8, 16, 32)] + [{"batch_size": 16, "identity_share": 0.5}]
    make_results(path, (8,), (65536,), (0, 1, 2), lambda c: "generalizing", settings=kinds)

    def steps(frame):
        row = frame.iloc[0]
        value = 9600 / row["batch_size"] * (0.5 if row["identity_share"] else 1) + row["seed"]
        return frame.assign(plateau_steps=np.nan if row["batch_size"] == 8 else value)

    change(path, "cells", steps)
    experiment = of(path)["interventions"]
    figure = draw(experiment)
    assert [ax.get_xlabel() for ax in figure.axes] == ["batch size", "identity share"]
    assert "3 of 3" in experiment.text
    images = report.render(str(path)).count("<img")
    assert images == 1 + 4  # and the learning curves of each condition


# ----------------------------------------------------------------------------- seeds, datasets


def test_seeds_near_the_transition(tmp_path, capsys):
    path = tmp_path / "s"

    def truth(cell):
        if cell.num_tasks == 64:
            return "generalizing" if cell.seed % 2 else "identifying"
        return "memorizing" if cell.num_tasks < 64 else "generalizing"

    make_results(path, (8, 16), (1, 64, 4096), range(5), truth)
    experiment = of(path)["seeds"]
    table = experiment.table
    assert len(table) == 30
    assert set(table.loc[table["split"], "num_tasks"]) == {64}
    assert experiment.text.count("2 of 5 generalize") == 2
    figure = draw(experiment)
    dots = sum(len(line.get_xdata()) for line in figure.axes[0].lines if line.get_marker() == "o")
    assert dots == 15
    phase_plot.main([str(path)])
    assert (path / "seeds.csv").exists()
    assert (path / "figures" / "seeds.png").read_bytes()[1:4] == b"PNG"
    assert "2 of 5 generalize" in capsys.readouterr().out
    assert base64.b64encode(b"\x89PNG").decode()[:4] in report.render(str(path))


def test_generalization_table(tmp_path):
    path = tmp_path / "s"
    make_results(path, (8, 16), (256,), (0, 1, 2), lambda c: "generalizing")
    seeds = load_cells(path).set_index("cell_id")["seed"]

    def add(frame):
        other = frame[frame["split"] == "unseen"].assign(split="unseen/glyphs")
        other["last"] = np.where(other["step"] == 1000, 0.4, 0.1)  # the last evaluation counts
        other["last"] += 0.1 * other["cell_id"].map(seeds)
        return pd.concat([frame, other])

    change(path, "history", add)
    table = of(path)["generalization"].table
    assert list(table["tested_on"]) == ["digits", "glyphs"] * 2
    row = table.iloc[1]
    half = stats.t.ppf(0.975, 2) * 0.1 / np.sqrt(3)
    assert (row["accuracy"], row["high"] - row["accuracy"]) == pytest.approx((0.5, half))
    assert "0.500 ± 0.248" in generalization.describe(table)
    phase_plot.main([str(path)])
    assert (path / "generalization.csv").exists()


def test_a_plain_sweep_has_none(tmp_path):
    make_results(tmp_path / "s", (8, 16), (1, 16, 256), (0, 1))
    assert of(tmp_path / "s") == {}


# ------------------------------------------------------------------------------- architectures


def test_architectures_stand_side_by_side(architectures):
    experiment = of(architectures)["architectures"]
    table = experiment.table
    assert len(table) == 2 * 3 * 2
    assert set(table.loc[table["architecture"] == "lstm", "phase"]) == {"untrained"}
    assert (table.loc[table["architecture"] == "transformer", "unseen"] > 0.6).all()
    assert (table["seeds"] == 2).all()
    axes = draw(experiment).axes
    assert [ax.get_title() for ax in axes[:2]] == ["LSTM", "transformer"]
    # a tile a grid point in each of the four panels
    assert [len(ax.collections[0].get_paths()) for ax in axes[:4]] == [6] * 4


def test_one_architecture_has_nothing_beside_it(tmp_path):
    make_results(tmp_path / "s", (8, 16), (1, 16), (0,), lambda cell: "memorizing")
    assert "architectures" not in of(tmp_path / "s")
