"""Read a sweep's tables: thousands of small Parquet files, some perhaps missing or torn."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from core import schema

Path = str | os.PathLike[str]

HALF_TRAINED = "checkpoints"  # folder of what unfinished cells have
COMPACT = "compact-"  # a merged file, `compact-*.parquet`; all others hold one cell, <cell_id>
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
    order = ["architecture", "model_size", "num_tasks", "seed", "cell_id"]
    return frame.sort_values(order, ignore_index=True)


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

    Empty if `phasesweep yardsticks` hasn't run. Arguments and errors as for `load_cells`.
    """
    filesystem, folder = open_folder(path)
    names = _parquet_names(filesystem, folder, path, "yardsticks")
    columns = schema.YARDSTICK_COLUMNS
    parts = {
        name: part
        for name, part in _read_all(filesystem, folder, names).items()
        if _has_columns(name, part, columns)
    }
    if not parts:
        return pd.DataFrame({column: pd.Series(dtype=object) for column in columns})
    frame = pa.concat_tables(parts.values(), promote_options="permissive").to_pandas()
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
        if table == "history":
            names += _half_trained(filesystem, folder)
        try:
            parts = _read_all(filesystem, folder, names)
            break
        except FileNotFoundError as error:  # merged into a compact file since we looked: look again
            if attempt == 3:
                raise ResultsError(f"{path}: files vanish while being read: {error}") from error
    parts = {name: part for name, part in parts.items() if _has_columns(name, part, columns)}
    if not parts:
        if names:
            raise ResultsError(f"{path}/{table}: none of {len(names)} Parquet files can be used")
        return pd.DataFrame({column: pd.Series(dtype=object) for column in columns})
    return _concatenate(parts)


def _parquet_names(filesystem: fs.FileSystem, folder: str, path: Path, table: str) -> list[str]:
    """Files of a table as `<table>/<name>`, sorted; those in the making (`.` or `_`) left out."""
    try:
        entries = filesystem.get_file_info(fs.FileSelector(f"{folder}/{table}"))
    except FileNotFoundError:
        if table != "cells":
            return []
        raise ResultsError(f"{path}: {_why_no_cells(filesystem, folder)}") from None
    except (NotADirectoryError, OSError) as error:
        raise ResultsError(f"{path}: {_one_line(error)}") from error
    names = (entry.base_name for entry in entries)
    return sorted(f"{table}/{n}" for n in names if n.endswith(".parquet") and n[0] not in "._")


def _half_trained(filesystem: fs.FileSystem, folder: str) -> list[str]:
    """Histories of unfinished cells, `checkpoints/<cell_id>/history.parquet`."""
    selector = fs.FileSelector(f"{folder}/{HALF_TRAINED}", allow_not_found=True, recursive=True)
    try:
        entries = filesystem.get_file_info(selector)
    except OSError:
        return []
    paths = (entry.path for entry in entries if entry.base_name == "history.parquet")
    return sorted(path[len(folder) + 1 :] for path in paths)


def _why_no_cells(filesystem: fs.FileSystem, folder: str) -> str:
    try:
        entries = filesystem.get_file_info(fs.FileSelector(folder))
    except FileNotFoundError:
        return "no such folder"
    except OSError as error:
        return _one_line(error)
    folders = [e.path for e in entries if e.type == fs.FileType.Directory]
    if {f"{folder}/history", f"{folder}/{HALF_TRAINED}"} & set(folders):
        return "no finished cells yet"
    inside = filesystem.get_file_info([f"{name}/cells" for name in sorted(folders)])
    sweeps = [e.path.split("/")[-2] for e in inside if e.type == fs.FileType.Directory]
    if sweeps:
        return f"not a sweep's folder; it holds the sweeps {', '.join(sweeps)}"
    return "not a sweep's folder (it has no folder named cells)"


def _read_all(filesystem: fs.FileSystem, folder: str, names: list[str]) -> dict[str, pa.Table]:
    """Tables by file name. Unreadable files are warned about and left out.

    Raises:
        FileNotFoundError: a file is gone since it was listed.
    """

    def fetch(name: str) -> bytes | OSError | None:
        try:
            with filesystem.open_input_file(f"{folder}/{name}") as file:
                return file.read()
        except FileNotFoundError:
            if name.startswith(HALF_TRAINED):
                return None
            raise
        except OSError as error:
            return error

    tables = {}
    with ThreadPoolExecutor(THREADS) as pool:
        for name, content in zip(names, pool.map(fetch, names), strict=True):
            if content is None:  # its cell is finished by now
                continue
            try:
                tables[name] = _decode(content)
            except (pa.ArrowException, OSError, ValueError) as error:
                _warn_skipped(name, _one_line(error))
    return tables


def _decode(content: bytes | OSError) -> pa.Table:
    """The table of a Parquet file's content. Raises what `content` is if it couldn't be read."""
    if isinstance(content, OSError):
        raise content
    file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
    return file.read(use_threads=False)


def _has_columns(name: str, table: pa.Table, columns: Iterable[str]) -> bool:
    found = set(table.column_names)
    missing = [column for column in columns if column not in found]
    if missing:
        _warn_skipped(name, f"it lacks the columns {', '.join(missing)}")
    return not missing


def _concatenate(parts: dict[str, pa.Table]) -> pd.DataFrame:
    """One frame of all parts; a column that some lack is null there.

    A cell's rows come from one file: its own if there is one, else the last merged one, else what
    it had half-trained.
    """
    unified, fitting = pa.schema([]), {}
    for name, part in parts.items():
        try:
            unified = pa.unify_schemas([unified, part.schema], promote_options="permissive")
            fitting[name] = part
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            _warn_skipped(name, f"it doesn't fit the files before it: {_one_line(error)}")

    def rank_of(name: str) -> tuple[bool, bool, str]:
        own = not os.path.basename(name).startswith(COMPACT)
        return not name.startswith(HALF_TRAINED), own, name

    names = sorted(fitting, key=rank_of)
    alike = all(fitting[n].schema.equals(unified) for n in names)
    promote: Literal["none", "permissive"] = "none" if alike else "permissive"  # which is slow
    frame = pa.concat_tables([fitting[n] for n in names], promote_options=promote).to_pandas()
    rank = pd.Series(np.repeat(np.arange(len(names)), [fitting[n].num_rows for n in names]))
    return frame[rank == rank.groupby(frame["cell_id"]).transform("max")]


def _warn_skipped(name: str, why: str) -> None:
    warnings.warn(f"skipped {name}: {why}", ResultsWarning, stacklevel=2)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
