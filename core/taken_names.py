"""Names that plug-ins can't give to their settings, metrics and predictors, since the tables have
columns of these names already: one would replace the other without a word."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from metaphase.core import schema
from metaphase.core.cell import Cell
from metaphase.core.settings import ConfigError

_COLUMNS = {
    *schema.HISTORY_COLUMNS,
    *schema.CURVES_COLUMNS,
    *schema.YARDSTICK_COLUMNS,
    *schema.CELL_RESULT_COLUMNS,
    "sweep",
}
_OF_PRESETS = {"name", "base", "grid", "cell"}
# Distances from both M and G are columns that are named like those from a predictor.
_PREDICTORS = ("difference", "between")


def is_column(name: str) -> bool:
    """Whether tables have a column of this name, whatever plug-ins there are: a setting of all
    cells, a result, or what predictors bring."""
    settings = {f.name for f in fields(Cell)}
    return name in settings | _COLUMNS or schema.OF_PREDICTORS.fullmatch(name) is not None


def check_own(own: Iterable[str]) -> None:
    """Raises ConfigError if a setting's name is taken: by a column, an attribute of cells, a key of
    presets or a Python word."""
    for name in own:
        taken = is_column(name) or name in _OF_PRESETS or hasattr(Cell, name)
        if taken or name.startswith("_"):
            raise ConfigError(f"the name of its setting {name} is taken")


def check_metric(name: str, column: str) -> None:
    """Raises ConfigError if a metric's column, the one of its error, or what they are called behind
    a split's name is taken."""
    both = schema.with_standard_errors((column,))
    behind = schema.behind((*schema.SPLITS, *schema.RELABELLED), both)
    if column.endswith("_se") or any(map(is_column, (*both, *behind))):
        raise ConfigError(f"metrics: {name}: the column {column} is taken; rename the class")


def check_predictors(names: Iterable[Any]) -> None:
    """Raises ConfigError if a name can't be that of a predictor."""
    for name in names:
        if not (isinstance(name, str) and name.isidentifier() and name == name.lower()):
            raise ConfigError(
                f"task_family: the predictor's name {name!r} becomes part of columns; allowed: "
                "small letters, digits and _"
            )
        if name in _PREDICTORS or name.endswith("_se"):
            raise ConfigError(
                f"task_family: the column distance_{name} is taken; rename the predictor {name}"
            )
