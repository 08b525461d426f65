"""What `metaphase.load` gives: the tables, phases, figures and models of a sweep's folder."""

import re

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.figure import Figure

import metaphase as mp
from metaphase.analysis import phase_plot
from metaphase.analysis.commands import output
from metaphase.core.cell import ConfigError
from metaphase.core.phases import GENERALIZING, MEMORIZING
from tests import ROOT
from tests.docs import write_plug_ins
from tests.tools.synthetic import make_results

REFERENCE = ROOT / "results/reference/quickstart"


@pytest.fixture(scope="module")
def results():
    return mp.load(REFERENCE)


@pytest.fixture(scope="module")
def two_architectures(tmp_path_factory):
    path = tmp_path_factory.mktemp("two") / "sweep"

    def truth(cell):
        return GENERALIZING if cell.num_tasks > 100 else MEMORIZING

    settings = ({}, {"architecture": "lstm"})
    make_results(path, [4, 32], [1, 64, 4096], [0, 1], truth, settings=settings)
    return mp.load(path)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A sweep of the names in docs/python.md, hardly trained, with models."""
    root = tmp_path_factory.mktemp("docs") / "results"
    sweep = mp.Sweep.preset(
        "quickstart", model_size=32, num_tasks=[64, 4096], seed=[0, 1], steps=1, eval_sequences=64
    )
    return mp.run(sweep, root, keep_models=True, progress=False)


def test_tables_and_phases_are_those_of_the_command(results, tmp_path, monkeypatch):
    monkeypatch.setattr(output, "write_figure", lambda out, name, *rest: name)
    assert phase_plot.main([str(REFERENCE), "--out", str(tmp_path)]) == 0
    written = pd.read_csv(tmp_path / "phases.csv")
    assert results.phases["phase"].astype(str).tolist() == written["phase"].tolist()
    transitions = (tmp_path / "transitions.csv").read_text()
    assert results.transitions.to_csv(index=False) == transitions
    assert len(results.cells) == len(results.sweep.cells) == 64
    assert set(results.curves.cell_id) == set(results.history.cell_id) == set(results.cells.cell_id)
    assert results.yardsticks.empty
    assert "2^5 | M  M  M  M* I  I* G  G" in results.text_map()
    assert repr(results) == f"<SweepResults {REFERENCE}>"


def test_cells_are_classified_and_transitions_estimated_from_any_table(results):
    strict = mp.classify(results.cells, delta=0.2)
    assert (strict.phase <= results.phases.phase).all()
    assert mp.transitions(results.cells).equals(results.transitions)
    assert not mp.transitions(strict).equals(results.transitions)
    with pytest.raises(mp.ResultsError, match="no cells"):
        mp.transitions(results.cells[:0])
    with pytest.raises(mp.ResultsError, match="lacks the columns status, chance, seen_first"):
        mp.classify(results.history)
    for delta, wrong in (("0.1", "'0.1' is not a number"), (1, "1 is out of range; allowed: 0 to")):
        with pytest.raises(mp.ConfigError, match=f"delta: {wrong}"):
            mp.classify(results.cells, delta=delta)


def test_a_rule_is_taken_by_whatever_shows_phases(results, tmp_path):
    rule = f"{write_plug_ins(tmp_path)['halfway.py']}:halfway"
    by_rule = mp.load(REFERENCE, rule=rule)
    expected = mp.classify(results.cells, rule=rule)
    assert by_rule.phases.equals(expected)
    assert not by_rule.phases.phase.equals(results.phases.phase)
    assert by_rule.transitions.equals(mp.transitions(expected))
    assert mp.transitions(results.phases, rule=rule).equals(by_rule.transitions)
    assert results.text_map(rule=rule) == by_rule.text_map() != results.text_map()
    assert by_rule.text_map(rule="accuracy") == results.text_map()
    assert isinstance(results.phase_map(rule=rule), Figure)
    for refused in (
        lambda: mp.load(REFERENCE, rule="best"),
        lambda: results.phase_map(rule="best"),
    ):
        with pytest.raises(ConfigError, match="rule: 'best' is not one of"):
            refused()


def test_conditions_have_their_own_maps(two_architectures):
    results = two_architectures
    assert set(results.transitions.architecture) == {"transformer", "lstm"}
    with pytest.raises(mp.ResultsError, match="architecture=lstm; architecture=transformer"):
        results.phase_map()
    assert isinstance(results.phase_map(architecture="lstm"), Figure)
    assert "lstm" in results.text_map(architecture="lstm").splitlines()[0]
    with pytest.raises(mp.ResultsError, match="no finished cell has architecture=mlp"):
        results.text_map(architecture="mlp")
    with pytest.raises(ConfigError, match="widht: unknown setting"):
        results.accuracy(widht=3)


def test_figures_on_given_axes_and_of_their_own(two_architectures):
    results, lstm = two_architectures, {"architecture": "lstm"}
    before = dict(mpl.rcParams)
    fig, axes = plt.subplots(1, 3, figsize=(15, 3), layout="constrained")
    try:
        assert results.phase_map(axes[0], legend=True, **lstm) is axes[0]
        names = [text.get_text() for text in axes[0].get_legend().get_texts()]
        assert names[0].startswith("G  generalizing")
        assert "generalizing begins (95%)" in names
        assert results.accuracy(axes[1], split="seen", **lstm) is axes[1]
        assert results.learning_curves(axes[2], model_size=32, **lstm) is axes[2]
        assert axes[2].get_ylabel() == "accuracy, unseen"
        fig.canvas.draw()
        with pytest.raises(mp.ResultsError, match=r"model_size: axes hold one.*4, 32"):
            results.learning_curves(axes[2], **lstm)
        with pytest.raises(ConfigError, match="split: 'sen' is not one of"):
            results.accuracy(axes[1], split="sen", **lstm)
    finally:
        plt.close(fig)
    for draw in (results.accuracy, results.learning_curves, results.phase_map):
        assert isinstance(figure := draw(**lstm), Figure)
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert not plt.get_fignums()
    assert dict(mpl.rcParams) == before


def test_answers_are_those_of_the_command(results, tmp_path):
    """Also to rules of one's own; figures are drawn in the program's style, not in the caller's."""
    phase_plot.main([str(REFERENCE), "--out", str(tmp_path)])
    written = {path.stem for path in tmp_path.glob("*.csv")}
    assert set(results.answers) <= written
    assert {"boundary", "transitions_by_delta", "order_parameter"} <= set(results.answers)
    answer = results.answers["boundary"]
    output.write_table(str(tmp_path / "again"), "boundary.csv", answer.table)
    again = tmp_path / "again" / "boundary.csv"
    assert again.read_bytes() == (tmp_path / "boundary.csv").read_bytes()
    assert answer.figure is None
    make_results(tmp_path / "seeds", [8], [1, 64, 4096], [0, 1, 2], lambda cell: GENERALIZING)
    with mpl.rc_context({"font.size": 31}):
        figure = mp.load(tmp_path / "seeds").answers["seeds"].figure()
    assert max(text.get_fontsize() for text in figure.findobj(mpl.text.Text)) < 12
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_models_are_chosen_by_id_or_by_settings(kept, results):
    one = kept.model(num_tasks=64, seed=1)
    assert one.cell.num_tasks == 64
    same = kept.model(one.cell.cell_id, step=1)
    assert all((same.weights[name] == w).all() for name, w in one.weights.items())
    with pytest.raises(ConfigError, match="num_tasks=64 chooses 2 cells; allowed: one"):
        kept.model(num_tasks=64)
    with pytest.raises(ConfigError, match="give a cell_id or settings"):
        kept.model()
    with pytest.raises(ConfigError, match=r"no model of cell .* at step 7"):
        kept.model(one.cell.cell_id, step=7)
    with pytest.raises(ConfigError, match=r"no model of cell .*none is"):
        results.model(results.cells.cell_id[0])


def test_a_model_kept_at_an_evaluation_is_that_of_the_shorter_cell(tmp_path):
    cell = {"image_size": 4, "model_size": 8, "batch_size": 8, "eval_every": 4, "eval_sequences": 8}
    long = mp.Sweep("long", {**cell, "steps": 10}, {"seed": [0, 1]})
    found = mp.run(long, tmp_path, keep_models="evaluations", progress=False)
    short = mp.Sweep("short", {**cell, "steps": 4, "seed": 1})
    expected = mp.run(short, tmp_path, keep_models=True, progress=False).model(seed=1)
    cell_id = long.cells[1].cell_id
    names = sorted(path.name for path in (tmp_path / "long/models" / cell_id).iterdir())
    assert names == ["10.safetensors", "4.safetensors", "8.safetensors"]
    kept = found.model(cell_id, step=4)
    assert kept.step == 4
    assert found.model(cell_id).step == 10
    for name, weights in expected.weights.items():
        assert (kept.weights[name] == weights).all()


@pytest.mark.parametrize("name", ["", "no/such", "tests"])
def test_what_is_no_sweep_is_one_line(name):
    with pytest.raises((mp.ResultsError, ConfigError)) as refused:
        mp.load(ROOT / name if name else "")
    assert "\n" not in str(refused.value)


def test_a_sweep_without_finished_cells_is_loaded(tmp_path, kept):
    sweep = mp.Sweep("sweep", {"steps": 50_000})  # more than a busy machine trains meanwhile
    results = mp.run(sweep, tmp_path, time_limit=0, progress=False)
    assert mp.load(tmp_path / "sweep").sweep.cells == sweep.cells
    with pytest.raises(mp.ResultsError, match="no finished cells yet"):
        results.cells  # noqa: B018


def test_the_printed_python_runs(kept, tmp_path, monkeypatch):
    """docs/python.md, on a sweep that is hardly trained."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").symlink_to(kept.path.rpartition("/")[0])
    monkeypatch.setattr(mp, "run", lambda sweep, root, keep_models: kept)
    code = re.findall(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text(), re.DOTALL)
    assert len(code) == 6
    names = {"plt": plt}
    for block in code:
        exec(block, names)
    assert names["found"]["1.attention"].shape == (64, 2, 16, 31)
    plt.close("all")
