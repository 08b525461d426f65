"""When a replica's phase is settled before its steps are trained.

Off unless a cell sets `stop_when_decided`. The rule, applied at every evaluation and needed at two
in a row:

- generalizing is final: the whole interval of `last` on unseen tasks, that of the phases
  (`core.phases.score_interval`), is above their level by more than DELTA. A model that has left the
  plateau keeps the algorithm it found.
- otherwise nothing moves any more once the training tasks are solved: the loss on them is below
  SOLVED of a guess' (its gradient is as small), and the interval of `last` on unseen tasks isn't
  above their level.

Where the family has M and G (`core.predictor_phases`), generalizing is not final: what
is best on the tasks trained on is M, and models that generalize go over to it, the later the more
tasks there are. Nothing moves any more once the model is M: on seen tasks its distance from M is
below SOLVED of that from the predictor without context or, where there is none, of M's from G.
With more tasks than M is computed for, nothing is settled before the last step.

What it costs in accuracy and in phases, against full runs: dev/LOG.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from metaphase.core import schema
from metaphase.core.phases import DELTA, score_interval

SOLVED = 0.02  # training loss over that of a guess, or distance from M over that from no context


def decided(history: Sequence[Mapping[str, Any]], guess_loss: float, unseen_level: float) -> bool:
    """Whether the cell with these rows of the history table needs no more steps.

    Args:
        guess_loss: of knowing nothing, `core.tasks.Classes.guess_loss`.
        unseen_level: see `core.phases.level_of`.
    """
    steps = sorted({row["step"] for row in history})[-2:]
    if len(steps) < 2:
        return False
    rows = [{row["split"]: row for row in history if row["step"] == step} for step in steps]
    seen = [at[schema.SEEN] for at in rows]
    if all("distance_between" in at for at in seen):
        if any(at["distance_between"] is None for at in seen):
            return False
        return all(at["distance_memorizing"] < SOLVED * _far_from_m(at) for at in seen)
    lows = [
        score_interval(unseen["last"], unseen["last_se"], unseen["n"])[0] - unseen_level
        for unseen in (at[schema.UNSEEN] for at in rows)
    ]
    solved = all(at[schema.TRAIN]["loss"] < SOLVED * guess_loss for at in rows)
    return all(low > DELTA for low in lows) or (solved and all(low <= 0.0 for low in lows))


def _far_from_m(row: Mapping[str, Any]) -> float:
    """What a model's distance from M is compared with, that has learned nothing of the tasks."""
    zero = row.get("distance_no_context")
    return float(row["distance_between"] if zero is None else zero)
