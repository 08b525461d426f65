"""Blocks as one function, with Triton kernels between the products, against their plain twins in
float64: on a GPU if there is one, else in Triton's interpreter."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from metaphase.core import fast_paths
from metaphase.core.architectures import blocks
from metaphase.core.kernels.attention_shape import AttentionShape
from metaphase.core.training import optimizer
from metaphase.core.training.trainer import PackTrainer
from tests.conftest import small_cell
from tests.core.kernels import test_cuda as others

pytest.importorskip("triton")

from metaphase.core.kernels.cuda import adam, attention, layers, mixing, mlp, rows

poison, seeded = others.poison, others.seeded
DEVICE, TOLERANCE, error = others.DEVICE, others.TOLERANCE, others.error
# Exact float32 has no matrix units, so on a GPU products are tf32 or bf16.
PRECISIONS = ["tf32", "bf16"] if DEVICE == "cuda" else ["fp32", "bf16"]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_units_that_are_no_numbers_are_what_pytorch_makes_of_them(value, precision):
    """A model that diverges is to be seen: NaN isn't cut to 0."""
    units = torch.tensor([[[value, 1.0, -1.0]]], device=DEVICE)
    units = units.to(torch.bfloat16 if precision == "bf16" else torch.float32)
    hidden = rows.activate(units, torch.zeros(1, 1, 3, device=DEVICE))
    torch.testing.assert_close(hidden, torch.relu(units), equal_nan=True)
    grad = torch.full_like(units, 2.0)
    d_units, d_bias = rows.activate_backward(grad, hidden)
    due = torch.where(units <= 0, 0.0, grad)
    assert torch.equal(d_units, due)
    assert torch.equal(d_bias, due.float())
    # Of two replicas one whose bias is no number.
    h, up, down = (torch.ones(2, *shape, device=DEVICE) for shape in ((5, 4), (4, 3), (3, 4)))
    h, up = h * torch.arange(4, device=DEVICE), up * torch.arange(3, device=DEVICE)
    bias = torch.zeros(2, 1, 3, device=DEVICE)
    bias[1, 0, 2] = value
    leaves = [t.requires_grad_() for t in (h, up, bias, down)]

    def finite(y):
        told = [y, *torch.autograd.grad(y.sum(), leaves)]
        return [(t[0].isfinite().all().item(), t[1].isfinite().all().item()) for t in told]

    assert finite(mlp.fused_mlp(*leaves, precision)) == finite(blocks.plain_mlp(*leaves))


def weights_of(shape, R, D, M):
    if shape is None:
        return others.replicas((R, D, M), (R, 1, M), (R, M, D))
    HK = shape.heads * shape.key_size
    return others.replicas((R, D, HK), (R, D, 2 * HK), (R, HK, D))


# Of kinds, L, H, K, D, M, R, B, and whether keys are rotated.
LAYERS = [
    ("AMA", 9, 2, 4, 12, 40, 1, 1, False),
    ("MM", 40, 0, 0, 33, 70, 1, 1, False),
    ("A", 70, 1, 8, 20, 40, 1, 1, True),
    ("A", 1, 1, 2, 5, 0, 1, 1, False),
]


@pytest.mark.parametrize(
    ("kinds", "L", "H", "K", "D", "M", "R", "B", "rotary", "precision"),
    [
        pytest.param(
            kinds, *sizes, precision, marks=pytest.mark.slow if kinds == "AMA" and i == 0 else ()
        )
        for kinds, *sizes in LAYERS
        for i, precision in enumerate(PRECISIONS)
    ],
)
def test_fused_layers_are_their_twin(kinds, L, H, K, D, M, R, B, rotary, precision):
    """A ReLU that rounding opens or shuts shows in few tokens: units are kept away from 0."""
    shapes = [AttentionShape(L, H, K, 1, rotary) if kind == "A" else None for kind in kinds]
    h = (3 * torch.randn(R, B * L, D, device=DEVICE)).requires_grad_()
    weights = [w for shape in shapes for w in weights_of(shape, R, D, M)]
    if precision == "bf16":
        for shape, bias in zip(shapes, weights[1::3], strict=True):
            if shape is None:
                bias.data.sign_().mul_(5.0)
    others.compare(
        lambda h, *weights: layers.fused_layers(h, shapes, weights, precision),
        lambda h, *weights: blocks.plain_layers(h, shapes, *weights),
        [h, *weights],
        precision,
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_fused_read_out_is_its_twin(precision):
    h, weight = others.replicas((2, 30, 12), (2, 12, 7))

    def fused(h, weight):
        y = layers.fused_read_out(h, weight, precision)
        assert y.dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)
        return y.float()

    others.compare(fused, blocks.plain_read_out, [h, weight], precision)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_replicas_are_the_same_among_others(precision):
    shapes = [AttentionShape(20, 1, 8), None]
    R, D, M = 2, 16, 32
    h = torch.randn(R, 2 * 20, D, device=DEVICE, requires_grad=True)
    weights = [w for shape in shapes for w in weights_of(shape, R, D, M)]
    together = layers.fused_layers(h, shapes, weights, precision)
    alone = [t[1:2].detach().requires_grad_() for t in (h, *weights)]
    y = layers.fused_layers(alone[0], shapes, alone[1:], precision)
    same = torch.equal if DEVICE == "cpu" else torch.allclose  # cuBLAS may choose another kernel
    assert same(y[0], together[1])
    theirs = torch.autograd.grad(together[1].square().sum(), [h, *weights])
    ours = torch.autograd.grad(y.square().sum(), alone)
    assert all(same(a[0], b[1]) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("N", "D"), [(1, 1), (9, 5), (300, 64), (3, 1000)])
def test_norms_are_their_twin(N, D, dtype):
    h, delta, grad, d_sums = torch.randn(4, 1, N, D, device=DEVICE)
    delta, grad = delta.to(dtype), grad.to(dtype)
    exact = (h.double() + delta.double()).requires_grad_()
    expected = blocks.plain_layer_norm(exact)
    sums, normed, inverse = rows.norm(h, delta, dtype)
    assert normed.dtype == dtype
    bound = 1e-6 if dtype == torch.float32 else 4e-3  # half of bf16's last bit is 2e-3
    assert error(sums, exact.detach()) < 1e-6
    assert error(normed, expected.detach()) < bound
    same, other, _ = rows.norm(h, None, dtype)
    assert same is h
    assert error(other, blocks.plain_layer_norm(h.double())) < bound
    [d_exact] = torch.autograd.grad(expected, exact, grad.double())
    for residual, operand in ((None, False), (d_sums, True)):
        d_h, d_operand = rows.norm_backward(grad, normed, inverse, residual, operand)
        total = d_exact if residual is None else d_exact + residual.double()
        assert error(d_h, total) < max(bound, 2e-5 if D > 1 else bound)
        assert d_h.dtype == torch.float32
        assert (d_operand is d_h) == (not operand or dtype == torch.float32)
        assert torch.equal(d_operand, d_h.to(d_operand.dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("R", "N", "M", "programs"), [(1, 1, 1, 64), (2, 150, 130, 2)])
def test_units_are_their_twin(R, N, M, programs, dtype, monkeypatch):
    monkeypatch.setattr(rows, "_PROGRAMS", programs)
    [bias] = others.replicas((R, 1, M))
    units = torch.randn(R, N, M, device=DEVICE).to(dtype)
    hidden = rows.activate(units, bias.detach())
    assert torch.equal(hidden, F.relu(units.float() + bias).to(dtype))
    grad = torch.randn(R, N, M, device=DEVICE).to(dtype)
    d_units, d_bias = rows.activate_backward(grad, hidden)
    expected = torch.where(hidden > 0, grad, 0.0)
    assert torch.equal(d_units, expected)
    assert d_bias.shape == bias.shape
    torch.testing.assert_close(d_bias, expected.float().sum(dim=1, keepdim=True))


def used(monkeypatch, *names):
    """As on a GPU where these paths have been found right and faster, in bf16."""
    monkeypatch.setattr(fast_paths, "may_fuse", lambda device: True)
    monkeypatch.setattr(blocks, "precision_on_cuda", lambda: "bf16")
    monkeypatch.setattr(fast_paths, "_off", {})
    monkeypatch.setattr(fast_paths, "_proven", set(names))
    monkeypatch.delenv("METAPHASE_FUSED", raising=False)


SHAPE = AttentionShape(6, 2, 4)


def made(D, M=16):
    h = torch.randn(2, 2 * 6, D, device=DEVICE)
    weights = [
        [w.detach() for w in weights_of(shape, 2, D, M)] for shape in (SHAPE, None, SHAPE, None)
    ]
    return h, [
        blocks.Block(tuple(w), shape)
        for w, shape in zip(weights, (SHAPE, None, SHAPE, None), strict=True)
    ]


def test_layers_are_fused_where_that_is_on(monkeypatch):
    h, chain = made(8)
    shapes = [block.shape for block in chain]
    weights = [w for block in chain for w in block.weights]
    plain = blocks.plain_layers(h, shapes, *weights)
    name = blocks.layers_path(shapes, 8, 16, "bf16")
    assert name == "fused layers D=8 M=16 blocks=2xAM L=6 H=2 K=4 rotary=0 bf16"
    assert " blocks=1xMAA " in blocks.layers_path([None, SHAPE, SHAPE], 8, 16, "bf16")
    assert " blocks=3xM bf16" in blocks.layers_path([None] * 3, 8, 16, "bf16")
    used(monkeypatch)
    assert error(blocks.layers(h, chain), plain) < TOLERANCE["fp32"]
    used(monkeypatch, name)
    ours = blocks.layers(h, chain)
    assert torch.equal(ours, layers.fused_layers(h, shapes, weights, "bf16"))
    assert 0 < error(ours, plain) < TOLERANCE["bf16"]


def test_narrow_blocks_are_kept_on_the_chip_where_all_may_be(monkeypatch):
    h, chain = made(8)
    whole = blocks.layers_path([block.shape for block in chain], 8, 16, "bf16")
    narrow = blocks.attention_path(SHAPE, 8, "bf16"), blocks.mlp_path(8, 16, "bf16")
    for names in ((whole, *narrow), (whole, narrow[0])):
        used(monkeypatch, *names)
        calls: list[str] = []
        for module, function in (
            (attention, "fused_attention"),
            (mlp, "fused_mlp"),
            (layers, "fused_layers"),
        ):

            def same(h, *rest, calls=calls, function=function, **more):
                calls.append(function)
                return h

            monkeypatch.setattr(module, function, same)
        blocks.layers(h, chain)
        expected = ["fused_layers"] if len(names) == 2 else ["fused_attention", "fused_mlp"] * 2
        assert calls == expected


def test_a_block_of_fewer_outputs_is_left_to_others(monkeypatch):
    """Those before it are fused, and an MLP behind it by itself."""
    h, chain = made(8)
    chain[2] = dataclasses.replace(chain[2], shape=AttentionShape(6, 2, 4, stride=2))
    names = [blocks.layers_path([*shapes], 8, 16, "bf16") for shapes in ((SHAPE, None), (None,))]
    used(monkeypatch, *names)
    asked, fused = [], layers.fused_layers

    def recorded(h, shapes, *rest, **more):
        asked.append(len(shapes))
        return fused(h, shapes, *rest, **more)

    monkeypatch.setattr(layers, "fused_layers", recorded)
    y = blocks.layers(h, chain)
    assert asked == [2, 1]
    weights = [w for block in chain for w in block.weights]
    plain = blocks.plain_layers(h, [block.shape for block in chain], *weights)
    assert y.shape == plain.shape == (2, 6, 8)
    assert error(y, plain) < TOLERANCE["bf16"]


def test_a_read_out_is_fused_where_that_is_on_and_may_fail(monkeypatch):
    h, weight = (t.detach() for t in others.replicas((2, 30, 12), (2, 12, 7)))
    plain = blocks.plain_read_out(h, weight)
    used(monkeypatch, "fused read-out D=12 O=7 bf16")
    assert blocks.read_out(h, weight).dtype == torch.bfloat16
    assert 0 < error(blocks.read_out(h, weight), plain) < TOLERANCE["bf16"]
    leaves = [t.requires_grad_() for t in (h, weight)]
    y = blocks.read_out(*leaves)
    monkeypatch.setattr(rows, "_norm_backward", Failing())
    ours = torch.autograd.grad(y.float().square().sum(), leaves)
    theirs = torch.autograd.grad(blocks.plain_read_out(*leaves).square().sum(), leaves)
    assert all(error(a, b) < 2 * TOLERANCE["bf16"] for a, b in zip(ours, theirs, strict=True))
    assert "fused read-out D=12 O=7 bf16" in fast_paths.said()


class Failing:
    def __getitem__(self, grid):
        def launch(*args, **kwargs):
            raise RuntimeError("out of resource")

        return launch


@pytest.mark.skipif(DEVICE == "cuda", reason="tf32 is exact in the interpreter")
@pytest.mark.parametrize(
    ("module", "kernel"),
    [
        (rows, "_norm"),
        (mixing, "_mix"),
        (mixing, "_mix_backward"),
        (rows, "_activate_backward"),
    ],
)
def test_a_kernel_that_fails_leaves_the_plain_blocks(module, kernel, monkeypatch, caplog):
    h, chain = made(8)
    shapes = [block.shape for block in chain]
    weights = [w for block in chain for w in block.weights]
    leaves = [t.clone().requires_grad_() for t in (h, *weights)]
    plain = blocks.plain_layers(leaves[0], shapes, *leaves[1:])
    expected = [plain, *torch.autograd.grad(plain.square().sum(), leaves)]
    used(monkeypatch, blocks.layers_path(shapes, 8, 16, "tf32"))
    monkeypatch.setattr(blocks, "precision_on_cuda", lambda: "tf32")
    monkeypatch.setattr(module, kernel, Failing())
    for _ in range(2):
        chain = [
            blocks.Block(tuple(leaves[1 + 3 * i : 4 + 3 * i]), shape)
            for i, shape in enumerate(shapes)
        ]
        y = blocks.layers(leaves[0], chain)
        ours = [y, *torch.autograd.grad(y.square().sum(), leaves)]
        for a, b in zip(ours, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    [line] = [r.getMessage() for r in caplog.records if r.name == "metaphase.core.fast_paths"]
    assert line.startswith("no fused layers D=8 M=16 blocks=2xAM")
    assert line.endswith(", plain PyTorch instead: RuntimeError: out of resource")


@pytest.mark.skipif(DEVICE == "cuda", reason="a GPU is pretended")
@pytest.mark.parametrize("precision", ["tf32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_a_pack_trains_as_its_cells_alone_and_as_without_kernels(precision, monkeypatch):
    """Whole steps: what is computed in float32 in the interpreter is the same to rounding."""
    cells = [
        small_cell(
            token_format="shifted",
            batch_size=2,
            sequence_length=4,
            num_layers=1,
            num_heads=1,
            model_size=6,
            precision=precision,
            seed=seed,
        )
        for seed in (0, 1)
    ]

    def trained(cells):
        trainer = PackTrainer(cells)
        trainer.train(2)
        return trainer.stacks[0].theta_RxP

    monkeypatch.setattr(optimizer.cpu, "serves", lambda t: False)
    plain = trained(cells)
    used(monkeypatch)
    monkeypatch.setattr(blocks, "precision_on_cuda", lambda: precision)
    monkeypatch.setattr(fast_paths, "may_fuse", lambda device: True)
    # Not those of whole blocks, which all these cells are narrow enough for.
    monkeypatch.setattr(blocks, "_all_on_chip", lambda h, blocks: False)
    monkeypatch.setenv("METAPHASE_FUSED", "1")
    launched = []
    for module, name in ((rows, "norm_backward"), (mixing, "mix_backward"), (adam, "adam")):
        real = getattr(module, name)

        def noted(*args, real=real, name=name, **kwargs):
            launched.append(name)
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, noted)
    together = trained(cells)
    assert (
        launched == ["norm_backward", "norm_backward", "mix_backward", "norm_backward", "adam"] * 2
    )
    assert torch.equal(trained(cells[1:])[0], together[1])
    assert fast_paths.said() == ""
    moved = (plain - PackTrainer(cells).stacks[0].theta_RxP).norm()
    assert (together - plain).norm() / moved < (1e-3 if precision == "tf32" else 0.1)
