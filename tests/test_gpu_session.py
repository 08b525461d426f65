"""The script for a GPU's first hour runs whole at toy size on the CPU, and fails without a GPU."""

import subprocess

import pytest
import torch

from metaphase.core import fast_paths
from metaphase.core.training import cost, proofs
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
def test_a_part_runs_at_toy_size(name, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.setattr(fast_paths, "_off", {})
    monkeypatch.setattr(fast_paths, "_proven", set())
    before = torch.backends.cuda.matmul.fp32_precision
    gpu_session._one_part(name, gpu_session.Size(toy=True))
    torch.backends.cuda.matmul.fp32_precision = before
    assert capsys.readouterr().out.count("\n") > 0


def test_parts_measure_what_checks_has_found_right_and_faster(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(fast_paths, "_off", {})
    monkeypatch.setattr(fast_paths, "_proven", set())
    monkeypatch.delenv("METAPHASE_FUSED", raising=False)
    monkeypatch.setenv("OUT", str(tmp_path))
    monkeypatch.setitem(gpu_session.PARTS, "limits", (lambda size: None, 60))
    size = gpu_session.Size(toy=True)
    gpu_session._one_part("limits", size)
    assert capsys.readouterr().out == "plain PyTorch is measured: `checks` hasn't run here\n"
    name, other = (fast_paths.named(fast_paths.MLP, "bf16", D=D, M=4 * D) for D in (4, 8))

    def prove(cells, device, data_root, say):
        return proofs.Findings([proofs.Proof(name), proofs.Proof(other, "slower than its twin: x")])

    monkeypatch.setattr(proofs, "prove", prove)
    gpu_session._one_part("checks", size)
    capsys.readouterr()
    gpu_session._one_part("limits", size)
    assert capsys.readouterr().out == (
        "measured with the 1 of 2 fast paths that `checks` has found right and faster, else plain "
        f"PyTorch: {name}\n"
    )
    assert fast_paths.is_on(name)
    assert not fast_paths.is_on(other)
    monkeypatch.setattr(gpu_session.proving, "environment", lambda device: {"gpu": "another"})
    gpu_session._one_part("limits", size)
    assert "`checks` hasn't run here" in capsys.readouterr().out


def test_checks_try_projections_from_a_table_and_drawn_ones():
    cells = gpu_session.proven_cells(gpu_session.Size(toy=True))
    assert {cell.precision for group in cells.values() for cell in group} == {"bf16", "tf32"}
    chosen = proofs.one_of_each(cells["bf16"])
    assert [cost.reads_table([cell]) for cell in chosen] == [True, True]


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
