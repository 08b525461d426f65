"""Phases over training: of which conditions there is a map."""

import numpy as np
import pandas as pd

from metaphase.analysis import load
from metaphase.analysis.questions import training
from metaphase.analysis.statistics.phases import classify
from tests.tools.synthetic import make_results


def test_a_single_point_among_conditions_has_a_table_and_no_map(tmp_path):
    make_results(tmp_path / "s", (8,), (1, 64), (0, 1), lambda cell: "generalizing")
    cells, history = load.load_cells(tmp_path / "s"), load.load_history(tmp_path / "s")
    rows = [history.assign(step=history["step"] + later) for later in range(3)]
    history = pd.concat(rows, ignore_index=True)

    def found(cells):
        return list(training.find(classify(cells), history))

    [answer] = found(cells)
    assert answer.figure is not None
    one = cells[cells["num_tasks"] == 64]
    assert found(one)[0].figure is not None  # all that there is
    rates = np.where(one["seed"] == 0, 0.001, 0.01)
    several = found(one.assign(learning_rate=rates))
    assert len(several) == 2
    assert all(answer.figure is None and len(answer.table) for answer in several)
    maps = found(cells.assign(learning_rate=np.where(cells["seed"] == 0, 0.001, 0.01)))
    assert len(maps) == 2
    assert all(answer.figure is not None for answer in maps)
