"""Kept models of finished cells, `models/<cell_id>/<step>.safetensors`.

A file is plain safetensors: the weights by name, Adam's moments beside them. Its metadata hold, as
JSON, the cell's settings, the rest of the state that training continues from, and a checksum of all
of it. It is written before the cell's results, and never replaced.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from metaphase.core.cell import Cell, ConfigError
from metaphase.sweeps.store.folders import one_line
from metaphase.sweeps.store.storage import Storage

if TYPE_CHECKING:
    from torch import Tensor

    from metaphase.core.trained import TrainedModel

FOLDER = "models"
_NAME = re.compile(r"([0-9a-f]{16})/([1-9][0-9]{0,9})\.safetensors")
_TENSORS = ("theta", "moment1", "moment2")  # of a state; all else of it is JSON


class DamagedModelError(ValueError):
    """A kept model's file isn't what was written."""


class Models:
    """The kept models of one sweep's cells."""

    def __init__(self, storage: Storage):
        self._storage = storage

    def write(self, cell: Cell, state: Mapping[str, Any]) -> None:
        """Keeps a cell's state, as `core.training.trainer.PackTrainer.states` returns it. What is
        there already stays."""
        from safetensors.torch import save

        from metaphase.core.trained import named_tensors

        tensors = named_tensors(cell, state)
        rest = {key: value for key, value in state.items() if key not in _TENSORS}
        said = {"settings": json.dumps(cell.to_dict()), "state": json.dumps(rest)}
        said["checksum"] = _checksum(said, tensors)
        self._storage.create(_path(cell.cell_id, state["step"]), save(tensors, said))

    def read(self, cell_id: str, step: int) -> tuple[Cell, dict[str, Any]]:
        """A cell and its state at a step. Nothing in the file is executed.

        Raises:
            FileNotFoundError: none is kept.
            DamagedModelError: the file isn't what was written; in one line.
            ValueError: the model is of another cell, step or version; in one line.
        """
        from safetensors.torch import load

        from metaphase.core.trained import rows_of
        from metaphase.core.training.checkpoint import check_state

        data = self._storage.get(_path(cell_id, step))
        try:
            length = int.from_bytes(data[:8], "little")
            said = json.loads(data[8 : 8 + length])["__metadata__"]
            tensors = load(data)
            if said.pop("checksum") != _checksum(said, tensors):
                raise ValueError("torn: its checksum doesn't match")
        except Exception as error:  # whatever it is: the file isn't what was written
            raise DamagedModelError(one_line(error)) from None
        try:
            cell = Cell.from_dict(json.loads(said["settings"]))
            state = {**json.loads(said["state"]), **rows_of(cell, tensors)}
            if (cell.cell_id, state["step"]) != (cell_id, step):
                raise ValueError("it belongs to another cell, step or version")
            check_state(cell, state)
        except Exception as error:  # whatever it is: it was written for something else
            raise ValueError(one_line(error)) from None
        return cell, state

    def load(
        self, cell_id: str, step: int | None = None, device: str | None = None
    ) -> TrainedModel:
        """A kept model, to predict with and look into.

        Args:
            cell_id: as in the tables.
            step: None: the last that is kept.
            device: torch device; None: the CPU.

        Raises:
            ConfigError: it isn't kept, or the file is damaged; in one line.
        """
        from metaphase.core.trained import TrainedModel

        kept = self.steps().get(cell_id, [])
        if not kept or (step is not None and step not in kept):
            have = f"kept are those of steps {', '.join(map(str, kept))}" if kept else "none is"
            raise ConfigError(
                f"{self._storage}: no model of cell {cell_id} is kept"
                f"{'' if step is None else f' at step {step}'}; {have}; `metaphase run "
                "--keep-models` keeps those of the cells that it finishes"
            )
        step = kept[-1] if step is None else step
        try:
            cell, state = self.read(cell_id, step)
        except (FileNotFoundError, ValueError) as error:
            path = f"{self._storage}/{_path(cell_id, step)}"
            raise ConfigError(f"{path} can't be used: {one_line(error)}") from None
        return TrainedModel(cell, state, device or "cpu")

    def steps(self) -> dict[str, list[int]]:
        """{cell_id: steps at which models are kept, ascending}, by names alone."""
        found: dict[str, list[int]] = {}
        for info in self._storage.infos(FOLDER, recursive=True):
            if match := _NAME.fullmatch(info.path):
                found.setdefault(match[1], []).append(int(match[2]))
        return {cell_id: sorted(steps) for cell_id, steps in found.items()}

    def discard(self, cell_id: str, step: int) -> None:
        """Removes one model; none is fine."""
        self._storage.delete(_path(cell_id, step))

    def remove(self, cell_id: str) -> None:
        """Removes all models of the cell; none is fine."""
        self._storage.delete_folder(f"{FOLDER}/{cell_id}")


def _path(cell_id: str, step: int) -> str:
    return f"{FOLDER}/{cell_id}/{step}.safetensors"


def _checksum(said: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the texts and of all tensors: names, types, shapes, bytes."""
    digest = hashlib.sha256(json.dumps([said["settings"], said["state"]]).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
