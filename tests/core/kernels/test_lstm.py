"""The LSTM's scan as a Triton kernel against its plain twin in float64: on a GPU if there is one,
else in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

from metaphase.core import fast_paths
from metaphase.core.architectures import lstm as architecture
from metaphase.core.architectures.lstm import plain_scan
from tests.core.kernels import test_cuda as others

pytest.importorskip("triton")

from metaphase.core.kernels.cuda import common, lstm, lstm_cell
from metaphase.core.kernels.cuda.lstm import Tiles, fused_scan

poison, seeded = others.poison, others.seeded
DEVICE, error = others.DEVICE, others.error
# By a cell's precision: products are float32 where it is bf16. The interpreter knows no tf32.
TOLERANCE = {"fp32": 2e-6, "tf32": 5e-3, "bf16": 2e-6}
WIDE = "a kernel a time"
PRECISIONS = ["tf32", "bf16"] if DEVICE == "cuda" else ["fp32"]


def layer(R, B, L, D, scale=1.0):
    a = (scale * torch.randn(R, B, L, 4 * D, device=DEVICE)).requires_grad_()
    return [a, *others.replicas((R, D, 4 * D))]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("R", "B", "L", "D", "tiles"),
    [
        (1, 1, 1, 1, None),
        (2, 19, 2, 5, None),
        (1, 16, 2, 16, None),
        (1, 17, 2, 33, Tiles(units=16)),  # read back in three parts
        (2, 3, 2, 70, None),  # by itself in parts
        (1, 2, 3, 20, Tiles(sequences=32, units=32)),
        (1, 1, 1, 1, WIDE),
        (2, 5, 4, 70, WIDE),
    ],
)
def test_a_fused_scan_is_its_twin(R, B, L, D, tiles, precision, monkeypatch):
    if tiles is WIDE:
        tiles = None
        monkeypatch.setattr(lstm, "MAX_WIDTH", 0)
    tensors = layer(R, B, L, D)
    exact = [t.detach().double().requires_grad_() for t in tensors]
    grad = torch.randn(R, B, L, D, device=DEVICE)
    expected = others.values_and_gradients(plain_scan, exact, grad)
    fused = lambda a, w: fused_scan(a, w, precision, tiles)  # noqa: E731
    ours = others.values_and_gradients(fused, tensors, grad)
    for a, b in zip(ours, expected, strict=True):
        assert a.dtype == torch.float32
        assert error(a, b) < TOLERANCE[precision]


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")  # of exp, in the interpreter
def test_gates_that_are_shut_or_nearly_still_are_right():
    """Where tanh and sigmoids end, and where tanh is its argument."""
    for scale in (1e-3, 60.0):
        a, w = layer(1, 16, 2, 4, scale)
        exact = [t.detach().double().requires_grad_() for t in (a, w)]
        grad = torch.ones(1, 16, 2, 4, device=DEVICE)
        expected = others.values_and_gradients(plain_scan, exact, grad)
        ours = others.values_and_gradients(lambda a, w: fused_scan(a, w, "bf16"), [a, w], grad)
        for ours_one, exact_one in zip(ours, expected, strict=True):
            off = (ours_one.double() - exact_one).norm() / exact_one.norm()
            assert off < 2e-6, (scale, off)


@pytest.mark.parametrize("max_width", [256, 0])
def test_a_replica_is_the_same_among_others(max_width, monkeypatch):
    monkeypatch.setattr(lstm, "MAX_WIDTH", max_width)
    tensors = layer(2, 17, 2, 6)
    alone = [t[1:2].detach().requires_grad_() for t in tensors]
    y, together = (fused_scan(*t, "bf16") for t in (alone, tensors))
    # cuBLAS may choose another kernel for a product.
    same = torch.equal if DEVICE == "cpu" else torch.allclose
    assert same(y[0], together[1])
    ours = torch.autograd.grad(y.square().sum(), alone)
    theirs = torch.autograd.grad(together[1].square().sum(), tensors)
    for one, both in zip(ours, theirs, strict=True):
        assert same(one[0], both[1])


@pytest.fixture
def used(monkeypatch):
    """The scan runs on proof or where it is asked for, as on a GPU."""
    monkeypatch.setattr(architecture, "_may_fuse", lambda device: True)
    monkeypatch.setattr(architecture, "precision_on_cuda", lambda: "bf16")
    monkeypatch.setattr(fast_paths, "_off", {})
    monkeypatch.setattr(fast_paths, "_failed", set())
    monkeypatch.setenv("METAPHASE_FUSED", "1")


def test_a_layer_runs_the_kernel_where_it_is_switched_on(used, monkeypatch):
    a, w = layer(1, 2, 2, 3)
    assert torch.equal(architecture.scan(a, w), fused_scan(a, w, "bf16"))
    monkeypatch.setenv("METAPHASE_FUSED", "0")
    with monkeypatch.context() as context:
        context.setattr(lstm, "fused_scan", None)
        architecture.scan(a, w)
    assert fast_paths.said() == ""


@pytest.mark.parametrize("way", ["_forward", "_backward", "_step", "_step_backward"])
def test_a_kernel_that_fails_leaves_its_twin(used, monkeypatch, caplog, way):
    wide = way.startswith("_step")
    if wide:
        monkeypatch.setattr(lstm, "MAX_WIDTH", 0)
    a, w = layer(1, 2, 2, 3)
    expected = others.values_and_gradients(plain_scan, [a, w], torch.ones(1, 2, 2, 3))

    class Failing:
        def __getitem__(self, grid):
            raise RuntimeError("PTXAS error")

    monkeypatch.setattr(lstm_cell if wide else lstm, way, Failing())
    monkeypatch.setattr(architecture.cpu, "serves", lambda t: False)
    for _ in range(2):
        ours = others.values_and_gradients(architecture.scan, [a, w], torch.ones(1, 2, 2, 3))
        for one, exact in zip(ours, expected, strict=True):
            assert torch.allclose(one, exact, atol=1e-6)
    name = architecture.scan_path(2, 3, "bf16")
    assert name == "fused LSTM L=2 D=3 bf16"
    assert caplog.text.count(f"no {name}, plain PyTorch instead: RuntimeError: PTXAS error") == 1
    assert caplog.text.count("no fused LSTM") == 1


@pytest.mark.parametrize(
    ("capability", "width", "precision", "served"),
    [
        (80, 2048, "tf32", True),
        (120, 8, "bf16", True),
        (75, 8, "bf16", False),
        (90, 8, "fp32", False),
    ],
)
def test_what_is_served(monkeypatch, capability, width, precision, served):
    monkeypatch.setattr(lstm, "limits", lambda device: common.Limits(capability, 65_536))
    assert lstm.supports(torch.zeros(1, 1, 1, 4 * width), precision) == served
