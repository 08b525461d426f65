"""Accuracy by dataset tested on: means over seeds at the last evaluation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from metaphase.analysis import phase_plot
from metaphase.analysis.load import load_cells
from metaphase.analysis.questions import generalization
from tests.analysis.questions import change, find
from tests.tools.synthetic import make_results


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
    table = find(path)["generalization"].table
    assert list(table["tested_on"]) == ["digits", "glyphs"] * 2
    row = table.iloc[1]
    half = stats.t.ppf(0.975, 2) * 0.1 / np.sqrt(3)
    assert (row["accuracy"], row["high"] - row["accuracy"]) == pytest.approx((0.5, half))
    assert "0.500 ± 0.248" in generalization.describe(table)
    phase_plot.main([str(path)])
    assert (path / "generalization.csv").exists()
