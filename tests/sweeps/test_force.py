"""--force and changed presets: which cells are meant, what is removed, what is said."""

import pytest

from metaphase.core.cell import ConfigError
from metaphase.sweeps import run
from metaphase.sweeps.execution import driver
from metaphase.sweeps.execution.driver import Outcome
from metaphase.sweeps.preset import parse_preset
from metaphase.sweeps.selection import describe_change, select_cells
from metaphase.sweeps.store.results import Results
from metaphase.sweeps.store.sweepfile import write_settings
from tests.sweeps.store.test_results import complete, state

TEXT = """
cell: {steps: 10, warmup_steps: 5, image_size: 8}
grid: {num_tasks: [1, 64], seed: [0, 1]}
"""


def sweep(text=TEXT, *overrides):
    return parse_preset(text, overrides, default_name="sweep")


def test_cells_are_chosen_by_settings_and_by_the_beginnings_of_ids():
    cells = sweep().cells
    assert select_cells(cells, "num_tasks=64,seed=1") == [cells[3]]
    assert select_cells(cells, "seed=1") == [cells[1], cells[3]]
    two = f"{cells[0].cell_id[:6]}, {cells[3].cell_id}"
    assert select_cells(cells, two) == [cells[0], cells[3]]
    assert select_cells(cells, f"{two},seed=1") == [cells[3]]
    assert len(select_cells(cells, "architecture=transformer, grayscale=false")) == 4


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no cell of the grid begins so"),
        ("xyz", "no cell of the grid begins so"),
        ("seed=7", "has this value"),
        ("sed=1", "did you mean seed"),
        ("seed=[", "not valid YAML"),
        ("seed=1,,", "begins so"),
    ],
)
def test_what_chooses_nothing_is_refused(text, why):
    with pytest.raises(ConfigError, match=why) as refused:
        select_cells(sweep().cells, text)
    assert "\n" not in str(refused.value)


def test_presets_are_compared():
    new = sweep(TEXT, "seed=[0, 1, 2]", "steps=20")
    assert describe_change(sweep(), sweep()) == []
    assert describe_change(sweep(), new) == [
        "  - cell: steps: 10",
        "  + cell: steps: 20",
        "  - grid: seed: [0, 1]",
        "  + grid: seed: [0, 1, 2]",
    ]


def test_forced_cells_are_removed_and_trained(tmp_path, monkeypatch, capsys):
    (tmp_path / "sweep.yaml").write_text(TEXT)
    results, cells = Results(str(tmp_path), "sweep"), sweep().cells
    write_settings(results, sweep().settings)
    for cell in cells:
        results.write_result(*complete(cell))
    results.checkpoints.write(state(5, cells[3].cell_id))
    command = [str(tmp_path / "sweep.yaml"), "--root", str(tmp_path), "--set", "seed=[0,1,2]"]
    trained = []

    def train(results, missing, **options):
        trained.extend(missing)
        assert cells[3].cell_id not in results.finished()
        assert results.checkpoints.steps() == {}
        assert len(list(results.local_path.glob("history/*"))) == 3
        return Outcome(1.0, 1.0, 1, interrupted=True)

    monkeypatch.setattr(driver, "train", train)
    monkeypatch.setattr(driver, "log_to", lambda path: None)
    assert run.main([*command, "--force", "num_tasks=64,seed=1"]) == run.INTERRUPTED
    out = capsys.readouterr().out
    assert {(c.num_tasks, c.seed) for c in trained} == {(64, 1), (1, 2), (64, 2)}
    assert "  + grid: seed: [0, 1, 2]\n4 cells stay, 2 are new; 0 results in" in out
    assert "Removed what was stored of 1 cells" in out
    assert f"This continues: python -m metaphase.sweeps.run {command[0]}" in out
    assert "--force" not in out
    assert run.main([*command[:3], "--force", "seed=9"]) == 1
    assert len(results.finished()) == 3
