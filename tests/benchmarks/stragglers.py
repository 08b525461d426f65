"""What a search gains by not waiting for the last cells of a round: replays by the clock.

    python -m tests.benchmarks.stragglers --repetitions 30 [--map NAME]

Workers are given cells that take as long as their operations do. Either the next round is proposed
beside one that is under way, as searches do it, or when all of its cells are finished. The error is
that of `tests.benchmarks.replay`, of cells finished at parts of the time that the grid would take.
"""

from __future__ import annotations

import argparse
import heapq

import numpy as np
import pandas as pd

from metaphase.sweeps.planning.workers import FEWEST
from metaphase.sweeps.search.propose import propose
from metaphase.sweeps.search.space import Known, Space
from tests.benchmarks.replay import MAPS, drawn, score, space_of

WORKERS = 2
PARTS = (0.02, 0.05, 0.075, 0.1)  # of the grid's time
WAYS = {"beside one another": True, "one after the other": False}


def finished(space: Space, reached_C: np.ndarray, beside: bool) -> list[tuple[float, int]]:
    """Cells, and when they are finished, in parts of the grid's time, up to the last of `PARTS`."""
    cells = np.arange(len(reached_C))
    whole = space.cost_C.sum() / WORKERS
    known = Known.nothing(len(cells), 1)
    waiting: list[int] = []
    running: list[tuple[float, int]] = []
    ends: list[tuple[float, int]] = []
    before, last, now = np.zeros(0, int), np.zeros(0, int), 0.0

    def following() -> list[int]:
        """The next round, if it can be proposed by now."""
        if not known.finished_C[before if beside else last].all():
            return []
        pending_C = np.isin(cells, last) if beside else np.zeros(len(cells), bool)
        for at in (known.with_pending(pending_C), known):
            # a target that no interval reaches, as times are what is compared
            found = [choice.cell for choice in propose(space, at, FEWEST * WORKERS, 0.0).choices]
            if found or not known.finished_C[last].all():
                break
        return sorted(found, key=lambda cell: -space.cost_C[cell])

    while now <= PARTS[-1]:
        while len(running) < WORKERS:
            if not waiting and (waiting := following()):
                before, last = last, np.array(waiting)
            if not waiting:
                break
            cell = waiting.pop(0)
            heapq.heappush(running, (now + space.cost_C[cell] / whole, cell))
        if not running:
            break
        now, cell = heapq.heappop(running)
        known.finished_C[cell], known.reached_PxC[0, cell] = True, reached_C[cell]
        ends.append((now, cell))
    return ends


def replay(name: str, repetitions: int) -> pd.DataFrame:
    """A row for each way, part, repetition and size."""
    one = MAPS[name]()
    space, _ = space_of(one)
    found = []
    for repetition in range(repetitions):
        reached_C = drawn(one, space, np.random.default_rng([repetition, 7]))
        for way, beside in WAYS.items():
            ends = finished(space, reached_C, beside)
            for part in PARTS:
                cells = [cell for end, cell in ends if end <= part]
                scores = score(one, space, reached_C, cells)
                for error, _, width in zip(*scores.values(), strict=True):
                    found.append((name, way, part, len(cells) / len(reached_C), error, width))
    return pd.DataFrame(found, columns=["map", "way", "part", "cells", "error", "width"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--repetitions", type=int, default=30)
    parser.add_argument("--map", choices=MAPS, action="append")
    arguments = parser.parse_args()
    pd.set_option("display.width", 200)
    for name in arguments.map or ("Figure 2", "quickstart"):
        found = replay(name, arguments.repetitions)
        table = found.groupby(["map", "way", "part"], sort=False).agg(
            cells=("cells", "mean"), error=("error", "median"), width=("width", "median")
        )
        print(table.reset_index().round(3).to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
