"""A sweep with everything that a map can show, and axes to draw on."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from metaphase.analysis.load import load_cells, load_curves
from metaphase.analysis.statistics.phases import classify
from tests.tools.synthetic import make_results


def truth(cell):
    """A corner is missing, one cell diverged, and at 16 tasks seeds disagree at width 16."""
    if cell.model_size == 16 and cell.num_tasks == 256:
        return "missing"
    if (cell.model_size, cell.num_tasks, cell.seed) == (8, 256, 1):
        return "diverged"
    if (cell.model_size, cell.num_tasks) == (16, 16):
        return ("identifying", "generalizing")[cell.seed]
    return {1: "memorizing", 16: "identifying", 256: "generalizing"}[cell.num_tasks]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    path = tmp_path_factory.mktemp("results") / "s"
    make_results(path, (8, 16), (1, 16, 256), (0, 1), truth)
    return classify(load_cells(path)), load_curves(path)


@pytest.fixture
def ax():
    return Figure().subplots()
