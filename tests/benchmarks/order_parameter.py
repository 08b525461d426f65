"""How often do intervals of the order parameter's marks hold the truth?

    python -m tests.benchmarks.order_parameter [--repetitions 1000]

13 numbers of tasks. Seeds' accuracies rise from 0.1 to 0.8 around a place of each seed's own, whose
normal deviates have 0.8 octaves, so that the variance is largest at their mean place, 2^6.3; their
gains from more training go through 0 at 2^6.3 (*inside*), 2^11.8 (*near the end*) or beyond the
grid, at 2^13, with a deviation of a seed's own at all numbers of tasks and one of each cell's.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from metaphase.analysis.statistics.order_parameter import budget_crossings, variance_peaks
from metaphase.core.phases import PHASES
from tests.benchmarks.statistics import markdown

TASKS = 13
PLACE = 6.3
SEEDS = (3, 5, 10)


def main(argv: Sequence[str] | None = None) -> None:
    """Prints both tables as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.order_parameter")
    parser.add_argument("--repetitions", type=int, default=1000, help="a line (default: 1000)")
    repetitions = parser.parse_args(argv).repetitions
    for title, table in (
        ("Place of the largest variance", peaks(repetitions)),
        ("Crossing of two budgets", crossings(repetitions)),
    ):
        print(f"### {title}\n\n{markdown(table)}\n")


def peaks(repetitions: int) -> pd.DataFrame:
    """A row a number of seeds: how often the interval holds the truth, and its width."""
    rows = []
    for seeds in SEEDS:
        values_NxSxK = (_accuracies(rng, seeds) for rng in _generators(repetitions))
        found = variance_peaks(_cells(values_NxSxK, seeds))
        held = ((found["low"] <= PLACE) & (found["high"] >= PLACE)).mean()
        error = (found["log2_num_tasks"] - PLACE).abs().median()
        rows.append((seeds, held, f"{(found['high'] - found['low']).median():.1f}", f"{error:.2f}"))
    names = ["seeds", "nominal 95%", "median width, octaves", "median error, octaves"]
    return pd.DataFrame(rows, columns=names)


def crossings(repetitions: int) -> pd.DataFrame:
    """A row a number of seeds and place: how often the interval holds the truth, how often it is
    open above, and its width where it isn't."""
    rows = []
    for seeds in SEEDS:
        for place, told in ((PLACE, "inside"), (11.8, "near the end"), (13.0, "beyond the grid")):
            gains = (_gains(rng, seeds, place) for rng in _generators(repetitions))
            cells = _cells(gains, seeds)
            early = cells[["cell_id"]].assign(step=1, split="unseen", loss=2.0)
            late = early.assign(step=2, loss=2.0 - cells["unseen_last"])
            found = budget_crossings(cells, pd.concat([early, late]))
            held = ((found["low"] <= place) & (place <= found["high"])).mean()
            width = (found["high"] - found["low"])[np.isfinite(found[["low", "high"]]).all(axis=1)]
            width = f"{width.median():.1f}" if len(width) else ""
            rows.append((seeds, told, held, np.isinf(found["high"]).mean(), width))
    names = ["seeds", "crossing", "nominal 95%", "open above", "median width, octaves"]
    return pd.DataFrame(rows, columns=names)


def _generators(repetitions: int) -> Iterator[np.random.Generator]:
    return (np.random.default_rng((7, k)) for k in range(repetitions))


def _accuracies(rng: np.random.Generator, seeds: int) -> np.ndarray:
    place_Sx1 = PLACE + rng.normal(0, 0.8, (seeds, 1))
    rise_SxK = 0.7 / (1 + np.exp(-2 * (np.arange(TASKS) - place_Sx1)))
    return 0.1 + rise_SxK + rng.normal(0, 0.01, (seeds, TASKS))


def _gains(rng: np.random.Generator, seeds: int, place: float) -> np.ndarray:
    own_Sx1 = rng.normal(0, 0.05, (seeds, 1))
    gain_K = 0.3 * np.tanh((np.arange(TASKS) - place) / 2)
    return gain_K + own_Sx1 + rng.normal(0, 0.05, (seeds, TASKS))


def _cells(values_NxSxK: Iterator[np.ndarray], seeds: int) -> pd.DataFrame:
    """A sweep whose model sizes are the repetitions."""
    value = np.stack(list(values_NxSxK))
    size, seed, tasks = (axis.ravel() for axis in np.indices(value.shape))
    phase = pd.Categorical(["generalizing"] * value.size, list(PHASES), ordered=True)
    return pd.DataFrame(
        {"architecture": "transformer", "model_size": size + 1, "num_tasks": 2**tasks,
         "seed": seed, "cell_id": [f"c{i}" for i in range(value.size)], "status": "done",
         "phase": phase, "unseen_last": value.ravel(), "unseen_last_se": 0.01}
    )  # fmt: skip


if __name__ == "__main__":
    main()
