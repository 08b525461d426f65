"""A grid's cells: every combination of the values of its axes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from metaphase.core.cell import SETTINGS, Cell
from metaphase.core.settings import ConfigError
from metaphase.sweeps.plug_ins import fitting
from metaphase.sweeps.yaml12 import show

MAX_CELLS = 1_000_000
LIST_KEYS = tuple(key for key, s in SETTINGS.items() if s.kind is tuple)  # one value is a list


def expand(
    cell: dict[str, Any], grid: dict[str, list], own: Sequence[str] = ()
) -> tuple[Cell, ...]:
    """Every combination of the grid's values, the first axis changing slowest. Settings of the
    sweep's plug-ins, `own`, are left out of cells that don't use them."""
    for key, value in cell.items():
        _check_plain(key, value)
    for key, values in grid.items():
        if not values:
            raise ConfigError(f"grid: {key}: the list is empty; give at least one value")
        seen = set()
        for value in values:
            _check_plain(f"grid: {key}", value, listed=key in LIST_KEYS)
            identity = (type(value), tuple(value) if isinstance(value, list) else value)
            if identity in seen:
                raise ConfigError(f"grid: {key}: {show.repr(value)} is given twice")
            seen.add(identity)
    for point in _along_the_axes(grid):  # a value that can't be is found before all are tried
        _cell_at(cell, point, own)
    cells: dict[str, Cell] = {}
    for combination in itertools.product(*grid.values()):
        point = dict(zip(grid, combination, strict=True))
        made = _cell_at(cell, point, own)
        if made.cell_id in cells:
            index = list(cells).index(made.cell_id)
            first = next(itertools.islice(itertools.product(*grid.values()), index, None))
            varied = [key for key, value in zip(grid, first, strict=True) if value != point[key]]
            whys = [f"{key} has no effect: {why}" for key in varied if (why := _why(made, key))]
            raise ConfigError(
                f"grid: two points give the same cell; the second is {_said(point)}"
                + "".join(f"; {why}" for why in whys)
            )
        cells[made.cell_id] = made
    return tuple(cells.values())


def without_effect(
    cells: Sequence[Cell],
    cell: dict[str, Any],
    grids: Sequence[dict[str, list]],
    keys: Iterable[str],
) -> list[str]:
    """A line for each of these keys of which one value is said, and that changes nothing in any of
    the cells. Nothing is told of a value that a cell has all the same.

    Args:
        cells: those of all grids.
        cell: what they share, unless a grid has an axis of the name.
        keys: names of settings.
    """
    lines = []
    for key in keys:
        said = [v for grid in grids for v in grid.get(key, [cell.get(key)]) if v is not None]
        if not said or any(value != said[0] for value in said):
            continue
        value = SETTINGS[key].typed(said[0]) if key in SETTINGS else said[0]
        whys: dict[str, None] = {}
        for made in cells:
            why = _why(made, key)
            if not why or getattr(made, key, None) == value:
                break
            whys[why] = None
        else:
            lines.append(f"{key}: {_shown(value)} has no effect: {'; '.join(whys)}")
    return lines


def _shown(value: Any) -> str:
    """A setting's value as YAML has it."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _why(cell: Cell, key: str) -> str:
    """Why a setting changes nothing of a cell; empty if it may."""
    if key in SETTINGS:
        return cell.without_effect.get(key, "")
    return "" if any(key == name for name, _ in cell.own) else "no plug-in here uses it"


def _along_the_axes(grid: dict[str, list]) -> Iterator[dict[str, Any]]:
    """The grid's first point, and those that differ from it in one axis."""
    first = {key: values[0] for key, values in grid.items()}
    yield first
    for key, values in grid.items():
        yield from ({**first, key: value} for value in values[1:])


def _cell_at(cell: dict[str, Any], point: dict[str, Any], own: Sequence[str]) -> Cell:
    try:
        return Cell.from_dict(fitting({**cell, **point}, own))
    except ConfigError as error:
        raise ConfigError(
            f"{error} (at the grid point {_said(point)})" if point else str(error)
        ) from None


def _said(point: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in point.items())


def check_count(grids: Iterable[dict[str, list]]) -> None:
    """Raises ConfigError if grids have more cells than fit a sweep, before any is made."""
    count = sum(math.prod(map(len, grid.values())) for grid in grids)
    if count > MAX_CELLS:
        raise ConfigError(
            f"grid: {_show_count(count)} cells are too many; at most {MAX_CELLS:,} fit a sweep"
        )


def _show_count(count: int) -> str:
    """Axes of many values multiply to what no float holds."""
    return f"{count:.3g}" if count < 10**15 else f"10^{int(math.log10(count))}"


def _check_plain(key: str, value: Any, listed: bool = False) -> None:
    """Cell checks what a value means; here it is only made sure that it is short and flat."""
    if listed and not isinstance(value, list):
        raise ConfigError(f"{key}: {show.repr(value)} is not a list; this axis takes lists")
    parts = value if isinstance(value, list) else [value]
    for part in parts:
        if isinstance(part, str):
            ok = len(part) <= 200 and part.isprintable()
        elif isinstance(part, int):
            ok = abs(part) < 2**63  # what a Parquet column holds
        else:
            ok = part is None or isinstance(part, float)
        if not ok or len(parts) > 100:
            raise ConfigError(
                f"{key}: {_show_int(value)} is not a plain value; allowed: a number, true or "
                "false, or a short text"
            )


def _show_int(value: Any) -> str:
    """Python refuses to print whole numbers of more than 4,300 digits."""
    if isinstance(value, int) and abs(value) >= 2**63:
        return "a whole number beyond 64 bits"
    return show.repr(value)
