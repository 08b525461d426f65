"""What `--dry-run` prints: a line for each row, which says what tells the row from others."""

import pytest
import yaml

from metaphase.sweeps import cli

CELL = {"dataset": "digits", "image_size": 4, "num_classes": 3, "sequence_length": 10, "steps": 60,
        "batch_size": 8, "eval_sequences": 64, "num_layers": 1, "num_heads": 2,
        "token_format": "interleaved"}  # fmt: skip
TASKS = [1, 4, 16, 64, 256]


@pytest.fixture
def dry_run(tmp_path, capsys):
    def printed(grid, *words, code=0):
        path = tmp_path / "sweep.yaml"
        cell = {name: value for name, value in CELL.items() if name not in grid}
        path.write_text(yaml.safe_dump({"name": "s", "cell": cell, "grid": grid}))
        command = ["run", str(path), "--dry-run", "--root", str(tmp_path / "root"), *words]
        assert cli.main(command) == code
        out, err = capsys.readouterr()
        return err if code else out

    return printed


@pytest.mark.parametrize("search", [[], ["--boundary"]])
@pytest.mark.parametrize(
    ("name", "values"), [("learning_rate", [0.01, 0.1]), ("batch_size", [4, 8])]
)
def test_each_row_has_a_line_that_names_it(dry_run, search, name, values):
    grid = {"model_size": [8, 16], "num_tasks": TASKS, "seed": [0, 1], name: values}
    lines = [line.split() for line in dry_run(grid, *search).splitlines()]
    rows = [line for line in lines if line[:1] == ["transformer"]]
    expected = [[size, f"{name}={value}"] for size in ("8", "16") for value in values]
    assert sorted(line[1:3] for line in rows) == sorted(expected)
    assert all(line[3 if search else 4] == "10" for line in rows)


def test_what_follows_from_the_architecture_and_the_size_names_no_row(dry_run):
    grid = {"architecture": ["transformer", "lstm"], "model_size": [8, 16], "num_tasks": TASKS}
    assert "=" not in dry_run(grid)


@pytest.mark.parametrize("budget", ["cells=0.05", "operations=0.001"])
def test_a_budget_of_less_than_a_cell_is_a_line(dry_run, budget):
    grid = {"model_size": [8], "num_tasks": TASKS, "seed": [0, 1]}
    err = dry_run(grid, "--boundary", "--budget", budget, code=1)
    kind, _, amount = budget.partition("=")
    said = f"error: search: budget: {kind}: {amount} of a grid of 10 cells is less than one cell, "
    assert err == f"{said}0.1\n"
    dry_run(grid, "--boundary", "--budget", f"{kind}=0.1")
