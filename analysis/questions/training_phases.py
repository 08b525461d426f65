"""Phases over training: when does each cell reach a phase, and does it lose it again?

`phases-over-training` has the phase at every evaluation, `onsets` the step at which each phase came
and went (`analysis.statistics.training_phases`). Asked where cells were evaluated at two or more
steps.
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from metaphase.analysis import labels
from metaphase.analysis.questions.answer import Answer
from metaphase.analysis.statistics import training_phases
from metaphase.core.phases import GENERALIZING

FEWEST = 2  # steps evaluated
MOST_LINES = 10
_COLUMNS = (
    "cell_id", "architecture", "model_size", "num_tasks", "seed", "step", "phase", "decided",
    "seen_first", "seen_last", "unseen_last", "unseen_loss",
)  # fmt: skip


def find(classified: pd.DataFrame, history: pd.DataFrame) -> Iterator[Answer]:
    """Two answers if cells were evaluated often enough."""
    if history["step"].nunique() < FEWEST:
        return
    table = training_phases.over_training(classified, history)
    if table.empty:
        return
    onsets = training_phases.onsets(table)
    yield Answer("phases-over-training", "", table[[name for name in _COLUMNS if name in table]])
    yield Answer("onsets", describe(onsets), onsets)


def describe(onsets: pd.DataFrame) -> str:
    """The cells that generalized and lost it again."""
    lost = onsets[(onsets["phase"] == GENERALIZING) & onsets["transient"]]
    if lost.empty:
        return ""
    told = ["cells that generalized for a time"]
    for row in lost.head(MOST_LINES).to_dict("records"):
        told.append(
            f"  {row['architecture']}, model size {labels.power_of_two(row['model_size'])}, "
            f"{labels.power_of_two(row['num_tasks'])} tasks, seed {row['seed']}: generalized at "
            f"step {row['onset']:,}, lost it by step {row['lost_by']:,.0f}, then "
            f"{row['ended']}"
        )
    if len(lost) > MOST_LINES:
        told.append(f"  and {len(lost) - MOST_LINES} more (onsets.csv)")
    return "\n".join(told)
