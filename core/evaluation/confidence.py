"""How sure a model is of its predictions."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from metaphase.core.cell import Cell
from metaphase.core.label_counts import last_positions
from metaphase.core.tasks.sequences import Batch


@dataclass(frozen=True)
class Confidence:
    """Mean probability of the class predicted, over the last tenth of the positions: a calibrated
    model's is its accuracy there (Guo et al. 2017, "On calibration of modern neural networks",
    section 2)."""

    def values(self, outputs_RxBxTxN: Tensor, batch: Batch, cell: Cell) -> Tensor:
        """value_RxB, in [0, 1]."""
        last = outputs_RxBxTxN[:, :, -last_positions(cell.sequence_length) :]
        value_RxB: Tensor = last.float().softmax(dim=-1).amax(dim=-1).mean(dim=-1)
        return value_RxB
