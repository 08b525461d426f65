"""Checkpoints of unfinished cells, `checkpoints/<cell_id>/<step>.n<numerics>.ckpt`, and beside them
the evaluations so far, `history.parquet`."""

from __future__ import annotations

import hashlib
import io
import logging
import re
from collections.abc import Callable, Sequence
from typing import Any

from metaphase.core.cell import NUMERICS
from metaphase.sweeps.store.folders import one_line
from metaphase.sweeps.store.storage import Storage
from metaphase.sweeps.store.tables import HISTORY, encode, to_table

logger = logging.getLogger(__name__)

FOLDER = "checkpoints"
KEPT = 2  # of a cell: a torn one costs an interval, not the cell
MAGIC = b"metaphase checkpoint 1 "
_MAGICS = (MAGIC, b"phasesweep checkpoint 1 ")  # the second is what earlier programs wrote
_NAME = re.compile(r"([0-9]{1,10})(?:\.n([0-9]{1,9}))?\.ckpt")  # step, numerics (none: 1)


class Checkpoints:
    """The checkpoints of one sweep's cells."""

    def __init__(self, storage: Storage):
        self._storage = storage

    def write(self, state: dict[str, Any]) -> None:
        """Stores a cell's state as `core.training.trainer.PackTrainer.states` returns it: tensors
        on the CPU and plain values, with "cell_id" and "step". Earlier ones but the last are
        removed."""
        import torch

        buffer = io.BytesIO()
        torch.save(state, buffer)
        payload = buffer.getvalue()
        digest = hashlib.sha256(payload).hexdigest().encode()
        folder = f"{FOLDER}/{state['cell_id']}"
        earlier = [step for step in self.steps_of(state["cell_id"]) if step != state["step"]]
        self._storage.put(
            f"{folder}/{_name(state['step'])}", MAGIC + digest + b"\n" + payload, durable=True
        )
        for step in earlier[: -(KEPT - 1)]:
            self._storage.delete(f"{folder}/{_name(step)}")

    def read(
        self, cell_id: str, check: Callable[[Any], None] = lambda state: None
    ) -> dict[str, Any] | None:
        """The newest state of the cell that is whole; None if there is none. One that is torn,
        doesn't match its checksum, or for which `check` raises ValueError is logged and removed.
        Those of other numerics aren't looked at. Nothing in it is executed."""
        import torch

        for step in reversed(self.steps_of(cell_id)):
            path = f"{FOLDER}/{cell_id}/{_name(step)}"
            try:
                data = self._storage.get(path)
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
                self._storage.delete(path)  # its name would say that there is something
                logger.warning("%s/%s is removed: %s", self._storage, path, one_line(error))
        return None

    def steps(self) -> dict[str, int]:
        """{cell_id: step of its newest checkpoint}, by names alone."""
        return {cell_id: step for cell_id, step in self._newest(NUMERICS).items() if step}

    def cell_ids(self) -> set[str]:
        """Cells that anything is stored of, by names alone."""
        infos = self._storage.infos(FOLDER, recursive=True)
        return {info.path.partition("/")[0] for info in infos}

    def of_other_numerics(self) -> set[str]:
        """Cells that have checkpoints of other numerics, and none of this program's."""
        return self._newest(None).keys() - self._newest(NUMERICS).keys()

    def steps_of(self, cell_id: str) -> list[int]:
        """Steps of a cell's checkpoints of this program's numerics, ascending."""
        names = (info.path for info in self._storage.infos(f"{FOLDER}/{cell_id}"))
        return sorted(step for step, found in map(_step_and_numerics, names) if found == NUMERICS)

    def remove(self, cell_id: str) -> None:
        """Removes all checkpoints of the cell, and its evaluations so far; none is fine."""
        self._storage.delete_folder(f"{FOLDER}/{cell_id}")

    def remove_later(self, cell_id: str, last: int) -> None:
        """Removes, and logs, checkpoints of steps that a cell hasn't got."""
        for step in self.steps_of(cell_id):
            if step > last:
                path = f"{FOLDER}/{cell_id}/{_name(step)}"
                logger.warning("%s/%s is removed: no such step", self._storage, path)
                self._storage.delete(path)

    def write_history(self, cell_id: str, rows: Sequence[dict[str, Any]]) -> None:
        """Stores an unfinished cell's evaluations so far (schema.HISTORY_COLUMNS)."""
        data = encode(to_table(rows, HISTORY))
        self._storage.put(f"{FOLDER}/{cell_id}/history.parquet", data)

    def _newest(self, numerics: int | None) -> dict[str, int]:
        """{cell_id: greatest step of its checkpoints} of these numerics; None: of all others."""
        steps: dict[str, int] = {}
        for info in self._storage.infos(FOLDER, recursive=True):
            cell_id, _, file = info.path.rpartition("/")
            step, found = _step_and_numerics(file)
            if found == numerics or (numerics is None and found not in (0, NUMERICS)):
                steps[cell_id] = max(steps.get(cell_id, 0), step)
        return steps


def _name(step: int) -> str:
    return f"{step}.n{NUMERICS}.ckpt"


def _step_and_numerics(name: str) -> tuple[int, int]:
    """What a checkpoint's name says; (0, 0) if it is none."""
    match = _NAME.fullmatch(name)
    return (int(match[1]), int(match[2] or 1)) if match else (0, 0)
