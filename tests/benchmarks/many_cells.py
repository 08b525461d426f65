"""5,000 cells: seconds and memory of what the commands do besides training.

    python -m tests.benchmarks.many_cells [--cells 5000]

The tree is synthesized through the storage class, in a temporary folder: a third of the cells is
finished, a third half-trained, the rest missing; then all are finished. Nothing is trained.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from metaphase.core import schema
from metaphase.core.cell import NUMERICS, Cell
from metaphase.sweeps.preset import Sweep, parse_preset
from metaphase.sweeps.store.results import Results
from metaphase.sweeps.store.sweepfile import write_settings

PRESET = """
cell: {{steps: 1000, image_size: 8}}
grid:
  model_size: [4, 8, 12, 16, 24, 32, 48, 64, 96, 128]
  num_tasks: [1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144]
  seed: {seeds}
"""
# Runs a command, its only child, and prints what it took.
MEASURE = """
import json, resource, subprocess, sys, time
started = time.perf_counter()
done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
seconds = time.perf_counter() - started
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps([done.returncode, seconds, peak / 1024, done.stdout, done.stderr]))
"""


def finish(results: Results, cell: Cell) -> None:
    """Writes a result such as training leaves, with all rows that the cell has."""
    numbers = dict.fromkeys(schema.with_standard_errors(schema.STATISTICS), 0.5)
    row = {
        **cell.to_dict(), "cell_id": cell.cell_id, "status": schema.DONE, "n": 512, "chance": 0.1,
        "steps_trained": cell.steps, "numerics": NUMERICS,
        **dict.fromkeys(schema.statistics_columns(schema.SPLITS), 0.5),
    }  # fmt: skip
    points = [{"cell_id": cell.cell_id, "split": split, "n": 512} for split in schema.SPLITS]
    steps = range(cell.eval_every, cell.steps + 1, cell.eval_every)
    positions = range(1, cell.sequence_length + 1)
    history = [{**point, "step": s, "loss": 1.0, **numbers} for point in points for s in steps]
    curves = [
        {**point, "position": p, "accuracy": 0.5, "accuracy_se": 0.1}
        for point in points
        for p in positions
    ]
    results.write_result(row, history, curves)


def half_train(results: Results, cell: Cell) -> None:
    """Writes a checkpoint such as training leaves, but smaller."""
    results.checkpoints.write({"cell_id": cell.cell_id, "step": 500})
    results.checkpoints.write_history(
        cell.cell_id, [{"cell_id": cell.cell_id, "step": 500, "split": "seen"}]
    )


def measure(*command: str) -> tuple[float, float, str]:
    """Seconds, peak MB and output of a Python command; an error ends the program."""
    arguments = [sys.executable, "-c", MEASURE, sys.executable, "-m", *command]
    told = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
    status, seconds, peak, out, err = json.loads(told)
    if status:
        sys.exit(f"{' '.join(command)}: exit status {status}\n{out}\n{err}")
    return seconds, peak, out


def main(argv: list[str] | None = None) -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cells", type=int, default=5000)
    arguments = parser.parse_args(argv)
    os.fsync = lambda file: None  # writing the tree is not what is timed
    text = PRESET.format(seeds=list(range(max(1, arguments.cells // 100))))
    with tempfile.TemporaryDirectory() as folder:
        preset = Path(folder) / "many.yaml"
        preset.write_text(text)
        sweep: Sweep = parse_preset(text, default_name="many")
        results = Results(folder, "many")
        write_settings(results, sweep.settings)
        started = time.perf_counter()
        third = -(-len(sweep.cells) // 3)
        for i, cell in enumerate(sweep.cells):
            if i % 3 == 0:
                finish(results, cell)
            elif i % 3 == 1:
                half_train(results, cell)
        print(f"{len(sweep.cells)} cells, {third} finished, {third} half-trained", flush=True)
        run = ("metaphase.sweeps.run", str(preset), "--root", folder)
        rows = [
            ("plan (run --dry-run)", measure(*run, "--dry-run")),
            (
                "status, a third finished",
                measure("metaphase.sweeps.commands.status", f"{folder}/many"),
            ),
        ]
        for i, cell in enumerate(sweep.cells):
            if i % 3:
                finish(results, cell)
        written = time.perf_counter() - started
        rows += [
            ("nothing to do (run)", measure(*run)),
            ("status, all finished", measure("metaphase.sweeps.commands.status", f"{folder}/many")),
            ("compact", measure("metaphase.sweeps.commands.compact", f"{folder}/many")),
            ("nothing to do, compacted", measure(*run)),
            ("status, compacted", measure("metaphase.sweeps.commands.status", f"{folder}/many")),
        ]
        assert f"{len(sweep.cells) - third} of {len(sweep.cells)}" in rows[0][1][2], rows[0]
        assert "Nothing to do" in rows[2][1][2]
        assert f"{len(sweep.cells)}" in rows[3][1][2]
        assert "Nothing to do" in rows[5][1][2]
    print(f"{'command':<28}{'seconds':>9}{'peak MB':>9}")
    for name, (seconds, peak, _) in rows:
        print(f"{name:<28}{seconds:>9.2f}{peak:>9.0f}")
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"(writing the tree took {written:.0f} s and {own:.0f} MB)")


if __name__ == "__main__":
    main()
