import subprocess
import sys

from metaphase.core.train import main
from tests.conftest import small_cell
from tests.docs import write_plug_ins


def arguments_of(**settings):
    """The options that differ from the defaults, as a user would type them."""
    from metaphase.core.cell import Cell

    changed = {
        k: v for k, v in small_cell(**settings).to_dict().items() if v != Cell().to_dict()[k]
    }
    return [part for k, v in changed.items() for part in (f"--{k.replace('_', '-')}", str(v))]


def test_one_cell_trains_without_ray_and_prints_its_metrics():
    code = (
        "import sys; from metaphase.core.train import main; status = main(sys.argv[1:]); "
        "assert 'ray' not in sys.modules; sys.exit(status)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, *arguments_of(num_tasks=4, token_format="shifted")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    rows = [line.split() for line in out.splitlines()]
    assert ["10", "seen"] in [row[:2] for row in rows]
    assert ["20", "unseen"] in [row[:2] for row in rows]
    assert ["status", "done"] in rows
    assert ["cell_id", small_cell(num_tasks=4, token_format="shifted").cell_id] in rows


def test_an_impossible_setting_is_one_line(capsys):
    assert main(["--num-heads", "3"]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: num_heads: 3 heads don't divide model_size 32")
    assert captured.err.count("\n") == 1


def test_a_familys_settings_are_options(capsys):
    small = ["--model-size", "4", "--eval-sequences", "8", "--num-layers", "1", "--steps", "2"]
    family = ["--task-family", "linear_regression", "--dimension", "3", "--label-noise", "0.5"]
    assert main([*family, *small]) == 0
    captured = capsys.readouterr()
    assert "num_parameters" in captured.out
    told = "note: label_noise: 0.5 has no effect: linear_regression doesn't use it\n"
    assert captured.err == told
    assert main(["--task-family", "linear_regression", *small, "--dimension", "0"]) == 1
    assert capsys.readouterr().err.startswith("error: dimension: 0 is out of range")


def test_a_plug_in_s_settings_are_options(tmp_path, capsys):
    files = write_plug_ins(tmp_path)
    family = ["--task-family", f"{files['regression.py']}:LinearRegression", "--steps", "2"]
    small = ["--model-size", "4", "--eval-sequences", "8", "--num-layers", "1"]
    assert main([*family, *small, "--dimension", "3"]) == 0
    assert "num_parameters" in capsys.readouterr().out
    assert main([*family, "--dimension", "0"]) == 1
    assert capsys.readouterr().err == ("error: dimension: 0 is out of range; allowed: 1 or more\n")
