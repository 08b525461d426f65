import ctypes
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from metaphase.core import caches, rng
from metaphase.core.architectures import blocks
from metaphase.core.kernels import cpu
from metaphase.core.kernels.attention_shape import AttentionShape
from metaphase.core.kernels.cpu import build
from metaphase.core.tasks import projected_images
from tests.tools.namespaces import NOBODY, needs_nobody, python

needs_compiler = pytest.mark.skipif(not cpu.available(), reason="no C compiler here")


@needs_compiler
def test_a_nan_stays_in_its_replica_and_is_not_lost():
    shape = AttentionShape(5, 2, 4, stride=2)
    h = torch.randn(2, 10, 6)
    weights = [torch.randn(2, 6, 8), torch.randn(2, 6, 16), torch.randn(2, 8, 6)]
    mlp_weights = [torch.randn(2, 6, 24), torch.randn(2, 1, 24), torch.randn(2, 24, 6)]
    clean = blocks.attention(h, *weights, shape), blocks.mlp(h, *mlp_weights)
    for poison in (weights[0], weights[1], mlp_weights[0]):
        poison[1, 0, 0] = math.nan
    dirty = blocks.attention(h, *weights, shape), blocks.mlp(h, *mlp_weights)
    for before, after in zip(clean, dirty, strict=True):
        assert torch.equal(before[0], after[0])
        assert after[1].isnan().any()


@needs_compiler
@pytest.mark.parametrize("spread", [1.0, 30.0, 300.0])
def test_softmax_is_exact_for_large_scores_too(spread):
    shape = AttentionShape(40, 1, 16)
    h = torch.randn(1, 80, 16)
    q, kv = spread * torch.randn(1, 16, 16) / 4, torch.randn(1, 16, 32) / 4
    out = torch.eye(16)[None]
    ours = blocks.attention(h, q, kv, out, shape)
    exact = blocks.plain_attention(*(t.double() for t in (h, q, kv, out)), shape)
    assert ((ours - exact).norm() / exact.norm()).item() < 3e-6 * max(1.0, spread / 10)


def exact_projections(seed_M, task_M, size):
    """By the definition, all of it after the words in float64."""
    counter = torch.arange(size * -(-size // 4))
    counters = (counter, (task_M & 0xFFFFFFFF)[:, None], (task_M >> 32)[:, None])
    words = rng.philox(seed_M[:, None], rng.PROJECTION, counters)
    u = [((word >> 9).double() + 0.5) * 2.0**-23 for word in words]
    entries = []
    for first, second in (u[:2], u[2:]):
        radius, angle = torch.sqrt(-2.0 * torch.log(first)), 2.0 * math.pi * second
        entries += [radius * torch.cos(angle), radius * torch.sin(angle)]
    return torch.stack(entries, dim=-1).reshape(len(task_M), size, -1)[:, :, :size] / size**0.5


@needs_compiler
@pytest.mark.parametrize("size", [1, 3, 16, 49, 64, 196])
def test_projections_are_their_plain_twins_and_more_exact(size):
    seed_M = torch.randint(2**32, (40,))
    task_M = torch.randint(2**62, (40,))
    ours = projected_images.projections(seed_M, task_M, size).double()
    exact = exact_projections(seed_M, task_M, size)
    halves = (task_M & 0xFFFFFFFF, task_M >> 32)
    plain = (
        rng.plain_normal_matrix(seed_M, rng.PROJECTION, size, size, *halves).double() / size**0.5
    )
    error, plain_error = ((a - exact).abs().max().item() * size**0.5 for a in (ours, plain))
    assert error < 1.5e-6  # entries are up to 5.8 times their deviation
    assert error < 2 * plain_error
    # whatever they are drawn beside, and from tensors of any layout
    some = projected_images.projections(seed_M[::7], task_M[::7], size).double()
    assert torch.equal(some, ours[::7])


def test_without_a_compiler_the_plain_blocks_are_used_and_it_is_logged(tmp_path):
    code = (
        "import logging; logging.basicConfig(); import torch; "
        "from metaphase.core.architectures import blocks; "
        "from metaphase.core.kernels import cpu; "
        "assert not cpu.available(); "
        "print(blocks.mlp(*(torch.ones(1, 2, 2), torch.ones(1, 2, 2), torch.ones(1, 1, 2), "
        "torch.ones(1, 2, 2))).shape)"
    )
    environment = os.environ | {"CC": str(tmp_path / "missing"), "XDG_CACHE_HOME": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert "torch.Size([1, 2, 2])" in run.stdout
    assert "no CPU kernels, plain PyTorch instead" in run.stderr


@pytest.mark.slow
@needs_compiler
def test_the_kernels_are_built_once_and_whole(tmp_path):
    code = "from metaphase.core.kernels import cpu; assert cpu.available()"
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    both = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    [built] = (tmp_path / "metaphase").iterdir()
    changed = built.stat().st_mtime_ns
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert built.stat().st_mtime_ns == changed


@pytest.mark.slow
@needs_compiler
@needs_nobody
def test_a_compiler_with_options_and_no_home(tmp_path):
    """Built once among the temporary files, in a folder that others can't write."""
    code = f"import runpy; assert runpy.run_path({build.__file__!r})['library']() is not None"
    nothing = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "USER", "LOGNAME"))
    odd = {"CC": "nice -n 1 cc -O1", "TMPDIR": str(tmp_path), **nothing}
    times = []
    for _ in range(2):
        done = python("-c", code, prefix=NOBODY, **odd)
        assert done.returncode == 0, done.stderr
        [cache] = tmp_path.iterdir()
        [built] = cache.iterdir()
        times.append(built.stat().st_mtime_ns)
    assert cache.name == "metaphase-kernels-54321"
    assert cache.stat().st_mode & 0o777 == 0o700
    assert times[0] == times[1]


def test_a_folder_that_others_can_write_is_not_loaded_from(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    cache = tmp_path / f"metaphase-kernels-{os.geteuid()}"
    cache.mkdir()
    for mode, taken in ((0o777, []), (0o700, [cache])):
        cache.chmod(mode)
        assert list(caches.folders()) == [Path("/proc/nowhere/metaphase"), *taken]


@pytest.mark.parametrize("compiler", ["false", "'unclosed", "/proc/missing"])
def test_a_compiler_that_fails_leaves_nothing(tmp_path, monkeypatch, compiler):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", compiler)
    with pytest.raises(OSError):  # noqa: PT011
        build._build()
    assert not list(tmp_path.glob("metaphase/*"))


@needs_compiler
def test_a_built_file_that_is_cut_is_built_again(tmp_path, monkeypatch):
    """As a full disk or a crash leaves it; plain PyTorch instead would give other last digits."""
    monkeypatch.setattr(caches, "folders", lambda: iter([tmp_path]))
    monkeypatch.setattr(build, "_SOURCES", [p for p in build._SOURCES if p.name == "adam.c"])
    with monkeypatch.context() as cut:
        cut.setattr(build, "_compile", lambda compiler, made: made.write_bytes(b""))
        with pytest.raises(OSError, match="too short"):
            build._build()
    [built] = tmp_path.iterdir()
    assert built.stat().st_size == 0
    assert build._build()._name == str(built)
    assert built.stat().st_size > 0


@needs_compiler
def test_where_nothing_is_run_from_the_next_place_is_taken(tmp_path, monkeypatch):
    """A home that is mounted noexec: nothing in it can be loaded."""
    load = ctypes.CDLL

    def from_elsewhere(path):
        if path.startswith(str(tmp_path / "home")):
            raise OSError(f"{path}: failed to map segment from shared object")
        return load(path)

    for name in ("home", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(
        caches, "folders", lambda: iter([tmp_path / "home", tmp_path / "temporary"])
    )
    monkeypatch.setattr(build, "_SOURCES", [p for p in build._SOURCES if p.name == "adam.c"])
    monkeypatch.setattr(build.ctypes, "CDLL", from_elsewhere)
    assert build._build()._name.startswith(str(tmp_path / "temporary"))


@pytest.mark.parametrize(
    ("compiler", "why"),
    [
        ("no-such-compiler", "no C compiler 'no-such-compiler'"),
        ("/dev/null", "Permission denied: C compiler '/dev/null'"),
        ("false", "false: status 1"),
    ],
)
def test_a_compiler_that_isnt_there_is_named(compiler, why, tmp_path):
    with pytest.raises(OSError, match=f"^{why}$"):
        build._compile([compiler], tmp_path / "made.so")
