"""What tests of questions share: asking a sweep, drawing an answer, changing what is stored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure

from metaphase.analysis.figures import style
from metaphase.analysis.load import load_cells, load_history
from metaphase.analysis.questions import registry
from metaphase.analysis.questions.answer import Answer
from metaphase.analysis.statistics.phases import classify


def find(path: Path) -> dict[str, Answer]:
    """All answers of the sweep at `path`, by name."""
    found = registry.find(classify(load_cells(path)), load_history(path))
    assert {answer.name.partition("-")[0] for answer in found} <= {*registry.NAMES}
    return {answer.name: answer for answer in found}


def draw(answer: Answer) -> Figure:
    """An answer's figure, drawn."""
    assert answer.figure is not None
    with style.context():
        figure = answer.figure()
        figure.draw_without_rendering()
    return figure


def change(path: Path, table: str, function: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Rewrite each file of a table by function(frame) -> frame."""
    for file in sorted((path / table).iterdir()):
        frame = function(pq.read_table(file).to_pandas())
        pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), file)
