"""Core against the second implementation in `tests.tools.reference`: a model's predictions and its
loss' gradient, over random configurations; Adam and the plateau, over steps of training."""

import dataclasses
import math
import secrets

import numpy as np
import pytest
import torch

from metaphase.core.architectures import model
from metaphase.core.architectures.parameters import buffer_size, initialize, views
from metaphase.core.cell import Cell, ConfigError
from metaphase.core.kernels.operations import cross_entropy
from metaphase.core.tasks.sequences import Batch
from metaphase.core.training.stack import Stack
from tests.tools import reference

ARCHITECTURES = ("transformer", "lstm", "fast_weights", "linear_attention", "mlp")
FORMATS = ("shifted", "interleaved")
ENCODINGS = ("rotary", "learned", "none")
FIRST, FRESH = 90, 10  # configurations that are always the same, and ones of this run

# Differences over what they are differences of, in the Euclidean norm. In float64 rounding is far
# below any term of the definitions: an epsilon in the wrong place shows. In float32 it mostly is
# 1e-7 to 1e-5. Where it is more, as norms of two numbers lose digits, so it is where the reference
# itself is computed in float32.
EXACT = 1e-8
LOGITS, GRADIENT, AS_BAD = 1e-5, 1e-4, 100.0
KINK = 2e-5  # least distance of an MLP's hidden unit from its kink, where the gradient jumps


def random_cell(number, draw):
    """The number says architecture, token format and position encoding; the rest is drawn."""

    def size(low, high):  # half of them uniform, half uniform in the logarithm
        exponent = draw.uniform(math.log(low), math.log(high + 1))
        return int(draw.integers(low, high + 1) if draw.random() < 0.5 else math.exp(exponent))

    architecture = ARCHITECTURES[number % 5]
    settings = {
        "architecture": architecture,
        "token_format": FORMATS[number // 5 % 2],
        "position_encoding": ENCODINGS[number // 10 % 3],
        "model_size": size(1, 64),
        "num_layers": int(draw.integers(1, 4)),
        "num_heads": int(draw.integers(1, 6)),
        "key_size": size(1, 32),
        "mlp_ratio": int(draw.integers(1, 5)),
        "sequence_length": size(2, 40),
        "batch_size": int(draw.integers(1, 5)),
        "dataset": str(draw.choice(["MNIST", "CIFAR10"])),
        "image_size": int(draw.integers(1, 7)),
        "num_classes": int(draw.integers(2, 11)),
        "adam_epsilon": 1e-3,
    }
    if architecture == "transformer" and settings["position_encoding"] == "rotary":
        settings["key_size"] += settings["key_size"] % 2
    return Cell(**settings)


def random_problem(number, seed):
    """A cell, the number of replicas, weights R x P, inputs and labels; small enough for loops."""
    draw = np.random.default_rng([seed, number])
    while True:
        try:
            cell = random_cell(number, draw)
        except ConfigError:  # a size that this architecture can't have
            continue
        R = int(draw.integers(1, 4))
        loops = R * cell.num_layers * cell.num_tokens
        if loops * max(cell.num_heads, 1) <= 160 and loops * cell.mlp_units < 2e4:
            break
    specs = model.parameters(cell)
    flat_RxP = torch.zeros(R, buffer_size(specs))
    for view in views(flat_RxP, specs).values():
        fan_in = view.shape[1]
        scale = math.exp(draw.uniform(-1.0, 0.7)) / math.sqrt(fan_in)
        view.copy_(torch.from_numpy(draw.normal(0.0, scale, view.shape)))
    shape = (R, cell.batch_size, cell.sequence_length)
    x = torch.from_numpy(draw.normal(draw.normal(), 1.0, (*shape, cell.input_size))).float()
    y = torch.from_numpy(draw.integers(0, cell.num_classes, shape))
    return cell, flat_RxP, x, y


def reference_model(cell):
    return reference.Model(
        cell.architecture,
        cell.token_format,
        cell.position_encoding,
        cell.num_layers,
        cell.num_heads,
        cell.key_size,
        cell.num_classes,
    )


def by_reference(cell, flat_RxP, x, y, dtype=torch.float64):
    """Logits R x B x T x C, the gradient of each parameter, and the least distance from a kink."""
    p = {k: v.to(dtype) for k, v in views(flat_RxP, model.parameters(cell)).items()}
    twin, logits, gradients, kink = reference_model(cell), [], [], math.inf
    for r in range(len(x)):
        own = {name: v[r].clone().requires_grad_() for name, v in p.items()}
        logits.append(twin.logits(own, x[r].to(dtype), y[r]))
        kink = min(kink, twin.least_kink)
        total = reference.loss(logits[-1], y[r])
        gradients.append(torch.autograd.grad(total, list(own.values()), materialize_grads=True))
    stacked = (torch.stack(g) for g in zip(*gradients, strict=True))
    return torch.stack(logits).detach(), dict(zip(p, stacked, strict=True)), kink


def by_core_in_float64(cell, flat_RxP, x, y):
    p = {k: v.double().requires_grad_() for k, v in views(flat_RxP, model.parameters(cell)).items()}
    logits = model.predict(p, x.double(), y, cell)
    loss_R = cross_entropy(logits, y).flatten(1).mean(dim=1)
    gradients = torch.autograd.grad(loss_R.sum(), list(p.values()), materialize_grads=True)
    return logits.detach(), dict(zip(p, gradients, strict=True))


def by_training(cell, flat_RxP, x, y):
    """What core's first step of training computes, in float32."""
    stack = Stack([cell] * len(x), torch.device("cpu"))
    stack.theta_RxP.copy_(flat_RxP)
    with torch.no_grad():
        logits = model.predict(stack.parameters, x, y, cell)
    stack.train(Batch(x, y), torch.tensor(0))
    return logits, {k: v.clone() for k, v in views(stack.grad_RxP, model.parameters(cell)).items()}


def differences(ours, theirs):
    """Norms of the logits' and each gradient's difference, by replica, and the norms to measure
    them by: their own; a gradient's at least a thousandth of all parameters' together."""
    result = {"logits": (norms(ours[0] - theirs[0]), norms(theirs[0]))}
    whole_R = norms(torch.cat([g.flatten(1) for g in theirs[1].values()], dim=1))
    for name, gradient in theirs[1].items():
        gap_R = norms(ours[1][name] - gradient)
        result[name] = gap_R, norms(gradient).maximum(1e-3 * whole_R)
    return result


def norms(t_Rx):
    return t_Rx.double().flatten(1).norm(dim=1)


def compare(number, seed):
    """A configuration's greatest difference, as a share of what is allowed, and where it is."""
    for attempt in range(20):
        cell, flat_RxP, x, y = random_problem(number, seed + attempt * 2**32)
        *exact, kink = by_reference(cell, flat_RxP, x, y)
        if kink > KINK:
            break
    shares, rounding = {}, None
    for dtype, compute in ("float64", by_core_in_float64), ("float32", by_training):
        # Rotary positions' angles are float32 in core, whatever the weights are.
        rounds = dtype == "float32" or cell.position_encoding == "rotary"
        for name, (gap_R, norm_R) in differences(compute(cell, flat_RxP, x, y), exact).items():
            tolerance = (LOGITS if name == "logits" else GRADIENT) if rounds else EXACT
            allowed_R = tolerance * norm_R + (1e-9 if rounds else 1e-12)
            if rounds and (gap_R > allowed_R).any():
                rounding = rounding or the_references_rounding(cell, flat_RxP, x, y, exact)
                allowed_R += AS_BAD * rounding[name]
            shares[f"{dtype} {name}"] = (gap_R / allowed_R).nan_to_num(nan=math.inf).max().item()
    worst = max(shares, key=shares.__getitem__)
    return cell, shares[worst], worst


def the_references_rounding(cell, flat_RxP, x, y, exact):
    """How far the reference in float32 is from itself in float64: the greater of two gaps, at these
    weights and near them, as roundings may cancel."""
    generator = torch.Generator().manual_seed(0)
    near = flat_RxP * (1 + 1e-4 * torch.randn(flat_RxP.shape, generator=generator))
    here_in_float32 = by_reference(cell, flat_RxP, x, y, torch.float32)[:2]
    near_in_float32 = by_reference(cell, near, x, y, torch.float32)[:2]
    here = differences(here_in_float32, exact)
    there = differences(near_in_float32, by_reference(cell, near, x, y)[:2])
    return {name: here[name][0].maximum(there[name][0]) for name in here}


@pytest.mark.parametrize("part", range(10))
def test_predictions_and_gradients_are_those_of_the_definitions(part):
    fresh = secrets.randbits(32)
    numbers = [(n, 0) for n in range(part * FIRST // 10, (part + 1) * FIRST // 10)]
    numbers += [(n, fresh) for n in range(part * FRESH // 10, (part + 1) * FRESH // 10)]
    for number, seed in numbers:
        cell, share, worst = compare(number, seed)
        assert share < 1, (
            f"compare({number}, {seed}): {worst}: {share:.3g} of what is allowed; {cell}"
        )


@pytest.mark.parametrize("number", range(30))
def test_parameters_have_the_documented_names_shapes_and_deviations(number):
    cell = random_problem(number, 0)[0]
    expected = reference.parameters(
        reference_model(cell),
        cell.model_size,
        cell.mlp_units,
        cell.input_size,
        cell.num_tokens,
    )
    specs = model.parameters(cell)
    assert {name: spec.shape for name, spec in specs.items()} == {
        name: shape for name, (shape, _) in expected.items()
    }
    values = views(initialize(specs, torch.arange(10)), specs)
    for name, (shape, deviation) in expected.items():
        count = 10 * math.prod(shape)
        assert abs(values[name].mean()) <= 6 * deviation / math.sqrt(count)
        measured = values[name].square().mean().sqrt()
        assert abs(measured - deviation) <= 6 * deviation / math.sqrt(2 * count)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"warmup_steps": 0, "adam_beta1": 0.0, "adam_beta2": 0.9, "adam_epsilon": 0.1},
        {"warmup_steps": 1, "adam_beta2": 0.0, "adam_epsilon": 1e-3},
        {"warmup_steps": 17, "adam_beta1": 0.99, "adam_epsilon": 1e-5},
        {"warmup_steps": 7, "learning_rate_schedule": "linear", "learning_rate_end": 0.2},
        {"warmup_steps": 7, "learning_rate_schedule": "cosine", "weight_decay": 0.3},
        {"learning_rate_schedule": "triangle", "gradient_clip": 0.2, "weight_decay": 0.01},
    ],
)
def test_training_is_adam_with_warm_up_and_leaves_the_plateau_by_the_rule(settings):
    """40 steps on one batch: gradients are taken from core, weights and plateau are the rule's."""
    cell = Cell(image_size=3, num_classes=4, sequence_length=5, model_size=7, key_size=2)
    cell = dataclasses.replace(
        cell, **{"batch_size": 3, "learning_rate": 3e-2, "steps": 40, **settings}
    )
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 5, 9, generator=generator)
    y = torch.randint(4, (2, 3, 5), generator=generator)
    y[1, :2] = y[1, 0]
    slow = dataclasses.replace(cell, learning_rate=1e-4, seed=1)
    stack = Stack([cell, slow], torch.device("cpu"))
    start = stack.theta_RxP.numpy().copy()
    after, gradients, losses = [], [], []
    for step in range(40):
        with torch.no_grad():
            logits = model.predict(stack.parameters, x, y, cell).double()
        losses.append([reference.loss(logits[r], y[r]).item() for r in range(2)])
        stack.train(Batch(x, y), torch.tensor(step))
        gradients.append(stack.grad_RxP.numpy().astype(np.float64))
        after.append(stack.theta_RxP.numpy().copy())
    for r, rate in enumerate((cell.learning_rate, slow.learning_rate)):
        expected = reference.adam(
            start[r],
            [g[r] for g in gradients],
            learning_rate=rate,
            warmup_steps=cell.warmup_steps,
            beta1=cell.adam_beta1,
            beta2=cell.adam_beta2,
            epsilon=cell.adam_epsilon,
            schedule=cell.learning_rate_schedule,
            end=cell.learning_rate_end,
            steps=cell.steps,
            decay=cell.weight_decay,
            clip=cell.gradient_clip,
        )
        for step in (0, 1, 2, 3, 16, 17, 39):
            gap = np.linalg.norm(after[step][r] - expected[step])
            moved = np.linalg.norm(expected[step] - start[r])
            rounding = 2.0**-24 * math.sqrt(step + 1) * np.linalg.norm(start[r])  # of theta
            assert gap < 1e-4 * moved + rounding, (r, step)
        plateau = reference.plateau_steps([loss[r] for loss in losses], cell.num_classes)
        assert stack.plateau_steps_R[r] == (-1 if plateau is None else plateau)
    assert stack.plateau_steps_R[1] == -1
    assert 1 < stack.plateau_steps_R[0] < 40
