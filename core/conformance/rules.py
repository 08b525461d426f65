"""Checks of rules of phases."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from metaphase.core import phase_rules, schema
from metaphase.core.conformance.subject import STEPS, Subject, require, train
from metaphase.core.phases import CONFIDENCE, DELTA

_SHARES = (0.0, 0.3, 0.6, 1.0)  # accuracies that cells are given, in all combinations


def it_says_a_phase_of_each_cell(subject: Subject) -> None:
    """`phase` and `decided` are what rules say."""
    _said(subject, _cells(subject))


def a_cell_is_judged_by_itself(subject: Subject) -> None:
    """What is said of a cell depends on no other one."""
    cells = _cells(subject)
    whole = _said(subject, cells.copy())
    for place in range(len(cells)):
        alone = _said(subject, cells.iloc[[place]].copy())
        require(
            _same({name: values[place : place + 1] for name, values in whole.items()}, alone),
            "What is said of a cell depends on the others in the table: a phase must be the same "
            "while a sweep is trained and after it. Compare with no mean, rank or count of them.",
        )


def it_says_the_same_again(subject: Subject) -> None:
    """The same cells have the same phases, and stay as they are."""
    cells = _cells(subject)
    before, first = cells.copy(deep=True), _said(subject, cells)
    require(cells.equals(before), "The rule changes the table that it is given; work on copies.")
    require(
        _same(first, _said(subject, cells)),
        "The same cells have other phases when asked again: a rule must depend on nothing else.",
    )


def _cells(subject: Subject) -> Any:
    """A table of cells that finished, some of which were compared with M and G."""
    import pandas as pd

    small = {"model_size": 8, "num_layers": 1, "num_heads": 2, "sequence_length": 8}
    small |= {"batch_size": 4, "eval_sequences": 8, "warmup_steps": 0, "steps": STEPS}
    rows: list[dict[str, Any]] = []
    for family in ("projected_images", "linear_regression"):
        cells = [
            subject.cell(**small, task_family=family, num_tasks=n, eval_every=STEPS)
            for n in (1, 256)
        ]
        rows += [row for row, _ in train(subject.trainer(*cells)).results()]
    for seen, unseen in itertools.product(_SHARES, repeat=2):
        rows.append(rows[0] | {f"{schema.SEEN}_last": seen, f"{schema.UNSEEN}_last": unseen})
        rows[-1][f"{schema.SEEN}_improvement"] = seen - rows[0][f"{schema.SEEN}_first"]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    texts = [{name: schema.to_column(row.get(name)) for name in columns} for row in rows]
    return pd.DataFrame(texts)


def _said(subject: Subject, cells: Any) -> dict[str, np.ndarray]:
    said = phase_rules.load(subject.name)(cells, DELTA, CONFIDENCE)
    return {str(name): np.asarray(values) for name, values in said.items()}


def _same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(
        one is two or one == two or (one != one and two != two)
        for name in a
        for one, two in zip(a[name].tolist(), b[name].tolist(), strict=True)
    )


CHECKS = (it_says_a_phase_of_each_cell, a_cell_is_judged_by_itself, it_says_the_same_again)
