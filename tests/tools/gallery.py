"""Every figure at every width for sweeps of unusual shapes, to be looked at.

    python -m tests.tools.gallery OUT [CASE ...] [--width column]

writes `OUT/<case>/<figure>-<width>.png` and prints what each took.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from metaphase.analysis import load
from metaphase.analysis.commands import output
from metaphase.analysis.figures import condition
from metaphase.analysis.questions import registry
from metaphase.analysis.statistics import phases, transitions
from metaphase.core.cell import Cell
from tests.tools.synthetic import make_results, small_widths_fall_short

POWERS = [2**k for k in range(0, 13, 2)]


def half_finished(cell: Cell) -> str:
    """Wide cells are missing, some failed, some diverged."""
    draw = np.random.default_rng([cell.model_size, cell.num_tasks, cell.seed]).random()
    if cell.model_size >= 16 and cell.num_tasks >= 64 and draw < 0.8:
        return "missing"
    if draw < 0.1:
        return "failed"
    return "diverged" if draw < 0.2 else small_widths_fall_short(cell)


def undecided(cells: pd.DataFrame) -> pd.DataFrame:
    """A third undecided, and the largest numbers of tasks on their plateau."""
    draw = np.random.default_rng(0).random(len(cells))
    late = (cells["num_tasks"] == cells["num_tasks"].max()) & (cells["model_size"] < 16)
    return cells.assign(decided=draw > 0.33, on_plateau=late)


CASES: dict[str, dict[str, Any]] = {
    "one": {"model_sizes": (16,), "num_tasks": (64,), "seeds": (0,)},
    "row": {"model_sizes": (16,), "num_tasks": POWERS},
    "column": {"model_sizes": (2, 4, 8, 16, 32, 64), "num_tasks": (1024,), "seeds": (0, 1, 2)},
    "large": {"model_sizes": [8 + 4 * k for k in range(20)],
              "num_tasks": [2**k for k in range(30)], "seeds": (0, 1)},
    "seeds": {"num_tasks": POWERS, "seeds": range(10)},
    "half": {"num_tasks": POWERS, "seeds": (0, 1, 2), "truth": half_finished},
    "failed": {"num_tasks": POWERS, "truth": lambda cell: "failed"},
    "odd": {"model_sizes": (6, 10, 24, 50), "num_tasks": (1, 3, 10, 30, 100, 1000, 3000, 100_000),
            "seeds": (0, 1, 2)},
    "undecided": {"num_tasks": POWERS, "seeds": (0, 1, 2)},
}  # fmt: skip


def figures(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> dict[str, Any]:
    """The makers of a tree's figures by name."""
    cells = change(phases.classify(load.load_cells(path)))
    history, curves = load.load_history(path), load.load_curves(path)
    found = transitions.estimate_transitions(cells)
    makers = dict(condition.figures(cells, curves, found, {}, 0.05, 0.99))
    answers = registry.find(cells, history)
    return makers | {a.name: a.figure for a in answers if a.figure is not None}


def main(argv: list[str] | None = None) -> None:
    """Draws the cases."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("cases", nargs="*", help=", ".join(CASES))
    parser.add_argument("--width", nargs="+", default=output.WIDTHS, choices=output.WIDTHS)
    arguments = parser.parse_args(argv)
    for case in arguments.cases or CASES:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / case
            make_results(path, n=256, **CASES[case])
            change = undecided if case == "undecided" else lambda cells: cells
            for name, make in figures(path, change).items():
                for width in arguments.width:
                    started = time.process_time()
                    data = output.figure_bytes(make, "png", width)
                    (arguments.out / case).mkdir(parents=True, exist_ok=True)
                    (arguments.out / case / f"{name}-{width}.png").write_bytes(data)
                    print(case, name, width, f"{time.process_time() - started:.2f} s", flush=True)


if __name__ == "__main__":
    main()
