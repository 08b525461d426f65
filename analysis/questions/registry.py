"""All questions, asked of one sweep."""

from __future__ import annotations

import pandas as pd

from metaphase.analysis.questions import (
    along_setting,
    architectures,
    boundaries,
    generalization,
    interventions,
    known_algorithms,
    modes,
    order,
    predictors,
    seeds,
    state_size,
    strategies,
    training,
)
from metaphase.analysis.questions.answer import Answer
from metaphase.core.phase_rules import Rule
from metaphase.core.phases import CONFIDENCE, DELTA

# Of the answers, up to the first hyphen; results/README.md says what each is.
NAMES = (
    *("architectures", "state_size", "interventions", "along_settings", "seeds", "modes"),
    *("transitions_by_delta", "boundary", "power_law", "transitions_along_size"),
    *("order_parameter", "variance_peak", "collapse", "budget_crossings", "training"),
    *("relative_distance", "loss_curves", "strategies", "strategies_map"),
    *("generalization", "yardsticks"),
)


def find(
    classified: pd.DataFrame,
    history: pd.DataFrame,
    yardsticks: pd.DataFrame | None = None,
    delta: float = DELTA,
    confidence: float = CONFIDENCE,
    rule: Rule | None = None,
    curves: pd.DataFrame | None = None,
) -> list[Answer]:
    """The answers to all questions that the sweep can answer.

    Args:
        classified: from `analysis.statistics.phases.classify`, all conditions.
        history: from `analysis.load.load_history`.
        yardsticks: from `analysis.load.load_yardsticks`.
        delta, confidence, rule: that the cells were classified with.
        curves: from `analysis.load.load_curves`.
    """
    return [
        *architectures.find(classified),
        *state_size.find(classified),
        *interventions.find(classified),
        *along_setting.find(classified, history),
        *seeds.find(classified),
        *modes.find(classified),
        *boundaries.find(classified, confidence, rule),
        *order.find(classified, history),
        *training.find(classified, history, delta, confidence, rule),
        *predictors.find(classified, history, curves, delta, confidence, rule),
        *strategies.find(classified, history),
        *generalization.find(classified, history, yardsticks),
        *known_algorithms.find(classified, yardsticks),
    ]
