import pytest
import torch

from core import blocks, cost, model, native
from core.architectures import ARCHITECTURES
from core.parameters import Spec, buffer_size, initialize, views
from tests.conftest import small_cell

FORMATS = ["shifted", "interleaved"]
POSITIONS = ["rotary", "learned"]


def stacked_model(cell, seeds=(0, 1), dtype=torch.float64, device="cpu"):
    specs = model.parameters(cell)
    flat = initialize(specs, torch.tensor(seeds, device=device)).to(dtype)
    flat += 0.1 * torch.randn_like(flat)  # the head starts at 0: move everything off its start
    return {name: v.detach().requires_grad_() for name, v in views(flat, specs).items()}


def examples(cell, R=2, B=3, dtype=torch.float64, device="cpu"):
    x = torch.randn(R, B, cell.sequence_length, cell.input_size, dtype=dtype, device=device)
    y = torch.randint(cell.num_classes, x.shape[:3], device=device)
    return x, y


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("token_format", FORMATS)
def test_predictions_depend_on_the_past_only(token_format, positions):
    cell = small_cell(token_format=token_format, position_encoding=positions)
    p, (x, y) = stacked_model(cell), examples(cell)
    before = model.predict(p, x, y, cell)
    for t in range(cell.sequence_length):
        changed_y = y.clone()
        changed_y[:, :, t] = (y[:, :, t] + 1) % cell.num_classes
        after = model.predict(p, x, changed_y, cell)
        assert torch.equal(after[:, :, : t + 1], before[:, :, : t + 1])
        if t + 1 < cell.sequence_length:
            assert (after[:, :, t + 1 :] != before[:, :, t + 1 :]).any(dim=-1).all()
        changed_x = x.clone()
        changed_x[:, :, t] += 1
        after = model.predict(p, changed_x, y, cell)
        assert torch.equal(after[:, :, :t], before[:, :, :t])
        assert (after[:, :, t:] != before[:, :, t:]).any(dim=-1).all()


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("token_format", FORMATS)
def test_replicas_dont_mix(token_format, positions):
    cell = small_cell(token_format=token_format, position_encoding=positions)
    p, (x, y) = stacked_model(cell, seeds=(0, 1, 2)), examples(cell, R=3)
    logits = model.predict(p, x, y, cell)
    logits[1].square().sum().backward()
    for tensor in p.values():
        assert (tensor.grad[[0, 2]] == 0).all()
        assert tensor.grad[1].abs().sum() > 0


def plain_transformer(p, x, y, cell):
    """One replica, one sequence, written as plainly as can be."""
    tokens = []
    for t in range(cell.sequence_length):
        embedded = x[t] @ p["embed_x"]
        if cell.token_format == "shifted":
            tokens.append(embedded + (p["embed_y"][y[t - 1]] if t else 0))
        else:
            tokens += [embedded, embedded + p["embed_y"][y[t]]]
    h = torch.stack(tokens)
    if cell.position_encoding == "learned":
        h = h + p["positions"]

    def norm(h):
        centred = h - h.mean(dim=-1, keepdim=True)
        return centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()

    def rotate(vector, position):
        if cell.position_encoding == "learned":
            return vector
        half = cell.key_size // 2
        pairs = torch.complex(vector[::2], vector[1::2])
        angle = position * 10_000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
        turned = pairs * torch.polar(torch.ones_like(angle), angle)
        return torch.view_as_real(turned).flatten()

    K, HK = cell.key_size, cell.num_heads * cell.key_size
    for i in range(cell.num_layers):
        n = norm(h)
        q, k, v = n @ p[f"{i}.q"], n @ p[f"{i}.kv"][:, :HK], n @ p[f"{i}.kv"][:, HK:]
        mixed = torch.zeros(len(h), HK, dtype=h.dtype)
        for a in range(0, HK, K):
            for s in range(len(h)):
                query = rotate(q[s, a : a + K], s)
                scores = torch.stack([query @ rotate(k[u, a : a + K], u) for u in range(s + 1)])
                mixed[s, a : a + K] = (scores / K**0.5).softmax(0) @ v[: s + 1, a : a + K]
        h = h + mixed @ p[f"{i}.out"]
        h = h + torch.relu(norm(h) @ p[f"{i}.up"] + p[f"{i}.up_bias"]) @ p[f"{i}.down"]
    logits = norm(h) @ p["head"]
    return logits if cell.token_format == "shifted" else logits[::2]


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("token_format", FORMATS)
def test_the_stacked_transformer_is_the_plain_one(token_format, positions):
    cell = small_cell(token_format=token_format, position_encoding=positions, num_classes=3)
    p, (x, y) = stacked_model(cell), examples(cell)
    logits = model.predict(p, x, y, cell)
    for r, b in [(0, 0), (1, 2)]:
        expected = plain_transformer({k: t[r] for k, t in p.items()}, x[r, b], y[r, b], cell)
        torch.testing.assert_close(logits[r, b], expected, rtol=1e-6, atol=1e-6)


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
    shape = blocks.Attention(sequence, heads, key_size, stride, rotary)
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


@pytest.mark.parametrize(("tokens", "width", "hidden"), [(992, 32, 128), (7, 2, 8), (100, 5, 3)])
def test_the_mlp_block_is_its_plain_twin(device, tokens, width, hidden):
    tensors = random_tensors(
        device, (3, tokens, width), (3, width, hidden), (3, 1, hidden), (3, hidden, width)
    )
    compare_with_plain(blocks.mlp, blocks.plain_mlp, tensors)


def test_the_models_gradients_are_right():
    cell = small_cell(sequence_length=3, model_size=4, batch_size=2, num_layers=1)
    p, (x, y) = stacked_model(cell), examples(cell, B=2)
    names = list(p)

    def f(*tensors):
        return model.predict(dict(zip(names, tensors, strict=True)), x, y, cell)

    assert torch.autograd.gradcheck(f, tuple(p.values()))


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


@pytest.mark.parametrize("token_format", FORMATS)
def test_cost_counts_parameters_state_and_operations(token_format, monkeypatch):
    cell = small_cell(token_format=token_format, num_layers=3, position_encoding="learned")
    p = stacked_model(cell, dtype=torch.float32)
    assert cost.num_parameters(cell) == sum(t[0].numel() for t in p.values())
    tokens = cell.sequence_length * (2 if token_format == "interleaved" else 1)
    architecture = ARCHITECTURES[cell.architecture]
    assert architecture.state_size(cell) == 3 * tokens * 2 * cell.num_heads * cell.key_size

    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    monkeypatch.setattr(native, "library", lambda: None)  # it can't see into our kernels

    x, y = examples(cell, R=1, B=cell.batch_size, dtype=torch.float32)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        one = {name: t[:1].detach().requires_grad_() for name, t in p.items()}
        model.predict(one, x, y, cell).sum().backward()
    projection = 2 * cell.batch_size * cell.sequence_length * cell.input_size**2
    counted = counter.get_total_flops() + projection
    assert abs(cost.flops_per_step(cell) / counted - 1) < 0.15
    assert cost.replica_bytes(cell) > 20 * cost.num_parameters(cell)
