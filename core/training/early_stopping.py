"""When a replica's phase is settled before its steps are trained.

Off unless a cell sets `stop_when_decided`. The rule, applied at every evaluation and needed at two
in a row:

- generalizing is final: the improvement on unseen tasks exceeds DELTA by more than Z standard
  errors. A model that has left the plateau keeps the algorithm it found.
- otherwise nothing moves any more once the training tasks are solved: the loss on them is below
  SOLVED of a guess' (its gradient is as small), and the improvement on unseen tasks is within Z
  standard errors of 0.

What it costs in accuracy and in phases, against full runs: dev/LOG.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from metaphase.core import schema

DELTA = 0.05  # the threshold of the phases (analysis.statistics.phases)
Z = 2.576  # of the normal distribution: 99% two-sided, as in analysis.statistics.phases
SOLVED = 0.02


def decided(history: Sequence[dict[str, Any]], num_classes: int) -> bool:
    """Whether the cell with these rows of the history table needs no more steps."""
    steps = sorted({row["step"] for row in history})[-2:]
    if len(steps) < 2:
        return False
    rows = [{row["split"]: row for row in history if row["step"] == step} for step in steps]
    return all(_generalizes(at[schema.UNSEEN]) for at in rows) or all(
        at[schema.TRAIN]["loss"] < SOLVED * math.log(num_classes)
        and abs(at[schema.UNSEEN]["improvement"]) < Z * at[schema.UNSEEN]["improvement_se"]
        for at in rows
    )


def _generalizes(unseen: dict[str, Any]) -> bool:
    return unseen["improvement"] - Z * unseen["improvement_se"] > DELTA
