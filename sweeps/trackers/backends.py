"""The trackers: each writes a cell as a run. Their packages are imported when they are used.

Where a tracker writes, and as whom, is the tracker's own business: its variables of the environment
(WANDB_MODE, WANDB_PROJECT, MLFLOW_TRACKING_URI, TRACKIO_DIR and so on) say it. Without them it is a
folder of this machine, as far as the tracker knows such a thing.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Run:
    """A finished cell.

    Attributes:
        sweep: its sweep's name.
        cell_id: of the cell.
        settings: by name, plain values.
        metrics: {step: {"unseen/last": value, ...}} of its evaluations, finite, none empty.
        results: its numbers of the cells table, such as unseen_last, likewise.
        status: of the cells table.
        outcome: its phase, or why it has none.
        error: why it failed; empty: it didn't.
    """

    sweep: str
    cell_id: str
    settings: Mapping[str, Any]
    metrics: Mapping[int, Mapping[str, float]]
    results: Mapping[str, float]
    status: str
    outcome: str
    error: str = ""


class Tracker(Protocol):
    """Writes runs; made with a folder of this machine that is the tracker's own."""

    def write(self, run: Run) -> None:
        """Writes a run whole. One that is there already, or half, is replaced where the tracker
        can do that."""

    def close(self) -> None:
        """What is written is where it belongs."""


class TensorBoard:
    """A folder of event files for each cell: `tensorboard --logdir tracking`."""

    def __init__(self, folder: Path):
        self._folder = folder

    def write(self, run: Run) -> None:
        from tensorboardX import SummaryWriter  # as Ray Tune brings it

        place = self._folder / run.cell_id
        shutil.rmtree(place, ignore_errors=True)
        with SummaryWriter(str(place)) as writer:
            for step, values in run.metrics.items():
                for name, value in values.items():
                    writer.add_scalar(name, value, step)
            for name, value in run.results.items():
                writer.add_scalar(f"result/{name}", value, max(run.metrics, default=0))
            told = {**run.settings, "status": run.status, "outcome": run.outcome}
            writer.add_text(
                "cell", f"```\n{json.dumps(told, indent=1, default=str)}\n{run.error}\n```"
            )

    def close(self) -> None:
        pass


class WandB:
    """A run of Weights & Biases for each cell, in a group named like the sweep."""

    def __init__(self, folder: Path):
        self._folder = folder

    def write(self, run: Run) -> None:
        import wandb

        settings = wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True)
        made = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "metaphase"), group=run.sweep, id=run.cell_id,
            name=run.cell_id, resume="allow", config=dict(run.settings), tags=[run.outcome[:64]],
            dir=str(self._folder), settings=settings,
        )  # fmt: skip
        for step, values in run.metrics.items():
            made.log(dict(values), step=step)
        made.summary.update({**run.results, "status": run.status, "outcome": run.outcome})
        if run.error:
            made.summary["error"] = run.error
        made.finish(exit_code=int(run.status == "failed"))

    def close(self) -> None:
        pass


class MLflow:
    """A run of MLflow for each cell, in an experiment named like the sweep."""

    def __init__(self, folder: Path):
        from mlflow import MlflowClient

        own = f"sqlite:///{folder.absolute() / 'mlflow.db'}"
        self._client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", own))
        self._artifacts = (folder / "artifacts").absolute().as_uri()

    def write(self, run: Run) -> None:
        from mlflow.entities import Metric, Param

        client, experiment = self._client, self._experiment(run.sweep)
        for other in client.search_runs([experiment], f"tags.cell_id = '{run.cell_id}'"):
            client.delete_run(other.info.run_id)
        tags = {"cell_id": run.cell_id, "status": run.status, "outcome": run.outcome}
        tags |= {"error": run.error[:5000]} if run.error else {}
        made = client.create_run(experiment, tags=tags, run_name=run.cell_id).info.run_id
        now = int(time.time() * 1000)
        metrics = [
            Metric(name, value, now, step)
            for step, values in run.metrics.items()
            for name, value in values.items()
        ]
        last = max(run.metrics, default=0)
        metrics += [Metric(f"result/{name}", v, now, last) for name, v in run.results.items()]
        params = [Param(name, str(value)[:6000]) for name, value in run.settings.items()]
        client.log_batch(made, params=params[:100])
        for start in range(0, len(metrics), 1000):  # as many as it takes at once
            client.log_batch(made, metrics=metrics[start : start + 1000])
        client.set_terminated(made, "FAILED" if run.status == "failed" else "FINISHED")

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        return str(self._client.create_experiment(name, artifact_location=self._artifacts))

    def close(self) -> None:
        pass


class Trackio:
    """A run of trackio for each cell, in a project named like the sweep: `trackio show`."""

    def __init__(self, folder: Path):
        os.environ.setdefault("TRACKIO_DIR", str(folder.absolute()))

    def write(self, run: Run) -> None:
        import trackio

        told = {**run.settings, "status": run.status, "outcome": run.outcome, "error": run.error}
        trackio.init(
            project=run.sweep, name=run.cell_id, config=told, resume="never", auto_log_gpu=False,
            embed=False,
        )  # fmt: skip
        last = max(run.metrics, default=0)
        results = {f"result/{name}": value for name, value in run.results.items()}
        at_end = {**run.metrics.get(last, {}), **results}
        for step, values in {**run.metrics, last: at_end}.items():
            trackio.log(dict(values), step=step)
        trackio.finish()

    def close(self) -> None:
        pass


# name: (class, package that it needs)
TRACKERS: dict[str, tuple[type[Any], str]] = {
    "tensorboard": (TensorBoard, "tensorboardX"),
    "wandb": (WandB, "wandb"),
    "mlflow": (MLflow, "mlflow"),
    "trackio": (Trackio, "trackio"),
}


def why_not(name: str) -> str:
    """Why this tracker can't be used here, in words; empty: it can."""
    if name not in TRACKERS:
        return f"{name[:80]!r} is no tracker; allowed: {', '.join(TRACKERS)}"
    package = TRACKERS[name][1]
    if find_spec(package) is None:
        return f"{package} is not installed: pip install {package}"
    return ""
