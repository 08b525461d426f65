"""What a run would train, shown without starting anything (`--dry-run`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from metaphase.core.cell import Cell, grouped, stack_key
from metaphase.core.training.cost import flops_per_step, num_parameters
from metaphase.sweeps.planning import seeds_needed
from metaphase.sweeps.planning.continuing import continued_steps
from metaphase.sweeps.planning.packs import plan, too_large
from metaphase.sweeps.planning.workers import local_workers
from metaphase.sweeps.preset import Sweep
from metaphase.sweeps.store.earlier import by_cell_id
from metaphase.sweeps.store.results import Results

if TYPE_CHECKING:
    from metaphase.sweeps.search.seeking import Seeking


def show_plan(sweep: Sweep, results: Results, missing: list[Cell], pack_size: int | None) -> None:
    """Prints what would be trained, by its shapes."""
    kept = continued_steps(results, missing)
    steps = kept | by_cell_id(results.checkpoints.steps(), missing)
    workers = local_workers()
    packs = plan(missing, workers, steps, pack_size)
    packs_of = Counter(key for pack in packs for key in grouped(pack.cells, stack_key))
    missing_ids = {cell.cell_id for cell in missing}
    print(f"{_title(sweep)}\nresults: {results}\n")
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
        f"{len(packs)} pack{'s' * (len(packs) != 1)}, as for {workers.count} x {workers.device}"
    )
    for line in too_large(missing, workers):
        print(line)
    precision = seeds_needed.line(sweep.cells)
    if precision is not None:
        print(precision)


def show_search(sweep: Sweep, results: Results, seeking: Seeking, again: Sequence[Cell]) -> None:
    """Prints what a search would train first, and what it expects to need until it ends.

    Args:
        again: the cells that are trained again before.
    """
    workers = local_workers()

    def hours(cells: Sequence[Cell]) -> float:
        return sum(workers.seconds(pack.cells) for pack in plan(cells, workers)) / 3600

    start, needed, operations = seeking.expected(results, workers.count, hours)
    print(f"{_title(sweep)}\nresults: {results}\n")
    row = "{:>12} {:>10} {:>6} {:>6}  {}".format
    print(row("architecture", "model_size", "cells", "first", "of these, numbers of tasks"))
    for _, cells in grouped(sweep.cells, stack_key).items():
        ids = {cell.cell_id for cell in cells}
        first = [cell.num_tasks for cell in start if cell.cell_id in ids]
        tasks = " ".join(map(str, sorted(first)))
        print(row(cells[0].architecture, cells[0].model_size, len(cells), len(first), tasks))
    search = seeking.search
    most = f"{search.budget:g} hours of workers" if search.kind == "hours" else (
        f"{search.budget:.0%} of the grid's {search.kind}"
    )  # fmt: skip
    if again:
        print(f"\n{len(again)} cells are trained again first")
    print(
        f"\na search for where {' and '.join(search.phases)} begins, to "
        f"{search.target_octaves:g} octaves at 95% in each row, with at most {most}; it begins "
        f"with {len(start)} cells, as for {workers.count} x {workers.device}"
    )
    told = ", by estimated hours" if search.kind == "hours" else ""
    print(
        f"about {needed} of {len(sweep.cells)} cells and {operations:.0%} of the grid's operations "
        f"if phases begin where they are thought to now{told}"
    )


def _title(sweep: Sweep) -> str:
    return f"{sweep.name}: {sweep.description}" if sweep.description else sweep.name


def _disk_bytes(cell: Cell) -> float:
    """What a finished cell takes, measured: file overheads, then rows of history and curves."""
    return 33_000 + len(cell.splits) * (40 * len(cell.eval_steps) + 20 * cell.sequence_length)
