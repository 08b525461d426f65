"""When a replica's phase is settled before its steps are trained.

Off unless a cell sets `stop_when_decided`. The rule, applied at every evaluation and needed at two
in a row:

- generalizing is final: the whole interval of the improvement on unseen tasks, that of the phases
  (`core.phases.paired_interval`), is above DELTA. A model that has left the plateau keeps the
  algorithm it found.
- otherwise nothing moves any more once the training tasks are solved: the loss on them is below
  SOLVED of a guess' (its gradient is as small), and the interval of the improvement on unseen tasks
  includes 0.

What it costs in accuracy and in phases, against full runs: dev/LOG.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from metaphase.core import schema
from metaphase.core.phases import DELTA, paired_interval

SOLVED = 0.02  # training loss over that of a guess, ln(num_classes)


def decided(history: Sequence[Mapping[str, Any]], num_classes: int) -> bool:
    """Whether the cell with these rows of the history table needs no more steps."""
    steps = sorted({row["step"] for row in history})[-2:]
    if len(steps) < 2:
        return False
    rows = [{row["split"]: row for row in history if row["step"] == step} for step in steps]
    intervals = [
        paired_interval(unseen["improvement"], unseen["improvement_se"], unseen["n"])
        for unseen in (at[schema.UNSEEN] for at in rows)
    ]
    solved = all(at[schema.TRAIN]["loss"] < SOLVED * math.log(num_classes) for at in rows)
    return all(low > DELTA for low, _ in intervals) or (
        solved and all(low < 0.0 < high for low, high in intervals)
    )
