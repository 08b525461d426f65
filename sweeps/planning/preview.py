"""What a run would train, shown without starting anything (`--dry-run`)."""

from __future__ import annotations

from collections import Counter

from metaphase.core.cell import Cell, grouped, stack_key
from metaphase.core.training.cost import flops_per_step, num_parameters
from metaphase.sweeps.planning import seeds_needed
from metaphase.sweeps.planning.continuing import continued_steps
from metaphase.sweeps.planning.packs import plan, too_large
from metaphase.sweeps.planning.workers import local_workers
from metaphase.sweeps.preset import Sweep
from metaphase.sweeps.store.earlier import by_cell_id
from metaphase.sweeps.store.results import Results


def show_plan(sweep: Sweep, results: Results, missing: list[Cell], pack_size: int | None) -> None:
    """Prints what would be trained, by its shapes."""
    kept = continued_steps(results, missing)
    steps = kept | by_cell_id(results.checkpoints.steps(), missing)
    workers = local_workers()
    packs = plan(missing, workers, steps, pack_size)
    packs_of = Counter(key for pack in packs for key in grouped(pack.cells, stack_key))
    missing_ids = {cell.cell_id for cell in missing}
    print(f"{sweep.name}: {sweep.description}\nresults: {results}\n")
    row = "{:>12} {:>10} {:>12} {:>6} {:>9} {:>8} {:>6}  {}".format
    head = ("architecture", "model_size", "parameters", "cells", "finished", "to train", "packs")
    print(row(*head, "floating-point operations left"))
    total = 0.0
    for key, cells in grouped(sweep.cells, stack_key).items():
        left = [cell for cell in cells if cell.cell_id in missing_ids]
        flops = sum((c.steps - steps.get(c.cell_id, 0)) * flops_per_step(c) for c in left)
        total += flops
        cell = cells[0]
        counts = (len(cells), len(cells) - len(left), len(left), packs_of[key])
        print(
            row(cell.architecture, cell.model_size, num_parameters(cell), *counts, f"{flops:.1e}")
        )
    size = sum(_disk_bytes(cell) for cell in missing)
    print(
        f"\n{len(missing)} of {len(sweep.cells)} cells to train, {total:.2e} floating-point "
        f"operations, about {size / 1e6:.1f} MB of results; "
        f"{len(packs)} packs, as for {workers.count} x {workers.device}"
    )
    for line in too_large(missing, workers):
        print(line)
    precision = seeds_needed.line(sweep.cells)
    if precision is not None:
        print(precision)


def _disk_bytes(cell: Cell) -> float:
    """What a finished cell takes, measured: file overheads, then rows of history and curves."""
    return 33_000 + len(cell.splits) * (40 * len(cell.eval_steps) + 20 * cell.sequence_length)
