"""Boundary sweeps replayed where the boundary is known, against simpler choices of cells.

    python -m tests.benchmarks.replay --repetitions 100 --figure docs/search.png [--map NAME]

A map says with which chance a seed generalizes at each model size and number of tasks. Outcomes of
all cells are drawn once a repetition; each way of choosing cells then looks at as many of them as
it may, and the same model (`core.joint_thresholds`) is asked where the boundary is.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from metaphase.analysis.published import reference
from metaphase.core.thresholds import cut
from metaphase.core.training.cost import flops_per_step, input_flops
from metaphase.sweeps.planning.workers import FEWEST
from metaphase.sweeps.search.family import ends
from metaphase.sweeps.search.propose import propose, rows_of
from metaphase.sweeps.search.space import Known, Space
from tests.tools.figure2_tree import BASE, SEED_SHIFT

SHARES = (0.05, 0.075, 0.1, 0.15)  # of the cells
BATCH = 2 * FEWEST  # as of two workers
PANELS = 6  # in a row of the figure
DELTA = 0.05  # as core.phases.DELTA


@dataclass(frozen=True)
class Map:
    """Where seeds generalize.

    Attributes:
        sizes: model sizes, W of them.
        x_K: log2 numbers of tasks.
        seeds: of each point.
        theta_W: where half of the seeds that ever get there do; inf: nowhere.
        share_WxK: the chance that a seed generalizes.
    """

    sizes: tuple[int, ...]
    x_K: np.ndarray
    seeds: int
    theta_W: np.ndarray
    share_WxK: np.ndarray


WIDTHS = tuple(2**k for k in range(1, 10))
OCTAVES = np.arange(26.0)


def logistic(
    theta_W: np.ndarray, s: float = 0.5, high: float | np.ndarray = 1.0,
    sizes: tuple[int, ...] = WIDTHS, x_K: np.ndarray = OCTAVES, seeds: int = 3,
) -> Map:  # fmt: skip
    theta_W = np.asarray(theta_W, dtype=float)
    z = np.clip((x_K - theta_W[:, None]) / s, -500, 500)
    share_WxK = np.reshape(high, (-1, 1)) / (1 + np.exp(-z))
    return Map(sizes, x_K, seeds, theta_W, share_WxK)


def figure2() -> Map:
    """The published accuracies, seeds shifted as in `tests.tools.figure2_tree`; a seed generalizes
    where its accuracy is above chance by `DELTA`."""
    rows = reference.load_figure2().query("split == 'unseen'")
    table = rows.pivot(index="model_size", columns="num_tasks", values="accuracy")
    x_K = np.log2(table.columns.to_numpy(dtype=float))
    deviates = np.random.default_rng(0).normal(0, SEED_SHIFT, 4000)
    fine = np.linspace(x_K[0], x_K[-1], 2501)
    share, theta = [], []
    for accuracy_K in table.to_numpy():
        at = np.interp(x_K[:, None] + deviates, x_K, accuracy_K)
        share.append((at > 0.1 + DELTA).mean(axis=1))
        above = np.interp(fine[:, None] + deviates[:400], x_K, accuracy_K) > 0.1 + DELTA
        there = np.flatnonzero(above.mean(axis=1) >= 0.5)
        theta.append(fine[there[0]] if len(there) else np.inf)
    return Map(tuple(table.index), x_K, 3, np.array(theta), np.array(share))


def quickstart() -> Map:
    """As the reference results have it: width 4 never generalizes, the others from 2^9 to 2^7.5."""
    sizes, x_K = (4, 8, 16, 32), np.linspace(0, 12, 25)
    return logistic(np.array([np.inf, 8.9, 8.2, 7.6]), 0.4, sizes=sizes, x_K=x_K, seeds=5)


def laptop() -> Map:
    """As figure2-laptop's reference results have it: widths 32 and 64 generalize from 2^13 on."""
    sizes, x_K = (8, 16, 32, 64), np.arange(21.0)
    return logistic(np.array([np.inf, np.inf, 13.0, 13.0]), sizes=sizes, x_K=x_K)


def wrong_priors() -> Map:
    """No random walk (the boundary goes up and down by four octaves) and no logistic rise (seeds'
    places are spread by Cauchy's law, half of an octave wide)."""
    theta_W = np.array([10, 14, 10, 14, 10, 14, 10, 14, 10.0])
    share = 0.5 + np.arctan((OCTAVES - theta_W[:, None]) / 0.5) / np.pi
    return Map(WIDTHS, OCTAVES, 3, theta_W, share)


V = np.arange(9.0)
MAPS: dict[str, Callable[[], Map]] = {
    "Figure 2": figure2,
    "quickstart": quickstart,
    "figure2-laptop": laptop,
    "sharp": lambda: logistic(12.3 + 0 * V, 0.1),
    "wide": lambda: logistic(12.3 + 0 * V, 2.0),
    "tilted": lambda: logistic(20 - 1.5 * V),
    "broken at small sizes": lambda: logistic(np.where(V < 3, np.inf, 11.6)),
    "without transition": lambda: logistic(np.full(9, np.inf)),
    "bimodal": lambda: logistic(10 + 0.5 * V, 0.5, 0.6),
    "bimodal at small sizes": lambda: logistic(10 + 0.5 * V, 0.5, np.minimum(1, 0.3 + 0.1 * V)),
    "wrong priors": wrong_priors,
}


def space_of(one: Map) -> tuple[Space, np.ndarray]:
    """The cells of a map, with the costs of the paper's shapes, and each cell's seed."""
    axes = (range(len(one.sizes)), range(len(one.x_K)), range(one.seeds))
    row_C, k_C, seed_C = (a.ravel() for a in np.meshgrid(*axes, indexing="ij"))
    cells = [replace(BASE, model_size=size, key_size=32) for size in one.sizes]
    cost_W = np.array([flops_per_step(cell) for cell in cells])
    shared = input_flops(cells[0])
    space = Space(
        row_C, one.x_K[k_C], cost_W[row_C], k_C * one.seeds + seed_C,
        np.full(len(row_C), shared), np.zeros(len(one.sizes), int), np.array(one.sizes),
    )  # fmt: skip
    return space, seed_C


Choices = Iterator[list[int]]  # batches of cells


def seeking(space: Space, seed_C: np.ndarray, reached_C: np.ndarray, rng: object) -> Choices:
    """As `sweeps.search.seeking` does it: a batch doesn't know what comes of the one before."""
    known, batch = Known.nothing(len(reached_C), 1), []
    while True:
        pending_C = np.isin(np.arange(len(reached_C)), batch)
        for now in (known.with_pending(pending_C), known):
            # a target that no interval reaches, as costs are what is compared
            batch = [c.cell for c in propose(space, now, BATCH, target=0.0).choices]
            if batch:
                break
        else:
            return
        yield batch
        known.finished_C[batch] = True
        known.reached_PxC[0, batch] = reached_C[batch]


def at_random(
    space: Space, seed_C: np.ndarray, reached_C: np.ndarray, rng: np.random.Generator
) -> Choices:
    order = rng.permutation(len(reached_C))
    yield from (order[i : i + BATCH].tolist() for i in range(0, len(order), BATCH))


def bisecting(
    space: Space, seed_C: np.ndarray, reached_C: np.ndarray, rng: np.random.Generator
) -> Choices:
    """Each size bisects between the grid's ends, which are taken to be on both sides, one seed
    after the other."""
    for seed in range(seed_C.max() + 1):
        ends = {row: [-1, len(points[0])] for row, points in enumerate(space.points)}
        while any(high - low > 1 for low, high in ends.values()):
            batch = []
            for row, (low, high) in ends.items():
                if high - low > 1:
                    middle = (low + high) // 2
                    [cell] = [c for c in space.points[row][1][middle] if seed_C[c] == seed]
                    batch.append(int(cell))
                    ends[row] = [low, middle] if reached_C[cell] else [middle, high]
            yield batch


def subgrid(space: Space, seed_C: np.ndarray, share: float) -> list[int]:
    """As many cells as the share allows: of every size, but for what doesn't divide, as many evenly
    spaced numbers of tasks, seeds in turn."""
    total, sizes = int(share * len(space.row_C)), len(space.points)
    chosen: list[int] = []
    for row, (x_K, cells_K) in enumerate(space.points):
        number = total * (row + 1) // sizes - total * row // sizes
        places = ((np.arange(number) + 0.5) / number * len(x_K)).astype(int)
        for place in places:
            free = [int(c) for c in cells_K[place] if int(c) not in chosen]
            seed = len(chosen) % (seed_C.max() + 1)
            chosen.append(min(free, key=lambda c: (seed_C[c] - seed) % (seed_C.max() + 1)))
    return chosen


def operations(space: Space, cells: list[int]) -> float:
    """Their share of all."""
    _, at = np.unique(space.stream_C[cells], return_index=True)
    shared = space.shared_C[cells]
    return float(((space.cost_C[cells] - shared).sum() + shared[at].sum()) / space.total)


def score(one: Map, space: Space, reached_C: np.ndarray, cells: list[int]) -> dict[str, list]:
    """Of each size, the error of the estimate in octaves, NaN where there is no transition, and
    whether the interval holds it."""
    known = Known.nothing(len(reached_C), 1)
    known.finished_C[cells] = True
    known.reached_PxC[0, cells] = reached_C[cells]
    _, rows = rows_of(space, known, 0, 0)
    first, last = one.x_K[0], one.x_K[-1]
    found: dict[str, list] = {"error": [], "held": [], "width": []}
    for theta, (low, middle, high) in zip(one.theta_W, ends(rows), strict=True):
        middle = float(np.clip(middle, first, last))  # beyond it is no estimate
        found["error"].append(abs(middle - theta) if np.isfinite(theta) else np.nan)
        found["width"].append(max(0.0, min(high, last) - max(low, first)))
        low, _, high = cut(low, middle, high, float(first), float(last))
        found["held"].append(low <= theta <= high)
    return found


def drawn(one: Map, space: Space, rng: np.random.Generator) -> np.ndarray:
    """Whether each cell generalizes."""
    share_C = one.share_WxK[space.row_C, space.k_C]
    reached_C: np.ndarray = (rng.random(len(share_C)) < share_C).astype(float)
    return reached_C


def replay(name: str, repetitions: int) -> pd.DataFrame:
    """A row for each way, share, repetition and size."""
    one = MAPS[name]()
    space, seed_C = space_of(one)
    cells, found = len(space.row_C), []
    for repetition in range(repetitions):
        rng = np.random.default_rng([repetition, 7])
        reached_C = drawn(one, space, rng)
        ways = {"boundary": seeking, "random": at_random, "bisection": bisecting}
        looked: dict[tuple[str, float], list[int]] = {}
        for way, choose in ways.items():
            used: list[int] = []
            batches = choose(space, seed_C, reached_C, rng)
            for share in SHARES:
                while len(used) < int(share * cells) and (batch := next(batches, None)):
                    used += batch
                looked[way, share] = used[: int(share * cells)]
        for share in SHARES:
            looked["subgrid", share] = subgrid(space, seed_C, share)
        for (way, share), chosen in looked.items():
            scores = score(one, space, reached_C, chosen)
            cost = operations(space, chosen)
            for size, error, held, width in zip(one.sizes, *scores.values(), strict=True):
                found.append((name, way, share, len(chosen) / cells, cost, repetition, size, error,
                              held, width))  # fmt: skip
    columns = ["map", "way", "share", "cells", "operations", "repetition", "model_size", "error",
               "held", "width"]  # fmt: skip
    return pd.DataFrame(found, columns=columns)


def summary(found: pd.DataFrame) -> pd.DataFrame:
    return (
        found.groupby(["map", "way", "share"], sort=False)
        .agg(
            cells=("cells", "mean"),
            operations=("operations", "mean"),
            error=("error", "median"),
            held=("held", "mean"),
            width=("width", "median"),
        )
        .reset_index()
    )


def markdown(found: pd.DataFrame) -> str:
    """A table at a tenth of the cells: of each way, the median error and how often intervals hold
    the truth."""
    at = summary(found[found["share"] == 0.1])
    ways = list(dict.fromkeys(at["way"]))
    lines = ["| map | repetitions | cells | operations | " + " | ".join(ways) + " |"]
    lines.append("| --- " * (4 + len(ways)) + "|")
    for name, rows in at.groupby("map", sort=False):
        by_way = rows.set_index("way")
        ours, number = by_way.loc["boundary"], found[found["map"] == name]["repetition"].nunique()
        told = [_told(by_way.loc[way]) for way in ways]
        start = f"| {name} | {number} | {ours['cells']:.1%} | {ours['operations']:.1%} | "
        lines.append(start + " | ".join(told) + " |")
    return "\n".join(lines)


def _told(row: pd.Series) -> str:
    error = "" if np.isnan(row["error"]) else f"{row['error']:.2f}, "
    return f"{error}{row['held']:.0%}"


def draw(found: pd.DataFrame, path: Path) -> None:
    """Median errors against the shares of cells and of operations, a panel a map."""
    from matplotlib.figure import Figure

    table = summary(found)
    names = list(dict.fromkeys(table[table["error"].notna()]["map"]))
    blocks = -(-len(names) // PANELS)
    figure = Figure(figsize=(2.1 * PANELS, 3.9 * blocks), layout="constrained")
    axes = figure.subplots(2 * blocks, PANELS, sharey=True, squeeze=False)
    for ax in axes.flat:
        ax.set_visible(False)
    for number, name in enumerate(names):
        for part, cost in enumerate(("cells", "operations")):
            ax = axes[2 * (number // PANELS) + part][number % PANELS]
            ax.set_visible(True)
            for way, rows in table[table["map"] == name].groupby("way", sort=False):
                ax.plot(100 * rows[cost], rows["error"], marker="o", markersize=3, label=way)
            ax.axhline(0.5, color="0.7", linewidth=0.7, zorder=0)
            ax.set(yscale="log", xlabel=f"% of {cost}", title="" if part else name)
            ax.set_yticks([0.2, 0.5, 1, 2], ["0.2", "0.5", "1", "2"])
            ax.minorticks_off()
            ax.title.set_size(9)
            if number % PANELS == 0:
                ax.set_ylabel("median error, octaves")
    axes[0][0].legend(fontsize=7)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--repetitions", type=int, default=100)
    parser.add_argument("--map", choices=MAPS, action="append")
    parser.add_argument("--keep", type=Path, help="a Parquet file for what was found")
    parser.add_argument("--kept", type=Path, nargs="+", help="such files, instead of replaying")
    parser.add_argument("--figure", type=Path, help="where to draw")
    arguments = parser.parse_args()
    pd.set_option("display.width", 200)
    parts = []
    if arguments.kept:
        parts = [pd.read_parquet(path) for path in arguments.kept]
    for name in () if arguments.kept else arguments.map or MAPS:
        started = time.process_time()
        part = replay(name, arguments.repetitions)
        print(f"{name}: {time.process_time() - started:.0f} s")
        print(summary(part).round(3).to_string(index=False), flush=True)
        if name == "Figure 2":
            print("widths >= 64")
            print(summary(part[part.model_size >= 64]).round(3).to_string(index=False), flush=True)
        parts.append(part)
    found = pd.concat(parts)
    if arguments.keep:
        found.to_parquet(arguments.keep)
    wide = found[(found["map"] == "Figure 2") & (found["model_size"] >= 64)]
    found = pd.concat([wide.assign(map="Figure 2, widths >= 64"), found])
    print(markdown(found))
    if arguments.figure:
        draw(found, arguments.figure)


if __name__ == "__main__":
    main()
