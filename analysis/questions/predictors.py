"""Between which of the best algorithms are models, and where does that turn?

Asked where cells were compared with M and G: maps of the relative distance on new tasks over model
size, training, context and any further number that varies, each with the number of tasks, and the
loss by position beside that of the predictors.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pandas as pd

from metaphase.analysis import labels
from metaphase.analysis.questions.answer import Answer
from metaphase.analysis.statistics import phases, training_phases, transitions
from metaphase.analysis.statistics import relative_distance as relative
from metaphase.analysis.statistics.settings import equal_groups, varying_settings
from metaphase.core import schema
from metaphase.core.phase_rules import Rule
from metaphase.core.phases import CONFIDENCE, DELTA

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "relative_distance"
CAPTION = (
    "Relative distance of models between M (0: the predictor that knows the tasks trained on) and "
    "G (1: the one that knows what tasks are drawn from), on new tasks, mean over seeds; hatched "
    "where it can't be told of models that are so far off the line, plain grey where there are too "
    "many tasks to compute M. {}"
)
_TURNS = "Lines: where the phase of most seeds changes."
_MARKS = "Symbols: where phases begin, with their intervals."
LOSSES = "Loss by position, of models (thin lines, a line a seed) and of the predictors."


def find(
    classified: pd.DataFrame,
    history: pd.DataFrame,
    curves: pd.DataFrame | None = None,
    delta: float = DELTA,
    confidence: float = CONFIDENCE,
    rule: Rule | None = None,
) -> Iterator[Answer]:
    """The maps and curves that the tables have columns for, of each condition.

    Args:
        classified: from `analysis.statistics.phases.classify`, all conditions.
        history, curves: from `analysis.load`.
        delta, confidence, rule: that the cells were classified with.
    """
    if not relative.has_it(classified):
        return
    for condition, cells in phases.split_conditions(classified):
        if not relative.has_it(cells):
            continue
        end, title = labels.file_suffix(condition), labels.title(classified, condition)
        yield from _over_sizes(cells, end, title)
        own = history[history["cell_id"].isin(cells["cell_id"]) & (history["step"] > 0)]
        if own["step"].nunique() > 1:
            every = training_phases.evaluations(cells, own)
            every = phases.classify(every, delta, confidence, rule=rule)
            if relative.has_it(every):
                keys = [relative.SIZE, relative.TASKS, relative.STEP]
                yield _answer(f"{NAME}-training{end}", relative.of_cells(every, keys),
                              relative.STEP, title, _TURNS)  # fmt: skip
        if curves is not None and relative.has_it(curves, NAME):
            table = relative.over_context(curves, cells)
            if len(table):
                yield _answer(f"{NAME}-context{end}", table, relative.POSITION, title, "")
            losses = relative.loss_table(curves, cells)
            if len(losses):
                yield Answer(f"loss_curves{end}", "", losses,
                             functools.partial(_losses, losses, title), LOSSES)  # fmt: skip
    yield from _over_settings(classified)


def _over_sizes(cells: pd.DataFrame, end: str, title: str) -> Iterator[Answer]:
    table = relative.of_cells(cells, [relative.SIZE, relative.TASKS])
    if len(table) < 2:
        return
    found = transitions.estimate_transitions(cells)
    draw = functools.partial(_map, table, relative.TASKS, relative.SIZE, title, found)
    yield Answer(f"{NAME}{end}", "", table, draw, CAPTION.format(_MARKS))


def _over_settings(classified: pd.DataFrame) -> Iterator[Answer]:
    """A map for each number among the settings that varies beside the grid's axes, cells equal in
    all others."""
    done = classified[classified["status"] == schema.DONE]
    for name in varying_settings(done):
        if not pd.api.types.is_numeric_dtype(done[name]) or done[name].dtype == bool:
            continue
        for told, cells in equal_groups(done, ["architecture"], besides=[name]):
            if cells[name].nunique() < 2 or not relative.has_it(cells):
                continue
            cells = cells.dropna(subset=[name])
            table = relative.of_cells(cells, [relative.SIZE, relative.TASKS, name])
            title = labels.title(classified, told)
            yield _answer(f"{NAME}-{labels.file_word(name)}{labels.file_suffix(told)}", table, name,
                          title, _TURNS)  # fmt: skip


def _answer(name: str, table: pd.DataFrame, x: str, title: str, says: str) -> Answer:
    """Of a map of `x` and the number of tasks, a panel a model size."""
    draw = functools.partial(_map, table, x, relative.TASKS, title, None)
    return Answer(name, "", table, draw, CAPTION.format(says).strip())


def _map(table: pd.DataFrame, x: str, y: str, title: str, found: pd.DataFrame | None) -> Figure:
    from metaphase.analysis.figures import relative_maps, transition_marks

    marks = None if found is None else transition_marks.table(found)
    return relative_maps.figure(table, x, y, title, marks, (x.replace("_", " "), ""))


def _losses(table: pd.DataFrame, title: str) -> Figure:
    from metaphase.analysis.figures import loss_curves

    return loss_curves.figure(table, title)
