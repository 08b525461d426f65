"""`metaphase settings`, and the table of it that stands in results/README.md."""

import re
import subprocess
import sys

from metaphase.core.cell import SETTINGS
from metaphase.core.tasks import TASK_FAMILIES
from metaphase.sweeps import cli
from metaphase.sweeps.store.tables import CELLS, to_table
from tests import ROOT

OF_FAMILIES = [
    pair for name, f in TASK_FAMILIES.items() if "@" not in name for pair in f.own.items()
]


def test_the_table_in_the_results_readme_is_what_the_command_prints(capsys):
    """To mend it: `metaphase settings --markdown`, between the two comments."""
    assert cli.main(["settings", "--markdown"]) == 0
    printed = capsys.readouterr().out
    readme = (ROOT / "results" / "README.md").read_text()
    _, _, rest = readme.partition("<!-- `metaphase settings --markdown` -->\n")
    table, end, _ = rest.partition("<!-- end of settings -->")
    assert end
    assert table == printed


def test_columns_are_those_of_the_cells_table(capsys):
    assert cli.main(["settings", "--markdown"]) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    types = {"int": "int64", "float": "double", "bool": "bool", "text": "string"}
    told = {row[0].removeprefix("| "): types[row[1]] for row in rows}
    assert told == {name: str(CELLS.field(name).type) for name in SETTINGS} | {
        name: str(to_table([{name: setting.default}], CELLS).field(name).type)
        for name, setting in OF_FAMILIES
    }


def test_every_setting_is_told_as_text(capsys):
    assert cli.main(["settings"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[::2]] == [
        *SETTINGS,
        *(name for name, _ in OF_FAMILIES),
    ]
    assert "replica; allowed: above 0" in lines[1 + 2 * list(SETTINGS).index("learning_rate")]


def test_who_uses_a_setting_is_told(capsys):
    assert cli.main(["settings"]) == 0
    heads = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()[::2]}
    assert "  of projected_images: share of the training examples" in heads["label_noise"]
    assert "  of transformer, fast_weights, linear_attention: heads" in heads["num_heads"]
    assert "  meta-training steps" in heads["steps"]


def test_bounds_are_told_in_one_form(capsys):
    assert cli.main(["settings", "--markdown"]) == 0
    allowed = [line.split(" | ")[3] for line in capsys.readouterr().out.splitlines()[2:]]
    assert not [text for text in allowed if re.search(r"\.0\b", text)]


def test_it_needs_neither_torch_nor_ray():
    code = (
        "import sys; from metaphase.sweeps import cli; cli.main(['settings']); "
        "assert not {'torch', 'ray', 'pandas', 'pyarrow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
