"""The order parameter's peak, collapse and crossings, where they are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from metaphase.analysis.statistics.order_parameter import (
    budget_crossings,
    collapse,
    order_table,
    variance_peaks,
)
from metaphase.core.phases import PHASES


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
    assert (found["crossed"] == 1).all()
    always = rows[0].assign(step=800, loss=0.5)
    none = budget_crossings(frame, pd.concat([rows[0], always]))
    assert none["log2_num_tasks"].isna().all()
