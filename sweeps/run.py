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
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metaphase.core.cell import Cell
    from metaphase.sweeps.commands.parser import Parser
    from metaphase.sweeps.execution.rounds import Outcome
    from metaphase.sweeps.store.results import Results
    from metaphase.sweeps.sweep_run import SweepRun

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
    from metaphase.sweeps.store.patience import remedy

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
        print(f"error: {'. '.join(filter(None, (what, remedy(error))))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The same command continues.", file=sys.stderr)
        return INTERRUPTED


def _parser() -> Parser:
    from metaphase.sweeps.commands.parser import Parser, add_places, positive

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
    add_places(parser)
    add(
        "--executor",
        choices=("ray", "local"),
        default="ray",
        help="what trains: ray (default), workers of Ray here or in a cluster; local, this process",
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
    add(
        "--keep-evaluations",
        action="store_true",
        help="as --keep-models, and what cells are at each of their evaluations too",
    )
    add(
        "--track",
        metavar="NAME",
        action="append",
        default=[],
        help="mirror finished cells to a tracker, beside the training: tensorboard, wandb, mlflow "
        "or trackio. May be repeated",
    )
    add(
        "--boundary",
        action=argparse.BooleanOptionalAction,
        help="train only those of the cells that tell where generalizing begins, until each size's "
        "interval is narrow (default: as the preset says under search); --no-boundary trains all",
    )
    add(
        "--target-octaves",
        type=float,
        metavar="X",
        help="how wide intervals may be, octaves of the number of tasks (default: 1)",
    )
    add(
        "--budget",
        metavar="X",
        help="the most that a search trains: a share of the cells (default: 0.2), or "
        "operations=SHARE, or hours=H of workers",
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
    from metaphase.core.cell import ConfigError
    from metaphase.sweeps.preset import load_preset
    from metaphase.sweeps.search.seeking import seeking_of
    from metaphase.sweeps.selection import select_cells
    from metaphase.sweeps.store.results import Results
    from metaphase.sweeps.sweep_run import SweepRun
    from metaphase.sweeps.trackers.mirror import mirrored

    started = time.monotonic()
    sweep = load_preset(arguments.preset, arguments.set)
    for line in sweep.without_effect:
        print(f"note: {line}", file=sys.stderr)
    forced = select_cells(sweep.cells, arguments.force) if arguments.force is not None else []
    if arguments.executor == "local" and arguments.gpus:
        raise ConfigError(
            f"--gpus: {arguments.gpus} are GPUs of a cluster; allowed: --executor ray"
        )
    results = Results(arguments.root, sweep.name)
    seeking = seeking_of(sweep, arguments.boundary, arguments.target_octaves, arguments.budget)
    run = SweepRun(
        sweep,
        results,
        forced=forced,
        retry_failed=arguments.retry_failed,
        other_numerics=arguments.other_numerics,
        seeking=seeking,
    )
    if arguments.dry_run:
        from metaphase.sweeps.planning.preview import show_plan, show_search

        if seeking is None:
            show_plan(sweep, results, run.missing, arguments.pack_size)
        else:
            show_search(sweep, results, seeking, run.again)
        return 0
    if over := run.nothing_to_do():
        run.tidy_up()
        print(f"Nothing to do: {over}.")
        return _conclude(run)

    def train(results: Results, missing: list[Cell], **options: Any) -> Outcome:
        log = _log_file(results)
        of = f"{len(sweep.cells)} cells"
        to_do = f"{len(missing)} of {of} to train"
        if seeking is not None:
            again = f"{len(missing)} cells again, and " if missing else ""
            to_do = f"{again}a search among {of}"
        print(f"{sweep.name}: {to_do}; log: {log}", flush=True)
        from metaphase.sweeps.execution.pack_run import EVALUATIONS  # PyTorch takes seconds

        options |= {
            "data_root": str(Path(arguments.data_root).expanduser().absolute()),
            "pack_size": arguments.pack_size,
            "started": started,
            "keep_models": EVALUATIONS if arguments.keep_evaluations else arguments.keep_models,
        }
        if arguments.executor == "local":
            return _train_here(results, missing, log, options)
        from metaphase.sweeps.execution import driver  # Ray and torch take seconds

        driver.log_to(log)
        return driver.train(results, missing, gpus=arguments.gpus, **options)

    with mirrored(arguments.track, results):
        outcome = run.train(train)
    done = sum(cell.cell_id in run.status for cell in sweep.cells)
    print(f"{done} of {len(sweep.cells)} cells are finished: {outcome.phases or 'no phases yet'}")
    if outcome.search:
        print(outcome.search)
    capacity = outcome.wall_seconds * outcome.workers
    print(
        f"{outcome.wall_seconds:.1f} s on {outcome.workers} workers, "
        f"{outcome.training_seconds / capacity:.0%} of it training and evaluating"
    )
    if outcome.config_error:
        print(f"error: {outcome.config_error}", file=sys.stderr)
        return 1
    if outcome.lost:
        print(f"error: another driver has taken over {results}", file=sys.stderr)
        return 1
    if outcome.interrupted:
        again = shlex.join(_without_force(argv))
        print(f"Stopped. This continues: python -m metaphase.sweeps.run {again}")
        return INTERRUPTED
    return _conclude(run)


def _train_here(
    results: Results, missing: list[Cell], log: Path, options: dict[str, Any]
) -> Outcome:
    """Trains in this process. The first Ctrl-C or SIGTERM makes it checkpoint and stop."""
    from metaphase.core.process import interruptible, outlived
    from metaphase.sweeps.execution import local, logfile

    logfile.log_to(log)
    asked = threading.Event()
    with outlived(), interruptible(asked.set):
        return local.train(results, missing, asked_to_stop=asked.is_set, **options)


def _without_force(argv: list[str]) -> list[str]:
    """The command line that continues: what was to be removed is removed."""
    left, rest = [], iter(argv)
    for word in rest:
        if word == "--force":
            next(rest, None)
        elif not word.startswith("--force="):
            left.append(word)
    return left


def _conclude(run: SweepRun) -> int:
    """Says what became of all cells, and what to do next."""
    from metaphase.core import schema
    from metaphase.sweeps.planning.missing import missing_cells
    from metaphase.sweeps.store.earlier import every_id
    from metaphase.sweeps.store.folders import shown

    sweep, results, status = run.sweep, run.results, run.status
    failed = [c for c in sweep.cells if status.get(c.cell_id) == schema.FAILED]
    missing = sum(cell.cell_id not in status for cell in sweep.cells)
    for row in results.read_rows(every_id(failed[:10])):
        where = ", ".join(f"{key}={row[key]}" for key in sweep.axes)
        print(f"failed: {row['cell_id']} ({where}): {shown(str(row['error']))}", file=sys.stderr)
    if failed:
        lost = len(missing_cells(sweep, results, status, False)) - missing
        again = "the same command" if lost == len(failed) else "--retry-failed"
        print(f"{len(failed)} cells failed; {again} tries them again", file=sys.stderr)
    if run.seeking is not None:
        print(
            f"{len(sweep.cells) - missing} of {len(sweep.cells)} cells are trained, "
            f"{run.seeking.share_of_operations(results):.0%} of the grid's operations"
            + "; --no-boundary trains the others"
            * (missing > 0)
        )
        missing = 0
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
