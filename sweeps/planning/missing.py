"""Which cells of a sweep have to be trained, by what its results hold already.

What is odd about the results is said, for whoever started the run to judge: by `print`, or what
takes its place.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from metaphase.core import schema
from metaphase.core.cell import NUMERICS, Cell, ConfigError
from metaphase.sweeps.preset import Sweep
from metaphase.sweeps.selection import describe_change
from metaphase.sweeps.store.earlier import by_cell_id, every_id
from metaphase.sweeps.store.results import LOST_WORKER, Results
from metaphase.sweeps.store.sweepfile import has_settings, read_sweep


def survey(
    results: Results, cells: Sequence[Cell]
) -> tuple[dict[str, str], set[str], dict[str, int]]:
    """({cell_id: status} of finished cells, ids of those left out of it because rows of them are
    lost, {cell_id: numerics} of the trained ones). Those left out count as missing: trained again,
    they are as they were."""
    status, numerics = results.survey()
    damaged = results.damaged({id_ for id_, s in status.items() if s != schema.FAILED})
    status = {id_: s for id_, s in status.items() if id_ not in damaged}
    return by_cell_id(status, cells), damaged, by_cell_id(numerics, cells)


def missing_cells(
    sweep: Sweep, results: Results, status: dict[str, str], retry_failed: bool
) -> list[Cell]:
    """Cells to train: those without a result, and failed ones if asked for, or if their worker
    was lost, which may happen to any cell."""
    cells = [c for c in sweep.cells if status.get(c.cell_id) == schema.FAILED]
    failed = {c.cell_id for c in cells}
    if failed and not retry_failed:
        errors = {r["cell_id"]: str(r["error"]) for r in results.read_rows(every_id(cells))}
        errors = by_cell_id(errors, cells)
        failed = {id_ for id_ in failed if errors.get(id_, "").startswith(LOST_WORKER)}
    return [c for c in sweep.cells if c.cell_id not in status or c.cell_id in failed]


def say_what_changed(
    sweep: Sweep, results: Results, status: dict[str, str], say: Callable[..., None] = print
) -> bool:
    """Says in what the preset differs from the stored one, and what this means. Returns whether
    there is a stored one that can be read."""
    if not has_settings(results):
        return False
    try:
        stored = read_sweep(results)
    except ConfigError as error:
        say(f"The stored preset can't be read: {error}", file=sys.stderr)
        return False
    lines = describe_change(stored, sweep)
    if not lines:
        return True
    old, new = ({cell.cell_id for cell in s.cells} for s in (stored, sweep))
    say(f"The preset is not the one that {results} was last run with:", *lines, sep="\n")
    say(
        f"{len(old & new)} cells stay, {len(new - old)} are new; {len(status.keys() - new)} "
        "results in the folder are not part of this grid, but stay there."
    )
    return True


def tell_numerics(
    results: Results,
    others: dict[str, int],
    missing: list[Cell],
    refuse: bool,
    say: Callable[..., None] = print,
) -> None:
    """Says which results and checkpoints are of other numerics than this program's.

    Args:
        others: {cell_id: numerics} of finished cells of the grid that will stay.
        missing: what will be trained.
        refuse: whether it may not be trained beside them.
        say: prints.

    Raises:
        ConfigError: it is refused, with what can be done instead.
    """
    if others:
        revisions = ", ".join(map(str, sorted(set(others.values()))))
        line = (
            f"{results}: {len(others)} finished cells are of numerics {revisions}, this program's "
            f"are {NUMERICS}: the same settings give other last digits"
        )
        if missing and refuse:
            raise ConfigError(
                f"{line}; to train {len(missing)} more, give --other-numerics renew (these are "
                "trained anew), --other-numerics keep (they stay beside the new ones), or "
                "--set name=NAME (a folder of its own)"
            )
        say(line, file=sys.stderr)
    there = by_cell_id(dict.fromkeys(results.checkpoints.of_other_numerics()), missing)
    older = there.keys() & {cell.cell_id for cell in missing}
    if older:
        say(
            f"{results}: checkpoints of {len(older)} cells are of other numerics than {NUMERICS}; "
            "these cells are trained from their first step",
            file=sys.stderr,
        )
