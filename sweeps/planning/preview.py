"""What a run would train, shown without starting anything (`--dry-run`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from metaphase.core.cell import PER_REPLICA, Cell, grouped, stack_key
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


_ALONG = ("num_tasks", "seed")  # along a row
_OF_ROWS = tuple(name for name in PER_REPLICA if name not in _ALONG)
_HEAD = ("architecture", "model_size")


def show_plan(sweep: Sweep, results: Results, missing: list[Cell], pack_size: int | None) -> None:
    """Prints what would be trained, a line for each row of the map."""
    kept = continued_steps(results, missing)
    steps = kept | by_cell_id(results.checkpoints.steps(), missing)
    workers = local_workers()
    packs = plan(missing, workers, steps, pack_size)
    packs_of = Counter(key for pack in packs for key in grouped(pack.cells, _row_key))
    missing_ids = {cell.cell_id for cell in missing}
    print(f"{_title(sweep)}\nresults: {results}\n")
    row = "{} {:>12} {:>6} {:>9} {:>8} {:>6}  {}".format
    rows = grouped(sweep.cells, _row_key)
    head, *names = _names(rows.values())
    print(row(head, "parameters", "cells", "finished", "to train", "packs",
              "floating-point operations left"))  # fmt: skip
    total = 0.0
    for (key, cells), name in zip(rows.items(), names, strict=True):
        left = [cell for cell in cells if cell.cell_id in missing_ids]
        flops = sum((c.steps - steps.get(c.cell_id, 0)) * flops_per_step(c) for c in left)
        total += flops
        counts = (len(cells), len(cells) - len(left), len(left), packs_of[key])
        print(row(name, num_parameters(cells[0]), *counts, f"{flops:.1e}"))
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

    start, needed, operations = seeking.expected(results, workers, again)
    print(f"{_title(sweep)}\nresults: {results}\n")
    row = "{} {:>6} {:>6}  {}".format
    rows = grouped(sweep.cells, _row_key).values()
    head, *names = _names(rows)
    print(row(head, "cells", "first", "of these, numbers of tasks"))
    for cells, name in zip(rows, names, strict=True):
        ids = {cell.cell_id for cell in cells}
        first = [cell.num_tasks for cell in start if cell.cell_id in ids]
        tasks = " ".join(map(str, sorted(first)))
        print(row(name, len(cells), len(first), tasks))
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


def _row_key(cell: Cell) -> tuple:
    """Equal for cells of one row, which differ in number of tasks and seed alone."""
    return (stack_key(cell), *(getattr(cell, name) for name in _OF_ROWS))


def _names(rows: Collection[Sequence[Cell]]) -> list[str]:
    """The head of the columns that name rows, and each row's: its architecture, its model size, and
    the settings in which rows that are alike in both differ, if any do."""
    told = [{name: str(value) for name, value in cells[0].to_dict().items()} for cells in rows]
    alike: dict[tuple, list[dict[str, str]]] = {}
    for one in told:
        alike.setdefault(tuple(one[name] for name in _HEAD), []).append(one)
    differ = [
        name
        for name in dict.fromkeys(name for one in told for name in one)
        if name not in _ALONG
        and any(len({o.get(name) for o in group}) > 1 for group in alike.values())
    ]
    words = ["  ".join(f"{name}={one[name]}" for name in differ if name in one) for one in told]
    width = max(map(len, words), default=0)
    lines = [(*_HEAD, "settings" if width else ""), *(
        (one["architecture"], one["model_size"], of) for one, of in zip(told, words, strict=True)
    )]  # fmt: skip
    return [
        f"{first:>12} {size:>10}{'  ' if width else ''}{of:<{width}}" for first, size, of in lines
    ]


def _disk_bytes(cell: Cell) -> float:
    """What a finished cell takes, measured: file overheads, then rows of history and curves."""
    return 33_000 + len(cell.splits) * (40 * len(cell.eval_steps) + 20 * cell.sequence_length)
