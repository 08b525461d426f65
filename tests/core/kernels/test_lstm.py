"""The LSTM's scan as a Triton kernel against its plain twin in float64: on a GPU if there is one,
else in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

from metaphase.core import fast_paths
from metaphase.core.architectures import lstm as architecture
from metaphase.core.architectures.lstm import plain_scan
from metaphase.core.training import proofs
from tests.core.kernels import test_cuda as others

pytest.importorskip("triton")

from metaphase.core.kernels.cuda import common, lstm, lstm_cell
from metaphase.core.kernels.cuda.lstm import Tiles, fused_scan

poison, seeded = others.poison, others.seeded
DEVICE, error = others.DEVICE, others.error
# By a cell's precision: products are float32 where it is bf16. The interpreter knows no tf32. In
# fp32 each time has a kernel of its own, as in wide layers.
TOLERANCE = {"fp32": 2e-6, "tf32": 5e-3, "bf16": 2e-6}
PRECISIONS = ["tf32", "bf16", "fp32"] if DEVICE == "cuda" else ["bf16", "fp32"]


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
        (1, 17, 2, 33, Tiles(units=16)),  # three parts are read back
        (2, 3, 2, 70, None),  # by itself in parts
        (1, 2, 3, 20, Tiles(sequences=32, units=32)),
    ],
)
def test_a_fused_scan_is_its_twin(R, B, L, D, tiles, precision):
    assert lstm.is_whole(D, precision) == (precision != "fp32")
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
@pytest.mark.parametrize("scale", [1e-3, 60.0])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_gates_that_are_shut_or_nearly_still_are_right(precision, scale):
    """Where tanh and sigmoids end, and where tanh is its argument."""
    a, w = layer(1, 16, 2, 4, scale)
    exact = [t.detach().double().requires_grad_() for t in (a, w)]
    grad = torch.ones(1, 16, 2, 4, device=DEVICE)
    expected = others.values_and_gradients(plain_scan, exact, grad)
    ours = others.values_and_gradients(lambda a, w: fused_scan(a, w, precision), [a, w], grad)
    for one, exact_one in zip(ours, expected, strict=True):
        assert (one.double() - exact_one).norm() / exact_one.norm() < 2e-6


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_replica_is_the_same_among_others(precision):
    tensors = layer(2, 17, 2, 6)
    alone = [t[1:2].detach().requires_grad_() for t in tensors]
    y, together = (fused_scan(*t, precision) for t in (alone, tensors))
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
    monkeypatch.setattr(fast_paths, "may_fuse", lambda device: True)
    monkeypatch.setattr(architecture, "precision_on_cuda", lambda: "bf16")
    monkeypatch.setattr(architecture.cpu, "serves", lambda t: False)
    monkeypatch.setattr(fast_paths, "_off", {})
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
    for _ in range(2):
        ours = others.values_and_gradients(architecture.scan, [a, w], torch.ones(1, 2, 2, 3))
        for one, exact in zip(ours, expected, strict=True):
            assert torch.allclose(one, exact, atol=1e-6)
    name = architecture.scan_path(2, 3, "bf16")
    assert name == "fused LSTM L=2 D=3 bf16"
    assert caplog.text.count(f"no {name}, plain PyTorch instead: RuntimeError: PTXAS error") == 1
    assert caplog.text.count("no fused LSTM") == 1


@pytest.mark.parametrize(
    ("capability", "dtype", "served"),
    [
        (80, torch.float32, True),
        (120, torch.bfloat16, True),
        (75, torch.float32, False),
        (90, torch.float64, False),
    ],
)
def test_what_is_served(monkeypatch, capability, dtype, served):
    monkeypatch.setattr(lstm, "limits", lambda device: common.Limits(capability, 65_536))
    assert lstm.supports(torch.zeros(1, 1, 1, 8, dtype=dtype)) == served


def test_wide_layers_have_a_kernel_a_time(monkeypatch):
    assert lstm.is_whole(256, "tf32")
    assert not lstm.is_whole(257, "tf32")
    a, w = layer(1, 1, 2, 257)
    monkeypatch.setattr(lstm, "_forward", None)
    assert error(fused_scan(a, w, "bf16"), plain_scan(a.double(), w.double())) < 2e-6


def test_it_is_compared_on_few_sequences(used):
    """Of two replicas, in the order in which a model has them."""
    asked = []
    with fast_paths.judged_by(asked.append):
        architecture.scan(torch.randn(3, 40, 1, 8), torch.randn(3, 2, 8))
    [path] = asked
    assert path.name == "fused LSTM L=1 D=2 bf16"
    assert proofs._leaves(path.tensors, path.rows)[0].shape == (2, 32, 1, 8)
