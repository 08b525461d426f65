"""A sweep that seems to be trained: cells finish one after the other, with numbers that are known.

Written through the store, as workers do, so it may be killed at any moment and started again.
`writers` are processes for that.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from metaphase.core import schema
from metaphase.core.cell import NUMERICS, Cell, ConfigError
from metaphase.sweeps import places
from metaphase.sweeps.preset import Sweep, parse_preset
from metaphase.sweeps.store.lease import acquire
from metaphase.sweeps.store.results import Results
from metaphase.sweeps.store.sweepfile import write_settings
from tests import ROOT

TEXT = """
description: <b>grows</b> & is watched
cell: {steps: 400, eval_every: 100, warmup_steps: 5, image_size: 4, num_classes: 5, key_size: 4}
grid: {model_size: [4, 8, 16], num_tasks: [1, 16, 256, 4096, 65536], seed: [0, 1]}
"""
N = 1024


def sweep(name: str = "growing", text: str = TEXT) -> Sweep:
    """The sweep that grows."""
    return parse_preset(text, default_name=name)


def accuracy(cell: Cell, split: str, step: int) -> float:
    """What a cell reaches on a split, known from its settings alone."""
    wide = cell.model_size >= 8 and cell.num_tasks >= 256
    known = split == schema.UNSEEN and not wide
    final = 0.2 if known else 0.6 + 0.01 * cell.seed + 0.001 * cell.model_size
    return 0.2 + (final - 0.2) * step / cell.steps


def _statistics(cell: Cell, split: str, step: int) -> dict[str, float]:
    last = accuracy(cell, split, step)
    first = last if cell.num_tasks < 256 and split != schema.UNSEEN else 0.2
    values = {"first": first, "last": last, "improvement": last - first}
    return {
        k: v for name, value in values.items() for k, v in ((name, value), (f"{name}_se", 0.01))
    }


def history(cell: Cell, last: int) -> list[dict]:
    """A cell's evaluations up to a step."""
    return [
        {"cell_id": cell.cell_id, "step": step, "split": split, "loss": 1.0, "n": N,
         **_statistics(cell, split, step)}
        for step in range(cell.eval_every, last + 1, cell.eval_every)
        for split in schema.SPLITS
    ]  # fmt: skip


def finish(results: Results, cell: Cell) -> None:
    """Writes a cell's result."""
    row = {
        **cell.to_dict(), "cell_id": cell.cell_id, "status": schema.DONE, "chance": 0.2, "n": N,
        "numerics": NUMERICS, "steps_trained": cell.steps, "wall_seconds": 1.0, "device": "cpu",
        "unseen_level": 0.2, "guess_loss": 1.6, "own_settings": "",
    }  # fmt: skip
    curves = []
    for split in schema.SPLITS:
        found = _statistics(cell, split, cell.steps)
        row |= {f"{split}_{name}": value for name, value in found.items()} | {f"{split}_loss": 1.0}
        curves += [
            {"cell_id": cell.cell_id, "split": split, "position": 1 + t, "accuracy_se": 0.01,
             "accuracy": found["first"] + found["improvement"] * t / (cell.sequence_length - 1),
             "n": N}
            for t in range(cell.sequence_length)
        ]  # fmt: skip
    results.write_result(row, history(cell, cell.steps), curves)


def grow(results: Results, chance: random.Random, pause: float, cells: int = 10**9) -> None:
    """Finishes cells that are missing, at most so many, as the sweep's driver."""
    made = sweep(results.sweep)
    lease = acquire(results)
    try:
        write_settings(results, made.settings)
        finished = results.finished()
        missing = [cell for cell in made.cells if cell.cell_id not in finished]
        chance.shuffle(missing)
        for cell in missing[:cells]:
            for step in range(cell.eval_every, cell.steps, cell.eval_every):
                results.checkpoints.write_history(cell.cell_id, history(cell, step))
                time.sleep(pause * chance.random())
            finish(results, cell)
    finally:
        lease.release()


@contextmanager
def writers(path: str, pause: float) -> Iterator[Callable[[], int]]:
    """Yields what starts a process in which the sweep at a path grows, once it has begun, and
    returns its id. All are forks of one, so that none has to import anything."""
    command = [sys.executable, "-m", "tests.tools.growing", path, str(pause)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None

        def start() -> int:
            print("another", file=parent.stdin, flush=True)
            return int(parent.stdout.readline())

        yield start
        parent.stdin.close()


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that are killed
    path, pause = sys.argv[1], float(sys.argv[2])
    for number, _ in enumerate(sys.stdin):
        if os.fork() == 0:
            print(os.getpid(), flush=True)
            with suppress(ConfigError):  # the one before is only just dying
                grow(Results(*places.parent(path)), random.Random(number), pause)
            os._exit(0)


if __name__ == "__main__":
    main()
