"""The script for a GPU's first hour runs whole at toy size on the CPU, and fails without a GPU."""

import subprocess

import pytest
import torch

from metaphase.core import fast_paths
from tests.benchmarks import gpu_session

PROCESSES = ("figure2", "tests")  # which start others


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_it_fails_where_there_is_no_gpu(capsys):
    assert gpu_session.main([]) == 1
    assert "there is no GPU" in capsys.readouterr().err


def test_what_says_most_comes_first_and_no_part_is_long():
    assert list(gpu_session.PARTS)[:3] == ["checks", "limits", "throughput"]
    assert max(seconds for _, seconds in gpu_session.PARTS.values()) <= 600
    with pytest.raises(SystemExit):
        gpu_session.main(["--toy", "nonsense"])


QUICK = ("profile", "memory")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in gpu_session.PARTS
        if name not in PROCESSES
    ],
)
def test_a_part_runs_at_toy_size(name, capsys, monkeypatch):
    monkeypatch.setattr(fast_paths, "_off", {})
    before = torch.backends.cuda.matmul.fp32_precision
    gpu_session._one_part(name, gpu_session.Size(toy=True))
    torch.backends.cuda.matmul.fp32_precision = before
    assert capsys.readouterr().out.count("\n") > 0


def test_a_part_that_takes_too_long_is_killed_with_what_it_has_said(tmp_path, monkeypatch):
    slow, real = ["sh", "-c", "echo found; sleep 60"], subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda command, **options: real(slow, **options))
    assert gpu_session._run("checks", 2.0, True, tmp_path).startswith("killed after ")
    assert (tmp_path / "checks.log").read_text() == "found\n"


@pytest.mark.slow
def test_all_parts_run_as_the_command_has_it(tmp_path, monkeypatch):
    monkeypatch.setenv("OUT", str(tmp_path))
    assert gpu_session.main(["--toy"]) == 0
    summary = (tmp_path / "summary.txt").read_text().splitlines()
    assert len(summary) == len(gpu_session.PARTS)
    assert all(" done after " in line for line in summary)
