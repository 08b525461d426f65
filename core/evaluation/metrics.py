"""What an evaluation says about a split: accuracies within sequences, with their errors, and the
metrics that cells ask for beside."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metaphase.core import schema
from metaphase.core.cell import Cell
from metaphase.core.evaluation import METRICS
from metaphase.core.kernels.operations import row_means
from metaphase.core.label_counts import last_positions
from metaphase.core.plugin_code import failures_told
from metaphase.core.settings import ConfigError
from metaphase.core.tasks.sequences import Batch


@dataclass(frozen=True)
class SplitMetrics:
    """What is measured on one split: R replicas, n sequences of T predictions; float64 on the CPU.

    Attributes:
        loss_R: mean cross-entropy, nats.
        statistics_R: `schema.STATISTICS` by name, each (mean_R, standard error_R).
        accuracy_RxT, accuracy_se_RxT: by position.
        further: metrics asked for beside these, by column, as `statistics_R`.
        plain_R: each replica's numbers that have no error of their own, by column. Its row has
            them in place of those above; None: it can't be told.
        n: number of sequences.
    """

    loss_R: Tensor
    statistics_R: dict[str, tuple[Tensor, Tensor]]
    accuracy_RxT: Tensor
    accuracy_se_RxT: Tensor
    further: dict[str, tuple[Tensor, Tensor]]
    plain_R: list[dict[str, float | None]]
    n: int

    def row(self, r: int) -> dict[str, Any]:
        """Replica r's loss and statistics, with the history table's column names."""
        row: dict[str, Any] = {"loss": self.loss_R[r].item()}
        for name, (mean_R, error_R) in (self.statistics_R | self.further).items():
            row |= {name: mean_R[r].item(), f"{name}_se": error_R[r].item()}
        return row | (self.plain_R[r] if self.plain_R else {}) | {"n": self.n}

    def curve(self, r: int) -> list[dict[str, Any]]:
        """Replica r's accuracy by position, from 1, with the curves table's column names."""
        points = zip(self.accuracy_RxT[r].tolist(), self.accuracy_se_RxT[r].tolist(), strict=True)
        return [
            {"position": t, "accuracy": accuracy, "accuracy_se": error, "n": self.n}
            for t, (accuracy, error) in enumerate(points, start=1)
        ]


def split_metrics(
    loss_RxExT: Tensor,
    score_RxExT: Tensor,
    diverged_R: Tensor,
    unit: int = 1,
    further_RxE: Mapping[str, Tensor] | None = None,
    plain_R: list[dict[str, float | None]] | None = None,
) -> SplitMetrics:
    """Reduces losses and scores of E sequences; a diverged replica's are all NaN.

    A standard error is that of a mean over sequences: sample deviation / sqrt(E). The improvement
    is taken within each sequence, so what first and last share cancels in its error.

    Args:
        score_RxExT: `core.tasks.targets.scores`: of classes whether a prediction is right.
        unit: score of a perfect prediction.
        further_RxE: values of further metrics, a sequence each, by column.
        plain_R: see `SplitMetrics`.
    """
    E, T = score_RxExT.shape[1:]
    width = last_positions(T)
    # Whole numbers of parts, so sums are exact and no order of summation shows.
    score_RxExT = score_RxExT.cpu().long()
    first_RxE = score_RxExT[:, :, 0]
    last_RxE = score_RxExT[:, :, T - width :].sum(dim=2)

    def mean_and_error(count_RxE: Tensor, scale: int) -> tuple[Tensor, Tensor]:
        """Over sequences, of count / scale; any axes may follow R and E."""
        total, squares = count_RxE.sum(dim=1).double(), (count_RxE**2).sum(dim=1).double()
        variance = (squares - total**2 / E) / (E - 1) / scale**2
        mean, error = total / E / scale, (variance.clamp(min=0.0) / E).sqrt()
        return _blank(mean, diverged_R), _blank(error, diverged_R)

    def mean_and_error_of_reals(value_RxE: Tensor) -> tuple[Tensor, Tensor]:
        value_RxE = value_RxE.cpu().double()
        mean_R = row_means(value_RxE)
        error_R = (row_means((value_RxE - mean_R[:, None]) ** 2) / (E - 1)).sqrt()
        return _blank(mean_R, diverged_R), _blank(error_R, diverged_R)

    accuracy_RxT, accuracy_se_RxT = mean_and_error(score_RxExT, unit)
    return SplitMetrics(
        loss_R=_blank(row_means(loss_RxExT.cpu().flatten(1)), diverged_R),
        statistics_R={
            schema.FIRST: mean_and_error(first_RxE, unit),
            schema.LAST: mean_and_error(last_RxE, width * unit),
            schema.IMPROVEMENT: mean_and_error(last_RxE - width * first_RxE, width * unit),
        },
        accuracy_RxT=accuracy_RxT,
        accuracy_se_RxT=accuracy_se_RxT,
        further={c: mean_and_error_of_reals(v) for c, v in (further_RxE or {}).items()},
        plain_R=plain_R or [],
        n=E,
    )


class Further:
    """The metrics that cells ask for beside accuracy and loss.

    Args:
        cell: of a pack, whose cells ask for the same ones.

    Raises:
        ConfigError: one can't be made; so do its methods where one fails, or gives what isn't a
            number for each replica and sequence. One line that names the metric and the family.
    """

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._of = {name: self._by(name, "it", METRICS[name].of, cell) for name in cell.metrics}

    def __bool__(self) -> bool:
        return bool(self._of)

    def values(self, outputs_RxBxTxN: Tensor, batch: Batch) -> dict[str, Tensor]:
        """value_RxB of each metric, by column."""
        return {
            METRICS[name].column: self._checked(
                name,
                self._by(name, "values()", metric.values, outputs_RxBxTxN, batch, self._cell),
                tuple(batch.y_RxBxT.shape[:2]),
            )
            for name, metric in self._of.items()
        }

    def _by(self, name: str, said: str, call: Callable[..., Any], *arguments: Any) -> Any:
        """What a metric's code returns."""
        with failures_told(self._named(said, name)):
            return call(*arguments)

    def _named(self, said: str, name: str) -> str:
        return f"metrics: {said} of {name}, on {self._cell.task_family},"

    def _checked(self, name: str, value_RxB: Any, due: tuple[int, ...]) -> Tensor:
        shape = tuple(value_RxB.shape) if isinstance(value_RxB, Tensor) else None
        if isinstance(value_RxB, Tensor) and shape == due and not value_RxB.is_complex():
            return value_RxB
        kind = type(value_RxB).__name__ if shape is None else f"{value_RxB.dtype} {shape}"
        raise ConfigError(
            f"{self._named('values()', name)} gives {kind}; needed: {due}, a real number for each "
            "replica and sequence"
        )


def _blank(t: Tensor, diverged_R: Tensor) -> Tensor:
    """NaN in place of the numbers of diverged replicas."""
    return torch.where(diverged_R.view(-1, *[1] * (t.dim() - 1)), math.nan, t)
