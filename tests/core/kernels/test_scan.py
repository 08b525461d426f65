"""An LSTM's steps by Triton kernels beside the plain ones in float64: on a GPU if there is one,
else in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

from metaphase.core import fast_paths
from metaphase.core.architectures import lstm
from metaphase.core.training import proofs
from tests.core.kernels import test_cuda as others

pytest.importorskip("triton")

from metaphase.core.kernels.cuda import scan

poison, seeded = others.poison, others.seeded
DEVICE, error = others.DEVICE, others.error


def made(R=2, D=5, L=4, B=3):
    a = 2 * torch.randn(R, 4 * D, L, B, device=DEVICE)
    w = torch.randn(R, 4 * D, D, device=DEVICE) / D**0.5
    return [a.requires_grad_(), w.requires_grad_()]


def both(function, tensors, grad):
    y = function(*tensors)
    return [y, *torch.autograd.grad(y, tensors, grad.to(y.dtype))]


@pytest.mark.parametrize(("R", "D", "L", "B"), [(1, 1, 1, 1), (2, 5, 4, 3), (1, 30, 2, 20)])
def test_fused_steps_are_their_twin(R, D, L, B):
    tensors = made(R, D, L, B)
    grad = torch.randn(R, L, D, B, device=DEVICE)
    exact = both(lstm._Scan.apply, [t.detach().double().requires_grad_() for t in tensors], grad)
    ours = both(scan.fused_scan, tensors, grad)
    for a, b in zip(ours, exact, strict=True):
        assert error(a, b) < 2e-6
    assert all(torch.equal(a, b) for a, b in zip(ours, both(scan.fused_scan, tensors, grad),
                                                 strict=True))  # fmt: skip


@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_activations_of_any_size_are_saturated():
    a, w = made(1, 2, 2, 2)
    a = (1e3 * a).detach()
    assert error(scan.fused_scan(a, w), lstm._Scan.apply(a.double(), w.double()).detach()) < 2e-6


def test_a_replica_is_the_same_by_itself():
    tensors, grad = made(), torch.randn(2, 4, 5, 3, device=DEVICE)
    together = both(scan.fused_scan, tensors, grad)
    alone = both(scan.fused_scan, [t[1:].detach().requires_grad_() for t in tensors], grad[1:])
    same = torch.equal if DEVICE == "cpu" else torch.allclose
    assert all(same(a[1:], b) for a, b in zip(together, alone, strict=True))


class Failing:
    def __getitem__(self, grid):
        def launch(*args, **kwargs):
            raise RuntimeError("no compiler")

        return launch


@pytest.mark.parametrize("broken", [None, "_cell", "_cell_backward"])
def test_they_run_where_they_are_on_or_leave_their_twin(broken, monkeypatch, caplog):
    monkeypatch.setattr(lstm, "_may_fuse", lambda device: True)
    monkeypatch.setattr(lstm, "precision_on_cuda", lambda: "fp32")
    monkeypatch.setattr(lstm.cpu, "serves", lambda t: False)
    monkeypatch.setattr(fast_paths, "_off", {})
    monkeypatch.setattr(fast_paths, "_proven", set())
    monkeypatch.delenv("METAPHASE_FUSED", raising=False)
    a, w = (t.detach() for t in made())
    a, w = a.permute(0, 3, 2, 1), w.mT  # as `scan` takes them
    tensors = [t.requires_grad_() for t in (a, w)]
    grad = torch.randn(2, 3, 4, 5, device=DEVICE)
    plain = both(lstm.plain_scan, tensors, grad)
    name = "fused LSTM steps D=5 L=4 fp32"
    fast_paths.adopt({name: ""})
    if broken:
        monkeypatch.setattr(scan, broken, Failing())
    for _ in range(2):
        ours = both(lstm.scan, tensors, grad)
        assert all(error(x, y.double()) < 2e-6 for x, y in zip(ours, plain, strict=True))
    assert torch.equal(ours[0], plain[0]) == (broken is not None)  # sums are of another order
    lines = [r.getMessage() for r in caplog.records if r.name == "metaphase.core.fast_paths"]
    assert len(lines) == (broken is not None)
    assert fast_paths.is_on(name) == (broken is None)


def test_they_are_proven_on_a_cells_first_step(monkeypatch):
    """Of each replica 32 sequences at most, in the order in which a model has them."""
    monkeypatch.setattr(lstm, "_may_fuse", lambda device: True)
    monkeypatch.setattr(lstm.cpu, "serves", lambda t: False)
    asked = []
    with fast_paths.judged_by(asked.append):
        lstm.scan(torch.randn(3, 40, 4, 20), torch.randn(3, 5, 20))
    [path] = asked
    few = proofs._leaves(path.tensors, path.rows)
    assert few[0].shape == (2, 32, 4, 20)
    monkeypatch.setattr(proofs, "milliseconds", lambda call, device: 1.0)
    monkeypatch.setattr(scan, "fused_scan", lambda a, w, rescue: lstm._Scan.apply(a, w))
    proof = proofs._compare(path, torch.device("cpu"))
    assert proof.error <= proof.bound
