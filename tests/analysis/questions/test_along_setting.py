"""Accuracy along numeric settings, each where nothing else differs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from metaphase.core import schema
from tests.analysis.questions import change, draw, find
from tests.tools.synthetic import make_results

EXPONENTS = (0.0, 0.5, 1.0, 2.0)


@pytest.fixture
def skewed(tmp_path):
    """Zipf exponents at 2^14 tasks, label noise at 2^6 with too few values, three seeds."""
    path = tmp_path / "s"
    kinds = [{"zipf_exponent": z, "in_weights": True} for z in EXPONENTS]
    make_results(path, (8,), (16384,), (0, 1, 2), lambda c: "generalizing", settings=kinds)
    noisy = [{"label_noise": v, "in_weights": True} for v in (0.0, 0.2)]
    make_results(path, (8,), (64,), (0, 1, 2), lambda c: "identifying", settings=noisy)

    def measure(frame):
        extra = [frame[frame["split"] == "seen"].assign(split=s) for s in schema.RELABELLED]
        seen = np.where(frame["split"] == "seen", 0.25, frame["last"])
        return pd.concat([frame.assign(last=seen), *extra], ignore_index=True)

    change(path, "history", measure)
    return path


def test_means_over_seeds_along_each_setting(skewed):
    answer = find(skewed)["along_settings"]
    table = answer.table
    assert set(table["setting"]) == {"zipf_exponent"}  # label noise takes two values
    assert set(table["point"]) == {"2^14 tasks"}
    assert sorted(table["value"].unique()) == list(EXPONENTS)
    assert set(table["split"]) == {"seen", "unseen", *schema.RELABELLED}
    assert table["seeds"].eq(3).all()
    seen = table[table["split"] == "seen"]
    assert seen[["accuracy", "low", "high"]].eq(0.25).all(axis=None)

    history = pd.read_parquet(skewed / "history")
    cells = pd.read_parquet(skewed / "cells").query("zipf_exponent == 0.5")
    last = history[history["cell_id"].isin(cells["cell_id"]) & (history["split"] == "unseen")]
    values = last.loc[last["step"] == last["step"].max(), "last"].to_numpy()
    low, high = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
    row = table[(table["split"] == "unseen") & (table["value"] == 0.5)].iloc[0]
    assert (row["accuracy"], row["low"], row["high"]) == pytest.approx((values.mean(), low, high))
    assert "zipf_exponent, 2^14 tasks" in answer.text
    assert "in weights" in answer.text


def test_a_setting_is_the_axis_of_a_figure(skewed):
    figure = draw(find(skewed)["along_settings"])
    [ax] = figure.axes
    assert ax.get_xlabel() == "zipf exponent"
    assert ax.get_xscale() == "linear"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "seen tasks", "unseen tasks", "in weights", "in context", "chance",
    ]  # fmt: skip


def test_other_settings_stay_apart_and_wide_ranges_are_logarithmic(tmp_path):
    path = tmp_path / "s"
    kinds = [
        {"learning_rate": rate, "weight_decay": decay}
        for rate in (1e-4, 1e-3, 1e-2) for decay in (0.0, 0.1)
    ]  # fmt: skip
    make_results(path, (8,), (64,), (0,), lambda c: "identifying", settings=kinds)
    answer = find(path)["along_settings"]
    assert set(answer.table["setting"]) == {"learning_rate"}
    assert sorted(answer.table["point"].unique()) == ["", "weight_decay=0.1"]
    assert answer.table[["low", "high"]].isna().all(axis=None)  # one seed
    assert [ax.get_xscale() for ax in draw(answer).axes] == ["log", "log"]


def test_failed_cells_and_words_are_no_values(tmp_path):
    kinds = [{"token_format": name} for name in ("shifted", "interleaved")]
    make_results(tmp_path / "s", (8,), (64,), (0,), settings=kinds)
    assert "along_settings" not in find(tmp_path / "s")
    kinds = [{"zipf_exponent": z} for z in EXPONENTS]
    truth = lambda cell: "failed" if cell.zipf_exponent > 0.5 else "memorizing"  # noqa: E731
    make_results(tmp_path / "t", (8,), (64,), (0,), truth, settings=kinds)
    assert "along_settings" not in find(tmp_path / "t")


def test_chance_follows_the_setting(tmp_path):
    """With 2, 5 and 10 classes guessing is right in 0.5, 0.2 and 0.1."""
    kinds = [{"num_classes": c} for c in (2, 5, 10)]
    make_results(tmp_path / "s", (8,), (64,), (0, 1), lambda c: "untrained", settings=kinds)
    figure = draw(find(tmp_path / "s")["along_settings"])
    [line] = [line for line in figure.axes[0].lines if line.get_label() == "chance"]
    assert list(line.get_xdata()) == [2, 5, 10]
    assert line.get_ydata() == pytest.approx([0.5, 0.2, 0.1], abs=0.02)
