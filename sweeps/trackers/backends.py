"""The trackers: each writes a cell as a run. Their packages are imported when they are used.

Where a tracker writes, and as whom, is the tracker's own business: its variables of the environment
(WANDB_MODE, WANDB_PROJECT, MLFLOW_TRACKING_URI, TRACKIO_DIR and so on) say it. Without them it is a
folder of this machine, as far as the tracker knows such a thing. What they say is a destination, by
which is told apart what is where.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from metaphase.sweeps.places import without_secrets


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
    """Writes runs; made with a folder of this machine that is the tracker's own.

    Attributes:
        destination: where, as far as that isn't the tracker's folder or usual place: one line, the
            same for the same place, without secrets.
    """

    destination: str

    def write(self, run: Run) -> None:
        """Writes a run whole. One that is there already, or half, is replaced where the tracker
        can do that."""

    def close(self) -> None:
        """What is written is where it belongs."""


class TensorBoard:
    """A folder of event files for each cell: `tensorboard --logdir tracking`. They are written
    without tensorboardX's SummaryWriter, whose thread dies of a full disk and is waited for."""

    destination = ""

    def __init__(self, folder: Path):
        import tensorboardX  # noqa: F401  # as Ray Tune brings it

        self._folder = folder

    def write(self, run: Run) -> None:
        place = self._folder / run.cell_id
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        try:
            self._write(run, place)
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise

    def _write(self, run: Run, place: Path) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar, text

        events, now = EventsWriter(str(place / "events")), time.time()
        for step, values in run.metrics.items():
            for name, value in values.items():
                events.write_event(Event(wall_time=now, step=step, summary=scalar(name, value)))
        last = max(run.metrics, default=0)
        for name, value in run.results.items():
            summary = scalar(f"result/{name}", value)
            events.write_event(Event(wall_time=now, step=last, summary=summary))
        told = {**run.settings, "status": run.status, "outcome": run.outcome}
        words = f"```\n{json.dumps(told, indent=1, default=str)}\n{run.error}\n```"
        events.write_event(Event(wall_time=now, summary=text("cell", words)))
        events.close()

    def close(self) -> None:
        pass


class WandB:
    """A run of Weights & Biases for each cell, in a group named like the sweep."""

    def __init__(self, folder: Path):
        import wandb

        self._project = os.environ.get("WANDB_PROJECT") or "metaphase"
        said = wandb.setup().settings  # by variables and files of settings
        self._offline = said.mode in ("offline", "dryrun")
        usual = {"mode": "online", "base_url": wandb.Settings().base_url, "entity": None}
        told = {name: getattr(said, name) for name in usual} | {"project": self._project}
        usual["project"] = "metaphase"
        self.destination = ", ".join(
            f"{name}={without_secrets(str(value))}"
            for name, value in told.items()
            if value != usual[name]
        )
        self._folder = folder
        if self._offline and self.destination != "mode=offline":  # another project, ...
            self._folder /= hashlib.sha256(self.destination.encode()).hexdigest()[:8]
            self._folder.mkdir(parents=True, exist_ok=True)

    def write(self, run: Run) -> None:
        import wandb

        if self._offline:  # each time it makes a further folder
            for file in self._folder.glob(f"wandb/offline-run-*/run-{run.cell_id}.wandb"):
                shutil.rmtree(file.parent)
        settings = wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True)
        made = wandb.init(
            project=self._project, group=run.sweep, id=run.cell_id, name=run.cell_id,
            resume="allow", config=dict(run.settings), tags=[run.outcome[:64]],
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

        uri = os.environ.get("MLFLOW_TRACKING_URI", "")
        self.destination = without_secrets(uri)
        path = re.sub("^(sqlite:///|file:(//)?)", "", uri)
        if uri and ":" not in path and not path.startswith("/"):
            self.destination += f" in {Path.cwd()}"
        self._client = MlflowClient(uri or f"sqlite:///{folder.absolute() / 'mlflow.db'}")
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
    """A run of trackio for each cell, in a project named like the sweep: `trackio show`. A server
    or a Space keeps what it has of a run beside what replaces it."""

    def __init__(self, folder: Path):
        own = str(folder.absolute())
        place = str(Path(os.environ.get("TRACKIO_DIR") or own).absolute())
        os.environ["TRACKIO_DIR"] = place  # before the package is imported
        import trackio  # noqa: F401

        space, server = (os.environ.get(f"TRACKIO_{name}") for name in ("SPACE_ID", "SERVER_URL"))
        self._remote = bool(space or server)
        elsewhere = "" if place == own else place
        self.destination = space or without_secrets(server or "") or elsewhere

    def write(self, run: Run) -> None:
        import trackio

        if not self._remote:
            with suppress(ValueError):  # no project yet
                for earlier in trackio.Api().runs(run.sweep):
                    if earlier.name == run.cell_id:
                        earlier.delete()
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            self._write(run)
        for each in map(str, (one.message for one in warned)):
            if re.search("fail|could not", each, re.IGNORECASE):  # all that it says of lost rows
                raise RuntimeError(each)

    def _write(self, run: Run) -> None:
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
