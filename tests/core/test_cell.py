import dataclasses
import subprocess
import sys

import pytest

from metaphase.core import identity, schema
from metaphase.core.architectures import ARCHITECTURES
from metaphase.core.cell import (
    MAX_TASKS,
    NUMERICS,
    PER_REPLICA,
    SETTINGS,
    Cell,
    ConfigError,
    grouped,
    pack_key,
    stack_key,
    stream_key,
)
from metaphase.core.evaluation_steps import count_evaluations
from metaphase.core.settings import MODEL, NONE, REPLICA, RUN, STREAM, names_of, setting


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stepz": 1}, "stepz: unknown key"),
        ({"steps": 0}, "steps: 0 is out of range; allowed: 1 to"),
        ({"steps": True}, "steps: True is not a whole number"),
        ({"steps": "many"}, "steps: 'many' is not a whole number"),
        ({"steps": 10.5}, "steps: 10.5 is not a whole number"),
        ({"learning_rate": "fast"}, "learning_rate: 'fast' is not a number"),
        ({"learning_rate": float("nan")}, "learning_rate: nan is out of range"),
        ({"learning_rate": -1.0}, "learning_rate: -1.0 is out of range"),
        ({"learning_rate": 1e-46}, "allowed: above 0, within float32's 1.18e-38 to 3.4e.38"),
        ({"learning_rate": 1e39}, "learning_rate: 1e.39 is out of range"),
        ({"adam_epsilon": 1e-50}, "adam_epsilon: 1e-50 is out of range"),
        ({"weight_decay": 1e39}, "weight_decay: 1e.39 is out of range"),
        ({"gradient_clip": 1e-46}, "gradient_clip: 1e-46 is out of range; allowed: 0 or more, "),
        ({"learning_rate": None}, "learning_rate: None is not a number"),
        ({"grayscale": 1}, "grayscale: 1 is not true or false"),
        ({"model_size": 30, "num_heads": 4}, "num_heads: 4 heads don't divide model_size 30"),
        ({"key_size": 3}, "key_size: 3 is odd"),
        ({"model_size": 1, "num_heads": 1}, "model_size: 1 is out of range; allowed: 2 to 65536"),
        ({"architecture": "mlp", "model_size": 1}, "model_size: 1 is out of range"),
        (
            {"architecture": "fast_weights", "key_size": 1},
            "key_size: 1 .* leaves fast_weights no memory but signs; allowed: 3 or more",
        ),
        (
            {"architecture": "linear_attention", "model_size": 16, "num_heads": 8},
            "key_size: 2 \\(of 8 heads, model_size 16\\) leaves linear_attention no memory",
        ),
        ({"mup_base_width": -1}, "mup_base_width: -1 is out of range; allowed: 0 to 65536"),
        ({"num_classes": 11}, "num_classes: 11 is out of range; allowed: 2 to 10"),
        ({"num_tasks": MAX_TASKS + 1}, "num_tasks: 4294967297 is out of range"),
        ({"num_tasks": 0}, "num_tasks: 0 is out of range"),
        ({"dataset": "ImageNet"}, "dataset: 'ImageNet' is not one of digits"),
        ({"unseen_datasets": ["ImageNet"]}, "unseen_datasets: 'ImageNet' is not one of"),
        ({"unseen_datasets": [3]}, "unseen_datasets: \\[3\\] is not a list of dataset names"),
        ({"architecture": "perceiver"}, "architecture: 'perceiver' is not one of transformer"),
        ({"token_format": ["shifted"]}, "token_format: .* is not one of shifted, interleaved"),
        ({"sequence_length": 1000}, "sequence_length: 1000 is out of range"),
        ({"sequence_length": 1}, "sequence_length: 1 is out of range"),
        ({"identity_share": 1.5}, "identity_share: 1.5 is out of range; allowed: 0 to 1"),
        ({"identity_steps": -1, "identity_share": 0.5}, "identity_steps: -1 is out of range"),
        ({"adam_beta1": 1.0}, "adam_beta1: 1.0 is out of range"),
        ({"weight_decay": -0.1}, "weight_decay: -0.1 is out of range; allowed: 0 or more"),
        ({"weight_decay": float("inf")}, "weight_decay: inf is out of range"),
        ({"gradient_clip": float("nan")}, "gradient_clip: nan is out of range"),
        ({"learning_rate_schedule": "step"}, "'step' is not one of constant, linear, cosine, tri"),
        (
            {"learning_rate_schedule": "linear", "learning_rate_end": 1.1},
            "learning_rate_end: 1.1 is out of range; allowed: 0 to 1",
        ),
        ({"eval_growth": 0.5}, "eval_growth: 0.5 is out of range; allowed: 1 to 1000"),
        (
            {"eval_growth": 1.0000001, "eval_every": 1, "steps": 10**9},
            "eval_every: 1 makes 100001 evaluations or more of 1000000000 steps; allowed: 100000",
        ),
    ],
)
def test_impossible_settings_get_one_line_with_key_value_and_what_is_allowed(settings, message):
    with pytest.raises(ConfigError, match=message) as error:
        Cell.from_dict(settings)
    assert "\n" not in str(error.value)


def test_what_float32_holds_is_taken():
    for value in (0.0, 2.0**-126, 3.4028234663852886e38):
        Cell(gradient_clip=value, weight_decay=value)
    Cell(learning_rate=3e38, adam_epsilon=2.0**-126)


def test_what_follows_from_other_settings_is_resolved():
    cell = Cell(model_size=48, num_heads=3, dataset="CIFAR10", learning_rate=3e-3)
    assert (cell.key_size, cell.image_size, cell.num_classes) == (16, 32, 10)
    assert cell.input_size == 3 * 32 * 32
    assert cell.learning_rate == 3e-3
    said = Cell(model_size=48, num_heads=3, dataset="CIFAR10", learning_rate=0.003, key_size=16)
    assert said == cell
    assert said.cell_id == cell.cell_id


def test_every_setting_changes_the_identity():
    base = Cell(num_classes=5, image_size=4)
    other = {
        "architecture": "lstm",
        "dataset": "MNIST",
        "grayscale": True,
        "stop_when_decided": True,
        "unseen_datasets": ("random",),
        "token_format": "shifted",
        "position_encoding": "learned",
        "precision": "bf16",
        "normalization": "base",
        "learning_rate_schedule": "linear",
        "eval_growth": 2.0,
        "metrics": ("confidence",),
        "in_weights": True,
    }
    base = dataclasses.replace(base, burstiness=0.25)
    base = dataclasses.replace(base, identity_share=0.25, unseen_datasets=("glyphs",))
    base = dataclasses.replace(base, learning_rate_schedule="cosine")
    ids = {base.cell_id}
    names = [name for name in SETTINGS if name != "task_family"]
    for name in names:
        value = getattr(base, name)
        changed = other.get(name, value * 2 if isinstance(value, int) and value else 0.5)
        if name in ("seed", "identity_steps", "mup_base_width", "burst_classes"):
            changed = 1
        ids.add(dataclasses.replace(base, **{name: changed}).cell_id)
    assert len(ids) == 1 + len(names)


def test_bursts_have_fewer_classes_than_there_are_and_none_without_burstiness():
    assert Cell(num_classes=5, burst_classes=4) == Cell(num_classes=5)
    assert Cell(num_classes=5, burst_classes=4, burstiness=0.5).burst_classes == 4
    for classes, named in ((5, "burst_classes: 5"), (0, "burst_classes: 0")):
        with pytest.raises(ConfigError, match=named):
            Cell(num_classes=5, burst_classes=classes, burstiness=0.5)
    with pytest.raises(ConfigError, match=r"burst_classes: 2 .* allowed: 1 to 1"):
        Cell(num_classes=2, burstiness=0.5)


def test_settings_that_an_architecture_doesnt_use_dont_change_the_identity():
    base = Cell(architecture="lstm", model_size=7)
    assert (base.num_heads, base.key_size, base.mlp_ratio) == (0, 0, 0)
    assert base.position_encoding == "none"
    assert Cell.from_dict(base.to_dict()) == base
    said = Cell(architecture="lstm", model_size=7, num_heads=3, key_size=5, mlp_ratio=2)
    assert said == base
    for architecture in ("fast_weights", "linear_attention"):
        with pytest.raises(ConfigError, match="num_heads: 2 heads don't divide model_size 7"):
            Cell(architecture=architecture, model_size=7)
    assert Cell(architecture="mlp", num_heads=5).mlp_ratio == 4
    assert Cell(normalization="base") == Cell()  # there is no further dataset to normalize
    with pytest.raises(ConfigError, match="key_size: 0 is out of range"):
        Cell(key_size=0)


def test_it_says_what_has_no_effect_and_why():
    cell = Cell(architecture="lstm", task_family="noisy_items", learning_rate_schedule="triangle")
    why = cell.without_effect
    assert why["num_heads"] == "lstm doesn't use it"
    assert why["identity_steps"] == "noisy_items doesn't use it"
    assert why["warmup_steps"] == "learning_rate_schedule is triangle"
    assert "learning_rate_end" not in why
    assert set(Cell().without_effect) == {
        "normalization", "identity_steps", "burst_classes", "learning_rate_end"
    }  # fmt: skip


def test_a_schedule_resolves_what_it_decides():
    assert Cell(learning_rate_end=0.5) == Cell()  # there is nothing to fall
    triangle = Cell(learning_rate_schedule="triangle", steps=9, warmup_steps=7)
    assert triangle.warmup_steps == 4
    assert dataclasses.replace(triangle, steps=11).warmup_steps == 5


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"eval_every": 250, "steps": 1000}, [250, 500, 750, 1000]),
        ({"eval_every": 300, "steps": 1000}, [300, 600, 900, 1000]),
        ({"eval_every": 300, "steps": 100}, [100]),
        ({"eval_every": 10, "steps": 200, "eval_growth": 2}, [10, 20, 40, 80, 160, 200]),
        ({"eval_every": 10, "steps": 85, "eval_growth": 1.5}, [10, 20, 30, 45, 68, 85]),
        ({"eval_every": 10, "steps": 60, "eval_growth": 1.1}, [10, 20, 30, 40, 50, 60]),
        ({"eval_every": 7, "steps": 7, "eval_growth": 3}, [7]),
    ],
)
def test_evaluations_are_evenly_spaced_then_in_proportion(settings, expected):
    cell = Cell(**settings)
    assert list(cell.eval_steps) == expected
    assert count_evaluations(cell.eval_every, cell.eval_growth, cell.steps) == len(expected)
    longer = dataclasses.replace(cell, steps=10 * cell.steps)
    assert list(longer.eval_steps[: len(expected) - 1]) == expected[:-1]


def test_identity_is_the_same_on_every_machine():
    assert Cell().cell_id == Cell.from_dict(Cell().to_dict()).cell_id
    code = "from metaphase.core.cell import Cell; print(Cell(num_tasks=7).cell_id)"
    for hash_seed in ("0", "1"):
        out = subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert out.stdout.strip() == Cell(num_tasks=7).cell_id


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grown(Cell):
    """A cell of a later program."""

    dropout: float = setting(0.1, "share of units dropped", RUN, least=0, greatest=1, neutral=0.0)
    extra: tuple[str, ...] = setting((), "more", RUN, item="extra", neutral=())


def test_a_setting_that_is_added_later_changes_no_identity_while_it_is_neutral():
    for cell in (Cell(), Cell(architecture="lstm", unseen_datasets=("MNIST",)), Cell(seed=3)):
        later = Grown(**cell.to_dict(), dropout=0)
        assert later.cell_id == cell.cell_id
        assert later.earlier_ids == cell.earlier_ids
        assert Grown(**cell.to_dict()).cell_id != cell.cell_id  # its default is another value
        assert dataclasses.replace(later, extra=["a"]).cell_id != cell.cell_id
        assert not {*dataclasses.replace(later, dropout=0.5).earlier_ids} & {*cell.earlier_ids}


def test_other_numerics_change_every_identity(monkeypatch):
    settings = [{}, {"seed": 1}, {"architecture": "mlp"}, {"mup_base_width": 16}]
    before = [Cell(**s) for s in settings]
    ids = [cell.cell_id for cell in before]
    expected = [(cell.cell_id, *cell.earlier_ids) for cell in before]
    monkeypatch.setattr(identity, "NUMERICS", NUMERICS + 1)
    after = [Cell(**s) for s in settings]
    assert not {cell.cell_id for cell in after} & set(ids)
    assert [cell.earlier_ids for cell in after] == expected


@pytest.mark.parametrize(
    ("settings", "cell_id", "earlier"),
    [
        ({}, "9fea28402143c1c2", ["4bd1523e7fb38351", "fae350e6580eff07", "9e3b69f4fab74af4"]),
        (
            {"architecture": "lstm", "model_size": 7, "seed": 4},
            "0f4f9600d630da14",
            ["0843d110cf226aa1", "5b63899cf985195c", "812687b135fbfad2"],
        ),
        (
            {"unseen_datasets": ["MNIST", "glyphs"], "learning_rate": 3e-4},
            "28a4da6adb675b4a",
            ["d797f33d8de0f692", "e7779b1425974df5"],
        ),
        (
            {"unseen_datasets": ["MNIST", "glyphs"], "normalization": "base"},
            "b21d703954f025e1",
            ["eddc893fab74bf9c", "908669ef1339f464", "972e3ae3328ed9b3"],
        ),
        ({"mup_base_width": 32}, "e5556f8c876a3bcb", ["6401c73e6b6415b8"]),
    ],
)
def test_identities_are_pinned(settings, cell_id, earlier):
    """Results and checkpoints are found by them: they change with NUMERICS only."""
    assert NUMERICS == 2
    cell = Cell(**settings)
    assert cell.cell_id == cell_id
    assert list(cell.earlier_ids) == earlier


def test_declarations_are_sound():
    for name, declared in SETTINGS.items():
        assert declared.name == name
        assert declared.help
        assert declared.help[-1] not in ".;"
        assert declared.typed(declared.default) == declared.default
        for architecture in ARCHITECTURES.values():
            assert all(SETTINGS[key].unused is not NONE for key in architecture.settings)
    assert {name for name, s in SETTINGS.items() if s.unused is not NONE} == {
        key for architecture in ARCHITECTURES.values() for key in architecture.settings
    }


def test_pack_key_ignores_what_may_differ_in_a_pack():
    a, b = Cell(num_tasks=1, seed=0, learning_rate=1e-3), Cell(num_tasks=9, seed=2)
    assert pack_key(a) == pack_key(dataclasses.replace(b, learning_rate=0.1, adam_epsilon=1e-4))
    assert pack_key(a) == pack_key(dataclasses.replace(a, identity_share=0.3, identity_steps=9))
    assert pack_key(a) != pack_key(Cell(batch_size=64))
    assert stack_key(a) == stack_key(dataclasses.replace(b, learning_rate=0.1))
    for changed in ({"model_size": 64}, {"architecture": "lstm"}, {"token_format": "shifted"}):
        other = dataclasses.replace(a, **changed)
        assert pack_key(a) == pack_key(other)
        assert stack_key(a) != stack_key(other)


def test_roles_say_what_cells_of_a_stack_a_pack_and_a_stream_share():
    streams = (
        *("num_tasks", "seed", "identity_share", "identity_steps", "zipf_exponent", "burstiness"),
        *("burst_classes", "label_noise"),
    )
    assert set(PER_REPLICA) == {
        *(*streams, "learning_rate", "learning_rate_end", "adam_epsilon"),
        *("weight_decay", "gradient_clip"),
    }
    assert set(names_of(Cell, STREAM, REPLICA)) == set(streams)
    assert stream_key(Cell(seed=3, num_tasks=7)) == (3, 7, 0.0, 0, 0.0, 0.0, 2, 0.0)
    assert set(names_of(Cell, MODEL)) == {
        *("architecture", "model_size", "token_format", "num_layers", "num_heads", "key_size"),
        *("mlp_ratio", "position_encoding", "mup_base_width"),
    }
    of_new_tasks = set(names_of(Cell, STREAM)) - set(streams) | {"seed"}
    assert set(schema.YARDSTICK_SETTINGS) == of_new_tasks - {"unseen_datasets", "task_family"}
    assert all(setting.roles for setting in SETTINGS.values())


def test_cells_are_grouped_in_their_order():
    cells = [Cell(model_size=s, num_tasks=n) for n, s in ((1, 8), (2, 4), (3, 8), (1, 4))]
    by_shape, by_stream = grouped(cells, stack_key), grouped(cells, stream_key)
    assert list(by_shape.values()) == [cells[::2], cells[1::2]]
    assert list(by_stream.values()) == [cells[::3], cells[1:2], cells[2:3]]


def test_the_configuration_needs_neither_torch_nor_ray():
    modules = "metaphase.core.cell, metaphase.core.schema, metaphase.core.datasets"
    code = f"import sys, {modules}; print('torch' in sys.modules, 'ray' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "False"]
