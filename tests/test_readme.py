"""What the README prints must run as it is printed."""

import re
import subprocess
import sys

import duckdb
import pytest

from metaphase.core.phases import GENERALIZING, MEMORIZING
from metaphase.sweeps import cli
from tests import ROOT
from tests.tools.synthetic import make_results

README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def quickstart_results(tmp_path, monkeypatch):
    def truth(cell):
        return GENERALIZING if cell.num_tasks > 100 else MEMORIZING

    make_results(
        tmp_path / "results" / "quickstart",
        model_sizes=[4, 32],
        num_tasks=[1, 64, 4096],
        seeds=[0, 1],
        truth=truth,
    )
    monkeypatch.chdir(tmp_path)


def test_the_pandas_queries_run(quickstart_results):
    [code] = blocks("python")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    table, curves = run.stdout.split("num_tasks", 2)[1:]
    assert "4096" in table
    assert "position" in curves


def test_the_duckdb_query_runs(quickstart_results):
    [query] = blocks("sql")
    rows = duckdb.sql(query).fetchall()
    assert [row[1] for row in rows] == [4096, 4096]  # only what generalizes improves
    assert all(row[2] > 0.3 for row in rows)


def test_the_printed_preset_is_one(tmp_path):
    from metaphase.sweeps.preset import load_preset

    [text] = blocks("yaml")
    path = tmp_path / "my-sweep.yaml"
    path.write_text(text)
    assert len(load_preset(str(path)).cells) == 3 * 4 * 3


def test_the_printed_commands_are_known():
    """Every `metaphase` and `python -m` command of the README parses."""
    for command in re.findall(r"^(metaphase \S+|python -m \S+)", "\n".join(blocks("sh")), re.M):
        program, *arguments = command.split()
        if program == "metaphase":
            with pytest.raises(SystemExit) as ended:
                cli.main([arguments[0], "--help"])
            assert ended.value.code == 0, command
            continue
        run = subprocess.run([sys.executable, *arguments[:2], "--help"], capture_output=True)
        assert run.returncode == 0, command
