"""The checks of plug-ins: ours pass them, and broken ones are caught, each with a sentence that
says what to do."""

import numpy as np
import pytest

from metaphase.core import conformance, plugins
from metaphase.core.architectures import ARCHITECTURES
from metaphase.core.evaluation import METRICS
from metaphase.core.phase_rules import RULE, RULES
from metaphase.core.tasks import TASK_FAMILIES
from tests import ROOT
from tests.docs import write_plug_ins

FAMILY, ARCHITECTURE = plugins.TASK_FAMILY, plugins.ARCHITECTURE
BROKEN = ROOT / "tests" / "core" / "conformance" / "broken.py"


@pytest.mark.parametrize(
    ("kind", "name", "check"),
    [
        (kind, name, check)
        for kind, names in (
            (FAMILY, [n for n in TASK_FAMILIES if "@" not in n]),
            (plugins.DATASET, ["digits"]),
            (ARCHITECTURE, [n for n in ARCHITECTURES if "@" not in n]),
            (plugins.METRIC, [n for n in METRICS if "@" not in n]),
            (RULE, list(RULES)),
        )
        for name in names
        for check in conformance.checks(kind)
    ],
)
def test_ours_keep_their_promises(kind, name, check):
    conformance.run(check, kind, name)


@pytest.fixture(scope="module")
def documented(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plug-ins")
    squares(folder / "squares.npz")
    return write_plug_ins(folder)


def squares(path):
    """400 and 100 images with a bright square in one of four corners, and noise."""
    draw = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 400), ("test", 100)):
        labels = np.arange(count) % 4
        images = draw.integers(0, 100, (count, 8, 8), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[4 * (label // 2) :, 4 * (label % 2) :][:4, :4] += 150
        arrays |= {split: images, f"{split}_labels": labels}
    np.savez(path, **arrays)


@pytest.mark.parametrize(
    "name",
    [
        *("regression.py:LinearRegression", "coins.py:Coins", "gated.py:GatedRecurrence"),
        *("convolution.py:Convolution", "squares.py:Squares", "surprise.py:Surprise"),
    ],
)
def test_those_in_the_documentation_do_too(documented, name):
    file, _, class_name = name.partition(":")
    [kind] = plugins.kinds_of(f"{documented[file]}:{class_name}")
    loaded = plugins.load(kind, f"{documented[file]}:{class_name}")
    for check in conformance.checks(kind):
        conformance.run(check, kind, loaded, data_root=str(documented[file].parent))


ATTENTION = """
import torch
from torch import nn

class Attention(nn.Module):
    def __init__(self, width: int, tokens: int, heads: int = 2):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.register_buffer("mask", torch.ones(tokens, tokens, dtype=torch.bool).triu(1))

    def forward(self, h):
        x = self.norm(h)
        return h + self.attention(x, x, x, attn_mask=self.mask, need_weights=False)[0]
"""


@pytest.mark.parametrize("check", conformance.checks(ARCHITECTURE))
def test_a_module_that_is_made_for_its_tokens_does_too(tmp_path, check):
    (tmp_path / "attention.py").write_text(ATTENTION)
    name = plugins.load(ARCHITECTURE, "attention.py:Attention", tmp_path)
    conformance.run(check, ARCHITECTURE, name)


@pytest.mark.parametrize(
    ("kind", "name", "check", "sentence"),
    [
        (FAMILY, "WrongShape", "shapes_are_those_of_its_problem", "its targets are torch.int64"),
        (FAMILY, "OutOfRange", "shapes_are_those_of_its_problem", "targets are in 1 to 3"),
        (FAMILY, "OutOfRangeInTraining", "shapes_are_those_of_its_problem", "are in 3 to 5"),
        (FAMILY, "WrongVariance", "shapes_are_those_of_its_problem", "mean square of targets"),
        (FAMILY, "OwnRandomness", "the_same_number_is_the_same_thing", "All randomness must come"),
        (FAMILY, "LooksAtTheBatch", "the_same_number_is_the_same_thing", "others of its batch"),
        (FAMILY, "FewTasks", "tasks_differ_and_decide", "only 3 are different"),
        (FAMILY, "Changeable", "its_settings_stay", r"say @dataclass\(frozen=True\)"),
        (FAMILY, "Infinite", "predictors_have_shapes", "gives not all finite; needed"),
        (FAMILY, "NoTask", "tasks_differ_and_decide", "don't depend on their task"),
        (FAMILY, "OneSequence", "tasks_differ_and_decide", "second Random"),
        (FAMILY, "ReadsBack", "nothing_is_read_back", "don't use item"),
        (FAMILY, "LooksAtTheAnswer", "predictors_do_not_look_ahead", "would see the answer"),
        (FAMILY, "NotOne", "predictors_have_shapes", "probabilities of classes"),
        (FAMILY, "Confused", "predictors_tell_m_from_g", "which should be best there"),
        (FAMILY, "LacksATerm", "memorizing_errs_on_no_side", "Is a term of the task alone lacking"),
        (ARCHITECTURE, "IgnoresStride", "parameters_have_shapes", "outputs at positions 0, stride"),
        (ARCHITECTURE, "LooksAhead", "it_is_causal", "a prediction would see its answer"),
        (ARCHITECTURE, "LooksAheadModule", "it_is_causal", "a prediction would see its answer"),
        (ARCHITECTURE, "OwnGenerator", "seeds_differ", "others when the module is made again"),
        (ARCHITECTURE, "NoMemory", "earlier_examples_matter", "has_context = False"),
        (ARCHITECTURE, "MixesReplicas", "replicas_do_not_mix", "nothing may mix"),
        (ARCHITECTURE, "MixesSequences", "a_cell_is_itself_in_any_pack", "Nothing may mix"),
        (ARCHITECTURE, "UnusedParameter", "every_parameter_is_trained", "isn't used"),
        (ARCHITECTURE, "DeadParameter", "every_parameter_is_trained", "doesn't move dead"),
        (ARCHITECTURE, "Counts", "a_checkpoint_continues_exactly", "Keep nothing between steps"),
        (ARCHITECTURE, "NoState", "the_state_is_counted", "how many scalars"),
        (plugins.METRIC, "WholeBatch", "sequences_do_not_mix", "others of its batch"),
        (
            plugins.METRIC,
            "OnePosition",
            "values_are_one_a_sequence",
            "a real number for each replica",
        ),
        (plugins.METRIC, "InPlace", "nothing_is_changed", "no operations in place"),
    ],
)
def test_what_is_broken_is_caught(kind, name, check, sentence):
    loaded = plugins.load(kind, f"{BROKEN}:{name}")
    with pytest.raises(conformance.Broken, match=sentence):
        conformance.run(check, kind, loaded)


def test_rounding_is_no_look_ahead():
    loaded = plugins.load(FAMILY, f"{BROKEN}:LacksATerm")
    conformance.run("predictors_do_not_look_ahead", FAMILY, loaded)


SOUND = """
from dataclasses import dataclass

import torch

from metaphase.core.predictors import FromContext
from metaphase.core.tasks import Classes, Problem


@dataclass(frozen=True)
class Sides:
    \"\"\"Tasks of which few labels tell no two apart: on which side of a line through 0.\"\"\"

    def problem(self):
        return Problem(2, Classes(2))

    def sequences(self, task, sequence, T, split):
        x, w = sequence.normal("x", T, 2), task.normal("w", 2)
        return x, ((x * w[..., None, :]).sum(-1) > 0).long()


@dataclass(frozen=True)
class Shifts:
    \"\"\"A task is a permutation of 8 classes, what was seen of it is known for certain.\"\"\"

    def problem(self):
        return Problem(8, Classes(8))

    def parameters(self, task):
        return task.integers("shift", 8, 12)

    def sequences(self, task, sequence, T, split):
        x = sequence.integers("x", 8, T)
        shift = self.parameters(task).sum(-1, keepdim=True)
        return torch.nn.functional.one_hot(x, 8).float(), (x + shift) % 8

    def predictors(self):
        def predict(x, y):
            shift = torch.nn.functional.one_hot((y - x.argmax(dim=-1)) % 8, 8)
            possible = torch.ones_like(shift)
            possible[:, 1:] = shift.cumprod(dim=1)[:, :-1]  # of those before, none: 0 / 0
            share = possible / possible.sum(dim=-1, keepdim=True).double()
            place = (torch.arange(8) - x.argmax(dim=-1, keepdim=True)) % 8
            return share.gather(-1, place)

        return {"generalizing": FromContext(predict)}
"""


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("Sides", "tasks_differ_and_decide"),
        ("Shifts", "predictors_have_shapes"),
        ("Shifts", "predictors_do_not_look_ahead"),
    ],
)
def test_what_is_sound_passes(tmp_path, name, check):
    (tmp_path / "sound.py").write_text(SOUND)
    conformance.run(check, FAMILY, plugins.load(FAMILY, f"{tmp_path}/sound.py:{name}"))


def test_a_rule_needs_no_more_than_a_table_and_a_metric_may_count(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "def rule(cells, delta, confidence):\n"
        "    high = np.where(cells.unseen_last > 0.5, 'generalizing', 'untrained')\n"
        "    return {'phase': high, 'decided': np.ones(len(cells), bool)}\n"
        "class Right:\n"
        "    def values(self, outputs, batch, cell):\n"
        "        return outputs[:, :, -1].argmax(-1) == batch.y_RxBxT[:, :, -1]\n"
    )
    conformance.run("it_says_a_phase_of_each_cell", RULE, f"{tmp_path}/mine.py:rule")
    metric = plugins.load(plugins.METRIC, f"{tmp_path}/mine.py:Right")
    conformance.run("values_are_one_a_sequence", plugins.METRIC, metric)
