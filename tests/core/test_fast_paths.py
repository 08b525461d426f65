"""Fast paths that can't be built, run or captured: one warning, their twins, the same numbers."""

import contextlib
import subprocess
import sys
import types

import pytest
import torch

from metaphase.core import fast_paths
from metaphase.core.architectures import blocks
from metaphase.core.kernels.attention_shape import AttentionShape
from metaphase.core.tasks import projected_inputs
from metaphase.core.training import captured
from metaphase.core.training.trainer import PackTrainer
from tests.conftest import DEVICES, small_cell

pytest.importorskip("triton")

from triton.compiler.errors import CompilationError
from triton.runtime.errors import OutOfResources, PTXASError

from metaphase.core.kernels.cuda import attention, mlp, projection

interpreted = pytest.mark.skipif("cuda" in DEVICES, reason="kernels are pretended on the CPU")

ERRORS = {
    "CompilationError": lambda: CompilationError("x = y", None, "at 1:2"),
    "OutOfResources": lambda: OutOfResources(205_000, 101_376, "shared memory"),
    "PTXASError": lambda: PTXASError("ptxas died\nof a signal"),
    "RuntimeError": lambda: RuntimeError("Failed to find C compiler. Please specify via CC"),
    "CalledProcessError": lambda: subprocess.CalledProcessError(1, ["cc", "main.c"]),  # no Python.h
    "ImportError": lambda: ImportError("libcuda.so cannot be found!"),
}


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    monkeypatch.setattr(fast_paths, "_off", {})
    monkeypatch.setattr(fast_paths, "_proven", set())


class Failing:
    """A kernel that fails when it is launched."""

    def __init__(self, error):
        self._error = error

    def __getitem__(self, grid):
        def launch(*args, **kwargs):
            raise self._error

        return launch


def both(function, tensors):
    leaves = [t.clone().requires_grad_() for t in tensors]
    result = function(*leaves)
    return [result, *torch.autograd.grad(result.square().sum(), leaves)]


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.name == "metaphase.core.fast_paths"]


SHAPE = AttentionShape(6, 2, 4)
BLOCKS = {
    "attention": (
        attention,
        lambda *t: blocks.attention(*t, SHAPE),
        lambda *t: blocks.plain_attention(*t, SHAPE),
        ((18, 8), (8, 8), (8, 16), (8, 8)),
    ),
    "mlp": (mlp, blocks.mlp, blocks.plain_mlp, ((18, 8), (8, 16), (1, 16), (16, 8))),
}  # fmt: skip


@interpreted
@pytest.mark.parametrize("launch", ["_forward", "_backward"])
@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("error", ERRORS)
def test_a_kernel_that_fails_leaves_its_twin(name, launch, error, monkeypatch, caplog):
    kernel, block, plain, shapes = BLOCKS[name]
    monkeypatch.setattr(fast_paths, "may_fuse", lambda device: True)
    monkeypatch.setattr(blocks, "precision_on_cuda", lambda: "tf32")
    monkeypatch.setenv("METAPHASE_FUSED", "1")
    if launch == "_backward":  # the forward pass has run

        class Forward:
            def __getitem__(self, grid):
                return lambda y, *args, **kwargs: y.copy_(plain(*tensors))

        monkeypatch.setattr(kernel, "_forward", Forward())
    monkeypatch.setattr(kernel, launch, Failing(ERRORS[error]()))
    torch.manual_seed(0)
    tensors = [torch.randn(2, *shape) / shape[0] ** 0.5 for shape in shapes]
    expected = both(plain, tensors)
    for _ in range(2):
        for ours, theirs in zip(both(block, tensors), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    [line] = warnings(caplog)
    assert line.startswith(f"no fused {'attention' if name == 'attention' else 'MLP'}")
    assert ", plain PyTorch instead: " in line
    assert error in line
    assert "\n" not in line
    assert error in fast_paths.said()


def test_full_memory_is_no_fault_of_a_path():
    def full():
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        fast_paths.attempt(fast_paths.PROJECTION, full, full)
    assert fast_paths.said() == ""


@interpreted
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_projections_that_fail_leave_their_twin(error, precision, monkeypatch, caplog):
    """Tasks from a table, drawn, and both."""
    cells = [small_cell(num_tasks=n, precision=precision) for n in (4, 2**32)]
    plain = PackTrainer(cells).sampler
    monkeypatch.setattr(projected_inputs, "projection_kernel", lambda device: projection)
    monkeypatch.setattr(projection, "_project", Failing(ERRORS[error]()))
    pretended = PackTrainer(cells).sampler
    half = torch.bfloat16 if precision == "bf16" else torch.float32
    draw = plain.draw_training(torch.arange(2))
    for sampler in (plain, pretended):
        x = sampler.training_batch(draw, torch.tensor([1])).x_RxBxTxX
        unseen = sampler.evaluation_batch("unseen", torch.arange(8)).x_RxBxTxX
        if sampler is plain:
            expected = x.to(half), unseen.to(half)
    for ours, theirs in zip((x, unseen), expected, strict=True):
        assert ours.dtype == half
        torch.testing.assert_close(
            ours, theirs, atol=2e-2 if half == torch.bfloat16 else 1e-6, rtol=1e-2
        )
    due = ["projections, plain"] if error == "ImportError" else ["source=drawn", "source=table"]
    for line, what in zip(sorted(warnings(caplog)), due, strict=True):
        assert what in line


def test_a_library_that_isnt_there_is_said_once(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "metaphase.core.kernels.cuda.projection", None)
    monkeypatch.delattr("metaphase.core.kernels.cuda.projection", raising=False)
    for _ in range(2):
        assert projected_inputs.projection_kernel(torch.device("cuda")) is None
    [line] = warnings(caplog)
    assert line.startswith("no fused projections, plain PyTorch instead: ")


def test_paths_on_proof_run_where_their_shape_was_proven(monkeypatch):
    monkeypatch.delenv("METAPHASE_FUSED", raising=False)
    name, other = (fast_paths.named(fast_paths.MLP, "bf16", D=d, M=4 * d) for d in (2, 64))
    assert not fast_paths.is_on(name)
    fast_paths.adopt({name: "", other: f"{fast_paths.SLOWER}: 2.0 ms against 1.0"})
    assert fast_paths.is_on(name)
    assert not fast_paths.is_on(other)
    assert fast_paths.failures() == {}
    assert other in fast_paths.said()
    fast_paths.adopt({fast_paths.MLP: "it died"})
    assert not fast_paths.is_on(name)
    assert fast_paths.is_on(fast_paths.CAPTURE)


class Stream:
    def wait_stream(self, other):
        pass

    def record_event(self):
        return types.SimpleNamespace(synchronize=lambda: None)


@pytest.fixture
def capturing(monkeypatch):
    """`torch.cuda` as far as a capture needs it, of steps that run on the CPU. Holds the errors
    that the next captures end with."""
    errors = []

    class Graph:
        def replay(self):
            raise AssertionError("nothing was captured")

    @contextlib.contextmanager
    def graph(made, stream):
        yield
        if errors:
            raise errors.pop()

    cuda = torch.cuda
    monkeypatch.setattr(cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(cuda, "graph", graph)
    monkeypatch.setattr(cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(cuda, "current_stream", lambda: Stream())
    monkeypatch.setattr(cuda, "synchronize", lambda *device: None)
    monkeypatch.setattr(captured, "_aside", lambda device: Stream())
    return errors


def test_a_capture_that_fails_leaves_the_buffers_and_says_so(capturing):
    weight = torch.ones(3)
    repeated = captured.RepeatedStep(lambda step_J: (step_J.clone(),), [weight])
    repeated._captures = True
    draws = []

    def step(draw, step_J, j):
        draws.append(draw)
        weight.add_(1.0)

    class Draw(tuple):
        def __new__(cls, *values):
            return tuple.__new__(cls, values)

    repeated._draw = lambda step_J: Draw(step_J.clone())
    capturing.append(RuntimeError("CUDA error: operation failed due to a previous error"))
    with pytest.raises(captured.CaptureFailed, match="previous error") as raised:
        repeated(step, torch.arange(4), 4)
    assert raised.value.restored
    assert torch.equal(weight, torch.ones(3))
    capturing.append(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(torch.OutOfMemoryError):
        repeated(step, torch.arange(4), 4)
    assert torch.equal(weight, torch.ones(3))


def test_a_capture_that_full_memory_breaks_says_so(capturing, monkeypatch):
    """What ends it raises an error of its own."""
    weight = torch.ones(3)
    repeated = captured.RepeatedStep(lambda step_J: (step_J.clone(),), [weight])
    repeated._captures = True

    class Draw(tuple):
        def __new__(cls, *values):
            return tuple.__new__(cls, values)

    @contextlib.contextmanager
    def graph(*arguments, **options):
        try:
            yield
        finally:
            raise RuntimeError("CUDA error: operation failed due to a previous error")

    monkeypatch.setattr(torch.cuda, "graph", graph)
    repeated._draw = lambda step_J: Draw(step_J.clone())
    errors = [torch.OutOfMemoryError("CUDA out of memory"), ValueError("not about memory")]
    for error, full in zip(errors, (True, False), strict=True):
        steps = []

        def step(draw, step_J, j, error=error, steps=steps):
            steps.append(j)
            if len(steps) > 3:  # those before warm up
                raise error

        with pytest.raises(captured.CaptureFailed, match="previous error") as raised:
            repeated(step, torch.arange(4), 4)
        assert raised.value.full == full


def test_where_captures_are_off_steps_run_one_by_one(caplog):
    buffer = types.SimpleNamespace(device=torch.device("cuda"))
    assert captured.RepeatedStep(lambda step_J: (), [buffer])._captures
    fast_paths.adopt({fast_paths.CAPTURE: "RuntimeError: it broke"})
    assert not captured.RepeatedStep(lambda step_J: (), [buffer])._captures
    assert warnings(caplog) == []  # whoever found it out has said so
