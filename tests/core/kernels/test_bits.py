"""A cell's bits: alone and in a pack, and on every machine."""

import ctypes
import hashlib
import math
import os
import platform
import random
import subprocess
import sys

import pytest
import torch

from metaphase.core.architectures import ARCHITECTURES, lstm
from metaphase.core.architectures import outer_product_memory as memory
from metaphase.core.evaluation.posterior import plain_weighted_sums
from metaphase.core.kernels import cpu, operations
from metaphase.core.kernels.cpu import build, check
from metaphase.core.training.optimizer import plain_adam
from metaphase.core.training.trainer import PackTrainer
from tests.conftest import small_cell
from tests.tools.pairs import try_pair

needs_compiler = pytest.mark.skipif(not cpu.available(), reason="no C compiler here")


def test_random_cells_alone_equal_the_same_in_a_pack_bit_for_bit():
    """Others each time; `python -m tests.tools.pairs --pairs 1 --seed N` tries pair N again."""
    seed = random.SystemRandom().randrange(10**9)
    assert [text for i in range(8) if (text := try_pair(seed + i))] == []


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_300_random_cells_alone_equal_the_same_in_a_pack_bit_for_bit():
    seed = random.SystemRandom().randrange(10**9)
    assert [text for i in range(300) if (text := try_pair(seed + i))] == []


@needs_compiler
@pytest.mark.skipif(platform.machine() != "x86_64", reason="promised on x86-64 only")
def test_the_kernels_compute_the_bits_that_they_compute_everywhere():
    assert check.bits() == check.EXPECTED


@needs_compiler
@pytest.mark.parametrize(
    "flags",
    [
        ["-O1", "-march=native", "-DLANES=16"],  # the tiles of AVX-512, whatever there is here
        pytest.param(["-O3", "-march=x86-64-v3"], marks=pytest.mark.slow),
        pytest.param(["-O2", "-march=native", "-DLANES=4"], marks=pytest.mark.slow),
    ],
)
def test_neither_the_registers_length_nor_the_compilers_zeal_shows(flags, tmp_path, monkeypatch):
    common = [flag for flag in build._FLAGS if not flag.startswith("-O")]
    made = tmp_path / "kernels.so"
    command = ["cc", *common, *flags, "-o", made, *build._SOURCES, "-lm"]
    subprocess.run(command, check=True, capture_output=True)
    ours = check.bits()
    other = ctypes.CDLL(str(made))
    monkeypatch.setattr(build, "library", lambda: other)
    assert check.bits() == ours


@pytest.mark.slow
@needs_compiler
def test_a_compiler_that_takes_liberties_is_told_of(tmp_path, monkeypatch, caplog):
    made = tmp_path / "kernels.so"
    liberties = ["-O1", "-march=native", "-ffast-math", "-fPIC", "-std=gnu11"]
    command = ["cc", *liberties, "-c", *build._SOURCES]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    # Linked with the same flags, the library would make this process flush denormals from now on.
    command = ["cc", "-shared", "-o", made, *tmp_path.glob("*.o"), "-lm"]
    subprocess.run(command, check=True, capture_output=True)
    other = ctypes.CDLL(str(made))
    monkeypatch.setattr(build, "library", lambda: other)
    check.warn_once.cache_clear()
    try:
        PackTrainer([small_cell()])
        PackTrainer([small_cell()])
    finally:
        check.warn_once.cache_clear()
    assert sys.float_info.min / 2 > 0.0
    [record] = caplog.records
    assert "this machine's own" in record.getMessage()


def digest():
    """Of what a pack of all architectures and formats comes to in a few steps."""
    cells = [
        small_cell(architecture=name, token_format=form, steps=3, eval_every=2, unseen_datasets=d)
        for name in ARCHITECTURES
        for form in ("shifted", "interleaved")
        for d in [("glyphs", "random")]
    ]
    trainer = PackTrainer(cells)
    while not trainer.finished:
        trainer.advance()
    numbers = hashlib.sha256()
    for state in trainer.states():
        for name in ("theta", "moment1", "moment2"):
            numbers.update(state[name].numpy().tobytes())
        numbers.update(repr(state["history"]).encode())
    return numbers.hexdigest()


@needs_compiler
def test_the_instructions_that_pytorch_and_mkl_use_dont_show():
    """As on a CPU that has other ones: by the libraries' own switches."""
    code = "from tests.core.kernels.test_bits import digest; print(digest())"
    switches = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "OMP_NUM_THREADS": "2"}
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | switches,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == digest()


# --- each kernel against its twin in float64 ---


@needs_compiler
@pytest.mark.parametrize("tasks", [1, 7, 8, 256])
def test_weighted_sums_are_their_twin_to_the_last_places(tasks):
    log = torch.rand(11, tasks, dtype=torch.float64) * 1398.0 - 699.0
    log[0, 0], log[1, 0] = 0.0, -1e300
    moments, wide = torch.rand(3, tasks, dtype=torch.float64), torch.rand(3, 20).double()
    above = log.amax(dim=1)
    limit = above - torch.tensor([1.0, 0.0]).repeat(6)[:11]  # every other row adds nothing
    found = []
    for function in (cpu.weighted_sums, plain_weighted_sums):
        sums = wide.clone()
        function(sums[:, 4:15], log.clone(), moments, above, limit, least=-600.0)
        assert torch.equal(sums[:, 5:14:2], wide[:, 5:14:2])
        assert torch.equal(sums[:, :4], wide[:, :4])
        found.append(sums)
    torch.testing.assert_close(found[0], found[1], rtol=2e-15, atol=0.0)
    exact = [
        math.fsum(
            math.exp(max(x, -600.0)) * m for x, m in zip(row, moments[0].tolist(), strict=True)
        )
        for row in log[::2].tolist()
    ]
    ours = (found[0] - wide)[0, 4:15:2]
    torch.testing.assert_close(
        ours, torch.tensor(exact, dtype=torch.float64), rtol=1e-14, atol=1e-14
    )
    log[2, 0] = math.nan
    sums = wide.clone()
    cpu.weighted_sums(sums[:, 4:15], log, moments, log.amax(dim=1), limit, least=-600.0)
    assert sums[:, 6].isnan().all()
    assert sums.isnan().sum() == 3


def assert_twins(ours, twin, tensors, within=3e-6):
    """Results and gradients of `ours` in float32 and of `twin` in float64 agree, in the norm."""
    gradient, found = None, []
    for function, kind in ((ours, torch.float32), (twin, torch.float64)):
        inputs = [t.to(kind).detach().requires_grad_() for t in tensors]
        result = function(*inputs)
        gradient = torch.randn(result.shape, dtype=torch.float64) if gradient is None else gradient
        of_inputs = torch.autograd.grad(result, inputs, gradient.to(result.dtype))
        found.append([result, *of_inputs])
    for a, b in zip(*found, strict=True):
        assert ((a.double() - b).norm() / (b.norm() + 1e-12)).item() < within


@needs_compiler
@pytest.mark.parametrize(
    ("m", "k", "n"),
    [(1, 1, 1), (3, 7, 5), (17, 300, 33), (121, 64, 40), (5, 513, 300), (250, 9, 1), (2, 0, 3)],
)
def test_products_of_any_strides(m, k, n):
    a, b = torch.randn(3, k, m).mT, torch.randn(3, n + 2, k)[:, 1:-1].mT
    assert_twins(operations.product, torch.bmm, [a, b])
    ours = cpu.multiply(a, b)
    torch.testing.assert_close(ours.double(), a.double() @ b.double(), rtol=1e-5, atol=1e-4)
    assert torch.equal(cpu.multiply(a[1:2], b[1:2]), ours[1:2])
    assert torch.equal(cpu.multiply(b.mT, a.mT), ours.mT)  # the terms in the same order


@needs_compiler
@pytest.mark.parametrize("D", [3, 16, 17, 64])
def test_layer_norm_and_loss(D):
    x = torch.randn(5, 7, D) * 3 + 1
    assert_twins(operations.layer_norm, operations.plain_layer_norm, [x], 1e-5)
    y = torch.randint(D, (2, 5, 7))
    logits = 5 * torch.randn(2, 5, 7, D)

    def twin(t):
        return operations.plain_cross_entropy(t.flatten(0, 2), y.flatten()).view(y.shape)

    assert_twins(lambda t: operations.cross_entropy(t, y), twin, [logits])


@needs_compiler
def test_a_loss_without_bounds_isnt_a_number_that_looks_fine():
    logits = torch.tensor([[[[0.0, float("inf")], [0.0, float("nan")], [0.0, -3e38]]]])
    loss = operations.cross_entropy(logits, torch.tensor([[[0, 0, 1]]]))
    assert loss.isnan().tolist() == [[[True, True, False]]]


@needs_compiler
def test_a_label_that_is_no_class_loses_what_is_no_number():
    y = torch.tensor([0, 1, 2, -1, -100, 2**40, -(2**40)])
    for function in (cpu.CrossEntropy.apply, operations.plain_cross_entropy):
        logits = torch.arange(14.0).view(7, 2).requires_grad_()
        loss = function(logits, y)
        assert loss.isnan().tolist() == [False] * 2 + [True] * 5
        [gradient] = torch.autograd.grad(loss.sum(), logits)
        assert gradient.isfinite().all()
        assert gradient.count_nonzero(dim=1).tolist() == [2, 2, 0, 0, 0, 0, 0]


@needs_compiler
@pytest.mark.parametrize(("B", "L", "D"), [(1, 1, 1), (1, 9, 3), (4, 20, 16), (3, 40, 17)])
def test_lstm(B, L, D):
    a, w = torch.randn(2, B, L, 4 * D), torch.randn(2, D, 4 * D) / D**0.5
    assert_twins(lstm.scan, lstm.plain_scan, [a, w], 1e-5)


@needs_compiler
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("N", "L", "H", "K"), [(1, 4, 1, 3), (2, 9, 2, 5), (3, 40, 1, 16)])
def test_memory(N, L, H, K, stride):
    Q = -(-L // stride)
    tensors = [torch.randn(N, *shape) for shape in ((Q, H * K), (L, 2 * H * K), (L, 2 * H))]
    assert_twins(
        lambda *t: memory.answers(*t, H, stride),
        lambda *t: memory.plain_answers(*t, H, stride),
        tensors,
        1e-4,
    )


@needs_compiler
def test_a_memory_that_forgets_fast_keeps_its_digits():
    """Gates as small as e^-50 a token: their sums are large, and differences of these count."""
    tensors = [torch.randn(2, *shape) for shape in ((100, 8), (100, 16), (100, 4))]
    tensors[2] *= 20
    assert_twins(
        lambda *t: memory.answers(*t, 2, 1),
        lambda *t: memory.plain_answers(*t, 2, 1),
        tensors,
        1e-4,
    )


@needs_compiler
@pytest.mark.parametrize("decay", [None, [0.0, 0.01, 0.5, 0.5]])
def test_adam(decay):
    tensors = [torch.randn(4, 48) for _ in range(4)]
    tensors[2].square_()
    options = {
        "step": torch.tensor(3),
        "betas": (0.9, 0.99),
        "rate_R": torch.tensor([1e-3, 1e-2, 1e30, 1e-3]),
        "rate_P": torch.rand(48),
        "epsilon_R": torch.tensor([1e-8, 1e-3, 1e-8, 1e-8]),
        "alive_R": torch.tensor([True, True, True, False]),
        "decay_R": None if decay is None else torch.tensor(decay),
    }
    tensors[3][1, 5] = 3e38  # whose square is no number
    ours, twin = ([t.clone() for t in tensors] for _ in range(2))
    finite_R, twin_R = cpu.adam(*ours, **options), plain_adam(*twin, **options)
    assert finite_R.tolist() == twin_R.tolist() == [True, False, True, True]
    for a, b in zip(ours[1:], twin[1:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    # What rounding leaves of two moments that cancel is multiplied by the rate.
    errors, bounds = (ours[0] - twin[0]).abs(), 1e-7 + 1e-5 * options["rate_R"][:, None]
    assert (errors <= bounds + 1e-5 * twin[0].abs()).all()
    assert torch.equal(ours[0][3], tensors[0][3])
