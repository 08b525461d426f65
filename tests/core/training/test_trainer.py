import dataclasses
import gc
import io
import math
import weakref

import pytest
import torch

from metaphase.core import schema
from metaphase.core.architectures import ARCHITECTURES, model
from metaphase.core.cell import ConfigError
from metaphase.core.kernels.cpu import build
from metaphase.core.training.checkpoint import check_state
from metaphase.core.training.cost import flops_per_step
from metaphase.core.training.stack import PLATEAU_MARGIN, PLATEAU_WEIGHT
from metaphase.core.training.trainer import PackTrainer
from tests.conftest import small_cell


def train(cells, device="cpu", **options):
    trainer = PackTrainer(cells, device=device, **options)
    while not trainer.finished:
        trainer.advance()
    return trainer


def pack_of_8(**settings):
    grid = [(0, 1), (0, 16), (1, 16), (2, 64), (3, 1024), (4, 2**20), (5, 2**32), (6, 3)]
    rates = [3e-3, 1e-3, 3e-3, 3e-3, 1e-2, 3e-3, 3e-3, 3e-4]
    return [
        small_cell(
            seed=s,
            num_tasks=n,
            learning_rate=rate,
            adam_epsilon=1e-5 / rate,
            identity_share=[0.0, 0.5][s % 2],
            identity_steps=10 * n % 30,
            weight_decay=[0.0, 0.1, 3.0][s % 3],
            gradient_clip=[0.0, 0.03, 0.3, 3.0][n % 4],
            **settings,
        )
        for (s, n), rate in zip(grid, rates, strict=True)
    ]


def theta(trainer):
    """Of each cell, in the trainer's order."""
    return [row for stack in trainer.stacks for row in stack.theta_RxP]


def without_time(rows):
    return [{k: v for k, v in row.items() if k != "wall_seconds"} for row, _ in rows], [
        curves for _, curves in rows
    ]


SHAPES = [
    {},
    {"token_format": "shifted", "model_size": 32, "key_size": 16, "sequence_length": 24}
    | {"learning_rate_schedule": "cosine", "learning_rate_end": 0.2, "eval_growth": 1.5},
    {"position_encoding": "learned", "model_size": 3, "num_heads": 1, "key_size": 5},
    {"image_size": 7, "num_classes": 10, "num_layers": 3, "model_size": 64, "batch_size": 32},
]
# the ends of whose tensors are awkward: vectorized operations may round differently there
OTHERS = [
    {"architecture": name, "model_size": 3, "num_heads": 1, "key_size": 5, "batch_size": 7}
    for name in ARCHITECTURES
    if name != "transformer"
]


@pytest.mark.parametrize(
    ("shape", "threads", "kernels"),
    [
        *((shape, 1, "own") for shape in SHAPES + OTHERS),
        *((shape, 2, "own") for shape in SHAPES[:1] + OTHERS[:1]),
        *((shape, 1, "plain") for shape in SHAPES[1:3]),
        *(
            pytest.param(shape, *others, marks=pytest.mark.slow)
            for shape, *others in [
                *((shape, 2, "own") for shape in SHAPES[1:] + OTHERS[1:]),
                *((shape, 1, "plain") for shape in SHAPES[:1] + SHAPES[3:]),
            ]
        ),
    ],
)
def test_a_cell_alone_equals_the_cell_in_a_pack_of_8_bit_for_bit(
    shape, threads, kernels, monkeypatch
):
    if kernels == "plain":  # as where there is no compiler
        monkeypatch.setattr(build, "library", lambda: None)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        cells = pack_of_8(**shape)
        pack = train(cells)
        for r in (0, 3, 5, 7) if threads == 1 else (5,):
            alone = train([cells[r]])
            assert torch.equal(theta(alone)[0], theta(pack)[r])
            assert alone.history[0] == pack.history[r]
            assert without_time(alone.results()) == without_time(pack.results()[r : r + 1])
    finally:
        torch.set_num_threads(before)


def mixed_pack(**settings):
    """Three streams of sequences, seven models; some see all, some see one or two."""
    streams = [{"seed": 0, "num_tasks": 4}, {"seed": 0, "num_tasks": 2**20}, {"seed": 1}]
    models = [
        {},
        {"model_size": 16, "num_layers": 1},
        *({"architecture": name} for name in ARCHITECTURES if name != "transformer"),
        {"token_format": "shifted", "position_encoding": "learned"},
    ]
    cells = [small_cell(**model, **s, **settings) for s in streams for model in models]
    return cells[1:9] + cells[10:12] + cells[14:15] + cells[16:]


def test_cells_of_any_shape_that_share_batches_equal_the_cells_alone_bit_for_bit(device):
    cells = mixed_pack()
    pack = train(cells, device)
    assert len(pack.stacks) == 7
    assert len(pack.sampler.seed_S) == 3  # sequences are made once for all models
    assert sorted(c.cell_id for c in pack.cells) == sorted(c.cell_id for c in cells)
    results = pack.results()
    for r in range(0, len(cells), 1 if device.type == "cpu" else 5):
        alone = train([pack.cells[r]], device)
        if device.type == "cpu":
            assert torch.equal(theta(alone)[0], theta(pack)[r])
            assert alone.history[0] == pack.history[r]
            assert without_time(alone.results()) == without_time(results[r : r + 1])
        else:
            torch.testing.assert_close(theta(alone)[0], theta(pack)[r], rtol=0, atol=1e-3)


def test_a_mixed_pack_goes_on_in_other_packs():
    cells = mixed_pack(steps=30)
    whole = {state["cell_id"]: state for state in train(cells).states()}
    part = PackTrainer(cells)
    part.train(7)
    states = {state["cell_id"]: state for state in part.states()}
    for chosen in (cells[::2], cells[1::2][::-1]):
        rest = train(chosen, states=[states[cell.cell_id] for cell in chosen[::-1]])
        for state in rest.states():
            assert torch.equal(state["theta"], whole[state["cell_id"]]["theta"])
            assert state["history"] == whole[state["cell_id"]]["history"]


def test_a_packs_time_is_shared_by_operations():
    cells = [small_cell(model_size=size, num_tasks=n) for n in (1, 9) for size in (8, 64)]
    trainer = train(cells)
    seconds = dict(zip(trainer.cells, trainer.wall_seconds, strict=True))
    assert seconds[cells[0]] == seconds[cells[2]]
    ratio = flops_per_step(cells[1]) / flops_per_step(cells[0])
    assert seconds[cells[1]] / seconds[cells[0]] == pytest.approx(ratio)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_cell_alone_equals_the_cell_in_a_pack_of_8_on_a_gpu():
    """To rounding in one step's gradients, and to 2e-3 of the weights' norm after 50 steps."""
    cells = pack_of_8(steps=50, eval_every=50)
    pack = PackTrainer(cells, device="cuda")
    singles = [PackTrainer([cell], device="cuda") for cell in cells]

    def distance(name):
        together = getattr(pack.stacks[0], name)
        alone = torch.cat([getattr(single.stacks[0], name) for single in singles])
        return ((together - alone).norm(dim=1) / together.norm(dim=1)).max().item()

    for trainer in (pack, *singles):
        trainer.train(1)
    assert distance("grad_RxP") < 1e-5
    for trainer in (pack, *singles):
        trainer.train(49)
    assert distance("theta_RxP") < 2e-3


def test_stopping_in_the_middle_and_going_on_equals_never_stopping(device):
    cells = pack_of_8(steps=100, eval_every=80)
    whole = train(cells, device)

    part = PackTrainer(cells, device=device)
    calls = iter([False, True])
    assert part.advance(should_stop=lambda: next(calls)) is False
    assert 0 < part.step < 80
    assert part.history[0] == []
    stored = io.BytesIO()
    torch.save(part.states(), stored)
    stored.seek(0)
    states = torch.load(stored, weights_only=True)

    # and the rest in other packs than before
    for chosen in ([5, 0, 3], [1, 2, 4, 6, 7]):
        rest = train([cells[r] for r in chosen], device, states=[states[r] for r in chosen])
        for i, r in enumerate(chosen):
            if device.type == "cpu":
                assert torch.equal(theta(rest)[i], theta(whole)[r])
                assert rest.history[i] == whole.history[r]
            else:
                torch.testing.assert_close(theta(rest)[i], theta(whole)[r], rtol=0, atol=1e-3)
    if device.type == "cuda":  # the same pack on the same device: the same bits
        again = train(cells, device, states=states)
        assert torch.equal(again.stacks[0].theta_RxP, whole.stacks[0].theta_RxP)


def test_a_trainer_that_is_let_go_is_gone_at_once():
    """Not when the garbage collector comes: until then its device memory would be taken."""
    gc.collect()
    gc.disable()
    try:
        trainer = train(mixed_pack())
        gone = weakref.ref(trainer)
        del trainer
        assert gone() is None
    finally:
        gc.enable()


def test_distances_between_evaluations_grow_and_a_schedule_goes_on_after_a_stop():
    settings = {"eval_every": 3, "eval_growth": 2.0, "steps": 20, "weight_decay": 0.3}
    settings |= {"learning_rate_schedule": "linear", "gradient_clip": 0.1}
    cells = [small_cell(seed=seed, **settings) for seed in range(2)]
    whole = train(cells)
    assert [row["step"] for row in whole.history[0][::3]] == [3, 6, 12, 20]
    part = PackTrainer(cells)
    part.advance()
    part.advance()
    part.train(4)
    states = part.states()
    for r, state in enumerate(states):
        check_state(cells[r], state)
        rest = train(cells[r : r + 1], states=[state])
        assert torch.equal(theta(rest)[0], theta(whole)[r])
        assert rest.history[0] == whole.history[r]
    evenly = dataclasses.replace(cells[0], eval_growth=1.0)
    rows = [{**row, "cell_id": evenly.cell_id} for row in states[0]["history"]]
    with pytest.raises(ValueError, match="its history doesn't reach from the start to step 10"):
        check_state(evenly, {**states[0], "cell_id": evenly.cell_id, "history": rows})


def test_states_are_snapshots():
    trainer = PackTrainer(pack_of_8())
    trainer.advance()
    states = trainer.states()
    before = states[0]["theta"].clone()
    trainer.advance()
    assert torch.equal(states[0]["theta"], before)
    assert len(states[0]["history"]) == 3


def test_restoring_a_pack_that_is_trained_to_the_end_gives_its_results():
    cells = pack_of_8()[:2]
    whole = train(cells)
    again = PackTrainer(cells, states=whole.states())
    assert again.finished
    assert again.results() == whole.results()
    assert again.history == whole.history


def test_states_of_other_cells_or_steps_are_refused():
    cells = pack_of_8()[:2]
    trainer = PackTrainer(cells)
    fresh = trainer.states()
    trainer.advance()
    with pytest.raises(ConfigError, match="states"):
        PackTrainer(cells[:1], states=trainer.states())
    with pytest.raises(ConfigError, match="states"):
        PackTrainer([cells[0], small_cell(seed=9)], states=trainer.states())
    with pytest.raises(ConfigError, match="states"):
        PackTrainer(cells, states=[fresh[0], trainer.states()[1]])
    with pytest.raises(ConfigError, match="pack"):
        PackTrainer([small_cell(), small_cell(batch_size=4)])


def test_a_diverged_replica_is_frozen_and_its_neighbours_dont_change(device):
    cells = [small_cell(num_tasks=8, seed=s) for s in range(3)]
    healthy = train(cells, device)
    sick = PackTrainer(cells, device=device)
    sick.advance()
    with torch.no_grad():
        sick.stacks[0].theta_RxP[1] = math.inf
    while not sick.finished:
        sick.advance()
    for r in (0, 2):
        assert torch.equal(theta(sick)[r], theta(healthy)[r])
        assert sick.history[r] == healthy.history[r]
    rows = [row for row, _ in sick.results()]
    assert [row["status"] for row in rows] == [schema.DONE, schema.DIVERGED, schema.DONE]
    assert rows[1]["diverged_at"] == 10
    assert math.isnan(rows[1]["seen_last"])
    assert rows[0]["diverged_at"] is None


@pytest.mark.parametrize("kernels", ["own", "plain"])
@pytest.mark.parametrize(("rate", "steps"), [(1e38, 40), (3e38, 1), (1e30, 60)])
def test_a_learning_rate_that_explodes_is_recorded_as_diverged(rate, steps, kernels, monkeypatch):
    """Even where the loss was a number at every step: weights or moments aren't."""
    if kernels == "plain":
        monkeypatch.setattr(build, "library", lambda: None)
    cells = [
        small_cell(learning_rate=r, steps=steps, eval_every=steps, warmup_steps=0)
        for r in (3e-3, rate)
    ]
    trainer = train(cells)
    rows = [row for row, _ in trainer.results()]
    assert [row["status"] for row in rows] == [schema.DONE, schema.DIVERGED]
    assert math.isnan(rows[1]["seen_last"])
    assert 0 <= rows[1]["diverged_at"] <= steps
    assert without_time(train(cells[:1]).results()) == without_time(trainer.results()[:1])


def test_a_loss_that_is_no_number_at_an_evaluation_is_a_divergence():
    cells = [small_cell(seed=s) for s in range(2)]
    trainer = PackTrainer(cells)
    trainer.train(10)
    with torch.no_grad():  # finite weights whose products aren't
        trainer.stacks[0].theta_RxP[1] = 1e30
    trainer.step, trainer.history = 20, [[], []]
    trainer._evaluate()
    rows = [row for row, _ in trainer.results()]
    assert [row["status"] for row in rows] == [schema.DONE, schema.DIVERGED]
    assert rows[1]["diverged_at"] == 20


def test_adam_is_torchs_adam():
    cell = small_cell(warmup_steps=4, adam_beta1=0.8, adam_epsilon=1e-4)
    ours = PackTrainer([cell])
    [stack] = ours.stacks
    twin = {name: p.detach().clone().requires_grad_() for name, p in stack.parameters.items()}
    optimizer = torch.optim.Adam(twin.values(), lr=cell.learning_rate, betas=(0.8, 0.999), eps=1e-4)
    for step in range(12):
        optimizer.param_groups[0]["lr"] = cell.learning_rate * min(1.0, (step + 1) / 4)
        draw = ours.sampler.draw_training(torch.tensor([step]))
        batch = ours.sampler.training_batch(draw, torch.tensor([0]))
        logits = model.predict(twin, batch.x_RxBxTxX, batch.y_RxBxT, cell)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits.flatten(0, 2), batch.y_RxBxT.flatten()).backward()
        optimizer.step()
        ours.train(1)
    for name, p in stack.parameters.items():
        torch.testing.assert_close(p, twin[name], rtol=0, atol=2e-6)


def test_history_and_results_have_the_schemas_columns():
    cells = [small_cell(unseen_datasets=("digits",), steps=15)]
    trainer = train(cells)
    rows = trainer.history[0]
    assert [(row["step"], row["split"]) for row in rows] == [
        (step, split) for step in (10, 15) for split in (*schema.SPLITS, "unseen/digits")
    ]
    assert all(set(row) == set(schema.HISTORY_COLUMNS) for row in rows)
    [(row, curves)] = trainer.results()
    assert set(row) == {*cells[0].to_dict(), "cell_id", *schema.CELL_RESULT_COLUMNS} - {"error"}
    assert all(set(point) == set(schema.CURVES_COLUMNS) for point in curves)
    assert len(curves) == 4 * cells[0].sequence_length
    assert row["wall_seconds"] > 0
    by_split = {r["split"]: r for r in rows if r["step"] == 15}
    assert row["unseen_last"] == by_split["unseen"]["last"]
    first = {p["split"]: p["accuracy"] for p in curves if p["position"] == 1}
    assert first == {split: by_split[split]["first"] for split in by_split}


def test_training_memorizes_one_task():
    [(row, _)] = train([small_cell(steps=150, eval_every=150, model_size=32)]).results()
    assert row["seen_first"] > 0.8
    assert row["unseen_last"] < 0.4


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_precisions_train(device, architecture, precision):
    cell = small_cell(architecture=architecture, precision=precision, steps=60)
    trainer = PackTrainer([cell], device=device)
    trainer.advance()
    start = trainer.history[0][0]["loss"]
    while not trainer.finished:
        trainer.advance()
    assert trainer.history[0][-3]["loss"] < start
    assert trainer.stacks[0].theta_RxP.dtype == torch.float32


def test_leaving_the_plateau_is_noted_by_the_documented_rule():
    cells = [
        small_cell(num_tasks=1, steps=60, model_size=32),
        small_cell(num_tasks=2**32, steps=60, model_size=32),
    ]
    trainer, losses = PackTrainer(cells), []
    [stack] = trainer.stacks
    update = stack._update
    stack._update = lambda loss_R, step: (losses.append(loss_R.tolist()), update(loss_R, step))
    while not trainer.finished:
        trainer.advance()
    assert len(losses) == 60
    average, expected = math.log(5), None
    for step, (loss, _) in enumerate(losses, start=1):
        average = (1 - PLATEAU_WEIGHT) * average + PLATEAU_WEIGHT * loss
        if expected is None and average < (1 - PLATEAU_MARGIN) * math.log(5):
            expected = step
    rows = [row for row, _ in trainer.results()]
    assert 5 < expected < 60
    assert [row["plateau_steps"] for row in rows] == [expected, None]

    part = PackTrainer(cells)
    part.train(expected - 1)
    again = PackTrainer(cells, states=part.states())
    again.train(1)
    assert again.stacks[0].plateau_steps_R.tolist() == [expected, -1]
