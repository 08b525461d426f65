"""Mirrors the finished cells of a results tree to one tracker, and knows what it has mirrored.

What a tracker has got, and at which destination, is listed in `mirrored.jsonl` in its folder, cell
by cell, so that the next mirror goes on from there, whatever ended this one. A cell that the
tracker refuses is logged, and tried again when the next cells come.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from metaphase.core.cell import SETTINGS, ConfigError
from metaphase.core.phase_rules import outcome_of
from metaphase.sweeps.store.folders import one_line, shown
from metaphase.sweeps.store.results import Results
from metaphase.sweeps.trackers.backends import TRACKERS, Run, Tracker, why_not

logger = logging.getLogger(__name__)

FOLDER = "tracking"  # where mirrors keep what is theirs, in the working directory
LEDGER = "mirrored.jsonl"
LEDGER_BEFORE = "mirrored.json"  # {cell_id: status}, of trackers' usual places
AT_ONCE = 50  # cells whose rows are read together
CELL_SECONDS = 120.0  # that a tracker may take for a cell; W&B gives up by itself after 90
EVERY_SECONDS = 5.0  # between looks at the results
LATE_SECONDS = 20.0  # that mirrors may take when training is over
ALONE_SECONDS = 60.0  # after which a mirror ends itself that nobody has ended
LAZINESS = 15  # niceness

_NO_METRIC = ("cell_id", "step", "split", "n")  # of an evaluation's row


class Mirror:
    """Mirrors a sweep.

    Args:
        results: of the sweep; only read.
        name: of the tracker.
        folder: where it keeps what it needs, one for each sweep and tracker.
        tracker: None: the one of that name.
        limit: seconds that the tracker may take to begin, for a cell and to end; then this process
            ends with a line. None: whoever started it sees to that.

    Attributes:
        destination: of the tracker.
        done: {cell_id: status} of the cells that are there.
        left: how many cells the last `catch_up` found that aren't.

    Raises:
        ConfigError: the tracker can't be made; one line.
        OSError: the folder can't be made or read.
    """

    def __init__(
        self,
        results: Results,
        name: str,
        folder: Path,
        tracker: Tracker | None = None,
        limit: float | None = None,
    ):
        folder.mkdir(parents=True, exist_ok=True)
        self._results, self._name, self._limit = results, name, limit
        with self._limited("to begin"):
            self._tracker: Tracker = tracker or _made(name, folder)
        self.destination = shown(self._tracker.destination)
        self._ledger = folder / LEDGER
        self.done: dict[str, str] = self._read()
        self.left = 0

    def catch_up(self) -> int:
        """Mirrors the finished cells that aren't yet. Returns how many the tracker took.

        Raises:
            ConfigError: something in the tree is where it can't be.
            OSError: the storage fails.
        """
        finished = self._results.finished()
        left = sorted(id_ for id_, status in finished.items() if self.done.get(id_) != status)
        taken, self.left = 0, len(left)
        for start in range(0, len(left), AT_ONCE):
            for run in _runs(self._results, left[start : start + AT_ONCE]):
                try:
                    with self._limited(f"for {run.cell_id}"):
                        self._tracker.write(run)
                except Exception as error:  # whatever the tracker's package raises
                    logger.warning("%s: %s isn't mirrored: %s", self._name, run.cell_id,
                                   _why(error))  # fmt: skip
                    continue
                self._note(run)
                taken, self.left = taken + 1, self.left - 1
        return taken

    def close(self) -> None:
        """What is mirrored is where it belongs."""
        with self._limited("to end"):
            self._tracker.close()

    def _read(self) -> dict[str, str]:
        done: dict[str, str] = {}
        if not self.destination:
            with suppress(OSError, ValueError, TypeError):
                done |= json.loads(self._ledger.with_name(LEDGER_BEFORE).read_text())
        if not self._ledger.exists():
            return done
        for line in self._ledger.read_text(errors="replace").split("\n"):
            with suppress(ValueError, TypeError, KeyError):  # torn: that cell is mirrored again
                noted = json.loads(line)
                if noted["destination"] == self.destination:
                    done[noted["cell_id"]] = noted["status"]
        return done

    def _note(self, run: Run) -> None:
        noted = {"cell_id": run.cell_id, "status": run.status, "destination": self.destination}
        with self._ledger.open("a") as file:
            file.write(f"\n{json.dumps(noted)}")  # behind what may be half a line
        self.done[run.cell_id] = run.status

    @contextmanager
    def _limited(self, to_what: str) -> Iterator[None]:
        """Inside, this process ends with a line once the limit is over. An exception couldn't do
        that: what hangs may be a thread of the tracker's, which Python waits for when it ends."""
        if self._limit is None:
            yield
            return
        line = (
            f"error: {self._name} has taken more than {self._limit:g} seconds {to_what}; "
            f"the same command goes on\n"
        )

        def end() -> None:
            with suppress(OSError):
                os.write(2, line.encode())
            os._exit(1)

        timer = threading.Timer(self._limit, end)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def _made(name: str, folder: Path) -> Tracker:
    try:
        made: Tracker = TRACKERS[name][0](folder)
        return made
    except Exception as error:  # whatever the tracker's package raises
        raise ConfigError(f"{name} can't be used: {_why(error)}") from error


def _why(error: Exception) -> str:
    """What a tracker says, in one line, without users and passwords of URLs."""
    plain = re.sub(r"://\S+@", "://", str(error))
    return one_line(Exception(plain or type(error).__name__))


def folder_of(results: Results, name: str, base: Path | str = FOLDER) -> Path:
    """The folder of the mirror of this sweep to this tracker. Sweeps of one name in different
    places have different ones."""
    digest = hashlib.sha256(str(results).encode()).hexdigest()[:8]
    return Path(base) / f"{results.sweep}-{digest}" / name


def follow(mirror: Mirror, over: Callable[[float], bool], every: float = EVERY_SECONDS) -> None:
    """Mirrors what is finished, again and again, until it is over, and what came last.

    Args:
        mirror: what mirrors.
        over: waits for so many seconds at most; says whether the training has ended.
        every: seconds between looks.

    Raises:
        ConfigError, OSError: what came last can't be mirrored.
    """
    ended = False
    while not ended:
        ended = over(every)
        try:
            mirror.catch_up()
        except (ConfigError, OSError) as error:
            if ended:
                raise
            logger.warning("nothing is mirrored now: %s", one_line(error))
    mirror.close()


@contextmanager
def mirrored(names: Sequence[str], results: Results) -> Iterator[None]:
    """Inside, finished cells are mirrored to these trackers, by a process for each, of which
    nothing is waited for; afterwards, for `LATE_SECONDS` at most.

    Raises:
        ConfigError: a tracker that can't be used; one line.
    """
    for name in names:
        if why := why_not(name):
            raise ConfigError(f"--track: {why}")
    children: dict[str, tuple[subprocess.Popen[bytes], Path]] = {}
    for name in dict.fromkeys(names):
        try:
            children[name] = _start(name, results)
        except OSError as error:
            _tell(f"{name} hasn't begun: {one_line(error)}", name, results)
    try:
        yield
    finally:
        latest = time.monotonic() + LATE_SECONDS
        for child, _ in children.values():
            if child.stdin is not None:
                child.stdin.close()  # by which it knows
        for name, (child, log) in children.items():
            if not _ended(child, latest):
                _tell(f"{name} is late", name, results)
            elif child.returncode != 0:
                _tell(f"{name} hasn't got all cells, see {log}", name, results)


def _tell(what: str, name: str, results: Results) -> None:
    line = f"{what}; metaphase track {results} --to {name} mirrors the rest"
    logger.warning("%s", line)
    print(line, file=sys.stderr)


def _start(name: str, results: Results) -> tuple[subprocess.Popen[bytes], Path]:
    command = [sys.executable, "-m", "metaphase.sweeps.commands.track", str(results), "--to", name]
    path = _log(name, results)
    with path.open("ab") as log:
        child = subprocess.Popen(
            [*command, "--until-closed"], stdin=subprocess.PIPE, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    return child, path


def _log(name: str, results: Results) -> Path:
    folder = results.local_path
    logs = folder / "logs" if folder else Path(tempfile.mkdtemp(prefix="metaphase-log-"))
    logs.mkdir(parents=True, exist_ok=True)
    return logs / f"track-{name}-{time.strftime('%Y%m%d-%H%M%S')}.log"


def _ended(child: subprocess.Popen[bytes], latest: float) -> bool:
    """Whether a mirror ends in time; if not, it is killed, and with it what its tracker started."""
    try:
        child.wait(max(0.0, latest - time.monotonic()))
        return True
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        return False


def _runs(results: Results, cell_ids: Sequence[str]) -> Iterator[Run]:
    """The cells whose rows are there, as trackers write them."""
    wanted = set(cell_ids)
    names = results.tables.names("history")
    history, _ = results.tables.by_cell("history", names, wanted)
    for row in results.read_rows(wanted):
        own = set(filter(None, (row.get("own_settings") or "").split(",")))
        told = {name: row[name] for name in row if name in SETTINGS or name in own}
        yield Run(
            sweep=results.sweep,
            cell_id=row["cell_id"],
            settings={name: value for name, value in told.items() if value is not None},
            metrics=_metrics(history.get(row["cell_id"])),
            results={name: row[name] for name in row if name not in told and _finite(row[name])},
            status=row["status"],
            outcome=outcome_of(row),
            error=row.get("error") or "",
        )


def _metrics(rows: pa.Table | None) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = {}
    for row in rows.to_pylist() if rows is not None else ():
        values = found.setdefault(row["step"], {})
        for name, value in row.items():
            if name not in _NO_METRIC and _finite(value):
                values[f"{row['split']}/{name}"] = value
    return {step: values for step, values in sorted(found.items()) if values}


def _finite(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)
