"""The order parameter's peak, collapse and crossings, where they are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from metaphase.analysis.questions.order import describe
from metaphase.analysis.statistics.order_parameter import (
    budget_crossings,
    collapse,
    order_table,
    variance_peaks,
)
from metaphase.core.phases import PHASES
from metaphase.core.thresholds import ABOVE, BELOW, INSIDE


def cells(exponent=1.0, sizes=(8, 16, 32), seeds=8, noise=0.01):
    """Seeds go from 0.1 to 0.8 at log2 N = 7 + exponent * log2(size / 16), each a little later or
    earlier."""
    rng = np.random.default_rng(1)
    shift = rng.normal(0, 0.8, seeds)
    rows = [
        (size, 2**x, seed, f"{size}-{x}-{seed}",
         0.1 + 0.7 / (1 + np.exp(-2 * (x - 7 - exponent * np.log2(size / 16) - shift[seed])))
         + rng.normal(0, noise))
        for size in sizes for x in range(15) for seed in range(seeds)
    ]  # fmt: skip
    names = ["model_size", "num_tasks", "seed", "cell_id", "unseen_last"]
    frame = pd.DataFrame(rows, columns=names)
    phase = np.where(frame["unseen_last"] > 0.15, "generalizing", "memorizing")
    return frame.assign(
        architecture="transformer", status="done", unseen_last_se=noise,
        phase=pd.Categorical(phase, list(PHASES), ordered=True),
    )  # fmt: skip


def test_mean_and_variance():
    frame = cells()
    table = order_table(frame).set_index(["model_size", "num_tasks"])
    some = frame[(frame["model_size"] == 16) & (frame["num_tasks"] == 128)]["unseen_last"]
    row = table.loc[(16, 128)]
    assert row["mean"] == pytest.approx(some.mean())
    assert row["variance"] == pytest.approx(some.var(ddof=1))
    assert row["error"] == pytest.approx(some.std(ddof=1) / np.sqrt(8))
    single = order_table(frame[frame["seed"] == 0])
    assert single["variance"].isna().all()
    assert single["error"].to_numpy() == pytest.approx(0.01)


def test_the_variance_peaks_at_the_transition():
    found = variance_peaks(cells()).set_index("model_size")
    for size in (8, 16, 32):
        truth = 7 + np.log2(size / 16)
        assert found.loc[size, "log2_num_tasks"] == pytest.approx(truth, abs=1)
        assert found.loc[size, "low"] - 1 <= truth <= found.loc[size, "high"] + 1
    two = variance_peaks(cells(seeds=2))
    assert two["low"].isna().all()
    assert two["log2_num_tasks"].notna().all()


@pytest.mark.parametrize("exponent", [-1.0, 0.0, 1.5])
def test_curves_collapse_at_the_true_exponent(exponent):
    found = collapse(order_table(cells(exponent))).iloc[0]
    assert found["exponent"] == pytest.approx(exponent, abs=0.25)
    assert found["low"] <= found["exponent"] <= found["high"]
    assert found["quality"] < 3
    if exponent:
        assert found["unshifted"] > 3 * found["quality"]


def test_more_training_helps_from_the_crossing_on():
    frame = cells()
    x = np.log2(frame["num_tasks"])
    rows = []
    for step, slope in ((100, 0.0), (200, 0.05), (400, 0.1)):
        loss = 1.5 - slope * (x - 6.3)  # more training: better above 2^6.3, worse below
        at = {"cell_id": frame["cell_id"], "step": step, "split": "unseen", "loss": loss}
        rows.append(pd.DataFrame(at))
    found = budget_crossings(frame, pd.concat(rows))
    assert set(found["step"]) == {100, 200}
    assert (found["later"] == 400).all()
    assert found["log2_num_tasks"].to_numpy() == pytest.approx(6.3, abs=1e-6)
    assert (found["censored"] == INSIDE).all()
    always = rows[0].assign(step=800, loss=0.5)
    none = budget_crossings(frame, pd.concat([rows[0], always]))
    assert none["log2_num_tasks"].isna().all()
    assert (none["censored"] == BELOW).all()


def crossing(gain_SxK):
    """The row of `budget_crossings` for one model size, of the gains of seeds at 2^0, 2^1, ..."""
    seeds, tasks = np.shape(gain_SxK)
    frame = cells(sizes=(8,), seeds=seeds)
    frame = frame[frame["num_tasks"] < 2**tasks]
    of_cell = zip(frame["seed"], frame["num_tasks"], strict=True)
    gain = [gain_SxK[s][int(np.log2(n))] for s, n in of_cell]
    early = pd.DataFrame({"cell_id": frame["cell_id"], "step": 1, "split": "unseen", "loss": 2.0})
    history = pd.concat([early, early.assign(step=2, loss=2.0 - np.array(gain))])
    [row] = budget_crossings(frame, history).to_dict("records")
    return row


def test_training_that_hurts_with_many_tasks_doesnt_help_from_anywhere_on():
    row = crossing(np.array([[-1, -1, 1, -1, -1, -1, -1]] * 3) * 1.0)
    assert row["censored"] == ABOVE
    assert np.isnan(row["log2_num_tasks"])
    assert (row["low"], row["high"]) == (6, np.inf)


def test_a_crossing_that_seeds_dont_tell_is_open():
    seeds = np.array([-0.3, -0.1, 0.1, 0.3])
    row = crossing(np.linspace(-1, 0.1, 9) + seeds[:, None])
    assert row["log2_num_tasks"] == pytest.approx(8 / 1.1)
    half = 3.182446 * seeds.std(ddof=1) / 2  # t of 3 degrees of freedom
    assert row["low"] == pytest.approx((1 - half) * 8 / 1.1, abs=1 / 16)
    assert row["high"] == np.inf  # the last gain is within its error of 0
    one = crossing(np.linspace(-1, 1, 9)[None])
    assert np.isnan([one["low"], one["high"]]).all()
    assert one["log2_num_tasks"] == pytest.approx(4)


def test_samples_of_one_seed_have_no_peak():
    """Three equal seeds have no variance anywhere, so their peak would be the smallest number."""
    found = variance_peaks(cells(seeds=3, noise=1e-4))
    assert (found["low"] > 2).all()


def test_no_exponent_is_told_beyond_those_that_are_tried():
    found = collapse(order_table(cells(-3.5))).iloc[0]
    assert found["low"] == -np.inf
    assert np.isfinite(found["high"])
    flat = cells().assign(unseen_last=0.1)
    assert np.isinf(collapse(order_table(flat)).iloc[0][["low", "high"]].astype(float)).all()
    text = describe(*(pd.DataFrame(columns=["model_size"]),) * 3, "t")
    assert text == ""
    empty = pd.DataFrame(columns=["model_size", "low"])
    assert "at any exponent" in describe(empty, collapse(order_table(flat)), empty, "t")
    table = order_table(cells())
    worse = collapse(table.assign(mean=table["mean"] * np.log2(table["model_size"])))
    assert "at no exponent" in describe(empty, worse, empty, "t")
