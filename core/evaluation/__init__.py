"""How models are measured: metrics of their predictions on a split's sequences, and yardsticks,
which are other learning algorithms on the same sequences. Nothing here changes a model.

Metrics beside accuracy and loss are asked for by name (`Cell.metrics`). What is known of them
without torch stands here; one of the user's is a class with the method of `MetricClass`, made known
by `core.plugins`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from metaphase.core.cell import Cell
    from metaphase.core.settings import Setting
    from metaphase.core.tasks.sequences import Batch


class MetricClass(Protocol):
    """What a metric is: a frozen dataclass whose fields are settings of a cell."""

    def values(self, outputs_RxBxTxN: Tensor, batch: Batch, cell: Cell) -> Tensor:
        """value_RxB, float32: a number for each sequence; the tables have their mean.

        Args:
            outputs_RxBxTxN: logits of classes, or estimates of real targets.
            batch: the sequences.
        """
        ...


def _confidence() -> type:
    cls: type = importlib.import_module(f"{__name__}.confidence").Confidence
    return cls


@dataclass(frozen=True)
class Metric:
    """Facts about a metric.

    Attributes:
        column: of the tables, behind the split's name.
        make: its class.
        own: the settings that it brings itself, by name.
    """

    column: str
    make: Callable[[], type]
    own: Mapping[str, Setting] = field(default_factory=dict)

    def of(self, cell: Cell) -> Any:
        """The metric with the cell's settings."""
        return self.make()(**{name: getattr(cell, name) for name in self.own})


METRICS: dict[str, Metric] = {"confidence": Metric("confidence", _confidence)}
