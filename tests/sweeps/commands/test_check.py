"""`metaphase check`: a table of what a run needs, and an exit status."""

import math
import subprocess
import sys
import types

import pytest
import torch

from metaphase.core import caches, devices, fast_paths
from metaphase.core.kernels.cpu import build
from metaphase.sweeps import cli
from metaphase.sweeps.execution import proving, surroundings
from tests.tools.namespaces import python

TINY = ("--set", "steps=20", "--set", "model_size=[4]", "--executor", "local")


def check(capsys, tmp_path, *arguments):
    status = cli.main(["check", *TINY, "--root", str(tmp_path), *map(str, arguments)])
    said = capsys.readouterr()
    rows = {line[:22].strip(): line[23:].split(maxsplit=1) for line in said.out.splitlines()}
    return status, rows, said.err


def test_a_machine_on_which_runs_work(capsys, tmp_path):
    status, rows, error = check(capsys, tmp_path)
    assert (status, error) == (0, "")
    assert set(rows) == {
        *("software", "compiler", "GPU", "storage", "data sets", "fonts", "a run"),
    }
    assert {state for state, _ in rows.values()} <= {"ok", "note"}
    assert list(tmp_path.iterdir()) == []
    assert "16 cells in" in rows["a run"][1]


def test_what_fails_is_said_and_the_rest_goes_on(capsys, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    data = tmp_path / "data" / "MNIST" / "raw"
    data.mkdir(parents=True)
    for name in ("train-images", "t10k-images"):
        (data / f"{name}-idx3-ubyte").write_bytes(b"")
    for name in ("train-labels", "t10k-labels"):
        (data / f"{name}-idx1-ubyte").write_bytes(b"")
    more = ("--set", "dataset=MNIST", "--data-root", data.parent.parent)
    status, rows, error = check(capsys, file / "below", *more)
    assert status == 1
    assert error == "error: 2 of these fail: a run would, too\n"
    assert {what for what, (state, _) in rows.items() if state == "FAILS"} == {
        "storage", "data sets",
    }  # fmt: skip
    assert "is empty" in rows["data sets"][1]


def test_folders_that_are_made_to_try_the_storage_are_removed(capsys, tmp_path):
    status, rows, _ = check(capsys, tmp_path / "not" / "there", "--set", "seed=[0]")
    assert status == 0
    assert rows["storage"][0] == "ok"
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_in_a_bucket(s3, monkeypatch):
    client, address = s3
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{address}")
    [line] = surroundings.storage("s3://bucket/results")
    assert line.state == "ok"
    assert "Contents" not in client.list_objects_v2(Bucket="bucket")


def test_images_that_a_run_downloads_are_no_failure(capsys, tmp_path):
    status, rows, _ = check(
        capsys, tmp_path, "--set", "dataset=MNIST", "--data-root", tmp_path / "none"
    )
    assert status == 0
    assert rows["data sets"] == ["note", f"MNIST isn't in {tmp_path}/none: a run downloads it"]


def test_a_machine_without_a_compiler(monkeypatch, tmp_path):
    monkeypatch.setattr(fast_paths, "_off", {})
    monkeypatch.setenv("CC", "/proc/missing")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    build.library.cache_clear()
    [line] = surroundings.compiler()
    monkeypatch.undo()
    build.library.cache_clear()
    assert line.state == "note"
    assert line.details.startswith("no CPU kernels, plain PyTorch instead: ")
    assert "/proc/missing" in line.details


def pretended(monkeypatch, free=70e9):
    """A GPU, as far as it is asked about."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 80e9))
    monkeypatch.setattr(devices, "training_device", torch.device)
    of = {"gpu": "H100, sm_90", "driver": "13000"}
    monkeypatch.setattr(proving, "environment", lambda device="cuda": of)


@pytest.mark.parametrize("writable", [True, False])
def test_triton_keeps_what_it_compiles_where_it_can(monkeypatch, tmp_path, writable):
    monkeypatch.setenv("TRITON_CACHE_DIR", "")
    monkeypatch.setenv("TRITON_HOME", str(tmp_path) if writable else "/proc/nowhere")
    monkeypatch.setattr(caches, "folders", lambda: iter([tmp_path / "ours"]))
    expected = tmp_path / (".triton/cache" if writable else "ours")
    assert caches.for_triton() == expected
    assert expected.is_dir()


def test_a_gpu_and_each_fast_path_are_shown(monkeypatch):
    pretended(monkeypatch, free=30e9)
    numbers = dict.fromkeys(("error", "bound", "fast", "plain"), math.nan)
    bad = {"name": "fused MLP D=64 M=256 tf32", "why": "OutOfResources: shared memory"} | numbers
    good = {"name": fast_paths.CAPTURE, "why": "", **numbers, "fast": 0.4, "plain": 2.0}
    found = proving.Found({}, [bad, good], {}, kept=True)
    monkeypatch.setattr(proving, "find_out", lambda *arguments, **options: found)
    lines = list(surroundings.gpu([], "data", False))
    assert lines.pop(2)[:2] == ("Triton's cache", "ok")
    assert [line.state for line in lines] == ["ok", "note", "note", "ok", "ok"]
    assert lines[0].details == "2 x H100, sm_90, driver 13000, 30.0 of 80.0 GB free"
    assert lines[2][:2] == ("fused MLP D=64 M=256 tf32", "note")
    assert lines[3].details == "used; 0.4 ms, twin 2"


def test_a_gpu_that_pytorch_cant_use_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(devices, "unused_gpus", lambda: "device: cuda can't be used: too old")
    [line] = surroundings.gpu([], "data", False)
    assert line == ("GPU", "note", "device: cuda can't be used: too old; cells train on the CPU")


def test_whatever_a_check_raises_is_a_line():
    def broken():
        yield surroundings.Line("a", "ok", "")
        raise RuntimeError("it\nbroke")

    assert list(surroundings.tried("b", broken)) == [
        ("a", "ok", ""), ("b", "FAILS", "RuntimeError: it broke"),
    ]  # fmt: skip


def test_gpus_that_are_there_and_unused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    there = types.SimpleNamespace(glob=lambda pattern: iter(["/dev/nvidia0"]), exists=bool)
    monkeypatch.setattr(devices, "Path", lambda path: there)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "built for CPUs" in devices.unused_gpus()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # on purpose
    assert devices.unused_gpus() == ""


RAY = """
import os, sys, ray
from metaphase.sweeps import cli
ray.init(num_cpus=1, num_gpus=1, include_dashboard=False, object_store_memory=10**8,
         log_to_driver=False)
sys.exit(cli.main(["check", "--root", sys.argv[1]]))
"""


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_ray_that_pretends_to_have_a_gpu_fails(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", RAY, str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1
    [line] = [line for line in done.stdout.splitlines() if line.startswith("Ray ")]
    assert "FAILS" in line
    assert "device: cuda can't be used" in line
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_home_that_cant_be_written_and_no_compiler(tmp_path):
    command = ("-m", "metaphase.sweeps.cli", "check", *TINY, "--root", str(tmp_path))
    done = python(*command, HOME="/proc/nowhere", PATH="", XDG_CACHE_HOME=None, CC=None)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
