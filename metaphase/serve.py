"""Serves a page with the maps of sweeps, which follows them while they are trained:

    metaphase serve results/quickstart
    metaphase serve results/a s3://bucket/results/b --port 8000

The page is on this machine's loopback, for whoever is logged in there; through SSH, `ssh -L
8000:localhost:8000 MACHINE`. With --host it is on the network, at an address with a token in it.
"""

from __future__ import annotations

import argparse
import logging
import secrets
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from metaphase.analysis.errors import ResultsError
from metaphase.core.process import as_command
from metaphase.sweeps.commands.parser import Parser, carry_out, sweep_place

HOST = "127.0.0.1"


@as_command
def main(argv: list[str] | None = None) -> int:
    """Runs the command line. Returns the exit status, see `sweeps.commands.parser`."""
    return carry_out(_parser(), run, argv, errors=ResultsError)


def run(paths: Sequence[str], host: str, port: int, every: float) -> None:
    """Serves the sweeps at `paths` until it is interrupted.

    Raises:
        ResultsError: a URI that can't be used, or an address that can't be had.
    """
    logging.getLogger().addHandler(logging.NullHandler())  # the page says what there is to say
    server, sweeps = start(paths, host, port, every)
    print(f"serving {', '.join(paths)} at {server.url} (Ctrl-C ends it)", flush=True)
    try:
        server.serve_forever()
    finally:
        sweeps.stop()
        server.server_close()


def start(
    paths: Sequence[str], host: str = HOST, port: int = 0, every: float = 2.0
) -> tuple[Any, Served]:
    """The page's server, not serving yet, and the sweeps that it shows, already followed.

    Args:
        paths: of sweeps' results, folders or URIs.
        host, port: where it listens; port 0: any that is free.
        every: seconds between looks at each sweep.

    Raises:
        ResultsError: as for `run`.
    """
    from metaphase.analysis.serving.page import html
    from metaphase.analysis.serving.server import Server, is_loopback

    sweeps = Served(paths)
    try:
        token = "" if is_loopback(host) else secrets.token_urlsafe(24)
        server = Server(host, port, html(served=list(paths)), sweeps, token)
    except (OSError, OverflowError, UnicodeError) as error:  # the last: no name of a host
        why = getattr(error, "strerror", None) or error
        raise ResultsError(f"--host {host!r} --port {port}: {why}") from None
    sweeps.start(every)
    return server, sweeps


class Served:
    """The sweeps that a server shows (`analysis.serving.server.Sweeps`)."""

    def __init__(self, paths: Sequence[str]):
        from metaphase.analysis.serving.tree import open_tree
        from metaphase.following import Follower

        self._followers = [Follower(path) for path in paths]
        self._trees = [open_tree(path) for path in paths]  # from which curves are read
        self._lock = threading.Lock()
        self._since = int(time.time() * 1000) % 10**9 * 1000  # versions of another server differ
        self._made: dict[int, tuple[Any, dict[str, Any]]] = {}

    def start(self, every: float) -> None:
        """Looks at all sweeps again and again, each in a thread of its own, until `stop`."""
        for follower in self._followers:
            follower.start(every=every)

    def stop(self) -> None:
        for follower in self._followers:
            follower.stop()

    def document(self, number: int, version: int) -> Mapping[str, Any] | None:
        from metaphase.analysis.serving import document

        view = self._follower(number).view
        now = self._since + view.version
        if version == now:
            return None
        snapshot, made = view.snapshot, self._made.get(number)
        if snapshot is None:
            return {"version": now, "line": view.line, "gone": True, "document": None}
        if made is None or made[0] is not snapshot:
            made = self._made[number] = (snapshot, document.overview(snapshot))
        return {"version": now, "line": view.line, "gone": False, "document": made[1]}

    def curves(self, number: int, cell_id: str) -> Mapping[str, Any]:
        from metaphase.analysis.serving import document

        snapshot = self._follower(number).view.snapshot
        if snapshot is None or cell_id not in set(snapshot.cells["cell_id"]):
            raise LookupError(cell_id)
        with self._lock:
            return document.curves(self._trees[number].curves(cell_id))

    def _follower(self, number: int) -> Any:
        if not 0 <= number < len(self._followers):
            raise LookupError(number)
        return self._followers[number]


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and int(text) < 65536):
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not a port; allowed: 0 to 65535")
    return int(text)


def _parser() -> Parser:
    from metaphase.watch import add_every

    parser = Parser(
        prog="metaphase serve",
        description="Serve a page with the maps of sweeps, which follows them.",
    )
    parser.add_argument(
        "paths", metavar="PATH", nargs="+", type=sweep_place,
        help="a sweep's results, a folder or a URI: results/quickstart",
    )  # fmt: skip
    parser.add_argument(
        "--host", default=HOST,
        help="where it listens (default: %(default)s, this machine alone). Elsewhere the address "
        "has a token, and what is sent isn't encrypted",
    )  # fmt: skip
    parser.add_argument("--port", type=_port, default=0, help="default: any that is free")
    add_every(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
