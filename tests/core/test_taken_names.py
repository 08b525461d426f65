"""Names of settings, metrics and predictors by which one column would replace another."""

import pytest

from metaphase.core import plugin_facts, plugins, schema
from metaphase.core.cell import Cell, ConfigError
from metaphase.core.evaluation import METRICS
from metaphase.core.families import FAMILIES
from metaphase.core.taken_names import check_metric, check_own, check_predictors
from metaphase.core.tasks import TASK_FAMILIES
from metaphase.core.tasks.sequences import open_sequences
from metaphase.core.training.trainer import PackTrainer

SMALL = {"model_size": 8, "num_layers": 1, "num_heads": 1, "sequence_length": 6, "steps": 2}

COINS = """
from dataclasses import dataclass
import torch
from metaphase.core.predictors import FromContext
from metaphase.core.tasks import Classes, Problem

HALF = FromContext(lambda x, y: torch.full((*y.shape, 2), 0.5, dtype=torch.float64))

@dataclass(frozen=True)
class Coins:
    {setting}: float = 0.5
    def problem(self):
        return Problem(0, Classes(2), start_token=True)
    def parameters(self, task):
        return task.uniform("p", 1)
    def sequences(self, task, sequence, T, split):
        return None, (sequence.uniform("y", T) < self.parameters(task)).long()
    def predictors(self):
        return {predictors}
"""


@pytest.mark.parametrize(
    "setting",
    [
        *("unseen_off_line", "seen_relative_distance", "in_weights_loss_memorizing", "off_line"),
        *("unseen_distance_memorizing", "distance_x", "yardstick", "unseen_loss", "accuracy_se"),
    ],
)
def test_a_setting_is_called_as_no_column(tmp_path, setting):
    (tmp_path / "coins.py").write_text(COINS.format(setting=setting, predictors="{}"))
    with pytest.raises(ConfigError, match=f"the name of its setting {setting} is taken"):
        plugins.load("task_family", "coins.py:Coins", tmp_path)
    said = {"kind": "task_family", "name": "a.py:B@0", "settings": []}
    with pytest.raises(ConfigError, match=f"its setting {setting} is taken"):
        plugin_facts.declare({**said, "own": {setting: {"kind": "float", "default": 1.0}}})


def test_a_setting_is_called_as_no_column_of_the_cell_s_metrics(tmp_path):
    (tmp_path / "coins.py").write_text(
        COINS.format(setting="unseen_confidence_se", predictors="{}")
    )
    name = plugins.load("task_family", "coins.py:Coins", tmp_path)
    cell = {**SMALL, "task_family": name, "token_format": "shifted"}
    Cell.from_dict(cell)
    with pytest.raises(ConfigError, match=r"unseen_confidence_se: .* have this name"):
        Cell.from_dict({**cell, "metrics": ["confidence"]})


@pytest.mark.parametrize(
    "name",
    ["off_line", "Loss_Of", "Distance_X", "relative_distance", "Name_se", "Level", "Datasets"],
)
def test_a_metric_s_columns_are_free_in_all_tables(tmp_path, name):
    (tmp_path / "plug.py").write_text(f"class {name}:\n  def values(self, o, b, c): pass")
    with pytest.raises(ConfigError, match=f"the column {name.lower()} is taken"):
        plugins.load("metrics", f"plug.py:{name}", tmp_path)
    said = {"kind": "metrics", "name": "plug.py:Mine@0", "own": {}, "column": name.lower()}
    with pytest.raises(ConfigError, match="is taken"):
        plugin_facts.declare(said)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("difference", "the column distance_difference is taken; rename the predictor"),
        ("between", "the column distance_between is taken"),
        ("oracle_se", "the column distance_oracle_se is taken"),
        ("my pred", "'my pred' becomes part of columns"),
        ("Mine", "'Mine' becomes part of columns"),
    ],
)
def test_a_predictor_s_name_is_free(tmp_path, name, message):
    said = f"{{{name!r}: HALF}}"
    (tmp_path / "coins.py").write_text(COINS.format(setting="share", predictors=said))
    with pytest.raises(ConfigError, match=message) as caught:
        plugins.load("task_family", "coins.py:Coins", tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("{'between': HALF}", "distance_between is taken"),
        ("{'mine': HALF.predict}", "the predictor mine is a function; make it a FromContext"),
        ("1 / 0", r"predictors\(\) of .*: ZeroDivisionError"),
    ],
)
def test_predictors_that_depend_on_settings_are_looked_at_before_training(tmp_path, said, message):
    code = f"{said} if self.share < 0.5 else {{}}"
    (tmp_path / "coins.py").write_text(COINS.format(setting="share", predictors=code))
    name = plugins.load("task_family", "coins.py:Coins", tmp_path)
    cell = {**SMALL, "task_family": name, "token_format": "shifted", "eval_sequences": 8}
    PackTrainer([Cell.from_dict(cell)])
    with pytest.raises(ConfigError, match=message):
        PackTrainer([Cell.from_dict({**cell, "share": 0.25})])


def test_the_program_s_own_names_are_free():
    for name, metric in METRICS.items():
        check_metric(name, metric.column)
    for family in FAMILIES:
        check_own(TASK_FAMILIES[family].own)
        cell = {"task_family": family, "token_format": "interleaved"}
        if family in ("balls_and_urns", "markov_chains"):
            cell["token_format"] = "shifted"
        sequences = open_sequences([Cell.from_dict(cell)], "", "cpu")
        check_predictors(sequences.family.predictors())


def test_columns_of_predictors_are_known_by_their_names():
    for name in ("distance_x", "unseen_loss_x", "in_context_relative_distance_se", "off_line"):
        assert schema.OF_PREDICTORS.fullmatch(name)
    for name in ("my_loss_kind", "loss", "unseen_loss", "learning_distance_x"):
        assert not schema.OF_PREDICTORS.fullmatch(name)
