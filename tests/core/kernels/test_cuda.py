"""The Triton kernels against their plain twins in float64: on a GPU if there is one, else in
Triton's interpreter (see tests/conftest.py)."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from metaphase.core import fast_paths
from metaphase.core.architectures import blocks
from metaphase.core.kernels.attention_shape import AttentionShape
from metaphase.core.tasks import projected_images

pytest.importorskip("triton")

from metaphase.core.kernels.cuda import attention, common, layers, mixing, mlp, projection
from metaphase.core.kernels.cuda.projection import Tiles, image_table, project
from tests.tools import compiled

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The interpreter knows no tf32, and cuts to bf16 where GPUs round.
PRECISIONS = ["fp32", "tf32x3", "tf32", "bf16"] if DEVICE == "cuda" else ["fp32", "bf16"]
# Relative errors.
TOLERANCE = {"fp32": 2e-6, "tf32x3": 2e-6, "tf32": 2e-3, "bf16": 1e-2}


@pytest.fixture(autouse=True)
def poison(monkeypatch):
    """New memory is NaN, so what a kernel leaves unwritten shows."""
    empty, empty_like = torch.empty, torch.empty_like

    def poisoned(make):
        def filled(*args, **kwargs):
            made = make(*args, **kwargs)
            return made.fill_(torch.nan) if made.is_floating_point() else made

        return filled

    monkeypatch.setattr(torch, "empty", poisoned(empty))
    monkeypatch.setattr(torch, "empty_like", poisoned(empty_like))


@pytest.fixture(autouse=True)
def seeded():
    """A ReLU at 0 may fall to either side: the same inputs each time."""
    torch.manual_seed(0)


def error(ours, exact):
    return ((ours.double() - exact).norm() / exact.norm().clamp(min=0.1)).item()


class Sequences:
    """Random images, sequences of them, and tasks."""

    def __init__(self, size, T, G=2, B=3, images=50, num_tasks=2**40):
        self.size, self.G = size, G
        self.images = torch.randn(images, size, device=DEVICE)
        self.index = torch.randint(images, (G, B, T), device=DEVICE)
        self.task = torch.randint(num_tasks, (G, B), device=DEVICE)
        self.seed = torch.randint(2**32, (G,), device=DEVICE)

    def expected(self, a_GxBxXxX):
        x = self.images[self.index].double()
        return x @ a_GxBxXxX.double().transpose(2, 3)

    def project(self, images=None, task=None, **kwargs):
        images = self.images if images is None else images
        task = self.task if task is None else task
        return project(images, self.index, task, size=self.size, **kwargs)


SHAPES = [(1, 1), (2, 17), (16, 8), (37, 19), (64, 100), (66, 130)]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("size", "T"), SHAPES)
def test_drawn_projections_are_their_twin(size, T, precision):
    s = Sequences(size, T)
    expected = s.expected(projected_images.projections(s.seed[:, None], s.task, size))
    for images in (s.images, image_table(s.images, precision), s.images.T.contiguous().T):
        y = s.project(images, seed_G=s.seed, precision=precision)
        assert error(y, expected) < TOLERANCE[precision]


@pytest.mark.parametrize("tiles", [Tiles(16, 16), Tiles(128, 64), Tiles(32, 128, 8, 2)])
def test_projections_dont_depend_on_the_tiles(tiles):
    s = Sequences(70, 9)
    expected = s.expected(projected_images.projections(s.seed[:, None], s.task, s.size))
    y = s.project(seed_G=s.seed, precision="fp32", tiles=tiles)
    assert error(y, expected) < TOLERANCE["fp32"]


def test_entries_drawn_are_those_of_the_twin_one_by_one():
    """Images that are unit vectors read A itself."""
    s = Sequences(33, 33, B=2)
    s.images = torch.eye(33, device=DEVICE)
    s.index = torch.arange(33, device=DEVICE).expand(2, 2, 33)
    a = projected_images.projections(s.seed[:, None], s.task, 33)
    y = s.project(seed_G=s.seed, precision="fp32")
    assert (y.transpose(2, 3) - a).abs().max() < 3e-5
    assert error(y.transpose(2, 3), a.double()) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("size", "T"), SHAPES)
def test_tabled_projections_are_their_twin(size, T, dtype):
    s = Sequences(size, T, num_tasks=7)
    table = torch.randn(3, 7, size, size, device=DEVICE).to(dtype)
    row = torch.tensor([2, 0], device=DEVICE)
    y = s.project(table_UxNxXxX=table, row_G=row, precision="fp32")
    assert error(y, s.expected(table[row[:, None], s.task])) < TOLERANCE["fp32"]
    y = s.project(table_UxNxXxX=table, row_G=row, precision="bf16", dtype=torch.bfloat16)
    assert y.dtype == torch.bfloat16
    assert error(y, s.expected(table[row[:, None], s.task])) < TOLERANCE["bf16"]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("size", "T"), SHAPES)
def test_noise_projections_are_their_twin(size, T, precision):
    s = Sequences(size, T)
    noise = projected_images.noise_table(size, 11, DEVICE)
    expected = s.expected(projected_images.noise_projections(s.seed[:, None], s.task, size, noise))
    y = s.project(seed_G=s.seed, noise=noise, precision=precision)
    assert error(y, expected) < TOLERANCE[precision]


def test_the_largest_seeds_and_tasks_are_drawn_right():
    s = Sequences(8, 4, B=4)
    s.seed = torch.tensor([0, 2**32 - 1], device=DEVICE)
    s.task = torch.tensor([[0, 2**32 - 1, 2**32, 2**63 - 1]] * 2, device=DEVICE)
    expected = s.expected(projected_images.projections(s.seed[:, None], s.task, 8))
    assert error(s.project(seed_G=s.seed, precision="fp32"), expected) < TOLERANCE["fp32"]


def replicas(*shapes):
    """Random weights N(0, 1/fan-in), with gaps between replicas as in a flat parameter buffer."""
    made = []
    for R, *shape in shapes:
        buffer = torch.randn(R, 5 + shape[0] * shape[1], device=DEVICE) / shape[0] ** 0.5
        made.append(buffer[:, 5:].unflatten(1, shape).requires_grad_())
    return made


def values_and_gradients(function, tensors, grad):
    y = function(*tensors)
    return [y, *torch.autograd.grad(y, tensors, grad.to(y.dtype))]


def compare(fused, plain, tensors, precision):
    """Values and gradients against the plain twin in float64. In bf16 the measure is what rounding
    does to the twin itself: where a ReLU's input is near 0, it decides whether a gradient flows."""
    exact = [t.detach().double().requires_grad_() for t in tensors]
    grad = torch.randn_like(plain(*exact))
    expected = values_and_gradients(plain, exact, grad)
    ours = values_and_gradients(fused, tensors, grad)
    rounded = [t.detach().clone().requires_grad_() for t in tensors]
    with torch.autocast(DEVICE, torch.bfloat16, enabled=precision == "bf16"):
        theirs = values_and_gradients(plain, rounded, grad)
    for number, (a, b, c) in enumerate(zip(ours, expected, theirs, strict=True)):
        bound = 1.3 * error(c, b) + 1e-2 if precision == "bf16" else 25 * TOLERANCE[precision]
        assert a.dtype == torch.float32
        # Where the shapes are ill-conditioned (a layer norm of two numbers), the twin errs too.
        assert error(a, b) < max(bound, 2 * error(c, b)), (number, error(a, b), error(c, b))
    again = values_and_gradients(fused, tensors, grad)
    assert all(torch.equal(a, b) for a, b in zip(ours, again, strict=True))


ATTENTION = [  # L, stride, H, K, D, R, B, rotary
    (1, 1, 1, 2, 5, 1, 1, False),
    (7, 1, 2, 8, 5, 2, 3, True),
    (31, 2, 2, 8, 32, 2, 2, True),
    (100, 1, 2, 32, 16, 2, 1, False),
    (128, 1, 1, 64, 64, 1, 2, True),
    (70, 3, 3, 2, 2, 2, 2, True),
    (65, 1, 1, 20, 33, 2, 5, False),
]


@pytest.mark.parametrize(
    "precision",
    [  # an interpreter takes seconds for what a GPU takes none for
        pytest.param(p, marks=pytest.mark.slow if DEVICE == "cpu" and p == "bf16" else ())
        for p in PRECISIONS
    ],
)
@pytest.mark.parametrize(("L", "stride", "H", "K", "D", "R", "B", "rotary"), ATTENTION)
def test_fused_attention_is_its_twin(L, stride, H, K, D, R, B, rotary, precision):
    shape = AttentionShape(L, H, K, stride, rotary)
    h = (3 * torch.randn(R, B * L, D, device=DEVICE)).requires_grad_()
    weights = replicas((R, D, H * K), (R, D, 2 * H * K), (R, H * K, D))
    if DEVICE == "cuda" and not attention.supports(h, shape, precision):
        pytest.skip("more than a multiprocessor holds, or not worth compiling")
    compare(
        lambda *t: attention.fused_attention(*t, shape, precision, attention.Tiles(sequences=2)),
        lambda *t: blocks.plain_attention(*t, shape),
        [h, *weights],
        precision,
    )


@pytest.mark.parametrize(("queries", "sequences"), [(16, 1), (32, 3), (128, None)])
def test_attention_doesnt_depend_on_the_tiles(queries, sequences):
    shape = AttentionShape(70, 1, 4)
    h, *weights = replicas((2, 4 * 70, 6), (2, 6, 4), (2, 6, 8), (2, 4, 6))
    tiles = attention.Tiles(queries=queries, sequences=sequences)
    precision = "fp32" if DEVICE == "cpu" else "tf32"
    compare(
        lambda *t: attention.fused_attention(*t, shape, precision, tiles),
        lambda *t: blocks.plain_attention(*t, shape),
        [h, *weights],
        precision,
    )


def test_a_sequence_of_the_fused_attention_is_the_same_among_others():
    shape = AttentionShape(20, 2, 8)
    h, *weights = replicas((3, 5 * 20, 16), (3, 16, 16), (3, 16, 32), (3, 16, 16))
    together = attention.fused_attention(h, *weights, shape)
    alone = [t[1:2].detach().requires_grad_() for t in (h, *weights)]
    y = attention.fused_attention(*alone, shape)
    assert torch.equal(y[0], together[1])
    theirs = torch.autograd.grad(together[1].square().sum(), [h, *weights])
    ours = torch.autograd.grad(y.square().sum(), alone)
    assert all(torch.equal(a[0], b[1]) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("N", "D", "M", "R", "programs"),
    [
        (1, 6, 2, 1, 128),
        (40, 2, 8, 1, 2),
        (70, 5, 3, 2, 2),
        (300, 32, 128, 2, 3),
        (128, 64, 256, 1, 1),
    ],
)
def test_the_fused_mlp_is_its_twin(N, D, M, R, programs, precision):
    h, *weights = replicas((R, N, D), (R, D, M), (R, 1, M), (R, M, D))
    if precision != "fp32" and N * M < 10_000:
        pytest.skip("so few units that one ReLU, open or shut by rounding, decides")
    compare(
        lambda *t: mlp.fused_mlp(*t, precision, mlp.Tiles(programs=programs)),
        blocks.plain_mlp,
        [h, *weights],
        precision,
    )


@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        (("table X 784 T 100 bf16", "mlp D 16", "--gpus", "90"), 5),
        (("units M 1024 bf16", "mix L 64 K 32 bf16", "--gpus", "80"), 4),
        pytest.param(("--gpus", "75"), 1, id="none before sm_80"),
        pytest.param(("--gpus", "90"), None, marks=pytest.mark.slow),
        pytest.param(("--gpus", "80", "89", "100", "120"), None, marks=pytest.mark.slow),
    ],
)
def test_the_kernels_compile_and_fit(arguments, count):
    """In a process that doesn't interpret."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.tools.compiled", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == count or (count is None and len(lines) > 20)
    for line in lines:
        if "registers" in line:
            # Spilled a little (most: 1,076, an MLP of width 64 in bf16 on sm_80); `check` times it.
            assert line["LDL"] + line["STL"] < 1200, line
            plain = "fp32" in line["kernel"] or line["kernel"].startswith(("norm", "units"))
            assert sum(line[unit] for unit in compiled.MATRIX_UNITS) > 0 or plain, line


@pytest.mark.parametrize(
    ("capability", "shared", "attention_tf32", "mlp_tf32", "bf16", "layers_tf32", "wide_keys"),
    [
        (75, 65_536, False, False, False, False, False),
        (80, 166_912, False, True, True, False, False),
        (89, 101_376, False, False, True, False, False),
        (90, 232_448, True, True, True, True, True),
        (120, 101_376, False, False, True, False, False),
    ],
)
def test_the_devices_shared_memory_is_looked_up(
    monkeypatch, capability, shared, attention_tf32, mlp_tf32, bf16, layers_tf32, wide_keys
):
    has = common.Limits(capability, shared)
    for module in (attention, layers, mixing, mlp, projection):
        monkeypatch.setattr(module, "limits", lambda device: has)
    shape, narrow, wide = AttentionShape(100, 8, 32), torch.zeros(1, 1, 16), torch.zeros(1, 1, 64)
    assert attention.supports(narrow, shape, "tf32") == attention_tf32
    assert mlp.supports(wide, "tf32") == mlp_tf32
    assert attention.supports(narrow, shape, "bf16") == mlp.supports(wide, "bf16") == bf16
    assert attention.supports(wide, AttentionShape(128, 2, 64), "bf16") == wide_keys
    assert attention.supports(wide, AttentionShape(64, 2, 64), "bf16") == bf16
    assert projection.supports(torch.device("cuda")) == bf16
    assert not attention.supports(narrow, shape, "fp32")
    assert layers.supports(wide, [shape, None], "tf32") == layers_tf32
    assert layers.supports(wide, [shape, None], "bf16") == bf16
    assert layers.supports(wide, [None, AttentionShape(64, 8, 32)], "tf32") == bf16
    assert not layers.supports(wide, [None], "fp32")


def test_the_blocks_run_the_fused_kernels_where_these_are_switched_on(monkeypatch):
    shape, R, D, HK = AttentionShape(6, 2, 4), 2, 8, 8
    h = torch.randn(R, 3 * 6, D, device=DEVICE)
    heads = [torch.randn(R, *size, device=DEVICE) for size in ((D, HK), (D, 2 * HK), (HK, D))]
    units = [torch.randn(R, *size, device=DEVICE) for size in ((D, 16), (1, 16), (16, D))]
    plain = blocks.attention(h, *heads, shape), blocks.mlp(h, *units)
    monkeypatch.setattr(fast_paths, "may_fuse", lambda device: True)
    monkeypatch.setenv("METAPHASE_FUSED", "1")
    monkeypatch.setattr(blocks, "precision_on_cuda", lambda: "bf16")
    fused = blocks.attention(h, *heads, shape), blocks.mlp(h, *units)
    assert torch.equal(fused[0], attention.fused_attention(h, *heads, shape, "bf16"))
    assert torch.equal(fused[1], mlp.fused_mlp(h, *units, "bf16"))
    for ours, exact in zip(fused, plain, strict=True):
        assert 0 < error(ours, exact) < TOLERANCE["bf16"]
