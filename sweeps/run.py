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
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
    from metaphase.sweeps.store.patience import is_full, may_pass

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
    from metaphase.sweeps.commands.parser import Parser, folder, positive, root

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
    add("--pack-size", type=positive, metavar="N", help="train at most N cells together")
    add("--gpus", type=positive, metavar="N", help="plan for N GPUs that the cluster will start")
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
    add(
        "--keep-models",
        action="store_true",
        help="keep the weights and Adam's moments of the cells that this command finishes, in "
        "models/<cell_id>/<step>.safetensors; cells with more steps go on from them",
    )
    add("--dry-run", action="store_true", help="show what would be trained, and start nothing")
    add("--list", action="store_true", help="list the presets")
    return parser


def _list_presets() -> int:
    from metaphase.sweeps.preset import list_presets, load_preset

    for name in list_presets():
        sweep = load_preset(name)
        print(f"{name:16}{len(sweep.cells):6} cells  {sweep.description}")
    return 0


def _run(arguments: argparse.Namespace, argv: list[str]) -> int:
    from metaphase.core.cell import NUMERICS
    from metaphase.sweeps.planning import missing as lacks
    from metaphase.sweeps.preset import load_preset
    from metaphase.sweeps.selection import select_cells
    from metaphase.sweeps.store.earlier import by_cell_id, every_id
    from metaphase.sweeps.store.results import Results
    from metaphase.sweeps.store.sweepfile import write_settings

    started = time.monotonic()
    sweep = load_preset(arguments.preset, arguments.set)
    forced = select_cells(sweep.cells, arguments.force) if arguments.force is not None else []
    results = Results(arguments.root, sweep.name)
    status, damaged, numerics = lacks.survey(results, sweep.cells)
    if damaged:
        print(
            f"{results}: rows of {len(damaged)} finished cells are lost or can't be read",
            file=sys.stderr,
        )
    stored = lacks.say_what_changed(sweep, results, status)
    others = [c for c in sweep.cells if numerics.get(c.cell_id, NUMERICS) != NUMERICS]
    forced += others if arguments.other_numerics == "renew" else []
    kept = {id_: s for id_, s in status.items() if id_ not in {c.cell_id for c in forced}}
    missing = lacks.missing_cells(sweep, results, kept, arguments.retry_failed)
    left = {c.cell_id: numerics[c.cell_id] for c in others if c.cell_id in kept}
    lacks.tell_numerics(results, left, missing, arguments.other_numerics == "refuse")
    if arguments.dry_run:
        from metaphase.sweeps.planning.preview import show_plan

        show_plan(sweep, results, missing, arguments.pack_size)
        return 0
    from metaphase.sweeps.store.lease import acquire

    if not missing:
        if not stored:
            lease = acquire(results)
            write_settings(results, sweep.settings)
            lease.release()
        print(f"Nothing to do: all {len(sweep.cells)} cells of {sweep.name} are finished.")
        return _conclude(sweep, results, status)

    lease = acquire(results)
    try:
        if forced:
            results.remove_results(every_id(forced))
            print(f"Removed what was stored of {len(forced)} cells, to train them anew.")
        # Again, now that it is ours: another driver may have finished it, or merged its files.
        found = lacks.survey(results, sweep.cells)[0] if damaged else results.finished()
        status = by_cell_id(found, sweep.cells)
        return _train(arguments, argv, sweep, results, status, lease, started)
    finally:
        lease.release()


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
    from metaphase.sweeps.planning.continuing import adopt_models
    from metaphase.sweeps.planning.missing import missing_cells
    from metaphase.sweeps.store import earlier
    from metaphase.sweeps.store.layout import clear_way
    from metaphase.sweeps.store.sweepfile import write_settings

    missing = missing_cells(sweep, results, status, arguments.retry_failed)
    missing_ids = {cell.cell_id for cell in missing}
    finished = [cell for cell in sweep.cells if cell.cell_id not in missing_ids]
    stored = earlier.stored_as(finished, results.finished())
    before = {stored.get(c.cell_id, c.cell_id): status[c.cell_id] for c in finished}
    results.check_writable()
    clear_way(results, missing)
    results.reopen(earlier.every_id(missing) if results.tables.names("cells") else missing_ids)
    earlier.adopt_checkpoints(results, missing)
    adopt_models(results, missing)
    write_settings(results, sweep.settings)
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
        keep_models=arguments.keep_models,
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
    from metaphase.sweeps.planning.missing import missing_cells
    from metaphase.sweeps.store.earlier import every_id
    from metaphase.sweeps.store.folders import shown

    failed = [c for c in sweep.cells if status.get(c.cell_id) == schema.FAILED]
    missing = sum(cell.cell_id not in status for cell in sweep.cells)
    for row in results.read_rows(every_id(failed[:10])):
        where = ", ".join(f"{key}={row[key]}" for key in sweep.axes)
        print(f"failed: {row['cell_id']} ({where}): {shown(str(row['error']))}", file=sys.stderr)
    if failed:
        lost = len(missing_cells(sweep, results, status, False)) - missing
        again = "the same command" if lost == len(failed) else "--retry-failed"
        print(f"{len(failed)} cells failed; {again} tries them again", file=sys.stderr)
    if missing:
        print(f"{missing} cells are missing; the same command continues", file=sys.stderr)
    print(f"Results: {results}")
    print(f"Next: metaphase plot {shlex.quote(str(results))}")
    return 1 if failed or missing else 0


def _log_file(results: Results) -> Path:
    folder = results.local_path
    folder = folder / "logs" if folder else Path(tempfile.mkdtemp(prefix="metaphase-log-"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"run-{time.strftime('%Y%m%d-%H%M%S')}.log"


if __name__ == "__main__":
    sys.exit(main())
