"""Mirrors the finished cells of a results tree to one tracker, and knows what it has mirrored.

What a tracker has got is listed in `mirrored.json` in its folder, so that the next mirror goes on
from there, whatever ended this one. A cell that the tracker refuses is logged, and tried again when
the next cells come.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from metaphase.core.cell import SETTINGS, ConfigError
from metaphase.core.phase_rules import outcome_of
from metaphase.sweeps.store.folders import one_line
from metaphase.sweeps.store.results import Results
from metaphase.sweeps.trackers.backends import TRACKERS, Run, Tracker, why_not

logger = logging.getLogger(__name__)

FOLDER = "tracking"  # where mirrors keep what is theirs, in the working directory
LEDGER = "mirrored.json"
AT_ONCE = 50  # cells whose rows are read together
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
    """

    def __init__(self, results: Results, name: str, folder: Path, tracker: Tracker | None = None):
        folder.mkdir(parents=True, exist_ok=True)
        self._results, self._name = results, name
        self._tracker: Tracker = tracker or TRACKERS[name][0](folder)
        self._ledger = folder / LEDGER
        self.done: dict[str, str] = self._read()

    def catch_up(self) -> int:
        """Mirrors the finished cells that aren't yet. Returns how many the tracker took.

        Raises:
            ConfigError: something in the tree is where it can't be.
            OSError: the storage fails.
        """
        finished = self._results.finished()
        left = sorted(id_ for id_, status in finished.items() if self.done.get(id_) != status)
        taken = 0
        for start in range(0, len(left), AT_ONCE):
            for run in _runs(self._results, left[start : start + AT_ONCE]):
                try:
                    self._tracker.write(run)
                except Exception as error:  # whatever the tracker's package raises
                    logger.warning("%s: %s isn't mirrored: %s", self._name, run.cell_id,
                                   one_line(error))  # fmt: skip
                    continue
                self.done[run.cell_id] = run.status
                taken += 1
            self._write()
        return taken

    def close(self) -> None:
        """What is mirrored is where it belongs."""
        self._tracker.close()

    def _read(self) -> dict[str, str]:
        try:
            found = json.loads(self._ledger.read_text())
        except (OSError, ValueError):  # none yet, or torn: everything is mirrored again
            return {}
        return found if isinstance(found, dict) else {}

    def _write(self) -> None:
        new = self._ledger.with_name(f".{LEDGER}.{os.getpid()}")
        new.write_text(json.dumps(self.done))
        new.replace(self._ledger)


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
    """
    ended = False
    while not ended:
        ended = over(every)
        try:
            mirror.catch_up()
        except (ConfigError, OSError) as error:
            logger.warning("the results can't be read now: %s", one_line(error))
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
    children = {name: _start(name, results) for name in dict.fromkeys(names)}
    try:
        yield
    finally:
        latest = time.monotonic() + LATE_SECONDS
        for child in children.values():
            if child is not None and child.stdin is not None:
                child.stdin.close()  # by which it knows
        for name, child in children.items():
            if child is not None and not _ended(child, latest):
                line = f"{name} is late; metaphase track {results} --to {name} mirrors the rest"
                logger.warning("%s", line)
                print(line, file=sys.stderr)


def _start(name: str, results: Results) -> subprocess.Popen[bytes] | None:
    command = [sys.executable, "-m", "metaphase.sweeps.commands.track", str(results), "--to", name]
    try:
        with _log(name, results) as log:
            return subprocess.Popen(
                [*command, "--until-closed"], stdin=subprocess.PIPE, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
    except OSError as error:
        logger.warning("%s: no mirror: %s", name, one_line(error))
        return None


def _log(name: str, results: Results) -> Any:
    folder = results.local_path
    logs = folder / "logs" if folder else Path(tempfile.mkdtemp(prefix="metaphase-log-"))
    logs.mkdir(parents=True, exist_ok=True)
    return (logs / f"track-{name}-{time.strftime('%Y%m%d-%H%M%S')}.log").open("ab")


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
