"""What a person sees while a sweep runs: a live line in a terminal, now and then a line elsewhere.

23/56 cells  4 memorizing, 7 identifying, 12 generalizing  41%  0:38 gone, about 0:55 left
"""

from __future__ import annotations

import logging
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from ray import tune

from metaphase.core.phases import PHASES, ROW_COLUMNS, outcome_of
from metaphase.sweeps.execution.clock import clock
from metaphase.sweeps.planning.packs import Pack
from metaphase.sweeps.store.results import LOST_WORKER, Results

logger = logging.getLogger(__name__)

LIVE_SECONDS = 0.5  # between redraws in a terminal
LINE_SECONDS = 10.0  # at least between lines elsewhere ...
LINE_SHARE = 0.1  # ... and of the work
_KILLED = re.compile("low on memory|(ActorDied|ActorUnavailable|WorkerCrashed|NodeDied)Error")
_MACHINE = re.compile(r"\(pid=\d+, ip=([^,)\s]+)")  # as Ray begins an error of a worker
_LACKS = re.compile(
    r"^(?:ModuleNotFound|Import)Error: (.*)", re.MULTILINE
)  # what no cell can cause


class Progress(tune.Callback):
    """Follows the trials of a sweep by the few words that they report.

    Args:
        results: where the workers write.
        packs: what is trained; trial config["pack"] counts into it.
        total: cells in the sweep.
        before: {cell_id: status} of those finished before.

    Attributes:
        training_seconds: what workers spent training and evaluating.
        finished: ids of the cells finished in this run.
        errors: {index of the pack: last error} of the trials that were given up.
        config_error: one line, if a worker found that the data can't be had.
        running: indices of the packs whose trials have begun and not ended.
    """

    def __init__(self, results: Results, packs: Sequence[Pack], total: int, before: dict[str, str]):
        self.results, self.packs, self.total = results, packs, total
        self.training_seconds = 0.0
        self.finished: list[str] = []
        self.errors: dict[int, str] = {}
        self.config_error: str | None = None
        self.running: set[int] = set()
        self._before = len(before)
        self._phases = Counter(dict.fromkeys(PHASES, 0))  # in this order
        self._fraction: dict[int, float] = {}  # of a pack's remaining work
        self._started = time.monotonic()
        self._shown_at, self._shown_share = self._started, 0.0
        self._count(before)

    # --- Tune's hooks ---

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self.running.add(trial.config["pack"])

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self.running.discard(trial.config["pack"])

    def on_trial_result(
        self, iteration: int, trials: list, trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        index = trial.config["pack"]
        pack = self.packs[index]
        steps = sum(cell.steps for cell in pack.cells)
        before = pack.step * len(pack.cells) / steps
        self._fraction[index] = max(0.0, (result["fraction"] - before) / max(1e-9, 1 - before))
        self.training_seconds += result["training_seconds"]
        self.config_error = self.config_error or result["config_error"]
        if result["finished"]:
            self.finished += result["finished"]
            self._phases.update(result["finished"].values())
            logger.info("finished: %s", " ".join(result["finished"]))

    def on_trial_recover(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        logger.warning("pack %d is tried again: %s", trial.config["pack"], _last_error(trial))
        self._look_for_lacks(trial)

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self.running.discard(trial.config["pack"])
        error = _last_error(trial)
        logger.error("pack %d is given up: %s", trial.config["pack"], error)
        self._look_for_lacks(trial)
        if not self.config_error:
            self.errors[trial.config["pack"]] = error

    def _look_for_lacks(self, trial: Any) -> None:
        """A machine whose Python lacks something trains no pack, and no cell is to blame."""
        text = _error_text(trial)
        if lacking := _LACKS.search(text):
            where = _MACHINE.search(text)
            self.config_error = f"{where[1] if where else 'a worker'} lacks something: {lacking[1]}"

    def on_step_end(self, iteration: int, trials: list, **info: Any) -> None:
        now = time.monotonic()
        if sys.stdout.isatty():
            if now - self._shown_at >= LIVE_SECONDS:
                width = shutil.get_terminal_size().columns - 1
                print("\r" + self.line()[:width].ljust(width), end="", flush=True)
                self._shown_at = now
        elif now - self._shown_at >= LINE_SECONDS and self.share >= self._shown_share + LINE_SHARE:
            print(self.line(), flush=True)
            self._shown_at, self._shown_share = now, self.share

    # --- what is known ---

    @property
    def share(self) -> float:
        """Share of this run's work that is done, by estimated cost."""
        total = sum(pack.seconds for pack in self.packs)
        done = sum(self.packs[i].seconds * part for i, part in self._fraction.items())
        return min(1.0, done / total) if total else 1.0

    def line(self) -> str:
        """Cells, phases, share of the work, time gone and left."""
        gone = time.monotonic() - self._started
        parts = [f"{self._before + len(self.finished)}/{self.total} cells", self.phase_counts()]
        parts.append(f"{self.share:.0%}")
        left = f", about {clock(gone * (1 - self.share) / self.share)} left" if self.share else ""
        return "  ".join(part for part in (*parts, f"{clock(gone)} gone{left}") if part)

    def phase_counts(self) -> str:
        """Of the finished cells, such as "3 memorizing, 2 identifying"."""
        return ", ".join(f"{n} {phase}" for phase, n in self._phases.items() if n)

    def _count(self, cell_ids: Collection[str]) -> None:
        """Counts the phases of cells that were finished before, read from the results."""
        try:
            rows = self.results.read_rows(cell_ids, ("cell_id", "status", *ROW_COLUMNS))
        except OSError as error:  # it is only for show
            logger.warning("phases aren't counted: %s", error)
            return
        self._phases.update(outcome_of(row) for row in rows)

    def close(self) -> None:
        """Leaves the live line behind."""
        if sys.stdout.isatty():
            print("\r" + " " * (shutil.get_terminal_size().columns - 1) + "\r", end="", flush=True)


def _last_error(trial: Any) -> str:
    """The last line of what Tune noted about the trial; `trial.get_error` looks where Tune would
    have copied it by the end. It begins with LOST_WORKER if nothing was raised in the worker: its
    process died, its node, or Ray killed it for the node's memory."""
    last = _error_text(trial)
    if not last:
        return LOST_WORKER
    lines = [line.strip()[:500] for line in last.split("\n") if line.strip()] or ["unknown error"]
    died = last.startswith("The actor ") and "creation task" not in lines[0]
    return f"{LOST_WORKER}: {lines[0]}" if died or _KILLED.search(last) else lines[-1]


def _error_text(trial: Any) -> str:
    """What Tune noted of the trial's last failure; empty if it noted nothing."""
    try:
        text = Path(trial.error_file).read_text(encoding="utf-8", errors="replace")
    except (OSError, TypeError):  # there is no file
        return ""
    return re.split(r"^Failure # .*$", text, flags=re.MULTILINE)[-1].strip()
