"""What every architecture promises; whatever is in the registry is tested."""

import dataclasses

import pytest
import torch

from metaphase.core.architectures import ARCHITECTURES, Layers, lstm, memory, model
from metaphase.core.cell import UNUSED
from metaphase.core.datasets.images import load_images
from metaphase.core.kernels import cpu
from metaphase.core.tasks.sampler import Sampler
from metaphase.core.training import cost
from metaphase.core.training.stack import Stack
from tests.conftest import small_cell
from tests.core.architectures.test_model import examples, stacked_model
from tests.tools.decoding import decode

FORMATS = ["shifted", "interleaved"]
VARIANTS = [
    *({"architecture": name} for name in ARCHITECTURES),
    {"architecture": "transformer", "position_encoding": "learned"},
    {"architecture": "transformer", "position_encoding": "none"},
]


def changed(after, before):
    """At which positions predictions changed, in all sequences: T booleans."""
    differ_RxBxT = (after != before).any(dim=-1)
    everywhere_T = differ_RxBxT.all(dim=1).all(dim=0)
    assert torch.equal(everywhere_T, differ_RxBxT.any(dim=1).any(dim=0))
    return everywhere_T.tolist()


@pytest.mark.parametrize("token_format", FORMATS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_predictions_depend_on_the_past_only(variant, token_format):
    cell = small_cell(token_format=token_format, **variant)
    context = ARCHITECTURES[cell.architecture].has_context
    p, (x, y), T = stacked_model(cell), examples(cell), cell.sequence_length
    before = model.predict(p, x, y, cell)
    for t in range(T):
        changed_y = y.clone()
        changed_y[:, :, t] = (y[:, :, t] + 1) % cell.num_classes
        after = model.predict(p, x, changed_y, cell)
        assert changed(after, before) == [context and s > t for s in range(T)]
        changed_x = x.clone()
        changed_x[:, :, t] += 1
        after = model.predict(p, changed_x, y, cell)
        assert changed(after, before) == [s == t or (context and s > t) for s in range(T)]


@pytest.mark.parametrize("token_format", FORMATS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_replicas_dont_mix(variant, token_format):
    cell = small_cell(token_format=token_format, **variant)
    p, (x, y) = stacked_model(cell, seeds=(0, 1, 2)), examples(cell, R=3)
    logits = model.predict(p, x, y, cell)
    logits[1].square().sum().backward()
    for tensor in p.values():
        assert (tensor.grad[[0, 2]] == 0).all()
        assert tensor.grad[1].abs().sum() > 0


@pytest.mark.parametrize("token_format", FORMATS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_stacked_model_is_the_plain_one_and_carries_what_state_size_counts(
    variant, token_format
):
    cell = small_cell(token_format=token_format, num_classes=3, **variant)
    p, (x, y) = stacked_model(cell), examples(cell)
    logits = model.predict(p, x, y, cell)
    for r, b in [(0, 0), (1, 2)]:
        expected, state = decode({k: t[r] for k, t in p.items()}, x[r, b], y[r, b], cell)
        torch.testing.assert_close(logits[r, b], expected, rtol=1e-6, atol=1e-6)
        carried = sum(t.numel() for t in state.values())
        assert carried == ARCHITECTURES[cell.architecture].layers.state_size(cell)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_models_gradients_are_right(architecture):
    cell = small_cell(
        architecture=architecture, sequence_length=3, model_size=4, batch_size=2, num_layers=1
    )
    p, (x, y) = stacked_model(cell), examples(cell, B=2)
    names = list(p)

    def f(*tensors):
        return model.predict(dict(zip(names, tensors, strict=True)), x, y, cell)

    assert torch.autograd.gradcheck(f, tuple(p.values()), fast_mode=True)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_float32_is_as_good_as_it_can_be_on_long_sequences(device, architecture):
    """Values and gradients against float64, 180 tokens, weights away from their start."""
    cell = small_cell(architecture=architecture, sequence_length=90, model_size=16)
    exact = stacked_model(cell, device=device)
    x, y = examples(cell, device=device)
    results = []
    for dtype in (torch.float64, torch.float32):
        p = {name: t.detach().to(dtype).requires_grad_() for name, t in exact.items()}
        logits = model.predict(p, x.to(dtype), y, cell)
        assert logits.dtype == dtype
        gradients = torch.autograd.grad(logits.square().sum(), list(p.values()))
        results.append([logits, *gradients])
    for ours, theirs in zip(results[1], results[0], strict=True):
        assert ((ours - theirs).norm() / theirs.norm()).item() < 1e-4


@pytest.mark.parametrize("token_format", FORMATS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_cost_counts_parameters_and_operations(architecture, token_format, monkeypatch):
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    cell = small_cell(architecture=architecture, token_format=token_format, num_layers=3)
    p = stacked_model(cell, dtype=torch.float32)
    assert cost.num_parameters(cell) == sum(t[0].numel() for t in p.values())
    monkeypatch.setattr(cpu, "library", lambda: None)  # it can't see into our kernels
    x, y = examples(cell, R=1, B=cell.batch_size, dtype=torch.float32)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        one = {name: t[:1].detach().requires_grad_() for name, t in p.items()}
        model.predict(one, x, y, cell).sum().backward()
    projection = 2 * cell.batch_size * cell.sequence_length * cell.input_size**2
    counted = counter.get_total_flops() + projection
    assert abs(cost.flops_per_step(cell) / counted - 1) < 0.15
    assert cost.pack_bytes([cell], "cpu") > 20 * cost.num_parameters(cell)


def test_the_lstm_is_torchs_lstm(device):
    cell = small_cell(architecture="lstm", num_layers=3)
    D = cell.model_size
    p = stacked_model(cell, device=device)
    tokens = torch.randn(2, 5, 11, D, device=device, dtype=torch.float64)
    ours = ARCHITECTURES["lstm"].layers.apply(p, tokens, cell, 1)
    order = torch.cat([torch.arange(D) + D * gate for gate in (1, 2, 3, 0)])  # i, f, g, o
    for r in range(2):
        theirs = torch.nn.LSTM(D, D, cell.num_layers, batch_first=True, device=device).double()
        with torch.no_grad():
            for i in range(cell.num_layers):
                getattr(theirs, f"weight_ih_l{i}").copy_(p[f"{i}.input"][r].T[order])
                getattr(theirs, f"weight_hh_l{i}").copy_(p[f"{i}.hidden"][r].T[order])
                bias = p[f"{i}.bias"][r, 0].clone()
                bias[2 * D : 3 * D] += lstm.FORGET_BIAS
                getattr(theirs, f"bias_ih_l{i}").copy_(bias[order])
                getattr(theirs, f"bias_hh_l{i}").zero_()
        torch.testing.assert_close(ours[r], theirs(tokens[r])[0], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_memory_that_forgets_at_once_stays_finite(stride):
    """Products of gates as small as e^-80 a token, over 200 tokens."""
    generator = torch.Generator().manual_seed(0)
    k, v = torch.randn(2, 1, 1, 200, 4, generator=generator)
    log_f = torch.full((1, 1, 200), -80.0).requires_grad_()
    log_w = torch.zeros(1, 1, 200)
    read = memory.read_out(k[:, :, ::stride], k, v, log_f, log_w, stride)
    expected = (k.square().sum(-1, keepdim=True) * v)[:, :, ::stride]  # only what is just written
    torch.testing.assert_close(read, expected)
    read.sum().backward()
    assert log_f.grad.isfinite().all()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_module_has_what_its_facts_promise(name):
    layers = ARCHITECTURES[name].layers
    assert layers.__name__.endswith(f".architectures.{name}")
    functions = [key for key in vars(Layers) if not key.startswith("_")]
    assert len(functions) == 5
    assert all(callable(getattr(layers, key)) for key in functions)
    base = small_cell(architecture=name, num_heads=2, key_size=4)
    for key in UNUSED:  # a setting shapes the parameters of those that use it, and of no others
        other = {"position_encoding": "learned"}.get(key) or getattr(base, key) * 2 or 2
        changed = dataclasses.replace(base, **{key: other})
        shaped = layers.parameters(changed) != layers.parameters(base)
        assert shaped == (key in ARCHITECTURES[name].settings), key


SMALLEST = [  # the smallest sizes of which a layer norm leaves a real number
    {"architecture": "transformer", "key_size": 1, "num_heads": 1},
    {"architecture": "transformer", "key_size": 1, "num_heads": 3},
    {"architecture": "transformer", "key_size": 2, "num_heads": 1, "position_encoding": "rotary"},
    {"architecture": "lstm"},
    {"architecture": "fast_weights", "key_size": 3, "num_heads": 1},
    {"architecture": "linear_attention", "key_size": 3, "num_heads": 1},
]


def trained(steps=30, **settings):
    """Three cells of few parts, and their weights before."""
    plain = {"position_encoding": "none", "num_layers": 1, "mlp_ratio": 1, "batch_size": 16}
    stack = Stack([small_cell(**plain | settings, seed=s) for s in range(3)], torch.device("cpu"))
    sampler = Sampler(stack.cells, load_images(stack.cell, "data", "cpu"))
    before = {name: t.detach().clone() for name, t in stack.parameters.items()}
    draw = sampler.draw_training(torch.arange(steps))
    for step in torch.arange(steps):
        stack.train(sampler.training_batch(draw, step[None]), step)
    return stack, before


def last_predictions(stack):
    """Logits of 64 sequences' last inputs, all labels before shifted by 0, 1, 2 ..."""
    torch.manual_seed(0)
    p = {name: t.detach().double() for name, t in stack.parameters.items()}
    x, y = examples(stack.cell, R=3, B=64)
    last = []
    for shift in range(stack.cell.num_classes):
        labels = y.clone()
        labels[:, :, :-1] = (labels[:, :, :-1] + shift) % stack.cell.num_classes
        last.append(model.predict(p, x, labels, stack.cell)[:, :, -1])
    return torch.stack(last)


@pytest.mark.parametrize("token_format", FORMATS)
@pytest.mark.parametrize("variant", SMALLEST)
def test_the_smallest_models_remember_and_learn(variant, token_format):
    """Earlier labels move the last prediction, by real amounts; training moves every weight."""
    stack, before = trained(**variant, token_format=token_format, model_size=3)
    for name, start in before.items():
        assert ((stack.parameters[name] - start).abs() > 1e-5).double().mean() > 0.9, name
    last_SxRxBxC = last_predictions(stack)
    moved_RxB = (last_SxRxBxC - last_SxRxBxC[0]).abs().amax(dim=(0, 3))
    assert (moved_RxB > 1e-3 * last_SxRxBxC.abs().mean()).double().mean() > 0.9
    assert len(last_SxRxBxC[..., 0].round(decimals=5).unique()) > 100


@pytest.mark.parametrize("variant", SMALLEST)
def test_a_model_of_width_two_predicts_one_of_two_things(variant):
    """A norm of two numbers passes on which is the larger. Earlier labels can turn that."""
    stack, _ = trained(**variant, model_size=2)
    last_SxRxBxC = last_predictions(stack)
    signs = last_SxRxBxC[..., 0].sign()
    assert (
        last_SxRxBxC[..., 0].abs().std(dim=(0, 2))
        < 0.2 * last_SxRxBxC[..., 0].abs().mean(dim=(0, 2))
    ).all()
    assert (signs != signs[0]).any()


@pytest.mark.parametrize("architecture", ["fast_weights", "linear_attention"])
def test_a_memory_of_one_number_would_be_dead(architecture, monkeypatch):
    """Why `core.cell` refuses it: no gradient reaches what makes and reads it."""
    any_size = dataclasses.replace(ARCHITECTURES[architecture], least_key_size=1)
    monkeypatch.setitem(ARCHITECTURES, architecture, any_size)
    for key_size in (1, 3):
        cell = small_cell(architecture=architecture, key_size=key_size, num_layers=1)
        p, (x, y) = stacked_model(cell), examples(cell)
        logits = model.predict(p, x, y, cell)
        [gradient] = torch.autograd.grad(logits.square().sum(), [p["0.q"]])
        assert (gradient.norm() == 0) == (key_size == 1)
