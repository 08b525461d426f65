"""Fast paths are compared with their twins where they run, on a GPU that is pretended."""

import dataclasses

import pytest
import torch

from metaphase.core import fast_paths
from metaphase.core.architectures import blocks, lstm
from metaphase.core.tasks import projected_images, projected_inputs
from metaphase.core.training import captured, cost, optimizer, proofs
from tests.conftest import DEVICES, small_cell

pytest.importorskip("triton")

from metaphase.core.kernels.cuda import adam, attention, layers, mlp, projection
from metaphase.core.kernels.cuda import lstm as scan

pytestmark = pytest.mark.skipif("cuda" in DEVICES, reason="a GPU is pretended")
CELLS = [
    small_cell(model_size=size, batch_size=4, eval_sequences=4, num_layers=1) for size in (4, 6)
]
LSTM = small_cell(model_size=4, batch_size=4, eval_sequences=4, num_layers=1, architecture="lstm")
CPU = torch.device("cpu")
REAL = {
    "fused_attention": attention.fused_attention,
    "fused_mlp": mlp.fused_mlp,
    "fused_layers": layers.fused_layers,
    "fused_read_out": layers.fused_read_out,
    "fused_scan": scan.fused_scan,
    "adam": adam.adam,
    "project": projection.project,
}


@pytest.fixture(autouse=True)
def pretended(monkeypatch):
    """Kernels run as on a GPU, and are always the faster ones. They are their twins, which is what
    they should be; a test may put others in their place."""
    monkeypatch.setattr(fast_paths, "_off", {})
    monkeypatch.setattr(fast_paths, "_proven", set())
    monkeypatch.delenv("METAPHASE_FUSED", raising=False)
    monkeypatch.setattr(fast_paths, "may_fuse", lambda device: True)
    monkeypatch.setattr(projected_inputs, "projection_kernel", lambda device: projection)
    monkeypatch.setattr(attention, "supports", lambda *arguments: True)
    monkeypatch.setattr(mlp, "supports", lambda *arguments: True)
    monkeypatch.setattr(layers, "supports", lambda *arguments: True)
    monkeypatch.setattr(scan, "supports", lambda *arguments: True)
    monkeypatch.setattr(scan, "fused_scan", lambda a, w, *rest, rescue: lstm.plain_scan(a, w))
    monkeypatch.setattr(optimizer.cpu, "serves", lambda t: False)
    fused_attention = lambda *t, twin: blocks.plain_attention(*t[:5])  # noqa: E731
    monkeypatch.setattr(attention, "fused_attention", fused_attention)
    monkeypatch.setattr(mlp, "fused_mlp", lambda *t, twin: blocks.plain_mlp(*t[:4]))

    def fused_layers(h, shapes, weights, precision, twin):
        return blocks.plain_layers(h, shapes, *weights)

    monkeypatch.setattr(layers, "fused_layers", fused_layers)
    read_out = lambda h, weight, *rest, twin: blocks.plain_read_out(h, weight)  # noqa: E731
    monkeypatch.setattr(layers, "fused_read_out", read_out)
    monkeypatch.setattr(adam, "adam", optimizer.plain_adam)

    def project(images, index, task, **settings):
        return torch.zeros(*index.shape, settings["size"])

    monkeypatch.setattr(projection, "project", project)
    times = iter([1.0, 2.0] * 100)
    monkeypatch.setattr(proofs, "milliseconds", lambda call, device: next(times))


def found(monkeypatch, cells=CELLS[:1]):
    return proofs.prove(cells, CPU, "data")


def by_path(findings):
    paths = (*fast_paths.ON_PROOF, fast_paths.PROJECTION, fast_paths.CAPTURE)
    return {path: proof for proof in findings.proofs
            for path in paths if proof.name.startswith(path)}  # fmt: skip


def test_what_is_right_and_faster_is_used(monkeypatch):
    findings = proofs.prove([*CELLS, LSTM], CPU, "data")
    assert not findings.poisoned
    assert findings.error == ""
    names = [proof.name for proof in findings.proofs]
    # Attention, MLPs, layers (MLPs, as attention reads each second token), read-outs, Adam,
    # projections from a table and drawn, the LSTM's layers, captured steps.
    assert len(names) == len(set(names)) == 2 + 2 + 2 + 2 + 1 + 2 + 1 + 1
    for proof in findings.proofs:
        if not proof.name.startswith(fast_paths.PROJECTION):
            assert proof.why == "", proof
            assert proof.error <= proof.bound
            assert fast_paths.is_on(proof.name)
    assert not fast_paths.is_on(blocks.mlp_path(64, 256, "fp32"))


def test_what_is_slower_is_not_used_and_nothing_is_said(monkeypatch, caplog):
    times = iter([2.0, 1.0] * 100)
    monkeypatch.setattr(proofs, "milliseconds", lambda call, device: next(times))
    told = by_path(found(monkeypatch, [*CELLS[:1], LSTM]))
    for path in (*fast_paths.ON_PROOF, "captured steps"):
        assert told[path].why.startswith(fast_paths.SLOWER)
        fast_paths.adopt({told[path].name: told[path].why})
        assert not fast_paths.is_on(told[path].name)
    assert caplog.text == ""


class Wrong(torch.autograd.Function):
    """The identity, but for the result or the gradient."""

    @staticmethod
    def forward(ctx, x, result, gradient):
        ctx.gradient = gradient
        return x * result

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.gradient, None, None


@pytest.mark.parametrize(
    ("result", "gradient"), [(1.2, 1.0), (1.0, 1.2), (torch.nan, 1.0), (1.0, torch.nan)]
)
def test_what_is_wrong_is_not_used(monkeypatch, result, gradient):
    def fused_mlp(*tensors, twin):
        return Wrong.apply(blocks.plain_mlp(*tensors[:4]), result, gradient)

    monkeypatch.setattr(mlp, "fused_mlp", fused_mlp)
    told = by_path(found(monkeypatch))
    assert told["fused MLP"].why.startswith("it is off by ")
    assert told["fused attention"].why == ""
    assert told["fused projections"].why.startswith("it is off by 1.0")  # all zeros
    assert told["captured steps"].why == ""


def test_a_wrong_step_of_adam_is_not_used(monkeypatch):
    def step(theta, *rest, **settings):
        finite = optimizer.plain_adam(theta, *rest, **settings)
        theta.mul_(1.001)
        return finite

    monkeypatch.setattr(adam, "adam", step)
    told = by_path(found(monkeypatch))
    assert told["fused Adam"].why.startswith("it is off by ")
    assert told["fused layers"].why == ""


def test_a_step_of_adam_that_decays_weights_is_a_path_of_its_own(monkeypatch):
    def step(theta, *rest, decay_R, **settings):
        return optimizer.plain_adam(theta, *rest, decay_R=None, **settings)

    monkeypatch.setattr(adam, "adam", step)
    decaying = dataclasses.replace(CELLS[0], weight_decay=0.5, seed=3)
    told = found(monkeypatch, [CELLS[0], decaying]).verdicts
    assert told["fused Adam decays=0 fp32"] == ""
    assert told["fused Adam decays=1 fp32"].startswith("it is off by ")


def plain_project(images, index, task, *, size, seed_G=None, table_UxNxXxX=None, row_G=None, **how):
    """The twin of the kernel, as it would be called."""
    if table_UxNxXxX is None:
        matrices = projected_images.projections(seed_G[:, None], task, size)
    else:
        matrices = table_UxNxXxX[row_G[:, None], task].float()
    return images[index][..., :size] @ matrices.mT


@pytest.mark.parametrize("wrong", ["drawn", "table"])
@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("raises", [False, True])
def test_projections_are_proven_by_where_they_come_from(monkeypatch, wrong, order, raises):
    """Those that are drawn, too, which evaluations on unseen tasks need beside any table."""

    def project(*arguments, **settings):
        x = plain_project(*arguments, **settings)
        if (settings.get("table_UxNxXxX") is None) != (wrong == "drawn"):
            return x
        if raises:
            raise RuntimeError("PTXASError: it can't be built")
        return 3.0 * x

    monkeypatch.setattr(projection, "project", project)
    cells = [dataclasses.replace(CELLS[0], num_tasks=tasks) for tasks in (4, 2**30)]
    told = {name: why for name, why in found(monkeypatch, cells[::order]).verdicts.items()
            if name.startswith(fast_paths.PROJECTION)}  # fmt: skip
    assert len(told) == 2
    for name, why in told.items():
        due = "RuntimeError: PTXASError" if raises else "it is off by 2.0"
        assert why.startswith(due) if f"source={wrong}" in name else why == "", name


def test_a_table_that_has_room_for_one_seed_alone_is_proven(monkeypatch):
    room = 10 * 4 * CELLS[0].input_size ** 2
    monkeypatch.setattr(projected_inputs, "TABLE_BYTES", {"cpu": room, "cuda": room})
    monkeypatch.setattr(cost, "TABLE_BYTES", projected_inputs.TABLE_BYTES)
    monkeypatch.setattr(projection, "project", plain_project)
    told = found(monkeypatch, [dataclasses.replace(CELLS[0], num_tasks=9)]).verdicts
    sources = [name for name in told if name.startswith(fast_paths.PROJECTION)]
    assert [name.split("source=")[1] for name in sources] == ["drawn fp32", "table fp32"]


def test_what_mixes_replicas_is_not_used(monkeypatch):
    def fused_mlp(h, up, *rest, twin):
        return blocks.plain_mlp(h, up[:1].expand_as(up), *rest[:2])

    monkeypatch.setattr(mlp, "fused_mlp", fused_mlp)
    told = by_path(found(monkeypatch))
    assert told["fused MLP"].why.startswith("it is off by ")
    assert told["fused attention"].why == ""


def test_captured_steps_that_are_wrong_of_a_later_replica_are_not_used(monkeypatch):
    real = captured.RepeatedStep.__call__

    def call(self, step, step_J, count):
        real(self, step, step_J, count)
        if self._captures is None:
            self._buffers[0][-1].mul_(1.5)

    monkeypatch.setattr(captured.RepeatedStep, "__init__", wrapped_init)
    monkeypatch.setattr(captured.RepeatedStep, "__call__", call)
    verdicts = found(monkeypatch).verdicts
    assert verdicts[fast_paths.CAPTURE].startswith("they are off by ")


def test_what_fails_beside_a_comparison_is_not_used_elsewhere_either(monkeypatch):
    """A path that was right when it was compared, in its first evaluation."""
    project, calls = plain_project, []

    def failing(*arguments, **settings):
        calls.append(1)
        if len(calls) > 40:
            raise RuntimeError("CUDA error: misaligned address")
        return project(*arguments, **settings)

    monkeypatch.setattr(projection, "project", failing)
    real = proofs._captured_beside
    monkeypatch.setattr(
        proofs, "_captured_beside", lambda *a: (calls.extend([1] * 40), real(*a))[1]
    )
    told = found(monkeypatch)
    off = [name for name, why in told.verdicts.items() if "misaligned" in why]
    assert off
    assert all(name.startswith(fast_paths.PROJECTION) for name in off)
    names = [proof.name for proof in told.proofs]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("where", ["training", "a comparison", "captured steps"])
def test_where_memory_is_short_fewer_replicas_are_tried(monkeypatch, where):
    error, sizes = torch.OutOfMemoryError("CUDA out of memory"), []
    train, fused = proofs.PackTrainer.train, mlp.fused_mlp
    room = {"replicas": proofs.REPLICAS if where == "captured steps" else 2}

    def limited(self, count):
        sizes.append(len(self.cells))
        if where != "a comparison" and len(self.cells) > room["replicas"]:
            raise error
        train(self, count)

    def fused_mlp(h, *rest, twin):
        if where == "a comparison" and len(h) > 2:
            raise error
        return fused(h, *rest, twin=twin)

    def beside(*arguments):
        room["replicas"] = 2
        return captured_beside(*arguments)

    captured_beside = proofs._captured_beside
    monkeypatch.setattr(proofs, "_captured_beside", beside)
    monkeypatch.setattr(proofs.PackTrainer, "train", limited)
    monkeypatch.setattr(mlp, "fused_mlp", fused_mlp)
    monkeypatch.setattr(projection, "project", plain_project)
    findings = found(monkeypatch)
    assert [proof.why for proof in findings.proofs] == [""] * len(findings.proofs)
    assert fast_paths.CAPTURE in findings.verdicts
    assert {8, 4, 2} <= {*sizes}


def test_a_wrong_scan_is_not_used(monkeypatch):
    """Wrong by what it forgets in time, which the first token doesn't show."""

    def fused_scan(a, w, *rest, rescue):
        h = lstm.plain_scan(a, w)
        return torch.cat([h[:, :, :1], 1.1 * h[:, :, 1:]], dim=2)

    monkeypatch.setattr(scan, "fused_scan", fused_scan)
    told = by_path(found(monkeypatch, [LSTM]))
    assert told["fused LSTM"].why.startswith("it is off by ")
    assert told["fused Adam"].why == ""


def test_what_cant_be_built_is_not_used(monkeypatch):
    def failing(*arguments, **settings):
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(projection, "project", failing)
    monkeypatch.setattr(attention, "fused_attention", failing)
    told = by_path(found(monkeypatch))
    assert "Failed to find C compiler" in told["fused attention"].why
    assert "Failed to find C compiler" in told["fused projections"].why
    assert told["fused MLP"].why == ""


@pytest.mark.slow
def test_the_kernels_themselves_are_right(monkeypatch):
    """In Triton's interpreter, which is slow."""
    for module, name in (
        (attention, "fused_attention"),
        (mlp, "fused_mlp"),
        (layers, "fused_layers"),
        (layers, "fused_read_out"),
        (scan, "fused_scan"),
        (adam, "adam"),
        (projection, "project"),
    ):
        monkeypatch.setattr(module, name, REAL[name])
    monkeypatch.setattr(proofs, "STEPS", 1)
    monkeypatch.setattr(proofs, "REPLICAS", 2)
    for proof in found(monkeypatch, [*CELLS[:1], LSTM]).proofs:
        assert proof.why == "", proof


def test_a_capture_that_fails_poisons_the_process(monkeypatch):
    real = captured.RepeatedStep.__call__

    def call(self, step, step_J, count):
        if not hasattr(self, "_first") and count == proofs.STEPS and self._captures is not False:
            raise captured.CaptureFailed(RuntimeError("not permitted"), True)
        real(self, step, step_J, count)

    monkeypatch.setattr(captured.RepeatedStep, "__init__", wrapped_init)
    monkeypatch.setattr(captured.RepeatedStep, "__call__", call)
    findings = found(monkeypatch)
    assert findings.poisoned
    assert findings.verdicts[fast_paths.CAPTURE] == "RuntimeError: not permitted"


_init = captured.RepeatedStep.__init__


def wrapped_init(self, *arguments):
    _init(self, *arguments)
    self._captures = None  # as if there were a GPU, but for what is captured


def test_captured_steps_that_are_wrong_are_not_used(monkeypatch):
    real = captured.RepeatedStep.__call__

    def call(self, step, step_J, count):
        real(self, step, step_J, count)
        if self._captures is None:
            self._buffers[0].mul_(1.5)

    monkeypatch.setattr(captured.RepeatedStep, "__init__", wrapped_init)
    monkeypatch.setattr(captured.RepeatedStep, "__call__", call)
    findings = found(monkeypatch)
    assert findings.verdicts[fast_paths.CAPTURE].startswith("they are off by ")
    assert not findings.poisoned


def test_a_device_that_computes_nothing_is_said(monkeypatch):
    def broken(self, count):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(proofs.PackTrainer, "train", broken)
    findings = found(monkeypatch)
    assert findings.poisoned
    assert "illegal memory access" in findings.error


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), ValueError("no such luck")]
)
def test_a_cell_that_cant_be_trained_is_no_fault_of_the_device(monkeypatch, error):
    """The other shapes' paths are found out all the same."""
    real, tried = proofs.PackTrainer.train, []

    def train(self, count):
        if self.cell.model_size == CELLS[0].model_size:
            tried.append(len(self.cells))
            raise error
        real(self, count)

    others = {proof.name for proof in proofs.prove(CELLS[1:], CPU, "data").proofs}
    monkeypatch.setattr(proofs.PackTrainer, "train", train)
    monkeypatch.setattr(fast_paths, "_off", {})
    monkeypatch.setattr(fast_paths, "_proven", set())
    findings = proofs.prove(CELLS, CPU, "data")
    assert not findings.poisoned
    assert findings.error == ""
    fewer = isinstance(error, torch.OutOfMemoryError)  # its steps aren't captured either
    assert tried == ([8, 4, 2, 1] if fewer else [8])
    assert {proof.name for proof in findings.proofs} == others


def test_off_is_relative():
    assert proofs._off(torch.tensor([1.1, 0.0]), torch.tensor([1.0, 0.0])) == pytest.approx(0.1)
    assert dataclasses.asdict(proofs.Proof("x"))["why"] == ""
