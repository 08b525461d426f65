"""A whole sweep, ours against Ray Tune by itself: wall seconds from command to last result.

    python -m tests.benchmarks.end_to_end                # the quickstart, 6 minutes on 2 cores
    python -m tests.benchmarks.end_to_end --share 0.25   # every fourth number of tasks

Ray Tune by itself: one trial a cell, a function trainable with plain eager code
(baselines.EagerCell), evaluated as often and on as many sequences as ours, as a researcher's own
script does it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path


def train_cell(config: dict) -> None:
    """The function trainable."""
    import torch
    import torch.nn.functional as F
    from ray import tune

    from metaphase.core.cell import Cell
    from tests.benchmarks.baselines import EagerCell, Tasks

    torch.set_num_threads(1)
    cell = Cell.from_dict(config["cell"])
    device = torch.device("cpu")
    eager = EagerCell(cell, "data", device)

    def accuracy(tasks: Tasks) -> float:
        correct = []
        with torch.no_grad():
            for _ in range(-(-cell.eval_sequences // cell.batch_size)):
                x, y = tasks.batch()
                logits = eager.model(x, F.one_hot(y, cell.num_classes).float())
                correct.append((logits.argmax(-1) == y).float().mean().item())
        return sum(correct) / len(correct)

    unseen = Tasks(Cell.from_dict({**config["cell"], "num_tasks": 2**32}), "data", device)
    for step in range(1, cell.steps + 1):
        eager.step()
        if step % cell.eval_every == 0 or step == cell.steps:
            splits = {"train": eager.tasks, "seen": eager.tasks, "unseen": unseen}
            tune.report({"step": step} | {k: accuracy(tasks) for k, tasks in splits.items()})


def by_itself(cells: list) -> float:
    """Seconds that Ray Tune takes for these cells, Ray's start included."""
    started = time.perf_counter()
    script = (
        "import json, sys; from ray import tune; import ray; "
        "from tests.benchmarks.end_to_end import train_cell; "
        "cells = json.load(open(sys.argv[1])); "
        "ray.init(include_dashboard=False, log_to_driver=False); "
        "grid = tune.Tuner(tune.with_resources(train_cell, {'cpu': 1}), "
        "param_space={'cell': tune.grid_search(cells)}, "
        "run_config=tune.RunConfig(storage_path=sys.argv[2], verbose=0)).fit(); "
        "assert len(grid) == len(cells) and not grid.errors, grid.errors"
    )
    with tempfile.TemporaryDirectory() as folder:
        listing = Path(folder) / "cells.json"
        listing.write_text(json.dumps([cell.to_dict() for cell in cells]))
        subprocess.run(
            [sys.executable, "-c", script, str(listing), folder],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    return time.perf_counter() - started


def ours(preset: Path) -> float:
    """Seconds that the command takes."""
    root = tempfile.mkdtemp()
    try:
        started = time.perf_counter()
        command = [sys.executable, "-m", "metaphase.sweeps.run", str(preset), "--root", root]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - started
    finally:
        shutil.rmtree(root)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints both times and their ratio."""
    import yaml

    from metaphase.sweeps.preset import load_preset

    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--preset", default="quickstart")
    parser.add_argument("--share", type=float, default=1.0, help="of the numbers of tasks to run")
    arguments = parser.parse_args(argv)
    sweep = load_preset(arguments.preset)
    counts = sorted({cell.num_tasks for cell in sweep.cells})
    kept = counts[:: max(1, round(1 / arguments.share))]
    cells = [cell for cell in sweep.cells if cell.num_tasks in kept]
    with tempfile.TemporaryDirectory() as folder:
        preset = Path(folder) / "preset.yaml"
        settings = sweep.settings | {"grid": {**sweep.settings["grid"], "num_tasks": kept}}
        preset.write_text(yaml.safe_dump(settings))
        mine = ours(preset)
        print(f"ours: {mine:.1f} s for {len(cells)} cells", flush=True)
        theirs = by_itself(cells)
    print(f"Ray Tune, a trial a cell, eager: {theirs:.1f} s")
    print(f"ratio: {theirs / mine:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
