"""Plug-ins: how they are named, loaded and refused, and what becomes of cells that use them."""

import dataclasses
import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from metaphase.core import plugin_facts, plugins
from metaphase.core.architectures.classes import ModuleLayers
from metaphase.core.cell import Cell, ConfigError, pack_key, stack_key
from metaphase.core.settings import ConfigError as SettingsError
from metaphase.core.tasks.sequences import open_sequences
from metaphase.core.training.checkpoint import check_state
from metaphase.core.training.trainer import PackTrainer
from tests.docs import write_plug_ins

SMALL = {
    **{"model_size": 16, "num_layers": 1, "num_heads": 2, "sequence_length": 8, "batch_size": 16},
    **{"eval_sequences": 128, "warmup_steps": 0, "learning_rate": 0.01},
}


@pytest.fixture
def files(tmp_path):
    return write_plug_ins(tmp_path)


@pytest.fixture
def regression(files):
    return plugins.load("task_family", f"{files['regression.py']}:LinearRegression")


def test_a_name_tells_the_contents(files, regression):
    file = files["regression.py"]
    assert plugins.load("task_family", f"{file}:LinearRegression") == regression
    file.write_text(file.read_text() + "\n# changed\n")
    changed = plugins.load("task_family", f"{file}:LinearRegression")
    assert changed != regression
    assert changed.partition("@")[0] == regression.partition("@")[0]
    file.write_text(file.read_text().replace('    """y = w', '    version = "3"\n\n    """y = w'))
    assert plugins.load("task_family", f"{file}:LinearRegression").endswith("@v3")


def test_its_settings_are_settings_of_the_cell(regression):
    cell = Cell.from_dict({**SMALL, "task_family": regression, "dimension": 3, "steps": 2})
    assert (cell.dimension, cell.noise) == (3, 0.5)
    assert Cell.from_dict(cell.to_dict()) == cell
    assert "dataset" not in cell.to_dict()  # what the family doesn't know
    assert dataclasses.replace(cell, seed=3) == Cell.from_dict({**cell.to_dict(), "seed": 3})
    check_state(cell, PackTrainer([cell]).states()[0])
    other = Cell.from_dict({**cell.to_dict(), "noise": 0.25})
    assert other.cell_id != cell.cell_id
    assert pack_key(other) != pack_key(cell)
    assert {**cell.to_dict(), "noise": 0.25} == other.to_dict()
    same = Cell.from_dict({**cell.to_dict(), "noise": 0.5})
    assert same.cell_id == cell.cell_id


def test_an_architecture_s_settings_share_batches(files):
    gated = plugins.load("architecture", f"{files['gated.py']}:GatedRecurrence")
    narrow, wide = (
        Cell.from_dict({**SMALL, "architecture": gated, "expansion": e, "image_size": 4})
        for e in (1, 2)
    )
    assert stack_key(narrow) != stack_key(wide)
    assert pack_key(narrow) == pack_key(wide) == pack_key(Cell(**SMALL, image_size=4))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dimension": 0}, "dimension: 0 is out of range; allowed: 1 or more"),
        ({"dimension": "many"}, "dimension: 'many' is not a whole number"),
        ({"dimensions": 3}, "dimensions: unknown key; known keys: .*dimension"),
        ({"expansion": 3}, "expansion: unknown key"),
        ({"task_family": "regression.py:Other@0123456789ab"}, "is not one of projected_images"),
    ],
)
def test_impossible_settings_are_refused(regression, settings, message):
    with pytest.raises(ConfigError, match=message):
        Cell.from_dict({**SMALL, "task_family": regression, **settings})


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (None, "can't read .*plug.py: No such file"),
        ("import nothing_like_it", "can't be imported: ModuleNotFoundError: No module named 'noth"),
        ("class Mine:\n  def (", "can't be imported: SyntaxError"),
        ("raise SystemExit(3)", "can't be imported: SystemExit: 3"),
        ("x = 1", "the file has no Mine"),
        ("Mine = 1", "is not a class"),
        ("class Mine:\n  def problem(self): pass", "lacks sequences"),
        (
            "from dataclasses import dataclass\n@dataclass\nclass Mine:\n  steps: int = 1\n"
            "  def problem(self): pass\n  def sequences(self): pass",
            "the name of its setting steps is taken",
        ),
        (
            "from dataclasses import dataclass\n@dataclass\nclass Mine:\n  cell_id: int = 1\n"
            "  def problem(self): pass\n  def sequences(self): pass",
            "the name of its setting cell_id is taken",
        ),
        (
            "from dataclasses import dataclass\n@dataclass\nclass Mine:\n  size: int\n"
            "  def problem(self): pass\n  def sequences(self): pass",
            "its setting size has no default",
        ),
        (
            "from dataclasses import dataclass\n@dataclass\nclass Mine:\n  size: dict = None\n"
            "  def problem(self): pass\n  def sequences(self): pass",
            "its setting size is of type .*dict.*; allowed: int, float",
        ),
        (
            "from dataclasses import dataclass\nfrom typing import Literal\n@dataclass\n"
            "class Mine:\n  size: Literal[1, 2] = 1\n"
            "  def problem(self): pass\n  def sequences(self): pass",
            "its setting size is of type .*Literal.*; allowed: int, float",
        ),
        (
            "from dataclasses import dataclass\n@dataclass\nclass Mine:\n  size: 'Unknown' = 1\n"
            "  def problem(self): pass\n  def sequences(self): pass",
            "has settings that can't be read: NameError",
        ),
    ],
)
def test_what_is_no_plug_in_is_said_in_a_line(tmp_path, code, message):
    if code is not None:
        (tmp_path / "plug.py").write_text(code)
    with pytest.raises(ConfigError, match=message) as caught:
        plugins.load("task_family", "plug.py:Mine", tmp_path)
    assert "\n" not in str(caught.value)


FAMILY = """
from dataclasses import dataclass
from metaphase.core.settings import STREAM, setting
from metaphase.core.tasks import Classes, Problem, Reals

@dataclass(frozen=True)
class Mine:
    share: float = setting(0.5, "a number", STREAM, greatest=1)
    bound: int = None

    def problem(self):
        return {problem}

    def sequences(self, task, sequence, T, split):
        return sequence.normal("x", T, 2), {targets}
"""


def family(folder, problem="Problem(2, Classes(3))", targets='sequence.integers("y", 3, T)'):
    (folder / "mine.py").write_text(FAMILY.format(problem=problem, targets=targets))
    return plugins.load("task_family", "mine.py:Mine", folder)


@pytest.mark.parametrize("share", [1.5, float("nan"), float("-inf")])
def test_numbers_are_finite_and_within_the_one_bound_there_is(tmp_path, share):
    name = family(tmp_path)
    assert Cell(**SMALL, task_family=name, own=(("share", -3),)).share == -3.0
    with pytest.raises(ConfigError, match=r"share: .* is out of range; allowed: "):
        Cell(**SMALL, task_family=name, own=(("share", share),))


@pytest.mark.parametrize(
    "problem", ["None", "Problem(2, Classes(1))", "Problem(2, Reals(1, 0.0))", "Problem(-1, 2)"]
)
def test_a_problem_that_can_t_be_is_refused_with_the_cell(tmp_path, problem):
    with pytest.raises(ConfigError, match=r"problem\(\) of mine.py:Mine@\w+ says"):
        Cell(**SMALL, task_family=family(tmp_path, problem))
    with pytest.raises(ConfigError, match=r"problem\(\) of mine.py:Mine@\w+: ZeroDivisionError"):
        Cell(**SMALL, task_family=family(tmp_path, "1 / 0"))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ('sequence.integers("y", 3, T) + 1', "its targets are in 1 to 3; .* says 0 to 2"),
        (
            'sequence.integers("y", 3, T) + 3 * (split == "train")',
            "in training its targets are in 3 to 5",
        ),
        ('{"seen": 0, "unseen": 0}[split]', "sequences.. .* fails in training: KeyError: 'train'"),
        ('{}["y"]', "sequences.. of mine.py:Mine@.* fails in .*: KeyError: 'y'"),
        (
            'sequence.integers("y", 3, T) - 9 * (split == "seen")',
            "in the split 'seen' its targets are in -9 to -7",
        ),
        ("3", "gives no tensors"),
        ("T.none", "sequences.. of mine.py:Mine@.* fails in .*: AttributeError: "),
        ("nothing", "sequences.. of mine.py:Mine@.* fails in .*: NameError: "),
        ('sequence.normal("y", T).log()', "its targets are torch.float32"),
    ],
)
def test_a_family_that_fails_is_refused_before_training(tmp_path, targets, message):
    cell = Cell(**SMALL, task_family=family(tmp_path, targets=targets))
    with pytest.raises(ConfigError, match=message):
        PackTrainer([cell])


@pytest.mark.parametrize(
    ("x", "message"),
    [("x / 0", "inputs are not all finite"), ("None", "gives no inputs; .* says 2 of them")],
)
def test_inputs_that_can_t_be_are_refused_before_training(tmp_path, x, message):
    code = FAMILY.format(problem="Problem(2, Classes(3))", targets='sequence.integers("y", 3, T)')
    drawn = 'sequence.normal("x", T, 2)'
    code = code.replace(f"return {drawn}", f"x = {drawn}; return {x}")
    (tmp_path / "mine.py").write_text(code)
    name = plugins.load("task_family", "mine.py:Mine", tmp_path)
    with pytest.raises(ConfigError, match=message):
        PackTrainer([Cell(**SMALL, task_family=name)])


def test_code_of_a_plug_in_inherits_nothing_of_the_programs(tmp_path):
    code = FAMILY.format(problem="Problem(2, Classes(3))", targets='sequence.integers("y", 3, T)')
    inner = "class Mine:\n    from typing import ClassVar\n    count: ClassVar[dict] = {}\n"
    (tmp_path / "mine.py").write_text(code.replace("class Mine:\n", inner))
    name = plugins.load("task_family", "mine.py:Mine", tmp_path)
    assert list(plugins.find("task_family", name).own) == ["share", "bound"]


def test_items_of_a_list_are_told_apart_in_a_column(tmp_path):
    code = FAMILY.format(problem="Problem(2, Classes(3))", targets="None")
    (tmp_path / "mine.py").write_text(
        code.replace("share: float", "lots: tuple[str, ...] = ()\n    share: float")
    )
    name = plugins.load("task_family", "mine.py:Mine", tmp_path)
    for lots in (["a,b"], ["a", ""]):
        with pytest.raises(ConfigError, match=r"lots: '(a,b)?' can't be one of several"):
            Cell.from_dict({**SMALL, "task_family": name, "lots": lots})


def test_a_file_whose_run_is_interrupted_is_run_again(tmp_path):
    code = "import sys\nif sys.argv is None: raise KeyboardInterrupt\n"
    code += "class Mine:\n  def values(self, outputs, batch, cell): pass\n"
    (tmp_path / "mine.py").write_text(code)
    with mock.patch.object(sys, "argv", None), pytest.raises(KeyboardInterrupt):
        plugins.load("metrics", "mine.py:Mine", tmp_path)
    assert plugins.load("metrics", "mine.py:Mine", tmp_path).startswith("mine.py:Mine@")


def test_a_file_is_run_once_to_its_end_by_however_many_threads(tmp_path):
    code = "import time\ntime.sleep(0.3)\nclass Late:\n  def values(self, o, b, c): pass\n"
    (tmp_path / "mine.py").write_text(code)
    with ThreadPoolExecutor() as threads:
        found = [threads.submit(plugins.load, "metrics", "mine.py:Late", tmp_path) for _ in "123"]
    assert len({future.result() for future in found}) == 1


def test_a_plug_in_is_one_file(tmp_path, monkeypatch):
    (tmp_path / "beside.py").write_text("import json, numpy\n")
    code = "import json, metaphase, numpy.linalg\nfrom {} import *\n"
    code += "class Mine:\n  def values(self, outputs, batch, cell): pass\n"
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("beside", "json"):
        (tmp_path / f"of_{name}.py").write_text(code.format(name))
    plugins.load("metrics", "of_json.py:Mine", tmp_path)
    with pytest.raises(ConfigError, match=r"imports beside of .*beside.py; .* has to be one file"):
        plugins.load("metrics", "of_beside.py:Mine", tmp_path)


MODULE = """
import torch
from torch import nn

class Mine(nn.Module):
    def __init__(self, width: int, tokens: int, share: float = 0):
        super().__init__()
        self.layer, self.drop = nn.Linear(width, width), nn.Dropout(0.1)
        self.register_buffer("one", torch.ones(()))
        {init}

    def forward(self, h):
        return {outputs}
"""


@pytest.mark.parametrize(
    ("init", "outputs", "message"),
    [
        (
            "pass",
            "self.drop(self.layer(h))",
            "Mine can't be stacked .* no dropout.*: Run.* vmap",
        ),
        ("pass", "self.layer(h)[:, 1:]", r".forward\(\) gives .*; needed: \(1, 16, 15, 16\)"),
        ("1 / 0", "h", r"Mine\(16, 15\) can't be made: ZeroDivisionError"),
        ("self.more = nn.LazyLinear(3)", "h", "parameter more.weight of Mine is of no shape"),
        ("self.layer.requires_grad_(False)", "h", "parameter layer.weight of Mine is not trained"),
        ("self.p = nn.Parameter(self.one * 1j)", "h", "parameter p of Mine is torch.complex64"),
        ("self.head = nn.Parameter(self.one)", "h", "name of its parameter head is taken"),
        ("pass", "h", "outputs don't depend on the parameter layer.weight"),
        ("pass", "self.layer(h) * self.one.add_(1)", r"Mine.forward\(\) changes buffers"),
        ("self.n = [0]", "(self.layer(h), self.n.append(1))[0]", "changes its attribute n, "),
        (
            "self.layer.n = 0",
            "(self.layer(h), setattr(self.layer, 'n', self.layer.n + 1))[0]",
            "changes its attribute layer.n, ",
        ),
        (
            "self.all = iter(range(9))",
            "self.layer(h) * next(self.all)",
            "outputs from call to call",
        ),
    ],
)
def test_a_module_that_fails_is_a_wrong_setting(tmp_path, init, outputs, message):
    (tmp_path / "module.py").write_text(MODULE.format(init=init, outputs=outputs))
    name = plugins.load("architecture", "module.py:Mine", tmp_path)
    cell = Cell(**SMALL, architecture=name, image_size=4, own=(("share", 0.5),))
    assert cell.share == 0.5  # as the annotation says, although its default is a whole number
    with pytest.raises(ConfigError, match=message):
        PackTrainer([cell]).train(1)


def test_a_module_may_keep_what_its_first_call_computes(tmp_path):
    outputs = "(self.__dict__.setdefault('length', h.shape[-2]), self.layer(h))[1]"
    (tmp_path / "module.py").write_text(MODULE.format(init="pass", outputs=outputs))
    name = plugins.load("architecture", "module.py:Mine", tmp_path)
    PackTrainer([Cell(**SMALL, architecture=name, image_size=4, own=(("share", 0.5),))]).train(1)


def test_a_module_s_weights_can_be_asked_for_while_another_thread_computes_with_it():
    held, asked = threading.Event(), threading.Event()

    class Mine(torch.nn.Linear):
        def __init__(self, width, tokens):
            super().__init__(width, width)

        def forward(self, h):
            held.set()
            asked.wait(0.5)
            return super().forward(h)

    layers, cell = ModuleLayers(Mine, ()), Cell(**SMALL, image_size=4)
    specs = layers.parameters(cell)
    p = {name: torch.ones(1, *spec.shape) for name, spec in specs.items()}
    thread = threading.Thread(target=layers.apply, args=(p, torch.ones(1, 2, 15, 16), cell, 1))
    thread.start()
    held.wait()
    values = specs["weight"].initial(0)
    asked.set()
    thread.join()
    assert not values.eq(1).all()


def test_a_module_s_weights_are_a_function_of_the_seed_whatever_draws_them():
    class Mine(torch.nn.Module):
        def __init__(self, width, tokens):
            super().__init__()
            draws = [torch.rand(1).item(), np.random.rand(), random.random()]
            self.w = torch.nn.Parameter(torch.tensor(draws))

    random.seed(7)
    np.random.seed(7)
    before = random.getstate(), np.random.get_state()[1].tolist()
    layers = ModuleLayers(Mine, ())
    key = layers._key(Cell(**SMALL, image_size=4))
    first = layers._make(key, 3).w.tolist()
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    random.seed(8)
    np.random.seed(8)
    assert layers._make(key, 3).w.tolist() == first
    assert not set(layers._make(key, 4).w.tolist()) & set(first)


LAYERS = """
from dataclasses import dataclass
from metaphase.core.architectures.parameters import Spec

@dataclass(frozen=True)
class Mine:
    {more}

    def parameters(self, cell):
        return {parameters}

    def apply(self, p, h, cell, stride):
        return (h * p["scale"][:, None, None])[:, :, ::stride]

    def state_size(self, cell):
        return {size}
"""
SCALE = '{"scale": Spec((cell.model_size,), 1.0)}'


@pytest.mark.parametrize(
    ("more", "parameters", "size", "message"),
    [
        ("pass", "cell.nothing", "3", r"Mine.parameters\(\) fails: AttributeError"),
        ("pass", "None", "3", r"Mine.parameters\(\) says None; needed"),
        ("pass", SCALE.replace("size", "size / 1"), "3", r"says 'scale': Spec.*needed"),
        ("pass", SCALE, "cell.nothing", r"Mine.state_size\(\) fails: AttributeError"),
        ("pass", SCALE, "'large'", r"Mine.state_size\(\) says 'large'; needed: a whole number"),
        ("forward_flops = lambda self, cell: None", SCALE, "3", r"forward_flops\(\) says None"),
        ("__post_init__ = lambda self: 1 / 0", SCALE, "3", "fails: ZeroDivisionError"),
        ("uses = ('head_size',)", SCALE, "3", "uses = .*; allowed: a tuple of key_size, mlp_ratio"),
        ("uses = 'num_heads'", SCALE, "3", "uses = 'num_heads'; allowed: a tuple of "),
    ],
)
def test_layers_that_fail_are_refused_before_training(tmp_path, more, parameters, size, message):
    (tmp_path / "layers.py").write_text(LAYERS.format(more=more, parameters=parameters, size=size))

    def train():
        name = plugins.load("architecture", "layers.py:Mine", tmp_path)
        PackTrainer([Cell(**SMALL, architecture=name, image_size=4)])

    with pytest.raises(ConfigError, match=message):
        train()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("return outputs.mean()", r"gives torch.float32 \(\); needed: \(1, 16\), a real number"),
        ("return 3", r"gives int; needed: \(1, 16\)"),
        ("return outputs[..., 0, 0] * 1j", "gives torch.complex64"),
        ("return 1 / 0", "fails: ZeroDivisionError: division by zero"),
        ("return outputs[..., 0, 0] + outputs[:, :3, 0, 0]", "fails: RuntimeError: The size"),
    ],
)
def test_a_metric_that_fails_is_refused_before_training(tmp_path, code, message):
    (tmp_path / "plug.py").write_text(
        f"class Mine:\n  def values(self, outputs, batch, cell):\n    {code}"
    )
    name = plugins.load("metrics", "plug.py:Mine", tmp_path)
    said = f"metrics: values\\(\\) of {name}, on linear_regression, {message}"
    cell = Cell(**SMALL, task_family="linear_regression", metrics=(name,))
    with pytest.raises(ConfigError, match=said) as caught:
        PackTrainer([cell])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", ["projected_images", "linear_regression"])
def test_metrics_replace_nothing_of_the_trainer_s(tmp_path, family):
    (tmp_path / "plug.py").write_text(
        "\n".join(
            f"class {name}:\n  def values(self, o, b, c): return o[..., 0, 0] * 0 + 0.75"
            for name in ("Score", "Outputs")
        )
    )
    names = [plugins.load("metrics", f"plug.py:{n}", tmp_path) for n in ("Score", "Outputs")]
    cell = {**SMALL, "task_family": family, "steps": 2}
    rows = []
    for metrics in ([], names):
        trainer = PackTrainer([Cell.from_dict({**cell, "metrics": metrics})])
        trainer.advance()
        rows.append(trainer.results()[0][0])
    assert rows[1]["unseen_score"] == rows[1]["unseen_outputs"] == 0.75
    for key in ("unseen_last", "seen_first", "unseen_distance_memorizing", "unseen_loss"):
        assert rows[0].get(key) == rows[1].get(key)


@pytest.mark.parametrize(
    ("predict", "message"),
    [
        ("1 / 0", "fails: ZeroDivisionError"),
        ("x[:, 0]", r"its predictor mine gives \(128, 0\); needed: \(128, 8, 2\)"),
    ],
)
def test_a_predictor_that_fails_is_refused_before_training(tmp_path, predict, message):
    (tmp_path / "plug.py").write_text(
        "from metaphase.core.families.balls_and_urns import BallsAndUrns\n"
        "from metaphase.core.predictors import FromContext\n"
        "class Mine(BallsAndUrns):\n  symbols = 2\n  def predictors(self):\n"
        f"    return {{'mine': FromContext(lambda x, y: {predict})}}"
    )
    name = plugins.load("task_family", "plug.py:Mine", tmp_path)
    cell = {**SMALL, "task_family": name, "token_format": "shifted", "steps": 2, "symbols": 2}
    trainer = PackTrainer([Cell.from_dict(cell)])
    with pytest.raises(ConfigError, match=message) as caught:
        trainer.advance()
    assert "\n" not in str(caught.value)
    assert trainer.step == 0


def test_facts_are_enough_to_read_cells_and_run_no_code(files, regression, tmp_path):
    """In another process, which gets the facts and not the file."""
    cell = Cell.from_dict({**SMALL, "task_family": regression, "dimension": 3})
    facts = plugin_facts.facts(plugins.find("task_family", regression))
    files["regression.py"].unlink()
    code = (
        "import sys, json\nfrom metaphase.core import plugin_facts\n"
        "from metaphase.core.cell import Cell, ConfigError\n"
        f"plugin_facts.declare(json.loads({__import__('json').dumps(facts)!r}))\n"
        f"cell = Cell.from_dict({cell.to_dict()!r})\n"
        "print(cell.cell_id, 'torch' in sys.modules)\n"
        "try:\n  cell.problem\nexcept ConfigError as error:\n  print(error)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines() == [
        f"{cell.cell_id} False",
        f"the plug-in {regression} isn't loaded, only what is known of it",
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "module"}, {"name": "x"}, {"name": 3}, {"own": {"steps": {}}}, {"own": 3},
        {"own": {"a b": {"kind": "int", "default": 1}}},
        {"own": {"a": {"kind": "code", "default": 1}}},
        {"own": {"a": {"kind": "int", "default": "x"}}},
        {"own": {"a": {"kind": "int", "default": 1, "least": "x"}}},
        {"settings": "dataset"}, {"settings": [3]},
    ],
)  # fmt: skip
def test_facts_that_can_t_be_are_refused(change):
    said = {"kind": "task_family", "name": "a.py:B@0", "own": {}, "settings": []}
    with pytest.raises(ConfigError, match="plug_ins: ") as caught:
        plugin_facts.declare({**said, **change})
    assert "\n" not in str(caught.value)


def test_own_regression_is_learned_in_context(regression):
    """One task is known by heart; of 2^20 every one is inferred from its examples."""
    cells = [
        Cell.from_dict(
            {**SMALL, "task_family": regression, "dimension": 2, "noise": 0.1, "num_tasks": n,
             "steps": 400, "eval_every": 400}
        )
        for n in (1, 2**20)
    ]  # fmt: skip
    trainer = PackTrainer(cells)
    while not trainer.finished:
        trainer.advance()
    rows = {row["num_tasks"]: row for row, _ in trainer.results()}
    level = rows[1]["unseen_level"]
    assert rows[1]["seen_first"] > 0.9
    assert rows[1]["unseen_last"] < level + 0.05
    assert rows[2**20]["unseen_last"] > level + 0.15
    assert rows[2**20]["unseen_last"] > rows[2**20]["unseen_first"] + 0.15
    assert rows[1]["guess_loss"] == pytest.approx(2.01)


def test_data_and_metrics_of_one_s_own_reach_the_tables(files):
    from tests.core.conformance.test_conformance import squares

    folder = files["squares.py"].parent
    squares(folder / "squares.npz")
    dataset = plugins.load("dataset", f"{files['squares.py']}:Squares")
    metric = plugins.load("metrics", f"{files['surprise.py']}:Surprise")
    cell = Cell.from_dict(
        {
            **SMALL,
            "dataset": dataset,
            "metrics": [metric],
            "steps": 2,
            "unseen_datasets": ["digits"],
        }
    )
    assert (cell.num_classes, cell.file) == (4, "squares.npz")
    trainer = PackTrainer([cell], data_root=folder)
    trainer.advance()
    row, _ = trainer.results()[0]
    assert row["own_settings"] == "file"
    assert 1.5 < row["unseen_surprise"] < 2.5
    assert 0 < row["unseen_surprise_se"] < 0.2
    assert {"surprise", "surprise_se"} < trainer.history[0][0].keys()


def test_two_metrics_of_one_column_are_refused(tmp_path):
    names = []
    for file in ("one.py", "two.py"):
        (tmp_path / file).write_text("class Mine:\n  def values(self, outputs, batch, cell): pass")
        names.append(plugins.load("metrics", f"{tmp_path / file}:Mine"))
    Cell(**SMALL, metrics=(names[0],))
    with pytest.raises(ConfigError, match=r"metrics: one.py.* and two.py.* have one column"):
        Cell(**SMALL, metrics=tuple(names))


@pytest.mark.parametrize("name", ["Loss", "First", "N"])
def test_a_metric_s_column_must_be_free(tmp_path, name):
    (tmp_path / "plug.py").write_text(f"class {name}:\n  def values(self, o, b, c): pass")
    with pytest.raises(ConfigError, match=f"the column {name.lower()} is taken"):
        plugins.load("metrics", f"plug.py:{name}", tmp_path)


def test_a_family_without_settings_has_no_earlier_identities(tmp_path):
    (tmp_path / "bare.py").write_text(
        "from metaphase.core.tasks import Classes, Problem\n"
        "class Bare:\n"
        "    def problem(self):\n        return Problem(0, Classes(3))\n"
        "    def sequences(self, task, sequence, T, split):\n"
        "        return None, (sequence.integers('y', 3, T) + task.integers('o', 3, 1)) % 3\n"
    )
    name = plugins.load("task_family", "bare.py:Bare", tmp_path)
    cell = Cell.from_dict({**SMALL, "task_family": name, "token_format": "shifted", "steps": 2})
    assert cell.earlier_ids == ()
    with pytest.raises(ConfigError, match="token_format: interleaved has tokens of inputs alone"):
        Cell.from_dict({**SMALL, "task_family": name})
    trainer = PackTrainer([cell])
    trainer.advance()
    assert trainer.results()[0][0]["unseen_level"] == pytest.approx(1 / 3)


def test_missing_data_is_said_in_a_line(files):
    dataset = plugins.load("dataset", f"{files['squares.py']}:Squares")
    cell = Cell.from_dict({**SMALL, "dataset": dataset, "steps": 2})
    with pytest.raises(SettingsError, match="can't be loaded: FileNotFoundError") as caught:
        PackTrainer([cell], data_root=files["squares.py"].parent)
    assert "\n" not in str(caught.value)


def test_torchvision_s_constructor_is_enough(tmp_path):
    (tmp_path / "plain.py").write_text(
        "from metaphase.core.datasets import DatasetInfo\n"
        "import numpy as np\n"
        "class Plain:\n"
        "    def __init__(self, root, train=True, download=False):\n"
        "        self.count = 40 if train else 20\n"
        "    @staticmethod\n"
        "    def info():\n"
        "        return DatasetInfo(6, 3, 2, 40, 20)\n"
        "    def __len__(self):\n"
        "        return self.count\n"
        "    def __getitem__(self, i):\n"
        "        return np.full((6, 6, 3), 40 * (i % 2) + i, dtype=np.uint8), i % 2\n"
    )
    name = plugins.load("dataset", "plain.py:Plain", tmp_path)
    cell = Cell.from_dict({**SMALL, "dataset": name, "sequence_length": 4})
    images = open_sequences([cell], tmp_path, "cpu").images
    assert images.train.x_IxX.shape == (40, 108)
    assert Path(tmp_path / "plain.py").exists()
