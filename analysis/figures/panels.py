"""Panels, legends and colour bars at places that are computed beforehand: drawing knows how much
room it has, and no layout has to be searched for.

Lengths are inches with a font of 8 points, as in `figures.style`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar

from metaphase.analysis.figures import outcomes, style

LINE = 0.165  # of a title
LEGEND_LINE = 0.145  # of a legend
_BAR = 0.13  # width of a colour bar


class Panels:
    """A figure of the context's width with a rectangle of panels, a title and a legend below.

    Args:
        shape: panels in each row; see `facets` and `rows_of`.
        height: of a panel.
        title: above all panels.
        notes: lines below the title: what a reader must know.
        names: of the legend's entries, in the order in which `legend` gets their handles.
        left: what the labels of the vertical axes need.
        right: what stands beside the panels, colour bars for instance.
        between: columns of panels, and rows of panels.
        below: what the labels of the horizontal axes need.
        heads: whether panels have titles.
        width: of a panel; None: as wide as there is room.
    """

    def __init__(
        self,
        shape: Sequence[int],
        height: float,
        title: str = "",
        notes: Sequence[str] = (),
        names: Sequence[str] = (),
        *,
        left: float = 0.58,
        right: float = 0.12,
        between: tuple[float, float] = (0.14, 0.42),
        below: float = 0.42,
        heads: bool = True,
        width: float | None = None,
    ):
        self._names = list(names)
        room, columns = style.room(), max(shape)
        available = (room - left - right - (columns - 1) * between[0]) / columns
        self.width = available if width is None else min(width, available)
        lines = [line for line in (title, *notes) if line]
        text = "\n".join(style.wrap(line, room - 0.1) for line in lines)
        above = (0.26 if heads else 0.12) + LINE * (text.count("\n") + 1 if text else 0)
        self._legend_columns = legend_columns(self._names)
        legend = (
            LEGEND_LINE * -(-len(self._names) // self._legend_columns) + 0.06 if names else 0.04
        )
        inner = len(shape) * height + (len(shape) - 1) * between[1]
        self.whole_height = above + inner + below + legend
        self.figure = style.figure(self.whole_height)
        self._bottom, self._top = below + legend, self.whole_height - above
        self.rows = [
            [
                self.figure.add_axes(
                    self._share(
                        left + i * (self.width + between[0]),
                        self._top - height - row * (height + between[1]),
                        self.width,
                        height,
                    )
                )
                for i in range(count)
            ]
            for row, count in enumerate(shape)
        ]
        self.axes = [ax for row in self.rows for ax in row]
        if text:
            self.figure.text(0.06 / room, 1 - 0.06 / self.whole_height, text, va="top", ha="left")

    def _share(self, left: float, bottom: float, width: float, height: float) -> Any:
        """A rectangle in inches as shares of the figure."""
        room = style.room()
        return (left / room, bottom / self.whole_height, width / room, height / self.whole_height)

    def label_outer(self) -> None:
        """Labels of axes, and their ticks, stay where no panel is on that side; ticks that no label
        explains cost more than all else in a figure of many panels."""
        for number, row in enumerate(self.rows):
            longest_below = max(map(len, self.rows[number + 1 :]), default=0)
            for i, ax in enumerate(row):
                if i:
                    ax.set_ylabel("")
                    ax.yaxis.set_visible(False)
                if i < longest_below:
                    ax.set_xlabel("")
                    ax.xaxis.set_visible(False)

    def legend(self, handles: Sequence[Any], names: Sequence[str] | None = None) -> None:
        """The legend below the panels.

        Args:
            handles: one for each entry.
            names: of the entries, as many as the panels were made for; None: those.
        """
        if self._names:
            at = (0.06 / style.room(), 0.05 / self.whole_height)
            self.figure.legend(
                handles, names or self._names, loc="lower left", bbox_to_anchor=at,
                ncols=self._legend_columns, **LEGEND,
            )  # fmt: skip

    def colorbar(
        self, scale: ScalarMappable, label: str, beside: Sequence[Axes] | None = None
    ) -> Colorbar:
        """A bar right of panels, as high as they are but at most 2 inches.

        Args:
            scale: what the colours mean.
            label: beside the bar.
            beside: the panels; None: all.
        """
        places = [ax.get_position() for ax in (self.axes if beside is None else beside)]
        edge = max(place.x1 for place in places) * style.room()
        top = max(place.y1 for place in places) * self.whole_height
        bottom = min(place.y0 for place in places) * self.whole_height
        height, middle = min(top - bottom, 2.0), (top + bottom) / 2
        cax = self.figure.add_axes(self._share(edge + 0.12, middle - height / 2, _BAR, height))
        bar = self.figure.colorbar(scale, cax=cax, label=label)
        bar.outline.set_visible(False)
        return bar


LEGEND: dict[str, Any] = {
    "handler_map": outcomes.HANDLERS, "handlelength": 2.2, "borderaxespad": 0.0,
    "borderpad": 0.0, "columnspacing": 1.2, "labelspacing": 0.35,
}  # fmt: skip


def legend_columns(names: Sequence[str]) -> int:
    """Columns of a legend below the panels that fit into the figure."""
    widest = (0.55 * max(map(len, names), default=1) + 4.2) * style.small() / 72
    return min(max(1, int(style.room() * style.scale() / widest)), max(1, len(names)))


def rows_of(count: int, columns: int) -> list[int]:
    """The shape of `count` panels that are placed row by row."""
    return [min(columns, count - start) for start in range(0, count, columns)]


def facets(count: int, narrowest: float) -> list[int]:
    """The shape of `count` panels, each at least `narrowest` wide and rows about equally full."""
    most = max(1, int((style.room() - 0.6) / narrowest))
    rows = -(-count // most)
    return rows_of(count, -(-count // rows))
