"""The command: what it writes and prints, on whole, half-finished and broken results."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pandas as pd
import pytest
from matplotlib import image

from metaphase.analysis import phase_plot
from metaphase.analysis.commands import exports
from metaphase.analysis.load import load_cells
from metaphase.analysis.statistics.phases import classify
from metaphase.core.cell import Cell
from tests import ROOT
from tests.analysis.questions import change
from tests.docs import write_plug_ins
from tests.tools.synthetic import make_results

A_NOTEBOOKS = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
FIGURES = ["accuracy", "improvement", "learning_curves", "phase_map"]


def truth(cell):
    """M M I I* G at width 16 (the seeds disagree at 2^6); at 8: M M I x and nothing yet."""
    k = (cell.num_tasks.bit_length() - 1) // 2
    if cell.model_size == 8 and k >= 3:
        return "failed" if k == 3 else "missing"
    if k == 3:
        return ("identifying", "generalizing")[cell.seed]
    return ["memorizing", "memorizing", "identifying", "", "generalizing"][k]


@pytest.fixture
def sweep(tmp_path):
    make_results(tmp_path / "s", (8, 16), [4**k for k in range(5)], (0, 1), truth)
    return tmp_path / "s"


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_writes_figures_and_csv_and_prints_the_map(sweep, capsys):
    assert phase_plot.main([str(sweep)]) == 0
    assert names(sweep / "figures") == [f"{f}.png" for f in FIGURES]
    assert all((sweep / "figures" / f"{f}.png").read_bytes()[1:4] == b"PNG" for f in FIGURES)
    out = capsys.readouterr().out.splitlines()
    at = out.index("model size")
    assert out[at + 1 : at + 5] == [
        "2^4 | M  M  I? I* G",
        "2^3 | M  M  I  x  .",
        "    +---------------",
        "      0  2  4  6  8",
    ]
    assert "number of tasks, 2^" in out[at + 5]
    for word in ("generalizing", "identifying", "memorizing", "untrained", "seeds disagree"):
        assert word in out[at + 6]
    assert out[0] == (
        "s: 18 cells, 2 seeds: 3 generalizing, 5 identifying, 8 memorizing, 0 untrained, "
        "4 undecided, 2 diverged or failed"
    )
    assert any(line.startswith("  model size 2^3: identifying 2^") for line in out)
    assert any("generalizing not up to 2^4" in line for line in out)


def test_everything_drawn_is_in_tables(sweep):
    phase_plot.main([str(sweep)])
    csv = pd.read_csv(sweep / "phases.csv")
    cells = classify(load_cells(sweep))
    assert {*exports.CELL_COLUMNS} <= {*csv.columns}
    for name in ("seen_improvement", "seen_lead", "unseen_last"):
        for end in ("_low", "_high"):  # of each interval that decides
            assert f"{name}{end}" in csv
    assert list(csv["cell_id"].astype(str)) == list(cells["cell_id"])
    assert list(csv["phase"].fillna("")) == list(cells["phase"].astype(object).fillna(""))
    assert csv["unseen_improvement_se"].to_numpy() == pytest.approx(
        cells["unseen_improvement_se"].to_numpy(), nan_ok=True
    )
    assert (csv["status"] == "failed").sum() == 2
    grid = pd.read_csv(sweep / "grid.csv")
    assert len(grid) == 9  # grid points with cells
    [row] = grid[(grid["model_size"] == 16) & (grid["num_tasks"] == 64)].to_dict("records")
    own = cells[(cells["model_size"] == 16) & (cells["num_tasks"] == 64)]["unseen_last"]
    ends = [row[f"unseen_last{end}"] for end in ("", "_lowest", "_highest")]
    assert ends == pytest.approx([own.mean(), own.min(), own.max()])
    transitions = pd.read_csv(sweep / "transitions.csv")
    assert set(transitions["model_size"]) == {8, 16}
    assert {"begins", "log2_num_tasks", "low", "high", "censored"} <= {*transitions.columns}


def test_latex_tables_compile_as_they_stand(sweep):
    assert phase_plot.main([str(sweep), "--latex"]) == 0
    for name, columns in (("grid", 7), ("transitions", 3)):
        lines = (sweep / f"{name}.tex").read_text().splitlines()
        assert lines[0].startswith("\\begin{tabular}")
        assert lines[1] == "\\toprule"
        assert lines[-1] == "\\end{tabular}"
        rows = [line for line in lines if line.endswith("\\\\")]
        assert {line.count("&") for line in rows} == {columns - 1}
        text = "".join(rows)
        assert text.count("$") % 2 == 0
        assert not re.search(r"(?<!\\)[_%#]", re.sub(r"\$[^$]*\$", "", text))
        assert "^" not in re.sub(r"\$[^$]*\$", "", text)


def test_widths(sweep, tmp_path):
    sizes = {}
    for width in ("column", "page", "slide"):
        out = tmp_path / width
        assert phase_plot.main([str(sweep), "--width", width, "--out", str(out)]) == 0
        for figure in FIGURES:
            sizes[width, figure] = image.imread(out / "figures" / f"{figure}.png").shape[1] / 220
    for (width, _), inches in sizes.items():
        assert inches == pytest.approx({"column": 3.3, "page": 7, "slide": 10}[width], abs=0.01)


def test_as_of_a_step(sweep, capsys):
    """Half-way nothing but what was measured then: here, at half of the accuracy's rise."""

    def halve(frame):
        early = frame["step"] < frame["step"].max()
        last = frame["last"].where(~early, 0.22)  # chance is 0.2
        return frame.assign(last=last, improvement=last - frame["first"])

    change(sweep, "history", halve)
    steps = pd.read_parquet(sweep / "history")["step"].unique()
    half = sorted(steps)[1]
    assert phase_plot.main([str(sweep), "--at-step", str(half + 1), "--out", f"{sweep}/then"]) == 0
    then = pd.read_csv(sweep / "then" / "phases.csv")
    assert set(then["phase"].dropna()) <= {"memorizing", "untrained"}
    assert (then["status"] == "done").all()
    assert "learning_curves.png" not in names(sweep / "then" / "figures")
    assert f"as of step {half + 1}: 16 cells" in capsys.readouterr().out
    assert (
        phase_plot.main([str(sweep), "--at-step", str(steps.max()), "--out", f"{sweep}/end"]) == 0
    )
    assert phase_plot.main([str(sweep)]) == 0
    end, now = (pd.read_csv(sweep / at / "phases.csv") for at in ("end", "."))
    done = now[now["status"] == "done"].set_index("cell_id")["phase"]
    assert end.set_index("cell_id")["phase"].to_dict() == done.to_dict()


@pytest.mark.parametrize(("format", "magic"), [("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_formats_out_and_equal_bytes_when_repeated(sweep, tmp_path, format, magic):
    out = tmp_path / "elsewhere" / "deep"
    before = sorted(sweep.rglob("*"))
    assert phase_plot.main([str(sweep), "--format", format, "--out", str(out)]) == 0
    assert {"figures", "grid.csv", "phases.csv", "transitions.csv"} <= set(names(out))
    files = {p: p.read_bytes() for p in (out / "figures").iterdir()}
    assert sorted(p.name for p in files) == [f"{f}.{format}" for f in FIGURES]
    assert all(content.startswith(magic) for content in files.values())
    phase_plot.main([str(sweep), "--format", format, "--out", str(out)])
    assert {p: p.read_bytes() for p in (out / "figures").iterdir()} == files
    assert sorted(sweep.rglob("*")) == before


def test_delta_and_confidence_reach_the_classification(sweep):
    phase_plot.main([str(sweep), "--delta", "0.9"])
    assert set(pd.read_csv(sweep / "phases.csv")["phase"].dropna()) == {"untrained"}
    phase_plot.main([str(sweep), "--delta", "0.7"])
    assert set(pd.read_csv(sweep / "phases.csv")["phase"].dropna()) == {"untrained", "memorizing"}


def test_takes_a_uri(sweep):
    assert phase_plot.main([f"file://{sweep}"]) == 0
    assert names(sweep / "figures") == [f"{f}.png" for f in FIGURES]


def test_cells_in_training_are_counted(sweep, capsys):
    victim = next((sweep / "cells").iterdir())
    victim.unlink()
    phase_plot.main([str(sweep)])
    assert "1 cell is in training" in capsys.readouterr().out


def test_without_curves_the_other_figures_are_drawn(sweep):
    for file in (sweep / "curves").iterdir():
        file.unlink()
    assert phase_plot.main([str(sweep)]) == 0
    assert names(sweep / "figures") == ["accuracy.png", "improvement.png", "phase_map.png"]


@pytest.mark.parametrize("phase", ["failed", "diverged", "memorizing"])
def test_a_single_cell_is_enough(tmp_path, phase):
    make_results(tmp_path / "s", (8,), (4,), (3,), lambda cell: phase)
    assert phase_plot.main([str(tmp_path / "s")]) == 0
    assert "phase_map.png" in names(tmp_path / "s" / "figures")


def test_torn_files_are_named_on_stderr(sweep, capsys):
    for table in ("cells", "history", "curves"):
        (sweep / table / "torn.parquet").write_bytes(b"PAR1 torn")
    assert phase_plot.main([str(sweep)]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[:2] for line in lines] == [
        ["warning", f" skipped {table}/torn.parquet"] for table in ("cells", "history", "curves")
    ]


def test_every_condition_gets_its_own_figures_and_map(tmp_path, capsys):
    make_results(
        tmp_path / "s", (8, 16), (1, 16), (0,), lambda cell: "memorizing",
        settings=({"learning_rate": 1e-3}, {"learning_rate": 3e-3}),
    )  # fmt: skip
    assert phase_plot.main([str(tmp_path / "s")]) == 0
    assert names(tmp_path / "s" / "figures") == sorted(
        f"{f}-learning_rate={rate}.png" for f in FIGURES for rate in ("0.001", "0.003")
    )
    out = capsys.readouterr().out
    assert "s, learning_rate=0.001: 4 cells" in out
    assert "s, learning_rate=0.003: 4 cells" in out
    assert set(pd.read_csv(tmp_path / "s" / "phases.csv")["learning_rate"]) == {1e-3, 3e-3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["."], "not a sweep's folder"),
        (["gopher://x"], "gopher"),
        ([], "required: PATH"),
        (["x", "--delta", "2"], "2 is out of range; allowed: 0 to below 1"),
        (["x", "--delta", "small"], "'small' is not a number"),
        (["x", "--confidence", "1"], "1 is out of range; allowed: between 0 and 1"),
        (["x", "--confidence", "nan"], "nan is out of range"),
        (["x", "--format", "gif"], "invalid choice: 'gif'"),
        (["x", "--width", "poster"], "invalid choice: 'poster'"),
        (["x", "--at-step", "0"], "'0' is not a whole number from 1"),
        (["x", "--what"], "--what"),
    ],
)
def test_bad_arguments_give_one_line_and_the_status_of_all_commands(
    arguments, message, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    try:
        status = phase_plot.main(arguments)
    except SystemExit as exit:
        status = exit.code
    captured = capsys.readouterr()
    assert status == (1 if message.endswith("folder") else 2)
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_an_output_that_cant_be_written_is_one_line(sweep, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert phase_plot.main([str(sweep), "--out", str(tmp_path / "file")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_nothing_temporary_is_left(sweep):
    phase_plot.main([str(sweep)])
    assert not [p for p in sweep.rglob("*") if p.name.startswith(".")]


def test_200_cells_take_seconds_and_neither_torch_nor_ray(tmp_path):
    """Of the processor. History and curves included, imports not. It takes less than half of that
    on a quiet machine; others that share its caches have made it take three times as long."""
    make_results(
        tmp_path / "s", [2**k for k in range(1, 6)], [2**k for k in range(20)], (0, 1), n=64,
        base=Cell(num_classes=5, position_encoding="learned", num_heads=1, steps=3000),
    )  # fmt: skip
    rc = tmp_path / "matplotlibrc"
    rc.write_text("text.usetex: True\nfont.size: 30\n")
    code = """
import sys, time
import metaphase.analysis
slow = {"pandas", "matplotlib", "scipy", "pyarrow"} & {*sys.modules}
assert not slow, "importing analysis is slow"
from metaphase.analysis import phase_plot
start = time.process_time()
status = phase_plot.main([sys.argv[1]])
seconds = time.process_time() - start
loaded = [m for m in ("torch", "ray", "seaborn", "jinja2") if m in sys.modules]
print(status, seconds, loaded)
"""
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "s")], cwd=ROOT, check=True,
        capture_output=True, text=True, env={**os.environ, **A_NOTEBOOKS, "MATPLOTLIBRC": str(rc)},
    )  # fmt: skip
    status, seconds, loaded = run.stdout.splitlines()[-1].split(maxsplit=2)
    assert (status, loaded) == ("0", "[]")
    assert float(seconds) < 12
    assert len(pd.read_csv(tmp_path / "s" / "phases.csv")) == 200


def test_a_rule_of_ones_own_is_asked_where_it_is_named(sweep, capsys):
    """The example of docs/extending.md, by every command that takes one."""
    from metaphase.analysis.commands import compare, report

    rule = f"{write_plug_ins(sweep.parent)['halfway.py']}:halfway"
    assert phase_plot.main([str(sweep), "--rule", rule, "--format", "svg"]) == 0
    assert ": 18 cells, 2 seeds: 3 generalizing, " in capsys.readouterr().out
    table = pd.read_csv(sweep / "phases.csv")
    done = table[table["status"] == "done"]
    share = (done["unseen_last"] - 0.2) / 0.8
    assert done["unseen_share"].to_numpy() == pytest.approx(share.to_numpy())
    assert ((done["phase"] == "generalizing") == (share > 0.5)).all()
    assert report.main([str(sweep), "--rule", rule]) == 0
    assert compare.main([str(sweep), str(sweep), "--rule", rule, "--format", "svg"]) == 0
    capsys.readouterr()
    assert phase_plot.main([str(sweep), "--rule", "./nothing.py:rule"]) == 1
    assert capsys.readouterr().err.startswith("error: rule: can't read nothing.py")
    assert phase_plot.main([str(sweep), "--rule", "predictors", "--format", "svg"]) == 0
    assert "16 without a phase (no phase by the rule)" in capsys.readouterr().out


def test_nothing_in_a_tree_can_name_a_rule(sweep, capsys):
    """Neither a file beside the results nor a setting of the sweep is run."""
    (sweep / "plugins").mkdir()
    (sweep / "plugins" / "rule.py").write_text("raise SystemExit('run')")
    (sweep / "sweep.yaml").write_text("name: s\nrule: ./plugins/rule.py:rule\n")
    assert phase_plot.main([str(sweep), "--format", "svg"]) == 0
    assert "3 generalizing" in capsys.readouterr().out
