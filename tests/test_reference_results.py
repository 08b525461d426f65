"""The quickstart's results that come with the project are computed here again, to the bit."""

import platform

import pandas as pd
import pytest

from metaphase.core import schema
from metaphase.core.cell import Cell
from metaphase.core.kernels import cpu
from metaphase.core.training.trainer import PackTrainer
from metaphase.sweeps.store.tables import LATER
from tests import ROOT

REFERENCE = ROOT / "results" / "reference" / "quickstart"
_OTHERS = ("wall_seconds", "versions", "sweep")  # columns that differ between runs

pytestmark = [
    pytest.mark.skipif(not cpu.available(), reason="no C compiler here"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="promised on x86-64 only"),
]


@pytest.mark.parametrize(
    "chosen",
    [
        "model_size == 4 and num_tasks == 4096",
        pytest.param("num_tasks in (1, 64, 4096)", marks=pytest.mark.slow),
    ],
)
def test_the_reference_results_are_computed_again_bit_for_bit(chosen):
    expected = pd.read_parquet(REFERENCE / "cells").query(chosen)
    settings = [name for name in expected.columns if name in Cell.__dataclass_fields__]
    cells = [Cell(**row) for row in expected[settings].to_dict("records")]
    stored = {cell.cell_id: id_ for cell, id_ in zip(cells, expected["cell_id"], strict=True)}
    assert all(id_ in cell.earlier_ids for cell, id_ in zip(cells, stored.values(), strict=True))
    for size in expected["model_size"].unique():
        trainer = PackTrainer([cell for cell in cells if cell.model_size == size])
        while not trainer.finished:
            trainer.advance()
        for row, curves in trainer.results():
            row = {name: schema.to_column(value) for name, value in row.items()}
            row["cell_id"] = stored[row["cell_id"]]
            [want] = expected[expected["cell_id"] == row["cell_id"]].to_dict("records")
            assert row.keys() - want.keys() <= LATER.keys()
            for name in set(row).intersection(want) - set(_OTHERS):
                same = row[name] == want[name] or (row[name] is None and pd.isna(want[name]))
                assert same, f"{name}: {row[name]!r} instead of {want[name]!r}"
            there = pd.read_parquet(
                REFERENCE / "curves", filters=[("cell_id", "==", row["cell_id"])]
            )
            there = there.sort_values(["split", "position"])
            ours = pd.DataFrame(curves).sort_values(["split", "position"])
            assert list(ours["accuracy"]) == list(there["accuracy"])
