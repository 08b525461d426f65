"""The joint models over model sizes find a power law that is there, and learn from neighbours."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from metaphase.analysis.statistics.boundary import boundaries
from metaphase.core.phases import PHASES


def cells(exponent, height=8.0, sizes=(8, 16, 32, 64, 128), tasks=range(0, 17, 2), seeds=3, s=0.4):
    """Memorizing, then generalizing from log2 N = height + exponent * log2(size / 32)."""
    rng = np.random.default_rng(0)
    rows = []
    for size in sizes:
        for x in tasks:
            theta = height + exponent * np.log2(size / 32)
            for seed in range(seeds):
                there = rng.random() < 1 / (1 + np.exp(-(x - theta) / s))
                rows.append((size, 2**x, seed, "generalizing" if there else "memorizing"))
    frame = pd.DataFrame(rows, columns=["model_size", "num_tasks", "seed", "phase"])
    frame["phase"] = pd.Categorical(frame["phase"], list(PHASES), ordered=True)
    return frame.assign(architecture="transformer", status="done")


@pytest.mark.parametrize("exponent", [-1.5, 0.0, 1.0])
def test_a_power_law_is_found(exponent):
    by_size, laws = boundaries(cells(exponent))
    law = laws[laws["begins"] == "generalizing"].iloc[0]
    assert law["low"] <= exponent <= law["high"]
    assert law["high"] - law["low"] < 1.5
    assert law["log2_num_tasks"] == pytest.approx(8, abs=0.8)
    assert law["middle_size"] == 32
    assert (law["moves"] > 10) == (exponent != 0)
    assert law["clear"]
    rows = by_size[by_size["begins"] == "generalizing"]
    truth = 8 + exponent * np.log2(rows["model_size"] / 32)
    for prefix in ("", "law_"):
        assert ((rows[f"{prefix}low"] <= truth) & (truth <= rows[f"{prefix}high"])).all()


def test_a_size_with_little_data_learns_from_its_neighbours():
    frame = cells(0.5)
    scarce = frame[(frame["model_size"] != 32) | frame["num_tasks"].isin([1, 2**16])]
    by_size, _ = boundaries(scarce)
    rows = by_size[by_size["begins"] == "generalizing"].set_index("model_size")
    assert rows.loc[32, "low"] <= 8 <= rows.loc[32, "high"]
    assert rows.loc[32, "high"] - rows.loc[32, "low"] < 12


def test_nothing_is_said_of_two_sizes_or_of_a_phase_that_none_reaches():
    by_size, laws = boundaries(cells(0.0, sizes=(8, 16)))
    assert by_size.empty
    assert laws.empty
    _, laws = boundaries(cells(0.0, height=99.0))
    assert laws.empty


def test_a_constant_share_or_a_bent_boundary_is_no_power_law():
    rng = np.random.default_rng(3)
    frame = cells(0.0)
    names = np.where(rng.random(len(frame)) < 0.3, "generalizing", "memorizing")
    constant = frame.assign(phase=pd.Categorical(names, list(PHASES), ordered=True))
    _, laws = boundaries(constant)
    assert laws.loc[laws["begins"] == "generalizing", "rises"].item() < 1
    assert not laws["clear"].any()
    bent = pd.concat([cells(0.0, height, sizes=(size,)) for size, height in
                      ((8, 2.5), (16, 13.0), (32, 3.0), (64, 13.5), (128, 2.0))])  # fmt: skip
    _, laws = boundaries(bent)
    assert laws.loc[laws["begins"] == "generalizing", "rises"].item() > 0
    assert not laws["clear"].any()
