"""Which cells of a sweep a text chooses, and in what two sweeps differ."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from metaphase.core.cell import Cell, ConfigError
from metaphase.sweeps.preset import Sweep, check_keys, known_keys
from metaphase.sweeps.yaml12 import parse_yaml, show


def select_cells(cells: Iterable[Cell], text: str) -> list[Cell]:
    """Those of `cells` that a text such as "num_tasks=64,seed=1" or "3f2a,90bc" chooses: they have
    all the settings given, and their cell_id begins with one of the words, if there are any.

    Raises:
        ConfigError: an unknown key, a part that chooses nothing, or no cell left.
    """
    cells, settings, prefixes = list(cells), [], []
    for part in (part.strip() for part in text.split(",")):
        key, equals, value = (word.strip() for word in part.partition("="))
        if not equals:
            if not any(part and cell.cell_id.startswith(part) for cell in cells):
                raise ConfigError(f"--force {show.repr(part)}: no cell of the grid begins so")
            prefixes.append(part)
            continue
        check_keys([key], known_keys(), "--force ")
        try:
            settings.append((key, value, parse_yaml(value)))
        except ConfigError as error:
            raise ConfigError(f"--force {key}: {error}") from None
        if not any(_has(cell, *settings[-1]) for cell in cells):
            raise ConfigError(f"--force {show.repr(part)}: no cell of the grid has this value")
    chosen = [
        cell
        for cell in cells
        if all(_has(cell, *setting) for setting in settings)
        and (not prefixes or cell.cell_id.startswith(tuple(prefixes)))
    ]
    if not chosen:
        raise ConfigError(f"--force {show.repr(text)}: no cell of the grid fits all of this")
    return chosen


def _has(cell: Cell, key: str, text: str, value: Any) -> bool:
    has = getattr(cell, key, None)
    if isinstance(has, tuple):
        return text in has or (isinstance(value, list) and list(has) == value)
    if isinstance(has, bool) or isinstance(value, bool):
        return has is value
    return bool(has == value) or str(has) == text


def describe_change(old: Sweep, new: Sweep) -> list[str]:
    """Lines `- key: value` and `+ key: value` for the settings in which two presets differ."""
    before, after = _flat(old.settings), _flat(new.settings)
    lines = []
    for key in dict.fromkeys((*before, *after)):
        if before.get(key) != after.get(key):
            lines += [f"  - {key}: {before[key]}"] if key in before else []
            lines += [f"  + {key}: {after[key]}"] if key in after else []
    return lines


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    grid = settings["grid"]
    grids = grid if isinstance(grid, list) else [grid]
    flat = {f"cell: {key}": value for key, value in settings["cell"].items()}
    for i, axes in enumerate(grids):
        number = f" {i + 1}" if len(grids) > 1 else ""
        flat |= {f"grid{number}: {key}": values for key, values in axes.items()}
    return flat
