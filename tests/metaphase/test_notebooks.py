"""The notebooks, executed: cell by cell, in one fresh process, from a folder beside `results`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# As a notebook does: a cell's last expression is shown, by its picture if it has one.
EXECUTE = """
import ast, json, sys
for path in sys.argv[1:]:
    names = {"__name__": "__main__"}
    for cell in json.load(open(path))["cells"]:
        if cell["cell_type"] == "code":
            tree = ast.parse("".join(cell["source"]))
            last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, "cell", "exec"), names)
            if last:
                shown = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
                picture = getattr(shown, "_repr_png_", None)
                print(len(picture()) if picture else shown)
"""


def execute(paths: list[Path], folder: Path, **environment: str) -> str:
    (folder / "results").mkdir()
    (folder / "results/reference").symlink_to(ROOT / "results/reference")
    (folder / "notebooks").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE, *map(str, paths)],
        cwd=folder / "notebooks",
        env={**os.environ, "MPLBACKEND": "agg", **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_they_run(tmp_path):
    assert {path.stem for path in NOTEBOOKS} >= {"quickstart", "reading_results", "own_family"}
    out = execute(NOTEBOOKS, tmp_path, METAPHASE_NOTEBOOK_STEPS="8")
    assert "6 of 6 cells are finished" in out
    assert "without head 1 of the last block: 0." in out
    assert "2^20 tasks, new ones: " in out
    assert "2^5 | M  M  M  M* I  I* G  G" in out


@pytest.mark.slow
def test_the_quickstart_shows_what_it_says(tmp_path):
    out = execute([ROOT / "notebooks/quickstart.ipynb"], tmp_path)
    assert "2 memorizing, 2 identifying" in out
    identifying, generalizing = (
        abs(float(line.split()[-1])) for line in out.splitlines() if "correlation" in line
    )
    assert generalizing > 1.3 * identifying


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_outputs_are_stripped(path):
    notebook = json.loads(path.read_text())
    for cell in notebook["cells"]:
        assert not cell.get("outputs")
        assert not cell.get("execution_count")
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
