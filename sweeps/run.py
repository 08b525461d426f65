"""Trains the cells of a sweep that its results lack.

    python -m metaphase.sweeps.run quickstart
    python -m metaphase.sweeps.run quickstart --set model_size=[64,128] --set name=wider
    python -m metaphase.sweeps.run ./my-sweep.yaml --root s3://bucket/results

Whatever stopped it, the same command goes on where it was. Works as a lone script too, as
`ray submit` uses it: all else comes from the installed package.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import shlex
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metaphase.core.cell import Cell
    from metaphase.sweeps.commands.parser import Parser
    from metaphase.sweeps.preset import Sweep
    from metaphase.sweeps.store.lease import Lease
    from metaphase.sweeps.store.results import Results

INTERRUPTED = 130  # exit status, see sweeps.commands.parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command line. Returns 0 if all cells are finished, 1 if some failed or the command
    can't be carried out, 2 for a wrong command line, 130 when interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    if importlib.util.find_spec("metaphase") is None:
        print(f"metaphase is not installed in this Python ({sys.executable})", file=sys.stderr)
        return 1
    from metaphase.core.process import as_command

    return as_command(_command)(argv)


def _command(argv: list[str]) -> int:
    arguments = _parser().parse_args(argv)
    from metaphase.core.cell import ConfigError
    from metaphase.sweeps.store.files import StorageError
    from metaphase.sweeps.store.results import is_full, may_pass

    try:
        if arguments.list:
            return _list_presets()
        if arguments.preset is None:
            _parser().error("which PRESET? --list shows those that come with the program")
        return _run(arguments, argv)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # of the storage, tried again in vain
        logging.getLogger(__name__).exception("stopped")
        what = " ".join(str(error).split()) or type(error).__name__
        if is_full(error):
            what += ". Free some space, and the same command continues"
        elif isinstance(error, StorageError) and may_pass(error, tries=1):
            what += ". The same command continues"
        elif isinstance(error, StorageError):
            what += ". Once that is mended, the same command continues"
        print(f"error: {what}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The same command continues.", file=sys.stderr)
        return INTERRUPTED


def _parser() -> Parser:
    from metaphase.sweeps.commands.parser import Parser, folder, root

    parser = Parser(
        prog="metaphase run", description="Train the cells of a sweep that its results lack."
    )
    add = parser.add_argument
    add("preset", metavar="PRESET", nargs="?", help="a preset's name, or the path of a YAML file")
    add(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="override a setting; a list, such as seed=[0,1,2], makes an axis of it; "
        "name=NAME keeps the results apart. May be repeated",
    )
    add("--root", type=root, default="results", help="folder or URI for results (default: results)")
    add(
        "--data-root",
        type=folder,
        default="data",
        help="folder of the base data sets (default: data)",
    )
    add("--pack-size", type=_positive, metavar="N", help="train at most N cells together")
    add("--gpus", type=_positive, metavar="N", help="plan for N GPUs that the cluster will start")
    add("--retry-failed", action="store_true", help="train cells again that failed before")
    add(
        "--force",
        metavar="CELLS",
        help="remove what is stored of these cells of the grid and train them anew: beginnings of "
        "cell_ids, or settings that they have, such as num_tasks=64,seed=1",
    )
    add(
        "--other-numerics",
        choices=("refuse", "keep", "renew"),
        default="refuse",
        help="what to do about results in the folder whose numerics aren't this program's, before "
        "others are trained: renew trains those of the grid anew, keep leaves them beside the new "
        "ones, refuse (default) ends with a line",
    )
    add("--dry-run", action="store_true", help="show what would be trained, and start nothing")
    add("--list", action="store_true", help="list the presets")
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def _list_presets() -> int:
    from metaphase.sweeps.preset import list_presets, load_preset

    for name in list_presets():
        sweep = load_preset(name)
        print(f"{name:16}{len(sweep.cells):6} cells  {sweep.description}")
    return 0


def _run(arguments: argparse.Namespace, argv: list[str]) -> int:
    from metaphase.core.cell import NUMERICS
    from metaphase.sweeps.preset import load_preset, select_cells
    from metaphase.sweeps.store.earlier import by_cell_id, every_id
    from metaphase.sweeps.store.results import Results

    started = time.monotonic()
    sweep = load_preset(arguments.preset, arguments.set)
    forced = select_cells(sweep.cells, arguments.force) if arguments.force is not None else []
    results = Results(arguments.root, sweep.name)
    status, damaged, numerics = _whole(results, sweep.cells)
    if damaged:
        print(
            f"{results}: rows of {len(damaged)} finished cells are lost or can't be read",
            file=sys.stderr,
        )
    stored = _say_what_changed(sweep, results, status)
    others = [c for c in sweep.cells if numerics.get(c.cell_id, NUMERICS) != NUMERICS]
    forced += others if arguments.other_numerics == "renew" else []
    kept = {id_: s for id_, s in status.items() if id_ not in {c.cell_id for c in forced}}
    missing = _missing(sweep, results, kept, arguments.retry_failed)
    left = {c.cell_id: numerics[c.cell_id] for c in others if c.cell_id in kept}
    _tell_numerics(results, left, missing, arguments.other_numerics == "refuse")
    if arguments.dry_run:
        _dry_run(sweep, results, missing, arguments.pack_size)
        return 0
    from metaphase.sweeps.store.lease import acquire

    if not missing:
        if not stored:
            lease = acquire(results)
            results.write_settings(sweep.settings)
            lease.release()
        print(f"Nothing to do: all {len(sweep.cells)} cells of {sweep.name} are finished.")
        return _conclude(sweep, results, status)

    lease = acquire(results)
    try:
        if forced:
            results.remove_results(every_id(forced))
            print(f"Removed what was stored of {len(forced)} cells, to train them anew.")
        # Again, now that it is ours: another driver may have finished it, or merged its files.
        found = _whole(results, sweep.cells)[0] if damaged else results.finished()
        status = by_cell_id(found, sweep.cells)
        return _train(arguments, argv, sweep, results, status, lease, started)
    finally:
        lease.release()


def _say_what_changed(sweep: Sweep, results: Results, status: dict[str, str]) -> bool:
    """Prints in what the preset differs from the stored one, and what this means. Returns whether
    there is a stored one that can be read."""
    from metaphase.core.cell import ConfigError
    from metaphase.sweeps.preset import describe_change

    if not results.has_settings():
        return False
    try:
        stored = results.read_sweep()
    except ConfigError as error:
        print(f"The stored preset can't be read: {error}", file=sys.stderr)
        return False
    lines = describe_change(stored, sweep)
    if not lines:
        return True
    old, new = ({cell.cell_id for cell in s.cells} for s in (stored, sweep))
    print(f"The preset is not the one that {results} was last run with:", *lines, sep="\n")
    print(
        f"{len(old & new)} cells stay, {len(new - old)} are new; {len(status.keys() - new)} "
        "results in the folder are not part of this grid, but stay there."
    )
    return True


def _tell_numerics(
    results: Results, others: dict[str, int], missing: list[Cell], refuse: bool
) -> None:
    """Says which results and checkpoints are of other numerics than this program's.

    Args:
        others: {cell_id: numerics} of finished cells of the grid that will stay.
        missing: what will be trained.
        refuse: whether it may not be trained beside them.

    Raises:
        ConfigError: it is refused, with what can be done instead.
    """
    from metaphase.core.cell import NUMERICS, ConfigError
    from metaphase.sweeps.store.earlier import by_cell_id

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
        print(line, file=sys.stderr)
    there = by_cell_id(dict.fromkeys(results.older_checkpoints()), missing)
    older = there.keys() & {cell.cell_id for cell in missing}
    if older:
        print(
            f"{results}: checkpoints of {len(older)} cells are of other numerics than {NUMERICS}; "
            "these cells are trained from their first step",
            file=sys.stderr,
        )


def _whole(
    results: Results, cells: Sequence[Cell]
) -> tuple[dict[str, str], set[str], dict[str, int]]:
    """({cell_id: status} of finished cells, ids of those left out of it because rows of them are
    lost, {cell_id: numerics} of the trained ones). Those left out count as missing: trained again,
    they are as they were."""
    from metaphase.core import schema
    from metaphase.sweeps.store.earlier import by_cell_id

    status, numerics = results.survey()
    damaged = results.damaged({id_ for id_, s in status.items() if s != schema.FAILED})
    status = {id_: s for id_, s in status.items() if id_ not in damaged}
    return by_cell_id(status, cells), damaged, by_cell_id(numerics, cells)


def _missing(
    sweep: Sweep, results: Results, status: dict[str, str], retry_failed: bool
) -> list[Cell]:
    """Cells to train: those without a result, and failed ones if asked for, or if their worker
    was lost, which may happen to any cell."""
    from metaphase.core import schema
    from metaphase.sweeps.store.earlier import by_cell_id, every_id
    from metaphase.sweeps.store.results import LOST_WORKER

    cells = [c for c in sweep.cells if status.get(c.cell_id) == schema.FAILED]
    failed = {c.cell_id for c in cells}
    if failed and not retry_failed:
        errors = {r["cell_id"]: str(r["error"]) for r in results.read_rows(every_id(cells))}
        errors = by_cell_id(errors, cells)
        failed = {id_ for id_ in failed if errors.get(id_, "").startswith(LOST_WORKER)}
    return [c for c in sweep.cells if c.cell_id not in status or c.cell_id in failed]


def _train(
    arguments: argparse.Namespace,
    argv: list[str],
    sweep: Sweep,
    results: Results,
    status: dict[str, str],
    lease: Lease,
    started: float,
) -> int:
    """Trains what is missing, the sweep being ours."""
    from metaphase.sweeps.store import earlier

    missing = _missing(sweep, results, status, arguments.retry_failed)
    missing_ids = {cell.cell_id for cell in missing}
    finished = [cell for cell in sweep.cells if cell.cell_id not in missing_ids]
    stored = earlier.stored_as(finished, results.finished())
    before = {stored.get(c.cell_id, c.cell_id): status[c.cell_id] for c in finished}
    results.check_writable()
    results.clear_way(missing)
    results.reopen(earlier.every_id(missing) if results.table_files("cells") else missing_ids)
    earlier.adopt_checkpoints(results, missing)
    results.write_settings(sweep.settings)
    log = _log_file(results)
    print(
        f"{sweep.name}: {len(missing)} of {len(sweep.cells)} cells to train; log: {log}", flush=True
    )
    from metaphase.sweeps.execution import driver  # Ray and torch take seconds

    driver.log_to(log)
    outcome = driver.train(
        results,
        missing,
        lease=lease,
        data_root=str(Path(arguments.data_root).expanduser().absolute()),
        total=len(sweep.cells),
        before=before,
        pack_size=arguments.pack_size,
        gpus=arguments.gpus,
        started=started,
    )
    status = earlier.by_cell_id(results.finished(), sweep.cells)
    done = sum(cell.cell_id in status for cell in sweep.cells)
    print(f"{done} of {len(sweep.cells)} cells are finished: {outcome.phases or 'no phases yet'}")
    capacity = outcome.wall_seconds * outcome.workers
    print(
        f"{outcome.wall_seconds:.1f} s on {outcome.workers} workers, "
        f"{outcome.training_seconds / capacity:.0%} of it training and evaluating"
    )
    if outcome.config_error:
        print(f"error: {outcome.config_error}", file=sys.stderr)
        return 1
    if lease.lost:
        print(f"error: another driver has taken over {results}", file=sys.stderr)
        return 1
    if outcome.interrupted:
        again = shlex.join(_without_force(argv))
        print(f"Stopped. This continues: python -m metaphase.sweeps.run {again}")
        return INTERRUPTED
    return _conclude(sweep, results, status)


def _without_force(argv: list[str]) -> list[str]:
    """The command line that continues: what was to be removed is removed."""
    left, rest = [], iter(argv)
    for word in rest:
        if word == "--force":
            next(rest, None)
        elif not word.startswith("--force="):
            left.append(word)
    return left


def _conclude(sweep: Sweep, results: Results, status: dict[str, str]) -> int:
    """Says what became of all cells, and what to do next."""
    from metaphase.core import schema
    from metaphase.sweeps.store.earlier import every_id
    from metaphase.sweeps.store.folders import shown

    failed = [c for c in sweep.cells if status.get(c.cell_id) == schema.FAILED]
    missing = sum(cell.cell_id not in status for cell in sweep.cells)
    for row in results.read_rows(every_id(failed[:10])):
        where = ", ".join(f"{key}={row[key]}" for key in sweep.axes)
        print(f"failed: {row['cell_id']} ({where}): {shown(str(row['error']))}", file=sys.stderr)
    if failed:
        lost = len(_missing(sweep, results, status, False)) - missing
        again = "the same command" if lost == len(failed) else "--retry-failed"
        print(f"{len(failed)} cells failed; {again} tries them again", file=sys.stderr)
    if missing:
        print(f"{missing} cells are missing; the same command continues", file=sys.stderr)
    print(f"Results: {results}")
    print(f"Next: metaphase plot {shlex.quote(str(results))}")
    return 1 if failed or missing else 0


def _dry_run(sweep: Sweep, results: Results, missing: list[Cell], pack_size: int | None) -> None:
    """Prints what would be trained, by its shapes."""
    from metaphase.core.cell import grouped, stack_key
    from metaphase.core.training.cost import flops_per_step, num_parameters
    from metaphase.sweeps.planning.packs import local_workers, plan
    from metaphase.sweeps.store.earlier import by_cell_id

    steps = by_cell_id(results.checkpoint_steps(), missing)
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


def _disk_bytes(cell: Cell) -> float:
    """What a finished cell takes, measured: file overheads, then rows of history and curves."""
    splits = 3 + len(cell.unseen_datasets)
    evaluations = -(-cell.steps // cell.eval_every)
    return 33_000 + splits * (40 * evaluations + 20 * cell.sequence_length)


def _log_file(results: Results) -> Path:
    folder = results.local_path
    folder = folder / "logs" if folder else Path(tempfile.mkdtemp(prefix="metaphase-log-"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"run-{time.strftime('%Y%m%d-%H%M%S')}.log"


if __name__ == "__main__":
    sys.exit(main())
