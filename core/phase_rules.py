"""Rules that say what phase a trained cell is in: two that come with the program, chosen by name,
and a user's own, `./file.py:Name` or an installed package's.

A rule is a function of (cells, delta, confidence). `cells` has columns by name, a value a cell: the
cells table, a pandas DataFrame; the program's own take a dict of NumPy arrays too. It returns a
mapping (a dict or a DataFrame) with

- `phase`: one of `core.phases.PHASES` for each cell, or None where the rule has no answer;
- `decided`: whether the data can tell, bool;
- further columns, if any, which tables and figures get with them, under names that `cells` has not.

Rows are judged by themselves; what a rule says of cells that diverged or failed is not used. A
class is made without arguments and then called. A user's rule runs where the user names it, and
nowhere else: no results tree can name one.

Without a name it is `predictors` for cells that were compared with M and G, or with G where there
are too many tasks for M, else `accuracy`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from metaphase.core import phases, plugin_code, predictor_phases, schema
from metaphase.core.phases import CONFIDENCE, DELTA, ON_PLATEAU, PHASES
from metaphase.core.predictor_phases import REASONS
from metaphase.core.settings import ConfigError, as_line

Columns = Any  # Mapping[str, array], or a DataFrame
Rule = Callable[[Columns, float, float], Columns]

RULE = "rule"  # the kind, beside those of core.plugins
ACCURACY, PREDICTORS = "accuracy", "predictors"
LEFT = "classified"  # attribute of a DataFrame: the columns that classifying it has added
NO_PHASE = "no phase by the rule"  # of a cell that finished
# What is read of a cell's row.
ROW_COLUMNS = tuple(dict.fromkeys((*phases.ROW_COLUMNS, *predictor_phases.ROW_COLUMNS)))


def by_accuracy(
    cells: Columns, delta: float = DELTA, confidence: float = CONFIDENCE, headroom: bool = False
) -> dict[str, np.ndarray]:
    """The rule of `core.phases`. `cells` has `phases.DECIDING_COLUMNS` and `unseen_level`.

    Returns:
        `phase`, `decided`, and `<name>_low`, `<name>_high` of the intervals that decide it.
    """
    numbers = {name: _numbers(cells[name]) for name in phases.DECIDING_COLUMNS}
    level = _numbers(cells["unseen_level"])
    return _columns(phases.decide(numbers, level, delta, confidence, headroom))


def by_predictors(
    cells: Columns, delta: float = DELTA, confidence: float = CONFIDENCE
) -> dict[str, np.ndarray]:
    """The rule of `core.predictor_phases`; None for cells to which it doesn't apply.

    Returns:
        `phase`, `decided`, `coincide` and `too_far` (why there is no phase, bool), the effects
        (`predictor_phases.NAMES`) and their intervals' ends.
    """
    numbers = {
        name: _numbers(cells[name]) for name in predictor_phases.ROW_COLUMNS if name in cells
    }
    applies = predictor_phases.applies(numbers)
    found = predictor_phases.decide(numbers, delta, confidence)
    estimates = {k: np.asarray(v[0]) for k, v in predictor_phases.effects(numbers).items()}
    new = estimates | _columns(found)
    new["phase"] = np.where(applies, new["phase"], predictor_phases.NONE)
    new["decided"] = applies & new["decided"]
    none = applies & predictor_phases.is_none(new["phase"])
    new |= predictor_phases.reasons(numbers, none, confidence)
    for name in predictor_phases.NAMES[:-1]:  # the last is by accuracy
        for end in ("", "_low", "_high"):
            new[name + end] = np.where(applies, new[name + end].astype(float), np.nan)
    return {name: values for name, values in new.items() if name != predictor_phases.NAMES[-1]}


def by_what_is_known(
    cells: Columns, delta: float = DELTA, confidence: float = CONFIDENCE, headroom: bool = False
) -> dict[str, np.ndarray]:
    """By predictors where that rule applies, else by accuracy."""
    found = by_accuracy(cells, delta, confidence, headroom)
    numbers = {n: _numbers(cells[n]) for n in predictor_phases.DECIDING_COLUMNS if n in cells}
    applies = predictor_phases.applies(numbers)
    if not applies.any():
        return found
    other = by_predictors(cells, delta, confidence)
    chosen = {name: np.where(applies, other[name], found[name]) for name in ("phase", "decided")}
    return other | found | chosen


RULES: dict[str, Rule] = {ACCURACY: by_accuracy, PREDICTORS: by_predictors}


def load(reference: str, folder: str | Path = ".") -> Rule:
    """The rule of this name, or of a user's file or an installed package, whose code is run.

    Args:
        reference: of `RULES`, `FILE.py:NAME`, or the name of an entry point, which is called
            `rule.<name>` in its package.
        folder: where a file's path starts.

    Raises:
        ConfigError: there is none, or it can't be had; one line.
    """
    if reference in RULES:
        return RULES[reference]
    match, said = plugin_code.REFERENCE.fullmatch(reference), f"{RULE}: {reference}"
    if match is None:
        installed = plugin_code.of_entry_point(RULE, reference)
        if installed is None:
            allowed = ", ".join((*RULES, "FILE.py:NAME"))
            raise ConfigError(f"{RULE}: {reference!r} is not one of {allowed}")
        found = installed[0]
    else:
        path = Path(folder) / Path(match["path"]).expanduser()
        module = plugin_code.run(said, plugin_code.read(RULE, path), str(path))
        found = getattr(module, match["name"], None)
        if found is None:
            raise ConfigError(f"{said}: the file has no {match['name']}")
    return of_callable(found, said)


def of_callable(found: Any, said: str) -> Rule:
    """A user's function or class as a rule, whose answers are checked.

    Args:
        said: what messages begin with.

    Raises:
        ConfigError: it is neither, or can't be made; one line.
    """
    if isinstance(found, type):
        try:
            found = found()
        except Exception as error:
            raise ConfigError(f"{said} can't be made: {as_line(error)}") from None
    if not callable(found):
        raise ConfigError(f"{said} is no function; needed: one of cells, delta, confidence")
    return functools.partial(checked, found, said)


def name_of(rule: Rule) -> str:
    """What users call a rule: the reference that it was loaded by, or a function's own name."""
    for name, one in RULES.items():
        if rule is one:
            return name
    if isinstance(rule, functools.partial) and rule.func is checked:
        return str(rule.args[1]).removeprefix(f"{RULE}: ")
    return str(getattr(rule, "__name__", type(rule).__name__))


def checked(
    rule: Callable[..., Any], said: str, cells: Columns, delta: float, confidence: float
) -> dict[str, np.ndarray]:
    """What a rule says of cells, if it is what rules say; columns as arrays.

    Args:
        said: what messages begin with.

    Raises:
        ConfigError: it fails, or says something else; one line.
    """
    count = len(cells["n"])
    try:
        found = {str(k): np.asarray(v) for k, v in dict(rule(cells, delta, confidence)).items()}
    except ConfigError:  # of a rule that is checked already
        raise
    except Exception as error:
        raise ConfigError(f"{said} fails: {as_line(error)}") from None
    for name in ("phase", "decided"):
        if name not in found:
            raise ConfigError(f"{said} gives no {name}; needed: phase and decided, one a cell")
    for name, values in found.items():
        if values.shape != (count,):
            raise ConfigError(f"{said}: {name} has the shape {values.shape}; needed: ({count},)")
    left = {"phase", "decided", *getattr(cells, "attrs", {}).get(LEFT, ())}
    if taken := sorted(name for name in found if name in cells and name not in left):
        raise ConfigError(f"{said}: {taken[0]} is a column of the cells already; rename it")
    phase = [None if p is None or p != p else str(p) for p in found["phase"].tolist()]
    if odd := sorted({p for p in phase if p not in (None, *PHASES)}):
        raise ConfigError(f"{said}: phase is {odd[0]!r}; allowed: {', '.join(PHASES)}, None")
    if found["decided"].dtype != bool:
        raise ConfigError(f"{said}: decided is {found['decided'].dtype}; needed: bool")
    return found | {"phase": np.array(phase, dtype=object)}


def outcome_of(row: Columns, rule: Rule | None = None) -> str:
    """What became of the cell with this row of the cells table, in a few words: its phase,
    `ON_PLATEAU`, why it has no phase, or its status where it didn't finish.

    Args:
        row: as `core.training.trainer.PackTrainer.results` makes it and as it is read back;
            `ROW_COLUMNS` and its status are looked at.
        rule: is given the row's values in arrays; None: what is known decides, see above. At
            `DELTA` and `CONFIDENCE`.
    """
    if row["status"] != schema.DONE:
        return str(row["status"])
    cells = {name: np.array([row.get(name)]) for name in row}
    cells["unseen_level"] = np.array([phases.level_of(row)])
    found = (rule or by_what_is_known)(cells, DELTA, CONFIDENCE)
    phase, loss = found["phase"][0], row.get("train_loss")
    if loss is not None and phases.on_plateau(phase, loss, phases.plateau_loss_of(row)):
        return ON_PLATEAU
    if phase is not None:
        return str(phase)
    return next((said for name, said in REASONS.items() if found.get(name, [False])[0]), NO_PHASE)


def _columns(found: phases.Decision) -> dict[str, np.ndarray]:
    """A decision as columns."""
    ends = {
        f"{name}_{end}": np.asarray(values)
        for name, interval in found.intervals.items()
        for end, values in zip(("low", "high"), interval, strict=True)
    }
    return {"phase": found.phase.astype(object), "decided": np.asarray(found.decided), **ends}


def _numbers(values: Any) -> np.ndarray:
    """A column as float64, NaN where there is none."""
    if hasattr(values, "to_numpy"):
        return values.to_numpy(dtype=float, na_value=np.nan)
    array = np.asarray(values)
    if array.dtype == object:
        array = np.array([np.nan if v is None else v for v in array.ravel()]).reshape(array.shape)
    return array.astype(float)
