"""Plateaus: paired over seeds, censored where they weren't left."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from metaphase.analysis.commands import report_page
from metaphase.analysis.questions import interventions
from tests.analysis.questions import change, draw, find
from tests.tools.synthetic import make_results


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
    table = interventions.plateau_table(pd.concat([cells, extra], ignore_index=True))
    assert set(table["factor"]) == {"batch_size", "learning_rate"}
    summary = interventions.summarize(table).set_index(["factor", "value"])
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
    table = interventions.plateau_table(pd.concat([cells, base], ignore_index=True))
    summary = interventions.summarize(table).set_index(["factor", "value"])
    row = summary.loc[("batch_size", "8")]
    assert row["median"] == np.inf  # between 300 and never
    assert (row["not_left"], row["later"], row["earlier"]) == (2, 3, 1)
    assert np.isnan(row["difference"])
    text = interventions.describe(summary.reset_index(), "s")
    assert "> 1000" in text
    assert "later in 3, earlier in 1 of 4 seeds" in text
    odd = interventions.summarize(table[table["seed"] < 3]).set_index(["factor", "value"])
    assert odd.loc[("batch_size", "16"), "median"] == 300


def test_diverged_cells_are_left_out_and_bias_is_one_factor():
    cells = plateau_cells({16: [100, 200]})
    bias = plateau_cells({16: [50, 60]}, identity_share=1.0, identity_steps=500)
    failed = plateau_cells({8: [None, None]}, status="diverged")
    table = interventions.plateau_table(pd.concat([cells, cells, bias, failed], ignore_index=True))
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
    answer = find(path)["interventions"]
    figure = draw(answer)
    assert [ax.get_xlabel() for ax in figure.axes] == ["batch size", "identity share"]
    assert "3 of 3" in answer.text
    images = report_page.render(str(path)).count("<img")
    assert images == 2 + 4  # along the batch size, too; and learning curves of each condition
