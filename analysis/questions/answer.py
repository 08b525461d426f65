"""What a question's module gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Answer:
    """What a sweep's cells say about one question.

    Attributes:
        name: of its files, without their endings: one of `registry.NAMES`, and behind a hyphen what
            tells it from others of this name, such as its condition.
        text: what is printed; "" where figure and table say all.
        table: what is written as CSV.
        figure: draws the figure, to be called with matplotlib's style set; None: there is none.
        caption: of the figure.
    """

    name: str
    text: str
    table: pd.DataFrame
    figure: Callable[[], Figure] | None = None
    caption: str = ""
