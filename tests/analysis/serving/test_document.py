"""What the page is told: the tables' numbers, every one of them, whatever texts a tree holds."""

from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from metaphase.analysis import load
from metaphase.analysis.figures import outcomes
from metaphase.analysis.serving import document, page, snapshot
from metaphase.analysis.statistics import phases, training_phases
from metaphase.core import phase_rules
from tests.tools import predictor_tree
from tests.tools.synthetic import BASE, make_results


@pytest.fixture(scope="module")
def taken(tmp_path_factory):
    path = tmp_path_factory.mktemp("root") / "sweep"

    def truth(cell):
        return {(4, 1): "failed", (4, 4): "diverged", (8, 1): "missing"}.get(
            (cell.model_size, cell.num_tasks),
            "generalizing" if cell.num_tasks > 16 else "memorizing",
        )

    make_results(path, (4, 8), (1, 4, 64), (0, 1), truth, settings=({}, {"architecture": "lstm",
                 "num_heads": 0, "position_encoding": "none", "mlp_ratio": 0}), n=128)  # fmt: skip
    cells, history = load.load_cells(path), load.load_history(path)
    return path, snapshot.take(str(path), cells, history, snapshot.Grid("sweep"))


def test_cells_and_evaluations(taken):
    path, found = taken
    told = document.overview(found)
    cells, history = load.load_cells(path), load.load_history(path)
    classified = phases.classify(cells)
    assert told["cells"]["id"] == cells["cell_id"].tolist()
    names = [document.OUTCOMES[i] for i in told["cells"]["outcome"]]
    assert names == outcomes.of_cells(classified)["outcome"].tolist()
    assert {"failed", "diverged", "memorizing", "generalizing"} == set(names)
    expected = cells["unseen_last"].to_numpy()
    np.testing.assert_allclose(np.array(told["cells"]["unseen_last"], float), expected, atol=5e-5)
    every = phases.classify(training_phases.evaluations(cells, history))
    first, steps = told["evaluations"]["first"], told["evaluations"]["step"]
    for i, cell_id in enumerate(told["cells"]["id"]):
        mine = every[every["cell_id"] == cell_id].sort_values("step")
        assert steps[first[i] : first[i + 1]] == mine["step"].tolist()
        said = told["evaluations"]["outcome"][first[i] : first[i + 1]]
        assert [document.OUTCOMES[o] for o in said] == outcomes.of_cells(mine)["outcome"].tolist()
    assert told["choices"] == ["architecture"]
    assert [one["settings"] for one in told["conditions"]] == [
        {"architecture": "lstm"}, {"architecture": "transformer"},
    ]  # fmt: skip
    assert told["settings"]["common"]["dataset"] == "digits"
    assert "error" in told["cells"]
    assert "out of memory" in told["cells"]["error"]


def test_curves(taken):
    path, found = taken
    frame = load.load_curves(path)
    ids = found.cells["cell_id"].tolist()
    for cell_id, told in zip(ids, document.all_curves(frame, ids), strict=True):
        rows = frame[frame["cell_id"] == cell_id]
        assert set(told) == set(rows["split"])
        for split, one in told.items():
            mine = rows[rows["split"] == split]
            np.testing.assert_allclose(one["accuracy"], mine["accuracy"], atol=5e-5)
            assert one["error"] == 128  # the binomial error of so many sequences
            assert one["position"] is None
    odd = frame[frame["cell_id"] == frame["cell_id"].iloc[0]].query("position > 2")
    odd = odd.assign(accuracy_se=0.3)
    assert document.curves(odd)["seen"]["position"][0] == 3
    assert set(document.curves(odd)["seen"]["error"]) == {0.3}


def test_all_that_maps_can_show_is_there_at_every_step(tmp_path):
    """Distances from predictors and splits without columns in the cells table, in training too."""
    path = predictor_tree.make(tmp_path / "urns", (8,), (1, 4), (0,), n=32)
    cells, history = load.load_cells(path), load.load_history(path)
    other = history[history["split"] == "unseen"]
    other = other.assign(split="unseen/MNIST", last=other["step"] / 10_000)
    history = pd.concat([history, other], ignore_index=True)
    last = replace(BASE, key_size=None, num_classes=predictor_tree.SYMBOLS, model_size=8, seed=0,
                   num_tasks=4, sequence_length=predictor_tree.LENGTH, steps=3000)  # fmt: skip
    finished = cells[cells["cell_id"] != last.cell_id]
    assert len(finished) == 1
    grid = snapshot.Grid("urns", unfinished={last: snapshot.IN_TRAINING})
    told = document.overview(snapshot.take(str(path), finished, history, grid))
    names = {one["key"]: one["name"] for one in told["measures"]}
    assert names["unseen_relative_distance"] == "unseen relative distance"
    assert names["unseen/MNIST_last"] == "accuracy, unseen/MNIST tasks"
    assert told["evaluations"]["first"] == [0, 4, 8]
    for split, name in (("unseen", "relative_distance"), ("unseen/MNIST", "last")):
        rows = history[history["split"] == split].set_index(["cell_id", "step"])[name]
        expected = [
            document.numbers(rows[cell_id][list(predictor_tree.STEPS)])
            for cell_id in told["cells"]["id"]
        ]
        assert told["evaluations"][f"{split}_{name}"] == [*expected[0], *expected[1]]
        assert told["cells"][f"{split}_{name}"] == [expected[0][-1], None]


def test_by_what_phases_are_told(taken):
    path, found = taken
    told = document.overview(found)["thresholds"]
    assert told == {"delta": 0.05, "confidence": 0.99, "rule": None}
    cells, history = load.load_cells(path), load.load_history(path)

    def own(*arguments):
        said = phase_rules.by_accuracy(*arguments)
        return {name: said[name] for name in ("phase", "decided")}

    rule = phase_rules.of_callable(own, "rule: mine.py:own")
    again = snapshot.take(str(path), cells, history, snapshot.Grid("s"), (), 0.4, 0.9, rule)
    told = document.overview(again)["thresholds"]
    assert told == {"delta": 0.4, "confidence": 0.9, "rule": "mine.py:own"}


def test_missing_numbers_are_none():
    assert document.numbers([0.12344, float("nan"), float("inf"), -0.00001]) == [
        0.1234, None, None, 0.0,
    ]  # fmt: skip
    assert str(document.numbers([-0.00001])[0]) == "0.0"
    assert document._text(pd.NA) is None
    assert document._text(8.0) == "8"


def test_the_page_escapes_and_hashes(taken):
    _, found = taken
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    grid = snapshot.Grid(evil, evil)
    told = document.overview(
        snapshot.Snapshot(evil, grid, found.cells, found.evaluations, found.conditions, [evil], 0.0)
    )
    text = page.html([told], [[{}] * len(found.cells)])
    tags = Tags()
    tags.feed(text)
    names = [name for name, _ in tags.found]
    assert names.count("script") == 3 + 3  # with those that hold data
    assert "img" not in names
    attributes = [pair for _, pairs in tags.found for pair in pairs]
    assert [value for name, value in attributes if name in ("src", "href")] == ["#sweeps"]
    [policy] = [value for _, value in attributes if value and "default-src" in value]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "connect-src 'none'" in policy
    assert "://" not in policy


class Tags(HTMLParser):
    """The tags of a page, with their attributes."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, attrs))
