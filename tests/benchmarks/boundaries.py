"""How often do the joint models over model sizes hold the truth? A table of docs/statistics.md.

    python -m tests.benchmarks.boundaries              # minutes
    python -m tests.benchmarks.boundaries --share 0.1  # a tenth of the simulations

Seeds reach a phase as in `core.thresholds`, at a number of tasks that moves with the model's size
by a power law, that bends, or that wanders.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from metaphase.analysis.statistics.boundary import boundaries
from metaphase.core import schema
from metaphase.core.phases import GENERALIZING, MEMORIZING, PHASES
from tests.benchmarks.transitions import GRIDS, rise

SHARPNESS = 0.5  # s, octaves
DESIGNS = ((4, 8, 2), (9, 26, 3), (9, 13, 1))  # sizes, numbers of tasks, seeds
# log2 of the number of tasks beside that at the middle, at sizes v octaves beside the middle one
Truth = Callable[[np.random.Generator, np.ndarray], np.ndarray]
TRUTHS: dict[str, Truth] = {
    "exponent 0": lambda _, v_W: 0 * v_W,
    "exponent 0.75": lambda _, v_W: 0.75 * v_W,
    "exponent -1": lambda _, v_W: -v_W,
    "bends by an octave": lambda _, v_W: np.abs(v_W) * 2 / v_W.max() - 1,
    "bends by 3 octaves": lambda _, v_W: np.abs(v_W) * 6 / v_W.max() - 3,
    "wanders": lambda rng, v_W: np.cumsum(rng.normal(0, 1, len(v_W))),
}
COLUMNS = ("smooth held (95%)", "law held (95%)", "exponent held (95%)", "law is clear")


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.boundaries")
    parser.add_argument("--share", type=float, default=1.0, help="of the simulations (default: 1)")
    from tests.benchmarks.statistics import markdown

    print(markdown(coverage(max(5, int(40 * parser.parse_args(argv).share)))))


def coverage(times: int) -> pd.DataFrame:
    """A row a design and truth: how often intervals hold it, over simulations and sizes."""
    rows = []
    for sizes, values, seeds in DESIGNS:
        rng = np.random.default_rng(8)
        for name, truth in TRUTHS.items():
            found = [simulated(rng, sizes, values, seeds, truth) for _ in range(times)]
            told = pd.DataFrame([one for one in found if one is not None]).mean()
            exact = name.startswith("exponent")
            row: dict[str, object] = {"sizes": sizes, "numbers of tasks": values, "seeds": seeds}
            row["truth"] = name
            for column in COLUMNS:
                says = exact or column in (COLUMNS[0], COLUMNS[3])
                row[column] = float(told[column]) if says else ""
            rows.append(row)
    return pd.DataFrame(rows)


def simulated(
    rng: np.random.Generator, sizes: int, values: int, seeds: int, truth: Truth
) -> dict[str, float] | None:
    """Of one sweep, the share of its sizes at which intervals hold where the phase begins, whether
    the exponent's holds its own, and whether the law is clear; None where no seed or every seed
    reaches the phase."""
    x_K, v_W = GRIDS[values], np.arange(sizes) - (sizes - 1) / 2
    span = x_K[-1] - x_K[0]
    middle = rng.uniform(x_K[0] + span / 3, x_K[-1] - span / 3)
    theta_W = middle + truth(rng, v_W)
    reached_WxKxS = (
        rng.random((sizes, values, seeds)) < rise(x_K, theta_W, SHARPNESS, 1.0)[..., None]
    )
    size_W = 2.0 ** np.arange(3, 3 + sizes)
    grid = np.meshgrid(size_W, 2.0**x_K, np.arange(seeds), indexing="ij")
    frame = pd.DataFrame(
        dict(zip(("model_size", "num_tasks", "seed"), map(np.ravel, grid), strict=True))
    )
    phase = np.where(reached_WxKxS.ravel(), GENERALIZING, MEMORIZING)
    frame = frame.assign(
        architecture="transformer", status=schema.DONE,
        phase=pd.Categorical(phase, list(PHASES), ordered=True),
    )  # fmt: skip
    by_size, laws = boundaries(frame)
    if laws.empty:
        return None
    by_size = by_size[by_size["begins"] == GENERALIZING]
    law = laws[laws["begins"] == GENERALIZING].iloc[0]
    held = [
        ((by_size[f"{kind}low"] <= theta_W) & (theta_W <= by_size[f"{kind}high"])).mean()
        for kind in ("", "law_")
    ]
    slope = float(theta_W[-1] - theta_W[0]) / (sizes - 1)
    exponent = float(law["low"] <= slope <= law["high"])
    return dict(zip(COLUMNS, (*held, exponent, float(law["clear"])), strict=True))


if __name__ == "__main__":
    main()
