"""Progress as Ray Tune tells of it: trials begin, report, and are given up."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from ray import tune

from metaphase.sweeps.execution.progress import Progress
from metaphase.sweeps.store.results import LOST_WORKER

logger = logging.getLogger(__name__)

_KILLED = re.compile("low on memory|(ActorDied|ActorUnavailable|WorkerCrashed|NodeDied)Error")
_MACHINE = re.compile(r"\(pid=\d+, ip=([^,)\s]+)")  # as Ray begins an error of a worker
_LACKS = re.compile(
    r"^(?:ModuleNotFound|Import)Error: (.*)", re.MULTILINE
)  # what no cell can cause


class TuneProgress(Progress, tune.Callback):
    """Follows the trials of a sweep; trial config["pack"] counts into its packs."""

    def on_trial_start(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self.begin(trial.config["pack"])

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self.end(trial.config["pack"])

    def on_trial_result(
        self, iteration: int, trials: list, trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self.note(trial.config["pack"], result)

    def on_trial_recover(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        logger.warning("pack %d is tried again: %s", trial.config["pack"], _last_error(trial))
        self._look_for_lacks(trial)

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._look_for_lacks(trial)
        self.end(trial.config["pack"], _last_error(trial))

    def _look_for_lacks(self, trial: Any) -> None:
        """A machine whose Python lacks something trains no pack, and no cell is to blame."""
        text = _error_text(trial)
        if lacking := _LACKS.search(text):
            where = _MACHINE.search(text)
            self.config_error = f"{where[1] if where else 'a worker'} lacks something: {lacking[1]}"

    def on_step_end(self, iteration: int, trials: list, **info: Any) -> None:
        self.show()


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
