"""Read a sweep's tables: thousands of small Parquet files, some perhaps missing or torn."""

from __future__ import annotations

import os
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import fs

from metaphase.core import schema
from metaphase.sweeps.store import folders, tables

Path = str | os.PathLike[str]

HALF_TRAINED = "checkpoints"  # folder of what unfinished cells have
THREADS = 8  # that fetch files: on remote filesystems that is waiting. One decodes: many threads
# that decode small files wait for each other.

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


class ResultsError(ValueError):
    """Results that can't be read or don't make sense together. The message is one line."""


class ResultsWarning(UserWarning):
    """A file that was skipped. The message is one line and names the file."""


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
        raise ResultsError(f"{path}: {_one_line(error)}") from error
    return filesystem, inside.rstrip("/")


def _load(path: Path, table: str, columns: tuple[str, ...]) -> pd.DataFrame:
    filesystem, folder = open_folder(path)
    for attempt in (1, 2, 3):
        names = _parquet_names(filesystem, folder, path, table)
        try:
            parts = _read_all(filesystem, f"{folder}/{table}", table, names, columns)
            break
        except FileNotFoundError as error:  # merged into a compact file since we looked: look again
            if attempt == 3:
                raise ResultsError(f"{path}: files vanish while being read: {error}") from error
    parts = dict(sorted(parts.items(), key=lambda item: (tables.is_own(item[0]), item[0])))
    ranked = list(parts.values())
    if table == "history":
        ranked = [*_half_trained(filesystem, folder, columns), *ranked]
    if not ranked:
        if names and table != "yardsticks":
            raise ResultsError(f"{path}/{table}: none of {len(names)} Parquet files can be used")
        return pd.DataFrame({column: pd.Series(dtype=object) for column in columns})
    return _concatenate(table, ranked)


def _parquet_names(filesystem: fs.FileSystem, folder: str, path: Path, table: str) -> list[str]:
    """A table's files, sorted; those in the making (`.` or `_`) left out."""
    try:
        if isinstance(filesystem, fs.LocalFileSystem):
            found = [name for name, _ in folders.list_files(f"{folder}/{table}", _warn)]
            if not found and not os.path.isdir(f"{folder}/{table}"):
                raise FileNotFoundError
        else:
            entries = filesystem.get_file_info(fs.FileSelector(f"{folder}/{table}"))
            found = [entry.base_name for entry in entries]
    except FileNotFoundError:
        if table != "cells":
            return []
        raise ResultsError(f"{path}: {_why_no_cells(filesystem, folder)}") from None
    except OSError as error:
        raise ResultsError(f"{path}: {_one_line(error)}") from error
    return sorted(n for n in found if n.endswith(".parquet") and n[0] not in "._")


def _half_trained(
    filesystem: fs.FileSystem, folder: str, columns: tuple[str, ...]
) -> list[pa.Table]:
    """Histories of unfinished cells, `checkpoints/<cell_id>/history.parquet`."""
    below = f"{folder}/{HALF_TRAINED}"
    try:
        if isinstance(filesystem, fs.LocalFileSystem):
            paths = [path for path, _ in folders.list_files(below, _warn, depth=2)]
        else:
            selector = fs.FileSelector(below, allow_not_found=True, recursive=True)
            infos = filesystem.get_file_info(selector)
            paths = [info.path[len(below) + 1 :] for info in infos]
    except OSError:
        return []
    ids = sorted(path.removesuffix("/history.parquet") for path in paths if path.count("/") == 1)
    names = [f"{id_}/history.parquet" for id_ in ids if f"{id_}/history.parquet" in paths]
    found = _read_all(filesystem, below, "history", names, columns, gone=True)
    return list(found.values())


def _why_no_cells(filesystem: fs.FileSystem, folder: str) -> str:
    try:
        if isinstance(filesystem, fs.LocalFileSystem):
            entries = [e.path for e in os.scandir(folder) if e.is_dir()]
            below = sorted(name for name in entries if folders.is_text(name))
        else:
            infos = filesystem.get_file_info(fs.FileSelector(folder))
            below = sorted(e.path for e in infos if e.type == fs.FileType.Directory)
    except FileNotFoundError:
        return "no such folder"
    except OSError as error:
        return _one_line(error)
    if {f"{folder}/history", f"{folder}/{HALF_TRAINED}"} & set(below):
        return "no finished cells yet"
    inside = filesystem.get_file_info([f"{name}/cells" for name in below])
    sweeps = [e.path.split("/")[-2] for e in inside if e.type == fs.FileType.Directory]
    if sweeps:
        return f"not a sweep's folder; it holds the sweeps {', '.join(sweeps)}"
    return "not a sweep's folder (it has no folder named cells)"


def _read_all(
    filesystem: fs.FileSystem,
    folder: str,
    table: str,
    names: list[str],
    columns: tuple[str, ...],
    gone: bool = False,
) -> dict[str, pa.Table]:
    """Rows of a table by file name. What can't be read or makes no sense is warned about and left
    out. `gone`: so is what is gone since it was listed, without a word.

    Raises:
        FileNotFoundError: a file is gone since it was listed.
    """

    def fetch(name: str) -> bytes | OSError | None:
        try:
            with filesystem.open_input_file(f"{folder}/{name}") as file:
                return file.read()
        except FileNotFoundError:
            if gone:
                return None
            raise
        except OSError as error:
            return error

    shown = f"{os.path.basename(folder)}/{{}}".format
    found: dict[str, pa.Table] = {}
    with ThreadPoolExecutor(THREADS) as pool:
        for name, content in zip(names, pool.map(fetch, names), strict=True):
            try:
                if isinstance(content, OSError):
                    raise content
                if content is not None:
                    found[name] = tables.decode(table, content, required=columns)
            except tables.UNREADABLE as error:
                _warn_skipped(shown(name), _one_line(error))
    found, why = tables.sound(table, found)
    for name, reasons in why.items():
        _warn_skipped(shown(name), "; ".join(reasons[:3]))
    return found


def _concatenate(table: str, parts: list[pa.Table]) -> pd.DataFrame:
    """One frame of all parts; a column that some lack is null there.

    A cell's rows come from one part, the last one that has some: its own file if there is one, else
    the last merged one, else what it had half-trained.
    """
    whole, left_out = tables.concatenate(parts)
    if left_out:
        names = ", ".join(map(folders.shown, left_out))
        _warn_skipped(f"columns of {table}", f"types differ: {names}")
    frame = whole.to_pandas()
    if "cell_id" not in frame:
        return frame
    rank = pd.Series(np.repeat(np.arange(len(parts)), [part.num_rows for part in parts]))
    return frame[rank == rank.groupby(frame["cell_id"]).transform("max")]


def _warn_skipped(name: str, why: str) -> None:
    _warn(f"skipped {folders.shown(name)}: {why}")


def _warn(line: str) -> None:
    warnings.warn(line, ResultsWarning, stacklevel=3)


def _one_line(error: BaseException) -> str:
    return folders.shown(" ".join(str(error).split())) or type(error).__name__
