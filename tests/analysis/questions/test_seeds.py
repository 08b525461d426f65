"""Every seed near the transition is told and drawn."""

from __future__ import annotations

import base64

import numpy as np
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex

from metaphase.analysis import phase_plot
from metaphase.analysis.commands import report_page
from metaphase.analysis.figures import style
from tests.analysis.questions import draw, find
from tests.tools.synthetic import make_results


def test_seeds_near_the_transition(tmp_path, capsys):
    path = tmp_path / "s"

    def truth(cell):
        if cell.num_tasks == 64:
            return "generalizing" if cell.seed % 2 else "identifying"
        return "memorizing" if cell.num_tasks < 64 else "generalizing"

    make_results(path, (8, 16), (1, 64, 4096), range(5), truth)
    answer = find(path)["seeds"]
    table = answer.table
    assert len(table) == 30
    assert set(table.loc[table["split"], "num_tasks"]) == {64}
    assert answer.text.count("2 of 5 generalize") == 2
    figure = draw(answer)
    [dots] = [c for c in figure.axes[0].collections if isinstance(c, PathCollection)]
    at_64 = table[(table["model_size"] == 8) & (table["num_tasks"] == 64)]
    xy = np.asarray(dots.get_offsets())
    assert len(xy) == 15
    drawn = xy[np.abs(xy[:, 0] - 6) < 2]
    assert list(drawn[:, 1]) == list(at_64["accuracy"])
    assert (np.diff(drawn[:, 0]) > 0).all()  # a seed's place is its own
    colors = [to_hex(color) for color in dots.get_facecolors()[np.abs(xy[:, 0] - 6) < 2]]
    assert colors == [style.COLORS[phase] for phase in at_64["phase"]]
    phase_plot.main([str(path)])
    assert (path / "seeds.csv").exists()
    assert (path / "figures" / "seeds.png").read_bytes()[1:4] == b"PNG"
    assert "2 of 5 generalize" in capsys.readouterr().out
    assert base64.b64encode(b"\x89PNG").decode()[:4] in report_page.render(str(path))
