import pytest
import torch

from metaphase.core.architectures import ARCHITECTURES, blocks, model
from metaphase.core.architectures.parameters import Spec, buffer_size, initialize, views
from metaphase.core.kernels.attention_shape import AttentionShape
from metaphase.core.training.optimizer import rate_multipliers
from metaphase.core.training.stack import Stack
from tests.conftest import small_cell


def stacked_model(cell, seeds=(0, 1), dtype=torch.float64, device="cpu"):
    specs = model.parameters(cell)
    flat = initialize(specs, torch.tensor(seeds, device=device)).to(dtype)
    flat += 0.1 * torch.randn_like(flat)  # the head starts at 0: move everything off its start
    return {name: v.detach().requires_grad_() for name, v in views(flat, specs).items()}


def examples(cell, R=2, B=3, dtype=torch.float64, device="cpu"):
    x = torch.randn(R, B, cell.sequence_length, cell.input_size, dtype=dtype, device=device)
    y = torch.randint(cell.num_classes, x.shape[:3], device=device)
    return x, y


def compare_with_plain(fast, plain, tensors, tolerance=1e-5):
    """Values and gradients against the plain twin in float64, on fresh random inputs."""
    ours = fast(*tensors)
    grad = torch.randn_like(ours)
    our_gradients = torch.autograd.grad(ours, tensors, grad)
    exact = [t.detach().double().requires_grad_() for t in tensors]
    theirs = plain(*exact)
    their_gradients = torch.autograd.grad(theirs, exact, grad.double())
    for a, b in zip((ours, *our_gradients), (theirs, *their_gradients), strict=True):
        assert ((a - b).norm() / b.norm()).item() < tolerance


def random_tensors(device, *shapes):
    return [
        (torch.randn(shape, device=device) / shape[1] ** 0.5).requires_grad_() for shape in shapes
    ]


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize(
    ("sequence", "stride", "heads", "key_size", "width"),
    [(31, 2, 2, 8, 32), (31, 1, 1, 2, 4), (100, 1, 8, 32, 16), (7, 3, 3, 64, 5)],
)
def test_the_attention_block_is_its_plain_twin(
    device, sequence, stride, heads, key_size, width, rotary
):
    shape = AttentionShape(sequence, heads, key_size, stride, rotary)
    R, B, HK = 3, 4, heads * key_size
    h, *weights = random_tensors(
        device, (R, B * sequence, width), (R, width, HK), (R, width, 2 * HK), (R, HK, width)
    )
    tensors = [(h * 10).detach().requires_grad_(), *weights]
    compare_with_plain(
        lambda *t: blocks.attention(*t, shape),
        lambda *t: blocks.plain_attention(*t, shape),
        tensors,
    )


@pytest.mark.parametrize("stride", [1, 2])
def test_more_sequences_than_one_call_takes(device, stride, monkeypatch):
    shape = AttentionShape(7, 2, 4, stride)
    h, *weights = random_tensors(device, (3, 35, 6), (3, 6, 8), (3, 6, 16), (3, 8, 6))
    whole = blocks.plain_attention(h, *weights, shape)
    monkeypatch.setattr(blocks, "_MOST_SEQUENCES", 4)
    torch.testing.assert_close(blocks.plain_attention(h, *weights, shape), whole)


@pytest.mark.parametrize(("tokens", "width", "hidden"), [(992, 32, 128), (7, 2, 8), (100, 5, 3)])
def test_the_mlp_block_is_its_plain_twin(device, tokens, width, hidden):
    tensors = random_tensors(
        device, (3, tokens, width), (3, width, hidden), (3, 1, hidden), (3, hidden, width)
    )
    compare_with_plain(blocks.mlp, blocks.plain_mlp, tensors)


def test_flat_parameters_are_aligned_views_that_dont_overlap():
    specs = {"a": Spec((3, 5), 1.0), "b": Spec((1,), 0.0), "c": Spec((4, 4), 0.1)}
    flat = torch.zeros(2, buffer_size(specs))
    assert flat.shape[1] % 16 == 0
    for number, view in enumerate(views(flat, specs).values(), start=1):
        assert (view == 0).all()
        view.fill_(number)
    assert flat.sum() == 2 * (15 * 1 + 1 * 2 + 16 * 3)


def test_initial_weights_have_their_deviation_and_follow_from_the_seed():
    specs = {"a": Spec((200, 200), 0.05), "zero": Spec((3,), 0.0), "b": Spec((100, 10), 2.0)}
    flat = initialize(specs, torch.tensor([5, 9, 5]))
    parameters = views(flat, specs)
    assert torch.equal(flat[0], flat[2])
    assert not torch.equal(flat[0], flat[1])
    assert abs(parameters["a"][1].std() / 0.05 - 1) < 0.02
    assert abs(parameters["b"][0].std() / 2.0 - 1) < 0.1
    assert (parameters["zero"] == 0).all()
    assert torch.equal(initialize(specs, torch.tensor([9]))[0], flat[1])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rates_of_maps_from_the_width_go_with_its_inverse(architecture):
    """Yang et al. 2022, table 3, Adam: everything that isn't fed by the width keeps its rate."""
    of_inputs = {"embed_x", "embed_y", "positions"}
    for width, key_size in [(16, 8), (64, 8), (64, None)]:
        cell = small_cell(
            architecture=architecture, model_size=width, key_size=key_size,
            position_encoding="learned",
        )  # fmt: skip
        specs = model.parameters(cell)
        for name, view in views(
            rate_multipliers(specs, 32, torch.device("cpu"))[None], specs
        ).items():
            if name in of_inputs or name.endswith("bias"):
                expected = 1.0
            elif name.endswith(".out"):  # from the heads
                expected = 32 / (cell.num_heads * cell.key_size)
            else:
                expected = 32 / width
            assert (view == expected).all(), name


def test_the_first_step_of_adam_is_the_rate_of_each_weight():
    def moved(**settings):
        stack = Stack([small_cell(warmup_steps=0, **settings)], torch.device("cpu"))
        before = stack.theta_RxP.clone()
        stack.grad_RxP.fill_(0.7)
        stack._update(torch.ones(1), torch.tensor(0))
        specs = model.parameters(stack.cell)
        return views(before - stack.theta_RxP, specs)  # rounded as the weights are

    plain, scaled = moved(model_size=8), moved(model_size=8, mup_base_width=2)
    for name, change in plain.items():
        torch.testing.assert_close(change, torch.full_like(change, 3e-3), rtol=0, atol=1e-6)
        factor = 0.25 if name not in ("embed_x", "embed_y") and "bias" not in name else 1.0
        torch.testing.assert_close(scaled[name], change * factor, rtol=0, atol=1e-6)
    same = moved(model_size=8, mup_base_width=8)
    assert all(torch.equal(same[name], change) for name, change in plain.items())
