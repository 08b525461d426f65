"""The results tree of a sweep: which cells are finished, and the only place that writes results.

A name is determined by what it holds, and a file appears whole or not at all, so that writing twice
is harmless: a retry can't double a row and a reader never meets half a file. A cell's files in the
tables are written once, when it is finished, and never replaced: what comes late, from a worker
that was held up or whose sweep is another driver's by now, finds them (`store.files`). What lies
where is listed in `store.layout`. Root is a path, or a URI of a file system that pyarrow knows
(s3://, gs://, file://, hdfs://).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from metaphase.core import schema
from metaphase.core.cell import SETTINGS, Cell, ConfigError
from metaphase.sweeps import places
from metaphase.sweeps.preset import check_name
from metaphase.sweeps.store.checkpoints import Checkpoints
from metaphase.sweeps.store.completeness import facts_about, incomplete, sealed_facts
from metaphase.sweeps.store.files import StorageError
from metaphase.sweeps.store.folders import one_line, shown
from metaphase.sweeps.store.layout import TABLES, check_layout
from metaphase.sweeps.store.models import Models
from metaphase.sweeps.store.soundness import statuses
from metaphase.sweeps.store.storage import Storage
from metaphase.sweeps.store.table_files import TableFiles, not_of
from metaphase.sweeps.store.tables import (
    SCHEMAS,
    UNREADABLE,
    YARDSTICKS,
    decode,
    encode,
    is_own,
    to_table,
)

logger = logging.getLogger(__name__)

LOOKS = 5  # times a folder is listed anew because a listed file is gone
LOST_WORKER = "its worker was lost"  # begins the error of a cell that may not be to blame for it


class Results(Storage):
    """One sweep's results tree. Arguments as for `Storage`.

    Attributes:
        tables: the files of finished cells.
        checkpoints: what unfinished cells have.
        models: what is kept of finished cells beside their numbers.

    Raises:
        ConfigError: the sweep's name could leave the root, or the URI can't be used.
    """

    def __init__(self, root: str, sweep: str, driver: str | None = None):
        check_name(sweep)
        self._open(root, sweep, driver)

    def _open(self, root: str, sweep: str, driver: str | None) -> None:
        super().__init__(root, sweep, driver)
        self.tables = TableFiles(self, self._tell)
        self.checkpoints = Checkpoints(self)
        self.models = Models(self)
        self._told: set[str] = set()

    @classmethod
    def at(cls, path: str) -> Results:
        """The tree at `<root>/<sweep>`, a path or a URI, whatever its name: the rule for names is
        one for sweeps that are begun.

        Raises:
            ConfigError: the URI can't be used.
        """
        made = cls.__new__(cls)
        made._open(*places.parent(path), driver=None)
        return made

    def _tell(self, path: str, verb: str, why: str) -> None:
        """Logs what is wrong with a file, once, however often it is read."""
        line = f"{path} {verb}: {why}"
        if line not in self._told:
            self._told.add(line)
            logger.warning("%s/%s", self, line)

    # --- what is done ---

    def finished(self) -> dict[str, str]:
        """{cell_id: status} of the finished cells. A file that can't be read, or of which rows make
        no sense, is logged by name; what is left out of it counts as missing, so that its cells
        are trained again."""
        return self.survey()[0]

    def survey(
        self, look: Callable[[bytes, dict[str, Any] | None], None] | None = None
    ) -> tuple[dict[str, str], dict[str, int]]:
        """What `finished` returns, and {cell_id: numerics} of those that are trained.

        Args:
            look: called with the content of each file of the cells table and what its seal says
                (`completeness.sealed_facts`), merged ones first, so that all is fetched once.

        Raises:
            ConfigError: something in the tree is where it can't be (`layout.check_layout`).
        """
        check_layout(self)
        for attempt in range(LOOKS):
            names = self.tables.names("cells")
            status: dict[str, str] = {}  # a cell's own file goes before a merged one
            numerics: dict[str, int] = {}
            try:
                for name, content in zip(names, self.tables.fetch("cells", names), strict=True):
                    if isinstance(content, OSError):
                        raise content
                    facts = sealed_facts("cells", name, content)
                    for cell_id, (said, revision) in self._statuses(name, content, facts).items():
                        status[cell_id], numerics[cell_id] = said, revision
                    if look is not None:
                        look(content, facts)
                break
            except FileNotFoundError:  # merged with others since it was listed: look again
                if attempt == LOOKS - 1:
                    raise
        trained = {id_: n for id_, n in numerics.items() if status[id_] != schema.FAILED}
        return status, trained

    def _statuses(
        self, name: str, content: bytes, facts: dict[str, Any] | None
    ) -> dict[str, tuple[str, int]]:
        """{cell_id: (status, numerics)} of a file of the cells table, of which its seal says these
        facts; what can't be is left out."""
        if facts is not None:
            return {facts["cell_id"]: (facts["status"], facts["numerics"] or 1)}
        try:
            rows = decode("cells", content, ("cell_id", "status", "numerics"))
            found, why = statuses(name, rows)
        except UNREADABLE as error:
            found, why = {}, one_line(error)
        if why:
            self._tell(shown(f"cells/{name}"), "is left out", why)
        return found

    def damaged(self, cell_ids: AbstractSet[str]) -> set[str]:
        """Of these finished cells, those whose rows in some table can't be read or aren't all
        there (`store.completeness`). What can't be read is logged by name."""
        lacking = incomplete(self.tables, cell_ids)
        return incomplete(self.tables, cell_ids) if lacking else lacking  # maybe merged meanwhile

    def left_over(self, status: Mapping[str, str] | None = None) -> set[str]:
        """Trained cells that have checkpoints: a crash came between their results and the removal
        of these. Failed ones may go on from theirs.

        Args:
            status: what `finished` returns, if the caller has it.
        """
        there = self.checkpoints.cell_ids()
        if status is None:
            status = self.finished() if there else {}
        return {id_ for id_ in there if status.get(id_, schema.FAILED) != schema.FAILED}

    def is_trained(self, cell_id: str) -> bool:
        """Whether the cell is finished and hasn't failed, by a file of its own in cells/."""
        name = f"{cell_id}.parquet"
        try:
            content = self.get(f"cells/{name}")
        except FileNotFoundError:
            return False
        found = self._statuses(name, content, sealed_facts("cells", name, content))
        said, _ = found.get(cell_id, (None, 0))
        return said in (schema.DONE, schema.DIVERGED)

    def read_rows(
        self, cell_ids: Collection[str], columns: Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        """The rows of the cells table for these cells, as far as they are there.

        Args:
            cell_ids: of the cells.
            columns: what is read of them, cell_id and status among it; None: all. One that a
                file of an earlier program lacks is None.
        """
        rows: list[dict[str, Any]] = []
        merged = set(cell_ids)
        own = [f"{cell_id}.parquet" for cell_id in cell_ids]
        for name, content in zip(own, self.tables.fetch("cells", own), strict=True):
            if isinstance(content, FileNotFoundError):
                continue
            try:
                if isinstance(content, OSError):
                    raise content
                table = decode("cells", content, columns)
                found, why = statuses(name, table)
            except StorageError:
                raise
            except UNREADABLE as error:
                found, why = {}, one_line(error)
            if why:
                self._tell(shown(f"cells/{name}"), "is left out", why)
            if found:
                rows += table.to_pylist()
                merged.discard(name.removesuffix(".parquet"))
        if merged:
            names = [name for name in self.tables.names("cells") if not is_own(name)]
            tables, _ = self.tables.by_cell("cells", names, merged)
            for table in tables.values():
                rows += table.to_pylist()
        return [{k: row.get(k) for k in columns} for row in rows] if columns else rows

    def read_cells(self) -> tuple[list[Cell], bool]:
        """The finished cells, and whether all files could be read; one that can't be is logged by
        name and left out."""
        check_layout(self)
        flawed: set[str] = set()
        cells: dict[str, Cell] = {}
        for name, rows in self.tables.read("cells", self.tables.names("cells"), flawed=flawed):
            for row in rows.to_pylist():
                own = (row.get("own_settings") or "").split(",")  # columns of plug-ins' settings
                cell_id, said = row["cell_id"], {key: row.get(key) for key in (*SETTINGS, *own)}
                try:
                    cell = Cell.from_dict({k: v for k, v in said.items() if v is not None})
                except ConfigError as error:  # of another version, or nonsense
                    flawed.add(name)
                    path = shown(f"cells/{name}")
                    logger.warning("%s/%s: %s is left out: %s", self, path, shown(cell_id), error)
                    continue
                cells[cell.cell_id] = cell
        return list(cells.values()), not flawed

    # --- results ---

    def write_result(
        self,
        row: dict[str, Any],
        history: Sequence[dict[str, Any]],
        curves: Sequence[dict[str, Any]],
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
        for table, rows in (("history", history), ("curves", curves), ("cells", [row])):
            self._write_own(table, cell_id, rows)
        self.checkpoints.remove(cell_id)

    def write_failure(self, cell: Cell, error: str) -> None:
        """Records that a cell could not be trained, with the reason. It counts as finished."""
        row = {k: schema.to_column(v) for k, v in cell.to_dict().items()}
        row |= {"cell_id": cell.cell_id, "sweep": self.sweep}
        row["own_settings"] = ",".join(name for name, _ in cell.own)
        said = error.encode(errors="backslashreplace").decode()  # it may name an undecodable file
        row |= {"status": schema.FAILED, "error": said}
        self._write_own("cells", cell.cell_id, [row])

    def _write_own(self, table: str, cell_id: str, rows: Sequence[dict[str, Any]]) -> None:
        """Writes a cell's file of a table, with a seal, unless it is there."""
        encoded = to_table(rows, SCHEMAS[table])
        data = encode(encoded, facts_about(table, cell_id, encoded))
        self.create(f"{table}/{cell_id}.parquet", data)

    def reopen(self, cell_ids: AbstractSet[str]) -> None:
        """Makes these cells count as missing once it returns, before they are trained: their
        tables' files go, and what merged files hold of them. A merged file that can't be read is
        set aside as `_<name>.damaged`, which readers of a folder leave out."""
        for table in reversed(TABLES):
            for name in self.tables.names(table):
                path = f"{table}/{name}"
                if is_own(name):
                    if name.removesuffix(".parquet") in cell_ids:
                        self.delete(path)
                    continue
                flawed: set[str] = set()
                good = [rows for _, rows in self.tables.read(table, [name], flawed=flawed)]
                rest = [rows.filter(not_of(rows, cell_ids)) for rows in good]
                if flawed:
                    self.tables.keep_damaged(table, name)
                if not sum(rows.num_rows for rows in rest):
                    self.delete(path)
                elif flawed or rest[0].num_rows < good[0].num_rows:
                    self.tables.write_merged(path, rest)

    def remove_results(self, cell_ids: AbstractSet[str]) -> None:
        """Removes all that is stored of these cells."""
        self.reopen(cell_ids)
        for cell_id in cell_ids:
            self.checkpoints.remove(cell_id)
            self.models.remove(cell_id)

    # --- yardsticks ---

    def yardstick_keys(self) -> set[str]:
        """Keys of the tables of yardsticks that are stored and can be read."""
        found = self.tables.read("yardsticks", self.tables.names("yardsticks"))
        return {name.removesuffix(".parquet") for name, _ in found}

    def write_yardsticks(self, key: str, rows: Sequence[dict[str, Any]]) -> None:
        """Stores a table (schema.YARDSTICK_COLUMNS) by its `commands.yardsticks.table_key`."""
        data = encode(to_table(rows, YARDSTICKS))
        self.put(f"yardsticks/{key}.parquet", data, durable=True)

    def remove_yardsticks(self, key: str) -> None:
        """Removes a table of yardsticks; none is fine."""
        self.delete(f"yardsticks/{key}.parquet")
