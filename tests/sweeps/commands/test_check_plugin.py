"""`metaphase check-plugin`: what it takes a name for, and what it says."""

import re

import pytest

from metaphase.sweeps.commands import check_plugin
from tests.docs import write_plug_ins

ODD = """
from torch import nn

class Optional(nn.Module):
    def __init__(self, width: int, tokens: int, kind: str | None = None):
        super().__init__()

class Half:
    def problem(self):
        pass

def backwards(cells, delta, confidence):
    phase = [None] * len(cells["n"])
    if len(phase) > 1:
        phase[-1] = "generalizing"
    return {"phase": phase, "decided": [False] * len(phase)}

class Made:
    def __init__(self, needed):
        pass
    def __call__(self, cells, delta, confidence):
        pass
"""


def test_a_rule_is_checked_as_other_plug_ins_are(tmp_path, capsys):
    for rule in (f"{write_plug_ins(tmp_path)['halfway.py']}:halfway", "accuracy", "predictors"):
        assert check_plugin.main([rule]) == 0
        out = capsys.readouterr().out
        assert out.startswith(f"rule: {rule}\n")
        assert out.count("  kept ") == 3


def test_a_rule_that_compares_cells_is_caught(tmp_path, capsys):
    (tmp_path / "odd.py").write_text(ODD)
    assert check_plugin.main([f"{tmp_path}/odd.py:backwards"]) == 1
    printed = capsys.readouterr()
    assert "depends on the others in the table" in printed.out
    assert printed.err.endswith("breaks 1 promise\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["Optional"], "architecture: .*: its setting kind lacks a default, or is none of int"),
        (["Half"], "is no plug-in; give FILE.py:NAME, or --kind"),
        (["Half", "--kind", "task_family"], "Half lacks sequences"),
        (["Made"], "is no plug-in"),
        (["Made", "--kind", "rule"], "can't be made: TypeError"),
    ],
)
def test_what_can_t_be_checked_is_said_in_a_line(tmp_path, capsys, arguments, message):
    (tmp_path / "odd.py").write_text(ODD)
    name, *more = arguments
    assert check_plugin.main([f"{tmp_path}/odd.py:{name}", *more]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert re.search(message, said)


def test_a_sentence_is_said_once(tmp_path, capsys):
    (tmp_path / "odd.py").write_text(
        "from torch import nn\n"
        "class Recurrent(nn.Module):\n"
        "    def __init__(self, width: int, tokens: int):\n"
        "        super().__init__()\n"
        "        self.of = nn.GRU(width, width, batch_first=True)\n"
        "    def forward(self, h):\n"
        "        return h + self.of(h)[0]\n"
    )
    squares = write_plug_ins(tmp_path)["squares.py"]
    for name, sentence in (
        (f"{tmp_path}/odd.py:Recurrent", "can't be stacked"),
        (f"{squares}:Squares", "No such file"),
    ):
        assert check_plugin.main([name, "--data-root", str(tmp_path / "data")]) == 1
        printed = capsys.readouterr()
        assert printed.out.count(sentence) == 1
        assert printed.out.count("  untried ") == 1
        assert printed.err.endswith("breaks 1 promise\n")
