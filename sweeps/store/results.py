"""The results tree of a sweep: the only place that reads and writes it.

    <root>/<sweep>/sweep.yaml                       the preset, resolved
    <root>/<sweep>/cells/<cell_id>.parquet          written last: the cell is finished
    <root>/<sweep>/history/<cell_id>.parquet        all its evaluations
    <root>/<sweep>/curves/<cell_id>.parquet         accuracy by position, at the end
    <root>/<sweep>/yardsticks/<key>.parquet         known algorithms on the same sequences
    <root>/<sweep>/checkpoints/<cell_id>/<step>.ckpt
    <root>/<sweep>/checkpoints/<cell_id>/history.parquet    its evaluations so far
    <root>/<sweep>/driver                           who is running the sweep now

A name is determined by what it holds, and a file appears whole or not at all, so that writing twice
is harmless: a retry can't double a row and a reader never meets half a file. A cell's files in the
tables are written once, when it is finished, and never replaced: what comes late, from a worker
that was held up or whose sweep is another driver's by now, finds them (`sweeps.store.files`). Root
is a path, or a URI of a file system that pyarrow knows (s3://, gs://, file://, hdfs://)."""

from __future__ import annotations

import errno
import hashlib
import io
import itertools
import json
import logging
import math
import os
import random
import re
import secrets
import stat
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from metaphase.core import schema
from metaphase.core.cell import NUMERICS, Cell, ConfigError
from metaphase.sweeps.preset import Sweep, check_name, dump_settings, parse_preset
from metaphase.sweeps.store import folders
from metaphase.sweeps.store.files import (
    WRITING,
    Changed,
    ClaimLost,
    Info,
    Refused,
    StorageError,
    Version,
    open_files,
)
from metaphase.sweeps.store.folders import shown
from metaphase.sweeps.store.leasefile import parse_lease
from metaphase.sweeps.store.tables import (
    CELLS,
    CURVES,
    HISTORY,
    SCHEMAS,
    SETTINGS,
    UNREADABLE,
    YARDSTICKS,
    concatenate,
    decode,
    is_own,
    sound,
    statuses,
)

logger = logging.getLogger(__name__)

TABLES = ("history", "curves", "cells")  # in the order in which a cell's are written
FOLDERS = (*TABLES, "yardsticks", "checkpoints", "logs")
FILES = ("sweep.yaml", "driver")
FILES_AT_ONCE = 1000  # whose rows are looked through together
READERS = 16  # files read at once
LOOKS = 5  # times a folder is listed anew because a listed file is gone
KEPT_CHECKPOINTS = 2  # of a cell: a torn one costs an interval, not the cell
RETRY_SECONDS = 60.0  # for which a failing storage is tried again ...
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 10.0  # ... after such pauses
STORE_TRIES = 6  # what an object store fails at, whose client has repeated it already ...
REFUSED_TRIES = 4  # ... or refuses
CLAIM_AGE_SECONDS = 5.0  # for which a look at the lease lets writes to an object store begin
_PASSING = {
    *(errno.EIO, errno.EAGAIN, errno.EINTR, errno.EBUSY, errno.ESTALE, errno.ETIMEDOUT),
    *(errno.ECONNRESET, errno.ECONNABORTED, errno.ECONNREFUSED, errno.EPIPE, errno.ENETDOWN),
    *(errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.EREMOTEIO, errno.ENOTCONN),
}
LOST_WORKER = "its worker was lost"  # begins the error of a cell that may not be to blame for it
T = TypeVar("T")
_CHECKPOINT = re.compile(r"([0-9]{1,10})(?:\.n([0-9]{1,9}))?\.ckpt")  # step, numerics (none: 1)
_MAGIC = b"metaphase checkpoint 1 "
_MAGICS = (_MAGIC, b"phasesweep checkpoint 1 ")  # which earlier programs wrote


class Results:
    """One sweep's results tree.

    Args:
        root: a path or a URI, the folder that holds sweeps.
        sweep: the sweep's name.
        driver: whose worker writes; its writes fail once the sweep is another driver's. None:
            what writes has no part in running the sweep, or will `claim` it.

    Raises:
        ConfigError: the name could leave the root, or the URI can't be used.
    """

    def __init__(self, root: str, sweep: str, driver: str | None = None):
        check_name(sweep)
        self.root, self.sweep = resolve_root(root), sweep
        try:
            self._files = open_files(self.root, sweep)
        except ConfigError as error:
            why = _without_secret(f"{root}: {error}")
            raise ConfigError(f"root: can't use {why}") from None
        self.driver = driver
        self._told: set[str] = set()
        self._claim_seen = -math.inf  # when the lease was last seen to be this driver's
        if driver:
            self._files.use(driver)

    @classmethod
    def at(cls, path: str) -> Results:
        """The tree at `<root>/<sweep>`, a path or a URI.

        Raises:
            ConfigError: as above.
        """
        place, mark, query = path.partition("?") if "://" in path else (path, "", "")
        place = place.rstrip("/") if "://" in path else resolve_root(place)
        root, _, sweep = place.rpartition("/")
        return cls((root or "/") + mark + query, sweep)

    def __str__(self) -> str:
        """Where the tree is, as a user would give it; a secret in a URI is not shown."""
        root, mark, query = self.root.partition("?") if "://" in self.root else (self.root, "", "")
        return _without_secret(f"{root.rstrip('/')}/{self.sweep}{mark}{query}")

    @property
    def local_path(self) -> Path | None:
        """The tree's folder on this machine's file system, if that is where it is."""
        return self._files.local_path

    @property
    def own_folder(self) -> Path | None:
        """On a file system, a hidden folder of the driver that has the sweep, with the means of
        `sweeps.store.files`: it is gone once another driver takes over."""
        folder = self.local_path
        return folder / WRITING / self.driver if folder and self.driver else None

    # --- what is done ---

    def finished(self) -> dict[str, str]:
        """{cell_id: status} of the finished cells. A file that can't be read, or of which rows make
        no sense, is logged by name; what is left out of it counts as missing, so that its cells
        are trained again."""
        return self.survey()[0]

    def survey(self) -> tuple[dict[str, str], dict[str, int]]:
        """What `finished` returns, and {cell_id: numerics} of those that are trained.

        Raises:
            ConfigError: something in the tree is where it can't be (`check_layout`).
        """
        self.check_layout()
        for attempt in range(LOOKS):
            names = sorted(self.table_files("cells"), key=lambda name: (is_own(name), name))
            status: dict[str, str] = {}  # a cell's own file goes before a merged one
            numerics: dict[str, int] = {}
            try:
                for found in self._each(self._statuses, names):
                    for cell_id, (said, revision) in found.items():
                        status[cell_id], numerics[cell_id] = said, revision
                break
            except FileNotFoundError:  # merged with others since it was listed: look again
                if attempt == LOOKS - 1:
                    raise
        trained = {id_: n for id_, n in numerics.items() if status[id_] != schema.FAILED}
        return status, trained

    def _statuses(self, name: str) -> dict[str, tuple[str, int]]:
        """{cell_id: (status, numerics)} of a file of the cells table; what can't be is left out.

        Raises:
            OSError: the storage fails, which says nothing about the content.
        """
        data = self._get(f"cells/{name}")
        try:
            found, why = statuses(name, decode("cells", data, ("cell_id", "status", "numerics")))
        except UNREADABLE as error:
            found, why = {}, _line(error)
        if why:
            self._tell(f"{shown(f'cells/{name}')} is left out: {why}")
        return found

    def damaged(self, cell_ids: AbstractSet[str]) -> set[str]:
        """Of these finished cells, those whose rows in some table can't be read or aren't all
        there: evaluations of all splits up to the last step, all positions of all splits. What
        can't be read is logged by name."""
        return self._lacking(cell_ids) and self._lacking(cell_ids)  # maybe merged since listed

    def _lacking(self, cell_ids: AbstractSet[str]) -> set[str]:
        settings = ["unseen_datasets", "eval_every", "steps_trained", "sequence_length"]
        cells = {row["cell_id"]: row for row in self._keys("cells", settings).to_pylist()}
        history = _shapes(self._keys("history", ["split", "step"]), "step")
        curves = _shapes(self._keys("curves", ["split", "position"]), "position")

        def is_whole(cell_id: str) -> bool:
            if not (cell_id in cells and cell_id in history and cell_id in curves):
                return False
            datasets, every, steps, length = (cells[cell_id][name] for name in settings)
            splits = len(schema.SPLITS) + (len(datasets.split(",")) if datasets else 0)
            evaluations = math.ceil(steps / every) if steps and every else 1
            fits = history[cell_id].is_whole(splits, steps, evaluations)
            return fits and curves[cell_id].is_whole(splits, length, length)

        return {cell_id for cell_id in cell_ids if not is_whole(cell_id)}

    def _keys(self, table: str, columns: Sequence[str]) -> pa.Table:
        """cell_id and these columns of a table's rows, each cell's from one file."""
        wanted = ["cell_id", *columns]
        parts: list[pa.Table] = []
        seen: set[str] = set()
        names = sorted(self.table_files(table), key=lambda name: (not is_own(name), name))
        for _, rows in self._read_files(table, names):
            part = rows.select(wanted)
            ids = set(part["cell_id"].to_pylist())
            if not seen.isdisjoint(ids):  # a cell's own file goes before a merged one
                part = part.filter(_not_of(part, seen))
            seen |= ids
            parts.append(part)
        if not parts:
            return pa.schema([SCHEMAS[table].field(name) for name in wanted]).empty_table()
        return pa.concat_tables(parts)

    def is_trained(self, cell_id: str) -> bool:
        """Whether the cell is finished and hasn't failed, by a file of its own in cells/."""
        try:
            said, _ = self._statuses(f"{cell_id}.parquet").get(cell_id, (None, 0))
        except FileNotFoundError:
            return False
        return said in (schema.DONE, schema.DIVERGED)

    def read_rows(self, cell_ids: Collection[str]) -> list[dict[str, Any]]:
        """The rows of the cells table for these cells, as far as they are there."""
        rows: list[dict[str, Any]] = []
        merged = set(cell_ids)
        for cell_id in cell_ids:
            name = f"{cell_id}.parquet"
            try:
                table = decode("cells", self._get(f"cells/{name}"))
                found, why = statuses(name, table)
            except FileNotFoundError:
                continue
            except StorageError:
                raise
            except UNREADABLE as error:
                found, why = {}, _line(error)
            if why:
                self._tell(f"{shown(f'cells/{name}')} is left out: {why}")
            if found:
                rows += table.to_pylist()
                merged.discard(cell_id)
        if merged:
            names = [name for name in self.table_files("cells") if not is_own(name)]
            tables, _ = self.read_tables("cells", names, merged)
            rows += [row for table in tables.values() for row in table.to_pylist()]
        return rows

    # --- merged files, `compact-*.parquet` (sweeps.commands.compact) ---

    def table_files(self, table: str) -> list[str]:
        """Names of a table's files."""
        return [name for name in self._list(table) if name.endswith(".parquet")]

    def read_tables(
        self,
        table: str,
        names: Iterable[str],
        cell_ids: AbstractSet[str],
        merged: bool = False,
        flawed: set[str] | None = None,
    ) -> tuple[dict[str, pa.Table], set[str]]:
        """({cell_id: its rows} of the cells asked for, the files that hold nothing else). With
        `merged`, all cells of merged files too. What can't be read or makes no sense is logged by
        name and left out; names of such files are added to `flawed`."""
        found: dict[str, pa.Table] = {}
        whole: set[str] = set()
        names = [n for n in names if not is_own(n) or n.removesuffix(".parquet") in cell_ids]
        names.sort(key=lambda name: (is_own(name), name))  # a cell's own file goes before
        for name, rows in self._read_files(table, names, flawed=flawed):
            own, ids = name.removesuffix(".parquet"), rows["cell_id"].to_pylist()
            if is_own(name):
                found[own] = rows
                whole.add(name)
                continue
            starts: dict[str, list[int]] = defaultdict(list)
            for i, cell_id in enumerate(ids):
                starts[cell_id].append(i)
            for cell_id in starts if merged else starts.keys() & cell_ids:
                found[cell_id] = rows.take(pa.array(starts[cell_id], pa.int64()))
            if merged or starts.keys() <= cell_ids:
                whole.add(name)
        return found, whole

    def _read_files(
        self,
        table: str,
        names: Sequence[str],
        flawed: set[str] | None = None,
    ) -> Iterator[tuple[str, pa.Table]]:
        """(name, its rows) of a table's files, in their order. One whose content can't be read, and
        rows that make no sense (`sweeps.store.tables`), are logged by name and left out.

        Args:
            flawed: names of files of which something is left out are added to it.

        Raises:
            OSError: the storage fails.
        """
        flawed = set() if flawed is None else flawed

        def read(name: str) -> pa.Table | None:
            path, data = f"{table}/{name}", None
            try:
                data = self._get(path)
                return decode(table, data)
            except UNREADABLE as error:
                if data is None and not isinstance(error, FileNotFoundError):
                    raise
                flawed.add(name)
                self._tell(f"{shown(path)} can't be read: {_line(error)}")
                return None

        for start in range(0, len(names), FILES_AT_ONCE):
            part = names[start : start + FILES_AT_ONCE]
            read_rows = zip(part, self._each(read, part), strict=True)
            good, why = sound(table, {name: rows for name, rows in read_rows if rows is not None})
            for name, reasons in why.items():
                flawed.add(name)
                more = f" and {len(reasons) - 3} more" if len(reasons) > 3 else ""
                reason = "; ".join(reasons[:3]) + more
                self._tell(f"{shown(f'{table}/{name}')} is left out: {reason}")
            for name in part:
                if name in good:
                    yield name, good[name]

    def _tell(self, line: str) -> None:
        """Logs what is wrong with a file, once, however often it is read."""
        if line not in self._told:
            self._told.add(line)
            logger.warning("%s/%s", self, line)

    def _each(self, read: Callable[[str], T], names: Sequence[str]) -> Iterator[T]:
        """read(name) of each, in order; of an object store, which answers late, many at once."""
        if self.local_path:
            yield from map(read, names)
            return
        with ThreadPoolExecutor(READERS) as pool:
            yield from pool.map(read, names)

    def write_merged(self, path: str, tables: Sequence[pa.Table]) -> None:
        """Writes rows of many cells as one file."""
        sink = io.BytesIO()
        merged, left_out = concatenate(tables)
        if left_out:
            logger.warning("%s/%s lacks the columns %s: types differ", self, path, left_out)
        pq.write_table(merged, sink, write_page_checksum=True)
        self._put(path, sink.getvalue(), durable=True)

    def keep_damaged(self, table: str, name: str) -> None:
        """Copies a file to `_<name>.damaged`, which readers of a folder leave out."""
        self._put(f"{table}/_{name}.damaged", self._get(f"{table}/{name}"), durable=True)

    def delete_table_file(self, table: str, name: str) -> None:
        """Removes a file of a table; none is fine."""
        self._delete(f"{table}/{name}")

    # --- rows ---

    def write_history(self, cell_id: str, rows: Sequence[dict]) -> None:
        """Stores an unfinished cell's evaluations so far (schema.HISTORY_COLUMNS)."""
        self._put(f"checkpoints/{cell_id}/history.parquet", _parquet(rows, HISTORY))

    def write_result(
        self, row: dict[str, Any], history: Sequence[dict], curves: Sequence[dict]
    ) -> None:
        """Finishes a cell: its history, its curves, then its row of the cells table, by which it
        counts as finished. What is there already stays as it is: it says the same. The cell's
        checkpoints are removed.

        Args:
            row: every field of Cell, cell_id, and schema.CELL_RESULT_COLUMNS as far as known.
            history: all its evaluations.
            curves: schema.CURVES_COLUMNS.
        """
        cell_id = row["cell_id"]
        row = {k: schema.to_column(v) for k, v in row.items()} | {"sweep": self.sweep}
        if isinstance(row.get("versions"), Mapping):
            row["versions"] = json.dumps(row["versions"], sort_keys=True)
        self._create(f"history/{cell_id}.parquet", _parquet(history, HISTORY))
        self._create(f"curves/{cell_id}.parquet", _parquet(curves, CURVES))
        self._create(f"cells/{cell_id}.parquet", _parquet([row], CELLS))
        self.remove_checkpoints(cell_id)

    def write_failure(self, cell: Cell, error: str) -> None:
        """Records that a cell could not be trained, with the reason. It counts as finished."""
        row = {k: schema.to_column(v) for k, v in cell.to_dict().items()}
        row |= {"cell_id": cell.cell_id, "sweep": self.sweep}
        row |= {"status": schema.FAILED, "error": error}
        self._create(f"cells/{cell.cell_id}.parquet", _parquet([row], CELLS))

    # --- yardsticks ---

    def read_cells(self) -> tuple[list[Cell], bool]:
        """The finished cells, and whether all files could be read; one that can't be is logged by
        name and left out."""
        self.check_layout()
        flawed: set[str] = set()
        cells: dict[str, Cell] = {}
        for name, rows in self._read_files("cells", self.table_files("cells"), flawed=flawed):
            settings = [key for key in SETTINGS if key in rows.column_names]
            for row in rows.select([*settings, "cell_id"]).to_pylist():
                cell_id = row.pop("cell_id")
                try:
                    cell = Cell.from_dict({k: v for k, v in row.items() if v is not None})
                except ConfigError as error:  # of another version, or nonsense
                    flawed.add(name)
                    path = shown(f"cells/{name}")
                    logger.warning("%s/%s: %s is left out: %s", self, path, shown(cell_id), error)
                    continue
                cells[cell.cell_id] = cell
        return list(cells.values()), not flawed

    def yardstick_keys(self) -> set[str]:
        """Keys of the tables of yardsticks that are stored and can be read."""
        found = self._read_files("yardsticks", self.table_files("yardsticks"))
        return {name.removesuffix(".parquet") for name, _ in found}

    def write_yardsticks(self, key: str, rows: Sequence[dict]) -> None:
        """Stores a table (schema.YARDSTICK_COLUMNS) by its
        `sweeps.commands.yardsticks.table_key`."""
        self._put(f"yardsticks/{key}.parquet", _parquet(rows, YARDSTICKS), durable=True)

    def remove_yardsticks(self, key: str) -> None:
        """Removes a table of yardsticks; none is fine."""
        self._delete(f"yardsticks/{key}.parquet")

    def reopen(self, cell_ids: AbstractSet[str]) -> None:
        """Makes these cells count as missing once it returns, before they are trained: their
        tables' files go, and what merged files hold of them. A merged file that can't be read is
        set aside as `_<name>.damaged`, which readers of a folder leave out."""
        for table in reversed(TABLES):
            for name in self.table_files(table):
                path = f"{table}/{name}"
                if is_own(name):
                    if name.removesuffix(".parquet") in cell_ids:
                        self._delete(path)
                    continue
                flawed: set[str] = set()
                good = [rows for _, rows in self._read_files(table, [name], flawed=flawed)]
                rest = [rows.filter(_not_of(rows, cell_ids)) for rows in good]
                if flawed:
                    self.keep_damaged(table, name)
                if not sum(rows.num_rows for rows in rest):
                    self._delete(path)
                elif flawed or rest[0].num_rows < good[0].num_rows:
                    self.write_merged(path, rest)

    def remove_results(self, cell_ids: AbstractSet[str]) -> None:
        """Removes all that is stored of these cells."""
        self.reopen(cell_ids)
        for cell_id in cell_ids:
            self.remove_checkpoints(cell_id)

    # --- checkpoints ---

    def write_checkpoint(self, state: dict[str, Any]) -> None:
        """Stores a cell's state as `core.training.trainer.PackTrainer.states` returns it: tensors
        on the CPU and plain values, with "cell_id" and "step". Earlier ones but the last are
        removed."""
        import torch

        buffer = io.BytesIO()
        torch.save(state, buffer)
        payload = buffer.getvalue()
        digest = hashlib.sha256(payload).hexdigest().encode()
        folder = f"checkpoints/{state['cell_id']}"
        steps = self._steps(folder)
        self._put(
            f"{folder}/{_checkpoint_name(state['step'])}",
            _MAGIC + digest + b"\n" + payload,
            durable=True,
        )
        for step in [s for s in steps if s != state["step"]][: -(KEPT_CHECKPOINTS - 1)]:
            self._delete(f"{folder}/{_checkpoint_name(step)}")

    def read_checkpoint(
        self, cell_id: str, check: Callable[[Any], None] = lambda state: None
    ) -> dict[str, Any] | None:
        """The newest state of the cell that is whole; None if there is none. One that is torn,
        doesn't match its checksum, or for which `check` raises ValueError is logged and removed.
        Those of other numerics aren't looked at. Nothing in it is executed."""
        import torch

        folder = f"checkpoints/{cell_id}"
        for step in reversed(self._steps(folder)):
            path = f"{folder}/{_checkpoint_name(step)}"
            try:
                data = self._get(path)
            except FileNotFoundError:  # the one before may be there
                continue
            try:
                head, _, payload = data.partition(b"\n")
                digest = hashlib.sha256(payload).hexdigest().encode()
                if head not in [magic + digest for magic in _MAGICS]:
                    raise ValueError("torn: its checksum doesn't match")
                state = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
                if (state["cell_id"], state["step"]) != (cell_id, step):
                    raise ValueError("it belongs to another cell or step")
                check(state)
                return state
            except Exception as error:  # whatever it is: nothing goes on from it
                self._delete(path)  # its name would say that there is something to go on from
                logger.warning("%s/%s is removed: %s", self, path, _line(error))
        return None

    def checkpoint_steps(self) -> dict[str, int]:
        """{cell_id: step of its newest checkpoint}, by names alone."""
        return {cell_id: step for cell_id, step in self._checkpoints(NUMERICS).items() if step}

    def older_checkpoints(self) -> set[str]:
        """Cells that have checkpoints of other numerics, and none of this program's."""
        return self._checkpoints(None).keys() - self._checkpoints(NUMERICS).keys()

    def remove_checkpoints(self, cell_id: str) -> None:
        """Removes all checkpoints of the cell; none is fine."""
        folder = f"checkpoints/{cell_id}"
        self._patiently(
            lambda: self._files.delete_folder(folder), f"deleting {folder}", writes=True
        )

    def _steps(self, folder: str) -> list[int]:
        """Steps of the checkpoints in a cell's folder, of this program's numerics."""
        found = map(_step_and_numerics, self._list(folder))
        return sorted(step for step, numerics in found if numerics == NUMERICS)

    def _checkpoints(self, numerics: int | None) -> dict[str, int]:
        """{cell_id: greatest step of its checkpoints} of these numerics; None: of all others."""
        steps: dict[str, int] = {}
        for path in self._list("checkpoints", recursive=True):
            cell_id, _, file = path.rpartition("/")
            step, found = _step_and_numerics(file)
            if found == numerics or (numerics is None and found not in (0, NUMERICS)):
                steps[cell_id] = max(steps.get(cell_id, 0), step)
        return steps

    def clear_way(self, cells: Iterable[Cell]) -> None:
        """Sets aside what is where files of these cells will be written and can't be overwritten by
        them: folders in the place of files, files or links in the place of folders. Checkpoints of
        steps that a cell hasn't got are removed. Each is logged."""
        if not self.local_path:
            return
        cells_by_id = {cell.cell_id: cell for cell in cells}
        for table in TABLES:
            for entry in folders.odd_entries(f"{self.local_path}/{table}", files=True):
                if entry.name.removesuffix(".parquet") in cells_by_id:
                    self._make_way(entry)
        for entry in folders.odd_entries(f"{self.local_path}/checkpoints", files=False):
            if entry.name in cells_by_id:
                self._make_way(entry)
        for cell_id, cell in cells_by_id.items():
            folder = f"checkpoints/{cell_id}"
            for entry in folders.odd_entries(f"{self.local_path}/{folder}", files=True):
                self._make_way(entry)
            for step in self._steps(folder):
                if step > cell.steps:
                    path = f"{folder}/{_checkpoint_name(step)}"
                    logger.warning("%s/%s is removed: no such step", self, path)
                    self._delete(path)

    def _make_way(self, entry: os.DirEntry) -> None:
        if entry.is_symlink():  # what it leads to stays
            os.unlink(entry.path)
            logger.warning("%s is removed: a link where none can be", shown(entry.path))
            return
        aside = folders.set_aside(entry.path)
        logger.warning("%s is set aside as %s", shown(entry.path), shown(aside))

    # --- the sweep ---

    def write_settings(self, settings: dict[str, Any]) -> None:
        """Stores the resolved preset, with a checksum in its last line."""
        text = dump_settings(settings).encode()
        self._put("sweep.yaml", text + _checksum_line(text), durable=True)

    def has_settings(self) -> bool:
        """Whether a preset is stored."""
        return self._exists("sweep.yaml")

    def read_sweep(self) -> Sweep:
        """The sweep as its preset was stored.

        Raises:
            ConfigError: there is none, or it can't be read; one line.
        """
        self.check_layout()
        try:
            data = self._get("sweep.yaml")
        except OSError as error:
            raise ConfigError(f"{self}: {self._why_no_sweep(error)}") from None
        start = data.rstrip().rfind(b"\n") + 1
        if data[start:] != _checksum_line(data[:start]):
            raise ConfigError(f"{self}/sweep.yaml: damaged or edited: its checksum doesn't match")
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise ConfigError(f"{self}/sweep.yaml: not UTF-8 text") from None
        return parse_preset(text, default_name=self.sweep, source=f"{self}/sweep.yaml")

    def check_layout(self) -> None:
        """Raises ConfigError, with a line that says what to do, if a file is where the tree has a
        folder or the other way round, or links go in circles."""
        if not self.local_path:
            return
        for name in ("", *FOLDERS, *FILES):
            path = f"{self.local_path}/{name}".rstrip("/")
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

    def _why_no_sweep(self, error: OSError) -> str:
        try:
            kind = self._files.kind("")
            if kind is None:
                return "no such folder"
            if kind == "file":
                return "not a folder"
            names = sorted(n for n in self._files.folders("") if not n.startswith("."))
            found = [n for n in names if self._files.kind(f"{n}/sweep.yaml") == "file"]
            if found:
                return (
                    f"not a sweep's folder; it holds the sweeps {', '.join(map(shown, found[:10]))}"
                )
            if isinstance(error, FileNotFoundError):
                return "not a sweep's folder (it has no sweep.yaml)"
        except OSError as second:
            error = second
        return _line(error)

    def touched(self) -> dict[str, float]:
        """{cell_id: seconds since 1970 when a file of it was last written}, by names alone."""
        times: dict[str, float] = defaultdict(float)
        for folder in ("cells", "history", "checkpoints"):
            for info in self._infos(folder, recursive=folder == "checkpoints"):
                cell_id = info.path.split("/")[0].removesuffix(".parquet")
                times[cell_id] = max(times[cell_id], info.modified)
        return dict(times)

    # --- whose it is ---

    def claim(
        self,
        driver: str,
        replaces: Version = None,
        *,
        stop: bool = False,
        retry: bool = False,
        **details: Any,
    ) -> None:
        """Says that this driver runs the sweep from now on. Workers of another one stop, and with
        `stop` its own ones too. `sweeps.store.lease` decides who may.

        Args:
            driver: its id.
            replaces: what `read_claim` gave, where claims are told apart by versions.
            stop, details: what else the lease says.
            retry: whether a storage that fails is tried again.

        Raises:
            Changed: the lease isn't the one to be replaced.
            OSError: the storage fails.
        """
        if driver != self.driver:
            self._patiently(lambda: self._files.fence(driver), "taking over", retry)
            self._files.use(driver)
        lease = {"driver": driver, "stop": stop, **details}
        self._swap_lease(json.dumps(lease).encode(), replaces, retry)
        self.driver, self._claim_seen = driver, time.monotonic()

    def release(self, replaces: Version = None) -> None:
        """Says that nobody runs the sweep: its workers checkpoint and stop. Raises as `claim`."""
        self._swap_lease(b"", replaces, retry=False)

    def _swap_lease(self, data: bytes, replaces: Version, retry: bool) -> None:
        def swap() -> None:
            try:
                self._files.swap("driver", data, replaces)
            except Changed:
                if self._files.read("driver")[0] != data:  # else only the answer was lost
                    raise

        self._patiently(swap, "writing driver", retry)

    def claims_are_exclusive(self) -> bool:
        """Whether the storage sees to it that of two that claim at once only one succeeds. Some
        object stores know no conditions, others don't heed them: one is tried that isn't met."""
        if self._files.conditional and not self.local_path:
            path = f".conditions-{secrets.token_hex(8)}"
            create = lambda: self._files.create(path, b"", durable=False)  # noqa: E731
            self._put(path, b"")
            try:
                self._patiently(create, f"writing {path}")
                self._files.conditional = False
            except FileExistsError:
                pass
            except StorageError:
                self._files.conditional = False
            self._delete(path)
        return self._files.conditional

    def read_lease(self, retry: bool = False) -> dict[str, Any] | None:
        """What `claim` wrote last; None if nobody has claimed the sweep, or it was released.

        Raises:
            OSError: the storage fails.
        """
        return self.read_claim(retry)[0]

    def read_claim(self, retry: bool = False) -> tuple[dict[str, Any] | None, Version]:
        """The lease as `read_lease` gives it, and its version."""
        try:
            data, version = self._patiently(
                lambda: self._files.read("driver"), "reading driver", retry
            )
        except FileNotFoundError:
            return None, None
        lease = parse_lease(data)
        if lease and lease["driver"] == self.driver:
            self._claim_seen = time.monotonic()
        return lease, version

    def claimed_by(self, driver: str) -> bool:
        """Whether this driver's workers shall go on. A storage that fails for a moment says yes."""
        try:
            lease = self.read_lease()
        except OSError:
            return True
        return lease is not None and lease["driver"] == driver and not lease.get("stop")

    def taken_from(self, driver: str) -> bool:
        """Whether the sweep is another driver's by now: this one's workers may not write."""
        try:
            lease = self.read_lease()
        except OSError:
            return False
        return lease is not None and lease["driver"] != driver

    def check_writable(self) -> None:
        """Raises ConfigError if nothing can be written there."""
        try:
            self._put(".writable", b"")
            self._delete(".writable")
        except (OSError, pa.ArrowException) as error:
            raise ConfigError(f"root: can't write to {self}: {_line(error)}") from None

    # --- files ---

    def _put(self, path: str, data: bytes, durable: bool = False) -> None:
        """Makes `path` hold `data`, at once for every reader."""
        write = lambda: self._files.write(path, data, durable)  # noqa: E731
        self._patiently(write, f"writing {path}", writes=True)

    def _create(self, path: str, data: bytes) -> None:
        """Makes `path` hold `data`, unless there is such a file: then that stays."""
        create = lambda: self._files.create(path, data, durable=True)  # noqa: E731
        try:
            self._patiently(create, f"writing {path}", writes=True)
        except FileExistsError:
            logger.info("%s/%s is there already", self, path)

    def _get(self, path: str) -> bytes:
        return self._patiently(lambda: self._files.read(path)[0], f"reading {path}")

    def _patiently(
        self, action: Callable[[], T], what: str, retry: bool = True, writes: bool = False
    ) -> T:
        """What the action returns. It is tried again while the storage fails in a way that may
        pass, after pauses that grow and are partly random, for RETRY_SECONDS at most. What
        `writes` is not tried, nor tried again, once the sweep is another driver's.

        Raises:
            ClaimLost: it is.
            OSError: the storage still fails.
        """
        end, pause = time.monotonic() + RETRY_SECONDS, FIRST_PAUSE_SECONDS
        for tries in itertools.count(1):
            if writes:
                self._check_claim(tries)
            try:
                return action()
            except StorageError as error:
                if not (retry and may_pass(error, tries) and time.monotonic() < end):
                    raise
                logger.warning("%s: %s: %s; tried again", self, what, _line(error))
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
        raise AssertionError

    def _check_claim(self, tries: int) -> None:
        """Before a write. On a file system the write itself fails (`sweeps.store.files`)."""
        fresh = time.monotonic() - self._claim_seen < CLAIM_AGE_SECONDS and tries == 1
        if self.driver and not self.local_path and not fresh and self.taken_from(self.driver):
            raise ClaimLost(f"{self}: another driver has taken over")

    def _read_table(self, path: str) -> pa.Table:
        """The rows of `<table>/<name>`. Raises `sweeps.store.tables.UNREADABLE`."""
        return decode(path.partition("/")[0], self._get(path))

    def _delete(self, path: str) -> None:
        self._patiently(lambda: self._files.delete(path), f"deleting {path}", writes=True)

    def _exists(self, path: str) -> bool:
        look = lambda: self._files.kind(path)  # noqa: E731
        return self._patiently(look, f"looking for {path}") is not None

    def _list(self, folder: str, recursive: bool = False) -> list[str]:
        """Names of the files below a folder, relative to it; empty if there is none."""
        return [info.path for info in self._infos(folder, recursive)]

    def _infos(self, folder: str, recursive: bool = False) -> list[Info]:
        return self._patiently(lambda: self._files.infos(folder, recursive), f"listing {folder}")


def resolve_root(root: str) -> str:
    """An absolute path, or the URI as it is: workers have other working directories."""
    return root if "://" in root else str(Path(root).expanduser().absolute())


def may_pass(error: StorageError, tries: int) -> bool:
    """Whether what failed so many times may go well if it is tried again. A file system says by
    number what is wrong, an object store's client by kind."""
    if error.errno is not None:
        return error.errno in _PASSING
    return tries < (REFUSED_TRIES if isinstance(error, Refused) else STORE_TRIES)


def is_full(error: OSError) -> bool:
    """Whether the disk, or what one may use of it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def _without_secret(text: str) -> str:
    text = re.sub(r"(://[^/:@\s]*):[^@/\s]*@", r"\1:***@", text)
    return re.sub(r"(secret_key|access_key|password|token)=[^&\s]*", r"\1=***", text)


class _Shape(NamedTuple):
    """How a cell's rows of history or curves are laid out: how many there are, the last and the
    number of steps or positions, and the number of splits."""

    rows: int
    last: int
    points: int
    splits: int

    def is_whole(self, splits: int, last: int | None, points: int | None) -> bool:
        """Whether each of at least so many splits has all of at least so many points."""
        return (
            self.rows == self.points * self.splits
            and self.splits >= splits
            and self.points >= (points or 1)
            and self.last == (last or self.last)
        )


def _shapes(keys: pa.Table, point: str) -> dict[str, _Shape]:
    """{cell_id: the shape of its rows}, `point` being "step" or "position"."""
    how = [(point, "count"), (point, "max"), (point, "count_distinct"), ("split", "count_distinct")]
    grouped = keys.group_by("cell_id").aggregate(how)
    columns = (grouped.column(f"{name}_{kind}").to_pylist() for name, kind in how)
    return {
        cell_id: _Shape(*values)
        for cell_id, *values in zip(grouped.column("cell_id").to_pylist(), *columns, strict=True)
    }


def _checkpoint_name(step: int) -> str:
    return f"{step}.n{NUMERICS}.ckpt"


def _step_and_numerics(name: str) -> tuple[int, int]:
    """What a checkpoint's name says; (0, 0) if it is none."""
    match = _CHECKPOINT.fullmatch(name)
    return (int(match[1]), int(match[2] or 1)) if match else (0, 0)


def _not_of(rows: pa.Table, cell_ids: AbstractSet[str]) -> pa.ChunkedArray:
    """Which rows are of other cells than these."""
    return pc.invert(pc.is_in(rows["cell_id"], pa.array(cell_ids, pa.string())))


def _checksum_line(data: bytes) -> bytes:
    return f"# sha256 {hashlib.sha256(data).hexdigest()}\n".encode()


def _parquet(rows: Sequence[dict], table_schema: pa.Schema) -> bytes:
    sink = io.BytesIO()
    rows_table = pa.Table.from_pylist(list(rows), schema=table_schema)
    pq.write_table(rows_table, sink, write_page_checksum=True)
    return sink.getvalue()


def _line(error: BaseException) -> str:
    return shown(" ".join(str(error).split()))[:300] or type(error).__name__
