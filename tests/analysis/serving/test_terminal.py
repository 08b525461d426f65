"""A snapshot in a terminal: no more than it is high, with a word on what isn't shown."""

import io

import pytest
from rich.console import Console

from metaphase.analysis import load
from metaphase.analysis.serving import snapshot
from metaphase.analysis.serving.terminal import Screen
from tests.tools.synthetic import make_results

LSTM = {"architecture": "lstm", "num_heads": 0, "position_encoding": "none", "mlp_ratio": 0}


@pytest.fixture(scope="module")
def taken(tmp_path_factory):
    path = tmp_path_factory.mktemp("root") / "sweep"
    make_results(path, (4, 8, 16), (1, 4, 33, 1000, 2**17), (0, 1), settings=({}, LSTM), n=128)
    cells, history = load.load_cells(path), load.load_history(path)
    grid = snapshot.Grid("sweep", "a line that says what it is for, longer than narrow terminals")
    return snapshot.take(str(path), cells, history, grid)


def drawn(found, width, height, fit=True):
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True)
    lines = console.render_lines(Screen(found, fit=fit))
    return len(lines), "".join(one.text for line in lines for one in line)


def test_all_of_it_where_there_is_room(taken):
    rows, text = drawn(taken, 100, 80)
    assert (rows, text) == drawn(taken, 100, 80, fit=False)
    assert rows < 80
    assert "lstm: " in text
    assert "transformer: " in text
    assert "--once" not in text


@pytest.mark.parametrize("width", [80, 60])
def test_no_more_than_the_terminal_is_high(taken, width):
    whole, _ = drawn(taken, width, 200)
    for height in range(4, whole):
        rows, text = drawn(taken, width, height)
        assert rows <= height
        shown = ("lstm: " in text) + ("transformer: " in text)
        said = ("2 more conditions", "1 more condition", "more")[shown]
        assert f"{said}; --once prints all" in text
    rows, text = drawn(taken, width, whole)
    assert rows == whole
    assert "--once" not in text
