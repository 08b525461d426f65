"""A sweep's tables as frames: the rows that `sweeps.store` reads, one set of rows a cell."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import fs

from metaphase.analysis.errors import ResultsError, ResultsWarning
from metaphase.core import schema
from metaphase.core.cell import Cell, ConfigError
from metaphase.sweeps import places
from metaphase.sweeps.store import folders, searchfile, sweepfile, tables
from metaphase.sweeps.store.storage import Storage
from metaphase.sweeps.store.table_files import TableFiles

Path = str | os.PathLike[str]

HALF_TRAINED = "checkpoints"  # folder of what unfinished cells have
LOOKS = 3  # times a folder is listed anew because a listed file is gone

CELL_COLUMNS = (
    "cell_id",
    "architecture",
    "model_size",
    "num_tasks",
    "seed",
    "status",
    "chance",
    "n",
    *schema.statistics_columns((schema.SEEN, schema.UNSEEN)),
)  # without these a row of the cells table can't be analysed


def load_cells(path: Path) -> pd.DataFrame:
    """The finished cells of a sweep, one row each, ordered along the grid's axes.

    Args:
        path: the sweep, `<root>/<sweep>`: a local path or a URI of pyarrow's filesystems.

    Raises:
        ResultsError: no such folder, no finished cell, or a column missing everywhere.
    """
    frame = _load(path, "cells", CELL_COLUMNS)
    if frame.empty:
        raise ResultsError(f"{path}: no finished cells yet")
    _warn_of_numerics(path, frame)
    order = ["architecture", "model_size", "num_tasks", "seed", "cell_id"]
    return frame.sort_values(order, ignore_index=True)


def _warn_of_numerics(path: Path, cells: pd.DataFrame) -> None:
    """Cells of several revisions (`core.cell.NUMERICS`) in one figure are worth a word."""
    if "numerics" not in cells:
        return
    trained = cells.loc[cells["status"] != schema.FAILED, "numerics"]
    counts = trained.fillna(1).astype(int).value_counts().sort_index()
    if len(counts) > 1:
        parts = ", ".join(f"{count} of revision {revision}" for revision, count in counts.items())
        _warn(
            f"{path}: cells of different numerics are shown together ({parts}); `metaphase run` "
            "with --other-numerics renew trains the others anew"
        )


def load_history(path: Path) -> pd.DataFrame:
    """Evaluations during training, `core.schema.HISTORY_COLUMNS`; half-trained cells included.

    Empty if nothing was evaluated yet. Arguments and errors as for `load_cells`.
    """
    frame = _load(path, "history", schema.HISTORY_COLUMNS)
    return frame.sort_values(["cell_id", "step", "split"], ignore_index=True)


def load_curves(path: Path) -> pd.DataFrame:
    """Accuracy at every position (from 1), `core.schema.CURVES_COLUMNS`.

    Empty if no cell is finished. Arguments and errors as for `load_cells`.
    """
    frame = _load(path, "curves", schema.CURVES_COLUMNS)
    return frame.sort_values(["cell_id", "split", "position"], ignore_index=True)


def load_yardsticks(path: Path) -> pd.DataFrame:
    """Known algorithms on the cells' sequences, `core.schema.YARDSTICK_COLUMNS`.

    Empty if `metaphase yardsticks` hasn't run. Arguments and errors as for `load_cells`.
    """
    frame = _load(path, "yardsticks", schema.YARDSTICK_COLUMNS)
    order = [*schema.YARDSTICK_SETTINGS, "split", "yardstick", "position"]
    return frame.sort_values(order, ignore_index=True)


def load_grid(path: Path) -> pd.DataFrame | None:
    """All cells that a sweep which seeks boundaries (docs/search.md) may train, a row each with
    their settings as the cells table has them; None where the sweep is no search, or its preset
    can't be read.

    Raises:
        ResultsError: a URI that can't be used.
    """
    storage = _open(path)
    try:
        if not storage.exists(searchfile.NAME):
            return None
        cells = sweepfile.read_sweep(storage).cells
    except (ConfigError, OSError) as error:
        _warn_skipped(f"{path}/{searchfile.NAME}", "is left out", folders.one_line(error))
        return None
    return grid_rows(cells)


def grid_rows(cells: Iterable[Cell]) -> pd.DataFrame:
    """A row for each cell, with its settings as the cells table has them."""
    rows = [{k: schema.to_column(v) for k, v in cell.to_dict().items()} for cell in cells]
    return pd.DataFrame(rows)


def open_folder(path: Path) -> tuple[fs.FileSystem, str]:
    """The filesystem of a path or URI, and the path on it.

    Raises:
        ResultsError: a URI that no filesystem of pyarrow takes.
    """
    if "://" not in str(path):
        return fs.LocalFileSystem(), os.path.abspath(path)
    try:
        filesystem, inside = fs.FileSystem.from_uri(str(path))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ResultsError(f"{path}: {folders.one_line(error)}") from error
    return filesystem, inside.rstrip("/")


def _load(path: Path, table: str, columns: tuple[str, ...]) -> pd.DataFrame:
    storage = _open(path)
    files = TableFiles(storage, _warn_skipped, failing="leave out")
    for attempt in range(LOOKS):
        try:
            names = files.names(table)
        except OSError as error:
            raise ResultsError(f"{path}: {folders.one_line(error)}") from error
        if not names and table == "cells" and not _is_folder(storage, "cells"):
            raise ResultsError(f"{path}: {_why_no_cells(storage)}")
        try:
            found = files.read(table, names, required=columns, gone="raise")
            parts = [rows for _, rows in found]
            break
        except FileNotFoundError as error:  # merged into a compact file since we looked: look again
            if attempt == LOOKS - 1:
                raise ResultsError(f"{path}: files vanish while being read: {error}") from error
    if table == "history":
        parts = [*_half_trained(storage, files, columns), *parts]
    if not parts:
        if names and table != "yardsticks":
            raise ResultsError(f"{path}/{table}: none of {len(names)} Parquet files can be used")
        return pd.DataFrame({column: pd.Series(dtype=object) for column in columns})
    return concatenate(table, parts)


def _open(path: Path) -> Storage:
    """The sweep's files, to be read.

    Raises:
        ResultsError: a URI that can't be used.
    """
    remote = "://" in str(path)
    try:
        place = places.checked_sweep(str(path)) if remote else os.path.abspath(path)
        return Storage(*places.parent(place), say=_warn)
    except ConfigError as error:
        raise ResultsError(f"{path}: {error}") from error


def _half_trained(
    storage: Storage, files: TableFiles, columns: tuple[str, ...]
) -> Iterator[pa.Table]:
    """Histories of unfinished cells, `checkpoints/<cell_id>/history.parquet`."""
    try:
        paths = [info.path for info in storage.infos(HALF_TRAINED, recursive=True)]
    except OSError:
        return
    names = sorted(p for p in paths if p.count("/") == 1 and p.endswith("/history.parquet"))
    found = files.read("history", names, folder=HALF_TRAINED, required=columns, gone="forget")
    yield from (rows for _, rows in found)


def _why_no_cells(storage: Storage) -> str:
    try:
        if storage.files.kind("") is None:
            return "no such folder"
        below = sorted(storage.files.folders(""))
        if {"history", HALF_TRAINED} & set(below) or storage.files.kind(sweepfile.NAME):
            return "no finished cells yet"
        sweeps = [name for name in below if _is_folder(storage, f"{name}/cells")]
    except OSError as error:
        return folders.one_line(error)
    if sweeps:
        return f"not a sweep's folder; it holds the sweeps {', '.join(sweeps)}"
    return "not a sweep's folder (it has no folder named cells)"


def _is_folder(storage: Storage, path: str) -> bool:
    return storage.files.kind(path) == "folder"


def concatenate(table: str, parts: list[pa.Table]) -> pd.DataFrame:
    """One frame of all parts; a column that some lack is null there.

    A cell's rows come from one part, the last one that has some: its own file if there is one, else
    the last merged one, else what it had half-trained.
    """
    whole, left_out = tables.concatenate(parts)
    if left_out:
        names = ", ".join(map(folders.shown, left_out))
        _warn_skipped(f"columns of {table}", "are left out", f"types differ: {names}")
    frame = whole.to_pandas()
    for name in filter(schema.OF_PREDICTORS.fullmatch, map(str, frame)):
        if not pd.api.types.is_numeric_dtype(frame[name]):  # nulls alone, or what isn't ours
            frame[name] = pd.to_numeric(frame[name], errors="coerce").astype(float)
    if "cell_id" not in frame:
        return frame
    rank = pd.Series(np.repeat(np.arange(len(parts)), [part.num_rows for part in parts]))
    return frame[rank == rank.groupby(frame["cell_id"]).transform("max")]


def _warn_skipped(name: str, verb: str, why: str) -> None:
    _warn(f"skipped {folders.shown(name)}: {why}")


def _warn(line: str) -> None:
    warnings.warn(line, ResultsWarning, stacklevel=3)
