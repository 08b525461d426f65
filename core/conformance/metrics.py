"""Checks of metrics."""

from __future__ import annotations

import torch
from torch import Tensor

from metaphase.core import schema
from metaphase.core.cell import ConfigError
from metaphase.core.conformance.subject import (
    Broken,
    Subject,
    alone_equals_packed,
    require,
    same,
    train,
    without_a_host,
)
from metaphase.core.tasks.sequences import Batch


def values_are_one_a_sequence(subject: Subject) -> None:
    """`values` gives a finite number for each replica and sequence."""
    outputs, batch = _evaluated(subject)
    values = _values(subject, outputs, batch)
    require(
        values.is_floating_point(),
        f"values() gives {values.dtype}; needed: floating point, a number for each replica and "
        "sequence.",
    )
    require(bool(values.isfinite().all()), "values() gives what is no finite number.")


def sequences_do_not_mix(subject: Subject) -> None:
    """A sequence's value depends on its own predictions alone."""
    outputs, batch = _evaluated(subject)
    whole = _values(subject, outputs, batch)
    part = Batch(batch.x_RxBxTxX[:1, :2], batch.y_RxBxT[:1, :2])
    require(
        same(whole[:1, :2], _values(subject, outputs[:1, :2], part), to_rounding=True),
        "A sequence's value depends on the others of its batch: reduce over positions and outputs "
        "only.",
    )


def nothing_is_changed(subject: Subject) -> None:
    """Predictions and sequences stay as they are."""
    outputs, batch = _evaluated(subject)
    before = outputs.clone(), batch.y_RxBxT.clone()
    _values(subject, outputs, batch)
    require(
        same(before[0], outputs) and same(before[1], batch.y_RxBxT),
        "values() changes what it is given; use no operations in place.",
    )


def nothing_is_read_back(subject: Subject) -> None:
    """Values are computed without looking at numbers on the host."""
    outputs, batch = _evaluated(subject)
    with without_a_host("values()"):
        _values(
            subject,
            outputs.to("meta"),
            Batch(batch.x_RxBxTxX.to("meta"), batch.y_RxBxT.to("meta")),
        )


def it_reaches_the_tables(subject: Subject) -> None:
    """Evaluations have its column, and its error's."""
    trainer = train(subject.trainer(subject.cell(seed=0), subject.cell(seed=1)))
    row, column = trainer.results()[0][0], subject.entry.column
    for split in schema.SPLITS:
        require(
            f"{split}_{column}" in row and f"{split}_{column}_se" in row,
            f"The cells table lacks {split}_{column}.",
        )
    alone_equals_packed(subject)


def _evaluated(subject: Subject) -> tuple[Tensor, Batch]:
    """Outputs RxBxTxC of two trained cells, and the batch that they are of."""
    try:
        trainer = subject.trainer(subject.cell(seed=0), subject.cell(seed=1))
    except ConfigError as error:
        raise Broken(str(error)) from None
    trainer.train(2)
    batch = trainer.sampler.evaluation_batch(schema.SEEN, torch.arange(4))
    [stack] = trainer.stacks
    with torch.no_grad():
        return stack.predict(batch), batch


def _values(subject: Subject, outputs: Tensor, batch: Batch) -> Tensor:
    """The metric's values, RxB, of outputs RxBxTxC."""
    cell = subject.cell()
    with torch.no_grad():
        values: Tensor = subject.entry.of(cell).values(outputs, batch, cell)
    return values


CHECKS = (
    values_are_one_a_sequence,
    sequences_do_not_mix,
    nothing_is_changed,
    nothing_is_read_back,
    it_reaches_the_tables,
)
