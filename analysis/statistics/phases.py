"""Phases of whole tables: each cell's by a rule of `core.phase_rules`, each grid point's by its
seeds.

Cells that diverged or failed have none; their `status` says so. Nor have those for which the rule
has no answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from metaphase.analysis.load import ResultsError
from metaphase.analysis.statistics.settings import follows, setting_columns
from metaphase.core import label_counts, phase_rules, schema
from metaphase.core.phase_rules import LEFT, Rule
from metaphase.core.phases import (
    CONFIDENCE,
    DELTA,
    NO_CONTEXT_LOSS,
    PHASES,
    guess_loss_of,
    level_of,
    on_plateau,
)
from metaphase.core.predictor_phases import NONE, REASONS

AXES = ("architecture", "model_size", "num_tasks", "seed")  # of the grid
GRID_POINT = list(AXES[:3])
POINT = list(AXES[1:3])  # of a map
OF_RULE = "rule"  # attribute of a classified table: names of what the rule says further
DELTAS = (0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2)  # over which phases are compared


def classify(
    cells: pd.DataFrame,
    delta: float = DELTA,
    confidence: float = CONFIDENCE,
    headroom: bool = False,
    rule: Rule | None = None,
) -> pd.DataFrame:
    """The cells table with each cell's phase and the intervals that decided it.

    Args:
        cells: a row a cell, as from `analysis.load.load_cells`.
        delta: least effect that counts, an accuracy difference, or a share of the way between
            predictors (`core.predictor_phases`).
        confidence: of the two-sided intervals.
        headroom: accuracies' delta is a share of what there is to be learned, 1 - unseen_level,
            instead.
        rule: from `core.phase_rules.load`; None: by predictors where cells were compared with the
            best algorithms, else by accuracy.

    Returns:
        `cells`, same rows and index, plus `phase` (ordered categorical; null where a cell diverged
        or failed, or the rule has none), `decided`, `on_plateau`, `coincide` and `too_far` (bool;
        False where a cell didn't finish; the latter two: why it has no phase), `unseen_level` and
        `guess_loss` (also where the cells don't say theirs), `seen_lead` (seen_last - unseen_last),
        for seen_first, seen_last, unseen_last, seen_improvement and seen_lead `<name>_low` and
        `<name>_high`, and what the rule says beside that (named in `attrs[OF_RULE]`).

    Raises:
        ValueError: delta is not in [0, 1) or confidence not in (0, 1).
        ConfigError: a user's rule fails, or says what is no phase.
    """
    level, guess = new_task_level(cells).to_numpy(), _each(cells, "guess_loss", guess_loss_of)
    known = cells.assign(unseen_level=level, guess_loss=guess)
    accuracy = phase_rules.by_accuracy(known, delta, confidence, headroom)
    if rule is None:
        found: Mapping[str, Any] = phase_rules.by_what_is_known(known, delta, confidence, headroom)
    else:
        found = accuracy if rule is phase_rules.by_accuracy else rule(known, delta, confidence)
    done = cells["status"].to_numpy() == schema.DONE
    no_context = _numbers(cells, NO_CONTEXT_LOSS)
    plateau = np.where(np.isnan(no_context), guess, no_context)  # as phases.plateau_loss_of
    phase: Any = np.where(done, found["phase"], NONE)
    new: dict[str, Any] = {
        "unseen_level": level,
        "guess_loss": guess,
        "seen_lead": _numbers(cells, "seen_last") - _numbers(cells, "unseen_last"),
        **accuracy,
        **found,
        "phase": pd.Categorical(phase, list(PHASES), ordered=True),
        "decided": found["decided"] & done,
        "on_plateau": on_plateau(phase, _numbers(cells, "train_loss"), plateau),
        **{name: done & np.asarray(found.get(name, False), dtype=bool) for name in REASONS},
    }
    classified = cells.assign(**new)
    added = (name for name in new if name not in known)
    classified.attrs[LEFT] = (*cells.attrs.get(LEFT, ()), *added)
    classified.attrs[OF_RULE] = tuple(n for n in found if n not in (*accuracy, *REASONS))
    return classified


def new_task_level(cells: pd.DataFrame) -> pd.Series:
    """The level of each cell's unseen tasks, which learning has to beat: the accuracy of the best
    predictor without inputs over the last tenth of the positions (`core.label_counts`).

    Cells of earlier programs don't say it (`core.phases.level_of`); NaN where nothing is known.
    """
    return pd.Series(_each(cells, "unseen_level", level_of), cells.index, name="unseen_level")


def level_of_split(cells: pd.DataFrame, split: str) -> pd.Series:
    """The accuracy at the last positions that each cell reaches on a split without looking at
    inputs: on known tasks by naming the commonest class, on new ones the commonest label so far.
    On images of another dataset whose classes are unknown, that of the cell's own.

    Args:
        cells: as from `analysis.load.load_cells`.
        split: of `core.schema`.
    """
    if not split.startswith(schema.UNSEEN):
        return cells["chance"].astype(float)
    own, other = new_task_level(cells), split.partition("/")[2]
    if not other or not {"num_classes", "sequence_length"} <= set(cells):
        return own
    levels = [
        label_counts.level_on(other, int(classes), int(length))
        for classes, length in zip(cells["num_classes"], cells["sequence_length"], strict=True)
    ]
    return pd.Series(levels, cells.index).fillna(own)


def _each(
    cells: pd.DataFrame, name: str, unsaid: Callable[[Mapping[str, Any]], float]
) -> np.ndarray:
    """A column's numbers; where cells don't say theirs, what follows from their settings."""
    values = _numbers(cells, name)
    keys = [k for k in ("dataset", "num_classes", "sequence_length", "chance") if k in cells]
    lacking = np.isnan(values)
    if not lacking.any():
        return values
    lacking &= cells["chance"].notna().to_numpy()
    for _, group in cells[lacking].groupby(keys, dropna=False):
        row = {key: None if pd.isna(group[key].iloc[0]) else group[key].iloc[0] for key in keys}
        values[cells.index.get_indexer_for(group.index)] = unsaid(row)
    return values


def _numbers(cells: pd.DataFrame, name: str) -> np.ndarray:
    """A column's numbers, new memory; NaN where it isn't there."""
    if name not in cells:
        return np.full(len(cells), np.nan)
    return cells[name].to_numpy(dtype=float, na_value=np.nan).copy()


def by_delta(
    cells: pd.DataFrame,
    deltas: Sequence[float] = DELTAS,
    headroom: bool = False,
    rule: Rule | None = None,
) -> pd.DataFrame:
    """How phases move with the least effect that counts.

    Returns:
        A row a cell and delta: `delta`, the grid's axes, `phase`, `decided`.
    """
    parts = [
        classify(cells, delta, headroom=headroom, rule=rule).assign(delta=delta)[
            ["delta", *AXES, "phase", "decided"]
        ]
        for delta in deltas
    ]
    return pd.concat(parts, ignore_index=True)


def summarize_grid(classified: pd.DataFrame) -> pd.DataFrame:
    """Each grid point's majority phase and how its seeds split.

    The majority is the phase of most seeds that have one; of phases that tie, the least capable,
    so that a map never claims more than its seeds show. Where none has one it is null.

    Returns:
        A row a grid point (architecture, model_size, num_tasks), with `phase`, `agreement` (share
        of the seeds with a phase that are in it; NaN where none has one), `seeds` (that are there),
        a count for each phase under its name and its share of the seeds with a phase,
        `<phase>_share`, `decided_share` (both NaN where none has one), and counts of seeds:
        `finished`, `on_plateau` and `no_phase` (of the finished), `failed`, `diverged`,
        `unfinished` (diverged or failed) and `missing` (seeds of other grid points that this one
        lacks).

    Raises:
        ResultsError: cells differ in more than the grid's axes (see `split_conditions`).
    """
    require_one_condition(classified)
    status = classified["status"]
    counts = pd.DataFrame({phase: classified["phase"] == phase for phase in PHASES})
    counts = counts.assign(
        finished=status == schema.DONE,
        on_plateau=classified["on_plateau"],
        no_phase=(status == schema.DONE) & classified["phase"].isna(),
        failed=status == schema.FAILED,
        diverged=status == schema.DIVERGED,
        unfinished=status != schema.DONE,
        decided=classified["decided"],
        seeds=True,
    )
    points = counts.groupby([classified[axis] for axis in GRID_POINT]).sum().astype(int)
    of_phase = points[list(PHASES)].to_numpy()
    best = of_phase.argmax(axis=1)  # the first, so the least capable, of those that tie
    having = of_phase.sum(axis=1)
    some = having > 0
    most = np.array(PHASES, dtype=object)[best]
    most[~some] = None
    points["phase"] = pd.Categorical(most, list(PHASES), ordered=True)
    having = np.where(some, having, np.nan)
    share = of_phase / having[:, None]
    points["agreement"] = share.max(axis=1)
    for phase, share_P in zip(PHASES, share.T, strict=True):
        points[f"{phase}_share"] = share_P
    points["decided_share"] = points["decided"] / having
    points["missing"] = classified["seed"].nunique() - points["seeds"]
    shares = [f"{phase}_share" for phase in PHASES]
    order = ["phase", "agreement", "seeds", *PHASES, *shares, "decided_share", "finished"]
    order += ["on_plateau", "no_phase", "failed", "diverged", "unfinished", "missing"]
    return points[order].reset_index()


def split_conditions(cells: pd.DataFrame) -> list[tuple[dict[str, object], pd.DataFrame]]:
    """Cells that may share one phase map: one architecture, and one value of every other setting.

    A setting that follows from the model size or from the number of tasks belongs to that axis (a
    wider model's learning rate, say). Every other setting that takes several values makes its own
    maps, so nothing is averaged over but seeds.

    Returns:
        (what is particular to it, its cells) for each; the first is {} when there is only one.
    """
    varying = []
    for name in [name for name in setting_columns(cells) if name not in AXES]:
        values = _comparable(cells[name])
        if values.nunique(dropna=False) < 2:
            continue
        if not any(follows(cells, values, axis) for axis in ("model_size", "num_tasks")):
            varying.append(values.rename(name))
    if cells["architecture"].nunique() > 1:
        varying.insert(0, cells["architecture"])
    if not varying:
        return [({}, cells)]
    labels = [str(key.name) for key in varying]
    groups = cells.groupby(varying, dropna=False, sort=True)
    return [(dict(zip(labels, key, strict=True)), group) for key, group in groups]


def is_one_point(cells: pd.DataFrame) -> bool:
    """Whether cells share their model size and number of tasks: a map would be a single tile."""
    return len(cells[POINT].drop_duplicates()) == 1


def require_one_condition(cells: pd.DataFrame) -> None:
    """Raises ResultsError if two cells share architecture, model size, number of tasks and seed."""
    axes = list(AXES)
    if not cells[axes].duplicated().any():  # of all columns, each would be looked at
        return
    twice = cells[cells[axes].duplicated(keep=False)]
    keys = [twice[axis] for axis in axes]
    names = [
        name for name in setting_columns(cells) if name not in AXES
        and _comparable(twice[name]).groupby(keys).nunique(dropna=False).max() > 1
    ]  # fmt: skip
    what = f"in {', '.join(names)}: take one value of each" if names else "some are there twice"
    raise ResultsError(f"cells differ in more than {', '.join(AXES[:-1])} and {AXES[-1]}; {what}")


def _comparable(values: pd.Series) -> pd.Series:
    """A column whose lists can be compared."""
    if values.dtype != object:
        return values
    return values.map(lambda v: tuple(v) if isinstance(v, (list, np.ndarray)) else v)
