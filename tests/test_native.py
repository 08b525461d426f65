import math
import os
import subprocess
import sys

import pytest
import torch

from core import blocks, native

needs_compiler = pytest.mark.skipif(native.library() is None, reason="no C compiler here")


@needs_compiler
def test_a_nan_stays_in_its_replica_and_is_not_lost():
    shape = blocks.Attention(5, 2, 4, stride=2)
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
    shape = blocks.Attention(40, 1, 16)
    h = torch.randn(1, 80, 16)
    q, kv = spread * torch.randn(1, 16, 16) / 4, torch.randn(1, 16, 32) / 4
    out = torch.eye(16)[None]
    ours = blocks.attention(h, q, kv, out, shape)
    exact = blocks.plain_attention(*(t.double() for t in (h, q, kv, out)), shape)
    assert ((ours - exact).norm() / exact.norm()).item() < 3e-6 * max(1.0, spread / 10)


def test_without_a_compiler_the_plain_blocks_are_used_and_it_is_logged(tmp_path):
    code = (
        "import logging; logging.basicConfig(); import torch; from core import blocks, native; "
        "assert native.library() is None; "
        "print(blocks.mlp(*(torch.ones(1, 2, 2), torch.ones(1, 2, 2), torch.ones(1, 1, 2), "
        "torch.ones(1, 2, 2))).shape)"
    )
    environment = os.environ | {"CC": str(tmp_path / "missing"), "XDG_CACHE_HOME": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert "torch.Size([1, 2, 2])" in run.stdout
    assert "no CPU kernels, plain PyTorch instead" in run.stderr


@needs_compiler
def test_the_kernels_are_built_once_and_whole(tmp_path):
    code = "from core import native; assert native.library() is not None"
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    both = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    [built] = (tmp_path / "phasesweep").iterdir()
    changed = built.stat().st_mtime_ns
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert built.stat().st_mtime_ns == changed
