"""Shows how far a sweep is: cells by what became of them, per model size, and the time left.

    python -m metaphase.sweeps.commands.status results/quickstart

Starts nothing and writes nothing; works beside a running sweep, and on any machine that reaches
the results.
"""

from __future__ import annotations

import math
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from metaphase.core.process import as_command
from metaphase.sweeps.commands.parser import carry_out, sweep_parser

if TYPE_CHECKING:
    import pyarrow as pa

    from metaphase.core.cell import Cell
    from metaphase.sweeps.preset import Sweep
    from metaphase.sweeps.store.results import Results

RUNNING, MISSING = "running", "missing"
MOST_PROPOSED = 8  # cells of a search's round that are named


@as_command
def main(argv: list[str] | None = None) -> int:
    """Runs the command line. Returns the exit status, see `sweeps.commands.parser`."""
    text = "Show how far a sweep is: finished, failed, running and missing cells."
    parser = sweep_parser("status", text)
    parser.add_argument(
        "--rule", metavar="NAME",
        help="also count phases by this rule: accuracy, predictors, or your own, FILE.py:NAME, "
        "whose code is run",
    )  # fmt: skip
    return carry_out(parser, _tell, argv)


def _tell(path: str, rule: str | None) -> None:
    from metaphase.sweeps.store.results import Results

    print("\n".join(report(Results.at(path), rule)))


@dataclass(frozen=True)
class State:
    """How far a sweep is, as of a look at its results.

    Attributes:
        sweep: as its preset was stored.
        states: {cell_id: status, `RUNNING` or `MISSING`} of the grid's cells.
        finished: {cell_id: status} of all finished cells in the folder, of this grid or not.
        stored: their identities in the folder, earlier ones too.
        numerics: {cell_id: numerics} of those that are trained.
        steps: {cell_id: step of its newest checkpoint} of the grid's cells, where there is one.
        touched: {cell_id: when one of its files was last written}, while somebody runs the sweep.
        lease: of who runs it; None: nobody does.
    """

    sweep: Sweep
    states: dict[str, str]
    finished: dict[str, str]
    stored: dict[str, str]
    numerics: dict[str, int]
    steps: dict[str, int]
    touched: dict[str, float]
    lease: dict[str, Any] | None

    def seconds_left(self) -> float | None:
        """Estimate of the time to the end; None if nobody runs it, boundaries are sought, which
        nobody knows the end of, nothing is known yet, or the code of a cell's plug-in isn't
        loaded."""
        from metaphase.core.cell import ConfigError

        if self.lease is None or self.lease.get("seeks"):
            return None
        since = self.lease["since"]
        try:
            return seconds_left(self.sweep.cells, self.states, self.touched, self.steps, since)
        except (ConfigError, KeyError):
            return None


def look(results: Results, surveyed: tuple[dict[str, str], dict[str, int]] | None = None) -> State:
    """Looks at how far a sweep is.

    Args:
        results: of the sweep.
        surveyed: what `results.survey` returned, if the caller has it.

    Raises:
        ConfigError: there is no sweep at this place.
        OSError: the storage fails.
    """
    from metaphase.sweeps.store.earlier import by_cell_id
    from metaphase.sweeps.store.layout import touched
    from metaphase.sweeps.store.lease import is_live
    from metaphase.sweeps.store.sweepfile import read_sweep

    sweep = read_sweep(results)
    said, revisions = surveyed or results.survey()
    finished, numerics = by_cell_id(said, sweep.cells), by_cell_id(revisions, sweep.cells)
    lease = results.claim.lease()
    live = lease is not None and is_live(lease)
    last = {cell.cell_id: cell.steps for cell in sweep.cells}
    found = by_cell_id(results.checkpoints.steps(), sweep.cells).items()
    steps = {id_: step for id_, step in found if step <= last.get(id_, step)}
    written = touched(results) if live else {}
    states = {}
    for cell in sweep.cells:
        state = finished.get(cell.cell_id)
        if state is None:
            active = live and lease and written.get(cell.cell_id, 0.0) >= lease.get("since", 0.0)
            state = RUNNING if active else MISSING
        states[cell.cell_id] = state
    return State(sweep, states, finished, said, numerics, steps, written, lease if live else None)


def report(results: Results, rule: str | None = None) -> list[str]:
    """The lines to print.

    Args:
        rule: see `core.phase_rules.load`; None: phases aren't counted.

    Raises:
        ConfigError: there is no sweep at this place, or the rule can't be had, or fails.
    """
    from metaphase.core import schema
    from metaphase.core.cell import NUMERICS
    from metaphase.sweeps.execution.clock import clock
    from metaphase.sweeps.store.earlier import every_id, stored_as
    from metaphase.sweeps.store.folders import shown
    from metaphase.sweeps.store.lease import describe

    late: dict[str, dict[str, Any] | None] = {}
    surveyed = results.survey(lambda *file: late.update(_late_rows(*file)))
    found = look(results, surveyed)
    sweep, states, finished, steps = found.sweep, found.states, found.finished, found.steps

    lines = [f"{sweep.name}: {sweep.description}".rstrip(": "), ""]
    lines += _table(sweep.cells, states)
    lines += _search(results, found)
    waiting = sum(states[c.cell_id] == MISSING and c.cell_id in steps for c in sweep.cells)
    if waiting:
        lines.append(f"{waiting} of the missing cells continue from checkpoints.")
    others = len(finished.keys() - states.keys())
    if others:
        lines.append(f"{others} more results in the folder are not part of this grid.")
    kept = len(results.models.steps().keys() & finished.keys())
    if kept:
        lines.append(f"Models of {kept} finished cells are kept, in models/.")
    older = sum(found.numerics.get(cell.cell_id, NUMERICS) != NUMERICS for cell in sweep.cells)
    if older:
        lines.append(
            f"{older} finished cells are of other numerics than this program's, {NUMERICS}."
        )
    stored = stored_as(sweep.cells, found.stored)
    done = [stored.get(id_, id_) for id_, state in states.items() if state == schema.DONE]
    if rule is not None and done:
        lines.append(_phases(results.read_rows(done), rule))
    lines += _on_plateau([row for id_ in done if (row := late.get(id_)) is not None])
    failed = [c for c in sweep.cells if states[c.cell_id] == schema.FAILED]
    for row in results.read_rows(every_id(failed[:3])):
        lines.append(f"failed: {row['cell_id']}: {shown(str(row['error']))}")
    if len(failed) > 3:
        lines.append(f"... and {len(failed) - 3} more failed")
    if found.lease is not None:
        lines.append(f"Running: {describe(found.lease)}.")
        left = found.seconds_left()
        if left is not None:
            unit = "h" if round(left) >= 3600 else "min"
            lines.append(f"About {clock(left)} {unit} left.")
    else:
        unfinished = sum(state == MISSING for state in states.values())
        lines.append(
            "Nobody runs it now." if unfinished else "Finished: no cell of the grid is missing."
        )
    return lines


def _phases(rows: Sequence[Mapping[str, Any]], rule: str) -> str:
    """A line: how many of the done cells are in each phase by a rule."""
    import pandas as pd

    from metaphase.core.phase_rules import load
    from metaphase.core.phases import CONFIDENCE, DELTA, PHASES, level_of

    cells = pd.DataFrame([{**row, "unseen_level": level_of(row)} for row in rows])
    counts = Counter(load(rule)(cells, DELTA, CONFIDENCE)["phase"].tolist())
    told = [f"{counts[phase]} {phase}" for phase in reversed(PHASES)]
    told += [f"{counts[None]} without a phase"] * bool(counts[None])
    return f"Phases of the {len(rows)} done cells by {rule}: {', '.join(told)}."


def _search(results: Results, found: State) -> list[str]:
    """Of a sweep that seeks boundaries: how far it is, or why it ended; where phases begin as far
    as the last round knew, and the cells of the rounds that are under way, or of the last one,
    with what each was to take off its row's intervals. Where all cells of the grid are trained
    meanwhile the latter say nothing, and once none is missing, all of them tell it better."""
    from metaphase.sweeps.store.searchfile import ANYWHERE, interval, num_rounds, read_rounds

    rounds = read_rounds(results)
    if not rounds:
        return []
    cells = {cell.cell_id: cell for cell in found.sweep.cells}
    left = cells.keys() - found.finished.keys()
    with_cells = [one.octaves for one in rounds if one.octaves]
    shown = [octaves for octaves in with_cells if octaves.keys() & left] or with_cells[-1:]
    proposed = len({cell_id for one in rounds for cell_id in one.octaves})
    reason = rounds[-1].reason
    said = f"boundaries: {num_rounds(rounds)} rounds, {proposed} cells proposed"
    other = found.lease is not None and not found.lease.get("seeks")  # a run that doesn't seek
    if reason:
        lines = ["", f"Sought {said}; {reason}."]
    elif other:
        lines = ["", f"Sought {said}; it was interrupted, and now the whole grid is trained."]
    else:
        lines = ["", f"Seeks {said}."]
    if MISSING not in found.states.values() and RUNNING not in found.states.values():
        return lines
    lines.append("As of its last round:")
    for at in rounds[-1].standings:
        width = f"{at['width']:.1f} octaves" + (", done" if at["done"] else "")
        where = interval(at)
        where = where if where == ANYWHERE else f"2^ {where}"
        lines.append(f"  {at['phase']} begins, {at['row']}: {where} ({width})")
    if other:
        return lines
    chosen = {cell_id: octaves for one in shown for cell_id, octaves in one.items()}
    for cell_id, octaves in list(chosen.items())[:MOST_PROPOSED]:
        cell = cells.get(cell_id)
        where = ", ".join(f"{key} {getattr(cell, key, None)}" for key in found.sweep.axes)
        where = where if cell else f"{cell_id}, which isn't in the grid any more"
        trains = "trained" if cell_id in found.finished else "trains"
        why = f"to take {octaves:.2f} octaves off" if octaves else "again, as it was told to"
        lines.append(f"  it {trains} {where}: {why}")
    if len(chosen) > MOST_PROPOSED:
        lines.append(f"  ... and {len(chosen) - MOST_PROPOSED} more")
    return lines


def _late_rows(content: bytes, facts: Mapping[str, Any] | None) -> dict[str, dict[str, Any] | None]:
    """Of each cell in a file of the cells table, of which its seal says these facts, its row if it
    was not trained long enough to have a phase. Losses are compared as whole columns; only the few
    that are a guess' are looked at further."""
    import numpy as np

    from metaphase.core.phase_rules import ROW_COLUMNS, outcome_of
    from metaphase.core.phases import (
        NO_CONTEXT_LOSS,
        ON_PLATEAU,
        UNTRAINED,
        on_plateau,
        plateau_loss_of,
    )
    from metaphase.sweeps.store.tables import UNREADABLE, decode

    # Seals of earlier programs don't say what knowing no context loses, where a family brings it.
    if facts is not None and (facts["dataset"] is not None or NO_CONTEXT_LOSS in facts):
        loss = math.nan if facts["train_loss"] is None else facts["train_loss"]
        if not on_plateau(UNTRAINED, loss, plateau_loss_of(facts)):
            return {facts["cell_id"]: None}
    columns = ("cell_id", "status", "steps_trained", "wall_seconds", *ROW_COLUMNS)
    try:
        table = decode("cells", content, columns)
    except UNREADABLE:
        return {}
    ids, said = table["cell_id"].to_pylist(), set(table.column_names)
    rows: dict[str, dict[str, Any] | None] = dict.fromkeys(ids)
    if "train_loss" not in said:
        return rows
    losses = np.array(table["train_loss"].to_pylist(), dtype=float)  # Arrow's way needs pandas
    near = on_plateau(UNTRAINED, losses, np.array(_plateau_losses(table)))
    for i in np.flatnonzero(near).tolist():
        [row] = table.slice(i, 1).to_pylist()
        row = {name: row.get(name) for name in columns}
        rows[ids[i]] = row if outcome_of(row) == ON_PLATEAU else None
    return rows


def _plateau_losses(table: pa.Table) -> list[float]:
    """`core.phases.plateau_loss_of` of each row, once for rows that are alike."""
    from metaphase.core.phases import NO_CONTEXT_LOSS, plateau_loss_of

    names = (NO_CONTEXT_LOSS, "guess_loss", "dataset", "num_classes", "chance")
    lists = [
        table[name].to_pylist() if name in table.column_names else [None] * table.num_rows
        for name in names
    ]
    keys = list(zip(*lists, strict=True))
    known = {key: plateau_loss_of(dict(zip(names, key, strict=True))) for key in set(keys)}
    return [known[key] for key in keys]


def _on_plateau(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line about done cells that were not trained long enough to have a phase, if there are any:
    how many they are, and how long as many steps again would take."""
    from metaphase.sweeps.execution.clock import clock, worker_seconds

    rows = [row for row in rows if row["steps_trained"] is not None]
    if not rows:
        return []
    seconds = worker_seconds(rows)
    steps = sorted({row["steps_trained"] for row in rows})
    trained = f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
    unit = "h" if round(seconds) >= 3600 else "min"
    return [
        f"{len(rows)} of the done cells never left their plateau in {trained} steps; as many again "
        f"would take them about {clock(seconds)} {unit} of a worker."
    ]


def _table(cells: Sequence[Cell], states: Mapping[str, str]) -> list[str]:
    from metaphase.core import schema

    kinds = (schema.DONE, schema.DIVERGED, schema.FAILED, RUNNING, MISSING)
    groups: dict[tuple[str, int], Counter[str]] = defaultdict(Counter)
    for cell in cells:
        groups[(cell.architecture, cell.model_size)][states[cell.cell_id]] += 1
    row = ("{:<14} {:>10} {:>7}" + " {:>9}" * len(kinds)).format
    lines = [row("architecture", "model_size", "cells", *kinds)]
    for (architecture, size), counts in groups.items():
        lines.append(row(architecture, size, counts.total(), *(counts[k] for k in kinds)))
    total = sum(groups.values(), Counter[str]())
    lines.append(row("all", "", total.total(), *(total[kind] for kind in kinds)))
    return lines


def seconds_left(
    cells: Sequence[Cell],
    states: Mapping[str, str],
    touched: Mapping[str, float],
    steps: Mapping[str, int],
    since: float,
) -> float | None:
    """Estimate from what this driver has finished: its time by the share of the work, each cell's
    work as `planning.workers` estimates it. None before anything is finished or checkpointed, and
    where the driver's clock is ahead of this one.

    Args:
        touched: {cell_id: when one of its files was last written}.
        steps: {cell_id: step of its newest checkpoint}.
        since: when the driver began.
    """
    from metaphase.core.cell import stack_key
    from metaphase.sweeps.planning.workers import Workers

    workers = Workers(1)
    done = left = 0.0
    costs: dict[Any, float] = {}
    for cell in cells:
        shape = (stack_key(cell), cell.num_tasks)
        if shape not in costs:
            costs[shape] = workers.seconds([cell]) / cell.steps
        state, recent = states[cell.cell_id], touched.get(cell.cell_id, 0.0) >= since
        step = steps.get(cell.cell_id, 0)
        if state in (RUNNING, MISSING):
            left += (cell.steps - step) * costs[shape]
            done += step * costs[shape] if recent else 0.0
        elif recent:
            done += cell.steps * costs[shape]
    if not left:
        return 0.0
    gone = time.time() - since  # not above 0 where the driver's clock is ahead
    return gone * left / done if done and gone > 0 else None


if __name__ == "__main__":
    sys.exit(main())
