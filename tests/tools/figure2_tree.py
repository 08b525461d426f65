"""A results tree with the paper's Figure 2 in it: 9 widths x 26 numbers of tasks x seeds.

The accuracies at the last position are the published ones (`analysis.published.reference`). What
the paper doesn't give is made up: a model that beats chance on seen tasks alone does so at the
first position where N is at most `BY_HEART`, and from its examples above; seeds differ by a normal
deviate of the place on the axis of N; every evaluation before the last has a part of the last's
rise. Sequences are simulated, so accuracies carry the errors of real evaluations.

    python -m tests.tools.figure2_tree results/synthetic-figure2
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from metaphase.analysis.published import reference
from metaphase.core import schema
from metaphase.core.cell import NUMERICS, Cell
from tests.tools.synthetic import statistics

WIDTHS = tuple(2**k for k in range(1, 10))
NUM_TASKS = tuple(2**k for k in range(26))
BY_HEART = 2**6  # tasks up to which what is known of seen tasks is known before any example
STEPS = (1000, 2000, 4000, 7000, 10000, 14000, 20000)
SEED_SHIFT = 0.4  # deviation, in octaves of N, of where a seed stands
BASE = Cell(
    dataset="MNIST", num_classes=10, image_size=28, sequence_length=100, token_format="shifted",
    num_layers=4, num_heads=8, key_size=32, position_encoding="learned", steps=STEPS[-1],
    batch_size=512, learning_rate=3e-4, warmup_steps=1000, eval_every=1000, eval_sequences=512,
)  # fmt: skip


def last_accuracy(split: str) -> pd.DataFrame:
    """The published accuracies: a row a width, a column a number of tasks."""
    rows = reference.load_figure2().query("split == @split")
    return rows.pivot(index="model_size", columns="num_tasks", values="accuracy")


def make(
    path: Path | str,
    widths: Sequence[int] = WIDTHS,
    num_tasks: Sequence[int] = NUM_TASKS,
    seeds: Sequence[int] = (0, 1, 2),
    *,
    n: int = 512,
    merged: bool = True,
) -> Path:
    """Write the tree and return its path; equal arguments write equal numbers.

    Args:
        path: the sweep's folder.
        widths, num_tasks: of the paper's grid.
        seeds: of every grid point.
        n: evaluation sequences.
        merged: one file a table, as `metaphase compact` leaves them; else a file a cell.
    """
    path = Path(path)
    published = {split: last_accuracy(split) for split in (schema.SEEN, schema.UNSEEN)}
    published[schema.TRAIN] = published[schema.SEEN]
    tables: dict[str, list[dict]] = {"cells": [], "history": [], "curves": []}
    for width in widths:
        for tasks in num_tasks:
            for seed in seeds:
                _simulate(tables, path.name, width, tasks, seed, published, n)
    for name, rows in tables.items():
        (path / name).mkdir(parents=True, exist_ok=True)
        frame = pd.DataFrame(rows)
        if name == "curves":
            frame = frame.explode(["position", "accuracy", "accuracy_se"], ignore_index=True)
            frame = frame.astype({"position": int, "accuracy": float, "accuracy_se": float})
        parts = {"compact-figure2": frame} if merged else dict(list(frame.groupby("cell_id")))
        for file, part in parts.items():
            whole = pa.Table.from_pandas(part, preserve_index=False)
            pq.write_table(whole, path / name / f"{file}.parquet")
    return path


def _simulate(
    tables: dict[str, list[dict]],
    sweep: str,
    width: int,
    tasks: int,
    seed: int,
    published: dict[str, pd.DataFrame],
    n: int,
) -> None:
    cell = Cell(**{**BASE.to_dict(), "model_size": width, "num_tasks": tasks, "seed": seed})
    rng = np.random.default_rng([width, tasks, seed])
    place = np.log2(tasks) + rng.normal(0, SEED_SHIFT)
    chance, length = 1 / cell.num_classes, cell.sequence_length
    row = {
        **{name: schema.to_column(value) for name, value in cell.to_dict().items()},
        "cell_id": cell.cell_id, "sweep": sweep, "status": schema.DONE, "error": None,
        "diverged_at": None, "plateau_steps": 800.0, "steps_trained": cell.steps,
        "num_parameters": 12 * cell.num_layers * width**2, "state_size": 2 * width * length,
        "chance": chance, "n": n, "wall_seconds": 1.0, "device": "cpu", "versions": "{}",
        "numerics": NUMERICS,
    }  # fmt: skip
    for split in schema.SPLITS:
        table = published[split]
        last = float(np.interp(place, np.log2(table.columns.astype(float)), table.loc[width]))
        by_heart = split != schema.UNSEEN and tasks <= BY_HEART
        for step in STEPS:
            reached = chance + (last - chance) * min(1.0, (step / STEPS[-1]) ** 0.5 * 1.05)
            rise = np.minimum(1.0, np.arange(length) / (0.7 * length))
            mean_T = np.full(length, reached) if by_heart else chance + (reached - chance) * rise
            if step == STEPS[-1]:
                correct_NxT = rng.random((n, length)) < mean_T
                found = statistics(correct_NxT)
            else:
                found = _approximately(rng, mean_T, n)
            point = {"cell_id": cell.cell_id, "step": step, "split": split, "n": n}
            tables["history"].append({**point, "loss": 2.3 - found["last"], **found})
        accuracy_T = correct_NxT.mean(axis=0)
        tables["curves"].append(
            {"cell_id": cell.cell_id, "split": split, "position": range(1, length + 1),
             "accuracy": accuracy_T,
             "accuracy_se": np.sqrt(accuracy_T * (1 - accuracy_T) / (n - 1)), "n": n}
        )  # fmt: skip
        row[f"{split}_loss"] = 2.3 - found["last"]
        row |= {f"{split}_{name}": value for name, value in found.items()}
    tables["cells"].append(row)


def _approximately(rng: np.random.Generator, mean_T: np.ndarray, n: int) -> dict[str, float]:
    """first, last and improvement as of n sequences, drawn by the normal approximation."""
    tail = len(mean_T) // 10
    first, last = mean_T[0], mean_T[-tail:].mean()
    errors = [np.sqrt(first * (1 - first) / n), np.sqrt(last * (1 - last) / tail / n)]
    first, last = np.clip(rng.normal([first, last], errors), 0, 1)
    return {
        "first": first, "first_se": errors[0], "last": last, "last_se": errors[1],
        "improvement": last - first, "improvement_se": float(np.hypot(*errors)),
    }  # fmt: skip


if __name__ == "__main__":
    make(sys.argv[1])
