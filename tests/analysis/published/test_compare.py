"""Comparing with published numbers: perfect on the numbers themselves, shifted where shifted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metaphase.analysis.commands import compare
from metaphase.analysis.load import CELL_COLUMNS, ResultsError, load_cells, load_curves
from metaphase.analysis.published import comparisons, figure2, reference
from metaphase.core import schema
from metaphase.core.datasets import DATASETS
from metaphase.core.phases import GENERALIZING, UNTRAINED
from tests.tools.synthetic import BASE, make_results

MNIST = replace(BASE, dataset="MNIST", num_classes=10)


def write_reference(path, shift=0, sizes=None, keep=lambda size, k: True, seeds=(0,)):
    """A sweep whose accuracies are the paper's, `shift` octaves later in the number of tasks."""
    paper = reference.load_figure2()
    at = paper.set_index(["split", "model_size", "num_tasks"])["accuracy"]
    rows = []
    for size in sizes or sorted(paper["model_size"].unique()):
        for k in range(26):
            if not (0 <= k - shift <= 25 and keep(size, k)):
                continue
            for seed in seeds:
                row = dict.fromkeys(CELL_COLUMNS, 0.1) | {
                    "cell_id": f"{size}-{k}-{seed}", "sweep": "s", "architecture": "transformer",
                    "model_size": int(size), "num_tasks": 2**k, "seed": seed, "status": "done",
                    "chance": reference.CHANCE, "n": 1024, "dataset": "MNIST",
                    "unseen_level": reference.LEVEL,
                }  # fmt: skip
                for split in (schema.SEEN, schema.UNSEEN):
                    row[f"{split}_last"] = at[split, size, 2 ** (k - shift)]
                rows.append(row)
    (path / "cells").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), path / "cells" / "compact-0.parquet")
    return path


def test_reference_is_complete_and_between_0_and_1():
    paper = reference.load_figure2()
    assert len(paper) == 2 * 9 * 26
    assert not paper.duplicated(["split", "model_size", "num_tasks"]).any()
    assert paper["accuracy"].between(0, 1).all()
    table = reference.load_table2()
    assert set(table["dataset"]) <= set(DATASETS)
    assert len(table) == 5 * 6


def test_the_reference_agrees_with_itself(tmp_path, capsys):
    path = write_reference(tmp_path / "s", seeds=(0, 1))
    assert compare.main([str(path), "--reference", "kirsch2022-figure2"]) == 0
    points = pd.read_csv(path / "compare-kirsch2022-figure2.csv")
    assert len(points) == 234
    assert figure2.mean_absolute_difference(points)["both"] == pytest.approx(0, abs=1e-12)
    assert (points["regime_paper"] == points["regime_ours"]).all()
    shifts = pd.read_csv(path / "compare-kirsch2022-figure2-transitions.csv")
    inside = np.isfinite(shifts["paper"])
    assert shifts.loc[inside, ["low", "high"]].to_numpy() == pytest.approx(0, abs=1e-9)
    assert not np.isfinite(shifts.loc[~inside, "ours"]).any()
    assert set(shifts.loc[~inside, "model_size"]) == {2}  # which never generalizes
    assert (path / "figures" / "compare-kirsch2022-figure2.png").read_bytes()[1:4] == b"PNG"
    out = capsys.readouterr().out
    assert "seen 0.000, unseen 0.000, both 0.000" in out
    assert "regimes agree at 234 of 234 grid points (100%)" in out
    assert "neither" in out


@pytest.mark.parametrize("shift", [-3, -1, 2, 5])
def test_a_shift_is_found(tmp_path, shift):
    path = write_reference(tmp_path / "s", shift)
    points = figure2.compare_points(load_cells(path))
    shifts = figure2.compare_transitions(points)
    inside = np.isfinite(shifts["paper"]) & np.isfinite(shifts["ours"])
    large = inside & (shifts["model_size"] >= 16)
    assert large.sum() == 12
    # the paper's plateaus are not quite flat, so half the rise moves a little with the cut
    assert shifts.loc[large, "low"].to_numpy() == pytest.approx(shift, abs=0.15)
    onset = large & (shifts["measure"] == "onset")
    assert shifts.loc[onset, "low"].to_numpy() == pytest.approx(shift, abs=1e-9)
    assert figure2.mean_absolute_difference(points)["unseen"] > 0.01


def test_shifts_have_an_interval_over_seeds(tmp_path):
    parts = [write_reference(tmp_path / str(k), shift=k, seeds=(k,)) for k in (1, 2, 3)]
    (tmp_path / "s").mkdir()
    files = [pq.read_table(part / "cells" / "compact-0.parquet") for part in parts]
    (tmp_path / "s" / "cells").mkdir()
    pq.write_table(pa.concat_tables(files), tmp_path / "s" / "cells" / "compact-0.parquet")
    cells = load_cells(tmp_path / "s")
    cells = cells[cells["num_tasks"] >= 8]  # where all three seeds have results
    points = figure2.compare_points(cells)
    errors = figure2.seed_errors(cells, points).set_index(["model_size", "measure"])
    assert errors.loc[(256, "onset"), "seeds"] == 3
    half = 4.302653 * 1 / np.sqrt(3)  # t of 2 degrees of freedom; seeds at shifts 1, 2 and 3
    assert errors.loc[(256, "onset"), "half_width"] == pytest.approx(half, rel=1e-6)
    assert errors.loc[(2, "onset"), "half_width"] != errors.loc[(2, "onset"), "half_width"]  # NaN
    shifts = figure2.compare_transitions(points).merge(
        errors.reset_index(), on=["model_size", "measure"]
    )
    row = shifts[(shifts["model_size"] == 256) & (shifts["measure"] == "onset")].iloc[0]
    assert figure2.shift_text(row.to_dict()).endswith("± 2.5")
    one = cells[cells["seed"] == 1]
    assert figure2.seed_errors(one, points)["half_width"].isna().all()


def test_settings_that_differ_are_told(tmp_path, capsys):
    make_results(tmp_path / "s", (8, 16), (1, 16, 256))
    compare.main([str(tmp_path / "s"), "--out", str(tmp_path / "out")])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines[:-1])) <= 100  # all but the files that were written
    out = " ".join(line.strip() for line in lines)
    assert "image_size 8 (28); num_classes 5 (10); sequence_length 16 (100)" in out
    assert "steps 1000 (not stated)" in out


def test_not_reached_gives_a_bound(tmp_path):
    path = write_reference(tmp_path / "s", shift=14)  # onset near 2^26 at width 512
    points = figure2.compare_points(load_cells(path))
    shifts = figure2.compare_transitions(points).set_index(["model_size", "measure"])
    row = shifts.loc[(512, "onset")]
    assert row["ours"] == np.inf
    assert row["high"] == np.inf
    assert 11 <= row["low"] <= 14  # a true statement about 14
    assert figure2.shift_text(row.to_dict()) == f"> {row['low']:+.1f}"
    assert figure2.shift_text({"paper": np.inf, "ours": np.inf}) == "neither"
    assert figure2.shift_text({"paper": np.nan, "ours": np.nan}) == "neither"
    no_rise = {"paper": 12.0, "ours": np.nan, "low": -np.inf, "high": np.inf}
    assert figure2.shift_text(no_rise) == "unknown"
    below = {"paper": 12.0, "ours": -np.inf, "low": -np.inf, "high": -12.0}
    assert figure2.shift_text(below) == "< -12.0"


def test_crossing():
    x, y = np.arange(4.0), np.array([0.1, 0.3, 0.1, 0.5])
    assert figure2.crossing(x, y, 0.2) == pytest.approx(2.25)  # the last time it rises
    assert figure2.crossing(x, y, 0.6) == np.inf
    assert figure2.crossing(x, y, 0.05) == -np.inf


def test_regimes():
    regimes = figure2.regime([0.9, 0.9, 0.1], [0.9, 0.1, 0.1], 0.1, 0.1, 0.05)
    assert list(regimes) == [GENERALIZING, figure2.SEEN_ONLY, UNTRAINED]
    assert figure2.regime(0.16, 0.16, 0.1135, 0.102, 0.05) == GENERALIZING  # not of chance


def test_the_papers_level_is_that_of_the_commonest_label_on_mnist():
    from metaphase.core.datasets import DATASETS
    from metaphase.core.label_counts import expected_accuracy

    last = expected_accuracy(DATASETS["MNIST"].heldout_counts, 100)[-1]
    assert pytest.approx(last, abs=0.0005) == reference.LEVEL


def test_a_coarse_half_finished_grid_uses_the_points_in_common(tmp_path):
    path = write_reference(
        tmp_path / "s", sizes=(64, 512), keep=lambda size, k: k % 2 == 0 and (size == 64 or k < 9)
    )
    points = figure2.compare_points(load_cells(path))
    assert len(points) == 13 + 5
    shifts = figure2.compare_transitions(points).set_index(["model_size", "measure"])
    assert shifts.loc[(64, "half"), "low"] == pytest.approx(0, abs=1e-9)
    assert shifts.loc[(512, "half"), "largest"] == 8


def test_cells_not_trained_long_enough_say_nothing_of_transitions(tmp_path, capsys):
    """The largest numbers of tasks, still on their plateau, are no failures to generalize."""
    path = write_reference(tmp_path / "s", sizes=(64,), keep=lambda size, k: k <= 18)
    whole = figure2.compare_transitions(figure2.compare_points(load_cells(path)))
    cells = load_cells(path)
    late = cells["num_tasks"] >= 2**16
    cells.loc[late, ["seen_first", "seen_last", "unseen_first", "unseen_last"]] = 0.1
    cells.loc[late, "seen_improvement"] = 0.0
    cells.loc[late, ["train_loss", "guess_loss"]] = np.log(10)
    points = figure2.compare_points(cells)
    assert points["num_tasks"].max() == 2**15
    onset = figure2.compare_transitions(points).query("measure == 'onset'").iloc[0]
    assert onset["ours"] == pytest.approx(whole.query("measure == 'onset'").iloc[0]["ours"])
    errors = figure2.seed_errors(cells, points)
    assert (errors["seeds"] > 0).all()
    text = figure2.describe(cells, points, figure2.compare_transitions(points))
    assert f"left out: {late.sum()} cells that were not trained long enough" in text


def test_nothing_in_common(tmp_path, capsys):
    make_results(tmp_path / "s", (6,), (3, 5))
    with pytest.raises(ResultsError, match="no grid point in common"):
        figure2.compare_points(load_cells(tmp_path / "s"))
    assert compare.main([str(tmp_path / "s")]) == 1
    assert "no grid point in common" in capsys.readouterr().err
    assert compare.main([str(tmp_path / "nowhere")]) == 1


def test_other_data_is_said_so(tmp_path, capsys):
    make_results(tmp_path / "s", (8, 16), (1, 16, 256))
    assert compare.main([str(tmp_path / "s"), "--out", str(tmp_path / "out")]) == 0
    assert "trained on digits, the paper's on MNIST" in capsys.readouterr().out
    assert not (tmp_path / "s" / "figures").exists()


COUNTERPARTS = {"transformer": "GPICL Transformer", "lstm": "LSTM"}


def write_table2(path, shift=0.0, seeds=(0, 1, 2), base=MNIST, length=100):
    """Models whose accuracy at the last position alone is the paper's, plus `shift`."""
    paper = reference.load_table2().set_index(["method", "dataset"])["accuracy"]
    for architecture, method in COUNTERPARTS.items():
        model = replace(base, architecture=architecture, sequence_length=length)
        for cell in make_results(path, (8,), (256,), seeds, lambda _: "generalizing", base=model):
            file = path / "curves" / f"{cell.cell_id}.parquet"
            curve = pq.read_table(file).to_pandas()
            tables = [curve[curve["split"] == "seen"]]
            for dataset, accuracy in paper[method].items():
                name = "unseen" if dataset == cell.dataset else f"unseen/{dataset}"
                own = curve[curve["split"] == "unseen"].assign(split=name, accuracy_se=0.03)
                last = own["position"] == length
                own.loc[last, "accuracy"] = accuracy + shift + 0.01 * (cell.seed - 1)
                tables.append(own)
            pq.write_table(pa.Table.from_pandas(pd.concat(tables), preserve_index=False), file)
    return path


@pytest.mark.parametrize("shift", [-0.02, -0.07])  # accuracies stay below 1
def test_table2_is_of_the_last_position(tmp_path, capsys, shift):
    path = write_table2(tmp_path / "s", shift)
    assert compare.main([str(path), "--reference", "kirsch2022-table2"]) == 0
    table = pd.read_csv(path / "compare-kirsch2022-table2.csv")
    paper, ours = (table[table["source"] == side] for side in ("paper", "ours"))
    assert len(paper) == 5 * 6
    assert len(ours) == 2 * 6
    assert ours["difference"].to_numpy() == pytest.approx(shift)
    assert paper[["difference", "seeds"]].isna().all(axis=None)
    assert (ours["seeds"] == 3).all()
    assert set(ours["counterpart"]) == set(COUNTERPARTS.values())
    assert (table["examples"] == 99).all()
    assert ours["accuracy_se"].to_numpy() == pytest.approx(0.03 / np.sqrt(3))  # of three seeds
    half = 4.302653 * 0.01 / np.sqrt(3)  # t of 2 degrees of freedom
    assert (ours["high"] - ours["accuracy"]).to_numpy() == pytest.approx(half)
    row = paper[(paper["method"] == "GPICL Transformer") & (paper["dataset"] == "MNIST")]
    assert row["accuracy"].item() == 0.7370
    assert (path / "figures" / "compare-kirsch2022-table2.png").read_bytes()[1:4] == b"PNG"
    out = capsys.readouterr().out
    assert "accuracy at the last position" in out
    assert "examples before it: the paper's 99, ours 99" in out
    assert [line.split()[-6:] for line in out.splitlines() if "standard error  " in line] == [
        ["0.017"] * 6
    ] * 2
    assert out.count(f"{shift:+.3f}") == 2 * 6
    assert "note" not in out


def test_table2_of_other_data_and_length_is_said_so(tmp_path, capsys):
    path = write_table2(tmp_path / "s", seeds=(0,), base=BASE, length=16)
    assert compare.main([str(path), "--reference", "kirsch2022-table2"]) == 0
    out = capsys.readouterr().out
    assert "the paper's 99, ours 15" in out
    assert "ours are trained on digits, the paper's on MNIST" in out
    assert "t interval  " not in out  # of a single seed


def test_table2_without_a_dataset_in_common(tmp_path, capsys):
    make_results(tmp_path / "s", (8,), (256,), (0,))
    assert compare.main([str(tmp_path / "s"), "--reference", "kirsch2022-table2"]) == 1
    assert "no dataset in common" in capsys.readouterr().err


def found(path):
    names = [c.name for c in comparisons.find(load_cells(path), load_curves(path))]
    return [next(r for r in reference.NAMES if f"compare-{r}" in name) for name in names]


def test_what_a_report_compares(tmp_path):
    sizes, tasks = (8, 16), (1, 16, 256)
    make_results(tmp_path / "figure2", sizes, tasks, base=MNIST)
    assert found(tmp_path / "figure2") == [reference.FIGURE2]
    make_results(tmp_path / "digits", sizes, tasks)  # five classes of other images
    assert found(tmp_path / "digits") == []
    make_results(tmp_path / "one", sizes, (256,), base=MNIST)  # no transition in one point
    assert found(tmp_path / "one") == []
    make_results(tmp_path / "mlp", sizes, tasks, base=replace(MNIST, architecture="mlp"))
    assert found(tmp_path / "mlp") == []
    make_results(tmp_path / "failed", sizes, tasks, truth=lambda _: "failed", base=MNIST)
    assert found(tmp_path / "failed") == []
    rates = ({"learning_rate": 0.001}, {"learning_rate": 0.01})
    make_results(tmp_path / "two", sizes, tasks, base=MNIST, settings=rates)
    assert found(tmp_path / "two") == [reference.FIGURE2] * 2
    assert found(write_table2(tmp_path / "table2")) == [reference.TABLE2]


def test_table2_of_an_architecture_that_the_paper_has_not(tmp_path, capsys):
    model = replace(MNIST, architecture="fast_weights")
    write_table2(tmp_path / "s", seeds=(0,))
    make_results(tmp_path / "s", (8,), (256,), (0, 1), lambda _: "generalizing", base=model)
    assert compare.main([str(tmp_path / "s"), "--reference", "kirsch2022-table2"]) == 0
    table = pd.read_csv(tmp_path / "s" / "compare-kirsch2022-table2.csv")
    row = table[table["method"].str.startswith("fast_weights")]
    assert row["accuracy"].item() == pytest.approx(0.8, abs=0.06)  # what is simulated
    assert row["counterpart"].isna().all()
    assert row["difference"].isna().all()
    assert capsys.readouterr().out.count("minus the paper's") == 2  # of the other two
