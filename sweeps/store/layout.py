"""Where things lie in a results tree, and what to do about what lies where it can't.

    <root>/<sweep>/sweep.yaml                       the preset, resolved
    <root>/<sweep>/cells/<cell_id>.parquet          written last: the cell is finished
    <root>/<sweep>/history/<cell_id>.parquet        all its evaluations
    <root>/<sweep>/curves/<cell_id>.parquet         accuracy by position, at the end
    <root>/<sweep>/yardsticks/<key>.parquet         known algorithms on the same sequences
    <root>/<sweep>/checkpoints/<cell_id>/<step>.n<numerics>.ckpt
    <root>/<sweep>/checkpoints/<cell_id>/history.parquet    its evaluations so far
    <root>/<sweep>/models/<cell_id>/<step>.safetensors      weights of finished cells, if kept
    <root>/<sweep>/plugins/<plug-in>/<file>         code of the user's, as it was (`plug_ins`)
    <root>/<sweep>/search.json                      rounds of a sweep that seeks boundaries
    <root>/<sweep>/driver                           who is running the sweep
    <root>/<sweep>/logs/                            of the command and its workers

In the tables, files of many cells may stand beside those of one (`commands.compact`).
"""

from __future__ import annotations

import logging
import os
import stat
from collections import defaultdict
from collections.abc import Iterable

from metaphase.core.cell import Cell, ConfigError
from metaphase.sweeps.store import folders
from metaphase.sweeps.store.checkpoints import Checkpoints
from metaphase.sweeps.store.folders import one_line, shown
from metaphase.sweeps.store.storage import Storage

logger = logging.getLogger(__name__)

TABLES = ("history", "curves", "cells")  # in the order in which a cell's are written
FOLDERS = (*TABLES, "yardsticks", "checkpoints", "models", "plugins", "logs")
FILES = ("sweep.yaml", "driver", "search.json")


def check_layout(storage: Storage) -> None:
    """Raises ConfigError, with a line that says what to do, if a file is where the tree has a
    folder or the other way round, or links go in circles."""
    if not storage.local_path:
        return
    for name in ("", *FOLDERS, *FILES):
        path = f"{storage.local_path}/{name}".rstrip("/")
        try:
            mode = os.stat(path).st_mode
        except FileNotFoundError:
            if os.path.islink(path) and name not in FILES:
                raise ConfigError(f"{path} is a link that leads nowhere; remove it") from None
            continue
        except OSError as error:
            why = f"root: can't look at {path}: {error.strerror}; move it away"
            raise ConfigError(why) from None
        fits = stat.S_ISREG(mode) if name in FILES else stat.S_ISDIR(mode)
        if not fits:
            kind = "not a file" if name in FILES else "not a folder"
            raise ConfigError(f"{path} is {kind}; move it away, and the same command works")


def why_no_sweep(storage: Storage, error: OSError) -> str:
    """Why no preset can be read at this place, in words, `error` being what reading it raised."""
    try:
        kind = storage.files.kind("")
        if kind is None:
            return "no such folder"
        if kind == "file":
            return "not a folder"
        names = sorted(n for n in storage.files.folders("") if not n.startswith("."))
        found = [n for n in names if storage.files.kind(f"{n}/sweep.yaml") == "file"]
        if found:
            return f"not a sweep's folder; it holds the sweeps {', '.join(map(shown, found[:10]))}"
        if isinstance(error, FileNotFoundError):
            return "not a sweep's folder (it has no sweep.yaml)"
    except OSError as second:
        error = second
    return one_line(error)


def clear_way(storage: Storage, cells: Iterable[Cell]) -> None:
    """Sets aside what is where files of these cells will be written and can't be overwritten by
    them: folders in the place of files, files or links in the place of folders. Checkpoints of
    steps that a cell hasn't got are removed. Each is logged."""
    if not storage.local_path:
        return
    cells_by_id = {cell.cell_id: cell for cell in cells}
    for table in TABLES:
        for entry in folders.odd_entries(f"{storage.local_path}/{table}", files=True):
            if entry.name.removesuffix(".parquet") in cells_by_id:
                _make_way(entry)
    for folder in ("checkpoints", "models"):
        for entry in folders.odd_entries(f"{storage.local_path}/{folder}", files=False):
            if entry.name in cells_by_id:
                _make_way(entry)
    checkpoints = Checkpoints(storage)
    for cell_id, cell in cells_by_id.items():
        for folder in ("checkpoints", "models"):
            path = f"{storage.local_path}/{folder}/{cell_id}"
            for entry in folders.odd_entries(path, files=True):
                _make_way(entry)
        checkpoints.remove_later(cell_id, cell.steps)


def _make_way(entry: os.DirEntry[str]) -> None:
    if entry.is_symlink():  # what it leads to stays
        os.unlink(entry.path)
        logger.warning("%s is removed: a link where none can be", shown(entry.path))
        return
    aside = folders.set_aside(entry.path)
    logger.warning("%s is set aside as %s", shown(entry.path), shown(aside))


def touched(storage: Storage) -> dict[str, float]:
    """{cell_id: seconds since 1970 when a file of it was last written}, by names alone."""
    times: dict[str, float] = defaultdict(float)
    for folder in ("cells", "history", "checkpoints"):
        for info in storage.infos(folder, recursive=folder == "checkpoints"):
            cell_id = info.path.split("/")[0].removesuffix(".parquet")
            times[cell_id] = max(times[cell_id], info.modified)
    return dict(times)
