"""Adam's Triton kernel beside its plain twin: on a GPU if there is one, else in Triton's
interpreter."""

from __future__ import annotations

import pytest
import torch

from metaphase.core import fast_paths
from metaphase.core.training import optimizer

pytest.importorskip("triton")

from metaphase.core.kernels.cuda import adam

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DECAYS = [None, [0.0, 0.1, 0.2, 0.0]]


def buffers(R=4, P=2100):
    generator = torch.Generator().manual_seed(0)
    theta, moment1, grad = torch.randn(3, R, P, generator=generator)
    moment2 = torch.rand(R, P, generator=generator)
    moment2[:, :5] = grad[:, :5] = moment1[:, :5] = 0.0  # padding
    return [t.to(DEVICE) for t in (theta, moment1, moment2, grad)]


def settings(P=2100, step=7, decay=None):
    return {
        "step": torch.tensor(step, device=DEVICE),
        "betas": (0.9, 0.999),
        "rate_R": torch.tensor([1e-3, 1e-2, 1e-3, 1e-3], device=DEVICE),
        "rate_P": torch.linspace(0.5, 2.0, P, device=DEVICE),
        "epsilon_R": torch.tensor([1e-8, 1e-3, 1e-8, 1e-8], device=DEVICE),
        "alive_R": torch.tensor([True, True, False, True], device=DEVICE),
        "decay_R": None if decay is None else torch.tensor(decay, device=DEVICE),
    }


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("step", [0, 5_000])
def test_a_step_is_that_of_the_twin(step, decay):
    ours, twins, start = buffers(), buffers(), buffers()
    more = settings(step=step, decay=decay)
    assert adam.adam(*ours, **more).tolist() == [True] * 4
    optimizer.plain_adam(*twins, **more)
    for a, b in zip(ours, twins, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert torch.equal(ours[0][2], start[0][2])  # which isn't alive; its moments go on
    assert not torch.equal(ours[1][2], start[1][2])


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("number", [torch.inf, -torch.inf, torch.nan])
def test_what_isnt_finite_is_told_of_its_replica(number):
    for column in (0, 2047, 2099):
        for buffer in (0, 1, 2, 3):
            ours = buffers()
            ours[buffer][1, column] = number
            assert adam.adam(*ours, **settings()).tolist() == [True, False, True, True]
        if number != torch.inf:
            break  # the interpreter takes a while


def test_a_replica_is_the_same_by_itself():
    together, alone = buffers(), [t[1:2].clone() for t in buffers()]
    more = settings(decay=DECAYS[1])
    adam.adam(*together, **more)
    own = {name: t[1:2] if name.endswith("_R") else t for name, t in more.items()}
    adam.adam(*alone, **own)
    assert all(torch.equal(a[1:2], b) for a, b in zip(together, alone, strict=True))


@pytest.fixture
def pretended(monkeypatch):
    """As on a GPU, where the CPU has no kernel of its own."""
    monkeypatch.setattr(fast_paths, "may_fuse", lambda device: True)
    monkeypatch.setattr(optimizer.cpu, "serves", lambda t: False)
    monkeypatch.setattr(fast_paths, "_off", {})
    monkeypatch.setattr(fast_paths, "_proven", set())
    monkeypatch.delenv("METAPHASE_FUSED", raising=False)


def test_it_is_used_where_it_is_on(pretended, monkeypatch):
    calls = []
    monkeypatch.setattr(adam, "_adam", Recorder(adam._adam, calls))
    plain = buffers()
    optimizer.adam(*plain, **settings())
    assert not calls
    fast_paths.adopt({"fused Adam decays=0 fp32": ""})
    ours = buffers()
    assert optimizer.adam(*ours, **settings()).tolist() == [True] * 4
    assert calls == [(4 * 2,)]
    torch.testing.assert_close(ours[0], plain[0], rtol=1e-5, atol=1e-6)


def test_who_judges_it_changes_nothing(pretended):
    asked = []
    ours, start = buffers(), buffers()
    with fast_paths.judged_by(lambda path: asked.append((path.name, path.fast(), path.twin()))):
        optimizer.adam(*ours, **settings())
    [(name, fast, twin)] = asked
    assert name == "fused Adam decays=0 fp32"
    torch.testing.assert_close(fast, twin, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(fast, torch.stack(ours[:3]), rtol=1e-5, atol=1e-6)
    assert not torch.equal(ours[0], start[0])


def test_one_that_fails_leaves_its_twin(pretended, monkeypatch, caplog):
    fast_paths.adopt({"fused Adam decays=0 fp32": ""})
    monkeypatch.setattr(adam, "_adam", Recorder(None, []))
    ours, twins = buffers(), buffers()
    for _ in range(2):
        optimizer.adam(*ours, **settings())
        optimizer.plain_adam(*twins, **settings())
    assert all(torch.equal(a, b) for a, b in zip(ours, twins, strict=True))
    [line] = [r.getMessage() for r in caplog.records if r.name == "metaphase.core.fast_paths"]
    assert line == "no fused Adam decays=0 fp32, plain PyTorch instead: RuntimeError: no compiler"


class Recorder:
    def __init__(self, kernel, calls):
        self.kernel, self.calls = kernel, calls

    def __getitem__(self, grid):
        self.calls.append(grid)
        if self.kernel is None:
            return self.fail
        return self.kernel[grid]

    def fail(self, *args, **kwargs):
        raise RuntimeError("no compiler")
