"""CPU seconds of `metaphase plot` with all figures, imports included.

    python -m tests.benchmarks.plotting [--cells 702 5000] [--files]

702 cells are the paper's Figure 2 with three seeds (`tests.tools.figure2_tree`); more seeds make
more cells. Trees are merged ones, as `metaphase compact` leaves them; with --files a file a cell.
The bounds are 6 seconds for 702 cells and 30 for 5,000.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.tools import figure2_tree

GRID = len(figure2_tree.WIDTHS) * len(figure2_tree.NUM_TASKS)


def seconds(path: Path) -> float:
    """CPU seconds of the command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "metaphase.analysis.phase_plot", str(path)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(argv: list[str] | None = None) -> None:
    """Prints a line a size."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cells", type=int, nargs="+", default=[702, 5000])
    parser.add_argument("--files", action="store_true", help="a file a cell")
    arguments = parser.parse_args(argv)
    for cells in arguments.cells:
        seeds = range(max(1, round(cells / GRID)))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "figure2"
            figure2_tree.make(path, seeds=seeds, n=64, merged=not arguments.files)
            took = seconds(path)
        print(f"{GRID * len(seeds)} cells: {took:.1f} CPU seconds", flush=True)


if __name__ == "__main__":
    main()
