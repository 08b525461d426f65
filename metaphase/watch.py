"""Shows a sweep in a terminal while it is trained, here or elsewhere:

    metaphase watch results/quickstart
    metaphase watch s3://bucket/results/figure2 --every 30
    metaphase watch results/quickstart --once            # for a log

The map of phases as it fills, where phases begin, what is in training and how long it will take.
Writes nothing and starts nothing. A sweep that isn't there yet is waited for.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import threading

from metaphase.analysis.errors import ResultsError
from metaphase.core.process import as_command, is_lost
from metaphase.sweeps.commands.parser import Parser, carry_out, sweep_parser

SHORTEST = 0.2  # seconds between looks
NARROWEST = 20  # columns of a terminal that are counted on
LOG_WIDTH = 160  # columns of what is printed to a file


@as_command
def main(argv: list[str] | None = None) -> int:
    """Runs the command line. Returns the exit status, see `sweeps.commands.parser`."""
    return carry_out(_parser(), run, argv, errors=ResultsError)


def run(path: str, once: bool, every: float) -> None:
    """Shows the sweep at `path` once, or every so many seconds until it is interrupted, or nobody
    can see it any more.

    Raises:
        ResultsError: with `once`, there is nothing to show; one line.
    """
    from rich.console import Console
    from rich.live import Live

    from metaphase.analysis.serving.terminal import Screen
    from metaphase.following import Follower

    logging.getLogger().addHandler(logging.NullHandler())  # the screen says what there is to say
    console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = LOG_WIDTH
    console.width = max(console.width, NARROWEST)
    follower = Follower(path)
    if once:
        view = follower.look()
        if view.line:
            raise ResultsError(view.line.removeprefix("waiting: ").removesuffix("; looking again"))
        console.print(Screen(view.snapshot))
        return
    shown = threading.Event()
    follower.start(lambda view: shown.set(), every)
    live = console.is_terminal and not console.is_dumb_terminal
    version, said = -1, ""
    try:
        with (
            Live(console=console, auto_refresh=False, transient=False)
            if live
            else _Nothing() as screen
        ):
            while not is_lost():
                shown.wait()
                shown.clear()
                view = follower.view
                if view.version == version:
                    continue
                version = view.version
                if isinstance(screen, Live):
                    screen.update(Screen(view.snapshot, view.line, fit=True), refresh=True)
                elif view.line:
                    if view.line != said:
                        print(view.line, flush=True)
                    said = view.line
                else:
                    console.print(Screen(view.snapshot))
                    said = ""
    finally:
        follower.stop()


class _Nothing:
    """Stands for the live display where there is no terminal."""

    def __enter__(self) -> None: ...

    def __exit__(self, *reasons: object) -> None: ...


def seconds(text: str) -> float:
    """An argument's type: seconds between looks."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not SHORTEST <= value <= 86400:
        allowed = f"{SHORTEST} to 86400 seconds"
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not allowed; allowed: {allowed}")
    return value


def add_every(parser: Parser) -> None:
    """--every, of what follows a sweep."""
    parser.add_argument(
        "--every", metavar="S", type=seconds, default=2.0,
        help="seconds between looks at a sweep (default: 2)",
    )  # fmt: skip


def _parser() -> Parser:
    parser = sweep_parser("watch", "Show a sweep in the terminal while it is trained.")
    parser.add_argument("--once", action="store_true", help="show it as it is now, and end")
    add_every(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
