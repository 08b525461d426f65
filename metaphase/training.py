"""Sweeps described in Python, and their training: `metaphase.Sweep` and `metaphase.run`."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from metaphase.core import schema
from metaphase.core.cell import Cell, ConfigError
from metaphase.reading import SweepResults
from metaphase.sweeps import places
from metaphase.sweeps import preset as presets
from metaphase.sweeps.store.results import Results
from metaphase.sweeps.sweep_run import SweepRun
from metaphase.sweeps.yaml12 import Dumper, show

if TYPE_CHECKING:
    from metaphase.sweeps.execution.rounds import Outcome

StrPath = str | os.PathLike[str]

EXECUTORS = ("local", "ray")
KEPT = (False, True, "evaluations")  # what keep_models may be
NUMERICS = ("refuse", "keep", "renew")  # what other_numerics may be


class Sweep:
    """A named grid of cells.

        mp.Sweep(
            name="mine",
            cell={"dataset": "digits", "image_size": 4, "steps": 1000},
            grid={"model_size": [8, 32], "num_tasks": [2**k for k in range(0, 13, 3)]},
        )

    It is what a preset's file says (docs/training.md; `metaphase settings` lists all settings), and
    is checked in the same way.

    Args:
        name: of the folder that its results get.
        cell: settings that all cells share.
        grid: {setting: its values}: every combination is a cell. Or a list of such grids.
        description: one line.
        search: which of the cells are trained, as presets say it (docs/search.md): "boundary", or a
            mapping such as {"boundary": "generalizing", "budget": 0.1}; None: all of them.

    Attributes:
        name, description: as above.
        cells: all of them, a `metaphase.core.cell.Cell` each.
        axes: the settings that vary.
        settings: the preset as plain data.

    Raises:
        ConfigError: a setting is unknown, or a value impossible; one line that names the key, the
            value and what is allowed.

    A setting that changes nothing in any of the cells, as their family or architecture doesn't use
    it, is taken, with a warning.
    """

    def __init__(
        self,
        name: str,
        cell: Mapping[str, Any] | None = None,
        grid: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Sequence[Any]]] | None = None,
        description: str = "",
        search: str | Mapping[str, Any] | None = None,
    ) -> None:
        said = {"name": name, "description": description, "cell": cell, "grid": grid}
        said["search"] = search
        settings = {key: _plain(key, value) for key, value in said.items() if value is not None}
        text = yaml.dump(settings, Dumper=Dumper, sort_keys=False, allow_unicode=True)
        self._take(presets.parse_preset(text, default_name="", source="Sweep"))
        self._warn()

    @classmethod
    def preset(cls, name_or_path: StrPath, **settings: Any) -> Sweep:
        """The sweep of a preset, given by its name (`metaphase run --list`) or by the path of a
        YAML file.

            mp.Sweep.preset("quickstart", num_tasks=[1, 64], steps=500, name="short")

        Args:
            settings: as `--set` takes them: a list makes or replaces an axis, any other value
                fixes the setting for all cells; `name` keeps the results apart.

        Raises:
            ConfigError: as above, or there is no such preset.
        """
        texts = []
        for key, value in settings.items():
            line = yaml.dump(_plain(key, value), Dumper=Dumper, default_flow_style=True, width=1e9)
            texts.append(f"{key}={line.removesuffix('...' + chr(10)).strip()}")
        try:
            made = cls._of(presets.load_preset(os.fspath(name_or_path), texts))
        except ConfigError as error:
            raise ConfigError(str(error).removeprefix("--set ")) from None
        made._warn()
        return made

    @classmethod
    def _of(cls, sweep: presets.Sweep) -> Sweep:
        made = cls.__new__(cls)
        made._take(sweep)
        return made

    def _take(self, sweep: presets.Sweep) -> None:
        self._sweep = sweep
        self.name, self.description = sweep.name, sweep.description
        self.cells: tuple[Cell, ...] = sweep.cells
        self.axes, self.settings = sweep.axes, sweep.settings

    def _warn(self) -> None:
        """Warns the caller's caller of settings that change nothing."""
        for line in self._sweep.without_effect:
            warnings.warn(line, stacklevel=3)

    def to_yaml(self) -> str:
        """The preset's file that says the same, for `metaphase run`."""
        return presets.dump_settings(self.settings)

    def __repr__(self) -> str:
        over = f" over {' x '.join(self.axes)}" if self.axes else ""
        return f"<Sweep {self.name}: {len(self.cells)} cells{over}>"


def run(
    sweep: Sweep,
    root: StrPath = "results",
    *,
    executor: Literal["local", "ray"] = "local",
    keep_models: bool | Literal["evaluations"] = False,
    data_root: StrPath = "data",
    device: str | None = None,
    pack_size: int | None = None,
    boundary: bool | None = None,
    retry_failed: bool = False,
    other_numerics: Literal["refuse", "keep", "renew"] = "refuse",
    time_limit: float | None = None,
    progress: bool = True,
) -> SweepResults:
    """Trains the cells of a sweep that its results lack, as the command `metaphase run` does.

        results = mp.run(mp.Sweep.preset("quickstart"), keep_models=True)

    Whatever stopped it (an interrupt, a time limit, a kill), the same call goes on: no finished
    cell is trained again, others go on from their checkpoints, and all numbers are those of a run
    that was never stopped. Two runs of one sweep don't meet: the second is refused.

    The local executor trains in this process, on its GPU or on all its CPU cores, in threads of its
    own. Of the caller's it changes nothing: neither logging nor signals, environment, working
    directory, random states, or PyTorch's and matplotlib's settings. It may be called in a thread
    and in a notebook. The other one runs `metaphase run` in a process of its own, on the Ray
    cluster that RAY_ADDRESS names, or on a Ray that it starts on this machine.

    Args:
        sweep: what to train.
        root: the folder of results, or its URI (s3://...): they are in `<root>/<sweep.name>`.
        executor: "local", or "ray".
        keep_models: whether weights of the cells that are finished are kept, for
            `SweepResults.model`; "evaluations": and of all cells at each of their evaluations.
        data_root: folder of the base data sets.
        device: a torch device of the local executor; None: a GPU where there is one, else the CPU.
        pack_size: the most cells that are trained together; None: as planned.
        boundary: whether only those cells are trained that tell where phases begin; None: as the
            sweep says under `search`; False: all of them.
        retry_failed: whether cells that failed are trained again.
        other_numerics: what to do about finished cells whose numerics aren't this program's, before
            others are trained: "refuse", "keep" them beside the new ones, or "renew" them.
        time_limit: seconds after which it stops, as an interrupt would, and returns what there is.
        progress: whether it prints how far it is.

    Returns:
        The results so far: all of them, unless cells failed, the time was over, or it was a search.

    Raises:
        ConfigError: nothing was begun, or no cell can go on: an impossible value, data that can't
            be had, a sweep that is being run; one line.
        OSError: the storage fails; the same call continues.
        KeyboardInterrupt: it was interrupted, and what was trained is saved.
    """
    started = time.monotonic()
    _check(sweep, executor, keep_models, device, other_numerics, boundary, time_limit, pack_size)
    place = places.checked_root(os.fspath(root))
    data = str(Path(places.checked_folder(os.fspath(data_root))).absolute())
    options: dict[str, Any] = {"pack_size": pack_size, "keep_models": keep_models}
    if executor == "ray":
        from metaphase import ray_process

        options |= {"retry_failed": retry_failed, "other_numerics": other_numerics}
        options["boundary"] = boundary
        ray_process.run(
            sweep.settings, place, data_root=data, time_limit=time_limit, shown=progress, **options
        )
        return SweepResults(places.inside(place, sweep.name))

    def say(*words: str, **options: Any) -> None:
        if progress:
            print(*words, flush=True, **options)

    from metaphase.sweeps.search.seeking import seeking_of

    results = Results(place, sweep.name)
    seeking = seeking_of(sweep._sweep, boundary)
    work = SweepRun(
        sweep._sweep, results, retry_failed=retry_failed, other_numerics=other_numerics, say=say,
        seeking=seeking,
    )  # fmt: skip
    over = work.nothing_to_do()
    if device is not None or not over:
        from metaphase.sweeps.execution import local  # PyTorch takes seconds

        local.usable_device(device)
    if over:
        work.tidy_up()
        say(f"Nothing to do: {over}.")
        return SweepResults(str(results))

    def train(results: Results, missing: Sequence[Cell], **more: Any) -> Outcome:
        to_do = f"{len(missing)} of {len(sweep.cells)} cells to train"
        if seeking is not None:
            again = f"{len(missing)} cells again, and " if missing else ""
            to_do = f"{again}a search among {len(sweep.cells)} cells"
        say(f"{sweep.name}: {to_do}")
        limit = float("inf") if time_limit is None else time_limit
        return local.train(
            results, missing, data_root=data, device=device, started=started, shown=progress,
            asked_to_stop=lambda: time.monotonic() - started > limit, **options, **more,
        )  # fmt: skip

    try:
        outcome = work.train(train)
    except KeyboardInterrupt:
        say("Stopped. The same call continues.")
        raise
    if outcome.config_error:
        raise ConfigError(outcome.config_error)
    if outcome.lost:
        raise ConfigError(f"another driver has taken over {results}")
    done = sum(cell.cell_id in work.status for cell in sweep.cells)
    say(f"{done} of {len(sweep.cells)} cells are finished: {outcome.phases or 'no phases yet'}")
    if outcome.search:
        say(outcome.search)
    failed = sum(work.status.get(cell.cell_id) == schema.FAILED for cell in sweep.cells)
    if failed:
        say(f"{failed} cells failed; their errors are in the column error of cells",
            file=sys.stderr)  # fmt: skip
    return SweepResults(str(results))


def _check(
    sweep: Any,
    executor: Any,
    keep_models: Any,
    device: str | None,
    other_numerics: Any,
    boundary: Any,
    time_limit: float | None,
    pack_size: int | None,
) -> None:
    if not isinstance(sweep, Sweep):
        raise ConfigError(
            f"sweep: {show.repr(sweep)} is not a Sweep; allowed: metaphase.Sweep(...) or "
            "metaphase.Sweep.preset(...)"
        )
    for name, value, allowed in (
        ("executor", executor, EXECUTORS),
        ("keep_models", keep_models, KEPT),
        ("other_numerics", other_numerics, NUMERICS),
        ("boundary", boundary, (None, True, False)),
    ):
        if not any(value is one or (type(value) is str and value == one) for one in allowed):
            words = ", ".join(map(str, allowed))
            raise ConfigError(f"{name}: {show.repr(value)} is not allowed; allowed: {words}")
    if executor == "ray" and device is not None:
        raise ConfigError(
            f"device: {device!r} is for the local executor; Ray's workers have theirs"
        )
    if pack_size is not None and (type(pack_size) is not int or pack_size < 1):
        raise ConfigError(f"pack_size: {pack_size!r} is no number of cells; allowed: 1 or more")
    seconds = isinstance(time_limit, (int, float)) and time_limit >= 0
    if time_limit is not None and not seconds:
        raise ConfigError(f"time_limit: {time_limit!r} is no number of seconds")


def _plain(key: str, value: Any) -> Any:
    """A value as YAML has it: arrays, ranges and tuples as lists, NumPy's numbers as Python's.

    Raises:
        ConfigError: it is nothing of the kind.
    """
    if isinstance(value, Mapping):
        return {
            (k if isinstance(k, str) else str(k)): _plain(str(k), part) for k, part in value.items()
        }
    if hasattr(value, "tolist"):  # NumPy's numbers and arrays, columns of pandas, tensors
        value = value.tolist()
    if isinstance(value, list | tuple | range | set | frozenset):
        parts = sorted(value) if isinstance(value, set | frozenset) else value
        return [_plain(key, part) for part in parts]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise ConfigError(
        f"{key}: {show.repr(value)} is not a plain value; allowed: a number, true or false, a "
        "short text, or a list of these"
    )
