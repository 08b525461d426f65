"""What a GPU captures, looked at without one: PyTorch's fake tensors have a device, shapes and
types and no numbers, so whatever reads a number back to the host, or mixes devices, is an error."""

import contextlib
import copy

import pytest
import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeTensor,
    FakeTensorMode,
)

from metaphase.core import rng
from metaphase.core.architectures import ARCHITECTURES, blocks
from metaphase.core.architectures import outer_product_memory as memory
from metaphase.core.kernels import attention_shape
from metaphase.core.kernels.operations import cross_entropy
from metaphase.core.training.trainer import PackTrainer
from tests.conftest import small_cell


def on_a_pretended_gpu(value, mode, seen=None):
    """`value` with all tensors in it, however deep, replaced by fake ones on CUDA, or, if mode is
    None, by ones on `meta`."""
    seen = {} if seen is None else seen
    if id(value) in seen:
        return seen[id(value)]
    device = "cuda" if mode else "meta"
    if isinstance(value, torch.Tensor):
        with mode or contextlib.nullcontext():
            fake = torch.empty_strided(
                value.shape, value.stride(), dtype=value.dtype, device=device
            ).requires_grad_(value.requires_grad)
        seen[id(value)] = fake
        return fake
    if isinstance(value, dict):
        return {key: on_a_pretended_gpu(item, mode, seen) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(on_a_pretended_gpu(item, mode, seen) for item in value))
    if isinstance(value, (list, tuple)):
        return type(value)(on_a_pretended_gpu(item, mode, seen) for item in value)
    if isinstance(value, torch.device):
        return torch.device(device)
    if (
        type(value).__module__.startswith("metaphase.core.")
        and type(value).__module__ != "metaphase.core.cell"
    ):
        twin = seen[id(value)] = copy.copy(value)
        for name, item in vars(value).items():
            object.__setattr__(twin, name, on_a_pretended_gpu(item, mode, seen))
        return twin
    return value


@pytest.fixture(autouse=True)
def no_masks_of_other_modes():
    """Masks and rotations are cached by device."""
    cached = (blocks._mask_QxL, attention_shape.rotation_table, memory._mask_QxL)
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


def pack():
    """All architectures, token formats and positions; tasks from a table and drawn; some cells that
    share sequences, and some that keep labels."""
    models = [
        *({"architecture": name} for name in ARCHITECTURES),
        {"token_format": "shifted", "position_encoding": "learned"},
    ]
    streams = [{"num_tasks": 4}, {"num_tasks": 2**30}, {"num_tasks": 4, "identity_share": 0.5}]
    cells = [small_cell(**model, **stream) for stream in streams for model in models]
    return [*cells[:-2], small_cell(num_tasks=4, learning_rate=1e-2)]


@pytest.fixture
def mode():
    """PyTorch before 2.11 asks a GPU that is pretended for its properties."""
    version = tuple(map(int, torch.__version__.split(".")[:2]))
    if version < (2, 11) and not torch.cuda.is_available():
        pytest.skip(f"PyTorch {torch.__version__} can't pretend to have a GPU")
    return FakeTensorMode()


def test_a_step_before_its_gradient_reads_nothing_back_and_stays_on_the_gpu(mode):
    pretended = on_a_pretended_gpu(PackTrainer(pack()), mode)
    steps, k = (on_a_pretended_gpu(t, mode) for t in (torch.arange(32), torch.arange(1)))
    with mode, torch.no_grad():
        draw = pretended.sampler.draw_training(steps)
        batch = pretended.sampler.training_batch(draw, k)
        for stack, row_R in zip(pretended.stacks, pretended._rows, strict=True):
            seen = batch.replicas(row_R)
            loss_RxBxT = cross_entropy(stack.predict(seen), seen.y_RxBxT)
            stack._update(loss_RxBxT.mean(dim=(1, 2)), steps.index_select(0, k)[0])
            for t in (seen.x_RxBxTxX, loss_RxBxT, *stack.buffers()):
                assert isinstance(t, FakeTensor)
                assert t.device.type == "cuda"


def test_a_whole_step_reads_nothing_back(monkeypatch):
    """With gradients, which need a device that is there or none at all: `meta`."""
    trainer = PackTrainer(pack())
    monkeypatch.setitem(rng._AT_ONCE, "meta", rng._AT_ONCE["cuda"])
    monkeypatch.setattr(torch, "autocast", lambda *args, **options: contextlib.nullcontext())
    pretended = on_a_pretended_gpu(trainer, None)
    before = [buffer._version for stack in pretended.stacks for buffer in stack.buffers()]
    steps = torch.arange(32, device="meta")
    draw = pretended.sampler.draw_training(steps)
    pretended._train_step(draw, steps, steps[:1])
    buffers = [buffer for stack in pretended.stacks for buffer in stack.buffers()]
    assert len(buffers) == 6 * len(trainer.stacks)
    for buffer, version in zip(buffers, before, strict=True):
        assert buffer.is_meta
        assert buffer._version > version


def test_reading_back_would_be_seen(mode):
    t = on_a_pretended_gpu(torch.ones(3), mode)
    with mode, pytest.raises(DataDependentOutputException):
        float(t.sum())
    with mode, pytest.raises(RuntimeError, match="device"):
        t + torch.ones(3)
    with pytest.raises(RuntimeError, match="meta"):
        torch.ones(3, device="meta").sum().item()
