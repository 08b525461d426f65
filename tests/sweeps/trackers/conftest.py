"""A tree with two trained cells and one that failed."""

import random

import pytest

from metaphase.sweeps.store.results import Results
from tests.tools import growing


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = Results(str(tmp_path / "root"), "growing")
    growing.grow(made, random.Random(0), 0.0, cells=2)
    failed = growing.sweep().cells[-1]
    if failed.cell_id not in made.finished():
        made.write_failure(failed, "it <b>broke</b>")
    return made
