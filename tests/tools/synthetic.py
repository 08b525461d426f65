"""Synthetic results with known phases, in the layout that sweep workers write.

Sequences are simulated example by example, so accuracies carry the errors of real evaluations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from metaphase.core import schema
from metaphase.core.cell import NUMERICS, Cell

Truth = Callable[[Cell], str]  # the phase of a cell; or "diverged", "failed", "missing"

BASE = Cell(num_classes=5, position_encoding="learned", num_heads=1)
LEARNED = 0.8  # accuracy that a model which uses its examples approaches
MEMORIZED = 0.95  # accuracy of a model that knows its tasks by heart


def small_widths_fall_short(cell: Cell) -> str:
    """Memorizing, identifying, generalizing as N grows; narrow models stay behind.

    Seeds disagree near the transitions: each shifts them by its own normal deviate.
    """
    width, log_n = np.log2(cell.model_size), np.log2(cell.num_tasks)
    shift = np.random.default_rng([cell.model_size, cell.num_tasks, cell.seed]).normal(0, 0.6)
    if width >= 4 and log_n > 12 - width + shift:
        return "generalizing"
    if log_n > 2 + 0.3 * width + shift:
        return "identifying" if width >= 3 else "untrained"
    return "memorizing"


def mean_curve(phase: str, split: str, length: int, chance: float) -> np.ndarray:
    """Expected accuracy at each position, shape (length,)."""
    flat = np.full(length, chance)
    rising = chance + (LEARNED - chance) * (1 - np.exp(-np.arange(length) / (length / 5)))
    if phase == "memorizing" and split != schema.UNSEEN:
        return np.full(length, MEMORIZED)
    if phase == "identifying" and split != schema.UNSEEN:
        return rising
    if phase == "generalizing":
        return rising
    return flat


def statistics(correct_NxT: np.ndarray) -> dict[str, float]:
    """first, last and improvement with standard errors, from each sequence's right answers."""
    n, length = correct_NxT.shape
    first_N = correct_NxT[:, 0].astype(float)
    last_N = correct_NxT[:, -math.ceil(length / 10) :].mean(axis=1)
    values = {"first": first_N, "last": last_N, "improvement": last_N - first_N}
    out = {}
    for name, value_N in values.items():
        out[name] = float(value_N.mean())
        out[f"{name}_se"] = float(value_N.std(ddof=1) / np.sqrt(n))
    return out


def make_results(
    path: Path | str,
    model_sizes: Sequence[int] = (4, 8, 16, 32),
    num_tasks: Sequence[int] = tuple(4**k for k in range(7)),
    seeds: Sequence[int] = (0, 1),
    truth: Truth = small_widths_fall_short,
    *,
    base: Cell = BASE,
    n: int = 512,
    random_seed: int = 0,
    settings: Iterable[dict] = ({},),
) -> list[Cell]:
    """Write `<path>/{cells,history,curves}/<cell_id>.parquet` for a grid; return its cells.

    `truth` names each cell's phase, or "missing" to leave it out. `settings` are further values of
    `Cell` fields, each of which repeats the grid. Equal arguments write equal numbers.
    """
    path = Path(path)
    for table in ("cells", "history", "curves"):
        (path / table).mkdir(parents=True, exist_ok=True)
    written = []
    for extra in settings:
        for size in model_sizes:
            for tasks in num_tasks:
                for seed in seeds:
                    cell = replace(
                        base, **{"key_size": None, **extra}, model_size=size, num_tasks=tasks,
                        seed=seed,
                    )  # fmt: skip
                    phase = truth(cell)
                    if phase != "missing":
                        write_cell(path, cell, phase, n=n, random_seed=random_seed)
                        written.append(cell)
    return written


def write_cell(path: Path, cell: Cell, phase: str, *, n: int = 512, random_seed: int = 0) -> None:
    """Write the three files of one cell."""
    ids = (*cell.earlier_ids, cell.cell_id)  # families without images have no earlier ones
    unchanging = ids[min(NUMERICS - 2, len(ids) - 1)]  # of programs without numerics in it
    classes = cell.num_classes or 4
    rng = np.random.default_rng([random_seed, int(unchanging[:8], 16)])
    chance, length = 1 / classes, cell.sequence_length
    status = phase if phase in (schema.DIVERGED, schema.FAILED) else schema.DONE
    row = {
        **dict.fromkeys(schema.YARDSTICK_SETTINGS),  # null where the family doesn't know them
        **{name: schema.to_column(value) for name, value in cell.to_dict().items()},
        "cell_id": cell.cell_id, "sweep": path.name, "status": status,
        "error": "out of memory" if status == schema.FAILED else None,
        "diverged_at": 17 if status == schema.DIVERGED else None,
        "plateau_steps": float("nan"), "steps_trained": cell.steps,
        "num_parameters": 12 * cell.num_layers * cell.model_size**2,
        "state_size": cell.num_layers * length * 2 * cell.num_heads * cell.key_size,
        "chance": chance, "n": n, "wall_seconds": 1.0, "device": "cpu", "versions": "{}",
        "numerics": NUMERICS, "unseen_level": chance, "guess_loss": math.log(classes),
        "own_settings": ",".join(name for name, _ in cell.own),
        "switched_off": "", **dict.fromkeys(schema.RELABELLED_COLUMNS),
    }  # fmt: skip
    history: dict[str, list] = {column: [] for column in schema.HISTORY_COLUMNS}
    curves: dict[str, list] = {column: [] for column in schema.CURVES_COLUMNS}
    nothing = dict.fromkeys(schema.with_standard_errors(schema.STATISTICS), float("nan"))
    for split in schema.SPLITS:
        final = nothing
        if status == schema.DONE:
            mean_T = mean_curve(phase, split, length, chance)
            correct_NxT = rng.random((n, length)) < mean_T
            final = statistics(correct_NxT)
            accuracy_T = correct_NxT.mean(axis=0)
            curves["cell_id"] += [cell.cell_id] * length
            curves["split"] += [split] * length
            curves["position"] += range(1, length + 1)
            curves["accuracy"] += accuracy_T.tolist()
            curves["accuracy_se"] += np.sqrt(accuracy_T * (1 - accuracy_T) / (n - 1)).tolist()
            curves["n"] += [n] * length
        row[f"{split}_loss"] = 1 - final["last"]
        row |= {f"{split}_{name}": value for name, value in final.items()}
        for step in sorted({0, cell.steps // 2, cell.steps}):
            values = {"cell_id": cell.cell_id, "step": step, "split": split, "n": n, **final}
            values["loss"] = row[f"{split}_loss"]
            for column in schema.HISTORY_COLUMNS:
                history[column].append(values[column])
    name = f"{cell.cell_id}.parquet"
    pq.write_table(pa.Table.from_pylist([row]), path / "cells" / name)
    pq.write_table(pa.table(history), path / "history" / name)
    if status == schema.DONE:
        pq.write_table(pa.table(curves), path / "curves" / name)
