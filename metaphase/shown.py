"""Figures as Python users get them: in the program's style, and shown by a notebook."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from metaphase.analysis.questions.answer import Answer


def settle(ax: Axes) -> None:
    """Gives axes their final place, as far as it is known: tiles are lettered by their room."""
    if (figure := ax.get_figure(root=True)) is not None:
        figure.draw_without_rendering()


def shown(figure: Figure) -> Figure:
    """A figure that a notebook shows, although pyplot doesn't know it."""
    figure._repr_png_ = lambda: _png(figure)  # type: ignore[attr-defined]
    return figure


def shown_by_notebooks(answer: Answer) -> Answer:
    """An answer whose figure is drawn in the program's style, whatever the caller's is."""
    make = answer.figure
    return answer if make is None else replace(answer, figure=lambda: _drawn(make))


def _drawn(make: Callable[[], Figure]) -> Figure:
    from metaphase.analysis.figures import style

    with style.context():
        figure = make()
        figure.draw_without_rendering()
    return shown(figure)


def _png(figure: Figure) -> bytes:
    from metaphase.analysis.commands.output import figure_bytes

    return figure_bytes(lambda: figure, "png", dpi=110)
