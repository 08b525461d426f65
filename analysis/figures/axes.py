"""Axes of grids and of wide ranges, with ticks that are as many as there is room for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, Locator, NullFormatter, NullLocator

from metaphase.analysis import labels
from metaphase.analysis.figures import style

_STEPS = (1, 2, 4, 5, 10, 20)  # between exponents that are labelled
# Multiples of powers of ten, and of which powers, that a log10 axis labels; densest first.
_DENSITIES: tuple[tuple[tuple[float, ...], int], ...] = (
    ((1, 1.5, 2, 3, 5, 7), 1), ((1, 2, 5), 1), ((1, 3), 1), ((1,), 1), ((1,), 2), ((1,), 3),
)  # fmt: skip


def labels_fit(axis: Any, places: np.ndarray, texts: Sequence[str]) -> bool:
    """Whether labels at ascending places of an axis (matplotlib's XAxis or YAxis) have room beside
    each other."""
    axes, transform = axis.axes, axis.get_transform().transform
    low, high = transform(np.asarray(axis.get_view_interval(), dtype=float))
    size = style.points(f"{axis.axis_name}tick.labelsize")
    if axis.axis_name == "x":
        pixels = axes.bbox.width
        needed = np.array([0.64 * len(text) + 1.0 for text in texts]) * size
    else:
        pixels = axes.bbox.height
        needed = np.full(len(texts), 1.25 * size)
    points = pixels * 72 / axes.figure.dpi / abs(high - low)
    between = np.abs(np.diff(transform(places))) * points
    return bool((between >= (needed[1:] + needed[:-1]) / 2).all())


class GridTicks(Locator):
    """Ticks at the values of a grid whose labels have room beside each other.

    Args:
        places: on the axis, ascending.
        texts: the label of each.
        preferred: sets of indices; the first that fits is taken. Where none does, labels are taken
            from the first one on as they fit.
    """

    def __init__(
        self,
        places: Sequence[float] | np.ndarray,
        texts: Sequence[str],
        preferred: Sequence[Sequence[int]],
    ):
        self.places, self.texts = np.asarray(places, dtype=float), list(texts)
        self.preferred = [list(choice) for choice in preferred if len(choice) > 1]

    def __call__(self) -> list[float]:
        for choice in self.preferred:
            if self._fits(choice):
                return self.places[choice].tolist()
        taken: list[int] = []
        for i in range(len(self.places)):
            if not taken or self._fits([taken[-1], i]):
                taken.append(i)
        return self.places[taken].tolist()

    def tick_values(self, vmin: float, vmax: float) -> list[float]:
        return self.places.tolist()

    def _fits(self, choice: list[int]) -> bool:
        return labels_fit(self.axis, self.places[choice], [self.texts[i] for i in choice])


class LogTicks(Locator):
    """Ticks at 1, 3, 10 and the like, as dense as their labels have room.

    Args:
        exponents: the axis is linear in log10 units, else it is a log10 axis.
    """

    def __init__(self, exponents: bool = False):
        self.exponents = exponents

    def __call__(self) -> list[float]:
        axis: Any = self.axis
        low, high = sorted(axis.get_view_interval())
        low, high = (10.0**low, 10.0**high) if self.exponents else (low, high)
        decades = np.arange(np.floor(np.log10(low)), np.log10(high) + 1)
        ticks = np.array([])
        for factors, stride in _DENSITIES:
            found = np.outer(10.0 ** decades[decades % stride == 0], factors).ravel()
            found = found[(found >= 0.999 * low) & (found <= 1.001 * high)]
            places = np.log10(found) if self.exponents else found
            if len(found) and labels_fit(axis, places, [*map(labels.short_number, found)]):
                return places.tolist()
            ticks = places if len(found) else ticks
        return ticks[:1].tolist()

    def tick_values(self, vmin: float, vmax: float) -> list[float]:
        return self()


def log2_ticks(ax: Axes, which: str, values: Iterable[float], powers: bool = False) -> None:
    """An axis in log2 units with ticks at (some of) the values.

    Args:
        ax: whose axis.
        which: "x" or "y".
        values: of the grid.
        powers: label powers of two by their exponents, k for 2^k.
    """
    ordered = np.unique(np.asarray(list(values), dtype=float))
    everything = list(range(len(ordered)))
    if powers:
        exponents = np.log2(ordered).round().astype(int)
        texts = [str(k) for k in exponents]
        preferred = [[i for i in everything if exponents[i] % step == 0] for step in _STEPS]
        if len(everything) < 2 or exponents.min() % 2:  # odd ones alone: every second of them
            preferred += [everything[::step] for step in _STEPS]
    else:
        texts = [labels.short_number(value) for value in ordered]
        decades = [i for i in everything if 10 ** round(np.log10(ordered[i])) == ordered[i]]
        preferred = [everything, *(everything[::step] for step in (2, 3, 4))]
        spanned = np.log(ordered[decades[-1]] / ordered[decades[0]]) if decades else 0.0
        if spanned > 0.6 * np.log(ordered[-1] / ordered[0]):  # else most of the axis has none
            preferred.insert(1, decades)
    preferred.insert(0, everything)
    _set(ax, which, np.log2(ordered), texts, preferred)


def tasks_axis(ax: Axes, which: str, values: Iterable[float]) -> None:
    """The axis of the number of tasks, in log2 units, with its label: exponents where all values
    are powers of two, else the numbers."""
    values = np.unique(np.asarray(list(values)))
    powers = labels.are_powers_of_two(values)
    log2_ticks(ax, which, values, powers)
    ax.set(**{f"{which}label": tasks_label(powers)})


def tasks_label(powers: bool) -> str:
    """What stands beside numbers of tasks, which are exponents of two or the numbers themselves."""
    return f"{style.NUM_TASKS_LABEL}, log2" if powers else style.NUM_TASKS_LABEL


def tasks_text(value: float, powers: bool) -> str:
    """A number of tasks as ticks and legends show it."""
    return str(int(np.log2(value))) if powers else labels.short_number(value)


def sizes_axis(ax: Axes, which: str, values: Iterable[float]) -> None:
    """The axis of the model size, in log2 units, with its label."""
    log2_ticks(ax, which, values)
    ax.set(**{f"{which}label": style.MODEL_SIZE_LABEL})


def log_ticks(ax: Axes, which: str) -> None:
    """A log10 axis with few labels: 200, 1k, 50k, 2M. `which` is "x" or "y"."""
    ax.set(**{f"{which}scale": "log"})
    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.set_major_locator(LogTicks())
    axis.set_major_formatter(FuncFormatter(lambda value, _: labels.short_number(value)))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def exponent_ticks(ax: Axes, which: str) -> None:
    """As `log_ticks`, of an axis that is linear in log10 units: many times as fast where there are
    thousands of shapes, as they are moved all at once."""
    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.set_major_locator(LogTicks(exponents=True))
    axis.set_major_formatter(FuncFormatter(lambda value, _: labels.short_number(10.0**value)))


def named_ticks(ax: Axes, which: str, texts: Sequence[str]) -> None:
    """An axis on which number i is called `texts[i]`; as many ticks as there is room for."""
    everything = list(range(len(texts)))
    preferred = [everything[::step] for step in range(1, len(texts))]
    _set(ax, which, np.arange(len(texts)), texts, preferred)


def _set(
    ax: Axes,
    which: str,
    places: np.ndarray,
    texts: Sequence[str],
    preferred: Sequence[Sequence[int]],
) -> None:
    axis = ax.xaxis if which == "x" else ax.yaxis
    names = {round(float(place), 6): text for place, text in zip(places, texts, strict=True)}
    axis.set_major_locator(GridTicks(places, texts, preferred))
    axis.set_major_formatter(FuncFormatter(lambda x, _: names.get(round(float(x), 6), "")))
    axis.set_minor_locator(NullLocator())
