"""Mirrors the finished cells of a sweep to an experiment tracker:

    metaphase track results/quickstart --to tensorboard
    metaphase track s3://bucket/results/figure2 --to mlflow

Each cell is a run: its settings, its evaluations, its phase. What is mirrored already isn't
mirrored again. `metaphase run --track NAME` does the same beside the training.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from metaphase.core.process import as_command
from metaphase.sweeps.commands.parser import Parser, carry_out, folder, sweep_parser


@as_command
def main(argv: list[str] | None = None) -> int:
    """Runs the command line. Returns the exit status, see `sweeps.commands.parser`."""
    return carry_out(_parser(), run, argv)


def run(path: str, to: str, out: str, until_closed: bool) -> None:
    """Mirrors the sweep at `path` to the tracker `to`.

    Args:
        path: of the results.
        to: name of the tracker.
        out: the folder in which mirrors keep what is theirs.
        until_closed: go on until standard input is closed.

    Raises:
        ConfigError: the tracker can't be used or refuses cells, or there is no sweep; one line.
        OSError: the storage fails.
    """
    from metaphase.core.cell import ConfigError
    from metaphase.sweeps.store.results import Results
    from metaphase.sweeps.store.sweepfile import has_settings, read_sweep
    from metaphase.sweeps.trackers import mirror
    from metaphase.sweeps.trackers.backends import why_not

    if why := why_not(to):
        raise ConfigError(f"--to: {why}")
    results = Results.at(path)
    place = mirror.folder_of(results, to, Path(out))
    if until_closed:
        os.nice(mirror.LAZINESS)
        over = _closed(mirror.ALONE_SECONDS)  # whatever hangs from here on
        made = mirror.Mirror(results, to, place)
        mirror.follow(made, over)
    else:
        if not results.exists("cells") or not has_settings(results):
            read_sweep(results)  # says why there is none
        made = mirror.Mirror(results, to, place, limit=mirror.CELL_SECONDS)
        taken = made.catch_up()
        made.close()
        there = f" ({made.destination})" if made.destination else ""
        print(f"{taken} cells mirrored to {to}{there}, {len(made.done)} in all")
    if made.left:
        raise ConfigError(f"{to} refused {made.left} cells; why is said above")


def _closed(alone: float) -> Callable[[float], bool]:
    """What waits for so many seconds at most, and says whether standard input is closed, as it is
    when the process at its other end ends. So many seconds `alone` after that, this process ends,
    whatever hangs in it, and with it what a tracker has started."""
    closed = threading.Event()

    def watch() -> None:
        with contextlib.suppress(OSError):  # of a terminal that is gone
            while os.read(0, 4096):
                pass
        closed.set()
        time.sleep(alone)
        if os.getpgrp() == os.getpid():  # as `mirrored` starts it; else others are in the group
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, name="closed", daemon=True).start()
    return closed.wait


def _parser() -> Parser:
    from metaphase.sweeps.trackers.backends import TRACKERS

    parser = sweep_parser("track", "Mirror a sweep's finished cells to an experiment tracker.")
    parser.add_argument("--to", required=True, metavar="NAME", help=", ".join(TRACKERS))
    parser.add_argument(
        "--out", type=folder, default="tracking",
        help="folder for what is mirrored to this machine (default: tracking)",
    )  # fmt: skip
    parser.add_argument(
        "--until-closed", action="store_true", help="go on until standard input is closed"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
