"""Which settings vary among cells, and groups of cells that are equal in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from metaphase.core import schema
from metaphase.core.cell import SETTINGS, UNUSED, follow

GRID = ("dataset", "architecture", "model_size", "num_tasks")
_NO_SETTING = {"seed", "unseen_datasets", *GRID}


def setting_columns(cells: pd.DataFrame) -> list[str]:
    """The columns of a cells table that are settings, those of plug-ins last. A results tree may
    say of any column that it is one; those of results aren't."""
    own: set[str] = set()
    if "own_settings" in cells:
        for names in cells["own_settings"].dropna().unique():
            own.update(filter(None, str(names).split(",")))
    own -= {"cell_id", "sweep", *SETTINGS, *schema.CELL_RESULT_COLUMNS}
    return [name for name in (*SETTINGS, *sorted(own)) if name in cells]


def follows(cells: pd.DataFrame, values: pd.Series, axis: str) -> bool:
    """Whether a setting has one value for each architecture and value of this axis."""
    said = values.astype(object).where(values.notna(), None)
    return follow(zip(cells["architecture"], cells[axis], strict=True), said)


def varying_settings(cells: pd.DataFrame) -> list[str]:
    """Settings besides the grid's axes and the dataset that take several values.

    Those that follow from architecture and model size (a head's size, say) don't count, nor those
    that follow from the number of tasks (more steps where there are more, say).
    """
    names = []
    for name in setting_columns(cells):
        if name in _NO_SETTING or cells[name].nunique(dropna=False) < 2:
            continue
        by_size = name in UNUSED and follows(cells, cells[name], "model_size")
        if not by_size and not follows(cells, cells[name], "num_tasks"):
            names.append(name)
    return names


def equal_groups(
    cells: pd.DataFrame, by: Sequence[str], besides: Sequence[str] = ()
) -> Iterator[tuple[dict[str, object], pd.DataFrame]]:
    """Groups of cells that are equal in `by` and in all settings that vary but those in `besides`.

    Yields:
        The settings that tell the group from the others, and its cells.
    """
    varying = [name for name in varying_settings(cells) if name not in besides]
    keys = [key for key in dict.fromkeys([*by, *varying]) if key in cells]
    told = [key for key in keys if cells[key].nunique(dropna=False) > 1]
    for values, group in cells.groupby(keys, dropna=False, sort=True):
        condition = dict(zip(keys, values, strict=True))
        yield {key: condition[key] for key in told}, group
